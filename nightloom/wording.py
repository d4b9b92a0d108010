"""Draft queries made of what documents say themselves: their headings, titles and sentences."""

import random
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

MAX_PER_DOCUMENT = 3
HEADING_CHARACTERS = (8, 150)
SENTENCE_CHARACTERS = (30, 250)
LETTERS = 0.7
"""Share of a query's characters that are letters or spaces, at least: code and tables make no query."""

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])")  # noqa: RUF001  the ends of sentences in Chinese and Japanese
_PARAGRAPH_END = re.compile(r"\n\s*\n")
_ENDS = tuple(".!?。！？")  # noqa: RUF001  likewise
_LEANING = re.compile(
    r"(this|that|these|those|it|its|they|such|in such|see|note|here|he|she|but|also|thus|however|otherwise)\b",
    re.IGNORECASE,
)
"""How a sentence begins that says little without the one before it."""

Kind = Literal["heading", "title", "sentence", "question"]


@dataclass(frozen=True, slots=True)
class Passage:
    """A node as an index gives it back.

    Attributes:
        uri: Of its document.
        headings: Of the section that it is in, the outermost first.
    """

    uri: str
    title: str
    headings: tuple[str, ...]
    text: str


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A draft query, and the passage that it comes from.

    Attributes:
        kind: What its text is; a question was asked about the passage, the others are its own words.
    """

    text: str
    kind: Kind
    passage: Passage


def suggestions(documents: Sequence[Sequence[Passage]], count: int, seed: int) -> list[Suggestion]:
    """Draft queries, of as many documents as there are before a second one of any.

    Headings, titles and sentences that more than one of these documents have are left out: they are boilerplate, or
    lead to any of them.

    Args:
        documents: Passages of each, in the order in which they are wanted.
        count: Of queries, at most.
        seed: The same documents and seed give the same queries.
    """
    candidates = [list(_candidates(passages)) for passages in documents]
    shared = Counter(key for found in candidates for key in {_key(one.text) for one in found})
    rng = random.Random(seed)  # noqa: S311  a draw that anyone may repeat
    kept = []
    for found in candidates:
        own = {_key(one.text): one for one in found if shared[_key(one.text)] == 1}
        drawn = rng.sample(list(own.values()), len(own))
        kept.append(sorted(drawn, key=lambda one: one.kind == "sentence")[:MAX_PER_DOCUMENT])
    in_rounds = (found[at] for at in range(MAX_PER_DOCUMENT) for found in kept if at < len(found))
    return list(islice(in_rounds, count))


def _candidates(passages: Sequence[Passage]) -> Iterator[Suggestion]:
    for passage in passages:
        if _fits(passage.title, HEADING_CHARACTERS):
            yield Suggestion(_squeezed(passage.title), "title", passage)
        if passage.headings:
            # A heading of one word ("Installation") says too little without what it is about.
            words = " ".join(passage.headings[-1].split())
            about = f"{passage.title}: {words}" if passage.title and " " not in words else words
            if _fits(about, HEADING_CHARACTERS):
                yield Suggestion(about, "heading", passage)
        for sentence in _sentences(passage.text):
            yield Suggestion(sentence, "sentence", passage)


def _sentences(text: str) -> Iterator[str]:
    for paragraph in _PARAGRAPH_END.split(text):
        for sentence in map(_squeezed, _SENTENCE_END.split(paragraph)):
            # One that begins small, or never ends, was cut by the splitter or is none.
            whole = sentence.endswith(_ENDS) and sentence[0].isalnum() and not sentence[0].islower()
            if whole and _fits(sentence, SENTENCE_CHARACTERS) and not _LEANING.match(sentence):
                yield sentence


def _fits(text: str, limits: tuple[int, int]) -> bool:
    shortest, longest = limits
    wordy = sum(character.isalpha() or character.isspace() for character in text)
    return shortest <= len(text) <= longest and wordy >= LETTERS * len(text)


def _squeezed(text: str) -> str:
    return " ".join(text.split())


def _key(text: str) -> str:
    """What two texts have in common that are the same query."""
    return "".join(character for character in text.casefold() if character.isalnum())


def in_order(sources: Mapping[str, str], seed: int) -> list[str]:
    """Documents in the order in which they are drawn: any first part has every source in its proportion.

    Args:
        sources: Source by document id.
        seed: Of the draw.

    Returns:
        Every document id.
    """
    rng = random.Random(seed)  # noqa: S311  a draw that anyone may repeat
    order: list[tuple[bool, float, str]] = []
    for source in sorted(set(sources.values())):
        own = sorted(key for key, label in sources.items() if label == source)
        # The first of every source comes before the second of any.
        order += [(at > 0, (at + rng.random()) / len(own), key) for at, key in enumerate(rng.sample(own, len(own)))]
    return [key for *_, key in sorted(order)]
