"""What tonight has to do: each document of the corpus against what the index already holds."""

from array import array
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from typing import Literal, overload

from nightloom.corpus import ShardSettings
from nightloom.documents import DocumentRef, Listing, Quarantined, version_of
from nightloom.heads import ChosenHeads, Head, versions_of
from nightloom.versions import READ_AT_ONCE, Chosen, Versions, in_parts

FIRST_SHARDS = (8, 4, 2)
"""Of the first shards, what part of the limits each takes: the embedder need not wait until whole ones are split."""
LEAST_DOCUMENTS, LEAST_BYTES = 16, 16_000
"""Of a first shard: one that is smaller still costs its task runs more than the embedder gains."""


@dataclass(frozen=True, slots=True)
class Planned:
    """A document that must be loaded, split and embedded, and the version that it will have.

    Attributes:
        twin: Id of a live document with the same content at another URI, whose vectors can be taken; "" for none.
    """

    ref: DocumentRef
    version: str
    twin: str = ""


class Work(Sequence[Planned]):
    """What is to be indexed, of a listing: 4 bytes a document in memory, the rest is made as it is looked at."""

    def __init__(
        self,
        listed: Sequence[DocumentRef],
        places: "array[int]",
        fingerprint: str,
        given: Mapping[int, str],
        twins: Versions,
    ) -> None:
        """Name the documents.

        Args:
            listed: All of the listing.
            places: Of those that are to be indexed.
            fingerprint: Tonight's.
            given: Versions, by place, that do not follow from the listing.
            twins: A live document by version.
        """
        self._listed = listed
        self._places = places
        self._fingerprint = fingerprint
        self._given = given
        self._twins = twins

    def __iter__(self) -> Iterator[Planned]:
        for start in range(0, len(self), READ_AT_ONCE):
            places = self._places[start : start + READ_AT_ONCE]
            first, last = places[0], places[-1]
            is_run = last - first == len(places) - 1  # which is read several times as fast
            refs = self._listed[first : last + 1] if is_run else [self._listed[place] for place in places]
            versions = [self._version(place, ref) for place, ref in zip(places, refs, strict=True)]
            for ref, version, twin in zip(refs, versions, self._twins.among(versions), strict=True):
                yield Planned(ref, version, twin or "")

    def _version(self, place: int, ref: DocumentRef) -> str:
        return self._given[place] if place in self._given else version_of(ref.content or "", self._fingerprint)

    def _at(self, places: "array[int]") -> "Work":
        return Work(self._listed, places, self._fingerprint, self._given, self._twins)

    def __eq__(self, other: object) -> bool:
        """Whether it is the same work in the same order."""
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(one == two for one, two in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # as a list has none

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, at: int) -> Planned: ...

    @overload
    def __getitem__(self, at: slice) -> "Work": ...

    def __getitem__(self, at: int | slice) -> "Planned | Work":
        if isinstance(at, slice):
            return self._at(self._places[at])
        (planned,) = self._at(array("I", [self._places[at]]))
        return planned


@dataclass(frozen=True, slots=True)
class Plan:
    """Tonight's work. Every listed document is in exactly one of `work`, `done`, `unchanged` and `quarantined`.

    Attributes:
        listed: How many documents the sources have tonight, those that could not be taken included.
        work: To be loaded, split, embedded and inserted.
        done: Heads that a half-built generation holds already, by document id.
        unchanged: Heads of the live generation that are right tonight, by document id; copied, never embedded.
        removed: Heads of the live generation whose documents are gone from the corpus.
        quarantined: Could not be listed or fetched.
    """

    listed: int
    work: Sequence[Planned]
    done: Mapping[str, Head]
    unchanged: Mapping[str, Head]
    removed: tuple[Head, ...]
    quarantined: tuple[Quarantined, ...]


