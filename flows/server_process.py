"""The process of a temporary Prefect server, for those who have not imported Prefect yet: that takes seconds, too."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx

from nightloom.errors import NightFailed

ANSWER_SECONDS = 5
START_SECONDS = 120
STOP_SECONDS = 10
PAUSE_SECONDS = 0.05


class ServerProcess:
    """A Prefect server on loopback that ends with this process, even where that is killed."""

    def __init__(self) -> None:
        """Start it; `wait` until it answers."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"http://127.0.0.1:{probe.getsockname()[1]}"
        self._process = subprocess.Popen(  # noqa: S603  our own interpreter, our own words
            [sys.executable, "-m", "nightloom.flows.temporary_server", self.address.rpartition(":")[2]],
            stdin=subprocess.PIPE,  # by whose end it ends
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl+C is for the night; the server goes after it
        )

    def wait(self) -> None:
        """Wait until it answers.

        Raises:
            NightFailed: It did not start.
        """
        deadline = time.monotonic() + START_SECONDS
        with httpx.Client(timeout=ANSWER_SECONDS) as client:  # one: each reads certificates
            while time.monotonic() < deadline and self._process.poll() is None:
                try:
                    if client.get(f"{self.address}/api/health").is_success:
                        return
                except httpx.HTTPError:
                    time.sleep(PAUSE_SECONDS)
        raise NightFailed(
            "Prefect's temporary server did not start; run `prefect server start` to see why, and set PREFECT_API_URL"
            " to it"
        )

    def stop(self) -> None:
        """End it, and wait for that."""
        try:
            self._process.communicate(timeout=STOP_SECONDS)  # its input ends, and it with that
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()


def start_early() -> ServerProcess | None:
    """A server, before Prefect is imported and can say whether one is configured; None where one may be.

    Whoever has configured it elsewhere, in prefect.toml say, ends this one again.
    """
    home = Path(os.environ.get("PREFECT_HOME") or Path.home() / ".prefect")
    profiles = Path(os.environ.get("PREFECT_PROFILES_PATH") or home / "profiles.toml")
    return None if os.environ.get("PREFECT_API_URL") or profiles.exists() else ServerProcess()
