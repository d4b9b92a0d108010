"""What every test stands on: an environment of its own, the packaged model, one Prefect server, the shared data."""

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from tests.milvus_servers import GIVEN, started  # reads variables that are taken out of the environment below

PREFECT_FOLDER = Path(tempfile.mkdtemp(prefix="nightloom-tests-"))
atexit.register(shutil.rmtree, PREFECT_FOLDER, ignore_errors=True)

# Before anything else is imported: Prefect and the hub's client read these when they are.
for variable in [name for name in os.environ if name.startswith(("NIGHTLOOM_", "PREFECT_"))]:
    del os.environ[variable]
os.environ.update(
    {
        "HF_HUB_OFFLINE": "1",
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_HOME": str(PREFECT_FOLDER),
        "PREFECT_PROFILES_PATH": str(PREFECT_FOLDER / "profiles.toml"),
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{PREFECT_FOLDER / 'tests.db'}",
    }
)

from prefect.events.worker import EventsWorker  # noqa: E402  the environment comes first
from prefect.logging.handlers import APILogWorker  # noqa: E402
from prefect.settings import PREFECT_API_URL, temporary_settings  # noqa: E402

from nightloom.corpus import EmbedderSettings  # noqa: E402
from nightloom.documents import document_id  # noqa: E402
from nightloom.embedding import Embedder  # noqa: E402
from tests.builders import MODEL, ROOT  # noqa: E402
from tests.ending import end_with_this_process  # noqa: E402
from tests.nights import TEXTS, Home  # noqa: E402
from tests.prefect_server import PrefectServer  # noqa: E402

# A busy machine is slow, and no property is about time.
hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")

FIRST = (
    "test_prefect.py",
    "test_wheel.py",
    "test_twin.py",
    "test_torture.py",
    "test_nights.py",
    "test_trial.py",
    "test_operating.py",
    "test_privileges.py",
    "test_milvus_access.py",
    "test_check.py",
    "test_updates.py",
    "test_faults.py",
    "test_hybrid.py",
    "test_plain_llamaindex.py",
    "test_backends.py",
    "test_model.py",
)
"""The longest: all processes end at about the same time when these begin."""


def pytest_configure(config: pytest.Config) -> None:
    """What the tests start ends with the process that they were started with, which starts those of pytest-xdist."""
    if not hasattr(config, "workerinput"):
        end_with_this_process()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first."""
    order = {name: at for at, name in enumerate(FIRST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real input that lies beside a checkout and is never committed to it."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real input at {folder}")
    return folder


@pytest.fixture(scope="session")
def embedder() -> Embedder:
    """The packaged model; its weights are loaded by the first test that embeds."""
    return Embedder(EmbedderSettings(model=MODEL, precision="fp32"))


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The API address of a real Prefect server on loopback."""
    server = PrefectServer(tmp_path_factory.mktemp("prefect-server"))
    yield server.api
    APILogWorker.drain_all()  # what is sent at exit would find no server, and look for it long
    EventsWorker.drain_all()
    server.kill()


@pytest.fixture
def prefect_api(prefect_server: str) -> Iterator[str]:
    """That address; nights in this process use the server behind it."""
    with temporary_settings({PREFECT_API_URL: prefect_server}):
        yield prefect_server


@pytest.fixture(scope="session")
def oldest_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Milvus 2.3.5 of our own."""
    with started(tmp_path_factory.mktemp("milvus")) as server:
        yield server.uri


@pytest.fixture(scope="session")
def milvus_server(request: pytest.FixtureRequest) -> str:
    """The address of a real Milvus server: the one that is given, or else Milvus 2.3.5."""
    return GIVEN or str(request.getfixturevalue("oldest_server"))


@pytest.fixture(params=["lite", pytest.param("server", marks=pytest.mark.milvus)])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Home]:
    """A corpus of five documents that no night has seen yet, for Milvus Lite and for a real server."""
    uri = request.getfixturevalue("milvus_server") if request.param == "server" else "index.db"
    new = Home(tmp_path, uri, f"test_{document_id(str(tmp_path))[:12]}")
    new.write(TEXTS)
    new.configure()
    yield new
    if request.param == "server":
        new.drop_collections()  # every loaded collection makes the server slower for the tests to come
