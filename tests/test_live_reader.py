"""What applications read with: the same as `nightloom ask`, from the generation that is live at each query."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from llama_index.core import VectorStoreIndex
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.llms import MockLLM
from llama_index.core.vector_stores.types import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters
from pydantic import SecretStr
from pymilvus import MilvusClient

import nightloom
from nightloom import live
from nightloom.errors import CorpusFileError, IndexInputError, InputError
from nightloom.live_reader import Reader
from nightloom.operate import drop_generation
from tests.builders import MODEL
from tests.index_once import index_once
from tests.nights import QUERIES, TEXTS, Home

SOME = json.dumps([f"texts/{name}.txt" for name in ("bread", "chess", "moon", "tea")])
HYBRID = f'[retrieval]\nmode = "hybrid"\ntop_k = 3\nfilter = {{uri = {SOME}}}\n'
PART = "XK-4711-B"
TEA = {"tea.txt": f"Green tea, part {PART}, is steeped at eighty degrees."}


def found(hits: list[Any]) -> list[tuple[str, Any]]:
    """What a retriever gave, equal to what is the same but for rounding."""
    return [(hit.node.metadata["uri"], pytest.approx(hit.score, abs=1e-5)) for hit in hits]


async def asked(home: Home, question: str, top_k: int | None = None, **filters: str) -> list[tuple[str, float]]:
    """What `nightloom ask` shows."""
    return [(hit.uri, hit.score) for hit in await live.ask(home.corpus, None, question, top_k, filters)]


@pytest.fixture
def reader(home: Home) -> Iterator[Reader]:
    with nightloom.reader(home.file) as opened:
        yield opened


@pytest.mark.parametrize(
    ("home", "more"),
    [
        ("lite", HYBRID),
        ("lite", "[retrieval]\ntop_k = 3\n"),
        pytest.param("server", "[retrieval]\ntop_k = 3\n", marks=pytest.mark.milvus),
    ],
    ids=["lite-hybrid", "lite-dense", "server-dense"],
    indirect=["home"],
)
async def test_it_finds_what_ask_shows_and_follows_promotions(home: Home, more: str) -> None:
    home.configure(more, evaluation=False)
    home.write(TEXTS | TEA)
    await index_once(home.corpus)
    with nightloom.reader(home.file) as reader:
        retriever = reader.retriever()
        for question in (*QUERIES.values(), PART):
            hits = await retriever.aretrieve(question)
            assert found(hits) == await asked(home, question)
            assert len(hits) == 3
            assert found(retriever.retrieve(question)) == found(hits), "also in a running loop"
        some = reader.retriever(1, {"uri": ("texts/moon.txt", "texts/piano.txt")})
        assert found(some.retrieve(QUERIES["q1"])) == await asked(home, QUERIES["q1"], 1, uri="texts/moon.txt")

        first = reader.generation()
        MilvusClient(home.corpus.milvus.uri).release_collection(first)
        assert found(retriever.retrieve(PART)) == await asked(home, PART), "it is loaded again"
        home.write(TEXTS | {"tea.txt": "The kettle, part ZZ-1, whistles."})
        await index_once(home.corpus)
        await drop_generation(home.corpus, None, first)
        hits = await retriever.aretrieve("Which part whistles?")
        assert hits[0].node.get_content() == "The kettle, part ZZ-1, whistles."
        second = reader.generation()
        assert second != first
        home.write(TEXTS)
        await index_once(home.corpus)
        assert "texts/tea.txt" not in {uri for uri, _ in found(retriever.retrieve("Which part whistles?"))}
        assert first not in reader._connection._fields
        assert reader.generation() not in {first, second}


@pytest.mark.parametrize("home", ["lite"], indirect=True)
async def test_another_model_and_mode_are_followed_as_well_and_a_corpus_file_that_runs_ahead_is_not(
    home: Home, reader: Reader
) -> None:
    home.configure(evaluation=False)
    await index_once(home.corpus)
    retriever = reader.retriever(2)
    before = found(retriever.retrieve(QUERIES["q3"]))
    plain = home.file.read_text(encoding="utf-8")
    ahead = plain.replace(
        f'model = "{MODEL}"', f'model = "{MODEL}"\ntext_prefix = "passage: "\nquery_prefix = "question: "'
    )
    home.file.write_text(f'{ahead}[retrieval]\nmode = "hybrid"\n', encoding="utf-8")
    assert found(retriever.retrieve(QUERIES["q3"])) == before
    with nightloom.reader(home.file) as another:
        assert found(another.retriever(2).retrieve(QUERIES["q3"])) == before, "as the generation was made"
    home.file.write_text("name = ", encoding="utf-8")
    assert found(retriever.retrieve(QUERIES["q3"])) == before
    home.file.write_text(f'{ahead}[retrieval]\nmode = "hybrid"\n', encoding="utf-8")
    await index_once(home.corpus)
    assert found(retriever.retrieve(QUERIES["q3"])) == await asked(home, QUERIES["q3"], 2) != before


@pytest.mark.parametrize("home", ["lite"], indirect=True)
async def test_every_way_in_of_llamaindex(home: Home, reader: Reader) -> None:
    home.configure("[retrieval]\ntop_k = 3\n", evaluation=False)
    with pytest.raises(IndexInputError, match=r"no index named .* yet; build it with `nightloom run .*corpus.toml`"):
        reader.retriever().retrieve("?")
    assert not (home.folder / "index.db").exists()
    await index_once(home.corpus)
    question = QUERIES["q1"]
    index = reader.index()
    expected = await asked(home, question, 5)
    with ThreadPoolExecutor(4) as threads:
        many = list(threads.map(lambda text: found(reader.retriever(5).retrieve(text)), [question] * 8))
    assert many == [expected] * 8
    gathered = await asyncio.gather(*[index.as_retriever().aretrieve(question) for _ in range(8)])
    assert {len(hits) for hits in gathered} == {5}, "the corpus file said so when the reader was made"
    answer = index.as_query_engine(llm=MockLLM()).query(question)
    assert found(answer.source_nodes) == expected
    chat = index.as_chat_engine(llm=MockLLM(), chat_mode="context").chat(question)
    assert found(chat.source_nodes) == expected
    own = VectorStoreIndex.from_vector_store(reader.vector_store, embed_model=reader.embed_model)
    assert found(await own.as_retriever(similarity_top_k=5).aretrieve(question)) == expected
    assert len(await reader.embed_model.aget_text_embedding("bread")) == 384
    assert reader.embed_model.get_text_embedding("bread") == pytest.approx(
        await reader.embed_model.aget_text_embedding("bread")
    )
    wrong = VectorStoreIndex.from_vector_store(reader.vector_store, embed_model=MockEmbedding(3))
    with pytest.raises(Exception, match="dim"):
        wrong.as_retriever().retrieve(question)

    def by(*filters: Any, **more: Any) -> set[str]:
        hits = reader.retriever(5, MetadataFilters(filters=list(filters), **more)).retrieve(question)
        return {uri for uri, _ in found(hits)}

    chess, moon = (MetadataFilter(key="uri", value=f"texts/{name}.txt") for name in ("chess", "moon"))
    inside = MetadataFilter(key="source", value=["texts"], operator=FilterOperator.IN)
    assert by(chess, moon, condition=FilterCondition.OR) == {"texts/chess.txt", "texts/moon.txt"}
    assert by(inside, MetadataFilters(filters=[chess])) == {"texts/chess.txt"}
    assert by(MetadataFilter(key="source", value='x" or source == "texts')) == set()
    with pytest.raises(InputError, match=r"filter 'page': '>' is not known here"):
        by(MetadataFilter(key="page", value=3, operator=FilterOperator.GT))
    one = answer.source_nodes[0].node
    assert [hit.node_id for hit in index.as_retriever(doc_ids=[one.ref_doc_id]).retrieve("?")] == [one.node_id]
    with pytest.raises(InputError, match="mode 'mmr'"):
        index.as_retriever(vector_store_query_mode="mmr").retrieve(question)
    with pytest.raises(InputError, match="a reader only reads"):
        index.insert_nodes([one])
    with pytest.raises(InputError, match="a reader only reads"):
        index.delete_ref_doc(one.ref_doc_id)


@pytest.mark.parametrize("home", ["lite"], indirect=True)
async def test_a_lite_file_is_free_once_the_reader_is_closed(home: Home) -> None:
    await index_once(home.corpus)
    words = [sys.executable, "-c", f"import nightloom; print(nightloom.reader({str(home.file)!r}).generation())"]
    with nightloom.reader(str(home.file)) as reader:
        name = reader.generation()
        refused = await asyncio.to_thread(subprocess.run, words, capture_output=True, text=True, check=False)
        assert "the file is open in another process, and Milvus Lite is for one at a time" in refused.stderr
    with pytest.raises(InputError, match="is closed"):
        reader.generation()
    reader.close()
    allowed = await asyncio.to_thread(subprocess.run, words, capture_output=True, text=True, check=False)
    assert allowed.stdout == f"{name}\n", allowed.stderr


def test_a_name_is_looked_for_in_corpora_and_a_token_comes_as_text_or_as_a_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CorpusFileError, match=r"company: there is no file corpora/company.toml .* there are: none"):
        nightloom.reader("company")
    home = Home(tmp_path / "corpora", "http://127.0.0.1:9", "company")
    home.write(TEXTS)
    home.configure()
    home.file.rename(tmp_path / "corpora" / "company.toml")
    with pytest.raises(CorpusFileError, match=r"other: .* there are: company"):
        nightloom.reader("other")
    with pytest.raises(CorpusFileError, match=r"other.toml: there is no file other.toml"):
        nightloom.reader("other.toml")
    text = (tmp_path / "corpora" / "company.toml").read_text(encoding="utf-8")
    with_block = text.replace("[milvus]", '[milvus]\ntoken_block = "milvus"')
    (tmp_path / "corpora" / "company.toml").write_text(with_block, encoding="utf-8")
    with pytest.raises(CorpusFileError, match=r'NIGHTLOOM_MILVUS_TOKEN, .* token=Secret.load\("milvus"\)'):
        nightloom.reader("company")

    class Block:
        def get(self) -> str:
            return "a:b"

    for given in ("a:b", SecretStr("a:b"), Block()):
        reader = nightloom.reader("corpora/company.toml", token=given)
        assert reader._connection._token == "a:b"
        assert "a:b" not in repr(reader)
    monkeypatch.setenv("NIGHTLOOM_MILVUS_TOKEN", "c:d")
    assert nightloom.reader("company")._connection._token == "c:d"


def test_the_package_is_cheap_to_import_and_a_reader_needs_no_prefect() -> None:
    script = """
import json, sys
import nightloom
before = sorted(sys.modules)
import nightloom.live_reader
print(json.dumps([before, "prefect" in sys.modules]))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    before, prefect = json.loads(done.stdout)
    assert [name for name in before if name.startswith("nightloom")] == ["nightloom"]
    assert not prefect
