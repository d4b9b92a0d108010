"""Kill points: calls at the product's edge, mostly of pymilvus, at which a night kills itself."""

import asyncio
import inspect
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from pymilvus import MilvusClient

from nightloom.contents import Contents
from nightloom.index import Index
from nightloom.milvus import Connection
from nightloom.night import Night
from nightloom.splitting import Splitter
from tests.torture.calls import Due, die, wrap
from tests.torture.model import HashEmbedder

SENT_SECONDS = 0.003
"""From sending a request to the kill: Milvus may or may not have it by then."""

Call = Callable[[], Any]


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
        heads = not any(_positions(args[1]))
        return heads == (self.rows == "heads")


def _positions(rows: Any) -> list[int]:
    """The positions of rows that are inserted, or of a batch that is copied."""
    return [row["position"] for row in (rows if isinstance(rows, list) else rows.rows(("position",)))]


FIRST_NIGHT_POINTS = {
    "before the first switch": Point(MilvusClient, "create_alias", "before"),
    "after the first switch": Point(MilvusClient, "create_alias", "after"),
}
BUILDING_POINTS = {
    "collection created, index not": Point(MilvusClient, "create_index", "before"),
    "index created, not loaded": Point(MilvusClient, "create_index", "after"),
    "generation claimed": Point(Contents, "claim", "after"),
    "before a split": Point(Splitter, "split", "before"),
    "after an embedding": Point(HashEmbedder, "embed_texts", "after"),
    "nodes sent": Point(Connection, "upsert_now", "sent", "nodes"),
    "nodes acknowledged": Point(Connection, "upsert_now", "after", "nodes"),
    "heads sent": Point(Connection, "upsert_now", "sent", "heads"),
    "heads acknowledged": Point(Connection, "upsert_now", "after", "heads"),
}
CLEARING_POINTS = {
    "before rows are deleted": Point(MilvusClient, "delete", "before"),
    "rows to delete sent": Point(MilvusClient, "delete", "sent"),
    "after rows are deleted": Point(MilvusClient, "delete", "after"),
}
COPYING_POINTS = {
    "before the copy": Point(Night, "settle", "before"),
    "copied nodes sent": Point(Connection, "write", "sent", "nodes"),
    "copied nodes acknowledged": Point(Connection, "write", "after", "nodes"),
    "copied heads sent": Point(Connection, "write", "sent", "heads"),
}
SWITCHING_POINTS = {
    "before verify": Point(Night, "verify", "before"),
    "after verify": Point(Night, "verify", "after"),
    "before the switch": Point(MilvusClient, "alter_alias", "before"),
    "switch sent": Point(MilvusClient, "alter_alias", "sent"),
    "after the switch": Point(MilvusClient, "alter_alias", "after"),
}
LAST_POINTS = {
    "before the mark": Point(Index, "finish", "before"),
    "before the prune": Point(MilvusClient, "drop_collection", "before"),
    "prune sent": Point(MilvusClient, "drop_collection", "sent"),
    "after a prune": Point(MilvusClient, "drop_collection", "after"),
}
POINTS = FIRST_NIGHT_POINTS | BUILDING_POINTS | CLEARING_POINTS | COPYING_POINTS | SWITCHING_POINTS | LAST_POINTS
"""In groups, in the order in which one night after another can reach them."""
GROUPS = {
    "while it builds": [*BUILDING_POINTS, *CLEARING_POINTS],
    "while it copies and switches": [*COPYING_POINTS, *SWITCHING_POINTS],
    "while it marks and prunes": [*LAST_POINTS],
}
"""After the first night: each group leaves a whole index to the next."""
IN_PLACE_POINTS = (
    "generation claimed",
    "nodes sent",
    "before rows are deleted",
    "after rows are deleted",
    "heads sent",
    "heads acknowledged",
    "before the mark",
)


def install_point(point: Point, due: Due) -> None:
    """Kill this process at the call that the point means."""

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
        return die()

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
