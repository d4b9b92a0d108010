"""A spool: records in a file without a name, where memory would grow with the corpus."""

import marshal
import os
import tempfile
from array import array
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import IO, Any

from nightloom.errors import NightFailed

Record = tuple[Any, ...]

BLOCK_RECORDS = 32
"""Written and read at once: one of them takes no longer than a call, all of them one after the other a tenth of it."""


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise NightFailed(
            f"{tempfile.gettempdir()}: {error.strerror}; what a night knows of its documents is kept there: make room,"
            " or set TMPDIR to another folder"
        ) from error


class Spool:
    """Records by number, from 0, in the order in which they were added; in memory, a quarter of a byte for each.

    A record is a tuple of what Python has built in: strings (lone surrogates included), bytes, numbers, None, tuples.
    The file goes with the object. Threads may read at once, while nobody adds.
    """

    def __init__(self) -> None:
        """Hold nothing yet."""
        self._file: IO[bytes] | None = None
        self._starts = array("Q", [0])
        self._waiting: list[Record] = []
        self._read: tuple[int, list[Record]] = (-1, [])

    def add(self, record: Record) -> None:
        """Put a record behind the others.

        Raises:
            NightFailed: The folder for temporary files cannot be written to.
        """
        self._waiting.append(record)
        if len(self._waiting) == BLOCK_RECORDS:
            block = marshal.dumps(self._waiting)
            with _writing():
                if self._file is None:
                    self._file = tempfile.TemporaryFile(prefix="nightloom-")  # noqa: SIM115  open as long as the spool
                self._file.write(block)
            self._starts.append(self._starts[-1] + len(block))
            self._waiting = []

    def extend(self, records: Iterable[Record]) -> None:
        """Put several behind the others."""
        for record in records:
            self.add(record)

    @property
    def _blocks(self) -> int:
        return len(self._starts) - 1

    def _block(self, number: int) -> list[Record]:
        """The records of a block, the last that was read without reading it again."""
        read, records = self._read
        if self._file is None or number == self._blocks:
            return self._waiting
        if number != read:
            with _writing():
                self._file.flush()
            start, end = self._starts[number], self._starts[number + 1]
            packed = os.pread(self._file.fileno(), end - start, start)
            records = marshal.loads(packed)  # noqa: S302  what this process wrote, to a file that has no name
            self._read = number, records
        return records

    def part(self, start: int, stop: int) -> Iterator[Record]:
        """Records by their numbers, from the one on and before the other, or to the end."""
        for number in range(start // BLOCK_RECORDS, -(-min(stop, len(self)) // BLOCK_RECORDS)):
            first = number * BLOCK_RECORDS
            yield from self._block(number)[max(0, start - first) : stop - first]

    def __iter__(self) -> Iterator[Record]:
        return self.part(0, len(self))

    def __len__(self) -> int:
        return self._blocks * BLOCK_RECORDS + len(self._waiting)

    def __getitem__(self, number: int) -> Record:
        """A record by its number, not negative."""
        block, at = divmod(number, BLOCK_RECORDS)
        if block > self._blocks:
            raise IndexError(number)
        return self._block(block)[at]
