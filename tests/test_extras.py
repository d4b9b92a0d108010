"""An installation without extras is enough for an embedder behind an endpoint and a Milvus server."""

import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from nightloom.extras import MODULES
from nightloom.secrets import EMBEDDER_KEY
from tests.builders import MODEL as ON_DISK
from tests.builders import ROOT
from tests.nights import Home
from tests.openai_server import MODEL, embeds, serving

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
BROUGHT_ANYHOW = {"milvus-lite"}
"""LlamaIndex's store names it, and pip installs it; nothing of ours imports it for a server."""


def needed_by(name: str, extras: frozenset[str] = frozenset()) -> Iterator[tuple[str, frozenset[str]]]:
    """What a distribution needs here, with the extras that it wants of each."""
    written = PROJECT["dependencies"] if name == PROJECT["name"] else distribution(name).requires or ()
    for wanted in map(Requirement, written):
        marker = wanted.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras or {""}):
            yield canonicalize_name(wanted.name), frozenset(wanted.extras)


def bare_distributions() -> list[Distribution]:
    """What `pip install nightloom` brings, as far as it is imported."""
    known, waiting = set[tuple[str, frozenset[str]]](), [("nightloom", frozenset[str]())]
    while waiting:
        one = waiting.pop()
        if one not in known:
            known.add(one)
            waiting += [more for more in needed_by(*one) if more[0] not in BROUGHT_ANYHOW]
    return [distribution(name) for name in {name for name, _ in known} - {"nightloom"}]


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that has Nightloom, and nothing that only its extras need."""
    folder = tmp_path_factory.mktemp("bare")
    packages = folder / "packages"
    packages.mkdir()
    for one in bare_distributions():
        for file in one.files or ():
            top = file.parts[0]
            if top != ".." and not (packages / top).is_symlink():
                (packages / top).symlink_to(Path(str(one.locate_file(top))))
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
    site = next((folder / "venv" / "lib").glob("python3*")) / "site-packages"
    (site / "bare.pth").write_text(f"{packages}\n{ROOT}\n")
    return folder / "venv" / "bin" / "python"


def bare(python: Path, folder: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command line there."""
    environment = {**os.environ, EMBEDDER_KEY: "sk-key"}
    environment.pop("PYTHONPATH", None)
    command = [str(python), "-m", "nightloom.flows.console", *map(str, words)]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240, check=False
    )


def test_nothing_of_the_extras_is_there(bare_python: Path, tmp_path: Path) -> None:
    for module in {one for modules in MODULES.values() for one in modules}:
        done = subprocess.run(
            [str(bare_python), "-c", f"import {module}"], cwd=tmp_path, check=False, capture_output=True
        )
        assert done.returncode == 1, module


@pytest.mark.milvus
def test_a_night_and_a_question_over_an_endpoint_and_a_server_need_no_extra(
    bare_python: Path, tmp_path: Path, milvus_server: str
) -> None:
    home = Home(tmp_path, milvus_server, "bare")
    home.write({"beer.txt": "Yeast ferments sugars.", "bread.md": "# Bread\n\nFlour, water, salt."})
    home.configure(evaluation=False)
    with serving() as endpoint:
        endpoint.script = [embeds(lambda text: [0.6, 0.8] if "Yeast" in text else [1.0, 0.0])]
        ours = f'backend = "openai"\nmodel = "{MODEL}"\nbase_url = "{endpoint.base_url}"\n'
        ours += 'tokenizer = "cl100k_base"\nmax_tokens = 512\n'
        home.file.write_text(home.file.read_text().replace(f'model = "{ON_DISK}"\n', ours))
        try:
            done = bare(bare_python, tmp_path, "run", home.file)
            assert done.returncode == 0, done.stdout + done.stderr
            assert "promoted" in done.stdout
            asked = bare(bare_python, tmp_path, "ask", home.file, "Yeast", "--top-k", "1")
            assert "Yeast ferments sugars." in asked.stdout, asked.stderr
        finally:
            home.drop_collections()


def test_what_needs_an_extra_says_which(bare_python: Path, tmp_path: Path) -> None:
    home = Home(tmp_path, "index.db", "bare")
    home.write({"beer.txt": "Yeast ferments sugars."})
    home.configure(evaluation=False)
    done = bare(bare_python, tmp_path, "check", home.file)
    shown = " ".join(done.stdout.split())
    assert done.returncode == 2
    assert "pip install 'nightloom[local]'; or set embedder.backend" in shown
    assert "milvus_lite is not installed: pip install 'nightloom[lite]'" in shown
