"""Publish: what a night does, as artifacts in the Prefect UI and as files."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from uuid import UUID

from prefect.artifacts import acreate_progress_artifact, aupdate_progress_artifact
from prefect.logging import get_run_logger

from nightloom.errors import NightloomError, Outcome, Unforeseen
from nightloom.night import Night
from nightloom.night_report import report_of
from nightloom.operate import NOT_ASKED, seen_by_readers, what_readers_see
from nightloom.progress import Snapshot
from nightloom.report import RunReport
from nightloom.report_files import keep_report
from nightloom.tables import DocumentsTable, counts_table, quarantine_table
from nightloom.tasks.artifacts import artifact_key, show_generations, show_report, show_scores, show_table, showing
from nightloom.tasks.events import announce_end

PROGRESS_SECONDS = 2
"""Between two updates of the progress artifact, at least."""
LOGGED_TIMES = 10
"""Lines about the progress in the log of a night, at most."""
PAUSE_SECONDS = 120
"""Without another update of the progress, where the UI did not take one."""


class ProgressArtifact:
    """The share of shards that are done, updated no more often than anybody looks."""

    def __init__(self, night: Night) -> None:
        """Nothing is created before the first update."""
        self._night = night
        self._id: UUID | None = None
        self._due = 0.0
        self._logged = 0
        self._turn = asyncio.Lock()

    async def update(self) -> None:
        """Show where the night stands; one update at a time, so that the last one stays."""
        async with self._turn:
            await self._update()

    async def _update(self) -> None:
        snapshot = self._night.progress.snapshot
        self._log(snapshot)
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
                await aupdate_progress_artifact(self._id, progress=percent, description=in_words(snapshot))
            self._due = now + PROGRESS_SECONDS

    def _log(self, snapshot: Snapshot) -> None:
        """A line for each tenth of the shards."""
        tenths = LOGGED_TIMES * snapshot.shards_done // snapshot.shards if snapshot.shards else 0
        if tenths > self._logged:
            self._logged = tenths
            get_run_logger().info(in_words(snapshot))


def in_words(snapshot: Snapshot) -> str:
    """Where a night stands, such as "3 of 8 shards, 41.2 nodes/s, about 0:02:30 left"."""
    says = f"{snapshot.shards_done} of {snapshot.shards} shards, {snapshot.nodes_per_second:.1f} nodes/s"
    if snapshot.seconds_left:
        says += f", about {timedelta(seconds=round(snapshot.seconds_left))} left"
    return says


@asynccontextmanager
async def reported(night: Night) -> AsyncIterator[None]:
    """Publish the report of a night however it ends.

    Raises:
        NightloomError: What ended the night, with its report; others become Unforeseen.
    """
    try:
        yield
    except NightloomError as error:
        error.report = await publish(night, error.outcome, str(error))
        raise
    except Exception as error:
        failure = Unforeseen(f"{type(error).__name__}: {error}")
        failure.report = await publish(night, "failed", str(failure))
        raise failure from error


async def publish(night: Night, outcome: Outcome, reason: str) -> RunReport:
    """Write the report to its folder, show what there is to see in the UI, and say how the night ended."""
    report = report_of(night, outcome, reason)
    report.readers = await _readers(night, outcome)
    if outcome != "refused":  # bad input leaves nothing behind
        unwritten = keep_report(report, night.corpus)
        if unwritten:
            get_run_logger().warning(unwritten)
    await asyncio.gather(
        show_report(report),
        show_scores(report),
        show_table(report.corpus, "counts", counts_table(report), "Documents and nodes of the night"),
        _show_documents(night, report),
        _show_quarantine(report),
        _show_generations(night, outcome),
    )
    announce_end(report)
    get_run_logger().info("%s: %s%s", report.outcome, reason, f" (report: {report.file})" if report.file else "")
    return report


async def _readers(night: Night, outcome: Outcome) -> str:
    """What readers see, in a sentence; a night that ended well has just read that, and asks nothing again."""
    seen = {"promoted": night.target, "unchanged": night.live}.get(outcome)
    return seen_by_readers(seen, night.nodes.total) if seen else await what_readers_see(night.index)


async def _show_documents(night: Night, report: RunReport) -> None:
    changes = DocumentsTable(night.plan, night.live_heads, {entry.id for entry in night.quarantined})
    planned = "" if report.outcome in {"promoted", "unchanged"} else "to be "
    says = f"{len(changes)} documents {planned}added, changed or removed, compared with what readers saw before"
    await show_table(report.corpus, "documents", changes, says)


async def _show_quarantine(report: RunReport) -> None:
    rows = quarantine_table(report.quarantine)
    await show_table(report.corpus, "quarantine", rows, f"{len(rows)} documents could not be taken")


async def _show_generations(night: Night, outcome: Outcome) -> None:
    if outcome in {"promoted", "held"}:  # there is another one
        async with showing("generations"):
            await show_generations(night.corpus.name, await night.index.generations())


async def publish_refused(report: RunReport) -> None:
    """Show the report of a night that ended before it began, and say so."""
    report.readers = NOT_ASKED
    await show_report(report)
    announce_end(report)
