"""The flow that takes a night back: readers see an earlier generation again."""

from dataclasses import asdict
from typing import Annotated, Any

from prefect import flow
from prefect.logging import get_run_logger

from nightloom.flows.ends import completed, ending_in_words
from nightloom.flows.names import run_name
from nightloom.flows.operating import operating
from nightloom.flows.parameters import CorpusFile, titled
from nightloom.tasks.artifacts import show_generations
from nightloom.tasks.operate import list_generations, switch_back, what_is_live


@flow(name="rollback", flow_run_name=run_name, persist_result=False, result_serializer="json")
@ending_in_words
async def rollback(corpus_file: CorpusFile, to: Annotated[str, titled("Generation")] = "previous") -> dict[str, Any]:
    """Let readers see an earlier generation again: an alias switch, proven by reads through it.

    Nothing is built or dropped; a night that is under way does not switch any more. The next night compares the corpus
    with what is live then, so mend what made the bad night before it begins, or pause its schedule.

    Args:
        corpus_file: The TOML file, as the worker finds it: relative to the folder that it was started in.
        to: Name of a generation, or the beginning of it, as the artifact `<corpus>-generations` gives it; "previous"
            is the one that readers saw before the live one.
    """
    async with operating(corpus_file) as (corpus, token):
        made = await switch_back(corpus, token, to or None, await what_is_live(corpus, token))
        await show_generations(corpus.name, await list_generations(corpus, token))
        says = f"{made.alias} is {made.after} again, and was {made.before}"
        get_run_logger().info(says)
        return completed(says, asdict(made))
