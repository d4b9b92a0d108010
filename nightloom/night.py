"""One night: what it works with, what it has done so far, and the steps that it goes through."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from pydantic import SecretStr

from nightloom.corpus import Corpus
from nightloom.documents import Listing, Quarantined
from nightloom.embedding import Embedder, Vectors
from nightloom.errors import DocumentError, NightFailed, NightloomError, Outcome
from nightloom.evaluation import GoldenQueries, Judged, Scores, ask_all, judge, load_golden, score
from nightloom.fingerprint import fingerprint
from nightloom.gate import check_quarantine, check_removals
from nightloom.generations import Generation, disposable, half_built
from nightloom.index import Index, open_index
from nightloom.planning import Head, Plan, Shard, deal_out, make_plan
from nightloom.progress import Progress
from nightloom.reading import read_document
from nightloom.report import DocumentCounts, NodeCounts, QuarantineEntry, QueryCounts, RunReport
from nightloom.splitting import Node, Splitter

PROOF_DOCUMENTS = 8
"""Documents that are read through the alias to prove a promotion."""


class ShardNodes:
    """The nodes of a shard. No dataclass: Prefect walks through the elements of those on every call."""

    def __init__(self, shard: Shard, nodes: list[Node], quarantined: list[Quarantined]) -> None:
        """Keep what loading a shard gave."""
        self.shard = shard
        self.nodes = nodes
        self.quarantined = quarantined

    @property
    def label(self) -> str:
        """How task runs call it: short, as the UI draws them in a graph."""
        nodes = "node" if len(self.nodes) == 1 else "nodes"
        return f"shard {self.shard.number}/{self.shard.count}: {len(self.nodes)} {nodes}"


class Night:
    """One night over one corpus. No dataclass, for the same reason as `ShardNodes`."""

    def __init__(self, corpus: Corpus, index: Index, folder: Path, progress: Progress) -> None:
        """Check what the user gave against itself and against the embedder.

        Raises:
            InputError: Says what is wrong; nothing was written.
        """
        self.corpus = corpus
        self.index = index
        self.folder = folder
        self.progress = progress
        self.started = datetime.now(UTC)
        self.golden: GoldenQueries | None = load_golden(corpus.evaluation) if corpus.evaluation else None
        self.embedder = Embedder(corpus.embedder)
        self.splitter = Splitter(corpus.splitting, self.embedder)
        self.fingerprint = fingerprint(corpus, self.embedder)
        self.embedder_turn = asyncio.Lock()
        self.generations: list[Generation] = []
        self.live: Generation | None = None
        self.live_heads: dict[str, Head] = {}
        self.target: Generation | None = None
        self.plan: Plan = make_plan(Listing(()), {}, {}, self.fingerprint)
        self.judged: Judged | None = None
        self.scores: Scores | None = None
        self.versions: dict[str, str] = {}
        self.quarantined: list[Quarantined] = []
        self.nodes = NodeCounts()
        self.truncated_tokens = 0
        self._creating = asyncio.Lock()

    async def read_state(self) -> None:
        """Read from Milvus what is live, and what an earlier night left half-built."""
        self.generations = await self.index.generations()
        self.live = next((generation for generation in self.generations if generation.live), None)
        self.target = half_built(self.generations, self.fingerprint)
        if self.live:
            self.live_heads = await self.index.heads(self.live.name)
            if not self.live.promoted:
                await self.index.mark_promoted(self.live.name)

    def validators(self) -> Mapping[str, str]:
        """What sources gave for a conditional request, by document id; empty where everything must be read again."""
        if self.live is None or self.live.fingerprint != self.fingerprint:
            return {}
        return {key: head.validator for key, head in self.live_heads.items() if head.validator}

    async def make_plan(self, listing: Listing) -> tuple[Shard, ...]:
        """Compare the listing with the index, and deal the work out into shards.

        Raises:
            EvaluationInputError: Judgements name documents that are not in the corpus.
            Held: Suspiciously many documents are gone.
        """
        built = await self.index.heads(self.target.name) if self.target else {}
        self.plan = make_plan(listing, self.live_heads, built, self.fingerprint)
        self.quarantined = list(self.plan.quarantined)
        self.versions = {key: head.version for key, head in self.plan.done.items()}
        self._judge(listing)
        check_removals(len(self.plan.removed), len(self.live_heads), self.corpus.gate)
        if self.target:
            await self.index.keep_only(self.target.name, self.versions)
        return deal_out(self.plan.work, self.corpus.shards)

    def _judge(self, listing: Listing) -> None:
        if self.golden is None:
            return
        items = [(ref.uri, ref.item) for ref in listing.documents]
        items += [(entry.uri, entry.item) for entry in listing.quarantined]
        accepted = self.live is not None and self.live.evaluation == self.golden.content
        self.judged = judge(self.golden, items, gone_is_error=not accepted)

    def load(self, shard: Shard) -> ShardNodes:
        """Read and split the documents of a shard; those that cannot be taken are quarantined."""
        nodes: list[Node] = []
        quarantined: list[Quarantined] = []
        for planned in shard.documents:
            ref = planned.ref
            try:
                nodes += self.splitter.split(read_document(ref), planned.version)
            except DocumentError as error:
                quarantined.append(Quarantined(ref.uri, ref.item, str(error), ref.source))
        return ShardNodes(shard, nodes, quarantined)

    async def insert(self, work: ShardNodes, vectors: Vectors) -> int:
        """Write the nodes of a shard to tonight's generation, which begins with the first of them."""
        target = await self.open_target(vectors.shape[1])
        return await self.index.upsert(target.name, work.nodes, vectors)

    async def open_target(self, dim: int) -> Generation:
        """Tonight's generation, created when first needed: a night without changes leaves nothing behind."""
        async with self._creating:
            if self.target is None:
                now = datetime.now(UTC)
                self.target = await self.index.create(self.fingerprint, dim, self.generations, now)
            return self.target

    def count_shard(self, work: ShardNodes, written: int) -> None:
        """Take a shard that is in the index into the counts."""
        self.versions |= {node.document.ref.id: node.version for node in work.nodes}
        self.quarantined += work.quarantined
        self.nodes.embedded += written
        self.progress.shard_done(len(work.shard.documents), written)

    @property
    def has_changes(self) -> bool:
        """Whether readers would see anything else tomorrow."""
        return self.target is not None or bool(self.plan.removed)

    def check_taken(self) -> None:
        """Hold or fail a night in which too many documents were quarantined.

        Raises:
            NightFailed: Every document was.
            Held: More than the gate allows were.
        """
        count, listed = len(self.quarantined), self.plan.listed
        if count == listed:
            raise NightFailed(f"every document was quarantined; the first: {self.quarantined[0].reason}")
        check_quarantine(count, listed, self.corpus.gate)

    async def copy_unchanged(self) -> int:
        """Copy to tonight's generation what stays as it was, yesterday's nodes of quarantined documents included.

        Returns:
            Rows copied.
        """
        if self.live is None or self.live.fingerprint != self.fingerprint:
            if self.target is None:
                raise NightFailed("nothing of tonight's documents could be indexed")
            return 0
        target = await self.open_target(await self.index.dim(self.live.name))
        kept = {entry.id for entry in self.quarantined} & self.live_heads.keys()
        versions = {key: self.live_heads[key].version for key in {*self.plan.unchanged, *kept}}
        rows = await self.index.copy(self.live.name, target.name, versions)
        self.versions |= versions
        self.nodes.copied = rows
        self.nodes.deleted = sum(head.total for head in self.live_heads.values()) - rows
        return rows

    async def verify(self) -> int:
        """Check that tonight's generation holds exactly tonight's documents.

        Raises:
            IndexInconsistent: Names the documents that are wrong.
        """
        target = self._target()
        self.nodes.total = await self.index.verify(target.name, self.versions)
        await self.index.flush(target.name)
        return self.nodes.total

    @property
    def wants_evaluation(self) -> bool:
        """Whether golden queries must be asked tonight: the index is new, or they are."""
        if self.golden is None:
            return False
        return self.has_changes or (self.live is not None and self.live.evaluation != self.golden.content)

    async def evaluate(self) -> Scores:
        """Ask the golden queries of tonight's generation, or of the live one where nothing changed."""
        if self.golden is None or self.judged is None:
            raise NightFailed("there are no golden queries to ask")
        generation = self.target or self._live()
        settings = self.corpus.evaluation
        self.scores = await evaluate(
            self.index, generation.name, self.embedder, self.judged, settings.concurrency if settings else 1
        )
        await self.index.set_scores(generation.name, self.golden.content, self.scores.means)
        return self.scores

    async def promote(self) -> None:
        """Let readers see tonight's generation, proven through the alias."""
        target = self._target()
        await self.index.promote(target.name, self._proof())
        await self.index.mark_promoted(target.name)

    def _proof(self) -> dict[str, str | None]:
        live = {key: head.version for key, head in self.live_heads.items()}
        differing = [key for key in {*live, *self.versions} if live.get(key) != self.versions.get(key)]
        return {key: self.versions.get(key) for key in sorted(differing)[:PROOF_DOCUMENTS]}

    async def prune(self) -> list[str]:
        """Drop the generations that need not stay.

        Returns:
            Their names.
        """
        dropped = disposable(await self.index.generations(), self.corpus.gate.keep)
        for generation in dropped:
            await self.index.drop(generation)
        return [generation.name for generation in dropped]

    @property
    def summary(self) -> str:
        """Why readers see a new generation, in a sentence."""
        if self.live is None:
            return "the first generation of this index"
        if self.live.fingerprint != self.fingerprint:
            return (
                "another fingerprint (loader, splitter, embedder, schema or metric): every document was embedded again"
            )
        report = self.report("promoted", "").documents
        return f"{report.added} documents added, {report.changed} changed, {report.removed} removed"

    def _target(self) -> Generation:
        if self.target is None:
            raise NightFailed("tonight's generation was never begun")
        return self.target

    def _live(self) -> Generation:
        if self.live is None:
            raise NightFailed("there is no live generation")
        return self.live

    def report(self, outcome: Outcome, reason: str) -> RunReport:
        """What the night has done so far."""
        generation = self.target or self.live
        if not self.target:
            self.nodes.total = sum(head.total for head in self.live_heads.values())
        quarantined = {entry.id for entry in self.quarantined}
        indexed = {planned.ref.id for planned in self.plan.work} | self.plan.done.keys()
        indexed -= quarantined
        changed = indexed & self.live_heads.keys()
        scores = dict(self.live.scores) if self.live and self.golden and not self.scores else None
        return RunReport(
            corpus=self.corpus.name,
            outcome=outcome,
            reason=reason,
            generation=generation.name if generation else None,
            fingerprint=self.fingerprint,
            started=self.started,
            documents=DocumentCounts(
                listed=self.plan.listed,
                added=len(indexed) - len(changed),
                changed=len(changed),
                unchanged=len(self.plan.unchanged),
                removed=len(self.plan.removed),
                quarantined=len(self.quarantined),
            ),
            nodes=self.nodes,
            truncated_tokens=self.truncated_tokens,
            seconds={
                key: round(value, 3)
                for key, value in {**self.progress.seconds, "total": self.progress.total_seconds}.items()
            },
            scores=dict(self.scores.means) if self.scores else scores or None,
            queries=self._query_counts(),
            quarantine=[QuarantineEntry(uri=entry.uri, reason=entry.reason) for entry in self.quarantined],
        )

    def _query_counts(self) -> QueryCounts | None:
        if self.scores is None or self.judged is None:
            return None
        return QueryCounts(
            asked=len(self.scores.rankings),
            set_aside=len(self.scores.set_aside),
            unjudged=self.judged.golden.unjudged,
        )


