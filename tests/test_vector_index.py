"""The index over the vectors: its type by the number of rows, built before readers see them, and what it finds."""

import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from pymilvus import MilvusClient

from nightloom import contents as contents_module
from nightloom import live, vector_index
from nightloom.capabilities import LITE, OLDEST
from nightloom.corpus import IndexSettings, MilvusSettings
from nightloom.documents import Document, DocumentRef, Place, document_id, node_id
from nightloom.index import Index, open_index
from nightloom.retrieval import Question
from nightloom.splitting import Node
from nightloom.vector_index import ExactAnswers, VectorIndex, fitting, search_parameters
from tests.nights import QUERIES, Home, live_name, night

ROWS = 3000
"""Milvus builds no index over a segment of less than 1,024."""
DIM = 16
AUTO = IndexSettings()
FLUSHED = 4
"""State of a segment, as Milvus numbers them."""


@pytest.mark.parametrize(
    ("settings", "rows", "kind"),
    [
        (AUTO, 0, "FLAT"),
        (AUTO, 49_999, "FLAT"),
        (AUTO, 50_000, "HNSW"),
        (AUTO, 4_999_999, "HNSW"),
        (AUTO, 5_000_000, "IVF_SQ8"),
        (IndexSettings(type="DISKANN"), 10, "DISKANN"),
    ],
)
def test_the_type_is_that_of_the_file_or_goes_by_the_rows(settings: IndexSettings, rows: int, kind: str) -> None:
    assert fitting(settings, rows, OLDEST).kind == kind
    assert fitting(settings, rows, LITE).kind == ("FLAT" if settings.type == "auto" else kind)


def test_parameters_of_the_file_come_over_the_defaults() -> None:
    found = fitting(IndexSettings(type="HNSW", build={"M": 8}), 10, OLDEST)
    assert found == VectorIndex("HNSW", {"M": 8, "efConstruction": 200})
    assert search_parameters("HNSW", {}, 10) == {"ef": 128}
    assert search_parameters("HNSW", {"ef": 20}, 10) == {"ef": 20}
    assert search_parameters("HNSW", {"ef": 20}, 400) == {"ef": 400}, "Milvus refuses a smaller one"
    assert search_parameters("DISKANN", {}, 400) == {"search_list": 400}
    assert search_parameters("IVF_SQ8", {}, 400) == {"nprobe": 64}
    assert search_parameters("FLAT", {}, 400) == {}


@pytest.mark.parametrize("metric", ["COSINE", "IP", "L2"])
def test_recall_is_the_share_of_rows_that_are_as_near_as_the_nearest(metric: str) -> None:
    draw = np.random.default_rng(1)
    vectors = draw.normal(size=(50, 4)).astype(np.float32)
    vectors[7] = vectors[3]  # rows that are equally near
    question = vectors[3:4] + np.float32(0.001)
    distances = vector_index.scores(metric, vectors, question)[0]
    nearest = [str(at) for at in np.argsort(-distances, kind="stable")[:4]]
    far = [str(at) for at in np.argsort(distances)[:2]]

    def recall(found: list[str]) -> float:
        exact = ExactAnswers(metric, question, [found])
        for start in range(0, 50, 20):
            exact.see([str(at) for at in range(start, min(50, start + 20))], vectors[start : start + 20])
        return exact.recall()

    assert recall(nearest) == 1
    assert recall([*nearest[:2], *far]) == 0.5
    assert recall([]) == 1
    assert recall(["3"]) == recall(["7"]), "a tie is no loss"


def node(at: int) -> Node:
    ref = DocumentRef(f"s/{at}", str(at), "s", "", None, 0)
    return Node(node_id(ref.id, 0), Document(ref, "", "x"), "0" * 32, 0, 1, f"text {at}", Place(0))


@pytest_asyncio.fixture
async def filled(milvus_server: str, tmp_path: Path) -> AsyncIterator[tuple[Index, str, list[Question]]]:
    """A generation of random vectors on a server, and a few questions near some of them."""
    alias = f"vectors_{document_id(str(tmp_path))[:8]}"
    async with open_index(MilvusSettings(uri=milvus_server), alias) as index:
        made = await index.create("0" * 64, DIM, [], datetime.now(UTC))
        vectors = np.random.default_rng(2).normal(size=(ROWS, DIM)).astype(np.float32)
        await index.contents.upsert(made.name, [node(at) for at in range(ROWS)], vectors)
        yield index, made.name, [Question(str(at), vectors[at]) for at in range(0, ROWS, 150)]
        await index.drop(made)


