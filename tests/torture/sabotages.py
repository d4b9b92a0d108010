"""Sabotages: products broken on purpose, at which the torture must fail."""

import uuid
from collections.abc import Callable, Mapping
from typing import Any

from pymilvus.client.utils import check_status
from pymilvus.grpc_gen import milvus_pb2

from nightloom import index as index_module
from nightloom import night as night_module
from nightloom import splitting as splitting_module
from nightloom.audit import Audit
from nightloom.column_transfer import ColumnBatch
from nightloom.contents import Contents
from nightloom.milvus import Connection
from nightloom.splitting import Node
from tests.torture.calls import wrap


def insert_for_upsert() -> None:
    """Writes are inserts."""

    def insert(connection: Connection, collection: str, batch: ColumnBatch) -> int:
        stub = connection.client._get_connection()._stub
        request = milvus_pb2.InsertRequest(collection_name=collection, fields_data=batch.fields, num_rows=len(batch))
        check_status(stub.Insert(request, timeout=connection.timeout_seconds).status)
        return len(batch)

    wrap(Connection, "write", lambda _original, args, _kwargs: insert(*args))


def random_ids() -> None:
    """A node has another id every time."""
    assert hasattr(splitting_module, "node_id")
    setattr(splitting_module, "node_id", lambda _document, _position: uuid.uuid4().hex)  # noqa: B010


def heads_first() -> None:
    """The commit record is written before what it commits."""

    async def turned(
        original: Callable[..., Any],
        contents: Contents,
        collection: str,
        nodes: list[Node],
        vectors: Any,
        trim: Mapping[str, int] | None = None,
    ) -> int:
        rows = 0
        for heads in (True, False):
            chosen = [at for at, node in enumerate(nodes) if (node.position == 0) is heads]
            if chosen:
                some = [nodes[at] for at in chosen]
                rows += await original(contents, collection, some, vectors[chosen], trim)
        return rows

    wrap(Contents, "upsert", lambda original, args, kwargs: turned(original, *args, **kwargs))


def no_audit() -> None:
    """A head is taken at its word, whatever rows are there."""

    async def heads_alone(contents: Contents, collection: str) -> Audit:
        rows, heads = await contents.read(collection)
        return Audit(rows, heads, frozenset(heads), ())

    wrap(Contents, "audit", lambda _original, args, _kwargs: heads_alone(*args))


def no_probe() -> None:
    """Nobody reads through the alias after the switch."""
    for module in (index_module, night_module):
        assert hasattr(module, "agrees")
        setattr(module, "agrees", lambda _seen, _proof: True)  # noqa: B010


def no_verify() -> None:
    """Nobody counts."""

    async def nothing(contents: Contents, collection: str) -> int:
        return await contents.connection.count(collection)

    wrap(Contents, "verify", lambda _original, args, _kwargs: nothing(*args[:2]))


SABOTAGES: dict[str, Callable[[], None]] = {
    "insert for upsert": insert_for_upsert,
    "random ids": random_ids,
    "heads first": heads_first,
    "no audit": no_audit,
    "no probe after the switch": no_probe,
    "no verify": no_verify,
}
