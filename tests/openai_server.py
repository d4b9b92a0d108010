"""A server on loopback that speaks OpenAI's protocol, answers as a test says, and remembers what it was asked."""

import base64
import json
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[BaseHTTPRequestHandler, dict[str, Any]], None]
"""Writes the answer to a request, whose body is given."""

MODEL = "test-model"


@dataclass
class Asked:
    """One request."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    at_once: int
    seconds: float = field(default_factory=time.monotonic)

    @property
    def system(self) -> str:
        return str(self.body["messages"][0]["content"])

    @property
    def user(self) -> str:
        return str(self.body["messages"][-1]["content"])


@dataclass
class OpenAIServer:
    """Answers are given in turn, the last one for ever; a function of the request may choose them instead.

    Attributes:
        connected: Connections that were ever made.
        connections: Those that are open.
    """

    address: str
    models: Answer
    script: list[Answer] = field(default_factory=list)
    choose: Callable[[Asked], Answer] | None = None
    asked: list[Asked] = field(default_factory=list)
    under_way: int = 0
    connected: int = 0
    connections: int = 0
    over: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def base_url(self) -> str:
        return f"{self.address}/v1"

    @property
    def most_at_once(self) -> int:
        return max(asked.at_once for asked in self.asked)

    def next_answer(self, asked: Asked) -> Answer:
        if self.choose:
            return self.choose(asked)
        return self.script.pop(0) if len(self.script) > 1 else self.script[0]


@contextmanager
def serving() -> Iterator[OpenAIServer]:
    """A server, until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def setup(self) -> None:
            super().setup()
            with server.lock:
                server.connected += 1
                server.connections += 1

        def finish(self) -> None:
            with server.lock:
                server.connections -= 1
            super().finish()

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with server.lock:
                server.under_way += 1
                headers = {name.lower(): value for name, value in self.headers.items()}
                asked = Asked(self.path, headers, body, server.under_way)
                server.asked.append(asked)
                answer = server.next_answer(asked)
            try:
                answer(self, body)
            finally:
                with server.lock:
                    server.under_way -= 1

        def do_GET(self) -> None:
            server.asked.append(Asked(self.path, dict(self.headers.items()), {}, 1))
            server.models(self, {})

        def log_message(self, *_arguments: object) -> None:
            """Say nothing."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_arguments: object) -> None:
            """Clients hang up on purpose here."""

    listening = Server(("127.0.0.1", 0), Handler)
    server = OpenAIServer(f"http://127.0.0.1:{listening.server_address[1]}", lists(MODEL))
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        listening.shutdown()
        listening.server_close()
        thread.join()


def send(handler: BaseHTTPRequestHandler, status: int, body: bytes, **headers: str) -> None:
    """A whole answer; underscores in the names of headers are dashes."""
    handler.send_response(status)
    for name, value in ({"Content-Type": "application/json"} | headers).items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def says(
    text: str | None, *, finish: str = "stop", refusal: str | None = None, usage: bool = True, seconds: float = 0
) -> Answer:
    """A reply of the model, streamed if it was asked to be."""

    def give(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        threading.Event().wait(seconds)
        counts = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110} if usage else None
        if body.get("stream"):
            parts = [{"role": "assistant", "content": ""}]
            parts += [{"content": piece} for piece in pieces(text or "")]
            parts += [{"refusal": refusal}] if refusal else []
            events = [chunk(delta) for delta in parts]
            events += [chunk({}, finish=finish)]
            events += [chunk(None, usage=counts)] if counts else []
            stream(handler, [*events, "[DONE]"])
            return
        message = {"role": "assistant", "content": text, "refusal": refusal}
        choice = {"index": 0, "message": message, "finish_reason": finish}
        send(handler, 200, json.dumps(completion("chat.completion", [choice], counts)).encode())

    return give


def pieces(text: str) -> list[str]:
    """A text as a model would send it: cut anywhere, citations included."""
    return [text[at : at + 3] for at in range(0, len(text), 3)]


def completion(kind: str, choices: list[Any], usage: dict[str, int] | None = None) -> dict[str, Any]:
    return {"id": "1", "object": kind, "created": 1, "model": MODEL, "choices": choices, "usage": usage}


def chunk(delta: dict[str, Any] | None, *, finish: str | None = None, usage: dict[str, int] | None = None) -> str:
    """An event of a stream; without a delta, the last one, which counts tokens."""
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    return json.dumps(completion("chat.completion.chunk", choices, usage))


def stream(handler: BaseHTTPRequestHandler, events: list[str], *, cut: bool = False) -> None:
    """Events as a browser would take them; cut: the connection ends before the body says that it does."""
    handler.send_response(200)
    handler.send_header("Content-Type", "text/event-stream")
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    for event in events:
        data = f"data: {event}\n\n".encode()
        handler.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        handler.wfile.flush()
    if cut:
        handler.close_connection = True
        handler.connection.close()
    else:
        handler.wfile.write(b"0\r\n\r\n")


def breaks_off(text: str, *, politely: bool) -> Answer:
    """A stream that ends in the middle: politely with the end of its body, or with the connection."""

    def give(handler: BaseHTTPRequestHandler, _body: dict[str, Any]) -> None:
        stream(handler, [chunk({"content": piece}) for piece in ["", *pieces(text)]], cut=not politely)

    return give


def lists(*models: str) -> Answer:
    """The models that there are."""
    body = json.dumps({"object": "list", "data": [{"id": model, "object": "model"} for model in models]}).encode()
    return sends(body)


def fails(status: int, message: str = "no", *, code: str | None = None, **headers: str) -> Answer:
    """An error, as OpenAI words them."""

    def give(handler: BaseHTTPRequestHandler, _body: dict[str, Any]) -> None:
        send(handler, status, json.dumps({"error": {"message": message, "code": code}}).encode(), **headers)

    return give


def sends(body: bytes, content_type: str = "application/json") -> Answer:
    """Anything at all, as if it were a reply."""
    return lambda handler, _body: send(handler, 200, body, Content_Type=content_type)


def hangs(server: OpenAIServer) -> Answer:
    """Nothing, until the test is over."""

    def give(_handler: BaseHTTPRequestHandler, _body: dict[str, Any]) -> None:
        server.over.wait(60)

    return give


def embeds(
    vector: Callable[[str], list[float]],
    *,
    seconds: float = 0,
    arrange: Callable[[list[dict[str, Any]]], Any] = lambda data: data,
) -> Answer:
    """The embeddings of the texts that are asked for.

    Args:
        vector: Of a text.
        seconds: That it takes.
        arrange: What is made of the entries before they are sent.
    """

    def give(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        threading.Event().wait(seconds)
        vectors = [vector(text) for text in body["input"]]
        is_packed = body.get("encoding_format") == "base64"
        data = [
            {"object": "embedding", "index": at, "embedding": packed(one) if is_packed else one}
            for at, one in enumerate(vectors)
        ]
        reply = {"object": "list", "model": MODEL, "data": arrange(data), "usage": {"prompt_tokens": 1}}
        send(handler, 200, json.dumps(reply).encode())

    return give


def packed(vector: list[float]) -> str:
    """A vector as OpenAI packs it."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
