"""Heads: the commit records of the indexed documents, of which a generation may have millions."""

from array import array
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from nightloom.spool import Spool
from nightloom.versions import DIGEST_BYTES, NO_DIGESTS, Digests, Versions, digest, digests, in_parts, places

MOST_NODES = 1 << 32


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


class HeadTable(Mapping[str, Head]):
    """Heads by document id: 36 bytes each in memory, and what is rarely asked for in a spool.

    That holds as long as they come in order of their ids, which is how Milvus gives them. A head that comes out of
    order or twice, or whose id or version is none, is kept as it is: what a foreign hand wrote is found as well.
    """

    def __init__(self) -> None:
        """Hold nothing yet."""
        self._ids = bytearray()
        self._versions = bytearray()
        self._totals = array("I")
        self._rest = Spool()
        self._last = b""
        self._others: dict[str, Head] = {}  # what is in here hides what is packed

    def add(self, head: Head) -> None:
        """Take one more; of two with the same id, the later one."""
        id_bytes, version = digest(head.document), digest(head.version)
        in_order = id_bytes is not None and id_bytes > self._last and head.document not in self._others
        if id_bytes is None or version is None or not in_order or not 0 <= head.total < MOST_NODES:
            self._others[head.document] = head
            return
        self._last = id_bytes
        self._ids += id_bytes
        self._versions += version
        self._totals.append(head.total)
        self._rest.add((head.uri, head.item, head.validator))

    @cached_property
    def _known(self) -> Digests:
        return np.frombuffer(self._ids, dtype=NO_DIGESTS.dtype)

    @cached_property
    def versions(self) -> Versions:
        """The version of every document, by document id; it shares the memory of this table."""
        others = {key: head.version for key, head in self._others.items()}
        return Versions.of_arrays(self._known, np.frombuffer(self._versions, dtype=NO_DIGESTS.dtype), others)

    @property
    def rows(self) -> int:
        """How many rows these documents have, as their heads count them."""
        hidden = [place for key in self._others if (place := self._place(key)) is not None]
        packed = sum(self._totals) - sum(self._totals[place] for place in hidden)
        return packed + sum(head.total for head in self._others.values())

    def rows_among(self, keys: Iterable[str]) -> int:
        """How many rows some of these documents have."""
        totals, rows = np.frombuffer(self._totals, dtype=np.uint32), 0
        for some in in_parts(keys):
            rows += sum(self._others[key].total for key in some if key in self._others)
            wanted, are_ids = digests([key for key in some if key not in self._others])
            at = places(self._known, wanted)
            rows += int(totals[at[are_ids & (at >= 0)]].sum())
        return rows

    def _place(self, key: str) -> int | None:
        """Where a document is packed; None where it is not."""
        id_bytes = digest(key)
        if id_bytes is None:
            return None
        place = int(self._known.searchsorted(np.array(id_bytes, NO_DIGESTS.dtype)))
        begin = place * DIGEST_BYTES
        return place if self._ids[begin : begin + DIGEST_BYTES] == id_bytes else None

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and (key in self._others or self._place(key) is not None)

    def __getitem__(self, key: str) -> Head:
        if key in self._others:
            return self._others[key]
        place = self._place(key)
        if place is None:
            raise KeyError(key)
        begin = place * DIGEST_BYTES
        version = self._versions[begin : begin + DIGEST_BYTES].hex()
        return Head(key, version, self._totals[place], *self._rest[place])

    def __iter__(self) -> Iterator[str]:
        return iter(self.versions)

    def __len__(self) -> int:
        return len(self.versions)


class ChosenHeads(Mapping[str, Head]):
    """The heads of some documents, as a view: 32 bytes each beside those of all."""

    def __init__(self, heads: Mapping[str, Head], versions: Versions) -> None:
        """Choose the heads of these documents, all of which are there, in these versions."""
        self._heads = heads
        self.versions = versions

    @property
    def rows(self) -> int:
        """How many rows these documents have, as their heads count them."""
        if isinstance(self._heads, HeadTable):
            return self._heads.rows_among(self)
        return sum(head.total for head in self.values())

    def __getitem__(self, key: str) -> Head:
        if key not in self.versions:
            raise KeyError(key)
        return self._heads[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.versions)

    def __len__(self) -> int:
        return len(self.versions)


class Validators(Mapping[str, str]):
    """What sources gave for a conditional request, by document id, as a view of heads."""

    def __init__(self, heads: Mapping[str, Head], damaged: Collection[str]) -> None:
        """Of all documents but those whose rows are not whole."""
        self._heads = heads
        self._damaged = damaged

    def __getitem__(self, key: str) -> str:
        found = "" if key in self._damaged else self._heads[key].validator
        if not found:
            raise KeyError(key)
        return found

    def __iter__(self) -> Iterator[str]:
        return (key for key in self._heads if key in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def versions_of(heads: Mapping[str, Head]) -> Versions:
    """The version of every document, by document id."""
    if isinstance(heads, HeadTable | ChosenHeads):
        return heads.versions
    return Versions({key: head.version for key, head in heads.items()})


def rows_of(heads: Mapping[str, Head]) -> int:
    """How many rows these documents have, as their heads count them."""
    return heads.rows if isinstance(heads, HeadTable | ChosenHeads) else sum(head.total for head in heads.values())
