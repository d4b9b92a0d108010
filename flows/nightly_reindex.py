"""The flow of one night: bring the index in step with its corpus, and let readers see it only when it is whole."""

from pathlib import Path
from typing import Annotated, Any

from prefect import flow
from prefect.utilities.annotations import quote

from nightloom.concurrency import each
from nightloom.flows.ends import completed, ending_in_words
from nightloom.flows.names import run_name
from nightloom.flows.parameters import LeftEmpty, titled
from nightloom.night import Night
from nightloom.night_report import summary_of
from nightloom.planning import Shard
from nightloom.report import RunReport
from nightloom.tasks.begin import begin
from nightloom.tasks.download import read_and_download
from nightloom.tasks.embed import embed
from nightloom.tasks.evaluate import evaluate
from nightloom.tasks.insert import insert, settle, verify
from nightloom.tasks.judge import judge_answers
from nightloom.tasks.load import load
from nightloom.tasks.plan import plan
from nightloom.tasks.promote import promote, prune
from nightloom.tasks.publish import ProgressArtifact, publish, reported


@flow(name="nightly-reindex", flow_run_name=run_name, persist_result=False, result_serializer="json")
@ending_in_words
async def nightly_reindex(
    corpus_file: Annotated[Path | LeftEmpty, titled("Corpus file")] = None,
    allow_removals: Annotated[bool, titled("Allow removals")] = False,
    repair: Annotated[bool, titled("Repair")] = False,
    changes: Annotated[dict[str, Any], titled("Changes to the corpus file")] = {},  # noqa: B006  nobody changes it
) -> dict[str, Any]:
    """Bring a Milvus collection in step with its corpus.

    Download, plan, then shard by shard load, split, embed and insert beside what readers see; copy what is unchanged,
    verify, evaluate, promote. Returns the run report; a night that changes nothing writes nothing. The form in the UI
    takes its help from here.

    Args:
        corpus_file: The TOML file, as the worker finds it: relative to the folder that it was started in. Left empty,
            the changes are the whole corpus.
        allow_removals: Let this run remove any number of documents that are gone from the corpus: see gate.max_removed.
        repair: Look at every row of the live generation first, and index documents again whose rows are not whole.
        changes: For this run alone, as JSON: sections of the corpus file with the keys that are to be otherwise, such
            as {"gate": {"max_removed": 0.5}}. `sources` replaces the whole list; another `name` is another index.
    """
    async with begin(corpus_file, changes, allow_removals=allow_removals, repair=repair) as night, reported(night):
        report = await go_through(night)
    return completed(report.reason, report.model_dump(mode="json"), report.outcome.capitalize())


async def go_through(night: Night) -> RunReport:
    """The steps of one night, in their order."""
    listing = await read_and_download(night)
    await index_shards(night, await plan(night, quote(listing)))  # type: ignore[call-overload]  # Prefect takes the quote off
    night.check_taken()
    if night.has_changes:
        await settle(night)
        await verify(night)
    if night.wants_evaluation:
        await evaluate(night)
    await night.pass_gate()
    if night.wants_evaluation and night.wanted_answers:
        await judge_answers(night)
    if night.has_changes:
        await promote(night)
    if night.has_leftovers:
        await prune(night)
    return await publish(night, night.outcome, summary_of(night))


async def index_shards(night: Night, work: tuple[Shard, ...]) -> None:
    """Load, embed and insert every shard, a few at once: while one is embedded, others are read and written."""
    if not work:
        return
    artifact = ProgressArtifact(night)
    night.progress.expect(len(work), sum(len(shard.documents) for shard in work))

    async def index_shard(shard: Shard) -> None:
        loaded = await load(night, shard)
        written = 0
        if loaded.nodes:
            embedded = await embed(night, loaded)
            if embedded.nodes:  # those that embedding left
                written = await insert(night, embedded)
        night.count_shard(loaded, written)
        await artifact.update()

    await artifact.update()
    await each(work, index_shard, at_once=night.corpus.shards.in_flight)
