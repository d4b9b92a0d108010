"""`nightloom check` over sources of every kind: what is there, what is not, and what only a night can tell."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.check import _queries, _sources
from nightloom.corpus import Corpus, load_corpus
from nightloom.errors import EvaluationInputError, NightloomError
from tests.builders import write_tree
from tests.website import Website, answer, serving


@pytest.fixture
def website() -> Iterator[Website]:
    with serving() as site:
        yield site


def corpus_of(folder: Path, sources: list[dict[str, Any]], judged: str = "a.txt") -> Corpus:
    files: dict[str, bytes | str] = {
        "pages/a.txt": "a",
        "rows.csv": "_id,text\n1,one\n2,two\n",
        "queries.jsonl": '{"_id": "q1", "text": "what?"}\n',
        "qrels.tsv": f"query-id\tcorpus-id\tscore\nq1\t{judged}\t1\n",
        "corpus.toml": "",
    }
    write_tree(folder, files)
    evaluation = {"queries": "queries.jsonl", "qrels": "qrels.tsv"}
    given = {"name": "docs", "sources": sources, "evaluation": evaluation}
    return load_corpus(folder / "corpus.toml", given, {})


async def test_every_source_says_what_it_has(website: Website, tmp_path: Path) -> None:
    page = website.url("/page", answer())
    body = f"<urlset><url><loc>{page}</loc></url></urlset>".encode()
    sitemap = website.url("/sitemap.xml", answer(body=body))
    sources = [{"path": "pages"}, {"csv": "rows.csv"}, {"url": page}, {"sitemap": sitemap, "name": "site"}]
    says = await _sources(corpus_of(tmp_path, sources))
    assert says == "3 documents on disk, 1 URLs answer, 1 pages in site"


@pytest.mark.parametrize("status", [404, 403, 500])
async def test_a_url_that_does_not_answer_well_is_an_error(website: Website, tmp_path: Path, status: int) -> None:
    url = website.url("/page", answer(status))
    with pytest.raises(NightloomError, match=f"{url}: HTTP {status}"):
        await _sources(corpus_of(tmp_path, [{"url": url}]))


async def test_judgements_of_documents_that_only_a_night_knows_are_no_error(tmp_path: Path) -> None:
    known, unknown = {"path": "pages"}, {"sitemap": "http://127.0.0.1:9/sitemap.xml", "name": "site"}
    with pytest.raises(EvaluationInputError, match="elsewhere"):
        await _queries(corpus_of(tmp_path, [known], judged="elsewhere"))
    says = await _queries(corpus_of(tmp_path, [known, unknown], judged="elsewhere"))
    assert says.endswith("only a night can tell whether they name documents of site")
    assert "only a night" not in await _queries(corpus_of(tmp_path, [known]))
