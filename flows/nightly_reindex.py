"""The flow of one night: bring the index in step with its corpus, and let readers see it only when it is whole."""

from pathlib import Path
from typing import Any

from prefect import flow, runtime
from prefect.states import Completed

from nightloom.changes import (
    EmbedderChanges,
    EvaluationChanges,
    GateChanges,
    MilvusChanges,
    ShardChanges,
    SplittingChanges,
)
from nightloom.concurrency import each
from nightloom.corpus import Alias, SourceSettings, corpus_name
from nightloom.night import Night
from nightloom.planning import Shard
from tasks.begin import begin
from tasks.download import download_all
from tasks.embed import embed
from tasks.evaluate import evaluate
from tasks.insert import copy_unchanged, insert, verify
from tasks.load import load
from tasks.promote import promote
from tasks.publish import ProgressArtifact, publish, reported


def run_name() -> str:
    """Corpus, date and time (UTC), such as "demo 2026-11-22 02:00"."""
    given = runtime.flow_run.parameters
    corpus = corpus_name(given.get("corpus_file"), given.get("name"))
    return f"{corpus} {runtime.flow_run.scheduled_start_time:%Y-%m-%d %H:%M}"


@flow(name="nightly-reindex", flow_run_name=run_name)
async def nightly_reindex(
    corpus_file: Path | None = None,
    name: Alias | None = None,
    sources: list[SourceSettings] | None = None,
    splitting: SplittingChanges | None = None,
    embedder: EmbedderChanges | None = None,
    milvus: MilvusChanges | None = None,
    evaluation: EvaluationChanges | None = None,
    gate: GateChanges | None = None,
    shards: ShardChanges | None = None,
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
        splitting: Over the keys of [splitting]. Another value embeds every document again.
        embedder: Over the keys of [embedder]. Another model, revision or text prefix embeds every document again.
        milvus: Over the keys of [milvus]. Another address is another index.
        evaluation: Over the keys of [evaluation]; where the file has none, queries and judgements must be given.
        gate: Over the keys of [gate].
        shards: Over the keys of [shards].
    """
    sections = {
        "name": name,
        "sources": sources,
        "splitting": splitting,
        "embedder": embedder,
        "milvus": milvus,
        "evaluation": evaluation,
        "gate": gate,
        "shards": shards,
    }
    async with begin(corpus_file, sections) as night, reported(night):
        listing = await download_all(night)
        with night.progress.stage("plan"):
            work = await night.make_plan(listing)
        await index_shards(night, work)
        night.check_taken()
        if night.has_changes:
            await copy_unchanged(night)
            await verify(night)
        if night.wants_evaluation:
            await evaluate(night)
        if not night.has_changes:
            report = await publish(night, "unchanged", "the index already holds every document in tonight's version")
        else:
            await promote(night)
            report = await publish(night, "promoted", night.summary)
    says = f"{report.outcome}: {report.reason}"
    return Completed(message=says, data=report.model_dump(mode="json"))  # type: ignore[return-value]  # Prefect unwraps it


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
            async with night.embedder_turn:
                vectors = await embed(night, loaded)
            written = await insert(night, loaded, vectors)
        night.count_shard(loaded, written)
        await artifact.update()

    await artifact.update()
    await each(work, index_shard, at_once=night.corpus.shards.in_flight)
