"""The pages: what they tell to type works, what they link to is there, what is made from the code is as it is."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from deployments.local_prefect import wait_until
from nightloom.flows.reference import PAGES
from tests.builders import ROOT, command
from tests.prefect_stack import small_corpus

README = ROOT / "README.md"
QUICKSTART = ROOT / "docs" / "quickstart.md"
WRITTEN = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
BETWEEN = "--- next block ---"
END_SECONDS = 30
START_SECONDS = 120
COMMAND_SECONDS = 400
OF_ITS_OWN = "# in a terminal of its own"
SOME_PAGES = ("quickstart.md", "events.md")
"""A corpus that is indexed in seconds."""


def blocks(page: Path, kind: str = "console") -> list[str]:
    """What a page tells to type, or its blocks of another kind."""
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"^```{kind}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def environment(**more: str) -> dict[str, str]:
    """Of somebody who has activated .venv, in a wide terminal."""
    paths = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": paths, "COLUMNS": "200", **more}


def typed(script: str, folder: Path, environ: dict[str, str]) -> str:
    """Type commands one after the other, until one fails; return what they printed."""
    words = ["bash", "-ec", script]
    done = subprocess.run(
        words, cwd=folder, env=environ, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def a_clone(folder: Path) -> Path:
    """As much of the repository as a corpus of one's own needs."""
    for name in ("docs", "corpora"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("images", "topics"))
    return folder


def test_the_readme_is_four_blocks_of_which_each_has_a_test() -> None:
    trying, installing, own, nightly = blocks(README)
    assert trying == "make demo\nmake test\n", "CI runs both"
    assert installing == "make install\nsource .venv/bin/activate\n", "whoever runs this has"
    assert own
    assert nightly


def test_a_folder_of_ones_own_as_the_readme_says(tmp_path: Path, prefect_server: str) -> None:
    _, _, own, _ = blocks(README)
    environ = environment(PREFECT_API_URL=prefect_server)
    (tmp_path / "clone" / "docs").mkdir(parents=True)
    for name in SOME_PAGES:
        shutil.copy(ROOT / "docs" / name, tmp_path / "clone" / "docs")
    assert re.search(r"docs/[\w-]+\.md", typed(own, tmp_path / "clone", environ))


def test_every_night_as_the_readme_says(tmp_path: Path) -> None:
    """In a project, with another port than 4200, which may be taken, and six topics for documents."""
    project = tmp_path / "my-docs"
    assert command("init", project, "--name", "docs").returncode == 0
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    own = {
        "PREFECT_SERVER_API_PORT": port,
        "PREFECT_HOME": str(tmp_path / "home"),
        "PREFECT_PROFILES_PATH": str(tmp_path / "profiles.toml"),
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{tmp_path}/prefect.db",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
    }
    environ, log, before, printed = environment(**own, **small_corpus(tmp_path / "corpus")), tmp_path / "log", "", ""
    with ExitStack() as terminals:
        for line in blocks(README)[-1].splitlines():
            words = line.replace(":4200/", f":{port}/")
            if words.startswith("export"):
                before = f"{words}\n"
            elif OF_ITS_OWN in words:
                terminals.enter_context(a_terminal(before + words, project, environ, log))
            else:
                printed += typed(before + words, project, environ)
            if words.startswith("prefect server start"):
                api = f"http://127.0.0.1:{port}/api/health"
                wait_until(lambda: httpx.get(api).is_success or None, api, START_SECONDS, log.read_text)  # noqa: B023
    assert re.search(r"^created +work pool nightloom", printed, re.MULTILINE)
    assert "finished successfully" in printed


@contextmanager
def a_terminal(script: str, folder: Path, environ: dict[str, str], log: Path) -> Iterator[None]:
    """Something that runs until it is ended."""
    with log.open("ab") as output:
        words = ["bash", "-c", script]
        running = subprocess.Popen(words, cwd=folder, env=environ, stdout=output, stderr=output, start_new_session=True)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGTERM)
            try:
                running.wait(END_SECONDS)
            except subprocess.TimeoutExpired:  # of a busy machine, a worker may not come to it
                os.killpg(running.pid, signal.SIGKILL)
                running.wait()


def test_the_quickstart_does_what_it_says(tmp_path: Path, prefect_server: str) -> None:
    install, *others = blocks(QUICKSTART)
    assert install == "make install\nsource .venv/bin/activate\n"
    script = f"echo {BETWEEN}\n".join(others)
    *_, first, second, back = typed(
        script, a_clone(tmp_path / "clone"), environment(PREFECT_API_URL=prefect_server)
    ).split(BETWEEN)
    assert re.search(r"handbook/[\w-]+\.md", first)
    best = "\n1  handbook/office.md  "  # the page itself, which tells of it, is among the documents
    assert best in second
    assert "1 added" in second
    assert best not in back, "it was taken back"


@pytest.mark.parametrize("name", PAGES)
def test_pages_that_are_made_from_the_code_are_as_it_is(name: str) -> None:
    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == PAGES[name](), "make reference"


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.name)
def test_links_lead_to_what_is_there(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:|#|data:|javascript:)([^)#\s]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target
