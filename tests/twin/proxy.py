"""A gRPC proxy in front of a Milvus: requests pass through rules, which may change, answer or refuse them."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import grpc
from google.protobuf.message_factory import GetMessageClass
from pymilvus.grpc_gen import milvus_pb2

HOST = "127.0.0.1"
SERVICE = milvus_pb2.DESCRIPTOR.services_by_name["MilvusService"]
MESSAGE_BYTES = 256 << 20
HANDLERS = 32
SECONDS = 120
"""Limit for a request whose client gives none."""


@dataclass
class Call:
    """One request on its way.

    Attributes:
        method: Name of the RPC, such as "Query".
        request: The message; rules may change it in place.
        metadata: What the client sent beside it.
    """

    method: str
    request: Any
    metadata: tuple[tuple[str, str | bytes], ...] = ()

    @property
    def database(self) -> str:
        """The database that the request names, as the server finds it; "default" where it names none."""
        named = getattr(self.request, "db_name", "") or str(dict(self.metadata).get("dbname", ""))
        return named or "default"

    @property
    def answer_type(self) -> Any:
        """Class of the answer's message."""
        return message_types(self.method)[1]


class Refused(Exception):
    """Raised by a rule that refuses a request with a gRPC status, as the server's interceptors do."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        """Remember what the client gets."""
        super().__init__(details)
        self.code = code
        self.details = details


GoOn = Callable[[Call], Any]
Rule = Callable[[Call, GoOn], Any]
"""Takes a request and what sends it on; returns the answer."""


@cache
def message_types(method: str) -> tuple[Any, Any]:
    """Classes of the request and of the answer of an RPC."""
    found = SERVICE.methods_by_name[method]
    return GetMessageClass(found.input_type), GetMessageClass(found.output_type)


def failed(answer_type: Any, code: int, reason: str, *, retriable: bool = False) -> Any:
    """An answer whose status is an error, as Milvus sends them: with the new code, and an old one beside it."""
    answer = answer_type()
    status = answer.status if "status" in answer_type.DESCRIPTOR.fields_by_name else answer
    status.code = code
    status.reason = reason
    status.retriable = retriable
    status.error_code = 1  # UnexpectedError: what clients of before 2.3 look at
    return answer


class Proxy(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Listens on a free port of loopback, and sends every request on to a Milvus.

    Attributes:
        uri: Where clients find it.
        calls: Every request that came in, oldest first.
    """

    def __init__(self, backend: str, rules: Sequence[Rule]) -> None:
        """Start it.

        Args:
            backend: Address of the Milvus behind it: http://host:port.
            rules: The first one sees each request first.
        """
        options = [
            ("grpc.max_receive_message_length", MESSAGE_BYTES),
            ("grpc.max_send_message_length", MESSAGE_BYTES),
            ("grpc.http2.min_recv_ping_interval_without_data_ms", 1_000),
            ("grpc.keepalive_permit_without_calls", 1),
        ]
        self.calls: list[Call] = []
        self._rules = tuple(rules)
        self._channel = grpc.insecure_channel(urlsplit(backend).netloc, options=options)
        self._send: dict[str, Any] = {}
        self._sending = threading.Lock()
        self._server = grpc.server(ThreadPoolExecutor(HANDLERS), handlers=(self,), options=options)
        port = self._server.add_insecure_port(f"{HOST}:0")
        self.uri = f"http://{HOST}:{port}"
        self._server.start()

    def stop(self) -> None:
        """End it; requests under way are cut."""
        self._server.stop(grace=None).wait()
        self._channel.close()

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """What serves an RPC: grpc asks for each."""
        method = str(handler_call_details.method).rpartition("/")[2]
        request_type, _ = message_types(method)
        return grpc.unary_unary_rpc_method_handler(
            lambda request, context: self._serve(method, request, context),
            request_deserializer=request_type.FromString,
            response_serializer=lambda answer: answer.SerializeToString(),
        )

    def _serve(self, method: str, request: Any, context: grpc.ServicerContext) -> Any:
        metadata = tuple((key, value) for key, value in context.invocation_metadata() if not key.startswith("grpc-"))
        call = Call(method, request, metadata)
        self.calls.append(Call(method, _header(request), metadata))
        try:
            return self.pass_on(call, self._rules, context.time_remaining())
        except Refused as error:
            context.abort(error.code, error.details)
        except grpc.RpcError as error:
            context.abort(error.code(), error.details())
        except Exception:
            logging.getLogger(__name__).exception("a rule of the twin is broken, at %s", method)
            raise

    def pass_on(self, call: Call, rules: Sequence[Rule] = (), seconds: float | None = None) -> Any:
        """Send a request through rules and then on to the Milvus behind; a rule may send requests of its own so."""
        if rules:
            return rules[0](call, lambda changed: self.pass_on(changed, rules[1:], seconds))
        _, answer_type = message_types(call.method)
        with self._sending:
            if call.method not in self._send:
                self._send[call.method] = self._channel.unary_unary(
                    f"/{SERVICE.full_name}/{call.method}",
                    request_serializer=lambda request: request.SerializeToString(),
                    response_deserializer=answer_type.FromString,
                )
        kept = [(key, value) for key, value in call.metadata if key not in {"user-agent", "content-type", "te"}]
        return self._send[call.method](call.request, timeout=min(seconds or SECONDS, SECONDS), metadata=kept)


def _header(request: Any) -> Any:
    """A copy of a request without its rows, for the record."""
    short = type(request)()
    if hasattr(request, "fields_data"):
        short.collection_name, short.db_name, short.num_rows = (
            request.collection_name,
            request.db_name,
            request.num_rows,
        )
    else:
        short.CopyFrom(request)
    return short


class Clock:
    """Timestamps as Milvus has them: milliseconds since 1970 in the upper bits, a counter in the lowest 18."""

    LOGICAL_BITS = 18

    def __init__(self) -> None:
        """Begin at the time of this machine."""
        self._last = 0
        self._lock = threading.Lock()

    def now(self) -> int:
        """A timestamp later than every one before."""
        with self._lock:
            self._last = max(self._last + 1, int(time.time() * 1000) << self.LOGICAL_BITS)
            return self._last

    @classmethod
    def before(cls, timestamp: int, seconds: float) -> int:
        """The timestamp that so many seconds earlier had."""
        return timestamp - (int(seconds * 1000) << cls.LOGICAL_BITS)
