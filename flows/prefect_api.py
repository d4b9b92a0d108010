"""The Prefect API of a night: the configured one, or a temporary one for a night that nobody deployed.

Prefect starts one by itself where none is configured. This one is up in half the time, as it starts beside our own
imports and the server's code stays out of this process; it ends without the tracebacks that mean nothing; and it ends
with this process, even where that is killed.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import httpx
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogWorker
from prefect.settings import PREFECT_API_URL, get_current_settings, temporary_settings

from nightloom.errors import PrefectUnavailable
from nightloom.flows.server_process import ANSWER_SECONDS, ServerProcess


@contextmanager
def prefect_api(early: ServerProcess | None = None) -> Iterator[None]:
    """The configured Prefect API, or a temporary one on loopback for the block.

    Args:
        early: A server that was started already, where none seemed to be configured. It is ended with the block, or at
            once where one is configured.

    Raises:
        PrefectUnavailable: The configured one does not answer.
        NightFailed: The temporary one did not start.
    """
    if configured_api():
        if early:
            early.stop()
        yield
        return
    server = early or ServerProcess()
    try:
        from nightloom.flows import nightly_reindex  # noqa: F401, PLC0415  imported while the server starts

        server.wait()
        with temporary_settings({PREFECT_API_URL: f"{server.address}/api"}):
            try:
                yield
            finally:
                APILogWorker.drain_all()  # what is sent at exit would find no server
                EventsWorker.drain_all()
    finally:
        server.stop()


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
