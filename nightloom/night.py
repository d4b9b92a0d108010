"""One night: what it works with, what it has done so far, and the steps that it goes through."""

import asyncio
import json
import threading
from collections import Counter
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from itertools import chain, islice
from pathlib import Path

import numpy as np
from pydantic import SecretStr

from nightloom.allocator import bound_arenas, give_memory_back
from nightloom.audit import Audit, named
from nightloom.comparison import compare, compare_means, losers
from nightloom.concurrency import alongside
from nightloom.corpus import Corpus, EvaluationSettings
from nightloom.documents import Listing, Quarantined
from nightloom.embedding import Embedder
from nightloom.engines import NO_ACCESS, Access
from nightloom.errors import (
    DocumentError,
    EmbeddingError,
    EndpointRefused,
    EndpointUnavailable,
    EvaluationInputError,
    Held,
    IndexRefused,
    NightFailed,
    NightloomError,
    Outcome,
    TextsDeclined,
)
from nightloom.evaluation import Judged, judge
from nightloom.fingerprint import fingerprint, made_of
from nightloom.gate import (
    below_floor,
    check_removals,
    lost_probes,
    lost_text,
    set_aside_in_words,
    too_many_quarantined,
    too_many_set_aside,
    worse_than_live,
    wrong_vectors,
)
from nightloom.generations import Generation, by_precedence, disposable, half_built
from nightloom.golden import GoldenQueries, Reference, load_golden
from nightloom.heads import ChosenHeads, Head, Validators, rows_of, versions_of
from nightloom.history import NightRecord, history_with, read_history
from nightloom.index import Index, agrees, open_index, proof_in, proof_of
from nightloom.left_out import LeftOut
from nightloom.planning import Plan, Shard, deal_out, make_plan
from nightloom.probes import draw, duplicate_rate
from nightloom.progress import Progress
from nightloom.readers import Readers
from nightloom.report import (
    AnswerScores,
    NodeCounts,
)
from nightloom.retrieval import Question
from nightloom.rows import Hit
from nightloom.splitting import Node, Splitter
from nightloom.trial import Prober, Questions, Trial, Witness, ask_golden, questions_of
from nightloom.vectors import Tokens, Vectors, unusable
from nightloom.versions import Versions, differing
from nightloom.working_folder import working_folder

REMEMBERED = 200
"""Quarantined documents of which the index keeps since when they are."""
PROBES_AT_ONCE = 8
"""Requests in flight, where the corpus file has no golden queries that say how many."""


def short_id(entry: Quarantined) -> str:
    """The beginning of a document's id, as the history of an index keeps it."""
    return entry.id[:16]


class ShardNodes:
    """The nodes of a shard, and their vectors once they are embedded.

    No dataclass: Prefect walks through the elements of those on every call.
    """

    def __init__(self, shard: Shard, nodes: list[Node], quarantined: list[Quarantined]) -> None:
        """Keep what loading a shard gave."""
        self.shard = shard
        self.nodes = nodes
        self.quarantined = quarantined
        self.reused = 0
        self.vectors: Vectors = np.zeros((0, 0), dtype=np.float32)

    def let_go(self) -> None:
        """Hold nodes and vectors no longer: what a task was given stays in its context.

        That context stays with the timer of the task's timeout, which asyncio takes out once it has a hundred that
        were cancelled: the shards of all of these took 30 MB.
        """
        self.nodes = []
        self.vectors = self.vectors[:0].copy()

    def quarantine(self, document: str, reason: str) -> None:
        """Take a document out of the shard, by its id."""
        ref = next(planned.ref for planned in self.shard.documents if planned.ref.id == document)
        self.quarantined.append(Quarantined(ref.uri, ref.item, reason, ref.source))
        self.nodes = [node for node in self.nodes if node.document.ref.id != document]

    @property
    def label(self) -> str:
        """How task runs call it: short, as the UI draws them in a graph."""
        nodes = "node" if len(self.nodes) == 1 else "nodes"
        return f"shard {self.shard.number}/{self.shard.count}: {len(self.nodes)} {nodes}"


