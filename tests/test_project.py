"""`nightloom init`: what it writes, what it asks, and that it overwrites nothing."""

import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from nightloom.corpus_file import load_corpus
from nightloom.flows.console import app
from nightloom.project import corpus_name_for
from tests.builders import MODEL, ROOT, command

FLOWS = {"nightly_reindex", "query_evaluation", "verify", "rollback", "promote", "prune"}


def deployments(project: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yaml.safe_load((project / "prefect.yaml").read_text(encoding="utf-8"))["deployments"]
    return found


def everything(folder: Path) -> dict[str, str]:
    return {str(file): file.read_text(encoding="utf-8") for file in folder.rglob("*") if file.is_file()}


def test_without_a_terminal_it_takes_the_defaults(tmp_path: Path) -> None:
    project = tmp_path / "2-my.docs"
    done = command("init", project)
    assert done.returncode == 0, done.stderr
    corpus = load_corpus(project / "corpora" / "_2_my_docs.toml", environ={})
    assert (corpus.name, corpus.embedder.model) == ("_2_my_docs", MODEL)
    assert corpus.milvus.uri == str(project / "data" / "_2_my_docs.db")
    assert corpus.reports == project / "reports"
    (source,) = corpus.sources
    assert (source.path, source.include) == (project / "documents" / "_2_my_docs", ("**/*",))
    assert (project / "documents" / "_2_my_docs").is_dir()
    assert (project / ".gitignore").read_text(encoding="utf-8").splitlines()[1:] == ["data/", "reports/"]
    assert len((project / "README.md").read_text(encoding="utf-8").splitlines()) <= 11
    assert not (project / "automations" / "after-promotion.yaml").exists(), "it is the demo's"


@pytest.mark.parametrize("folder", ["/", "..", "x"])
def test_any_folder_gives_a_name(folder: str) -> None:
    assert corpus_name_for(Path(folder)).isidentifier()


def test_every_flow_has_a_deployment_for_that_corpus_alone(tmp_path: Path) -> None:
    assert command("init", tmp_path, "--name", "on").returncode == 0, "what YAML takes for true"
    added = command("init", tmp_path, "--add", "wiki", "--milvus", "http://127.0.0.1:19530", "--model", "some/model")
    assert added.returncode == 0, added.stderr
    for name in ("on", "wiki"):
        mine = [entry for entry in deployments(tmp_path) if entry["name"] == name]
        assert {entry["entrypoint"].rpartition(".")[2] for entry in mine} == FLOWS
        assert {entry["parameters"]["corpus_file"] for entry in mine} == {f"corpora/{name}.toml"}
        active = [entry["entrypoint"] for entry in mine for plan in entry.get("schedules", ()) if plan["active"]]
        assert active == ["nightloom.flows.nightly_reindex.nightly_reindex"], "there are no golden queries yet"
    wiki = load_corpus(tmp_path / "corpora" / "wiki.toml", environ={})
    assert (wiki.milvus.uri, wiki.embedder.model) == ("http://127.0.0.1:19530", "some/model")
    names = {
        entry["entrypoint"].rpartition(".")[2]
        for entry in yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    }
    assert names == FLOWS


def test_the_clone_takes_another_corpus_too(tmp_path: Path) -> None:
    """What its own blocks define for themselves alone, a copied block would define a second time."""
    text = (ROOT / "prefect.yaml").read_text(encoding="utf-8")
    assert not re.search(r": &", text.partition("\ndeployments:")[2])
    (tmp_path / "prefect.yaml").write_text(text, encoding="utf-8")
    assert command("init", tmp_path, "--add", "docs").returncode == 0
    assert len([entry for entry in deployments(tmp_path) if entry["name"] == "docs"]) == len(FLOWS)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "is there already, and nothing is overwritten"),
        (("--add", "mine"), "has deployments named mine already"),
        (("--add", "a-b"), "letters, digits and underscores"),
        (("--add", "b", "--documents", "nowhere"), "there is no such folder or file"),
        (("--add", "b", "--documents", "{project}"), "would lie among its own documents"),
        (("--add", "b", "--milvus", "http://user:secret@host"), "milvus.uri"),
        (("--add", "b", "--name", "c"), "leave --name out"),
    ],
)
def test_what_it_refuses_leaves_everything_as_it_was(tmp_path: Path, words: tuple[str, ...], says: str) -> None:
    command("init", tmp_path, "--name", "mine")
    before = everything(tmp_path)
    done = command("init", tmp_path, *(word.format(project=tmp_path) for word in words))
    assert (done.returncode, says in " ".join(done.stderr.split())) == (2, True), done.stderr
    assert everything(tmp_path) == before


def test_a_list_that_cannot_be_added_to_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "prefect.yaml"
    for text in ("deployments: []\nname: x\n", "deployments:\n  - name: y\n", "- ["):
        file.write_text(text, encoding="utf-8")
        done = command("init", tmp_path, "--add", "b")
        assert "takes no deployments at its end" in done.stderr
        assert everything(tmp_path) == {str(file): text}
    file.unlink()
    assert "there is no such file" in command("init", tmp_path, "--add", "b").stderr


def test_on_a_terminal_it_asks(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    os.write(ours, b"wiki\n\n\n\n")
    with subprocess.Popen(
        [sys.executable, "-m", "nightloom.flows.console", "init", "p"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as asked:
        shown, _ = asked.communicate(timeout=60)
    os.close(ours)
    os.close(theirs)
    assert "Name of the index [p]" in shown
    assert load_corpus(tmp_path / "p" / "corpora" / "wiki.toml", environ={}).embedder.model == MODEL


def test_the_version_is_said() -> None:
    assert command("--version").stdout.startswith("nightloom 0.")
    assert app.info.name == "nightloom"
