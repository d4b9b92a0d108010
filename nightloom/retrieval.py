"""Retrieval: what an index is asked, and how the nodes that it finds make a ranking of documents."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from nightloom.concurrency import each
from nightloom.vectors import Vectors

NODES_PER_DOCUMENT = 2
"""Asked for at first: every node of an answer costs the client more than Milvus."""
MORE = 4
"""Times as many are asked for where they are of too few documents."""
MOST_NODES = 16_384
"""Milvus answers a search with no more."""
BATCH = 100
"""Questions that one request asks: with more, Milvus answers no faster."""
REQUEST_NODES = 50_000
"""Nodes in the answer to one request, of which Milvus sends 64 MB: there is room for URIs of a thousand bytes."""

RRF_K = 60
"""Of reciprocal rank fusion: a node counts 1 / (k + rank) for each way in which it was found."""
LEG_NODES = 100
"""Found by embedding and by keywords each, at least, before they are fused."""
BM25 = {"bm25_k1": 1.2, "bm25_b": 0.75}

Ranking = list[tuple[str, float]]
"""URI and score, best first."""


@dataclass(frozen=True, slots=True)
class Question:
    """What an index is asked.

    Attributes:
        vector: float32, shape (dim,), of the text with the embedder's query prefix.
    """

    text: str
    vector: Vectors


Search = Callable[[Sequence[Question], int], Awaitable[list[Ranking]]]
"""The nodes nearest to each question, by the URIs of their documents: so many for each, at most."""


async def ask_all(
    questions: Mapping[str, Question], search: Search, depth: int, concurrency: int
) -> dict[str, Ranking]:
    """Rank documents for every question, several requests at once.

    Args:
        questions: By query id.
        search: Of one generation.
        depth: Documents of a ranking, at most.
        concurrency: Requests in flight.
    """
    keys = list(questions)
    batches = [keys[start : start + BATCH] for start in range(0, len(keys), BATCH)]

    async def ask(batch: list[str]) -> list[Ranking]:
        return await rank_documents(search, [questions[key] for key in batch], depth)

    answers = await each(batches, ask, at_once=concurrency)
    return {
        key: ranking
        for batch, found in zip(batches, answers, strict=True)
        for key, ranking in zip(batch, found, strict=True)
    }


async def rank_documents(search: Search, questions: Sequence[Question], depth: int) -> list[Ranking]:
    """The `depth` best documents for each question, each by its best node.

    Of questions whose nodes are of fewer documents, more nodes are asked for.
    """
    rankings: list[Ranking] = [[] for _ in questions]
    asked = list(range(len(questions)))
    limit = min(MOST_NODES, depth * NODES_PER_DOCUMENT)
    while asked:
        size = REQUEST_NODES // limit
        found: list[Ranking] = []
        for start in range(0, len(asked), size):
            found += await search([questions[at] for at in asked[start : start + size]], limit)
        again = []
        for at, nodes in zip(asked, found, strict=True):
            best: dict[str, float] = {}
            for uri, similarity in nodes:
                best.setdefault(uri, similarity)
            rankings[at] = list(best.items())[:depth]
            if len(best) < depth and len(nodes) == limit < MOST_NODES:
                again.append(at)
        asked = again
        limit = min(MOST_NODES, limit * MORE)
    return rankings