class Night:
    """One night over one corpus. No dataclass, for the same reason as `ShardNodes`."""

    def __init__(
        self,
        corpus: Corpus,
        index: Index,
        folder: Path,
        progress: Progress,
        readers: Readers,
        *,
        access: Access = NO_ACCESS,
        allow_removals: bool = False,
        repair: bool = False,
    ) -> None:
        """Check what the user gave against itself and against the embedder.

        Args:
            corpus: The corpus.
            index: Open; the caller closes it.
            folder: For tonight's downloads.
            progress: Told how far the night is.
            readers: Open; the caller closes them.
            access: To the embedder's endpoint, where it is behind one.
            allow_removals: Let any number of documents be gone tonight.
            repair: Look at every row of the live generation, and index the documents again whose rows are not whole.

        Raises:
            InputError: Says what is wrong; nothing was written.
        """
        self.corpus = corpus
        self.index = index
        self.folder = folder
        self.progress = progress
        self.readers = readers
        self.allow_removals = allow_removals
        self.repair = repair
        self.started = datetime.now(UTC)
        self.golden: GoldenQueries | None = load_golden(corpus.evaluation) if corpus.evaluation else None
        self.embedder = Embedder(corpus.embedder, access)
        if index.contents.reranker:
            _ = index.contents.reranker.folder  # found before anything is written
        self.splitter = Splitter(corpus.splitting, self.embedder)
        self.fingerprint = ""
        self.made_of: dict[str, str] = {}
        self.generations: list[Generation] = []
        self.live: Generation | None = None
        self.live_heads: Mapping[str, Head] = {}
        self.damaged: frozenset[str] = frozenset()
        self.target: Generation | None = None
        self.plan: Plan = make_plan(Listing(()), {}, {}, self.fingerprint)
        self.judged: Judged | None = None
        self.prober: Prober | None = None
        self.trial = Trial()
        self.answers: AnswerScores | None = None
        self.versions = Versions()
        self.quarantined: list[Quarantined] = []
        self.left_out: tuple[LeftOut, ...] = ()
        self.warnings: list[str] = []
        self.notes: Counter[str] = Counter()
        self.nodes = NodeCounts()
        self.truncated_tokens = 0
        self._questions = Questions(self.embedder)
        self._reused = 0
        self._cutting = threading.Lock()
        self._creating = asyncio.Lock()
        self._beginning: asyncio.Task[tuple[Generation, int] | None] | None = None
        self._claimed = self._resumed = self._promoted = False

    async def read_state(self) -> None:
        """Read from Milvus what is live, and what an earlier night left half-built.

        Raises:
            IndexInputError: The alias, or a collection of its name, is not ours.
            EmbedderError: The corpus file names a backend that cannot do what the index was made with.
        """
        self.warnings = []
        self.generations = await self.index.generations()
        self.live = next((generation for generation in self.generations if generation.live), None)
        self.embedder.follow(one.embedder for one in by_precedence(self.generations))
        self.fingerprint = await asyncio.to_thread(fingerprint, self.corpus, self.embedder)
        self.made_of = made_of(self.corpus, self.embedder)
        if self.live:
            await self._read_live(self.live)
        if self.live is None or self.live.fingerprint != self.fingerprint:
            self.embedder.open_soon()  # for every document
        self.target = self.live if self.in_place else half_built(self.generations, self.fingerprint)

    async def _read_live(self, live: Generation) -> None:
        if live.overruled:
            self.warnings.append(f"{live.name} was promoted by an operator over the gate: {live.overruled}")
        await self.index.connection.load(live.name)  # of one that is not, nothing is seen through the alias either
        # At once: each waits for a tick of the server's clock. The lease was held before the connection was opened, so
        # that no other night has written since.
        opened_at, interrupted = self.index.connection.opened_at, live.promoted and live.writer != ""
        is_finished = live.writer == "" and live.finished <= opened_at  # a restored one may be of another server's time
        (rows, self.live_heads), seen = await asyncio.gather(
            self.index.contents.read(live.name, by=opened_at, finished=live.finished if is_finished else 0),
            self.index.seen(live.proof, by=opened_at),
        )
        give_memory_back()
        await self._check_readers(live, seen)
        if self.repair or interrupted or rows != rows_of(self.live_heads):
            found = await self.index.contents.audit(live.name)
            self.damaged = found.damaged
            if found.findings:
                self.warnings.append(
                    f"rows of the live generation were not whole, and are made anew: {named(found.findings)}"
                )
            elif interrupted:  # in place, and every document was whole when it died
                await self.index.finish(live.name, overruled=live.overruled)

    async def _check_readers(self, live: Generation, seen: Mapping[str, str] | None) -> None:
        """Have readers see the generation that the alias names, which is not the same where a switch has stuck.

        Args:
            live: The generation that it names.
            seen: What readers find of the documents that its promotion was proven with.
        """
        heads = self.live_heads
        proof = proof_in(live.proof, heads)
        if not live.promoted:  # the night that switched to it died before it could prove it
            others = [one for one in self.generations if one.promoted and not one.live]
            before: Mapping[str, Head] = {}
            if others:
                _, before = await self.index.contents.read(max(others, key=lambda one: one.created).name)
            proof = proof_of(before, versions_of(heads))
        elif not proof or agrees(seen, proof):
            return
        else:
            self.warnings.append(f"readers did not see {live.name}, which the alias names; the switch was made again")
        await self.index.promote(live.name, proof, instead_of=live.name)
        if not live.promoted:
            await self.index.finish(live.name, overruled=live.overruled)

    @property
    def in_place(self) -> bool:
        """Whether tonight writes where readers read: vectors of two fingerprints never share a collection."""
        wanted = self.corpus.index.update == "in_place"
        return wanted and self.live is not None and self.live.fingerprint == self.fingerprint

    def validators(self) -> Mapping[str, str]:
        """What sources gave for a conditional request, by document id, for documents that need not be read again."""
        if self.live is None or self.live.fingerprint != self.fingerprint:
            return {}
        return Validators(self.live_heads, self.damaged)

    async def make_plan(self, listing: Listing) -> tuple[Shard, ...]:
        """Compare the listing with the index, and deal the work out into shards.

        Raises:
            EvaluationInputError: Judgements name documents that are not in the corpus.
            Held: Suspiciously many documents are gone.
        """
        built = None if self.target is None or self.in_place else await self.index.contents.audit(self.target.name)
        self.plan = make_plan(listing, self.live_heads, built.sound if built else {}, self.fingerprint, self.damaged)
        self.quarantined = list(self.plan.quarantined)
        self.left_out = listing.left_out
        self.versions = Versions(versions_of(self.plan.done))
        self._judge(listing)
        self._check_removals()
        self.prober = self._make_prober(listing)
        if built and self.target:
            await self._resume(self.target, built)
        if self.plan.work:
            self.embedder.open_soon()
            self._begin()
        give_memory_back()
        return deal_out(self.plan.work, self.corpus.shards)

    def _check_removals(self) -> None:
        removed, live = len(self.plan.removed), len(self.live_heads)
        if not self.allow_removals:
            check_removals(removed, live, self.corpus.gate)
        elif removed:
            self.warnings.append(f"{removed} of {live} live documents are gone, as this run was told to allow")

    async def _resume(self, target: Generation, built: Audit) -> None:
        """Go on with a half-built generation: whatever is not whole and right in it is deleted and made again."""
        tonight = Versions(self.versions)
        tonight.update(versions_of(self.plan.unchanged))
        if not self.plan.work and not any(differing(versions_of(self.live_heads), tonight)):
            self.target = None  # what it was begun for is no more: readers already see tonight's documents
            return
        await self._claim(target)
        self._resumed = True
        await self.index.contents.delete_documents(target.name, built.documents - self.plan.done.keys())

    async def _claim(self, target: Generation) -> None:
        await self.index.contents.claim(target.name)
        self._claimed = True

    def _make_prober(self, listing: Listing) -> Prober | None:
        """What probes tonight's generation; None where the corpus wants no probes."""
        witness = Witness(self.live, self.live_heads) if self.live and not self.in_place else None
        count, seed = self.corpus.gate.probes, f"{self.corpus.name} {self.started:%Y-%m-%d}"
        drawn = draw(listing.documents, count, seed)
        return Prober(self.index.contents, self._questions, witness, drawn, count, seed) if drawn else None

    def _judge(self, listing: Listing) -> None:
        if self.golden is None:
            return
        items = chain(
            ((ref.uri, ref.item) for ref in listing.documents),
            ((entry.uri, entry.item) for entry in listing.quarantined),
        )
        accepted = self.live is not None and self.live.evaluation == self.golden.content
        self.judged = judge(self.golden, items, gone_is_error=not accepted)
        if self.judged.set_aside:
            self.warnings.append(set_aside_in_words(self.judged))

    @property
    def _set_aside_before(self) -> Collection[str]:
        """Golden queries without a relevant document in the live generation."""
        if self.golden is None:
            return ()
        items = ((head.uri, head.item) for head in self.live_heads.values())
        try:
            return judge(self.golden, items, gone_is_error=False).set_aside
        except EvaluationInputError:  # an id that was in two sources then, and no longer is
            return ()

    def load(self, shard: Shard) -> ShardNodes:
        """Read and split the documents of a shard; those that cannot be taken are quarantined."""
        nodes: list[Node] = []
        quarantined: list[Quarantined] = []
        found = self.readers.read([planned.ref for planned in shard.documents])
        # One shard at a time: NLTK's expressions let go of the interpreter at every match, and threads that take it
        # from each other for that compute up to four times as long over the same sentences.
        with self._cutting:
            for planned, read in zip(shard.documents, found, strict=True):
                ref = planned.ref
                try:
                    if isinstance(read, DocumentError):
                        raise read
                    nodes += self.splitter.split(read, planned.version)
                    self.notes.update(read.notes)
                except DocumentError as error:
                    quarantined.append(Quarantined(ref.uri, ref.item, str(error), ref.source))
            if self.prober:
                self.prober.take(nodes)
        return ShardNodes(shard, nodes, quarantined)

    async def embed(self, work: ShardNodes) -> Vectors:
        """Embed the nodes of a shard; those of a document that only changed its URI take the vectors it had.

        A document with an embedding that is zero or not finite is quarantined, and so is one with a text that the
        embedder's endpoint declines.

        Returns:
            float32, shape (n, dim), for the n nodes that the shard has then.

        Raises:
            EmbeddingError: The embedder gave a wrong number of vectors.
        """
        known = await self._known_vectors(work)
        new = [node for node in work.nodes if (node.version, node.text) not in known]
        tokens = [self._tokens(node) for node in new]
        try:
            fresh = iter(await self.embedder.embed_texts([node.text for node in new], tokens) if new else ())
        except TextsDeclined as error:
            for at, reason in error.reasons.items():
                work.quarantine(new[at].document.ref.id, reason)
            return await self.embed(work) if work.nodes else np.zeros((0, 0), dtype=np.float32)
        self.truncated_tokens += self.embedder.truncated_tokens(tokens)
        found = [(node, known.get((node.version, node.text))) for node in work.nodes]
        vectors = np.stack([next(fresh) if vector is None else vector for _, vector in found])
        work.reused = len(work.nodes) - len(new)
        bad = unusable(vectors)
        documents = [node.document.ref.id for node in work.nodes]
        refused = {key for key, is_bad in zip(documents, bad, strict=True) if is_bad}
        for key in sorted(refused):
            work.quarantine(key, "the embedder gave a vector that is zero or not finite")
        kept: Vectors = vectors[[key not in refused for key in documents]]
        return kept

    def _tokens(self, node: Node) -> Tokens:
        if node.tokens is None:
            return self.embedder.tokens(self.embedder.settings.text_prefix + node.text)
        return node.tokens

    async def _known_vectors(self, work: ShardNodes) -> dict[tuple[str, str], Vectors]:
        twins = {planned.twin for planned in work.shard.documents if planned.twin}
        return await self.index.contents.vectors(self._live().name, twins) if twins else {}

    async def insert(self, work: ShardNodes, vectors: Vectors) -> int:
        """Write the nodes of a shard to tonight's generation, which begins with the first of them.

        A document that Milvus refuses for good is found by halving, and quarantined.

        Returns:
            Rows acknowledged.
        """
        target = await self.open_target(vectors.shape[1])
        return await self._insert(target.name, work, work.nodes, vectors)

    async def _insert(self, target: str, work: ShardNodes, nodes: list[Node], vectors: Vectors) -> int:
        totals = {node.document.ref.id: node.total for node in nodes}
        broken = (totals.keys() & self.damaged) if self.in_place else set()
        try:
            if broken:
                await self.index.contents.delete_documents(target, broken)
            return await self.index.contents.upsert(target, nodes, vectors, self._shrunk(totals, broken))
        except IndexRefused as error:
            if len(totals) == 1:
                (key,) = totals
                if not self.in_place:
                    await self.index.contents.delete_documents(target, totals)
                work.quarantine(key, str(error))
                return 0
            half = set(list(totals)[: len(totals) // 2])
            first = [node.document.ref.id in half for node in nodes]
            rows = 0
            for part in (first, [not is_first for is_first in first]):
                some = [node for node, wanted in zip(nodes, part, strict=True) if wanted]
                rows += await self._insert(target, work, some, vectors[part])
            return rows

    def _shrunk(self, totals: Mapping[str, int], broken: Collection[str]) -> dict[str, int]:
        """New totals of documents that have more nodes where they are written."""
        if not self.in_place:
            return {}
        old = {key: self.live_heads[key].total for key in totals if key in self.live_heads and key not in broken}
        return {key: totals[key] for key, total in old.items() if total > totals[key]}

    async def open_target(self, dim: int) -> Generation:
        """Tonight's generation, created when first needed: a night without changes leaves nothing behind."""
        async with self._creating:
            if self.target is None:
                self.target = await self._begun(dim) or await self._create(dim)
                self._claimed = True
            elif not self._claimed:
                await self._claim(self.target)
            return self.target

    async def _create(self, dim: int) -> Generation:
        now = datetime.now(UTC)
        made = json.dumps(self.made_of, ensure_ascii=False)
        return await self.index.create(
            self.fingerprint, dim, self.generations, now, self.embedder.description, made_of=made
        )

    def _begin(self) -> None:
        """Create tonight's generation while its first nodes are made: a server takes seconds to have it ready."""
        prepares_slowly = self.index.connection.capabilities.prepares_slowly
        if self.target is None and self._beginning is None and prepares_slowly:
            self._beginning = asyncio.create_task(self._create_early())

    async def _create_early(self) -> tuple[Generation, int] | None:
        """The generation and its dimensions; None where that failed, or only an endpoint's answer will tell those."""
        try:
            dim = await self._expected_dim()
            return (await self._create(dim), dim) if dim else None
        except NightloomError:  # comes again, and is told, when the generation is needed
            return None

    async def _expected_dim(self) -> int:
        """Dimensions of tonight's vectors: those of the live generation, where they go together."""
        if self.live and self.live.fingerprint == self.fingerprint:
            return await self.index.contents.dim(self.live.name)
        return await asyncio.to_thread(lambda: self.embedder.dim)

    async def _begun(self, dim: int) -> Generation | None:
        """The generation that was created early, if it takes vectors of so many dimensions."""
        found = await asyncio.shield(self._beginning) if self._beginning else None
        if found and found[1] != dim:
            await self.index.drop(found[0])
            return None
        return found[0] if found else None

    async def drop_unused(self) -> None:
        """Drop the generation that was created early, where nothing came to be written to it."""
        found = await self._beginning if self._beginning else None
        if found and self.target is None:
            await self.index.drop(found[0])

    def count_shard(self, work: ShardNodes, written: int) -> None:
        """Take a shard that is in the index into the counts."""
        self.versions.update({node.document.ref.id: node.version for node in work.nodes})
        self.quarantined += work.quarantined
        reused = min(work.reused, written)
        self._reused += reused
        self.nodes.copied += reused
        self.nodes.embedded += written - reused
        self.progress.shard_done(len(work.shard.documents), written)
        work.let_go()
        give_memory_back()

    @property
    def gone(self) -> set[str]:
        """Ids of documents that the live generation has rows of, and tonight's index will not."""
        removed = {head.document for head in self.plan.removed}
        if not self.damaged:
            return removed
        stay = self.plan.done.keys() | self._kept | {planned.ref.id for planned in self.plan.work}
        return removed | (self.damaged - stay)

    @property
    def _kept(self) -> set[str]:
        """Ids of documents that could not be taken tonight, and stay as they are live."""
        return ({entry.id for entry in self.quarantined} & self.live_heads.keys()) - self.damaged

    @property
    def has_changes(self) -> bool:
        """Whether readers would see anything else tomorrow."""
        begun = self._claimed if self.in_place else self.target is not None
        return begun or bool(self.gone)

    def check_taken(self) -> None:
        """Fail a night in which every document was quarantined.

        Raises:
            NightFailed: Says why the first was.
        """
        if len(self.quarantined) == self.plan.listed:
            raise NightFailed(f"every document was quarantined; the first: {self.quarantined[0].reason}")

    async def settle(self) -> int:
        """Bring in what stays as it was, yesterday's nodes of quarantined documents included, and leave out the rest.

        A new generation gets these rows as copies, vectors and all. In place they are there, and what is gone from the
        corpus is deleted.

        Returns:
            Rows copied.
        """
        if self.live is None or self.live.fingerprint != self.fingerprint:
            if self.target is None:
                raise NightFailed("nothing of tonight's documents could be indexed")
            return 0
        versions = Versions(versions_of(self.plan.unchanged))
        versions.update({key: self.live_heads[key].version for key in self._kept})
        staying = ChosenHeads(self.live_heads, versions)
        if self.in_place:
            target, rows = await self.open_target(0), 0
            await self.index.contents.delete_documents(target.name, self.gone | self._lost)
        else:
            target = await self.open_target(await self.index.contents.dim(self.live.name))
            rows = await self.index.contents.copy(self.live.name, target.name, versions)
        self.versions.update(versions)
        self.nodes.copied = self._reused + rows
        done = sum(head.total for head in self.plan.done.values() if self.is_live(head))
        self.nodes.deleted = rows_of(self.live_heads) - rows_of(staying) - done
        return rows

    def is_live(self, head: Head) -> bool:
        """Whether readers see this version of a document already."""
        live = self.live_heads.get(head.document)
        return live is not None and live.version == head.version

    @property
    def _lost(self) -> set[str]:
        """Ids of documents that could not be taken tonight, and whose live rows are not whole either."""
        return {entry.id for entry in self.quarantined} & self.damaged

    async def verify(self) -> int:
        """Check that tonight's generation holds exactly tonight's documents.

        Raises:
            IndexInconsistent: Names the documents that are wrong.
        """
        target = self._target()
        lost = self._lost
        if lost:
            uris = [entry.uri for entry in self.quarantined if entry.id in lost]
            self.warnings.append(
                f"neither yesterday's rows nor tonight's could be taken, and left out: {', '.join(uris)}"
            )
        contents = self.index.contents
        async with alongside(self._embed_questions()):
            rows, unfit = await contents.seal(target.name, self.corpus.index, may_rebuild=not self.in_place)
            self.warnings += [unfit] if unfit else []
            self.nodes.total = await contents.verify(
                target.name, self.versions, rows, every_row=self._resumed, uri_of=self._uri_of
            )
            await self.index.set_whole(target.name)
        return self.nodes.total

    def _uri_of(self, document: str) -> str:
        """The URI of one of tonight's documents by its id."""
        for heads in (self.live_heads, self.plan.done):
            if document in heads:
                return heads[document].uri
        return next((planned.ref.uri for planned in self.plan.work if planned.ref.id == document), document)

    async def _embed_questions(self) -> None:
        """Embed what `evaluate` will ask while Milvus is waited for; what fails is tried again then."""
        with suppress(NightloomError):
            if self.judged:
                await self._questions.of(self.judged.texts)
            if self.prober:
                await self.prober.embed_ahead()

    @property
    def wants_evaluation(self) -> bool:
        """Whether anything must be asked tonight: the index is new, or the golden queries are."""
        if self.has_changes:
            return self.golden is not None or self.prober is not None
        return self.golden is not None and self.live is not None and self.live.evaluation != self.golden.content

    async def evaluate(self) -> Trial:
        """Ask tonight's generation probes and golden queries, the latter of the live one too.

        Where nothing changed, only the golden queries, of the live one.
        """
        trial = Trial()
        if self.has_changes:
            await self._probe(trial)
        if self.golden and self.judged:
            await self._ask_golden(trial, self.golden, self.judged)
        self.trial = trial
        return trial

    async def _probe(self, trial: Trial) -> None:
        trial.duplicate_rate = duplicate_rate(self.versions)
        if self.prober:
            collection = self._target().name
            trial.probes, trial.vectors = await self.prober.probe(collection, self.versions, self._concurrency)
            if not self.in_place:  # every vector is read; there, none but tonight's would be new to the index
                trial.index_recall = await self.prober.index_recall(collection)

    async def _ask_golden(self, trial: Trial, golden: GoldenQueries, judged: Judged) -> None:
        generation = self.target or self._live()
        contents, live = self.index.contents, self.live
        questions = await self._questions.of(judged.texts)
        trial.scores = await ask_golden(contents, generation.name, questions, judged, self._concurrency)
        if live and live.name != generation.name and (known := await self._questions_to(live, questions)):
            before = await ask_golden(contents, live.name, known, judged, self._concurrency)
            trial.differences = compare(trial.scores, before)
            trial.losers = losers(trial.scores, before, str(golden.metrics[0]))
        if live and not trial.differences and live.evaluation == golden.content:
            trial.differences = compare_means(trial.scores, dict(live.scores))
        await self.index.set_scores(generation.name, golden.content, trial.scores.means)

    async def _questions_to(self, live: Generation, questions: dict[str, Question]) -> dict[str, Question]:
        """Questions as the live generation's own embedder embeds them; none where it cannot be had any more."""
        embedder = self.embedder.other(live.embedder)
        if embedder is None or embedder is self.embedder:
            return questions if embedder else {}
        try:
            return await questions_of(embedder, {key: question.text for key, question in questions.items()})
        except (EmbeddingError, EndpointRefused, EndpointUnavailable) as error:
            self.warnings.append(f"{live.name} could not be asked with its own embedder: {error}")
            return {}

    @property
    def _concurrency(self) -> int:
        return self.corpus.evaluation.concurrency if self.corpus.evaluation else PROBES_AT_ONCE

    async def pass_gate(self) -> None:
        """Stop a night that failed a check; of one that readers see already, or that changed nothing, only warn.

        Raises:
            Held: Names every check that failed, and by how much. Tonight's generation stays, for a look and for an
                operator who knows better.
        """
        gate = self.corpus.gate
        quarantine = [*too_many_quarantined(len(self.quarantined), self.plan.listed, gate)]
        failures = quarantine + self._failures(self.trial)
        if not failures:
            return
        says = "; ".join(failures)
        if self.in_place:
            self.warnings.append(f"{says} (readers see it already: the index is updated in place)")
        elif self.has_changes:
            target = self._target().name
            await self.index.hold(target, says)
            await self._remember("held", self.live.name if self.live else target)
            raise Held(f"{says}; {target} stays for a look, and `nightloom promote` lets readers see it nevertheless")
        elif quarantine:
            raise Held(says)
        else:
            self.warnings.append(says)

    def _failures(self, trial: Trial) -> list[str]:
        """The checks of the gate that tonight's generation fails, in words."""
        gate, settings = self.corpus.gate, self.corpus.evaluation
        failures: list[str] = []
        if trial.vectors:
            failures += wrong_vectors(trial.vectors)
        if trial.probes:
            failures += [*lost_probes(trial.probes, gate), *lost_text(trial.probes, gate)]
        if trial.scores and self.golden and settings:
            floors, tolerances = self.demands(self.golden, settings)
            if trial.scores.rankings:
                failures += below_floor(trial.scores.means, floors)
            failures += worse_than_live(trial.differences, tolerances, trial.losers, self.golden.texts)
        if self.judged and self.judged.set_aside and self.live:
            failures += too_many_set_aside(self.judged, self._set_aside_before, gate)
        return failures

    def demands(self, golden: GoldenQueries, settings: EvaluationSettings) -> tuple[dict[str, float], dict[str, float]]:
        """Floors and tolerances, by the names that the scores have."""
        names = dict(zip(settings.metrics, map(str, golden.metrics), strict=True))
        gate = self.corpus.gate
        return (
            {names[metric]: floor for metric, floor in gate.floors(names).items()},
            {names[metric]: tolerance for metric, tolerance in gate.tolerances(names).items()},
        )

    @property
    def wanted_answers(self) -> Mapping[str, Reference]:
        """Golden queries whose answers are to be judged tonight: where there is a model, and something to find."""
        if self.corpus.answers is None or self.golden is None or self.judged is None:
            return {}
        return {key: one for key, one in self.golden.references.items() if key not in self.judged.set_aside}

    async def judge_answers(self, key: SecretStr | None) -> AnswerScores:
        """Have a model answer golden queries from tonight's generation, and judge the answers; that decides nothing.

        Args:
            key: Of the model's endpoint; None where it asks for none.

        Raises:
            NightloomError: Nothing could be asked at all.
        """
        from nightloom.judges import judge_answers, warnings_of  # noqa: PLC0415  most nights need no client
        from nightloom.llm import open_endpoint  # noqa: PLC0415

        if self.corpus.answers is None:
            raise NightFailed("there is no model to ask")
        wanted, generation = self.wanted_answers, self.target or self._live()
        questions = await self._questions.of({query: reference.question for query, reference in wanted.items()})

        async def passages(query: str) -> list[Hit]:
            return await self.index.contents.search(generation.name, questions[query], self.corpus.retrieval.top_k)

        async with open_endpoint(self.corpus.answers, key) as endpoint:
            self.answers = await judge_answers(endpoint, wanted, passages)
        self.warnings += warnings_of(self.answers)
        return self.answers

    async def promote(self) -> None:
        """Let readers see tonight's generation, proven through the alias; in place, only close what was written.

        Raises:
            IndexTaken: Another night has gone over this one, or readers were switched meanwhile.
        """
        target = self._target()
        if not self._promoted:
            await self.index.contents.check_claim(target.name)
            if not self.in_place:
                live = self.live.name if self.live else None
                await self.index.promote(target.name, proof_of(self.live_heads, self.versions), instead_of=live)
            self._promoted = True
        await self._remember("promoted", target.name)
        await self.index.finish(target.name)

    async def _remember(self, outcome: Outcome, generation: str) -> None:
        """Keep with a generation how this night ends; one that changes nothing leaves no trace."""
        await self.index.set_history(generation, history_with(self.history, self.record(outcome)))

    @property
    def history(self) -> list[NightRecord]:
        """The nights before, as the live generation keeps them."""
        return read_history(self.live.history) if self.live else []

    def record(self, outcome: Outcome) -> NightRecord:
        """This night, as it is kept with its generation."""
        generation = self.target or self.live
        asked, kept = (
            self.trial.scores,
            self.live.scores if self.live and self.golden and outcome == "unchanged" else (),
        )
        return NightRecord(
            started=self.started,
            outcome=outcome,
            generation=generation.name if generation else None,
            scores=dict(asked.means) if asked else dict(kept),
            nodes=self.nodes.total,
            embedded=self.nodes.embedded,
            seconds=round(self.progress.total_seconds, 3),
            quarantined=dict(islice(self.quarantined_since.items(), REMEMBERED)),
        )

    @property
    def quarantined_before(self) -> Mapping[str, str]:
        """Since which date the documents that the last night could not take are quarantined, by `short_id`."""
        nights = self.history
        return nights[-1].quarantined if nights else {}

    @property
    def quarantined_since(self) -> dict[str, str]:
        """The same of tonight's."""
        before, tonight = self.quarantined_before, f"{self.started:%Y-%m-%d}"
        keys = [short_id(entry) for entry in self.quarantined]
        return {key: before.get(key, tonight) for key in keys}

    @property
    def has_leftovers(self) -> bool:
        """Whether there may be generations that need not stay."""
        return self.has_changes or bool(disposable(self.generations, self.corpus.index.keep))

    async def prune(self) -> list[str]:
        """Drop the generations that need not stay; one that was begun after this night is not its own to drop.

        Returns:
            Their names.
        """
        known = {generation.name for generation in self.generations}
        found = disposable(await self.index.generations(), self.corpus.index.keep)
        mine = self.index.contents.writer  # a creation that failed half-way and was made again leaves one behind
        dropped = [generation for generation in found if generation.name in known or generation.writer == mine]
        return [generation.name for generation in dropped if await self.index.drop(generation)]

    @property
    def outcome(self) -> Outcome:
        """How a night ends that came to its end."""
        return "promoted" if self.has_changes else "unchanged"

    def _target(self) -> Generation:
        if self.target is None:
            raise NightFailed("tonight's generation was never begun")
        return self.target

    def _live(self) -> Generation:
        if self.live is None:
            raise NightFailed("there is no live generation")
        return self.live


@asynccontextmanager
async def open_night(
    corpus: Corpus,
    token: SecretStr | None,
    *,
    access: Access = NO_ACCESS,
    allow_removals: bool = False,
    repair: bool = False,
    progress: Progress | None = None,
) -> AsyncIterator[Night]:
    """Open everything that a night needs; its downloads are gone when it ends.

    The arguments are those of `Night`; `read_state` is the first thing to ask of it. Where a `progress` is given, its
    clock began with the night.

    Raises:
        InputError: Corpus, embedder, golden queries or Milvus are not as they should be; nothing was written.
    """
    bound_arenas()
    with working_folder() as folder, Readers(corpus.reading) as readers:
        async with open_index(
            corpus.milvus, corpus.name, token, retrieval=corpus.retrieval, vectors=corpus.index
        ) as index:
            night = await asyncio.to_thread(
                Night,
                corpus,
                index,
                folder,
                progress or Progress(),
                readers,
                access=access,
                allow_removals=allow_removals,
                repair=repair,
            )
            try:
                yield night
            finally:
                with suppress(NightloomError):
                    await night.drop_unused()
