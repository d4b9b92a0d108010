"""Bad input through the real command line: exit code 2, one JSON object, words that help, and nothing written."""

import json
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from tests.builders import MODEL, command, console, write_tree

UNREACHABLE_SECONDS = 120
NO_API = "http://127.0.0.1:9/api"
PAGES: dict[str, bytes | str] = {"pages/a.txt": "The moon pulls the tides.", "pages/b.txt": "A piano has 88 keys."}
QUERIES = '{"_id": "q1", "text": "Why are there tides?"}\n'


@dataclass(frozen=True)
class Case:
    """A corpus that is wrong in one place.

    Attributes:
        says: What the message must name: the file, key, line, or URI.
        advice: A word of what to do about it.
        more: TOML at the end of the corpus file.
        sources: TOML of its sources.
        files: Beside the corpus file.
        early: Found before anything of Prefect is needed.
    """

    says: tuple[str, ...]
    advice: str
    more: str = ""
    sources: str = '[[sources]]\npath = "pages"\n'
    files: dict[str, bytes | str] = field(default_factory=dict)
    model: str = MODEL
    uri: str = "index.db"
    early: bool = False

    def write(self, folder: Path) -> Path:
        write_tree(folder, PAGES | self.files)
        file = folder / "corpus.toml"
        file.write_text(
            f'name = "docs"\n{self.sources}[embedder]\nmodel = "{self.model}"\n'
            f'[milvus]\nuri = "{self.uri}"\n{self.more}',
            encoding="utf-8",
        )
        return file


def golden(qrels: str) -> dict[str, bytes | str]:
    return {"queries.jsonl": QUERIES, "qrels.tsv": f"query-id\tcorpus-id\tscore\n{qrels}"}


EVALUATION = '[evaluation]\nqueries = "queries.jsonl"\nqrels = "qrels.tsv"\n'
CASES = {
    "unknown key": Case(
        ("corpus.toml", "splitting.max_token: unknown key"),
        "did you mean 'max_tokens'?",
        more="[splitting]\nmax_token = 64\n",
        early=True,
    ),
    "wrong type": Case(
        ("corpus.toml", "splitting.max_tokens: this should be a valid integer", "found 'many'"),
        "should be",
        more='[splitting]\nmax_tokens = "many"\n',
        early=True,
    ),
    "two sources with the same document": Case(
        ("pages/a.txt", "twice"),
        "exclude one",
        sources='[[sources]]\npath = "pages"\n[[sources]]\npath = "more/pages"\n',
        files={"more/pages/a.txt": "another"},
    ),
    "no document found": Case(
        ("no document found in", "pages"),
        "check path, include and exclude",
        sources='[[sources]]\npath = "pages"\ninclude = ["*.md"]\n',
    ),
    "missing folder": Case(
        ("nowhere", "no such file or folder"), "mend its path", sources='[[sources]]\npath = "nowhere"\n'
    ),
    "too many tokens": Case(
        ("splitting.max_tokens = 512", "256", MODEL), "lower it", more="[splitting]\nmax_tokens = 512\n"
    ),
    "unknown model": Case(
        ("embedder.model", "nobody-has/this-model"), "check the name and the network", model="nobody-has/this-model"
    ),
    "pickle weights": Case(
        ("embedder.model", "not safetensors"),
        "convert them",
        model="./pickles",
        files={"pickles/config.json": "{}", "pickles/pytorch_model.bin": b"\x80\x04."},
    ),
    "judgement of an unknown document": Case(
        ("qrels.tsv", "line 2", "nowhere.txt"), "corpus-id is", more=EVALUATION, files=golden("q1\tnowhere.txt\t1\n")
    ),
    "judgement of an unknown query": Case(
        ("qrels.tsv", "line 3", "q2", "queries.jsonl"),
        "remove the line",
        more=EVALUATION,
        files=golden("q1\ta.txt\t1\nq2\ta.txt\t1\n"),
    ),
    "JSONL without ids": Case(
        ("rows.jsonl", "line 1", "no id in the field '_id'"),
        "name the right one as id_field",
        sources='[[sources]]\njsonl = "rows.jsonl"\n',
        files={"rows.jsonl": '{"id": "1", "text": "one"}\n{"id": "2", "text": \n'},
    ),
    "CSV without a column": Case(
        ("rows.csv", "no column '_id'", "'id', 'text'"),
        "mend its id_field",
        sources='[[sources]]\ncsv = "rows.csv"\n',
        files={"rows.csv": "id,text\n1,one\n"},
    ),
}


