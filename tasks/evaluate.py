"""Evaluate: probes and golden queries against tonight's generation, and against the live one."""

from prefect.logging import get_run_logger

from nightloom.night import Night
from nightloom.tasks.policy import step
from nightloom.trial import Trial


@step("evaluate", run_name="evaluate {night.corpus.name}", timeout_seconds=3600)
async def evaluate(night: Night) -> Trial:
    """Ask, several requests at once, and score the answers."""
    with night.progress.stage("evaluate"):
        trial = await night.evaluate()
    if trial.probes:
        probes = trial.probes
        get_run_logger().info("%d of %d probes find their document", probes.asked - len(probes.missed), probes.asked)
    if trial.scores:
        shown = ", ".join(f"{metric} {value:.4f}" for metric, value in trial.scores.means.items())
        get_run_logger().info("%d queries: %s", len(trial.scores.rankings), shown)
    for difference in trial.differences:
        get_run_logger().info("%s: %+.4f against the live generation", difference.metric, difference.mean)
    return trial
