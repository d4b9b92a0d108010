"""The Prefect API of a night: the configured one, or a temporary one for a night that nobody deployed.

Prefect starts one by itself where none is configured. This one is up in half the time, as it starts beside our own
imports and the server's code stays out of this process; it ends without the tracebacks that mean nothing; and it ends
with this process, even where that is killed.
"""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogWorker
from prefect.settings import PREFECT_API_URL, get_current_settings, temporary_settings

from nightloom.errors import NightFailed, PrefectUnavailable

ANSWER_SECONDS = 5
START_SECONDS = 120
STOP_SECONDS = 10
PAUSE_SECONDS = 0.05


@contextmanager
def prefect_api() -> Iterator[None]:
    """The configured Prefect API, or a temporary one on loopback for the block.

    Raises:
        PrefectUnavailable: The configured one does not answer.
        NightFailed: The temporary one did not start.
    """
    if configured_api():
        yield
        return
    port = _free_port()
    process = _start(port)
    try:
        from nightloom.flows import nightly_reindex  # noqa: F401, PLC0415  imported while the server starts

        _wait(process, f"http://127.0.0.1:{port}/api/health")
        with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{port}/api"}):
            try:
                yield
            finally:
                APILogWorker.drain_all()  # what is sent at exit would find no server
                EventsWorker.drain_all()
    finally:
        _stop(process)


def configured_api() -> str | None:
    """Address of the API that PREFECT_API_URL or the profile names; None where they name none.

    Raises:
        PrefectUnavailable: It does not answer.
    """
    url = get_current_settings().api.url
    if url:
        try:
            httpx.get(f"{url.rstrip('/')}/health", timeout=ANSWER_SECONDS).raise_for_status()
        except httpx.HTTPError as error:
            raise PrefectUnavailable(
                f"PREFECT_API_URL: {url} does not answer: {error}; start it with `prefect server start`, or unset"
                " PREFECT_API_URL"
            ) from None
    return url


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _start(port: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603  our own interpreter, our own words
        [sys.executable, "-m", "nightloom.flows.temporary_server", str(port)],
        stdin=subprocess.PIPE,  # by whose end it ends
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl+C is for the night; the server goes after it
    )


def _wait(process: subprocess.Popen[bytes], health: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    with httpx.Client(timeout=ANSWER_SECONDS) as client:  # one: each reads certificates
        while time.monotonic() < deadline and process.poll() is None:
            try:
                if client.get(health).is_success:
                    return
            except httpx.HTTPError:
                time.sleep(PAUSE_SECONDS)
    raise NightFailed(
        "Prefect's temporary server did not start; run `prefect server start` to see why, and set PREFECT_API_URL to it"
    )


def _stop(process: subprocess.Popen[bytes]) -> None:
    try:
        process.communicate(timeout=STOP_SECONDS)  # its input ends, and it with that
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
