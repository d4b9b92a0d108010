"""The trial: what tonight's generation is asked before readers see it, and the live one in the same run."""

import random
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from nightloom.batches import Row
from nightloom.comparison import Difference, Loser
from nightloom.contents import Contents
from nightloom.documents import DocumentRef, node_id, version_of
from nightloom.embedding import Embedder
from nightloom.evaluation import Judged, Scores, score
from nightloom.generations import Generation
from nightloom.heads import Head
from nightloom.probes import (
    Probe,
    ProbeScores,
    VectorChecks,
    check_vectors,
    depth_for,
    holds,
    lacks,
    passage_of,
)
from nightloom.retrieval import Question, ask_all
from nightloom.splitting import Node

NODES_COMPARED = 100
"""Of a document in which a passage is looked for, at most."""
QUESTIONS_MEASURED = 20
"""For which every vector is compared."""
NODES_LOOKED_AT = 100
"""Of a probe that does not find its document, to see whether others say the very same."""


@dataclass
class Trial:
    """What a trial showed.

    Attributes:
        scores: Of tonight's generation on the golden queries; None where there are none.
        differences: Of each metric against the live generation; empty where nothing can be compared.
        losers: Queries that got worse on the first metric, the worst first.
        probes: What the probes found; None where none were asked.
        vectors: What a sample of the rows shows; None likewise.
        duplicate_rate: Share of the documents that repeat the content of another.
        index_recall: What the index over the vectors finds of the exact answers; None where it is exact.
    """

    scores: Scores | None = None
    differences: list[Difference] = field(default_factory=list)
    losers: list[Loser] = field(default_factory=list)
    probes: ProbeScores | None = None
    vectors: VectorChecks | None = None
    duplicate_rate: float = 0.0
    index_recall: float | None = None


@dataclass(frozen=True, slots=True)
class Witness:
    """The generation that readers see, as far as it can say what a document's text is."""

    generation: Generation
    heads: Mapping[str, Head]

    def knows(self, ref: DocumentRef) -> bool:
        """Whether it holds tonight's content of a document, under whatever fingerprint."""
        head = self.heads.get(ref.id)
        if head is None:
            return False
        return ref.content is None or head.version == version_of(ref.content, self.generation.fingerprint)


async def ask_golden(
    contents: Contents, collection: str, questions: Mapping[str, Question], judged: Judged, concurrency: int
) -> Scores:
    """Ask golden queries of a generation and score the answers.

    Args:
        contents: What asks.
        collection: The generation.
        questions: By query id, those that `judged` asks.
        judged: The golden queries.
        concurrency: Requests in flight.
    """
    rankings = await ask_all(
        questions,
        lambda some, limit: contents.rank(collection, some, limit),
        judged.golden.depth,
        concurrency,
    )
    return score(judged, rankings)


async def questions_of(embedder: Embedder, texts: Mapping[str, str]) -> dict[str, Question]:
    """Texts as questions, under the same keys."""
    vectors = await embedder.embed_queries(list(texts.values())) if texts else ()
    return {key: Question(text, vector) for (key, text), vector in zip(texts.items(), vectors, strict=True)}


class Questions:
    """What is asked with one embedder; every text is embedded once."""

    def __init__(self, embedder: Embedder) -> None:
        """Nothing is embedded yet."""
        self._embedder = embedder
        self._known: dict[str, Question] = {}

    async def of(self, texts: Mapping[str, str]) -> dict[str, Question]:
        """Texts as questions, under the same keys.

        Raises:
            NightloomError: As `Embedder.embed_queries`.
        """
        self._known |= await questions_of(
            self._embedder, {text: text for text in texts.values() if text not in self._known}
        )
        return {key: self._known[text] for key, text in texts.items()}


