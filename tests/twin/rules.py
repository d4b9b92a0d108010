"""What newer Milvus servers do that those behind the twin do not: a rule each, with the source that it comes from.

A rule is strict where a server is only sometimes: what may go wrong there goes wrong here. Sources are files below
internal/ of milvus-io/milvus unless they begin with pkg/ or configs/, with the version in which they were read.
"""

import base64
import json
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, ClassVar

import grpc
from pymilvus.grpc_gen import common_pb2

from tests.twin.proxy import SERVICE, Call, Clock, GoOn, Refused, failed, message_types

READS = ("Query", "Search", "HybridSearch")
STRONG, BOUNDED, CUSTOMIZED = 0, 2, 4
"""Numbers of consistency levels in requests."""
PARAMETER, UNEXPECTED, RATE, TOO_MANY = 1100, 65_535, 8, 102
"""Codes of answers: pkg/util/merr/errors.go."""
NOT_THERE = 4
"""CollectionNotExists, of the older kind of codes."""


class Backend:
    """The Milvus behind the twin, as rules see it.

    Attributes:
        is_lite: Whether it is Milvus Lite.
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

    def named_by(self, alias: str, like: Call) -> str:
        """The collection that an alias names; "" for no alias."""
        found = self.ask("DescribeAlias", like, alias=alias)
        return str(found.collection) if not found.status.code and not found.status.error_code else ""

    def properties(self, collection: str, like: Call) -> dict[str, str]:
        """What is kept with a collection."""
        return {
            pair.key: pair.value for pair in self.ask("DescribeCollection", like, collection_name=collection).properties
        }


class Rule:
    """Base of all rules.

    Attributes:
        source: Where Milvus does so, and the version in which it was read.
        on: Whether the rule applies; negative controls switch it off.
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

    source = "proxy/impl.go: GetVersion, Connect, AllocTimestamp (2.6.16)"

    def __init__(self, backend: Backend, says: str, *, connects_as: str = "", timestamps: bool = True) -> None:
        """Choose the answers.

        Args:
            backend: The Milvus behind.
            says: What GetVersion answers.
            connects_as: What Connect answers; "" for the same.
            timestamps: Whether AllocTimestamp is there.
        """
        super().__init__(backend)
        self._says = says
        self._connects_as = connects_as or says
        self._timestamps = timestamps

    def apply(self, call: Call, go_on: GoOn) -> Any:
        """Answer GetVersion, Connect and AllocTimestamp."""
        if call.method == "AllocTimestamp" and not self._timestamps:
            raise Refused(grpc.StatusCode.UNIMPLEMENTED, "unknown method AllocTimestamp")
        if call.method == "AllocTimestamp" and self.backend.is_lite:
            return call.answer_type(timestamp=self.backend.now(call))
        answer = go_on(call)
        if call.method == "GetVersion":
            answer.version = self._says
        if call.method == "Connect":
            answer.server_info.build_tags = self._connects_as
        return answer


class DatabaseOfRequests(Rule):
    """A request that names no database gets the one that the metadata names, those about aliases included."""

    source = "proxy/database_interceptor.go: fillDatabase (2.5.27, 2.6.16; in 2.3.5 not for DescribeAlias, ListAliases)"

    def apply(self, call: Call, go_on: GoOn) -> Any:
        """Fill it in."""
        named = str(dict(call.metadata).get("dbname", ""))
        if named and "db_name" in call.request.DESCRIPTOR.fields_by_name and not call.request.db_name:
            call.request.db_name = named
        return go_on(call)


class OneWriterOnLite(Rule):
    """Sends what is no read to Milvus Lite one after the other: it bears no concurrent writers. No rule of Milvus."""

    source = "none: Milvus Lite takes one writer, and a server takes many"

    def __init__(self, backend: Backend) -> None:
        """Nobody writes yet."""
        super().__init__(backend)
        self._writing = threading.RLock()

    def apply(self, call: Call, go_on: GoOn) -> Any:
        """Wait for those before."""
        if not self.backend.is_lite or call.method in READS:
            return go_on(call)
        with self._writing:
            return go_on(call)


