"""A bare Prefect server of the tests, gone with their process: no UI, no worker, a home and a database of its own."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx

START_SECONDS = 120
PAUSE_SECONDS = 0.05


class PrefectServer:
    """A server on loopback, which can be killed and started again at the same address with what it knew."""

    def __init__(self, home: Path) -> None:
        """Start it.

        Raises:
            RuntimeError: It did not start; with the end of its log.
        """
        self._home = home
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = int(probe.getsockname()[1])
        self.start()

    @property
    def api(self) -> str:
        """Address of the API."""
        return f"http://127.0.0.1:{self._port}/api"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        settings = {
            "PREFECT_HOME": str(self._home),
            "PREFECT_PROFILES_PATH": str(self._home / "profiles.toml"),
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{self._home / 'prefect.db'}",
        }
        log = self._home / "server.log"
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "nightloom.flows.temporary_server", str(self._port)],
                env=os.environ | settings,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                if httpx.get(f"{self.api}/health", timeout=5).is_success:
                    return
            except httpx.HTTPError:
                time.sleep(PAUSE_SECONDS)
        self.kill()
        raise RuntimeError(f"the Prefect server did not start:\n{log.read_text(errors='replace')[-3000:]}")

    def kill(self) -> None:
        """End it as a crash would."""
        self._process.kill()
        self._process.communicate()
