"""Metadata filters: what they find on both kinds of Milvus, and what no crafted key or value reads."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from nightloom.corpus import MilvusSettings, RetrievalSettings, SourceSettings
from nightloom.documents import Document, DocumentRef, Place, Scalar, document_id, node_id
from nightloom.errors import InputError
from nightloom.filters import condition, parse_filters
from nightloom.index import Index, open_index
from nightloom.retrieval import Question
from nightloom.splitting import Node
from tests.milvus_servers import if_given

HOSTILE = {
    "quote": """it's "quoted" """,
    "backslash": "C:\\new\\table\\",
    "newline": "two\nlines\tand\rmore",
    "or": '" or position >= 0 or uri == "',
    "unicode": "größe 机器 🙂 %_",
}
VECTOR = np.full(8, 8**-0.5, dtype=np.float32)
PLAIN = {"page": "3", "year": "2020", "price": "2.50", "draft": "true", "number": "7", "code": "007", "tags": "a b"}
STORED: dict[str, dict[str, Scalar]] = {
    "plain": {"page": 3, "year": "2020", "price": 2.5, "draft": True, "number": "7", "code": 7, "tags": "a b"},
    **{name: {"field": value} for name, value in HOSTILE.items()},
}


def node(name: str, metadata: dict[str, Scalar]) -> Node:
    page = metadata.get("page")
    ref = DocumentRef(f"s/{name}", name, "s", "", None, 0)
    rest = {key: value for key, value in metadata.items() if key != "page"}
    document = Document(ref, "", name, metadata=rest)
    place = Place(0, ("Guide", "Setup"), page if isinstance(page, int) else None)
    return Node(node_id(ref.id, 0), document, "0" * 32, 0, 1, f"words of {name}", place)


KINDS = [
    "lite-dense",
    "lite-hybrid",
    pytest.param("server-dense", marks=pytest.mark.milvus),
    *if_given("server-hybrid"),
]


@pytest_asyncio.fixture(params=KINDS)
async def filled(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[Index, str]]:
    """A generation of one node a document, all equally near to every question."""
    kind, mode = request.param.split("-")
    uri = request.getfixturevalue("milvus_server") if kind == "server" else str(tmp_path / "index.db")
    settings = MilvusSettings(uri=uri)
    alias = f"filters_{document_id(str(tmp_path))[:8]}"
    async with open_index(settings, alias, retrieval=RetrievalSettings(mode=mode)) as index:
        made = await index.create("0" * 64, 8, [], datetime.now(UTC))
        nodes = [node(name, metadata) for name, metadata in STORED.items()]
        await index.contents.upsert(made.name, nodes, np.stack([VECTOR] * len(nodes)))
        await index.connection.count(made.name)
        yield index, made.name
        await index.drop(made)


async def test_a_filter_finds_what_has_its_value_and_no_crafted_one_reads_anything_else(
    filled: tuple[Index, str],
) -> None:
    index, name = filled

    async def found(filters: dict[str, Any]) -> set[str]:
        hits = await index.contents.search(name, Question("words", VECTOR), 20, condition(filters))
        return {hit.item for hit in hits}

    assert await found({}) == STORED.keys()
    for key, value in PLAIN.items():
        assert await found({key: value}) == (set() if key == "code" else {"plain"}), key
    for hostile, value in HOSTILE.items():
        assert await found({"field": value}) == {hostile}, hostile
        assert await found({"uri": value}) == set(), hostile
        assert await found({"no_such_field": value}) == set(), hostile
    assert await found({"uri": ("s/or", "s/quote")}) == {"or", "quote"}
    assert await found({"source": "s", "section": "Guide > Setup", "item": "plain"}) == {"plain"}
    assert await found({"year": 2020}) == {"plain"}
    assert await found({"page": 4}) == await found({"größe": "1"}) == await found({"in": "1", "like": "2"}) == set()


def test_tags_are_those_of_the_sources_that_have_them() -> None:
    sources = [SourceSettings(path=Path(name), tags=tags) for name, tags in (("x", ("a", "b")), ("y", ("b",)))]
    assert condition({"tags": "a"}, sources) == '($meta["tags"] == "a" or $meta["tags"] == "a b")'
    assert '"a b"' in condition({"tags": "b"}, sources)
    assert '"a b"' not in condition({"tags": "c"}, sources)


@pytest.mark.parametrize("key", ['a"] == 1 or $meta["b', "a b", "a-b", "", "text", "embedding", "document_id", "a\n"])
def test_a_key_that_is_none_is_refused(key: str) -> None:
    with pytest.raises(InputError, match="no such metadata"):
        condition({key: "x"})


@pytest.mark.parametrize("value", ["\x00", "a\x07", "\ud800", ()])
def test_a_value_that_milvus_cannot_read_is_refused_by_its_key(value: Any) -> None:
    with pytest.raises(InputError, match="filter 'lang'"):
        condition({"lang": value})


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"])))
def test_a_value_stays_between_its_quotes(value: str) -> None:
    expression = condition({"uri": value})
    inside = expression.removeprefix('(uri == "').removesuffix('")')
    assert inside.replace("\\\\", "").replace('\\"', "").find('"') == -1
    assert not inside.replace("\\\\", "").replace('\\"', "").endswith("\\")


def test_filters_of_the_command_line() -> None:
    assert parse_filters(["a=1", "b=x=y", "a=2"]) == {"a": ("1", "2"), "b": ("x=y",)}
    with pytest.raises(InputError, match="key=value"):
        parse_filters(["lang"])
