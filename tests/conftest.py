"""What every test stands on: an environment of its own, the packaged model, one Prefect server, the shared data."""

import atexit
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import hypothesis
import pytest

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

from deployments.local_milvus import LocalMilvusUnavailable, local_milvus  # noqa: E402  the environment comes first
from nightloom.corpus import EmbedderSettings  # noqa: E402
from nightloom.documents import document_id  # noqa: E402
from nightloom.embedding import Embedder  # noqa: E402
from tests.builders import MODEL, ROOT  # noqa: E402
from tests.nights import TEXTS, Home  # noqa: E402

# A busy machine is slow, and no property is about time.
hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")

TOGETHER = {"test_browser.py": "test_prefect.py"}
"""Files that share a stack which is costly to start: one process runs them."""
FIRST = ("test_torture.py", "test_prefect.py", "test_nights.py", "test_updates.py", "test_faults.py", "test_model.py")
"""The longest: two processes end at about the same time when these begin."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files as groups for `-n 2 --dist loadgroup`, the longest first."""
    order = {name: at for at, name in enumerate(FIRST)}
    items.sort(key=lambda item: order.get(group_of(item), len(order)))
    for item in items:
        item.add_marker(pytest.mark.xdist_group(group_of(item)))


def group_of(item: pytest.Item) -> str:
    """The file that a test belongs to, or the one that it runs with."""
    return TOGETHER.get(item.path.name, item.path.name)


SERVER_START_SECONDS = 120
SERVER_STOP_SECONDS = 10


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
    return Embedder(EmbedderSettings(model=MODEL))


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The API address of a real Prefect server on loopback, with a home and a database of its own."""
    home = tmp_path_factory.mktemp("prefect-server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    settings = {
        "PREFECT_HOME": str(home),
        "PREFECT_PROFILES_PATH": str(home / "profiles.toml"),
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{home / 'prefect.db'}",
        "PREFECT_UI_ENABLED": "false",
        "PREFECT__SERVER_EPHEMERAL": "1",
    }
    command = [sys.executable, "-m", "uvicorn", "--factory", "prefect.server.api.server:create_app"]
    options = ["--host", "127.0.0.1", "--port", str(port), "--log-level", "error", "--lifespan", "on"]
    log = home / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, *options], env=os.environ | settings, stdout=output, stderr=output, start_new_session=True
        )
    try:
        _wait_until_healthy(f"http://127.0.0.1:{port}/api/health", process, log)
        yield f"http://127.0.0.1:{port}/api"
    finally:
        process.terminate()
        try:
            process.wait(SERVER_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture(scope="session")
def milvus_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real Milvus server of our own."""
    try:
        with local_milvus(tmp_path_factory.mktemp("milvus")) as server:
            yield server.uri
    except LocalMilvusUnavailable as error:
        pytest.skip(str(error))


@pytest.fixture(params=["lite", pytest.param("server", marks=pytest.mark.milvus)])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Home:
    """A corpus of five documents that no night has seen yet, for Milvus Lite and for a real server."""
    uri = request.getfixturevalue("milvus_server") if request.param == "server" else "index.db"
    new = Home(tmp_path, uri, f"test_{document_id(str(tmp_path))[:12]}")
    new.write(TEXTS)
    new.configure()
    return new


def _wait_until_healthy(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + SERVER_START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(address, timeout=5).is_success:
                return
        except httpx.HTTPError:
            time.sleep(0.05)
    pytest.fail(f"the Prefect server did not start:\n{log.read_text(errors='replace')[-3000:]}")
