"""The flow that asks the golden queries of what readers see now, at any hour."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from prefect import flow
from prefect.logging import get_run_logger

from nightloom.errors import Held
from nightloom.flows.ends import completed, ending_in_words
from nightloom.flows.names import run_name
from nightloom.flows.operating import operating
from nightloom.flows.parameters import CorpusFile, titled
from nightloom.tables import queries_table
from nightloom.tasks.artifacts import show_scores, show_table
from nightloom.tasks.operate import ask_live


@flow(name="query-evaluation", flow_run_name=run_name, persist_result=False, result_serializer="json")
@ending_in_words
async def query_evaluation(
    corpus_file: CorpusFile,
    floor: Annotated[float | None, titled("Floor of every metric", ge=0, le=1)] = None,
    missed_floor: Annotated[Literal["hold", "warn"], titled("When a floor is missed")] = "hold",
    evaluation: Annotated[dict[str, Any], titled("Changes to golden queries")] = {},  # noqa: B006  nobody changes it
) -> dict[str, Any]:
    """Ask the golden queries of the live alias, score the answers, and hold them against the floors of the gate.

    Nothing is written to Milvus. The scores and each query with its own are artifacts of the run.

    Args:
        corpus_file: The TOML file, as the worker finds it: relative to the folder that it was started in.
        floor: What the mean of every metric must reach; left empty, gate.floor of the corpus file says.
        missed_floor: "hold" ends the run as Failed, named Held, which automations and on-call people see; "warn" writes
            it to the log.
        evaluation: For this run alone, as JSON: keys of [evaluation] that are to be otherwise, such as
            {"metrics": ["P@10"]}.
    """
    started = datetime.now(UTC)
    async with operating(corpus_file, {"evaluation": evaluation, "gate": {"floor": floor}}) as (corpus, token):
        asked = await ask_live(corpus, token)
        report = asked.report(corpus, started)
        await show_scores(report)
        rows = queries_table(asked.judged.golden.texts, asked.scores.per_query)
        await show_table(corpus.name, "queries", rows, f"{len(rows)} golden queries, the worst first")
        missed = "; ".join(asked.missed(corpus))
        if missed and missed_floor == "hold":
            raise Held(missed)
        if missed:
            get_run_logger().warning(missed)
        says = ", ".join(f"{metric} {mean:.4f}" for metric, mean in asked.scores.means.items())
        return completed(says, report.model_dump(mode="json"))
