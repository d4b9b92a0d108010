"""The flow that drops generations which need not stay."""

from typing import Annotated, Any, Literal

from prefect import flow

from nightloom.flows.ends import completed, ending_in_words
from nightloom.flows.names import run_name
from nightloom.flows.operating import operating
from nightloom.flows.parameters import CorpusFile, titled
from nightloom.tasks.artifacts import show_generations
from nightloom.tasks.lease import lease
from nightloom.tasks.operate import drop_generations, list_generations


@flow(name="prune", flow_run_name=run_name, persist_result=False, result_serializer="json")
@ending_in_words
async def prune(
    corpus_file: CorpusFile,
    keep: Annotated[int | None, titled("Generations to keep", ge=0, le=100)] = None,
    which: Annotated[Literal["seen", "all"], titled("Which generations go")] = "seen",
    dry_run: Annotated[bool, titled("Only say what would go")] = False,
) -> dict[str, Any]:
    """Drop generations beyond those that a rollback may need; never the live one, nor one that any alias names.

    Args:
        corpus_file: The TOML file, as the worker finds it: relative to the folder that it was started in.
        keep: How many of those before the live one stay for a rollback; left empty, index.keep of the corpus file says.
        which: "seen": those that readers saw once. "all": also those that the gate held, or that a night left
            half-built and the next one would go on with.
        dry_run: Drop nothing.
    """
    changes = {"index": {"keep": keep}}
    async with operating(corpus_file, changes) as (corpus, token), lease(corpus):  # a night's own is half-built, too
        gone = await drop_generations(corpus, token, unseen=which == "all", dry_run=dry_run)
        await show_generations(corpus.name, await list_generations(corpus, token))
        says = f"{'would drop' if dry_run else 'dropped'} {', '.join(gone) or 'nothing'}"
        return completed(says, {"dropped": gone, "dry_run": dry_run})
