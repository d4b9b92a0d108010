"""Begin: open the night of a corpus; one that is refused before it opens is in the UI too."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from prefect import runtime
from prefect.logging import get_run_logger

from nightloom.concurrency import alongside
from nightloom.corpus_file import corpus_name
from nightloom.embedding import read_ahead
from nightloom.errors import IndexUnreachable, NightloomError, Unforeseen
from nightloom.night import Night, open_night
from nightloom.night_report import refused_report
from nightloom.progress import Progress
from nightloom.tasks.events import about, announce
from nightloom.tasks.lease import lease
from nightloom.tasks.logs import quiet_tasks, show_own_logs
from nightloom.tasks.own_corpus import load_own_corpus
from nightloom.tasks.pace import access_to
from nightloom.tasks.policy import pauses
from nightloom.tasks.publish import publish_refused
from nightloom.tasks.secrets import find_secret


@asynccontextmanager
async def begin(
    corpus_file: Path | None, sections: Mapping[str, Any], *, allow_removals: bool = False, repair: bool = False
) -> AsyncIterator[Night]:
    """Load a corpus, take its lease and open its night; where that fails, show a report in the UI, and write none.

    Args:
        corpus_file: As for `load_corpus`.
        sections: As for `load_corpus`.
        allow_removals: As for `Night`.
        repair: As for `Night`.

    Raises:
        InputError: As `load_own_corpus` and `open_night`; it carries the report.
    """
    show_own_logs()
    progress = Progress()
    name = corpus_name(corpus_file, sections.get("name"))
    async with AsyncExitStack() as opened:
        try:
            corpus = await load_own_corpus(corpus_file, sections)
            token = await find_secret(corpus.milvus.secret)
            async with alongside(asyncio.to_thread(read_ahead, corpus.embedder)):
                await opened.enter_async_context(lease(corpus))
            access = await access_to(corpus.embedder)
            opened.enter_context(quiet_tasks())

            def opening() -> AbstractAsyncContextManager[Night]:
                return open_night(
                    corpus, token, access=access, allow_removals=allow_removals, repair=repair, progress=progress
                )

            night = await _open(opened, opening)
        except NightloomError as error:
            await _refuse(error, name)
            raise
        except Exception as error:
            failure = Unforeseen(f"{type(error).__name__}: {error}")
            await _refuse(failure, name)
            raise failure from error
        announce(about("night.started", corpus.name))
        yield night


async def _open(opened: AsyncExitStack, opening: Callable[[], AbstractAsyncContextManager[Night]]) -> Night:
    """Open a night; one of a deployment waits for a Milvus that is being started again.

    Whoever runs a night by hand is told at once that the address may be wrong.
    """
    for pause in pauses() if runtime.deployment.id else ():
        try:
            return await opened.enter_async_context(opening())
        except IndexUnreachable as error:
            get_run_logger().warning("%s; the next try is in %d s", error, pause)
            await asyncio.sleep(pause)
    return await opened.enter_async_context(opening())


async def _refuse(error: NightloomError, name: str) -> None:
    report = refused_report(name, error)
    error.report = report
    await publish_refused(report)