async def evaluate(index: Index, collection: str, embedder: Embedder, judged: Judged, concurrency: int) -> Scores:
    """Ask golden queries of a generation and score the answers."""
    keys = [key for key in judged.golden.texts if key not in judged.set_aside]
    vectors = await embedder.embed_queries([judged.golden.texts[key] for key in keys]) if keys else np.empty((0, 0))
    rankings = await ask_all(
        judged,
        dict(zip(keys, vectors, strict=True)),
        lambda vector, limit: index.search(collection, vector, limit),
        concurrency,
    )
    return score(judged, rankings)


@asynccontextmanager
async def open_night(corpus: Corpus, token: SecretStr | None) -> AsyncIterator[Night]:
    """Open everything that a night needs; its downloads are gone when it ends.

    Raises:
        InputError: Corpus, embedder, golden queries or Milvus are not as they should be; nothing was written.
    """
    progress = Progress()
    with tempfile.TemporaryDirectory(prefix="nightloom-") as folder:
        async with open_index(corpus.milvus, corpus.name, token) as index:
            night = await asyncio.to_thread(Night, corpus, index, Path(folder), progress)
            await night.read_state()
            yield night


def refused_report(corpus: str, error: NightloomError) -> RunReport:
    """The report of a night that ended before it began."""
    return RunReport(
        corpus=corpus,
        outcome=error.outcome,
        reason=str(error),
        started=datetime.now(UTC),
    )
