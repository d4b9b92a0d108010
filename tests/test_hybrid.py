"""Hybrid retrieval: by embedding and by keywords, fused; one night after the other, and what plain LlamaIndex sees."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nightloom import live
from nightloom.corpus import RetrievalSettings
from nightloom.documents import document_id
from nightloom.embedding import Embedder
from nightloom.errors import IndexInputError, NothingFound
from nightloom.fingerprint import fingerprint
from nightloom.index import open_index
from nightloom.keywords import Keywords
from nightloom.models import find_model
from nightloom.retrieval import Question
from nightloom.rows import KEYWORDS
from tests.builders import console
from tests.nights import MODEL, QUERIES, TEXTS, WITH_KEYWORDS, Home, live_name, night
from tests.test_plain_llamaindex import READER

pytestmark = pytest.mark.usefixtures("prefect_api")

HYBRID = '[retrieval]\nmode = "hybrid"\n'
TEA = {"tea.txt": "Green tea, part XK-4711-B, is steeped at eighty degrees."}


async def asked(home: Home, embedder: Embedder, texts: Sequence[str], limit: int) -> tuple[Any, Any]:
    """What one request for all questions finds, and what a request for each does: URIs and scores."""
    vectors = await embedder.embed_queries(list(texts))
    questions = [Question(text, vector) for text, vector in zip(texts, vectors, strict=True)]
    corpus = home.corpus
    async with open_index(corpus.milvus, corpus.name, retrieval=corpus.retrieval) as index:
        name = await live_name(index)
        ranked = await index.contents.rank(name, questions, limit)
        searched = [await index.contents.search(name, question, limit) for question in questions]
    return ranked, [[(hit.uri, hit.score) for hit in hits] for hits in searched]


@WITH_KEYWORDS
async def test_one_by_one_and_many_at_once_find_the_same_nodes_in_the_same_order(
    home: Home, embedder: Embedder
) -> None:
    home.configure(HYBRID)
    home.write(TEXTS | TEA)
    await night(home)
    ranked, searched = await asked(home, embedder, [*QUERIES.values(), "XK-4711-B", "of the", "?"], 4)
    for many, one in zip(ranked, searched, strict=True):
        assert [uri for uri, _ in many] == [uri for uri, _ in one]
        assert [score for _, score in many] == pytest.approx([score for _, score in one], abs=1e-6)
        assert len(many) == 4
    assert ranked[3][0][0] == "texts/tea.txt"


@WITH_KEYWORDS
async def test_words_that_are_inflected_otherwise_find_what_the_embedding_does_not(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.configure(HYBRID, evaluation=False)
    await night(home)

    async def blind(self: Embedder, queries: list[str]) -> Any:
        return np.full((len(queries), 384), 384**-0.5, dtype=np.float32)

    monkeypatch.setattr(Embedder, "embed_queries", blind)
    found = [(await live.ask(home.corpus, None, text))[0].uri for text in ("pianists pressing", "the knights castled")]
    assert found == ["texts/piano.txt", "texts/chess.txt"]


@WITH_KEYWORDS
async def test_a_night_that_copies_keeps_keywords_and_makes_those_of_what_changed(home: Home) -> None:
    home.configure(HYBRID)
    await night(home)
    before = await home.rows()
    home.write(TEXTS | TEA | {"moon.txt": "Moonlight reflects sunlight."})
    report = await night(home)
    assert report["nodes"]["copied"] == len(before) - 1
    keywords = {row["uri"]: row[KEYWORDS] for row in (await home.rows()).values() if row["position"] == 0}
    assert keywords["texts/tea.txt"] == "green tea part xk 4711 b steep eighti degre"
    assert keywords["texts/moon.txt"] == "moonlight reflect sunlight"
    assert keywords["texts/bread.txt"] == Keywords("english").of_text(TEXTS["bread.txt"])
    hits = await live.ask(home.corpus, None, "XK-4711-B")
    assert hits[0].uri == "texts/tea.txt"
    assert (await night(home))["outcome"] == "unchanged"


@WITH_KEYWORDS
async def test_in_place_the_keywords_follow_the_text(home: Home) -> None:
    home.configure(f'{HYBRID}[index]\nupdate = "in_place"')
    await night(home)
    home.write(TEXTS | {"whale.txt": TEA["tea.txt"]})
    await night(home)
    rows = (await home.rows()).values()
    assert [row[KEYWORDS] for row in rows if row["uri"] == "texts/whale.txt"] == [
        "green tea part xk 4711 b steep eighti degre"
    ]


async def test_another_mode_or_language_is_another_fingerprint_and_dense_keeps_its_own(
    home: Home, embedder: Embedder
) -> None:
    dense = fingerprint(home.corpus, embedder)
    found = set()
    for keys in ('mode = "dense"\nlanguage = "german"', 'mode = "hybrid"', 'mode = "hybrid"\nlanguage = "german"'):
        home.configure(f"[retrieval]\n{keys}")
        found.add(fingerprint(home.corpus, embedder))
    assert len(found) == 3
    assert dense in found


@pytest.mark.milvus
@pytest.mark.own_server
async def test_a_server_without_bm25_refuses_hybrid_at_once_and_says_what_to_do(
    oldest_server: str, tmp_path: Path
) -> None:
    home = Home(tmp_path, oldest_server, f"test_{document_id(str(tmp_path))[:12]}")
    home.write(TEXTS)
    home.configure(HYBRID)
    with pytest.raises(IndexInputError, match=r'retrieval.mode: "hybrid" needs Milvus 2.5 or later.* v2\.3\.5.*dense'):
        await night(home)
    async with open_index(home.corpus.milvus, home.name) as index:
        assert await index.generations() == []


@WITH_KEYWORDS
async def test_the_command_line_and_plain_llamaindex_read_a_hybrid_generation(home: Home, tmp_path: Path) -> None:
    home.configure(f'{HYBRID}top_k = 3\nfilter = {{source = "texts", uri = "texts/moon.txt"}}\n')
    await night(home)
    question = QUERIES["q1"]

    def ask(*more: str) -> list[str]:
        asked = console("ask", home.file, question, "--json", *more, folder=tmp_path)
        assert asked.returncode == 0, asked.stderr
        return [passage["uri"] for passage in json.loads(asked.stdout)["passages"]]

    assert ask() == ["texts/moon.txt"]
    assert ask("--filter", "uri=texts/piano.txt", "--filter", "uri=texts/bread.txt", "-k", "1") == ["texts/bread.txt"]
    for more, says in (
        (("sourse=x",), "no row has 'sourse'; there are item, source, uri"),
        (("source=x", "uri=texts/bread.txt"), "no passage has source = 'x'; there are texts"),
        (("section=x",), "no passage has section = 'x'"),
        (
            ("source=texts", "uri=texts/nowhere.txt"),
            "no passage has uri = 'texts/nowhere.txt'; there are texts/bread.txt, ",
        ),
    ):
        options = [part for one in more for part in ("--filter", one)]
        missed = console("ask", home.file, question, "--json", *options, folder=tmp_path)
        assert (missed.returncode, says in missed.stderr) == (1, True), missed.stderr
        assert json.loads(missed.stdout) == {"error": missed.stderr.strip(), "outcome": "failed"}
    with pytest.raises(NothingFound, match="no row has 'lang'"):
        await live.ask(
            home.corpus.model_copy(update={"retrieval": RetrievalSettings(mode="hybrid", filter={"lang": "de"})}),
            None,
            question,
        )
    refused = console("ask", home.file, question, "--filter", "a b=1", folder=tmp_path)
    assert (refused.returncode, "filter 'a b': no such metadata" in refused.stderr) == (2, True)

    arguments = [home.corpus.milvus.uri, home.name, str(find_model(MODEL)), QUERIES["q3"]]
    done = subprocess.run(  # noqa: ASYNC221  nothing else runs meanwhile
        [sys.executable, "-c", READER, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout)[0]["uri"] == "texts/moon.txt"
