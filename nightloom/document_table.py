"""The documents of a listing, of which there may be millions: in a spool, and made as they are looked at."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from heapq import merge
from itertools import islice, pairwise
from operator import itemgetter
from typing import overload

from nightloom.documents import DocumentRef
from nightloom.spool import BLOCK_RECORDS, Record, Spool

SORTED_AT_ONCE = 128 * BLOCK_RECORDS
"""Documents that are in memory while all are put in order."""

_uri = itemgetter(0)


class DocumentTable(Sequence[DocumentRef]):
    """Documents as a source lists them, and next to nothing of them in memory."""

    def __init__(self, documents: Iterable[DocumentRef] = ()) -> None:
        """Take documents in the order in which they come.

        Raises:
            NightFailed: The folder for temporary files cannot be written to.
        """
        self._spool = Spool()
        for ref in documents:
            self.add(ref)

    def add(self, ref: DocumentRef) -> None:
        """Put a document behind the others.

        Raises:
            NightFailed: As when it was made.
        """
        self._spool.add(ref.record())

    @classmethod
    def _of(cls, records: Iterable[Record]) -> "DocumentTable":
        made = cls()
        made._spool.extend(records)
        return made

    def by_uri(self) -> "DocumentTable":
        """The same documents in order of their names; those of one name stay in the order in which they are."""
        if all(before <= after for before, after in pairwise(map(_uri, self._spool))):
            return self
        runs, records = Spool(), iter(self._spool)
        while run := sorted(islice(records, SORTED_AT_ONCE), key=_uri):
            runs.extend(run)
        parts = [runs.part(at, at + SORTED_AT_ONCE) for at in range(0, len(runs), SORTED_AT_ONCE)]
        return self._of(merge(*parts, key=_uri))

    def twins(self) -> Iterator[tuple[int, int]]:
        """Places of documents with the name of one before them, where these are in order: of the first, and theirs."""
        first, last = 0, ""
        for at, (uri, *_) in enumerate(self._spool):
            if at and uri == last:
                yield first, at
            else:
                first, last = at, uri

    def without(self, places: Collection[int]) -> "DocumentTable":
        """The other documents than those at these places."""
        return self._of(record for at, record in enumerate(self._spool) if at not in places)

    def __eq__(self, other: object) -> bool:
        """Whether they are the same documents in the same order."""
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(one == two for one, two in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # as a list has none

    def __iter__(self) -> Iterator[DocumentRef]:
        return map(DocumentRef.of_record, self._spool)

    def __len__(self) -> int:
        return len(self._spool)

    @overload
    def __getitem__(self, at: int) -> DocumentRef: ...

    @overload
    def __getitem__(self, at: slice) -> list[DocumentRef]: ...

    def __getitem__(self, at: int | slice) -> DocumentRef | list[DocumentRef]:
        places = range(len(self))[at]
        if isinstance(places, int):
            return DocumentRef.of_record(self._spool[places])
        if places.step == 1:
            return list(map(DocumentRef.of_record, self._spool.part(places.start, places.stop)))
        return [DocumentRef.of_record(self._spool[place]) for place in places]
