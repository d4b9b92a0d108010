"""The folder for downloads: nobody else's while its process lives, and gone after that, however that ended."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nightloom.working_folder import FRESH_SECONDS, PREFIX, working_folder
from tests.builders import ROOT

HOLDS_ONE = """
import sys
from nightloom.working_folder import working_folder
with working_folder() as folder:
    (folder / "download").write_text("of tonight")
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files, of this test alone."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def other(temporary: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process, which holds a folder until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS_ONE],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(temporary)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        yield process
        process.kill()


def folder_of(process: subprocess.Popen[str]) -> Path:
    assert process.stdout is not None
    return Path(process.stdout.readline().strip())


def age(folder: Path) -> None:
    long_ago = time.time() - 2 * FRESH_SECONDS
    os.utime(folder, (long_ago, long_ago))


def pass_by() -> None:
    """What every other night does when it begins."""
    with working_folder():
        pass


def test_it_is_one_s_own_and_gone_at_the_end(temporary: Path) -> None:
    with working_folder() as one, working_folder() as another:
        assert {one, another} == set(temporary.iterdir())
        assert one.stat().st_mode & 0o077 == 0
        (one / "download").write_text("of tonight")
    assert not list(temporary.iterdir())


def test_one_whose_process_was_killed_goes_with_the_next_and_not_before(other: subprocess.Popen[str]) -> None:
    folder = folder_of(other)
    age(folder)
    pass_by()
    assert (folder / "download").read_text() == "of tonight", "its process lives"

    other.kill()
    other.wait()
    os.utime(folder)
    pass_by()
    assert folder.exists(), "so new a folder may not be held yet"

    age(folder)
    pass_by()
    assert not folder.exists()


def test_what_a_link_names_is_let_alone(temporary: Path) -> None:
    own = temporary / "own"
    own.mkdir()
    (own / "thesis.txt").write_text("three years")
    age(own)
    (temporary / f"{PREFIX}link").symlink_to(own)
    (temporary / f"{PREFIX}file").write_text("no folder")
    pass_by()
    assert (own / "thesis.txt").read_text() == "three years"
    assert (temporary / f"{PREFIX}file").exists()
