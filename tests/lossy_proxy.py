"""A TCP proxy before a Milvus server that loses answers: the work is done, and the client never hears of it."""

import contextlib
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator

HOST = "127.0.0.1"
PREFACE_BYTES = 24
"""What a client of HTTP/2 sends before its first frame."""
HEAD_BYTES = 9
DATA, HEADERS = 0, 1
REQUEST_BYTES = 2300
"""Only a request that carries vectors is larger."""
RESET = struct.pack("ii", 1, 0)


class Frames:
    """The frames in one direction of an HTTP/2 connection, as far as their heads have come (RFC 9113, section 4.1)."""

    def __init__(self, skip_bytes: int = 0) -> None:
        self._skip = skip_bytes
        self._head = b""

    def feed(self, data: bytes) -> Iterator[tuple[int, int, int]]:
        """Kind, stream and length in bytes of each frame that begins in the data."""
        while data:
            if self._skip:
                data, self._skip = data[self._skip :], max(0, self._skip - len(data))
                continue
            wanted = HEAD_BYTES - len(self._head)
            self._head, data = self._head + data[:wanted], data[wanted:]
            if len(self._head) == HEAD_BYTES:
                length = int.from_bytes(self._head[:3])
                yield self._head[3], int.from_bytes(self._head[5:]) & 0x7FFFFFFF, length
                self._head, self._skip = b"", length


class LossyProxy:
    """Forwards to a port of this machine; where it is told to, it loses the answers to the next requests with vectors.

    Attributes:
        to_lose: How many answers still.
        lost: How many were.
    """

    def __init__(self, port: int) -> None:
        self.to_lose = 0
        self.lost = 0
        self._port = port
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._listener = socket.create_server((HOST, 0))
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def uri(self) -> str:
        return f"http://{HOST}:{self._listener.getsockname()[1]}"

    def close(self) -> None:
        """Listen no more, and cut what is open."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for open_socket in list(self._sockets):
            self._cut(open_socket)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                try:
                    server = socket.create_connection((HOST, self._port))
                except OSError:
                    self._cut(client)
                    continue
                self._sockets |= {client, server}
                victims: set[int] = set()
                for work in (self._requests, self._answers):
                    threading.Thread(target=work, args=(client, server, victims), daemon=True).start()

    def _requests(self, client: socket.socket, server: socket.socket, victims: set[int]) -> None:
        frames, sent = Frames(PREFACE_BYTES), Counter[int]()
        with contextlib.suppress(OSError):
            while data := client.recv(1 << 16):
                for kind, stream, length in frames.feed(data):
                    sent[stream] += length if kind == DATA else 0
                    with self._lock:
                        if sent[stream] > REQUEST_BYTES and stream not in victims and self.to_lose:
                            self.to_lose -= 1
                            victims.add(stream)
                server.sendall(data)
        self._cut(client, server)

    def _answers(self, client: socket.socket, server: socket.socket, victims: set[int]) -> None:
        frames = Frames()
        with contextlib.suppress(OSError):
            while data := server.recv(1 << 16):
                if any(kind in {DATA, HEADERS} and stream in victims for kind, stream, _ in frames.feed(data)):
                    with self._lock:
                        self.lost += 1
                    break
                client.sendall(data)
        self._cut(client, server)

    def _cut(self, *sockets: socket.socket) -> None:
        """Reset connections; the threads that read from them end."""
        for one in sockets:
            self._sockets.discard(one)
            with contextlib.suppress(OSError):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                one.shutdown(socket.SHUT_RD)
                one.close()
