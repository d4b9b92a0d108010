"""Reads of rows: all of them, batch by batch, whatever their keys are; and what a strong read sees."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from pymilvus import MilvusException
from pymilvus.client.grpc_handler import GrpcHandler

from nightloom import milvus
from nightloom.corpus import MilvusSettings
from nightloom.documents import document_id
from nightloom.milvus import Connection, open_connection

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


@pytest_asyncio.fixture(params=["lite", pytest.param("server", marks=pytest.mark.milvus)])
async def connection(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Connection]:
    uri = request.getfixturevalue("milvus_server") if request.param == "server" else str(tmp_path / "index.db")
    async with open_connection(MilvusSettings(uri=uri), None) as opened:
        yield opened


@pytest_asyncio.fixture
async def collection(connection: Connection, tmp_path: Path) -> AsyncIterator[str]:
    name = f"reads_{document_id(str(tmp_path))[:12]}"
    await connection.create(name, dim=2, properties={"x": "y"})
    yield name
    await connection.call(lambda: connection.client.drop_collection(name))


async def test_every_row_is_read_once_whatever_its_key_is(connection: Connection, collection: str) -> None:
    await connection.upsert(collection, rows(FOREIGN))
    assert await connection.count(collection) == len(FOREIGN)
    batches = list(connection.scan(collection, "position >= 0", ("position", "label", "nobody_has_it"), 2))
    assert max(map(len, batches)) == 2
    found = [row for batch in batches for row in batch]
    assert sorted(row["id"] for row in found) == sorted(FOREIGN)
    assert all(
        row == {"id": row["id"], "position": at, "label": f"row {at}"} for row in found for at in (row["position"],)
    )
    (first, *_) = next(iter(connection.scan(collection, "position == 3", ("*",))))
    assert (first["label"], first["total"], first["embedding"].tolist()) == ("row 3", 4, pytest.approx([0.6, 0.8]))


@pytest.mark.milvus
async def test_what_was_written_before_a_connection_was_opened_is_seen(milvus_server: str, tmp_path: Path) -> None:
    """Every write, also that of the last moment, which another process sent."""
    settings = MilvusSettings(uri=milvus_server)
    name = f"reads_{document_id(str(tmp_path))[:12]}"
    async with open_connection(settings, None) as writer:
        await writer.create(name, dim=2, properties={"x": "y"})
        try:
            for at in range(1, 13):
                await writer.upsert(name, rows([f"row {at}"]))
                async with open_connection(settings, None) as opened:
                    assert opened.strong(as_opened=True)["consistency_level"] == "Customized"
                    assert await opened.count(name, as_opened=True) == at
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
            assert opened.strong(as_opened=True) == opened.strong() == strong