@pytest.mark.milvus
async def test_a_graph_is_built_over_many_rows_and_finds_what_a_full_scan_does(
    filled: tuple[Index, str, list[Question]], monkeypatch: pytest.MonkeyPatch
) -> None:
    index, name, questions = filled
    contents, connection = index.contents, index.connection
    monkeypatch.setattr(vector_index, "FLAT_ROWS", ROWS)
    assert "3000 rows should have HNSW" in (await contents.seal(name, AUTO, may_rebuild=False)).warning
    assert await connection.index_kind(name) == "FLAT"
    assert await contents.measure_index_recall(name, questions) == 1
    assert await contents.seal(name, AUTO, may_rebuild=True) == (3000, "")
    assert await connection.index_kind(name) == "HNSW"
    ranked = await contents.rank(name, questions, 300)
    assert [ranking[0][0] for ranking in ranked] == [f"s/{question.text}" for question in questions]
    assert {len(ranking) for ranking in ranked} == {300}
    (first, *_) = await contents.search(name, questions[1], 5)
    assert first.uri == f"s/{questions[1].text}"
    assert await contents.measure_index_recall(name, questions) > 0.95
    assert await connection.count(name) == ROWS


@pytest.mark.milvus
async def test_a_server_seals_many_rows_while_the_night_goes_on_and_answers_meanwhile(
    filled: tuple[Index, str, list[Question]], monkeypatch: pytest.MonkeyPatch
) -> None:
    index, name, questions = filled
    contents, client = index.contents, index.connection.client
    waited: list[bool] = []
    flush = MilvusClient.flush

    def counted(self: MilvusClient, collection: str, *, _async: bool, **options: Any) -> None:
        waited.append(not _async)
        flush(self, collection, _async=_async, **options)

    def sealed() -> int:
        segments = client.list_persistent_segments(name)
        return sum(segment.num_rows for segment in segments if segment.state == FLUSHED)

    monkeypatch.setattr(MilvusClient, "flush", counted)
    monkeypatch.setattr(contents_module, "SEALED_ROWS", ROWS + 1)
    assert await contents.seal(name, AUTO, may_rebuild=True) == (ROWS, "")
    assert waited == []
    monkeypatch.setattr(contents_module, "SEALED_ROWS", ROWS)
    assert await contents.seal(name, AUTO, may_rebuild=True) == (ROWS, "")
    assert waited == [False]
    deadline = time.monotonic() + 60
    while sealed() < ROWS:
        assert time.monotonic() < deadline, "it is never sealed"
        assert await index.connection.count(name) == ROWS
        assert await contents.measure_index_recall(name, questions) == 1
    assert await index.connection.count(name) == ROWS
    monkeypatch.setattr(vector_index, "FLAT_ROWS", ROWS)
    await contents.seal(name, AUTO, may_rebuild=True)
    assert waited == [False, True], "only what is sealed is indexed"


@pytest.mark.milvus
async def test_an_index_that_misses_rows_is_measured_as_such(filled: tuple[Index, str, list[Question]]) -> None:
    index, name, questions = filled
    narrow = IndexSettings(type="IVF_SQ8", build={"nlist": 128}, search={"nprobe": 1})
    await index.contents.seal(name, narrow, may_rebuild=True)
    assert await index.contents.measure_index_recall(name, questions) > 0.95, "many lists are read"
    index.connection.search_given = narrow.search
    assert 0.05 < await index.contents.measure_index_recall(name, questions) < 0.9


@pytest.mark.milvus
@pytest.mark.usefixtures("prefect_api")
@pytest.mark.parametrize("home", ["server"], indirect=True)
async def test_a_night_builds_the_index_that_the_file_names(home: Home) -> None:
    home.configure('[index]\ntype = "HNSW"\nbuild = {M = 8}\nsearch = {ef = 16}\n')
    report = await night(home)
    assert report["warnings"] == []
    assert report["vectors"]["index_recall"] == 1
    async with open_index(home.corpus.milvus, home.name) as index:
        assert await index.connection.index_kind(await live_name(index)) == "HNSW"
    assert (await live.ask(home.corpus, None, QUERIES["q3"]))[0].uri == "texts/moon.txt"
    home.configure('[index]\nupdate = "in_place"\n')
    moon = "The moon moves the sea twice a day, on either side of the earth, and the sun adds to it or takes from it."
    home.write({"moon.txt": moon, "chess.txt": "Chess is a game."})
    report = await night(home)
    assert "the vectors is HNSW, and 2 rows should have FLAT" in str(report["warnings"])
    assert (report["probes"]["found"], report["vectors"]["index_recall"]) == (1, None), "not every vector is read"
