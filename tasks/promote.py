"""Promote: the alias to tonight's generation, and away with the generations that need not stay."""

from prefect.logging import get_run_logger

from nightloom.night import Night
from nightloom.night_report import report_of, summary_of
from nightloom.tasks.events import announce, promotion
from nightloom.tasks.policy import step


@step("promote", run_name="promote {night.corpus.name}", timeout_seconds=600)
async def promote(night: Night) -> None:
    """Switch the alias, and prove it by reads through it."""
    before = night.live.name if night.live else None
    with night.progress.stage("promote"):
        await night.promote()
    announce(promotion(report_of(night, "promoted", summary_of(night)), before))


@step("prune", run_name="prune {night.corpus.name}", timeout_seconds=600)
async def prune(night: Night) -> None:
    """Drop the generations that need not stay."""
    with night.progress.stage("promote"):
        dropped = await night.prune()
    if dropped:
        get_run_logger().info("dropped %s", ", ".join(dropped))
