"""The wheel by itself: installed where the repository is not, and used beside flows and tasks of somebody else."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.builders import ROOT
from tests.prefect_server import PrefectServer

PLANTS = "The office is closed on the first Monday of October, when everybody repots the plants."
SERVER = "The server room is cooled to 19 degrees; nobody may prop its door open."
COMMAND_SECONDS = 240
Typed = Callable[..., str]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel; it sees the packages of this one, and not the repository."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run([*pip, *build], check=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
    (built,) = folder.glob("*.whl")
    python = folder / "venv" / "bin" / "python"
    subprocess.run([*pip, "--python", str(python), "install", "--no-deps", "--no-index", str(built)], check=True)
    (site,) = folder.glob("venv/lib/python*/site-packages")
    (site / "others.pth").write_text(f"{sysconfig.get_path('purelib')}\n", encoding="utf-8")
    return python.parent


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """API address of a server for these tests alone, which make the pool that other tests expect to make."""
    server = PrefectServer(tmp_path_factory.mktemp("server"))
    yield server.api
    server.kill()


@pytest.fixture
def typed(wheel: Path, tmp_path: Path, own_server: str) -> Typed:
    """Runs a command of the wheel in a folder below the test's own; returns what it printed."""
    environ = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environ |= {"PATH": f"{wheel}{os.pathsep}{environ['PATH']}", "PREFECT_API_URL": own_server, "COLUMNS": "200"}

    def run(*words: str, folder: str = ".", code: int = 0) -> str:
        done = subprocess.run(
            words,
            cwd=tmp_path / folder,
            env=environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


def foreign(folder: Path) -> None:
    """Packages of the user's own, which end whoever imports them in place of ours."""
    for name in ("flows", "tasks", "corpora", "deployments"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "__init__.py").write_text("raise SystemExit('not yours')\n", encoding="utf-8")


def test_a_project_from_the_wheel_to_a_night_by_a_worker(tmp_path: Path, typed: Typed, own_server: str) -> None:
    foreign(tmp_path)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "office.md").write_text(PLANTS, encoding="utf-8")
    (tmp_path / "notes" / "server.rst").write_text(SERVER, encoding="utf-8")
    where = typed("python", "-c", "import nightloom.flows, sys; print(nightloom.__file__, sys.path)")
    assert str(tmp_path) not in where
    assert str(ROOT / "nightloom") not in where
    assert f"'{ROOT}'" not in where

    typed("nightloom", "init", "mine", "--name", "wheeled", "--documents", "notes")
    foreign(tmp_path / "mine")
    corpus = "corpora/wheeled.toml"
    assert "2 documents" in typed("nightloom", "check", corpus, folder="mine"), "every kind of file is taken"
    assert "2 added" in typed("nightloom", "run", corpus, folder="mine")
    assert "office.md" in typed("nightloom", "ask", corpus, "When are plants repotted?", "--top-k", "1", folder="mine")

    assert "Mark flow runs whose process is gone" in typed("nightloom", "bootstrap", corpus, folder="mine")
    deployed = typed("python", "-m", "prefect", "--no-prompt", "deploy", "--all", folder="mine")
    assert "Skipping" not in deployed
    found = httpx.post(f"{own_server}/deployments/filter", json={}).raise_for_status().json()
    mine = [one for one in found if one["name"] == "wheeled"]
    assert len(mine) == deployed.count("successfully created"), "nothing of ours is deployed beside"
    assert {one["parameters"]["corpus_file"] for one in mine} == {corpus}

    (tmp_path / "notes" / "office.md").unlink()
    for words in (["nightly-reindex/wheeled"], ["rollback/wheeled", "--param", "corpus_file=../demo.toml"]):
        typed("python", "-m", "prefect", "deployment", "run", *words, folder="mine")
    shutil.copy(ROOT / "corpora" / "demo.toml", tmp_path)
    typed("python", "-m", "prefect", "worker", "start", "--pool", "nightloom", "--run-once", folder="mine")
    ids = {
        "deployments": {"id": {"any_": [one["id"] for one in mine]}},
        "flow_runs": {"start_time": {"is_null_": False}},
    }
    runs = httpx.post(f"{own_server}/flow_runs/filter", json=ids).raise_for_status().json()
    night, back = sorted((run["state"] for run in runs), key=lambda state: str(state["type"]))
    assert night["type"] == "COMPLETED"
    assert "1 removed" in night["message"]
    assert back["type"] == "FAILED"
    assert "is for the corpus 'wheeled', and ../demo.toml is 'demo'" in back["message"]


def test_the_demo_from_the_wheel(tmp_path: Path, typed: Typed) -> None:
    foreign(tmp_path)
    shown = typed("nightloom", "demo")
    assert "topics of Python's language reference in nightloom-demo/corpora/demo/topics" in shown
    assert "promoted" in shown
    assert "nDCG@10" in shown
    assert re.search(r"topics/\w+\.txt", shown.partition("$ nightloom ask")[2])
    assert "nothing is overwritten" in typed("nightloom", "demo", code=2)
