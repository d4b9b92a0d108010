"""Reads of rows: all of them, batch by batch, whatever their keys are; and what a strong read sees."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from pymilvus import MilvusException

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
@pytest.mark.parametrize("connection", ["server"], indirect=True)
async def test_what_was_written_before_the_night_began_is_seen(connection: Connection, collection: str) -> None:
    """But for those of the last moment: the server's clock goes in steps of 0.05 s, longer ones on a busy machine."""
    seen = 0
    for at in range(1, 11):
        await connection.upsert(collection, rows([f"row {at}"]))
        await asyncio.sleep(0.1)
        began = time.monotonic()
        await asyncio.sleep(0.01 * at)
        seen += await connection.count(collection, since_seconds=time.monotonic() - began) == at
    assert seen >= 8, "without a guarantee hardly any is seen"


@pytest.mark.milvus
@pytest.mark.parametrize("connection", ["server"], indirect=True)
async def test_a_server_that_does_not_tell_its_time_is_read_strongly(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    strong = {"consistency_level": "Strong"}
    assert connection.strong() == strong
    assert connection.strong(0.1)["consistency_level"] == "Customized"
    handler = type(connection.client._get_connection())
    monkeypatch.setattr(handler, "alloc_timestamp", lambda *_, **__: 0)
    assert connection.strong(0.1) == strong

    def refuse(*_: object, **__: object) -> int:
        raise MilvusException(code=1, message="PrivilegeAllocTimestamp: permission deny")

    monkeypatch.setattr(handler, "alloc_timestamp", refuse)
    assert connection.strong(0.1) == strong