class Prober:
    """Probes a generation: sentences of its documents must find them.

    Where the live generation holds a document's content already, the passage comes from there: what readers find
    today they must find tomorrow, whatever a new embedder or splitter has made of it.
    """

    def __init__(
        self,
        contents: Contents,
        questions: Questions,
        witness: Witness | None,
        drawn: Sequence[DocumentRef],
        count: int,
        seed: str,
    ) -> None:
        """Prepare probes.

        Args:
            contents: What is asked.
            questions: With the embedder of the generation.
            witness: What readers see, where that is another one.
            drawn: Documents to take passages from, in turn.
            count: Passages, at most.
            seed: The same one over the same documents draws the same passages.
        """
        self._contents = contents
        self._questions = questions
        self._witness = witness
        self._drawn = drawn
        self._count = count
        self._seed = seed
        self._seen = {ref.id for ref in drawn if witness is not None and witness.knows(ref)}
        self._loaded: list[str] = []
        self._asked: list[Question] = []

    def take(self, nodes: Iterable[Node]) -> None:
        """Keep the passages of nodes that were just made, as far as they will be drawn: see `embed_ahead`."""
        turns, keys = self._turns(self._drawn), dict[str, set[str]]()
        for node in nodes:
            document = node.document.ref.id
            if document not in turns or document in self._seen:
                continue
            if document not in keys:
                keys[document] = self._keys(document, node.total, turns[document])
            if node.id in keys[document]:
                self._loaded.append(self._passage(node.id, node.text))

    async def embed_ahead(self) -> None:
        """Embed what was kept, while there is nothing else to do; whatever is drawn in the end decides.

        Raises:
            NightloomError: As `Embedder.embed_queries`.
        """
        await self._questions.of({passage: passage for passage in self._loaded if passage})

    async def probe(
        self, collection: str, documents: Collection[str], concurrency: int
    ) -> tuple[ProbeScores, VectorChecks]:
        """Draw passages and ask for them.

        Args:
            collection: The generation.
            documents: Ids of those that it must hold: what else was drawn is quarantined.
            concurrency: Requests in flight.
        """
        drawn = [ref for ref in self._drawn if ref.id in documents]
        heads = await self._contents.heads(collection, [ref.id for ref in drawn])
        turns = self._turns([ref for ref in drawn if ref.id in heads])
        without = len(drawn) - len(turns)  # whose heads are not there
        keys = {key for document, count in turns.items() for key in self._keys(document, heads[document].total, count)}
        rows = await self._contents.nodes(collection, sorted(keys))
        probes = await self._probes(turns, heads, rows)
        compared, lost = await self._compare(collection, probes, heads)
        found = list(rows.values())
        vectors = np.array([row["embedding"] for row in found], dtype=np.float32)
        checks = check_vectors(len(keys) + without, [row["text"] for row in found], vectors)
        depth = depth_for(len(documents))
        missed = await self._ask(collection, probes, depth, concurrency)
        return ProbeScores(len(probes), depth, missed, compared, lost), checks

    async def index_recall(self, collection: str) -> float | None:
        """What the index over the vectors finds of the exact answers to some of the probes; None where it is exact."""
        if not self._asked or await self._contents.is_exact(collection):
            return None
        return await self._contents.measure_index_recall(collection, self._asked[:QUESTIONS_MEASURED])

    def _turns(self, refs: Sequence[DocumentRef]) -> dict[str, int]:
        """How many passages each document gives, by its id."""
        share, more = divmod(self._count, max(1, len(refs)))
        return {ref.id: share + (at < more) for at, ref in enumerate(refs)}

    def _keys(self, document: str, total: int, count: int) -> set[str]:
        """So many random nodes of a document that has `total`: fewer, where one is drawn twice."""
        chance = random.Random(f"{self._seed} {document}")  # noqa: S311  a sample, no secret
        return {node_id(document, chance.randrange(total)) for _ in range(count)}

    def _passage(self, node: str, text: str) -> str:
        """A random passage of a node; "" where it says nothing."""
        return passage_of(text, random.Random(f"{self._seed} {node}"))  # noqa: S311  a sample, no secret

    async def _probes(
        self, turns: Mapping[str, int], heads: Mapping[str, Head], rows: Mapping[str, Row]
    ) -> list[Probe]:
        told = [row for row in rows.values() if row["document_id"] not in self._seen]
        if witness := self._witness:
            keys = {
                key
                for document, count in turns.items()
                if document in self._seen
                for key in self._keys(document, witness.heads[document].total, count)
            }
            told += (await self._contents.nodes(witness.generation.name, sorted(keys))).values()
        probes: dict[str, Probe] = {}
        for row in told:
            document = row["document_id"]
            if passage := self._passage(row["id"], row["text"]):
                probes.setdefault(passage, Probe(passage, document, heads[document].uri, document in self._seen))
        return list(probes.values())

    async def _compare(
        self, collection: str, probes: Sequence[Probe], heads: Mapping[str, Head]
    ) -> tuple[int, tuple[Probe, ...]]:
        """Look for passages that readers see today in tonight's text of their documents.

        Returns:
            How many were looked for, and those that are not there.
        """
        some = [probe for probe in probes if probe.seen and heads[probe.document].total <= NODES_COMPARED]
        texts = await self._contents.texts(collection, {probe.document for probe in some})
        lost = tuple(probe for probe in some if lacks(texts.get(probe.document, ""), probe.passage))
        return len(some), lost

    async def _ask(self, collection: str, probes: Sequence[Probe], depth: int, concurrency: int) -> tuple[Probe, ...]:
        """The probes that do not find their documents."""
        questions = await self._questions.of({probe.passage: probe.passage for probe in probes})
        rankings = await ask_all(
            questions,
            lambda some, limit: self._contents.rank(collection, some, limit),
            depth,
            concurrency,
        )
        self._asked = list(questions.values())
        missed = []
        for probe in probes:
            found = {uri for uri, _ in rankings[probe.passage]}
            if probe.uri not in found and not await self._said_by(collection, found, questions[probe.passage]):
                missed.append(probe)
        return tuple(missed)

    async def _said_by(self, collection: str, uris: set[str], question: Question) -> bool:
        """Whether one of the documents that were found has the very passage: boilerplate is in many."""
        hits = await self._contents.search(collection, question, NODES_LOOKED_AT)
        return any(hit.uri in uris and holds(hit.text, question.text) for hit in hits)