class Moments(Rule):
    """What a read sees by its timestamp: an iterator's is the moment that it reads at, and its first page tells one.

    A page of an iterator with guarantee_timestamp T > 0 sees no row that was written after T. One with 0 gives back
    as session_ts when the request came, whatever moment it read at. Other reads wait until the server is as far as T,
    and see what is there. With `lag_seconds`, a read that asks for no later moment meets a replica whose clock is so
    far behind, as one of several replicas may be.
    """

    source = (
        "proxy/task_query.go: PreExecute (MvccTimestamp), PostExecute (SessionTs, getMaxMvccTsFromChannels);"
        " proxy/util.go: parseGuaranteeTsFromConsistency (2.5.27, 2.6.16, 3.0.0; not in 2.4)"
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
        request, pages = call.request, _is_page(call)
        asked, level = request.guarantee_timestamp, request.consistency_level
        if request.use_default_consistency:
            level = BOUNDED  # as our collections are created
        now = self.backend.now(call)
        behind = Clock.before(now, self.lag_seconds)
        if pages and asked:
            moment, request.consistency_level = asked, CUSTOMIZED
        elif level == STRONG:
            moment = now
        else:
            moment = max(behind, asked) if level == CUSTOMIZED else behind
        if self.backend.is_lite:
            request.guarantee_timestamp = 0
        answer = self._read(call, go_on, moment, again=bool(pages and asked))
        if pages and not asked:
            answer.session_ts = now
        return answer

    def _read(self, call: Call, go_on: GoOn, moment: int, *, again: bool) -> Any:
        """The answer without the rows that came later; with `again`, also without those that came while it was made."""
        given = type(call.request)()
        given.CopyFrom(call.request)
        while True:
            hidden = self._later(call, moment)
            if hidden:
                _narrow(call, f"id not in {json.dumps(sorted(hidden))}")
            answer = go_on(call)
            if not again or self._later(call, moment) == hidden:
                return answer
            call.request.CopyFrom(given)

    def _note(self, call: Call) -> None:
        at = self.backend.now(call)
        with self._lock:
            written = self._written[call.database, call.request.collection_name]
            written.update(dict.fromkeys(_keys(call.request), at))

    def _later(self, call: Call, moment: int) -> list[str]:
        """Keys of the rows that were written after a moment."""
        name = call.request.collection_name
        if self.lag_seconds:
            name = self.backend.named_by(name, call) or name
        with self._lock:
            written = dict(self._written.get((call.database, name), {}))
        return [key for key, at in written.items() if at > moment]


def _is_page(call: Call) -> bool:
    """Whether a request is for a page of an iterator over rows."""
    return call.method == "Query" and _parameter(call.request.query_params, "iterator").lower() == "true"


def _parameter(pairs: Iterable[Any], name: str) -> str:
    return next((str(pair.value) for pair in pairs if pair.key == name), "")


def _keys(request: Any) -> list[str]:
    """Primary keys of the rows of a request that writes."""
    found = (field.scalars.string_data.data for field in request.fields_data if field.field_name == "id")
    return list(next(found, ()))


def _narrow(call: Call, condition: str) -> None:
    """Add a condition to a read."""
    parts = call.request.requests if call.method == "HybridSearch" else [call.request]
    field = "expr" if call.method == "Query" else "dsl"
    for part in parts:
        given = getattr(part, field)
        setattr(part, field, f"({given}) and {condition}" if given else condition)


class Aliases(Rule):
    """Reads through an alias go by a cache, which only a real change expires.

    Where the alias names the collection already, alter_alias does nothing and expires nothing (`ignores_the_same`).
    Changed properties of a collection expire what is known of it, its aliases included. `sticks` counts the changes
    to come after which the cache is filled with the old answer once more, by a request that was under way.
    """

    source = (
        "rootcoord/meta_table.go: CheckIfAliasAlterable (2.6.6 and later: errIgnoredAlterAlias);"
        " rootcoord/ddl_callbacks_alter_alias.go, ddl_callbacks_alter_collection_properties.go: ExpireCaches (2.6.16);"
        " rootcoord/alter_alias_task.go, alter_collection_task.go (2.5.27);"
        " the refill is milvus-io/milvus 51779"
    )

    def __init__(self, backend: Backend, *, ignores_the_same: bool) -> None:
        """Nothing sticks yet."""
        super().__init__(backend)
        self.ignores_the_same = ignores_the_same
        self.sticks = 0
        self._stale: dict[tuple[str, str], str] = {}

    def apply(self, call: Call, go_on: GoOn) -> Any:
        """Follow the changes of aliases, and answer reads from where a stale one leads."""
        if call.method in READS:
            stale = self._stale.get((call.database, call.request.collection_name))
            if stale:
                call.request.collection_name = stale
            return go_on(call)
        if call.method == "AlterAlias":
            return self._alter(call, go_on)
        answer = go_on(call)
        if call.method == "DropAlias":
            self._stale.pop((call.database, call.request.alias), None)
        if call.method == "AlterCollection":
            for key in list(self._stale):
                if self.backend.named_by(key[1], call) == call.request.collection_name:
                    del self._stale[key]
        return answer

    def _alter(self, call: Call, go_on: GoOn) -> Any:
        key = (call.database, call.request.alias)
        before = self.backend.named_by(call.request.alias, call)
        if before == call.request.collection_name and self.ignores_the_same:
            return common_pb2.Status()
        answer = go_on(call)
        if self.sticks and before and before != call.request.collection_name:
            self.sticks -= 1
            self._stale.setdefault(key, before)
        else:
            self._stale.pop(key, None)
        return answer


class CachedDescribe(Rule):
    """DescribeCollection is answered by the proxy from what it knows, until something changes that it hears of.

    Strict: it hears of the changes that it passed on itself, and of no others. Properties that are as they were change
    nothing, and expire nothing. `missing_code` is what it says of a collection that is not there.
    """

    source = (
        "proxy/service_provider.go: CachedProxyServiceProvider; proxy/impl.go: InvalidateCollectionMetaCache (2.5.18"
        " and later); rootcoord/alter_collection_task.go (2.5.27): unchanged properties"
    )
    EXPIRING = (
        *("AlterCollection", "AlterCollectionField", "DropCollection", "RenameCollection"),
        *("CreateAlias", "AlterAlias", "DropAlias", "LoadCollection", "ReleaseCollection"),
    )

    def __init__(self, backend: Backend, *, missing_code: int) -> None:
        """Know nothing yet."""
        super().__init__(backend)
        self._missing_code = missing_code
        self._known: dict[tuple[str, str], Any] = {}

    def apply(self, call: Call, go_on: GoOn) -> Any:
        """Answer from what is known, and forget what changes."""
        if call.method == "DescribeCollection":
            return self._describe(call, go_on)
        if call.method == "AlterCollection" and self._changes_nothing(call):
            return common_pb2.Status()
        answer = go_on(call)
        if call.method in self.EXPIRING:
            self._known.clear()
        return answer

    def _describe(self, call: Call, go_on: GoOn) -> Any:
        name = call.request.collection_name
        if (call.database, name) not in self._known:
            answer = go_on(call)
            if answer.status.code or answer.status.error_code:
                if not answer.schema.fields and answer.status.code in {0, 1, 100}:
                    says = f"can't find collection[database={call.database}][collection={name}]"
                    answer = failed(call.answer_type, self._missing_code, says)
                    answer.status.error_code = NOT_THERE
                return answer
            self._known[call.database, name] = answer
        return self._known[call.database, name]

    def _changes_nothing(self, call: Call) -> bool:
        kept = self.backend.properties(call.request.collection_name, call)
        given = call.request.properties
        return bool(given) and all(kept.get(pair.key) == pair.value for pair in given)


class DynamicField(Rule):
    """The dynamic field is nullable: answers say of each row whether it has one, and requests may say so.

    In collections that an older version made it is not nullable, and flags are refused (`older`).
    """

    source = "proxy/validate_util.go: fillWithValue; util/nullutil: CheckValidData (2.6.8 and later; before: older)"

    def __init__(self, backend: Backend, *, older: bool) -> None:
        """Choose which."""
        super().__init__(backend)
        self.older = older

    def apply(self, call: Call, go_on: GoOn) -> Any:
        """Look at the flags of what is written, and add them to what is read."""
        fields = getattr(call.request, "fields_data", ())
        for field in fields:
            if field.valid_data and (self.older or len(field.valid_data) != call.request.num_rows):
                says = f"the length of valid_data of field({field.field_name}) is wrong: invalid parameter"
                return failed(call.answer_type, PARAMETER, says)
            field.ClearField("valid_data")
        answer = go_on(call)
        if call.method == "Query" and not self.older:
            for field in answer.fields_data:
                if field.is_dynamic:
                    field.valid_data.extend(True for _ in field.scalars.json_data.data)
        return answer


class UniqueKeys(Rule):
    """An upsert that has a key twice is refused."""

    source = "proxy/task_upsert.go (2.6.8 and later, seen in 2.6.16)"

    def apply(self, call: Call, go_on: GoOn) -> Any:
        """Count the keys."""
        if call.method == "Upsert" and any(count > 1 for count in Counter(_keys(call.request)).values()):
            says = "duplicate primary keys are not allowed in the same batch: invalid parameter"
            return failed(call.answer_type, PARAMETER, says)
        return go_on(call)


class FlushRate(Rule):
    """A collection is flushed once in ten seconds; whoever asks more often is to ask later."""

    source = "configs/milvus.yaml: quotaAndLimits.flushRate.collection.max = 0.1 (2.4 and later)"
    SECONDS = 10.0

    def __init__(self, backend: Backend) -> None:
        """Nothing flushed yet."""
        super().__init__(backend)
        self._last: dict[tuple[str, str], float] = {}

    def apply(self, call: Call, go_on: GoOn) -> Any:
        """Refuse what comes too soon."""
        if call.method != "Flush":
            return go_on(call)
        now = time.monotonic()
        keys = [(call.database, name) for name in call.request.collection_names]
        if any(now - self._last.get(key, -self.SECONDS) < self.SECONDS for key in keys):
            return rate_limited(call, "0.1")
        self._last.update(dict.fromkeys(keys, now))
        return go_on(call)


def rate_limited(call: Call, rate: str) -> Any:
    """The answer to whoever asks too often."""
    says = f"request is rejected by grpc RateLimiter middleware, please retry later: rate limit exceeded[rate={rate}]"
    answer = failed(call.answer_type, RATE, says)
    (answer.status if hasattr(answer, "status") else answer).error_code = common_pb2.ErrorCode.RateLimit
    return answer


class KeptByAliases(Rule):
    """A collection that an alias names cannot be dropped."""

    source = "rootcoord/drop_collection_task.go (2.5.5 and later; code 65535 until 2.6.18, then 1100)"

    def __init__(self, backend: Backend, *, code: int) -> None:
        """Refuse with this code."""
        super().__init__(backend)
        self._code = code

    def apply(self, call: Call, go_on: GoOn) -> Any:
        """Look whether one names it."""
        if call.method != "DropCollection":
            return go_on(call)
        name = call.request.collection_name
        aliases = list(self.backend.ask("ListAliases", call, collection_name=name).aliases)
        if not aliases:
            return go_on(call)
        says = (
            f"unable to drop the collection [{name}] because it has associated aliases [{', '.join(aliases)}], please"
            " remove all aliases before dropping the collection"
        )
        return failed(call.answer_type, self._code, says)


class Privileges(Rule):
    """Asks of every request for the privilege that its message names, in the database that the metadata names.

    `users` has by user name what was granted: database, kind of object, privilege; over all objects of the kind. It
    is empty where nobody needs to log in. From 3.0 on the database is the one that the request names, where it does.
    """

    source = (
        "proxy/privilege_interceptor.go (2.6.16: GetCurDBNameFromContextOrDefault; 3.0.0: the request's own first);"
        " the options of messages in milvus.proto"
    )

    def __init__(self, backend: Backend, *, database_of_request: bool) -> None:
        """Nobody needs to log in yet."""
        super().__init__(backend)
        self.users: dict[str, Collection[tuple[str, str, str]]] = {}
        self._database_of_request = database_of_request

    def apply(self, call: Call, go_on: GoOn) -> Any:
        """Refuse who may not."""
        wanted = privilege_of(call.method)
        if not self.users or wanted is None:
            return go_on(call)
        metadata = {key: str(value) for key, value in call.metadata}
        database = metadata.get("dbname") or "default"
        if self._database_of_request:
            database = getattr(call.request, "db_name", "") or database
        user = base64.b64decode(metadata.get("authorization", "")).decode().partition(":")[0]
        if (database, *wanted) not in self.users.get(user, ()):
            says = f"Privilege{wanted[1]}: permission deny to {user} in the `{database}` database"
            raise Refused(grpc.StatusCode.PERMISSION_DENIED, says)
        return go_on(call)


def privilege_of(method: str) -> tuple[str, str] | None:
    """Kind of object and privilege that an RPC asks for; None for one that everybody may call."""
    options = SERVICE.methods_by_name[method].input_type.GetOptions()
    if not options.HasExtension(common_pb2.privilege_ext_obj):
        return None
    found = options.Extensions[common_pb2.privilege_ext_obj]
    privilege = common_pb2.ObjectPrivilege.Name(found.object_privilege).removeprefix("Privilege")
    return common_pb2.ObjectType.Name(found.object_type), privilege


class OnlyAutoindex(Rule):
    """Every index over vectors is an AUTOINDEX, whatever was asked for."""

    source = "proxy/task_index.go: parseIndexParams with autoIndex.enable, as Zilliz Cloud has it (2.6.16)"

    def apply(self, call: Call, go_on: GoOn) -> Any:
        """Ask the Milvus behind for what it has, and describe it as AUTOINDEX."""
        if call.method == "CreateIndex":
            metric = _parameter(call.request.extra_params, "metric_type")
            kind = "SPARSE_INVERTED_INDEX" if metric == "BM25" else "FLAT"
            del call.request.extra_params[:]
            for key, value in (("index_type", kind), ("metric_type", metric), ("params", "{}")):
                call.request.extra_params.add(key=key, value=value)
        answer = go_on(call)
        if call.method == "DescribeIndex":
            for description in answer.index_descriptions:
                for pair in description.params:
                    if pair.key == "index_type":
                        pair.value = "AUTOINDEX"
        return answer


class SmallPlan(Rule):
    """Limits of Zilliz Cloud's Free plan: collections, calls a second, questions and hits of a search; no databases."""

    source = "docs.zilliz.com: Zilliz Cloud Limits (Free: 5 collections, 5 calls/s, nq 10, topK 1,024)"
    COLLECTIONS = 5
    QUESTIONS = 10
    HITS = 1_024
    CALLS_A_SECOND = 5
    LIMITED = ("CreateCollection", "LoadCollection", "ReleaseCollection", "DropCollection")

    def __init__(self, backend: Backend) -> None:
        """Nothing called yet."""
        super().__init__(backend)
        self._called: list[float] = []

    def apply(self, call: Call, go_on: GoOn) -> Any:
        """Refuse what is beyond."""
        if call.database != "default":
            return failed(call.answer_type, 800, f"database not found[database={call.database}]")
        if call.method in self.LIMITED:
            now = time.monotonic()
            self._called = [at for at in self._called if now - at < 1]
            if len(self._called) >= self.CALLS_A_SECOND:
                return rate_limited(call, str(self.CALLS_A_SECOND))
            self._called.append(now)
        if call.method == "CreateCollection":
            names = self.backend.ask("ShowCollections", call).collection_names
            if len(names) >= self.COLLECTIONS:
                says = f"exceeded the limit number of collections[dbName=default][limit={self.COLLECTIONS}]"
                return failed(call.answer_type, TOO_MANY, says)
        if call.method in {"Search", "HybridSearch"} and (says := self._too_many(call)):
            return failed(call.answer_type, PARAMETER, says)
        return go_on(call)

    def _too_many(self, call: Call) -> str:
        searches = call.request.requests if call.method == "HybridSearch" else [call.request]
        for search in searches:
            hits = int(_parameter(search.search_params, "topk") or 0)
            if search.nq > self.QUESTIONS or hits > self.HITS:
                return f"nq {search.nq} or topK {hits} is beyond the limits of this plan: invalid parameter"
        return ""


class Failures(Rule):
    """Answers with an error that a test asks for: what a server says while it fails over, or of its limits."""

    source = "pkg/util/merr/errors.go, pkg/util/merr/utils.go: Status (2.6.16)"

    def __init__(self, backend: Backend) -> None:
        """None to come."""
        super().__init__(backend)
        self._left: Counter[str] = Counter()
        self._says: dict[str, Mapping[str, Any]] = {}

    def fail(self, method: str, code: int, reason: str, *, times: int = 1, retriable: bool = False) -> None:
        """Let the next requests of a method fail."""
        self._left[method] = times
        self._says[method] = {"code": code, "reason": reason, "retriable": retriable}

    def apply(self, call: Call, go_on: GoOn) -> Any:
        """Fail, or send it on."""
        if self._left[call.method] > 0:
            self._left[call.method] -= 1
            return failed(call.answer_type, **self._says[call.method])
        return go_on(call)
