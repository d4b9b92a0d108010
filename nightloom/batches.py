"""Rows on their way from Milvus and to it, and the two ways in which pymilvus carries them.

`nightloom.column_transfer` moves whole columns, as Milvus sends them, by parts of pymilvus that are not public.
`nightloom.row_transfer` moves rows by public functions alone, and is slower. What both do is said here.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from nightloom.versions import among

Row = dict[str, Any]


class Batch(Protocol):
    """Some rows of a collection, all with the same fields."""

    @property
    def size_bytes(self) -> int:
        """Bytes of a message that holds them, about."""

    def __len__(self) -> int:
        """Number of rows."""

    def texts(self, name: str) -> Sequence[str]:
        """The values of a text field, row by row.

        Raises:
            KeyError: There is no such field.
        """

    def rows(self, fields: Sequence[str]) -> list[Row]:
        """The key and some fields of every row; those of the dynamic field where a row has them.

        Args:
            fields: Their names; "*" for every field. An embedding is float32, shape (dim,).
        """

    def select(self, at: Sequence[int]) -> "Batch":
        """The rows at these places, in this order."""


class Transfer(Protocol):
    """One way in which rows come from Milvus and go to it. Calls block, and raise pymilvus's errors."""

    def time(self) -> int:
        """The server's time, which is later than that of every write before; 0 where it cannot be told."""

    def read(
        self, collection: str, condition: str, fields: Sequence[str], limit: int, *, moment: int, strong: bool
    ) -> tuple[Batch, int]:
        """The first rows that meet a condition, in the order of their keys.

        Args:
            collection: Name of the collection.
            condition: The filter that rows must meet.
            fields: Names of the fields to give; "*" for every field.
            limit: Most rows to give.
            moment: Time of the server to read at; 0 to read at a moment that it chooses.
            strong: Whether that moment must be later than every write before.

        Returns:
            The rows, and the moment that was read at; 0 where the server does not say.
        """

    def write(self, collection: str, batch: Batch) -> None:
        """Upsert rows, which came from `read` or `batch_of` of the same transfer."""

    def batch_of(self, rows: Sequence[Row]) -> Batch:
        """Rows as they are written.

        Args:
            rows: One at least, all with the same fields of the schema; each embedding is float32, shape (dim,).
        """


def wanted(batch: Batch, versions: Mapping[str, str]) -> list[int]:
    """Places of the rows that are of one of these documents in this version.

    Args:
        batch: Rows with document_id and version.
        versions: Version by document id.
    """
    found = among(versions, batch.texts("document_id"))
    pairs = zip(batch.texts("version"), found, strict=True)
    return [at for at, (version, wanted) in enumerate(pairs) if version == wanted]


def in_requests(batch: Batch, size_bytes: int) -> list[Batch]:
    """The rows in parts of at most so many bytes, as far as single rows allow it; none where there is no row."""
    count = len(batch)
    if not count:
        return []
    if count == 1 or batch.size_bytes <= size_bytes:
        return [batch]
    half = count // 2
    parts = (batch.select(range(half)), batch.select(range(half, count)))
    return [request for part in parts for request in in_requests(part, size_bytes)]
