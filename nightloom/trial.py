"""The trial: what tonight's generation is asked before readers see it, and the live one in the same run."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

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
from nightloom.rows import Row

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


class Prober:
    """Probes a generation: sentences of its documents must find them.

    Where the live generation holds a document's content already, the passage comes from there: what readers find
    today they must find tomorrow, whatever a new embedder or splitter has made of it.
    """

    def __init__(self, contents: Contents, embedder: Embedder, witness: Witness | None, seed: str) -> None:
        """Prepare probes; the same seed over the same documents draws the same ones."""
        self._contents = contents
        self._embedder = embedder
        self._witness = witness
        self._chance = random.Random(seed)  # noqa: S311  a sample, no secret
        self._asked: list[Question] = []

    async def probe(
        self, collection: str, drawn: Sequence[DocumentRef], count: int, documents: int, concurrency: int
    ) -> tuple[ProbeScores, VectorChecks]:
        """Draw passages and ask for them.

        Args:
            collection: The generation.
            drawn: Documents that it must hold, to take sentences from, in turn.
            count: Sentences, at most.
            documents: How many documents it holds.
            concurrency: Requests in flight.
        """
        heads = await self._contents.heads(collection, [ref.id for ref in drawn])
        refs = [ref for ref in drawn if ref.id in heads]
        without = len(drawn) - len(refs)  # whose heads are not there
        turns = [refs[at % len(refs)] for at in range(count)] if refs else []
        rows, expected = await self._sample(collection, turns, heads)
        probes = await self._probes(turns, heads, rows)
        compared, lost = await self._compare(collection, probes, heads)
        found = list(rows.values())
        vectors = np.array([row["embedding"] for row in found], dtype=np.float32)
        checks = check_vectors(expected + without, [row["text"] for row in found], vectors)
        depth = depth_for(documents)
        missed = await self._ask(collection, probes, depth, concurrency)
        return ProbeScores(len(probes), depth, missed, compared, lost), checks

    async def index_recall(self, collection: str) -> float | None:
        """What the index over the vectors finds of the exact answers to some of the probes; None where it is exact."""
        if not self._asked or await self._contents.is_exact(collection):
            return None
        return await self._contents.measure_index_recall(collection, self._asked[:QUESTIONS_MEASURED])

    async def _sample(
        self, collection: str, refs: Sequence[DocumentRef], heads: Mapping[str, Head]
    ) -> tuple[dict[str, Row], int]:
        """Random nodes of documents, and how many there should be."""
        keys = {self._any_node(ref.id, heads[ref.id]) for ref in refs}
        return await self._contents.nodes(collection, sorted(keys)), len(keys)

    def _any_node(self, document: str, head: Head) -> str:
        return node_id(document, self._chance.randrange(head.total))

    async def _probes(
        self, refs: Sequence[DocumentRef], heads: Mapping[str, Head], rows: Mapping[str, Row]
    ) -> list[Probe]:
        witness = self._witness
        seen = {ref.id for ref in refs if witness is not None and witness.knows(ref)}
        texts: dict[str, list[str]] = {}
        for row in rows.values():
            if row["document_id"] not in seen:
                texts.setdefault(row["document_id"], []).append(row["text"])
        if witness is not None:
            keys = {self._any_node(ref.id, witness.heads[ref.id]) for ref in refs if ref.id in seen}
            for row in (await self._contents.nodes(witness.generation.name, sorted(keys))).values():
                texts.setdefault(row["document_id"], []).append(row["text"])
        probes: dict[str, Probe] = {}
        for ref in refs:
            said = texts.get(ref.id, [])
            passage = passage_of(said.pop(), self._chance) if said else ""
            if passage:
                probes.setdefault(passage, Probe(passage, ref.id, heads[ref.id].uri, ref.id in seen))
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
        questions = await questions_of(self._embedder, {probe.passage: probe.passage for probe in probes})
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
