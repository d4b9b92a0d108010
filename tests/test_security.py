"""What docs/security.md promises and no other test shows; and that the tests it names are there."""

import json
import os
import re
import shutil
import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from nightloom.corpus import EmbedderSettings
from nightloom.embedding import Embedder
from nightloom.errors import IndexRefused
from nightloom.models import find_model
from nightloom.report import RunReport
from nightloom.report_files import save_report
from nightloom.rows import among, beyond, checked_node_id
from tests.builders import MODEL, ROOT

CRAFTED = ('" or position >= 0 or "', "0' or 1 == 1", "a" * 31, "A" * 32, f"{'a' * 32}\n", "")


@pytest.mark.parametrize("crafted", CRAFTED)
def test_nothing_but_an_id_of_ours_goes_into_a_filter(crafted: str) -> None:
    with pytest.raises(IndexRefused, match="goes into no filter"):
        among([crafted])
    with pytest.raises(IndexRefused, match="goes into no filter"):
        beyond({crafted: 1})
    with pytest.raises(IndexRefused, match="goes into no filter"):
        checked_node_id(f"{crafted}-0")


async def test_code_that_a_model_brings_is_never_run(tmp_path: Path) -> None:
    folder, ran = tmp_path / "model", tmp_path / "ran"
    shutil.copytree(find_model(MODEL), folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    classes = {"AutoConfig": "own_code.Config", "AutoModel": "own_code.Model"}
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": classes}), encoding="utf-8")
    (folder / "own_code.py").write_text(f"open({str(ran)!r}, 'w').close()\n", encoding="utf-8")
    vectors = await Embedder(EmbedderSettings(model=str(folder), backend="torch")).embed_queries(["a question"])
    assert vectors.shape == (1, 384)
    assert not ran.exists()


@pytest.fixture
def for_its_own_user_only() -> Iterator[None]:
    """As the image sets it."""
    before = os.umask(0o077)
    yield
    os.umask(before)


@pytest.mark.usefixtures("for_its_own_user_only")
def test_reports_keep_to_the_umask(tmp_path: Path) -> None:
    save_report(
        RunReport(corpus="docs", outcome="unchanged", reason="", started=datetime.now(UTC)), tmp_path / "reports"
    )
    written = [tmp_path / "reports", *(tmp_path / "reports").iterdir()]
    assert len(written) == 4
    assert not [file for file in written if file.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO)]


def test_every_test_that_the_page_names_is_there() -> None:
    page = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(test_\w+)`", page))
    written = "\n".join(file.read_text(encoding="utf-8") for file in (ROOT / "tests").glob("test_*.py"))
    assert len(named) > 30
    assert named <= set(re.findall(r"def (test_\w+)", written)) | {file.stem for file in (ROOT / "tests").glob("*.py")}
