"""The flow of one night: bring the index in step with its corpus, and let readers see it only when it is whole."""

import asyncio
from pathlib import Path
from typing import Annotated, Any

from prefect import flow, runtime
from pydantic import Field

from nightloom.concurrency import each
from nightloom.corpus import (
    Alias,
    EmbedderSettings,
    EvaluationSettings,
    GateSettings,
    MilvusSettings,
    ShardSettings,
    SourceSettings,
    SplittingSettings,
    load_corpus,
)
from nightloom.night import Night, open_night
from nightloom.planning import Shard
from tasks.download import download_all
from tasks.embed import embed
from tasks.evaluate import evaluate
from tasks.insert import copy_unchanged, insert, verify
from tasks.load import load
from tasks.promote import promote
from tasks.publish import ProgressArtifact, publish, reported
from tasks.secrets import milvus_token

OVER = "Replaces this section of the corpus file for one run; None leaves the file's."


def run_name() -> str:
    """Corpus and date, such as "demo 2026-11-22"."""
    given = runtime.flow_run.parameters
    corpus = given.get("name") or Path(str(given.get("corpus_file") or "corpus")).stem
    return f"{corpus} {runtime.flow_run.scheduled_start_time:%Y-%m-%d}"


@flow(name="nightly-reindex", flow_run_name=run_name)
async def nightly_reindex(
    corpus_file: Annotated[Path | None, Field(title="Corpus file", description="Where the worker finds it.")] = None,
    name: Annotated[Alias | None, Field(title="Name", description=OVER)] = None,
    sources: Annotated[list[SourceSettings] | None, Field(title="Sources", description=OVER)] = None,
    splitting: Annotated[SplittingSettings | None, Field(title="Splitting", description=OVER)] = None,
    embedder: Annotated[EmbedderSettings | None, Field(title="Embedder", description=OVER)] = None,
    milvus: Annotated[MilvusSettings | None, Field(title="Milvus", description=OVER)] = None,
    evaluation: Annotated[EvaluationSettings | None, Field(title="Evaluation", description=OVER)] = None,
    gate: Annotated[GateSettings | None, Field(title="Gate", description=OVER)] = None,
    shards: Annotated[ShardSettings | None, Field(title="Shards", description=OVER)] = None,
) -> dict[str, Any]:
    """Bring a Milvus collection in step with its corpus.

    Download, plan, then shard by shard load, split, embed and insert beside what readers see; copy what is unchanged,
    verify, evaluate, promote. Returns the run report; a night that changes nothing writes nothing.
    """
    corpus = load_corpus(
        corpus_file,
        {
            "name": name,
            "sources": sources,
            "splitting": splitting,
            "embedder": embedder,
            "milvus": milvus,
            "evaluation": evaluation,
            "gate": gate,
            "shards": shards,
        },
    )
    async with open_night(corpus, await milvus_token(corpus.milvus)) as night, reported(night):
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
    return report.model_dump(mode="json")


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
    warm_up = asyncio.create_task(asyncio.to_thread(night.embedder.warm_up))
    await each(work, index_shard, at_once=night.corpus.shards.in_flight)
    await warm_up
