"""Probes: known-item queries made from the corpus. Sentences of a document must find it; that needs no labels."""

import itertools
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from nightloom.documents import DocumentRef
from nightloom.vectors import Vectors, unusable
from nightloom.versions import Versions

DEPTH = 10
"""Documents among which a probe must find its own."""
DOCUMENTS_PER_RANK = 3
"""Of a corpus so small that its documents come up by chance, fewer: one rank for every three documents."""
PASSAGE_CHARACTERS = 300
"""Of a probe, where the text has them: single sentences say too little (on Cranfield 84 to 88 of 100 find their
abstract by exact search, and 98 of 100 such passages)."""
SENTENCE_CHARACTERS = 40
"""Of a sentence that says something, at least."""
PIECE = 6
"""Characters of the pieces by which a passage is looked for: there are languages without spaces."""
LOST = 0.2
"""Share of a passage's pieces that a text may lack: a node can end within it."""
UNIT = 1e-2
"""How far the length of a vector may be from 1."""
ALIKE = 0.9999
"""Mean similarity of the vectors of different texts, above which they are one and the same."""

_ENDS = re.compile(r"(?<=[.!?。！？])\s+|\n{2,}")  # noqa: RUF001  full-width marks end sentences too


@dataclass(frozen=True, slots=True)
class Probe:
    """Sentences that follow each other, and the document that they are from.

    Attributes:
        passage: The sentences.
        seen: Whether readers see it today, in a document that has not changed since.
    """

    passage: str
    document: str
    uri: str
    seen: bool = False


@dataclass(frozen=True, slots=True)
class ProbeScores:
    """What the probes found.

    Attributes:
        asked: Probes.
        depth: Documents among which each had to find its own.
        missed: Probes that did not.
        compared: Probes whose passage was looked for in tonight's text of their document: readers see it today.
        lost: Those of which the text lacks words.
    """

    asked: int
    depth: int
    missed: tuple[Probe, ...]
    compared: int = 0
    lost: tuple[Probe, ...] = ()

    @property
    def recall(self) -> float:
        """Share of the probes that found their document."""
        return 1 - len(self.missed) / self.asked if self.asked else 1.0


@dataclass(frozen=True, slots=True)
class VectorChecks:
    """What a sample of a generation's rows shows of its vectors.

    Attributes:
        sampled: Rows that were looked at.
        absent: Rows that the heads count and that are not there.
        unusable: All-zero or not finite.
        not_unit: Of another length than 1.
        alike: Mean cosine similarity of the vectors of different texts; at 1, they are one and the same.
    """

    sampled: int
    absent: int
    unusable: int
    not_unit: int
    alike: float


def draw(documents: Iterable[DocumentRef], count: int, seed: str) -> list[DocumentRef]:
    """A sample of documents in which every source has its share, and at least one.

    Args:
        documents: Of the corpus.
        count: About how many.
        seed: The same one draws the same documents from the same corpus.
    """
    if not count:
        return []
    chance = random.Random(seed)  # noqa: S311  a sample, no secret
    strata: dict[str, list[DocumentRef]] = {}
    for ref in documents:
        strata.setdefault(ref.source, []).append(ref)
    every = sum(map(len, strata.values()))
    drawn: list[DocumentRef] = []
    for source in sorted(strata):
        stratum = strata[source]
        share = max(1, round(count * len(stratum) / every))
        drawn += chance.sample(stratum, min(share, len(stratum)))
    chance.shuffle(drawn)
    return drawn


def depth_for(documents: int) -> int:
    """Documents among which a probe must find its own, in a corpus of so many."""
    return max(1, min(DEPTH, documents // DOCUMENTS_PER_RANK))


def passage_of(text: str, chance: random.Random) -> str:
    """A passage of a text, from the beginning of a sentence on that is drawn among those that say something.

    Where the text ends too soon after it, the passage begins before it; where no sentence says something, it is "".
    """
    sentences = [said for part in _ENDS.split(text) if (said := " ".join(part.split()))]
    starts = itertools.accumulate((len(said) + 1 for said in sentences), initial=0)
    telling = [
        start
        for start, said in zip(starts, sentences, strict=False)
        if len(said) >= SENTENCE_CHARACTERS and sum(map(str.isalpha, said)) * 2 > len(said)
    ]
    if not telling:
        return ""
    whole = " ".join(sentences)
    begin = max(0, min(chance.choice(telling), len(whole) - PASSAGE_CHARACTERS))
    return whole[begin : begin + PASSAGE_CHARACTERS].strip()


def holds(text: str, passage: str) -> bool:
    """Whether a text has a passage in it, whatever its line breaks."""
    return passage in " ".join(text.split())


def lacks(text: str, passage: str) -> bool:
    """Whether a text lacks more than a little of a passage, wherever nodes and lines begin and end."""
    text, passage = ("".join(part.split()) for part in (text, passage))
    pieces = {passage[at : at + PIECE] for at in range(max(1, len(passage) - PIECE + 1))}
    return sum(piece not in text for piece in pieces) > len(pieces) * LOST


def check_vectors(expected: int, texts: Sequence[str], vectors: Vectors) -> VectorChecks:
    """Look at vectors of a sample of rows.

    Args:
        expected: Rows that should be there.
        texts: n texts of those that are.
        vectors: float32, shape (n, dim).
    """
    bad = unusable(vectors) if len(vectors) else np.zeros(0, dtype=bool)
    lengths = np.linalg.norm(vectors[~bad], axis=1) if len(vectors) else np.zeros(0)
    return VectorChecks(
        sampled=len(texts),
        absent=expected - len(texts),
        unusable=int(bad.sum()),
        not_unit=int((abs(lengths - 1) > UNIT).sum()),
        alike=_alike(texts, vectors, ~bad),
    )


def _alike(texts: Sequence[str], vectors: Vectors, usable: np.ndarray) -> float:
    """Mean cosine similarity over all pairs of different texts."""
    first = {text: at for at, text in enumerate(texts) if usable[at]}
    if len(first) < 2:  # noqa: PLR2004  a pair
        return 0.0
    units = np.array([vectors[at] / np.linalg.norm(vectors[at]) for at in first.values()], dtype=np.float64)
    count = len(units)
    return float((np.square(units.sum(axis=0)).sum() - count) / (count * (count - 1)))


def duplicate_rate(versions: Versions) -> float:
    """Share of the documents whose content another one has too, as their versions show."""
    return 1 - versions.distinct / len(versions) if versions else 0.0
