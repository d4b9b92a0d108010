"""Judge: answers to golden queries, which warn and decide nothing."""

from prefect.logging import get_run_logger

from nightloom.night import Night
from nightloom.tasks.policy import step
from nightloom.tasks.secrets import find_secret

JUDGE_SECONDS = 5 * 3600
"""Above the most that answers.max_seconds can be: a night ends its questions by itself."""


@step("judge", run_name="judge answers {night.corpus.name}", timeout_seconds=JUDGE_SECONDS)
async def judge_answers(night: Night) -> None:
    """Have a model answer golden queries and judge the answers; whatever goes wrong is a warning."""
    with night.progress.stage("judge"):
        try:
            key = await find_secret(night.corpus.answers.secret) if night.corpus.answers else None
            scores = await night.judge_answers(key)
        except Exception as error:  # noqa: BLE001  no night is worth less than that
            night.warnings.append(f"answers: none was judged: {str(error) or type(error).__name__}")
            return
    get_run_logger().info("%d of %d answers judged", scores.answered, scores.wanted)
