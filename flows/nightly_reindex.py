"""The flow of one night: bring the index in step with its corpus, and let readers see it only when it is whole."""

from pathlib import Path
from typing import Annotated, Any

from prefect import flow
from prefect.utilities.annotations import quote

from nightloom.changes import (
    AnswersChanges,
    EmbedderChanges,
    EvaluationChanges,
    GateChanges,
    IndexChanges,
    MilvusChanges,
    ReadingChanges,
    RetrievalChanges,
    ShardChanges,
    SplittingChanges,
)
from nightloom.concurrency import each
from nightloom.corpus import Alias, SourceSettings
from nightloom.flows.ends import completed, ending_in_words
from nightloom.flows.names import run_name
from nightloom.flows.parameters import titled
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
    corpus_file: Annotated[Path | None, titled("Corpus file")] = None,
    name: Annotated[Alias | None, titled("Alias")] = None,
    sources: Annotated[list[SourceSettings] | None, titled("Sources")] = None,
    reading: Annotated[ReadingChanges | None, titled("Reading of documents")] = None,
    splitting: Annotated[SplittingChanges | None, titled("Splitting into nodes")] = None,
    embedder: Annotated[EmbedderChanges | None, titled("Embedder")] = None,
    milvus: Annotated[MilvusChanges | None, titled("Milvus")] = None,
    index: Annotated[IndexChanges | None, titled("Generations and vector index")] = None,
    retrieval: Annotated[RetrievalChanges | None, titled("Retrieval")] = None,
    evaluation: Annotated[EvaluationChanges | None, titled("Golden queries")] = None,
    answers: Annotated[AnswersChanges | None, titled("Answers by a model")] = None,
    gate: Annotated[GateChanges | None, titled("Gate")] = None,
    shards: Annotated[ShardChanges | None, titled("Shards")] = None,
    allow_removals: Annotated[bool, titled("Allow removals")] = False,
    repair: Annotated[bool, titled("Repair")] = False,
) -> dict[str, Any]:
    """Bring a Milvus collection in step with its corpus.

    Download, plan, then shard by shard load, split, embed and insert beside what readers see; copy what is unchanged,
    verify, evaluate, promote. Returns the run report; a night that changes nothing writes nothing. Every parameter but
    the first changes the corpus file for one run: a key that is left empty is as the file says. The form in the UI
    takes its help from here.

    Args:
        corpus_file: The TOML file, as the worker finds it: relative to the folder that it was started in.
        name: Another alias, hence another index.
        sources: In place of all [[sources]] of the file, as a whole list.
        reading: Over the keys of [reading].
        splitting: Over the keys of [splitting]. Another value embeds every document again.
        embedder: Over the keys of [embedder]. Another model, revision or text prefix embeds every document again.
        milvus: Over the keys of [milvus]. Another address is another index.
        index: Over the keys of [index].
        retrieval: Over the keys of [retrieval]. Another mode or language embeds every document again.
        evaluation: Over the keys of [evaluation]; where the file has none, queries and judgements must be given.
        answers: Over the keys of [answers]; where the file has none, a model must be given.
        gate: Over the keys of [gate].
        shards: Over the keys of [shards].
        allow_removals: Let this run remove any number of documents that are gone from the corpus: see gate.max_removed.
        repair: Look at every row of the live generation first, and index documents again whose rows are not whole.
    """
    sections = {
        "name": name,
        "sources": sources,
        "reading": reading,
        "splitting": splitting,
        "embedder": embedder,
        "milvus": milvus,
        "index": index,
        "retrieval": retrieval,
        "evaluation": evaluation,
        "answers": answers,
        "gate": gate,
        "shards": shards,
    }
    async with begin(corpus_file, sections, allow_removals=allow_removals, repair=repair) as night, reported(night):
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
