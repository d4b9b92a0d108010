"""Versions of documents by document id, packed: 32 bytes a document, where a dict takes 200."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain, compress, islice
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from nightloom.documents import ID_HEX_DIGITS

Item = TypeVar("Item")

Digests = NDArray[np.bytes_]
"""Ids or versions as the bytes that their digits stand for: "S16", shape (n,), compared as bytes are."""

DIGEST_BYTES = ID_HEX_DIGITS // 2
NO_DIGESTS: Digests = np.zeros(0, dtype=f"S{DIGEST_BYTES}")

RECENT = 4_096
PART_RECENT = 32
"""What is new stays in a dict until it is so many documents, and one in so many: packing moves all of them."""
READ_AT_ONCE = 1_024


def in_parts(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Items by the thousand, for what takes hardly longer for many than for one."""
    left = iter(items)
    while some := list(islice(left, READ_AT_ONCE)):
        yield some


def digests(keys: Sequence[str]) -> tuple[Digests, NDArray[np.bool_]]:
    """The bytes of ids or of versions, and which of them are none, as rows of a foreign hand may hold them.

    Returns:
        "S16", shape (n,), anything where there is none; bool, shape (n,).
    """
    together = "".join(keys)
    with suppress(ValueError):
        found = bytes.fromhex(together)
        if found.hex() == together and all(len(key) == ID_HEX_DIGITS for key in keys):
            return np.frombuffer(found, dtype=NO_DIGESTS.dtype), np.ones(len(keys), dtype=bool)
    every = [digest(key) for key in keys]
    found = b"".join(one or bytes(DIGEST_BYTES) for one in every)
    return np.frombuffer(found, dtype=NO_DIGESTS.dtype), np.array([one is not None for one in every], dtype=bool)


def digest(digits: str) -> bytes | None:
    """The bytes of an id or of a version; None for what is none, as rows of a foreign hand may hold."""
    try:
        found = bytes.fromhex(digits)
    except ValueError:
        return None
    return found if len(found) == DIGEST_BYTES and found.hex() == digits else None


def hex_digits(digests: Digests) -> Iterator[str]:
    """Digests as ids or versions are written."""
    digits = digests.tobytes().hex()  # item by item, an array would lose the zeros at an end
    return (digits[at : at + ID_HEX_DIGITS] for at in range(0, len(digits), ID_HEX_DIGITS))


def places(known: Digests, wanted: Digests) -> NDArray[np.intp]:
    """Where each wanted digest is among the known ones, which are in order and different; -1 for one that is not."""
    if not len(known):
        return np.full(len(wanted), -1)
    at = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    return np.where(known[at] == wanted, at, -1)