def make_plan(
    listing: Listing,
    live: Mapping[str, Head],
    built: Mapping[str, Head],
    fingerprint: str,
    damaged: Collection[str] = frozenset(),
) -> Plan:
    """Compare the listing with the heads of the live generation and of a half-built one.

    Args:
        listing: Tonight's documents.
        live: Heads of the live generation by document id; empty on the first night.
        built: Heads of a half-built generation with tonight's fingerprint; empty where there is none.
        fingerprint: Tonight's.
        damaged: Ids of documents whose rows in the live generation are not whole: these are indexed again.
    """
    seen, half = versions_of(live), versions_of(built)
    places, given = array("I"), dict[int, str]()
    done, listed, staying = Versions(), Chosen(seen), Chosen(seen)
    for start in range(0, len(listing.documents), READ_AT_ONCE):
        refs = listing.documents[start : start + READ_AT_ONCE]
        keys = [ref.id for ref in refs]
        listed.add(keys)
        same, made_before = list[str](), dict[str, str]()
        compared = zip(refs, keys, seen.among(keys), half.among(keys), strict=True)
        for place, (ref, key, old, made) in enumerate(compared, start):
            content = ref.content
            version = old if content is None and old is not None else version_of(content or "", fingerprint)
            if made == version:
                made_before[key] = version
            elif old == version and key not in damaged:
                same.append(key)
            else:
                places.append(place)
                if content is None:
                    given[place] = version
        done.update(made_before)
        staying.add(same)
    not_taken = {entry.id for entry in listing.quarantined}
    twins = seen.without(damaged).inverted() if places else Versions()  # most nights have nothing to index
    return Plan(
        listed=len(listing.documents) + len(not_taken),
        work=Work(listing.documents, places, fingerprint, given, twins),
        done=ChosenHeads(built, done),
        unchanged=ChosenHeads(live, staying.versions),
        removed=tuple(live[key] for key in listed.left if key not in not_taken),
        quarantined=listing.quarantined,
    )


def became(
    plan: Plan, live: Mapping[str, Head], not_taken: Collection[str]
) -> Iterator[tuple[str, Literal["added", "changed", "unchanged"]]]:
    """What the documents that tonight indexes are to readers, by URI.

    Args:
        plan: Tonight's.
        live: Heads of the generation that readers saw before, by document id.
        not_taken: Ids of the documents that could not be taken; they are left out.

    Returns:
        "unchanged" is what a half-built generation held already in the version that readers see.
    """
    seen = versions_of(live)
    work = ((planned.ref.id, planned.ref.uri, None) for planned in plan.work)
    done = ((key, head.uri, head.version) for key, head in plan.done.items())
    for some in in_parts(chain(work, done)):
        before = seen.among([key for key, _, _ in some])
        for (key, uri, version), old in zip(some, before, strict=True):
            if key not in not_taken:
                yield uri, "added" if old is None else "unchanged" if old == version else "changed"


@dataclass(frozen=True, slots=True)
class Shard:
    """Some whole documents: the unit of work, memory and retry. It names its documents and does not carry them."""

    number: int
    count: int
    documents: Sequence[Planned]

    @property
    def label(self) -> str:
        """How task runs call it: short, as the UI draws them in a graph."""
        documents = "document" if len(self.documents) == 1 else "documents"
        return f"shard {self.number}/{self.count}: {len(self.documents)} {documents}"


def deal_out(work: Sequence[Planned], limits: ShardSettings) -> tuple[Shard, ...]:
    """Deal documents out into shards, in order, within the limits; a document above the size limit goes alone.

    The first shards are smaller: see `FIRST_SHARDS`.
    """
    groups = tuple(_groups(work, limits))
    return tuple(Shard(number, len(groups), group) for number, group in enumerate(groups, 1))


def _groups(work: Sequence[Planned], limits: ShardSettings) -> Iterator[Sequence[Planned]]:
    parts = chain(FIRST_SHARDS, repeat(1))
    documents, most_bytes = _limits(limits, next(parts))
    first = size_bytes = 0
    for at, planned in enumerate(work):
        full = at - first == documents or size_bytes + planned.ref.size_bytes > most_bytes
        if at > first and full:
            yield work[first:at]
            documents, most_bytes = _limits(limits, next(parts))
            first, size_bytes = at, 0
        size_bytes += planned.ref.size_bytes
    if len(work) > first:
        yield work[first:]


def _limits(limits: ShardSettings, part: int) -> tuple[int, int]:
    """Documents and bytes of a shard that takes so small a part of the limits."""
    return (
        min(limits.documents, max(LEAST_DOCUMENTS, limits.documents // part)),
        min(limits.size_bytes, max(LEAST_BYTES, limits.size_bytes // part)),
    )
