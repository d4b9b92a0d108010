"""An index and a corpus file of another version of Nightloom: known for what they are, and never guessed at.

`indexes/d080baa.tar.xz` is the Milvus Lite file of a night by commit d080baa over the five documents of
`tests.nights.TEXTS`, schema 1 and no property that says so. Made in a worktree of that commit, with the packages of its
lock file, on a corpus file that named the texts, the packaged model and `uri = "index.db"`:

    nightloom run corpus.toml && tar cJf d080baa.tar.xz index.db
"""

import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from nightloom.corpus_file import load_corpus
from nightloom.errors import CorpusFileError, IndexInputError
from nightloom.index import open_index
from nightloom.live import ask, status
from nightloom.operate import list_generations, roll_back
from nightloom.rows import SCHEMA_VERSION
from tests.builders import ROOT
from tests.nights import TEXTS, Home, night

OLD = "old_20261123t175211z_5e26b084"


@pytest.fixture
def old(tmp_path: Path) -> Home:
    """A corpus whose index was made by an earlier version, and which is updated in place."""
    home = Home(tmp_path, "index.db", "old")
    home.write(TEXTS)
    home.configure('[index]\nupdate = "in_place"\n')
    with tarfile.open(ROOT / "tests" / "indexes" / "d080baa.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    return home


@pytest.mark.usefixtures("prefect_api")
async def test_an_older_index_is_known_and_replaced_by_a_new_generation(old: Home) -> None:
    found = await status(old.corpus, None)
    assert (found.generation, found.documents, found.nodes, found.matches) == (OLD, 5, 6, False)
    with pytest.raises(IndexInputError, match="was made with another model, splitter or metric"):
        await ask(old.corpus, None, "How does dough rise?")

    report = await night(old)
    assert report["outcome"] == "promoted"
    assert report["reason"] == f"an earlier version of Nightloom made {OLD}: every document was embedded again"
    assert (report["nodes"]["embedded"], report["nodes"]["copied"]) == (6, 0)
    hits = await ask(old.corpus, None, "How does dough rise?")
    assert hits[0].uri == "texts/bread.txt"
    async with open_index(old.corpus.milvus, old.name) as index:
        schemas = {generation.name: generation.schema for generation in await index.generations()}
    assert schemas == {OLD: 0, report["generation"]: SCHEMA_VERSION}

    assert (await roll_back(old.corpus, None)).after == OLD, "what readers saw before can still be had"
    states = {one.name: one.state for one in await list_generations(old.corpus, None)}
    assert states == {OLD: "live", report["generation"]: "earlier"}


@pytest.mark.parametrize(
    ("environ", "given"), [({}, {"format": 2}), ({"NIGHTLOOM_FORMAT": "0"}, {}), ({}, {"format": []})]
)
def test_a_corpus_file_of_another_format_is_refused(environ: Mapping[str, str], given: dict[str, Any]) -> None:
    sections = {"name": "docs", "sources": [{"path": "docs"}], "a_key_of_that_format": 1, **given}
    with pytest.raises(CorpusFileError, match=r"format = .*this Nightloom reads format 1; take the version"):
        load_corpus(None, sections, environ)
