"""What newer Milvus servers do that those behind the twin do not: a rule each, with the source file that it comes from.

A rule is strict where the server is only sometimes: what may go wrong there goes wrong here.
"""

import json
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

from tests.twin.proxy import Call, Clock, GoOn, message_types

WRITES = ("Insert", "Upsert", "Delete")
READS = ("Query", "Search", "HybridSearch")
STRONG, BOUNDED, CUSTOMIZED = 0, 2, 4
"""Numbers of consistency levels in requests."""


class Backend:
    """The Milvus behind the twin, as rules see it.

    Attributes:
        is_lite: Whether it is Milvus Lite.
        now: Gives its time.
    """

    def __init__(self, send: Callable[[Call], Any], *, is_lite: bool) -> None:
        """Remember how requests are sent to it."""
        self.is_lite = is_lite
        self._send = send
        self._clock = Clock()

    def ask(self, method: str, like: Call, **fields: Any) -> Any:
        """Send a request of the twin's own, in the database and as the user of another one."""
        request_type, _ = message_types(method)
        if "db_name" in request_type.DESCRIPTOR.fields_by_name:
            fields["db_name"] = getattr(like.request, "db_name", "")
        return self._send(Call(method, request_type(**fields), like.metadata))

    def now(self, like: Call) -> int:
        """A timestamp of the Milvus behind; Milvus Lite has none, and gets one of this machine's clock."""
        if self.is_lite:
            return self._clock.now()
        return int(self.ask("AllocTimestamp", like).timestamp)


class Rule:
    """Base of all rules; `source` is the file of Milvus that shows the behaviour, and the version in which it was read.

    Attributes:
        on: Whether it applies; negative controls switch it off.
    """

    source: ClassVar[str]

    def __init__(self, backend: Backend) -> None:
        """Begin with nothing seen."""
        self.backend = backend
        self.on = True

    def __call__(self, call: Call, go_on: GoOn) -> Any:
        """Answer a request, or send it on."""
        return self.apply(call, go_on) if self.on else go_on(call)

    def apply(self, call: Call, go_on: GoOn) -> Any:
        """What the rule does while it is on."""
        raise NotImplementedError


class Version(Rule):
    """Says which version this is, and gives timestamps, which Milvus Lite has not."""

    source = "internal/proxy/impl.go: GetVersion, Connect, AllocTimestamp"

    def __init__(self, backend: Backend, says: str) -> None:
        """Say this of the version."""
        super().__init__(backend)
        self._says = says

    def apply(self, call: Call, go_on: GoOn) -> Any:
        """Answer GetVersion and AllocTimestamp."""
        if call.method == "AllocTimestamp" and self.backend.is_lite:
            return call.answer_type(timestamp=self.backend.now(call))
        answer = go_on(call)
        if call.method == "GetVersion":
            answer.version = self._says
        if call.method == "Connect":
            answer.server_info.build_tags = self._says
        return answer


class OneWriterOnLite(Rule):
    """Sends requests to Milvus Lite one after the other, which bears no concurrent writers. No rule of Milvus."""

    source = "none: Milvus Lite takes one writer, and a server takes many"

    def __init__(self, backend: Backend) -> None:
        """Nobody writes yet."""
        super().__init__(backend)
        self._writing = threading.RLock()

    def apply(self, call: Call, go_on: GoOn) -> Any:
        """Wait for those before."""
        if not self.backend.is_lite:
            return go_on(call)
        with self._writing:
            return go_on(call)


class Moments(Rule):
    """What a read sees by its timestamp: an iterator's is the moment that it reads at, and its first page tells one.

    A page of an iterator with guarantee_timestamp T > 0 sees no row that was written after T; one with 0 gives back,
    as session_ts, the moment that it read at. Other reads wait until the server is as far as T, and see what is there.
    With `lag_seconds`, a read that asks for no moment meets a replica whose clock is so far behind, as one of several
    replicas may be.
    """

    source = (
        "internal/proxy/task_query.go: PreExecute (MvccTimestamp), PostExecute (SessionTs), 2.5.0 and later;"
        " internal/proxy/util.go: parseGuaranteeTsFromConsistency (Bounded: 5 s behind)"
    )

    def __init__(self, backend: Backend) -> None:
        """Nothing written yet."""
        super().__init__(backend)
        self.lag_seconds = 0.0
        self._written: dict[tuple[str, str], dict[str, int]] = defaultdict(dict)
        self._lock = threading.Lock()

    def apply(self, call: Call, go_on: GoOn) -> Any:
        """Note what is written, and hide from reads what they must not see."""
        if call.method in {"Insert", "Upsert"}:
            self._note(call)
        if call.method not in READS:
            return go_on(call)
        asked, level = call.request.guarantee_timestamp, call.request.consistency_level
        if call.request.use_default_consistency:
            level = BOUNDED  # as our collections are created
        now = self.backend.now(call)
        behind = Clock.before(now, self.lag_seconds) if self.lag_seconds else now
        pages = call.method == "Query" and _parameter(call.request.query_params, "iterator").lower() == "true"
        if pages and asked:
            moment, call.request.consistency_level = asked, CUSTOMIZED
        elif level == STRONG:
            moment = now
        else:
            moment = max(behind, asked) if level == CUSTOMIZED else behind
        if pages and self.backend.is_lite:
            call.request.guarantee_timestamp = 0
        self._hide(call, self._later(call, moment))
        answer = go_on(call)
        if pages and not asked:
            answer.session_ts = moment
        return answer

    def _note(self, call: Call) -> None:
        keys = next(field.scalars.string_data.data for field in call.request.fields_data if field.field_name == "id")
        at = self.backend.now(call)
        with self._lock:
            self._written[call.database, call.request.collection_name].update(dict.fromkeys(keys, at))

    def _later(self, call: Call, moment: int) -> list[str]:
        """Keys of the rows that were written after a moment."""
        with self._lock:
            written = dict(self._written.get((call.database, call.request.collection_name), {}))
        return [key for key, at in written.items() if at > moment]

    @staticmethod
    def _hide(call: Call, keys: Iterable[str]) -> None:
        hidden = f"id not in {json.dumps(sorted(keys))}" if keys else ""
        if not hidden:
            return
        parts = call.request.requests if call.method == "HybridSearch" else [call.request]
        field = "expr" if call.method == "Query" else "dsl"
        for part in parts:
            given = getattr(part, field)
            setattr(part, field, f"({given}) and {hidden}" if given else hidden)


def _parameter(pairs: Iterable[Any], name: str) -> str:
    return next((str(pair.value) for pair in pairs if pair.key == name), "")
