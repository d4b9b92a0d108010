"""Faults inside the child process that runs a night, and products broken on purpose.

A kill point is a call at the product's edge, mostly of pymilvus, at which the process kills itself. A trouble is a
fault that a night may survive. A sabotage breaks a promise of the product, and the torture must then fail. The product
knows nothing of all this: its methods, and pymilvus's, are wrapped.
"""

import asyncio
import inspect
import itertools
import json
import os
import signal
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial, wraps
from pathlib import Path
from typing import Any, NoReturn

from pymilvus import AsyncMilvusClient, MilvusClient, MilvusException

from nightloom import night as night_module
from nightloom import splitting as splitting_module
from nightloom.index import Index
from nightloom.night import Night
from nightloom.splitting import Node, Splitter
from tests.torture.model import HashEmbedder

SENT_SECONDS = 0.003
"""From sending a request to the kill: Milvus may or may not have it by then."""
INJECTED = 65_535
"""Code of an error that no Milvus gives; to the product it is one that may pass."""

Call = Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault by its name below, at the nth call of its kind."""

    name: str
    nth: int = 1


def die() -> NoReturn:
    """End this process as `kill -9` does."""
    os.kill(os.getpid(), signal.SIGKILL)
    while True:  # the signal is on its way
        time.sleep(1)


# --- kill points


@dataclass(frozen=True, slots=True)
class Point:
    """A call, and the moment at which it kills.

    Attributes:
        owner: Class of the method.
        method: Its name.
        moment: "before" the call, "sent" (request on its way, no answer awaited), or "after" its answer.
        rows: For writes: only those of "nodes" (position > 0 among them) or of "heads" alone; "" for every call.
    """

    owner: type
    method: str
    moment: str
    rows: str = ""

    def concerns(self, args: Sequence[Any]) -> bool:
        """Whether a call with these positional arguments (collection and rows) is one of those meant."""
        if not self.rows:
            return True
        heads = all(row["position"] == 0 for row in args[1])
        return heads == (self.rows == "heads")


POINTS = {
    "before a split": Point(Splitter, "split", "before"),
    "after an embedding": Point(HashEmbedder, "embed_texts", "after"),
    "collection created, index not": Point(MilvusClient, "create_index", "before"),
    "index created, not loaded": Point(MilvusClient, "create_index", "after"),
    "nodes sent": Point(AsyncMilvusClient, "upsert", "sent", "nodes"),
    "nodes acknowledged": Point(AsyncMilvusClient, "upsert", "after", "nodes"),
    "heads sent": Point(AsyncMilvusClient, "upsert", "sent", "heads"),
    "heads acknowledged": Point(AsyncMilvusClient, "upsert", "after", "heads"),
    "before the copy": Point(Night, "copy_unchanged", "before"),
    "copied nodes sent": Point(MilvusClient, "upsert", "sent", "nodes"),
    "copied nodes acknowledged": Point(MilvusClient, "upsert", "after", "nodes"),
    "copied heads sent": Point(MilvusClient, "upsert", "sent", "heads"),
    "before verify": Point(Night, "verify", "before"),
    "after verify": Point(Night, "verify", "after"),
    "before the switch": Point(MilvusClient, "alter_alias", "before"),
    "switch sent": Point(MilvusClient, "alter_alias", "sent"),
    "after the switch": Point(MilvusClient, "alter_alias", "after"),
    "before the mark": Point(MilvusClient, "alter_collection_properties", "before"),
    "before the prune": Point(MilvusClient, "drop_collection", "before"),
    "prune sent": Point(MilvusClient, "drop_collection", "sent"),
    "after a prune": Point(MilvusClient, "drop_collection", "after"),
}
CLEARING_POINTS = {
    "before stray rows are deleted": Point(MilvusClient, "delete", "before"),
    "after stray rows are deleted": Point(MilvusClient, "delete", "after"),
}
FIRST_NIGHT_POINTS = {
    "before the first switch": Point(MilvusClient, "create_alias", "before"),
    "after the first switch": Point(MilvusClient, "create_alias", "after"),
}


class Nth:
    """Says at which call it is time; calls come from several threads."""

    def __init__(self, nth: int) -> None:
        """Count to nth."""
        self._nth = nth
        self._calls = itertools.count(1)

    def __call__(self) -> bool:
        """Whether this is the one."""
        return next(self._calls) == self._nth


def wrap(
    owner: type, method: str, change: Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]
) -> None:
    """Put a function in place of a method: it gets the method, its arguments with self first, and keywords.

    For an async method it may return an awaitable.

    Raises:
        AttributeError: There is no such method any more; the table must follow the product.
    """
    original = getattr(owner, method)

    if inspect.iscoroutinefunction(original):

        @wraps(original)
        async def replaced(*args: Any, **kwargs: Any) -> Any:
            result = change(original, args, kwargs)
            return await result if inspect.isawaitable(result) else result

    else:

        @wraps(original)
        def replaced(*args: Any, **kwargs: Any) -> Any:
            return change(original, args, kwargs)

    setattr(owner, method, replaced)


def install_point(point: Point, nth: int) -> None:
    """Kill this process at the nth call that the point means."""
    due = Nth(nth)

    def kill(original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not (point.concerns(args[1:]) and due()):
            return original(*args, **kwargs)
        if point.moment == "before":
            die()
        call = partial(original, *args, **kwargs)
        awaited = inspect.iscoroutinefunction(original)
        if point.moment == "sent":
            return _send_and_die(call) if awaited else _send_and_die_here(call)
        if awaited:
            return _await_and_die(call)
        call()
        die()

    wrap(point.owner, point.method, kill)


async def _send_and_die(call: Call) -> None:
    sending = asyncio.ensure_future(call())
    await asyncio.sleep(SENT_SECONDS)
    del sending
    die()


def _send_and_die_here(call: Call) -> None:
    threading.Thread(target=call, daemon=True).start()
    time.sleep(SENT_SECONDS)
    die()


async def _await_and_die(call: Call) -> None:
    await call()
    die()


# --- troubles


class AliasMemory:
    """An alias that sticks: describe_alias names the new collection, and reads answer from the old one.

    As a server does it about once in a hundred switches; the same alter_alias made again heals it. The file outlives
    the process, as the server's state would.
    """

    def __init__(self, file: Path) -> None:
        """Remember in a file."""
        self._file = file

    def install(self, swallowed: int) -> None:
        """Swallow the first calls of alter_alias; in every child, answer questions as the server would."""
        calls = itertools.count()

        def alter(original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if next(calls) < swallowed:
                self._file.write_text(json.dumps([args[2], args[1]]))
                return None
            result = original(*args, **kwargs)
            self._file.unlink(missing_ok=True)
            return result

        def describe(original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            return original(*args, **kwargs) | ({"collection_name": named} if (named := self.named(args[1])) else {})

        def list_aliases(original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            found = original(*args, **kwargs)
            if not (self._file.exists() and args[1:]):
                return found
            alias, named = json.loads(self._file.read_text())
            others = [each for each in found["aliases"] if each != alias]
            return found | {"aliases": [*others, *([alias] if named == args[1] else [])]}

        wrap(MilvusClient, "alter_alias", alter)
        wrap(MilvusClient, "describe_alias", describe)
        wrap(MilvusClient, "list_aliases", list_aliases)

    def named(self, alias: str) -> str | None:
        """What describe_alias says of a stuck alias; None where it is not stuck."""
        if not self._file.exists():
            return None
        stuck, named = json.loads(self._file.read_text())
        return str(named) if stuck == alias else None


def _refuse() -> NoReturn:
    raise MilvusException(code=INJECTED, message="injected: refused for now")


def _cut() -> NoReturn:
    raise ConnectionResetError("injected: connection reset by peer")


def refuse_before(owner: type, method: str, nth: int) -> None:
    """The nth call fails, and was never made."""
    due = Nth(nth)
    wrap(owner, method, lambda original, args, kwargs: _refuse() if due() else original(*args, **kwargs))


def lose_acknowledgement(owner: type, method: str, nth: int) -> None:
    """The nth call is made, and its answer lost."""
    due = Nth(nth)

    async def cut_later(call: Call) -> None:
        await call()
        _cut()

    def change(original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not due():
            return original(*args, **kwargs)
        if inspect.iscoroutinefunction(original):
            return cut_later(partial(original, *args, **kwargs))
        original(*args, **kwargs)
        _cut()

    wrap(owner, method, change)


def send_twice(nth: int) -> None:
    """The nth insert reaches Milvus twice, as when a connection is cut and the client sends again."""
    due = Nth(nth)

    async def twice(call: Call) -> Any:
        await call()
        return await call()

    def change(original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return (twice if due() else _once)(partial(original, *args, **kwargs))

    wrap(AsyncMilvusClient, "upsert", change)


async def _once(call: Call) -> Any:
    return await call()


def tear(nth: int) -> None:
    """Of the nth insert only the first half of the rows arrives, and the answer is an error."""
    due = Nth(nth)

    async def half(original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if rows := args[2][: len(args[2]) // 2]:
            await original(*args[:2], rows, *args[3:], **kwargs)
        _cut()

    def change(original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return half(original, args, kwargs) if due() else original(*args, **kwargs)

    wrap(AsyncMilvusClient, "upsert", change)


def release_candidate() -> None:
    """Somebody releases tonight's generation right before it is promoted."""

    async def released(original: Callable[..., Any], night: Night) -> Any:
        target = night.target
        assert target is not None
        client = night.index.connection.client
        await asyncio.to_thread(client.release_collection, target.name)
        return await original(night)

    wrap(Night, "promote", lambda original, args, _: released(original, *args))


