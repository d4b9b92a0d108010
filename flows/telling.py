"""What a Prefect server is told of what an operator did from the command line: the event, and what is live now."""

import asyncio
from collections.abc import Iterable

import httpx
from prefect.exceptions import PrefectException
from pydantic import SecretStr

from nightloom.corpus import Corpus
from nightloom.errors import NightloomError
from nightloom.flows.prefect_api import configured_api
from nightloom.operate import all_generations
from nightloom.tasks.artifacts import put_generations
from nightloom.tasks.events import EventParts, send

TELLING_SECONDS = 20
"""For all of it: the operator waits, and what was done to the index is done already."""


async def tell(corpus: Corpus, token: SecretStr | None, events: Iterable[EventParts]) -> str:
    """Emit events, and show the generations anew, where a Prefect server is configured.

    Args:
        corpus: The corpus.
        token: Of Milvus.
        events: What was done; may be none.

    Returns:
        Why it could not, in a sentence; "" where it could, or no server is configured. Nothing is raised: automations
        do not react then, and that is no reason for a command to fail that has done its work.
    """
    try:
        if not await asyncio.to_thread(configured_api):
            return ""
        async with asyncio.timeout(TELLING_SECONDS):
            for parts in events:
                await send(parts)
            await put_generations(corpus.name, await all_generations(corpus, token))
    except (NightloomError, httpx.HTTPError, PrefectException, TimeoutError, OSError) as error:
        return f"done, but Prefect does not know of it, and no automation reacts: {_why(error)}"
    return ""


def _why(error: Exception) -> str:
    if isinstance(error, httpx.HTTPStatusError):
        status = error.response.status_code
        cure = "; set PREFECT_API_AUTH_STRING to its user:password" if status == httpx.codes.UNAUTHORIZED else ""
        return f"PREFECT_API_URL: the server answers HTTP {status}{cure}"
    return str(error) or f"no answer within {TELLING_SECONDS} s"
