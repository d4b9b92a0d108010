"""Nights against Milvus as newer versions answer: see `tests.twin`."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from milvus_lite.server_manager import ServerManager

from nightloom.documents import document_id
from tests.nights import TEXTS, Home, night
from tests.twin import VERSIONS, Twin


@pytest.fixture(scope="module", params=["lite", pytest.param("server", marks=pytest.mark.milvus)])
def behind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, bool]]:
    """Address of the Milvus behind a twin, and whether it is Milvus Lite."""
    if request.param == "server":
        yield request.getfixturevalue("milvus_server"), False
        return
    manager = ServerManager()
    address = manager.start_and_get_uri(str(tmp_path_factory.mktemp("behind") / "index.db"))
    assert address
    yield address, True
    manager.release_all()


@pytest.fixture(params=VERSIONS)
def twin(request: pytest.FixtureRequest, behind: tuple[str, bool]) -> Iterator[Twin]:
    address, is_lite = behind
    new = Twin(address, request.param, is_lite=is_lite)
    yield new
    new.stop()


@pytest.fixture
def home(twin: Twin, tmp_path: Path) -> Iterator[Home]:
    """A corpus of five documents that no night has seen yet, on a twin."""
    new = Home(tmp_path, twin.uri, f"test_{document_id(str(tmp_path))[:12]}")
    new.write(TEXTS)
    new.configure()
    yield new
    new.drop_collections()


@pytest.mark.usefixtures("prefect_api")
async def test_a_scan_reads_at_the_moment_that_the_server_gives(home: Home) -> None:
    assert (await night(home))["outcome"] == "promoted"
    home.write(TEXTS | {"bread.txt": "Rye bread needs a sour dough. " * 40})
    assert (await night(home))["outcome"] == "promoted"
    assert len(await home.rows()) > len(TEXTS)
