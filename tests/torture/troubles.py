"""Troubles: faults that a night may survive."""

import asyncio
import inspect
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, NoReturn

from pymilvus import MilvusClient, MilvusException

from nightloom import night as night_module
from nightloom.milvus import Connection
from nightloom.night import Night
from tests.torture.calls import Due, wrap
from tests.torture.model import HashEmbedder
from tests.torture.points import Call

INJECTED = 2
"""Code of "service unavailable", which passes."""

Trouble = Callable[[Due], None]


def _refuse() -> NoReturn:
    raise MilvusException(code=INJECTED, message="injected: refused for now")


def _cut() -> NoReturn:
    raise ConnectionResetError("injected: connection reset by peer")


def refuse_before(owner: type, method: str, due: Due) -> None:
    """The nth call fails, and was never made."""
    wrap(owner, method, lambda original, args, kwargs: _refuse() if due() else original(*args, **kwargs))


def lose_acknowledgement(owner: type, method: str, due: Due) -> None:
    """The nth call is made, and its answer lost."""

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


def send_twice(due: Due) -> None:
    """The nth insert reaches Milvus twice, as when a connection is cut and the client sends again."""

    def change(original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if due():
            original(*args, **kwargs)
        return original(*args, **kwargs)

    wrap(Connection, "upsert_now", change)


def tear(due: Due) -> None:
    """Of the nth insert only the first half of the rows arrives, and the answer is an error."""

    def change(original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not due():
            return original(*args, **kwargs)
        connection, collection, rows = args
        if half := rows[: len(rows) // 2]:
            original(connection, collection, half)
        _cut()

    wrap(Connection, "upsert_now", change)


def release_candidate(due: Due) -> None:
    """Somebody releases tonight's generation right before it is promoted."""

    async def released(original: Callable[..., Any], night: Night) -> Any:
        target = night.target
        assert target is not None
        client = night.index.connection.client
        if due():
            await asyncio.to_thread(client.release_collection, target.name)
        return await original(night)

    wrap(Night, "promote", lambda original, args, _: released(original, *args))


def shift_clock(days: int, due: Due) -> None:
    """The wall clock goes wrong by days."""
    due.fired()

    class Shifted(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
            return datetime.now(tz or UTC) + timedelta(days=days)

    setattr(night_module, "datetime", Shifted)  # noqa: B010  mypy knows it as a class that nobody sets


def fail_embedder(due: Due) -> None:
    """The embedder fails in a way that nobody foresaw."""

    def change(original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if due():
            raise OSError("injected: no space left on device")
        return original(*args, **kwargs)

    wrap(HashEmbedder, "embed_texts", change)


def cancel(due: Due) -> None:
    """Somebody cancels the night while a shard is written."""
    nights: list[asyncio.Task[Any]] = []

    async def remember(call: Call) -> Any:
        if (task := asyncio.current_task()) is not None:
            nights.append(task)
        return await call()

    def change(original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if due() and nights:
            nights[0].get_loop().call_soon_threadsafe(nights[0].cancel)
        return original(*args, **kwargs)

    wrap(Connection, "upsert_now", change)
    wrap(Night, "read_state", lambda original, args, kwargs: remember(partial(original, *args, **kwargs)))


WRITING: dict[str, Trouble] = {
    "insert refused": partial(refuse_before, Connection, "upsert_now"),
    "insert acknowledgement lost": partial(lose_acknowledgement, Connection, "upsert_now"),
    "insert sent twice": send_twice,
    "insert torn": tear,
}
COPYING: dict[str, Trouble] = {
    "copy refused": partial(refuse_before, Connection, "write"),
    "copy acknowledgement lost": partial(lose_acknowledgement, Connection, "write"),
    "query refused": partial(refuse_before, MilvusClient, "query"),
    "scan refused": partial(refuse_before, Connection, "_read_page"),
    "load refused": partial(refuse_before, MilvusClient, "load_collection"),
}
SWITCHING: dict[str, Trouble] = {
    "switch refused": partial(refuse_before, MilvusClient, "alter_alias"),
    "switch acknowledgement lost": partial(lose_acknowledgement, MilvusClient, "alter_alias"),
    "candidate released": release_candidate,
}
CLOCK: dict[str, Trouble] = {
    "clock a day forward": partial(shift_clock, 1),
    "clock a day back": partial(shift_clock, -1),
}
ENDING: dict[str, Trouble] = {
    "properties refused": partial(refuse_before, MilvusClient, "alter_collection_properties"),
    "drop refused": partial(refuse_before, MilvusClient, "drop_collection"),
    "drop acknowledgement lost": partial(lose_acknowledgement, MilvusClient, "drop_collection"),
}
CUTTING: dict[str, Trouble] = {
    "embedder fails": fail_embedder,
    "night cancelled": cancel,
    "create acknowledgement lost": partial(lose_acknowledgement, MilvusClient, "create_collection"),
    "create refused": partial(refuse_before, MilvusClient, "create_collection"),
    "delete acknowledgement lost": partial(lose_acknowledgement, MilvusClient, "delete"),
}
TROUBLES = WRITING | COPYING | SWITCHING | CLOCK | ENDING | CUTTING
