"""Generations: the physical collections of one index, their names, and which of them is what."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

STAMP = "%Y%m%dt%H%M%Sz"
_NAME = re.compile(r"(?P<alias>[A-Za-z_][A-Za-z0-9_]*)_(?P<stamp>\d{8}t\d{6}z)_(?P<fingerprint>[0-9a-f]{8})")

PROPERTY = "nightloom."
"""Prefix of the collection properties in which a generation carries what is known about it."""
SCHEMA = f"{PROPERTY}schema"
PROMOTED = f"{PROPERTY}promoted"
PROOF = f"{PROPERTY}proof"
WRITER = f"{PROPERTY}writer"
WHOLE = f"{PROPERTY}whole"
HELD = f"{PROPERTY}held"
OVERRULED = f"{PROPERTY}overruled"
EMBEDDER = f"{PROPERTY}embedder"
MADE_OF = f"{PROPERTY}made-of"
EVALUATION = f"{PROPERTY}evaluation"
SCORES = f"{PROPERTY}scores"
HISTORY = f"{PROPERTY}history"
FINISHED = f"{PROPERTY}finished"
NONCE = f"{PROPERTY}nonce"
"""Another value each time: Milvus's proxies forget what they know of a collection whose properties change."""


@dataclass(frozen=True, slots=True)
class Generation:
    """One physical collection of an index.

    Attributes:
        name: Of the collection: alias, time of creation, start of the fingerprint.
        alias: Of the index that it belongs to.
        fingerprint: sha256, hex.
        created: UTC, to the second.
        schema: SCHEMA_VERSION of what wrote it; 0 where that was not kept yet.
        live: Whether the alias names it.
        promoted: Whether readers ever saw it; one that they never saw is half-built, or was held.
        writer: The night that writes to it, or died while it did; "" where every row is as a whole night left it.
        proof: Ids of documents that tell it from the generation before, as read when it was promoted.
        whole: Whether a night found it to hold every document of that night, after the last write to it.
        held: Why the gate did not let it pass; "" where it did, or was never asked.
        overruled: The same, once an operator has let readers see it nevertheless.
        embedder: What its questions are embedded with, as JSON: identity, and the keys of [embedder].
        made_of: What its fingerprint was made of, as JSON: see `nightloom.fingerprint`; "" where it was not kept yet.
        evaluation: sha256 of the queries, qrels and metrics that `scores` come from; "" when never evaluated.
        scores: Value by metric.
        history: The nights up to this one and since, as JSON: see `nightloom.history`.
        finished: Time of the server after the last write, where `writer` is ""; 0 where it was not kept, or not told.
    """

    name: str
    alias: str
    fingerprint: str
    created: datetime
    schema: int = 0
    live: bool = False
    promoted: bool = False
    writer: str = ""
    proof: tuple[str, ...] = ()
    whole: bool = False
    held: str = ""
    overruled: str = ""
    embedder: str = ""
    made_of: str = ""
    evaluation: str = ""
    scores: tuple[tuple[str, float], ...] = ()
    history: str = ""
    finished: int = 0


def new_name(alias: str, fingerprint: str, existing: Iterable[Generation], now: datetime) -> tuple[str, datetime]:
    """A name for a new generation, and its time of creation.

    The time is later than that of every existing generation, whatever the clock says: their order is their age.
    """
    newest = max((generation.created for generation in existing), default=None)
    created = now.astimezone(UTC).replace(microsecond=0)
    if newest is not None and created <= newest:
        created = newest + timedelta(seconds=1)
    return f"{alias}_{created.strftime(STAMP)}_{fingerprint[:8]}", created


def parse_name(name: str) -> tuple[str, datetime] | None:
    """Alias and time of creation of a generation's name; None for any other name."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    try:
        return match["alias"], datetime.strptime(match["stamp"], STAMP).replace(tzinfo=UTC)
    except ValueError:
        return None


def state_of(generation: Generation) -> str:
    """What a generation is: "live", "earlier" (readers saw it once), "held" (by the gate) or "half-built"."""
    if generation.live:
        return "live"
    if generation.promoted:
        return "earlier"
    return "held" if generation.held else "half-built"


def by_precedence(generations: Iterable[Generation]) -> list[Generation]:
    """The live one first, then the others, the newest before older ones."""
    return sorted(generations, key=lambda one: (one.live, one.created), reverse=True)


def half_built(generations: Iterable[Generation], fingerprint: str) -> Generation | None:
    """The newest generation that an earlier night began with this fingerprint and did not bring to the readers."""
    begun = [
        generation
        for generation in generations
        if not generation.live and not generation.promoted and generation.fingerprint == fingerprint
    ]
    return max(begun, key=lambda generation: generation.created, default=None)


def disposable(generations: Iterable[Generation], keep: int) -> list[Generation]:
    """What may be dropped once a new generation is live: all that readers never saw, and, of those that they did, all
    but the newest `keep`."""
    others = [generation for generation in generations if not generation.live]
    seen = sorted((one for one in others if one.promoted), key=lambda one: one.created, reverse=True)
    return [one for one in others if not one.promoted] + seen[keep:]
