"""Reads of rows: all of them, batch by batch, whatever their keys are; what a strong read sees; and writes at once."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import pytest_asyncio
from pymilvus import MilvusException
from pymilvus.client.grpc_handler import GrpcHandler

from nightloom import contents as contents_module
from nightloom import milvus
from nightloom.audit import read_heads
from nightloom.column_transfer import ColumnTransfer
from nightloom.contents import Contents
from nightloom.corpus import MilvusSettings
from nightloom.documents import Document, DocumentRef, Place, document_id, node_id
from nightloom.errors import IndexRefused
from nightloom.generations import FINISHED, WRITER
from nightloom.heads import Head
from nightloom.index import Index, open_index
from nightloom.milvus import Connection, open_connection
from nightloom.row_transfer import RowTransfer
from nightloom.splitting import Node
from tests.nights import ON_SERVER, Home, live_name, night

FOREIGN = [
    "é1",
    "é2",
    'ü"q',
    "a\\b",
    'a\\"c',
    "a\\nd",
    "a\ne",
    "zz",
    "日本",
    "日本2",
    "😀a",
    "😀b",
    "a'b",
    "a{b",
    "a%b",
]
"""Keys that are not ours: somebody else wrote them."""


def rows(keys: list[str]) -> list[dict[str, Any]]:
    texts = dict.fromkeys(milvus.TEXTS, "x")
    vector = np.array([0.6, 0.8], dtype=np.float32)
    return [
        {"id": key, **texts, "embedding": vector, "position": at, "total": at + 1, "label": f"row {at}"}
        for at, key in enumerate(keys)
    ]


@pytest.fixture(params=["columns", "rows"])
def transfer(request: pytest.FixtureRequest) -> str:
    """The way in which rows are carried; each test runs for both."""
    return str(request.param)


@pytest_asyncio.fixture(params=["lite", pytest.param("server", marks=pytest.mark.milvus)])
async def connection(
    request: pytest.FixtureRequest, transfer: Literal["columns", "rows"], tmp_path: Path
) -> AsyncIterator[Connection]:
    uri = request.getfixturevalue("milvus_server") if request.param == "server" else str(tmp_path / "index.db")
    async with open_connection(MilvusSettings(uri=uri, transfer=transfer), None) as opened:
        assert type(opened.transfer) is {"columns": ColumnTransfer, "rows": RowTransfer}[transfer]
        yield opened


@pytest_asyncio.fixture
async def collection(connection: Connection, tmp_path: Path) -> AsyncIterator[str]:
    name = f"reads_{document_id(str(tmp_path))[:12]}"
    await connection.create(name, dim=2, properties={"x": "y"})
    yield name
    await connection.call(lambda: connection.client.drop_collection(name))


async def test_every_row_is_read_once_whatever_its_key_is(connection: Connection, collection: str) -> None:
    await connection.call(lambda: connection.upsert_now(collection, rows(FOREIGN)))
    assert await connection.count(collection) == len(FOREIGN)
    batches = list(connection.scan(collection, "position >= 0", ("position", "label", "nobody_has_it"), 2))
    assert max(map(len, batches)) == 2
    found = [row for batch in batches for row in batch]
    assert sorted(row["id"] for row in found) == sorted(FOREIGN)
    assert all(
        row == {"id": row["id"], "position": at, "label": f"row {at}"} for row in found for at in (row["position"],)
    )
    texts = await Contents(connection)._passages(collection, FOREIGN[3:])
    assert texts == dict.fromkeys(FOREIGN[3:], "x")
    (first, *_) = next(iter(connection.scan(collection, "position == 3", ("*",))))
    assert (first["label"], first["total"], first["embedding"].tolist()) == ("row 3", 4, pytest.approx([0.6, 0.8]))


async def test_batches_have_as_many_rows_as_their_size_allows(
    connection: Connection, collection: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(milvus, "FIRST_ROWS", 10)
    monkeypatch.setattr(milvus, "READ_BYTES", 100_000)
    monkeypatch.setattr(milvus, "READ_ROWS", 150)
    long = [row | {"text": "x" * 5_000} for row in rows([f"{at:03}" for at in range(200)])]
    await connection.call(lambda: connection.upsert_now(collection, long))
    assert await connection.count(collection) == len(long)
    whole = list(connection.read_batches(collection, "position >= 0"))
    assert len(whole[0]) == 10
    assert all(15 < len(batch) <= 20 for batch in whole[1:-1]), "5,000 bytes a row, and its other fields"
    assert [key for batch in whole for key in batch.texts("id")] == [row["id"] for row in long]
    small = connection.scan(collection, "position >= 0", ("position",))
    assert [len(batch) for batch in small] == [10, 150, 40]


@pytest.mark.milvus
async def test_rows_too_large_for_one_answer_come_in_smaller_batches(milvus_server: str, tmp_path: Path) -> None:
    name = f"reads_{document_id(str(tmp_path))[:12]}"
    keys = [f"{at:04}" for at in range(1_400)]
    async with open_connection(MilvusSettings(uri=milvus_server), None) as opened:
        await opened.create(name, dim=2, properties={"x": "y"})
        try:
            for at in range(0, len(keys), 350):
                sizes = [1 if at < 250 else 60_000 for at in range(at, at + 350)]
                some = [row | {"text": "x" * size} for row, size in zip(rows(keys[at : at + 350]), sizes, strict=True)]
                await opened.call(partial(opened.upsert_now, name, some))
            await opened.count(name)
            batches = list(opened.read_batches(name, "position >= 0"))
        finally:
            await opened.call(lambda: opened.client.drop_collection(name))
    assert [key for batch in batches for key in batch.texts("id")] == keys
    assert max(batch.size_bytes for batch in batches) < 20_000_000


@pytest.mark.milvus
async def test_what_was_written_before_a_connection_was_opened_is_seen(milvus_server: str, tmp_path: Path) -> None:
    """Every write, also that of the last moment, which another process sent."""
    settings = MilvusSettings(uri=milvus_server)
    name = f"reads_{document_id(str(tmp_path))[:12]}"
    async with open_connection(settings, None) as writer:
        await writer.create(name, dim=2, properties={"x": "y"})
        try:
            for at in range(1, 13):
                written = rows([f"row {at}"])
                await writer.call(partial(writer.upsert_now, name, written))
                async with open_connection(settings, None) as opened:
                    assert opened.opened_at > 0
                    assert await opened.count(name, by=opened.opened_at) == at
        finally:
            await writer.call(lambda: writer.client.drop_collection(name))


@pytest.mark.milvus
async def test_a_server_that_does_not_tell_its_time_is_read_strongly(
    milvus_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    strong = {"consistency_level": "Strong"}

    def refuse(*_: object, **__: object) -> int:
        raise MilvusException(code=1, message="PrivilegeAllocTimestamp: permission deny")

    for tells in (lambda *_, **__: 0, refuse):
        monkeypatch.setattr(GrpcHandler, "alloc_timestamp", tells)
        async with open_connection(MilvusSettings(uri=milvus_server), None) as opened:
            assert opened.strong(opened.opened_at) == opened.strong() == strong


# --- heads, read while the rows are waited for

VECTOR = np.array([[0.6, 0.8]], dtype=np.float32)


def only_node(name: str, version: int) -> Node:
    """The one node of a document."""
    ref = DocumentRef(name, name, "s", "", None, 0)
    return Node(node_id(ref.id, 0), Document(ref, "", "x"), f"{version:032}", 0, 1, f"text {version}", Place(0))


@pytest_asyncio.fixture
async def index(milvus_server: str, tmp_path: Path) -> AsyncIterator[Index]:
    """Of one generation, which no night has claimed since it was finished, with one document."""
    async with open_index(MilvusSettings(uri=milvus_server), f"heads_{document_id(str(tmp_path))[:8]}") as opened:
        made = await opened.create("0" * 64, 2, [], datetime.now(UTC))
        await opened.contents.upsert(made.name, [only_node("a", 0)], VECTOR)
        await opened.finish(made.name)
        yield opened
        await opened.drop(made)


async def read_as_a_night(index: Index) -> dict[str, str]:
    """Versions by URI, of all documents, by a connection that is opened for it."""
    async with open_index(index.connection.settings, index.alias) as opened:
        (generation,) = await opened.generations()
        assert 0 < generation.finished <= opened.connection.opened_at
        await opened.connection.load(generation.name)
        rows, heads = await opened.contents.read(
            generation.name, by=opened.connection.opened_at, finished=generation.finished
        )
        assert rows == len(heads)
        return {head.uri: head.version for head in heads.values()}


@pytest.mark.milvus
async def test_heads_are_as_the_last_night_left_them_however_short_ago(index: Index) -> None:
    (made,) = await index.generations()
    for version in range(1, 13):
        await index.contents.claim(made.name)
        await index.contents.upsert(made.name, [only_node("a", version)], VECTOR)
        await index.finish(made.name)
        assert await read_as_a_night(index) == {"a": f"{version:032}"}


@pytest.mark.milvus
async def test_heads_are_read_while_the_rows_are_waited_for(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    read, count, are_read = read_heads, Connection.count, threading.Event()

    def note(*arguments: Any, **how: Any) -> Any:
        found = read(*arguments, **how)
        are_read.set()
        return found

    async def wait(self: Connection, collection: str, *, by: int = 0) -> int:
        assert await asyncio.to_thread(are_read.wait, 10), "the heads wait for the rows"
        return await count(self, collection, by=by)

    monkeypatch.setattr("nightloom.contents.read_heads", note)
    monkeypatch.setattr(Connection, "count", wait)
    assert await read_as_a_night(index) == {"a": f"{0:032}"}


@pytest.mark.milvus
async def test_heads_are_read_again_where_somebody_has_written_meanwhile(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    (made,) = await index.generations()
    read, times = read_heads, 0

    def write_after(*arguments: Any, **how: Any) -> Any:
        nonlocal times
        found = read(*arguments, **how)
        times += 1
        return {key: head for key, head in found.items() if head.uri == "a"} if times == 1 else found

    monkeypatch.setattr("nightloom.contents.read_heads", write_after)
    await index.contents.claim(made.name)
    await index.contents.upsert(made.name, [only_node("b", 1)], VECTOR)
    await index._keep(made.name, {WRITER: ""})  # by no night, as it does not keep when
    assert await read_as_a_night(index) == {"a": f"{0:032}", "b": f"{1:032}"}
    assert times == 2


@pytest.mark.milvus
async def test_rows_are_written_as_many_at_once_as_may_be_in_flight(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    (made,) = await index.generations()
    together, send = threading.Barrier(contents_module.WRITES_IN_FLIGHT), Connection.upsert_now

    def meet(self: Connection, collection: str, rows: Sequence[dict[str, Any]]) -> None:
        together.wait(10)  # broken where one waits for another
        send(self, collection, rows)

    monkeypatch.setattr(Connection, "upsert_now", meet)
    await index.contents.claim(made.name)
    nodes = [only_node(f"{at}", 1) for at in range(contents_module.WRITES_IN_FLIGHT * contents_module.LEAST_ROWS)]
    await index.contents.upsert(made.name, nodes, np.repeat(VECTOR, len(nodes), axis=0))
    assert await index.connection.count(made.name) == len(nodes) + 1


@pytest.mark.milvus
async def test_no_row_is_written_any_more_once_others_of_the_same_write_were_refused(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    (made,) = await index.generations()
    refused, ended, send = threading.Event(), list[str](), Connection.upsert_now

    def refuse_first(self: Connection, collection: str, rows: Sequence[dict[str, Any]]) -> None:
        if any(row["uri"] == "0" for row in rows):
            refused.set()
            raise IndexRefused("Milvus refuses: not a number")
        assert refused.wait(10)
        time.sleep(0.5)
        send(self, collection, rows)
        ended.append(rows[0]["uri"])

    monkeypatch.setattr(Connection, "upsert_now", refuse_first)
    await index.contents.claim(made.name)
    nodes = [only_node(f"{at}", 1) for at in range(contents_module.WRITES_IN_FLIGHT * contents_module.LEAST_ROWS)]
    with pytest.raises(IndexRefused, match="not a number"):
        await index.contents.upsert(made.name, nodes, np.repeat(VECTOR, len(nodes), axis=0))
    assert len(ended) == contents_module.WRITES_IN_FLIGHT - 1


@ON_SERVER
@pytest.mark.usefixtures("prefect_api")
async def test_a_night_reads_ahead_what_the_one_before_has_finished_and_nothing_else(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    read = contents_module.Contents.read

    async def note(
        self: contents_module.Contents, collection: str, *, by: int = 0, finished: int = 0
    ) -> tuple[int, Mapping[str, Head]]:
        asked.append(finished)
        return await read(self, collection, by=by, finished=finished)

    async def with_live(*, claims: bool = False, later: int = 0) -> None:
        async with open_index(home.corpus.milvus, home.name) as index:
            live = await live_name(index)
            if claims:
                await index.contents.claim(live)
            if later:
                await index._keep(live, {FINISHED: str(index.connection.opened_at + later)})

    monkeypatch.setattr(contents_module.Contents, "read", note)
    await night(home)
    assert (await night(home))["outcome"] == "unchanged"
    assert [bool(finished) for finished in asked] == [True]
    await with_live(later=2**40)
    assert (await night(home))["outcome"] == "unchanged"
    await with_live(claims=True)
    assert (await night(home))["outcome"] == "unchanged"
    assert [bool(finished) for finished in asked] == [True, False, False]
    assert (await night(home))["outcome"] == "unchanged"
    assert asked[-1] > 0, "the claim of a night that died is over"
