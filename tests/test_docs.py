"""The pages: what they tell to type works, what they link to is there, what is made from the code is as it is."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flows.reference import PAGES
from tests.builders import ROOT

QUICKSTART = ROOT / "docs" / "quickstart.md"
ELSEWHERE = {
    "make demo": "CI's second job",
    "make test": "CI",
    "make install": "whoever runs this",
    "source .venv/bin/activate": "whoever runs this",
    "cp corpora/template.toml corpora/docs.toml": "test_corpus_file.py reads the template",
    "nightloom check corpora/docs.toml": "the quickstart, with another name",
    "nightloom run corpora/docs.toml": "the quickstart, with another name",
    'nightloom ask corpora/docs.toml "your question"': "the quickstart, with another name",
    "prefect server start": "tests/prefect_stack.py",
    "export PREFECT_API_URL=http://127.0.0.1:4200/api": "tests/prefect_stack.py",
    "nightloom bootstrap corpora/demo.toml": "test_bootstrap.py",
    "prefect --no-prompt deploy --all": "tests/prefect_stack.py",
    "prefect worker start --pool nightloom": "tests/prefect_stack.py",
    "prefect deployment run nightly-reindex/demo --watch": "test_prefect.py",
}
"""Commands of the README, each with what runs it."""


WRITTEN = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
BETWEEN = "--- next block ---"


def blocks(page: Path) -> list[str]:
    """What a page tells to type."""
    return re.findall(r"^```console\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def test_every_command_of_the_readme_is_run_by_something() -> None:
    lines = [re.sub(r"\s+#.*", "", line) for block in blocks(ROOT / "README.md") for line in block.splitlines()]
    assert lines
    assert set(lines) == ELSEWHERE.keys()


def test_the_quickstart_does_what_it_says(tmp_path: Path, prefect_server: str) -> None:
    for folder in ("docs", "corpora"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    install, *typed = blocks(QUICKSTART)
    assert install == "make install\nsource .venv/bin/activate\n"
    script = tmp_path / "typed.sh"
    script.write_text("set -e\n" + f"echo {BETWEEN}\n".join(typed), encoding="utf-8")
    paths = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environ = {**os.environ, "PATH": paths, "PREFECT_API_URL": prefect_server, "COLUMNS": "200"}
    done = subprocess.run(
        ["bash", str(script)], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=800, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    *_, first, second, back = done.stdout.split(BETWEEN)
    assert re.search(r"handbook/[\w-]+\.md", first)
    assert "handbook/office.md" in second
    assert "1 added" in second
    assert "handbook/office.md" not in back, "it was taken back"


@pytest.mark.parametrize("name", PAGES)
def test_pages_that_are_made_from_the_code_are_as_it_is(name: str) -> None:
    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == PAGES[name](), "make reference"


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.name)
def test_links_lead_to_what_is_there(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:|#|data:|javascript:)([^)#\s]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target
