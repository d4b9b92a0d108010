"""The index over a generation's vectors: its type by the number of rows, and how much of the exact answer it finds."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from nightloom.capabilities import Capabilities
from nightloom.corpus import IndexSettings, Parameter
from nightloom.vectors import Vectors

FLAT_ROWS = 50_000
"""Below, every vector is compared: exact, and fast enough."""
GRAPH_ROWS = 5_000_000
"""From here on a graph over whole vectors takes too much memory: they are kept at one byte a dimension."""

AUTOINDEX = "AUTOINDEX"
"""The type that leaves the choice to Milvus; Zilliz Cloud has no other."""
HNSW_BUILD = {"M": 16, "efConstruction": 200}
SEARCH_DEPTH = 128
"""Nodes of a graph that a search keeps in view, at least."""
PROBES = 64
"""Lists of an inverted file that a search reads."""
MOST_LISTS = 65_536

AT_LEAST_LIMIT = {"HNSW": "ef", "HNSW_SQ": "ef", "HNSW_PQ": "ef", "DISKANN": "search_list"}
"""The parameter that Milvus wants to be no less than the rows that a search gives back, by type."""

Scores = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class VectorIndex:
    """An index as Milvus builds it.

    Attributes:
        kind: As Milvus names it: FLAT, HNSW, IVF_SQ8 ...
        build: Its parameters.
    """

    kind: str
    build: Mapping[str, Parameter] = field(default_factory=dict)


def first_index(does: Capabilities) -> VectorIndex:
    """The index of a new collection, until its rows are there: exact, where Milvus has such a one."""
    return VectorIndex(AUTOINDEX if does.only_autoindex else "FLAT")


def fitting(settings: IndexSettings, rows: int, does: Capabilities) -> VectorIndex:
    """The index that so many rows should have: what the corpus file names, else by their number.

    Milvus Lite is for few rows, and always compares every vector unless the file says otherwise. Where Milvus has only
    AUTOINDEX, it builds that whatever the file names.
    """
    if does.only_autoindex:
        return VectorIndex(AUTOINDEX)
    if settings.type != "auto":
        return VectorIndex(settings.type, _defaults(settings.type, rows) | settings.build)
    if not does.picks_index_by_rows or rows < FLAT_ROWS:
        return VectorIndex("FLAT")
    kind = "HNSW" if rows < GRAPH_ROWS else "IVF_SQ8"
    return VectorIndex(kind, _defaults(kind, rows) | settings.build)


def _defaults(kind: str, rows: int) -> dict[str, Parameter]:
    if kind.startswith("HNSW"):
        return dict(HNSW_BUILD)
    return {"nlist": min(MOST_LISTS, max(1, 4 * math.isqrt(rows)))} if kind.startswith("IVF") else {}


def search_parameters(kind: str, given: Mapping[str, Parameter], limit: int) -> dict[str, Parameter]:
    """What a search of an index of this type is told.

    Args:
        kind: Type of the index.
        given: In the corpus file.
        limit: Rows that the search gives back.
    """
    if kind in AT_LEAST_LIMIT:
        name = AT_LEAST_LIMIT[kind]
        wanted = given.get(name, SEARCH_DEPTH)
        return {**given, name: max(int(wanted), limit)}
    return {"nprobe": PROBES, **given} if kind.startswith("IVF") else dict(given)


def scores(metric: str, vectors: Vectors, questions: Vectors) -> Scores:
    """How near vectors are to questions by a metric of Milvus: higher is nearer.

    Args:
        metric: COSINE, IP or L2.
        vectors: Shape (n, dim).
        questions: Shape (m, dim).

    Returns:
        float32, shape (m, n).
    """
    if metric == "L2":
        squares = (questions**2).sum(axis=1)[:, None] + (vectors**2).sum(axis=1)[None, :]
        return np.asarray(2 * questions @ vectors.T - squares, dtype=np.float32)
    if metric == "COSINE":
        vectors, questions = (some / np.linalg.norm(some, axis=1, keepdims=True) for some in (vectors, questions))
    return np.asarray(questions @ vectors.T, dtype=np.float32)


class ExactAnswers:
    """The exact answers to some questions, from vectors that come in batches; memory is that of one batch."""

    TIE = 1e-5
    """Scores no further apart are one score: Milvus computes them in another order."""

    def __init__(self, metric: str, questions: Vectors, found: Sequence[Sequence[str]]) -> None:
        """Nothing seen yet.

        Args:
            metric: Of the index.
            questions: float32, shape (m, dim).
            found: Keys of the rows that the index gave for each question.
        """
        self._metric = metric
        self._questions = questions
        self._found = [set(keys) for keys in found]
        self._best = [np.empty(0, dtype=np.float32) for _ in found]
        self._own: list[list[float]] = [[] for _ in found]

    def see(self, keys: Sequence[str], vectors: Vectors) -> None:
        """Take in a batch: keys of n rows, and their vectors, shape (n, dim)."""
        for at, row in enumerate(scores(self._metric, vectors, self._questions)):
            count = len(self._found[at])
            self._best[at] = np.sort(np.concatenate([self._best[at], row]))[::-1][:count]
            self._own[at] += [float(row[position]) for position, key in enumerate(keys) if key in self._found[at]]

    def recall(self) -> float:
        """Share of the found rows that are as near as the exact answers, from 0 to 1; 1 where nothing was found."""
        right = sum(
            sum(score >= best[-1] - self.TIE for score in own)
            for own, best in zip(self._own, self._best, strict=True)
            if len(best)
        )
        count = sum(map(len, self._found))
        return float(right / count) if count else 1.0