def shift_clock(days: int) -> None:
    """The wall clock goes wrong by days."""

    class Shifted(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
            return datetime.now(tz or UTC) + timedelta(days=days)

    setattr(night_module, "datetime", Shifted)  # noqa: B010  mypy knows it as a class that nobody sets


def fail_embedder(nth: int) -> None:
    """The embedder fails in a way that nobody foresaw."""
    due = Nth(nth)

    def change(original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if due():
            raise OSError("injected: no space left on device")
        return original(*args, **kwargs)

    wrap(HashEmbedder, "embed_texts", change)


def cancel(nth: int) -> None:
    """Somebody cancels the night while a shard is written."""
    due = Nth(nth)
    nights: list[asyncio.Task[Any]] = []

    async def remember(call: Call) -> Any:
        if (task := asyncio.current_task()) is not None:
            nights.append(task)
        return await call()

    def change(original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if due() and nights:
            asyncio.get_running_loop().call_later(SENT_SECONDS, nights[0].cancel)
        return original(*args, **kwargs)

    wrap(AsyncMilvusClient, "upsert", change)
    wrap(Night, "read_state", lambda original, args, kwargs: remember(partial(original, *args, **kwargs)))


TROUBLES: dict[str, Callable[[int], None]] = {
    "insert refused": partial(refuse_before, AsyncMilvusClient, "upsert"),
    "insert acknowledgement lost": partial(lose_acknowledgement, AsyncMilvusClient, "upsert"),
    "insert sent twice": send_twice,
    "insert torn": tear,
    "copy refused": partial(refuse_before, MilvusClient, "upsert"),
    "copy acknowledgement lost": partial(lose_acknowledgement, MilvusClient, "upsert"),
    "query refused": partial(refuse_before, MilvusClient, "query"),
    "scan refused": partial(refuse_before, MilvusClient, "query_iterator"),
    "delete acknowledgement lost": partial(lose_acknowledgement, MilvusClient, "delete"),
    "create acknowledgement lost": partial(lose_acknowledgement, MilvusClient, "create_collection"),
    "create refused": partial(refuse_before, MilvusClient, "create_collection"),
    "load refused": partial(refuse_before, MilvusClient, "load_collection"),
    "properties refused": partial(refuse_before, MilvusClient, "alter_collection_properties"),
    "switch refused": partial(refuse_before, MilvusClient, "alter_alias"),
    "switch acknowledgement lost": partial(lose_acknowledgement, MilvusClient, "alter_alias"),
    "drop refused": partial(refuse_before, MilvusClient, "drop_collection"),
    "drop acknowledgement lost": partial(lose_acknowledgement, MilvusClient, "drop_collection"),
    "candidate released": lambda _: release_candidate(),
    "embedder fails": fail_embedder,
    "night cancelled": cancel,
    "clock a day forward": lambda _: shift_clock(1),
    "clock a day back": lambda _: shift_clock(-1),
}
ALIAS_STICKS = "alias sticks"
"""Its nth is how many switches do nothing; see AliasMemory."""


# --- the product, broken on purpose


def insert_for_upsert() -> None:
    """Writes are inserts."""
    for owner in (AsyncMilvusClient, MilvusClient):
        setattr(owner, "upsert", owner.insert)  # noqa: B010


def random_ids() -> None:
    """A node has another id every time."""
    assert hasattr(splitting_module, "node_id")
    setattr(splitting_module, "node_id", lambda _document, _position: uuid.uuid4().hex)  # noqa: B010


def heads_first() -> None:
    """The commit record is written before what it commits."""

    async def turned(
        original: Callable[..., Any], index: Index, collection: str, nodes: list[Node], vectors: Any
    ) -> int:
        rows = 0
        for heads in (True, False):
            chosen = [at for at, node in enumerate(nodes) if (node.position == 0) is heads]
            if chosen:
                rows += await original(index, collection, [nodes[at] for at in chosen], vectors[chosen])
        return rows

    wrap(Index, "upsert", lambda original, args, kwargs: turned(original, *args, **kwargs))


def no_probe() -> None:
    """Nobody reads through the alias after the switch."""
    wrap(Index, "_reads_as", lambda _original, _args, _kwargs: True)


def no_verify() -> None:
    """Nobody counts."""

    async def nothing(original: Callable[..., Any], index: Index, collection: str, _expected: Any) -> int:
        del original
        return await index.connection.count(collection)

    wrap(Index, "verify", lambda original, args, _: nothing(original, *args))


SABOTAGES: dict[str, Callable[[], None]] = {
    "insert for upsert": insert_for_upsert,
    "random ids": random_ids,
    "heads first": heads_first,
    "no probe after the switch": no_probe,
    "no verify": no_verify,
}


def install(faults: Sequence[Fault], sabotages: Sequence[str], alias: AliasMemory) -> None:
    """Break this process: the product first, the world around it then."""
    for name in sabotages:
        SABOTAGES[name]()
    alias.install(next((fault.nth for fault in faults if fault.name == ALIAS_STICKS), 0))
    points = POINTS | CLEARING_POINTS | FIRST_NIGHT_POINTS
    for fault in faults:
        if fault.name in points:
            install_point(points[fault.name], fault.nth)
        elif fault.name != ALIAS_STICKS:
            TROUBLES[fault.name](fault.nth)
