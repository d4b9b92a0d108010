"""A receiver on loopback for the messages of automations."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Webhook:
    """Where messages are sent, and those that came."""

    url: str = ""
    messages: list[dict[str, Any]] = field(default_factory=list)

    def message(self, *words: str) -> dict[str, Any] | None:
        """The first message that holds all these words."""
        return next((one for one in self.messages if all(word in json.dumps(one) for word in words)), None)


@contextmanager
def receiving() -> Iterator[Webhook]:
    """A receiver of JSON, until the block ends."""
    webhook = Webhook()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            webhook.messages.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    webhook.url = f"http://127.0.0.1:{server.server_port}/"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield webhook
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
