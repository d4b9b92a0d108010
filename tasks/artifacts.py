"""Artifacts: what the Prefect UI shows of an index, each under a key that stays, so that the UI keeps its history."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import httpx
from prefect.artifacts import acreate_markdown_artifact, acreate_table_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactCreate
from prefect.exceptions import PrefectException
from prefect.logging import get_run_logger

from nightloom.errors import NightloomError
from nightloom.generations import Generation
from nightloom.report import RunReport, scores_in_words, scores_page, shortened, to_markdown
from nightloom.tables import Row, Rows, capped, generations_table

SHOWING_SECONDS = 15
"""For the UI to take an artifact."""
DESCRIPTION_CHARACTERS = 200


@asynccontextmanager
async def showing(what: str) -> AsyncIterator[None]:
    """Show something in the UI inside the block: where that fails it is logged, as no night is worth less than that."""
    try:
        async with asyncio.timeout(SHOWING_SECONDS):
            yield
    except (httpx.HTTPError, PrefectException, NightloomError, TimeoutError, OSError) as error:
        get_run_logger().warning("the UI does not take the %s: %s", what, str(error) or type(error).__name__)


def artifact_key(corpus: str, what: str) -> str:
    """A stable key, so that the UI shows the history; keys are lower case letters, digits and dashes."""
    return f"{re.sub('[^a-z0-9]', '-', corpus.lower()).strip('-')}-{what}"


async def show_page(corpus: str, what: str, markdown: str, says: str) -> None:
    """Show Markdown under `<corpus>-<what>`."""
    async with showing(what):
        key = artifact_key(corpus, what)
        await acreate_markdown_artifact(markdown, key=key, description=shortened(says, DESCRIPTION_CHARACTERS))


async def show_table(corpus: str, what: str, rows: Rows, says: str) -> None:
    """Show the first rows of a table, and the count of the rest, under `<corpus>-<what>`."""
    shown: list[dict[str, Any]] = [dict(row) for row in capped(rows)]
    async with showing(what):
        await acreate_table_artifact(
            shown, key=artifact_key(corpus, what), description=shortened(says, DESCRIPTION_CHARACTERS)
        )


async def show_report(report: RunReport) -> None:
    """Show a report."""
    await show_page(report.corpus, "report", to_markdown(report), f"{report.outcome}: {report.reason}")


async def show_scores(report: RunReport) -> None:
    """Show the scores of a report as a table, and as a chart of the last nights."""
    if report.scores:
        await show_page(report.corpus, "scores", scores_page(report), scores_in_words(report))


async def show_generations(corpus: str, generations: Iterable[Generation]) -> None:
    """Show the generations of an index: what a rollback can name."""
    rows = generations_table(generations)
    await show_table(corpus, "generations", rows, _live(rows))


async def put_generations(corpus: str, generations: Iterable[Generation]) -> None:
    """Show them, too, for a command, which is no flow run.

    Raises:
        httpx.HTTPError: The server does not answer, or does not take it; doing it again is another line of the history.
    """
    rows = generations_table(generations)
    key, data = artifact_key(corpus, "generations"), json.dumps(capped(rows))
    async with get_client() as client:
        await client.create_artifact(ArtifactCreate(key=key, type="table", description=_live(rows), data=data))


def _live(rows: Iterable[Row]) -> str:
    live = next((str(row["generation"]) for row in rows if row["state"] == "live"), "none")
    return f"live: {live}"
