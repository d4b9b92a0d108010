"""What tonight has to do: each document of the corpus against what the index already holds."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from nightloom.corpus import ShardSettings
from nightloom.documents import DocumentRef, Listing, Quarantined, version_of


@dataclass(frozen=True, slots=True)
class Head:
    """The commit record of an indexed document: the node at position 0.

    Attributes:
        document: Document id.
        version: Of the document that was indexed.
        total: Nodes of the document.
        uri: The document's URI.
        item: Its id in its source.
        validator: What its source gave for a conditional request; "" for none.
    """

    document: str
    version: str
    total: int
    uri: str
    item: str
    validator: str = ""


def versions_of(heads: Mapping[str, Head]) -> dict[str, str]:
    """The version of every document, by document id."""
    return {key: head.version for key, head in heads.items()}


def rows_of(heads: Iterable[Head]) -> int:
    """How many rows these documents have, as their heads count them."""
    return sum(head.total for head in heads)


@dataclass(frozen=True, slots=True)
class Planned:
    """A document that must be loaded, split and embedded, and the version that it will have.

    Attributes:
        twin: Id of a live document with the same content at another URI, whose vectors can be taken; "" for none.
    """

    ref: DocumentRef
    version: str
    twin: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """Tonight's work. Every listed document is in exactly one of `work`, `done`, `unchanged` and `quarantined`.

    Attributes:
        listed: How many documents the sources have tonight, those that could not be taken included.
        work: To be loaded, split, embedded and inserted.
        done: Heads that a half-built generation holds already, by document id.
        unchanged: Heads of the live generation that are right tonight, by document id; copied, never embedded.
        changed: Ids of the documents in `work` that the live generation holds in another version.
        removed: Heads of the live generation whose documents are gone from the corpus.
        quarantined: Could not be listed or fetched.
    """

    listed: int
    work: tuple[Planned, ...]
    done: Mapping[str, Head]
    unchanged: Mapping[str, Head]
    changed: frozenset[str]
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
    work: list[Planned] = []
    changed: set[str] = set()
    done: dict[str, Head] = {}
    unchanged: dict[str, Head] = {}
    twins: dict[str, str] | None = None  # of every live document, and most nights have none to index
    for ref in listing.documents:
        key = ref.id
        old = live.get(key)
        version = old.version if ref.content is None and old else version_of(ref.content or "", fingerprint)
        if key in built and built[key].version == version:
            done[key] = built[key]
        elif old and old.version == version and key not in damaged:
            unchanged[key] = old
        else:
            if twins is None:
                twins = {head.version: one for one, head in live.items() if one not in damaged}
            work.append(Planned(ref, version, twins.get(version, "")))
            if old:
                changed.add(key)
    not_taken = {entry.id for entry in listing.quarantined}
    return Plan(
        listed=len(work) + len(done) + len(unchanged) + len(not_taken),
        work=tuple(work),
        done=done,
        unchanged=unchanged,
        changed=frozenset(changed),
        removed=tuple(
            head
            for key, head in live.items()
            if not (key in unchanged or key in done or key in changed or key in not_taken)
        ),
        quarantined=listing.quarantined,
    )


@dataclass(frozen=True, slots=True)
class Shard:
    """Some whole documents: the unit of work, memory and retry. It names its documents and does not carry them."""

    number: int
    count: int
    documents: tuple[Planned, ...]

    @property
    def label(self) -> str:
        """How task runs call it: short, as the UI draws them in a graph."""
        documents = "document" if len(self.documents) == 1 else "documents"
        return f"shard {self.number}/{self.count}: {len(self.documents)} {documents}"


def deal_out(work: tuple[Planned, ...], limits: ShardSettings) -> tuple[Shard, ...]:
    """Deal documents out into shards, in order, within the limits; a document above the size limit goes alone."""
    groups = tuple(_groups(work, limits))
    return tuple(Shard(number, len(groups), group) for number, group in enumerate(groups, 1))


def _groups(work: tuple[Planned, ...], limits: ShardSettings) -> Iterator[tuple[Planned, ...]]:
    group: list[Planned] = []
    size_bytes = 0
    for planned in work:
        full = len(group) == limits.documents or size_bytes + planned.ref.size_bytes > limits.size_bytes
        if group and full:
            yield tuple(group)
            group, size_bytes = [], 0
        group.append(planned)
        size_bytes += planned.ref.size_bytes
    if group:
        yield tuple(group)