class Versions(Mapping[str, str]):
    """Version by document id, in no order. What is neither an id nor a version is kept as it is, and found as well."""

    def __init__(self, versions: Mapping[str, str] | None = None) -> None:
        """Take some versions to begin with."""
        self._ids = self._packed = NO_DIGESTS
        self._recent: dict[str, str] = {}  # what is in here hides what is packed
        if versions:
            self.update(versions)

    @classmethod
    def of_arrays(cls, ids: Digests, versions: Digests, others: Mapping[str, str]) -> "Versions":
        """Versions that are packed already, as they are.

        Args:
            ids: In order, all different.
            versions: In the order of the ids.
            others: Which come over them.
        """
        made = cls()
        made._ids, made._packed = ids, versions
        made._recent = dict(others)
        return made

    def update(self, versions: Mapping[str, str]) -> None:
        """Take more versions, over those that are there."""
        if isinstance(versions, Versions):
            self._merge(versions._ids, versions._packed)  # noqa: SLF001  one of its own kind
            versions = versions._recent  # noqa: SLF001  likewise
        self._recent.update(versions)
        if len(self._recent) > max(RECENT, len(self._ids) // PART_RECENT):
            self._pack()

    def _pack(self) -> None:
        """Move what is recent to the rest, but for what cannot be packed."""
        recent, self._recent = self._recent, {}
        ids, are_ids = digests(list(recent))
        versions, are_versions = digests(list(recent.values()))
        fit = are_ids & are_versions
        self._merge(ids[fit], versions[fit])
        self._recent = dict(compress(recent.items(), ~fit))

    def _merge(self, ids: Digests, versions: Digests) -> None:
        """Take ids; the last of the same comes over all before, and over those that are recent."""
        if self._recent:
            for key in hex_digits(ids):
                self._recent.pop(key, None)
        order = np.argsort(ids, kind="stable")
        last = order[np.append(ids[order[1:]] != ids[order[:-1]], True)[: len(ids)]]
        ids, versions = ids[last], versions[last]
        at = places(self._ids, ids)
        known = at >= 0
        if known.any():
            self._packed = self._packed.copy()  # it can be the memory of another table
            self._packed[at[known]] = versions[known]
        new = self._ids.searchsorted(ids[~known])
        self._ids, self._packed = np.insert(self._ids, new, ids[~known]), np.insert(self._packed, new, versions[~known])

    def among(self, keys: Sequence[str]) -> list[str | None]:
        """The version of each of these documents; None where there is none."""
        if not len(self._ids):
            return [self._recent.get(key) for key in keys]
        at = self._places(keys)
        found = hex_digits(self._packed[at[at >= 0]])
        below = [next(found) if is_packed else None for is_packed in (at >= 0).tolist()]
        return [self._recent.get(key, version) for key, version in zip(keys, below, strict=True)]

    def _places(self, keys: Iterable[str]) -> NDArray[np.intp]:
        """Where each of these documents is packed; -1 where it is not."""
        wanted, are_ids = digests(list(keys))
        return np.where(are_ids, places(self._ids, wanted), -1)

    def pairs(self) -> Iterator[tuple[str, str]]:
        """Every document id with its version: `items`, without a look-up for each."""
        for start in range(0, len(self._ids), READ_AT_ONCE):
            part = slice(start, start + READ_AT_ONCE)
            for key, version in zip(hex_digits(self._ids[part]), hex_digits(self._packed[part]), strict=True):
                if key not in self._recent:
                    yield key, version
        yield from self._recent.items()

    @property
    def distinct(self) -> int:
        """How many different versions there are."""
        if not self._recent:
            return len(np.unique(self._packed))
        return len({version for _, version in self.pairs()})

    def without(self, keys: Collection[str]) -> "Versions":
        """The versions of the other documents than these."""
        stay = np.ones(len(self._ids), dtype=bool)
        at = self._places(keys)
        stay[at[at >= 0]] = False
        others = {key: version for key, version in self._recent.items() if key not in keys}
        return self.of_arrays(self._ids[stay], self._packed[stay], others)

    def inverted(self) -> "Versions":
        """One of the ids that have it, by version."""
        turned, seen = Versions(), self.without(self._recent)
        turned._merge(seen._packed, seen._ids)  # noqa: SLF001  both of its own kind
        turned.update({version: key for key, version in self._recent.items()})
        return turned

    def __getitem__(self, key: str) -> str:
        (version,) = self.among([key])
        if version is None:
            raise KeyError(key)
        return version

    def __iter__(self) -> Iterator[str]:
        return (key for key, _ in self.pairs())

    def __len__(self) -> int:
        return len(self._ids) + int((self._places(self._recent) < 0).sum())


class Chosen:
    """Some documents of a table of versions: a byte for each document that it has."""

    def __init__(self, versions: Versions) -> None:
        """Choose none yet."""
        self._all = versions
        self._marks = np.zeros(len(versions._ids), dtype=bool)  # noqa: SLF001  of what is packed
        self._others: set[str] = set()

    def add(self, keys: Sequence[str]) -> None:
        """Choose documents; those that the table does not have are passed over."""
        at = self._all._places(keys)  # noqa: SLF001  likewise
        self._marks[at[at >= 0]] = True
        self._others.update(self._all._recent.keys() & keys)  # noqa: SLF001  likewise

    @property
    def versions(self) -> Versions:
        """Theirs; where every document is chosen, these share the memory of the table."""
        marks = slice(None) if self._marks.all() else self._marks
        others = {key: version for key, version in self._all._recent.items() if key in self._others}  # noqa: SLF001
        return Versions.of_arrays(self._all._ids[marks], self._all._packed[marks], others)  # noqa: SLF001

    @property
    def left(self) -> Iterator[str]:
        """Ids of the documents that were not chosen."""
        recent = self._all._recent  # noqa: SLF001  likewise
        yield from (key for key in hex_digits(self._all._ids[~self._marks]) if key not in recent)  # noqa: SLF001
        yield from recent.keys() - self._others


def among(versions: Mapping[str, str], keys: Sequence[str]) -> list[str | None]:
    """The version of each of these documents, of a dict as well; None where there is none."""
    return versions.among(keys) if isinstance(versions, Versions) else [versions.get(key) for key in keys]


def absent(before: Versions, after: Versions) -> Iterator[str]:
    """Ids of the documents that the first has, and the other has in no version."""
    for keys in in_parts(before):
        yield from (key for key, version in zip(keys, after.among(keys), strict=True) if version is None)


def differing(before: Versions, after: Versions) -> Iterator[str]:
    """Ids of the documents that are in one of the two only, or in another version."""
    changed = (key for key, version, other in _beside(after, before) if version != other)
    return chain(changed, absent(before, after))


def _beside(ours: Versions, theirs: Versions) -> Iterator[tuple[str, str, str | None]]:
    """Every document of ours, its version, and the one that it has in theirs."""
    for some in in_parts(ours.pairs()):
        others = theirs.among([key for key, _ in some])
        yield from ((key, version, other) for (key, version), other in zip(some, others, strict=True))