def everything(folder: Path) -> dict[str, bytes | None]:
    """Every file and folder below a folder."""
    return {str(file.relative_to(folder)): file.read_bytes() if file.is_file() else None for file in folder.rglob("*")}


def check_refused(done: subprocess.CompletedProcess[str], says: tuple[str, ...], advice: str) -> None:
    assert done.returncode == 2, done.stderr
    report = json.loads(done.stdout)
    assert done.stdout.count("\n") == 1, "one object and nothing else"
    assert report["outcome"] == "refused"
    for part in (*says, advice):
        assert part in report["reason"]
        assert part in done.stderr
    assert "Traceback" not in done.stderr
    assert report["nodes"]["embedded"] == 0


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_refused_in_words_and_writes_nothing(name: str, tmp_path: Path, prefect_server: str) -> None:
    case = CASES[name]
    file = case.write(tmp_path)
    before = everything(tmp_path)
    # Nobody listens on port 9: what is found early must not need Prefect.
    with temporary_settings({PREFECT_API_URL: NO_API if case.early else prefect_server}):
        done = command("run", file, "--json")
    check_refused(done, case.says, case.advice)
    assert everything(tmp_path) == before


def test_a_missing_file_is_refused_with_its_name(tmp_path: Path) -> None:
    done = console("run", "nowhere.toml", "--json", folder=tmp_path, environ={"PREFECT_API_URL": NO_API})
    check_refused(done, ("nowhere.toml", "no such file"), "`nightloom init` writes one")
    assert json.loads(done.stdout)["corpus"] == "nowhere"
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(params=["nobody listens", "nobody answers"])
def absent_milvus(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a Milvus that is not there: a closed port, or one that takes connections and says nothing."""
    with socket.socket() as port:
        port.bind(("127.0.0.1", 0))
        if request.param == "nobody answers":
            port.listen()
        yield f"http://127.0.0.1:{port.getsockname()[1]}"


@pytest.mark.usefixtures("prefect_api")
def test_an_absent_milvus_is_refused_soon(tmp_path: Path, absent_milvus: str) -> None:
    file = Case((), "", uri=absent_milvus).write(tmp_path)
    before = everything(tmp_path)
    started = time.monotonic()
    done = command("run", file, "--json")
    assert time.monotonic() - started < UNREACHABLE_SECONDS
    check_refused(done, ("milvus.uri", absent_milvus), "address")
    assert everything(tmp_path) == before


def test_without_json_stdout_is_empty_and_the_reason_is_on_stderr(tmp_path: Path) -> None:
    file = CASES["unknown key"].write(tmp_path)
    done = console("run", file, folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "splitting.max_token: unknown key" in done.stderr


@pytest.mark.parametrize("words", [("status",), ("ask", "Why are there tides?"), ("evaluate",)])
def test_questions_to_an_index_that_is_not_there_are_refused_and_create_none(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    file = Case((), "", more=EVALUATION, files=golden("q1\ta.txt\t1\n")).write(tmp_path)
    done = command(words[0], file, *words[1:], "--json")
    assert done.returncode == 2
    answer = json.loads(done.stdout)
    assert answer["outcome"] == "refused"
    assert "nightloom run" in answer["error"]
    assert "nightloom run" in done.stderr
    assert not list(tmp_path.rglob("*.db"))
