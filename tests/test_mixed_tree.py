"""Documents of every kind, good and bad, through whole nights: each is in the index, or named with a reason."""

import shutil
from pathlib import Path

import pytest

from nightloom import night as night_module
from tests.mixed_tree import KINDS, write_mixed_tree
from tests.nights import Home, night
from tests.torture.model import HashEmbedder

DOCUMENTS = 4 * len(KINDS)
SOURCE = "texts"

pytestmark = pytest.mark.usefixtures("prefect_api")


@pytest.fixture(autouse=True)
def _hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(night_module, "Embedder", HashEmbedder)


def mixed(folder: Path) -> tuple[Home, dict[str, str]]:
    """A corpus of every kind, and what must come of each document by URI."""
    expected = write_mixed_tree(folder / SOURCE, DOCUMENTS)
    return configured(folder), {f"{SOURCE}/{name}": reason for name, reason in expected.items()}


def configured(folder: Path) -> Home:
    home = Home(folder, "index.db", "mixed")
    home.configure("[gate]\nprobes = 0\nmax_quarantined = 0.5\n[shards]\ndocuments = 32\n", evaluation=False)
    return home


async def test_every_document_is_indexed_or_named_with_its_reason(tmp_path: Path) -> None:
    home, expected = mixed(tmp_path / "one")
    report = await night(home)
    quarantined = {entry["uri"]: entry["reason"] for entry in report["quarantine"]}
    rows = (await home.rows()).values()
    indexed = {row["uri"] for row in rows}
    assert not indexed & quarantined.keys()
    assert indexed == {uri for uri, reason in expected.items() if not reason}
    assert quarantined.keys() == {uri for uri, reason in expected.items() if reason}
    assert {uri: reason for uri, reason in quarantined.items() if expected[uri] not in reason} == {}
    assert report["documents"]["listed"] == len(expected) == len(indexed) + len(quarantined)
    assert (await night(home))["outcome"] == "unchanged"

    shutil.copytree(tmp_path / "one" / SOURCE, tmp_path / "two" / SOURCE)
    again = configured(tmp_path / "two")
    await night(again)
    assert {row["id"]: row["version"] for row in (await again.rows()).values()} == {
        row["id"]: row["version"] for row in rows
    }


async def test_rows_say_on_which_page_and_in_which_section_they_are(tmp_path: Path) -> None:
    home, _ = mixed(tmp_path)
    await night(home)
    rows = (await home.rows()).values()
    assert {row["page"] for row in rows if row["uri"].endswith(".pdf")} == {1}
    sections = {row["section"] for row in rows if row["uri"].endswith("000001.md")}
    assert sections == {"Title 1", "Title 1 > More"}
    assert {row["title"] for row in rows if row["uri"].endswith("000003.html")} == {"Page 3"}
