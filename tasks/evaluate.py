"""Evaluate: golden queries against tonight's generation."""

from prefect.logging import get_run_logger

from nightloom.evaluation import Scores
from nightloom.night import Night
from tasks.policy import step


@step("evaluate", run_name="evaluate {night.corpus.name}", timeout_seconds=3600)
async def evaluate(night: Night) -> Scores:
    """Ask the golden queries, several at once, and score the answers."""
    with night.progress.stage("evaluate"):
        scores = await night.evaluate()
    shown = ", ".join(f"{metric} {value:.4f}" for metric, value in scores.means.items())
    get_run_logger().info("%d queries: %s", len(scores.rankings), shown)
    return scores
