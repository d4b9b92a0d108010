"""The Prefect server of a night that nobody deployed: up for the night, and gone with it, however that ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from tests.builders import ROOT

GONE_SECONDS = 60.0
WITH_API = """
import sys
from nightloom.flows.prefect_api import prefect_api
from prefect.settings import PREFECT_API_URL
with prefect_api():
    print(PREFECT_API_URL.value(), flush=True)
    sys.stdin.read()
"""


def answers(api: str) -> bool:
    """Whether a server is there."""
    try:
        return httpx.get(f"{api}/health", timeout=5).is_success
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("killed", [False, True])
def test_it_ends_with_the_process_that_started_it(tmp_path: Path, *, killed: bool) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WITH_API],
        cwd=ROOT,
        env=os.environ | {"PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{tmp_path / 'prefect.db'}"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        api = process.stdout.readline().strip()
        assert answers(api)
        if killed:
            process.send_signal(signal.SIGKILL)
        else:
            process.stdin.close()
    deadline = time.monotonic() + (GONE_SECONDS if killed else 0)
    while (there := answers(api)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not there
