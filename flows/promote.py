"""The flow that overrules the gate: readers see a generation that it held."""

from typing import Annotated, Any

from prefect import flow
from prefect.logging import get_run_logger

from nightloom.flows.ends import completed, ending_in_words
from nightloom.flows.names import run_name
from nightloom.flows.operating import operating
from nightloom.flows.parameters import CorpusFile, titled
from nightloom.operate import REASON_CHARACTERS
from nightloom.tasks.artifacts import show_generations
from nightloom.tasks.operate import list_generations, promote_held, what_is_live


@flow(name="promote", flow_run_name=run_name, persist_result=False, result_serializer="json")
@ending_in_words
async def promote(
    corpus_file: CorpusFile,
    reason: Annotated[str, titled("Reason", pattern=r"\S", max_length=REASON_CHARACTERS)],
    generation: Annotated[str, titled("Generation")] = "held",
) -> dict[str, Any]:
    """Let readers see a generation that the gate has held: an operator who knows better overrules it.

    It is checked row by row, and the switch is proven by reads through the alias. Returns the run report.

    Args:
        corpus_file: The TOML file, as the worker finds it: relative to the folder that it was started in.
        reason: Why the gate is overruled. Kept with the generation, and said in the reports for as long as it is live.
        generation: Name of a generation, or the beginning of it, as the artifact `<corpus>-generations` gives it;
            "held" is the one generation that is held, where there are not several.
    """
    async with operating(corpus_file) as (corpus, token):
        made, report = await promote_held(corpus, token, generation, reason, await what_is_live(corpus, token))
        await show_generations(corpus.name, await list_generations(corpus, token))
        for warning in report.warnings:
            get_run_logger().warning(warning)
        says = f"{made.alias} is {made.after} now: {report.reason}"
        get_run_logger().info(says)
        return completed(says, report.model_dump(mode="json"), "Promoted")
