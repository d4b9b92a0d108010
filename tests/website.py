"""A website on loopback that answers as a test says."""

import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx

Answer = Callable[[BaseHTTPRequestHandler], None]
BODY = b"The moon pulls the tides."
ETAG = '"v1"'
MODIFIED = "Sun, 22 Nov 2026 22:00:00 GMT"


@dataclass
class Website:
    """A server that answers each path as a test says, and remembers what it was asked."""

    address: str
    answers: dict[str, Answer] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)

    def url(self, path: str, answer: Answer) -> str:
        self.answers[path] = answer
        return self.address + path


@contextmanager
def serving(host: str = "127.0.0.1", port: int = 0, context: ssl.SSLContext | None = None) -> Iterator[Website]:
    """A website, until the block ends. It answers 404 where a test has said nothing."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            site.asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
            site.answers.get(self.path, answer(404))(self)

        def log_request(self, code: int | str = "-", _size: int | str = "-") -> None:
            site.statuses.append(int(code))

        def log_message(self, *_arguments: object) -> None:
            """Say nothing."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_arguments: object) -> None:
            """Clients hang up on purpose here."""

    server = Server((host, port), Handler)
    if context:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    site = Website(f"http{'s' * bool(context)}://{host}:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def answer(status: int = 200, body: bytes = BODY, *, length: int | None = None, **headers: str) -> Answer:
    """An answer with these headers (underscores are dashes); `length` lies about the body."""

    def give(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        if status != httpx.codes.NOT_MODIFIED:
            handler.send_header("Content-Length", str(len(body) if length is None else length))
        handler.end_headers()
        if status != httpx.codes.NOT_MODIFIED:
            handler.wfile.write(body)
        if length is not None:
            handler.close_connection = True

    return give


def conditional(handler: BaseHTTPRequestHandler) -> None:
    """200 with validators, 304 to who has them."""
    unchanged = handler.headers["If-None-Match"] == ETAG and handler.headers["If-Modified-Since"] == MODIFIED
    answer(304 if unchanged else 200, Content_Type="text/plain", ETag=ETAG, Last_Modified=MODIFIED)(handler)


def redirect(to: str) -> Answer:
    return answer(302, b"", Location=to)


def in_turn(*answers: Answer) -> Answer:
    """One answer after the other; the last for ever."""
    left = list(answers)

    def give(handler: BaseHTTPRequestHandler) -> None:
        (left.pop(0) if len(left) > 1 else left[0])(handler)

    return give


def reset(handler: BaseHTTPRequestHandler) -> None:
    """Cut the connection without a word."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()
    handler.close_connection = True


def chunked(*chunks: bytes, ended: bool = True, pause_seconds: float = 0) -> Answer:
    """A body in chunks, with a pause after each; one that has not ended is cut."""

    def give(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for chunk in chunks:
            handler.wfile.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
            handler.wfile.flush()
            time.sleep(pause_seconds)
        if ended:
            handler.wfile.write(b"0\r\n\r\n")
        handler.close_connection = not ended

    return give


def endless(handler: BaseHTTPRequestHandler) -> None:
    """A body that never ends."""
    handler.send_response(200)
    handler.end_headers()
    handler.close_connection = True
    with suppress(OSError):
        while True:
            handler.wfile.write(b"x" * 65_536)
