"""Pace: requests to the embedder's endpoint, counted in Prefect together with those of other nights."""

import hashlib
from contextlib import suppress

from prefect.client.orchestration import get_client
from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError, rate_limit
from prefect.exceptions import ObjectAlreadyExists
from prefect.logging import get_run_logger
from prefect.settings import PREFECT_API_URL

from nightloom.corpus import EmbedderSettings
from nightloom.engines import NO_ACCESS, Access
from nightloom.pace import Pace
from nightloom.tasks.secrets import find_secret

BURST = 20
"""Part of a minute's allowance that may be used at once: one in so many."""


async def access_to(settings: EmbedderSettings) -> Access:
    """What an embedder's endpoint is asked with; nothing for a model on this machine.

    Raises:
        CorpusFileError: The block that the corpus file names does not exist.
    """
    if not settings.is_remote:
        return NO_ACCESS
    return Access(await find_secret(settings.secret), await shared_pace(settings))


async def shared_pace(settings: EmbedderSettings) -> Pace | None:
    """A pace that all nights keep together that ask one model of one endpoint, by global concurrency limits.

    Their slots free themselves again, as many a second as the corpus file allows; what it says last holds for all.

    Returns:
        None where nothing is limited, or no Prefect server is shared: this process then keeps to the limits by itself.
    """
    per_minute = {"requests": settings.requests_per_minute, "tokens": settings.tokens_per_minute}
    limits = {what: most for what, most in per_minute.items() if most}
    if not limits or not PREFECT_API_URL.value():
        return None
    bursts: dict[str, int] = {}
    async with get_client() as client:
        for what, most in limits.items():
            bursts[what] = max(1, most // BURST)
            name = limit_name(settings, what)
            with suppress(ObjectAlreadyExists):  # another night has made it meanwhile
                await client.upsert_global_concurrency_limit_by_name(name, bursts[what], most / 60)
    is_alone = False

    async def turn(tokens: int) -> None:
        nonlocal is_alone
        if is_alone:
            return
        wanted = {"requests": 1, "tokens": tokens}
        try:
            for what, burst in bursts.items():
                left = wanted[what]
                while left > 0:  # more slots than a limit has are never given at once
                    await rate_limit(limit_name(settings, what), occupy=min(left, burst), strict=True)
                    left -= burst
        except ConcurrencySlotAcquisitionError as error:
            get_run_logger().warning("from here on, this night keeps to the embedder's limits by itself: %s", error)
            is_alone = True

    return turn


def limit_name(settings: EmbedderSettings, what: str) -> str:
    """The global concurrency limit of a model at an endpoint."""
    which = hashlib.sha256(f"{settings.base_url} {settings.model}".encode()).hexdigest()[:8]
    return f"nightloom-embedder-{which}-{what}"
