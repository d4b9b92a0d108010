"""The flow that takes a night back: readers see an earlier generation again."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.logging import get_run_logger
from prefect.states import Completed

from flows.names import run_name
from nightloom.corpus import load_corpus
from tasks.rollback import switch_back
from tasks.secrets import find_secret


@flow(name="rollback", flow_run_name=run_name)
async def rollback(corpus_file: Path, to: str | None = None) -> dict[str, Any]:
    """Let readers see an earlier generation again: an alias switch, proven by reads through it.

    Nothing is built or dropped; a night that is under way does not switch any more. The next night compares the corpus
    with what is live then, so mend what made the bad night before it begins, or pause its schedule.

    Args:
        corpus_file: The TOML file, as the worker finds it: relative to the folder that it was started in.
        to: Name of a generation, as the run reports give it; default the one that readers saw before the live one.
    """
    corpus = load_corpus(corpus_file)
    made = await switch_back(corpus, await find_secret(corpus.milvus.secret), to)
    says = f"{made.alias} is {made.after} again, and was {made.before}"
    get_run_logger().info(says)
    return Completed(message=says, data=asdict(made))  # type: ignore[return-value]  # Prefect unwraps it
