"""Publish: what a night does, as artifacts in the Prefect UI and as files."""

import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import httpx
from prefect.artifacts import (
    acreate_markdown_artifact,
    acreate_progress_artifact,
    acreate_table_artifact,
    aupdate_progress_artifact,
)
from prefect.exceptions import PrefectException
from prefect.logging import get_run_logger

from nightloom.errors import NightFailed, NightloomError, Outcome
from nightloom.night import Night
from nightloom.report import RunReport, counts_table, save_report, to_markdown

PROGRESS_SECONDS = 2
"""Between two updates of the progress artifact, at least."""
SHOWING_SECONDS = 15
"""For the UI to take an artifact."""
PAUSE_SECONDS = 120
"""Without another update of the progress, where the UI did not take one."""


@asynccontextmanager
async def showing(what: str) -> AsyncIterator[None]:
    """Show something in the UI inside the block: where that fails it is logged, as no night is worth less than that."""
    try:
        async with asyncio.timeout(SHOWING_SECONDS):
            yield
    except (httpx.HTTPError, PrefectException, TimeoutError, OSError) as error:
        get_run_logger().warning("the UI does not take the %s: %s", what, str(error) or type(error).__name__)


def artifact_key(corpus: str, what: str) -> str:
    """A stable key, so that the UI shows the history; keys are lower case letters, digits and dashes."""
    return f"{re.sub('[^a-z0-9]', '-', corpus.lower()).strip('-')}-{what}"


class ProgressArtifact:
    """The share of shards that are done, updated no more often than anybody looks."""

    def __init__(self, night: Night) -> None:
        """Nothing is created before the first update."""
        self._night = night
        self._id: UUID | None = None
        self._due = 0.0
        self._turn = asyncio.Lock()

    async def update(self) -> None:
        """Show where the night stands; one update at a time, so that the last one stays."""
        async with self._turn:
            await self._update()

    async def _update(self) -> None:
        snapshot = self._night.progress.snapshot
        done = snapshot.shards_done == snapshot.shards
        percent = 100.0 * snapshot.shards_done / snapshot.shards if snapshot.shards else 100.0
        now = time.monotonic()
        if not done and now < self._due:
            return
        self._due = now + PAUSE_SECONDS
        async with showing("progress"):
            if self._id is None:
                key = artifact_key(self._night.corpus.name, "progress")
                self._id = await acreate_progress_artifact(percent, key=key, description=f"{snapshot.shards} shards")
            else:
                says = f"{snapshot.shards_done} of {snapshot.shards} shards, {snapshot.nodes_per_second:.1f} nodes/s"
                await aupdate_progress_artifact(self._id, progress=percent, description=says)
            self._due = now + PROGRESS_SECONDS


@asynccontextmanager
async def reported(night: Night) -> AsyncIterator[None]:
    """Publish the report of a night however it ends.

    Raises:
        NightloomError: What ended the night, with its report; errors that nobody foresaw become NightFailed.
    """
    try:
        yield
    except NightloomError as error:
        error.report = await publish(night, error.outcome, str(error))
        raise
    except Exception as error:
        failure = NightFailed(f"{type(error).__name__}: {error}")
        failure.report = await publish(night, "failed", str(failure))
        raise failure from error


async def publish(night: Night, outcome: Outcome, reason: str) -> RunReport:
    """Write the report to its folder, and to the UI as markdown and as a table of counts."""
    report = night.report(outcome, reason)
    if outcome != "refused":  # bad input leaves nothing behind
        save_report(report, night.corpus.reports)
    rows: list[dict[str, Any]] = [dict(row) for row in counts_table(report)]
    await show_report(report)
    async with showing("counts"):
        await acreate_table_artifact(
            rows, key=artifact_key(report.corpus, "counts"), description="Documents and nodes of the night"
        )
    get_run_logger().info("%s: %s (report: %s)", report.outcome, reason, report.file)
    return report


async def show_report(report: RunReport) -> None:
    """Show a report in the UI as markdown."""
    says = f"{report.outcome}: {report.reason}"[:200]
    key = artifact_key(report.corpus, "report")
    async with showing("report"):
        await acreate_markdown_artifact(to_markdown(report), key=key, description=says)
