"""Rows moved by the public functions of pymilvus alone: slower than columns, and there with every version of it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from pymilvus import MilvusClient

from nightloom.batches import Batch, Row

SESSION_TS = "iterator_session_ts"
"""Name under which pymilvus gives the moment at which a page was read, beside the rows."""
NUMBER_BYTES = 8
"""Bytes that a value takes in a message if it is no text, about."""


class RowBatch:
    """Rows as dictionaries."""

    def __init__(self, rows: Sequence[Row]) -> None:
        """Take rows that have the same fields of the schema."""
        self._rows = rows

    @property
    def size_bytes(self) -> int:
        """Bytes of a message that holds them, about."""
        return sum(_size(value) for row in self._rows for value in row.values())

    def __len__(self) -> int:
        """Number of rows."""
        return len(self._rows)

    def texts(self, name: str) -> Sequence[str]:
        """The values of a text field, row by row.

        Raises:
            KeyError: There is no such field.
        """
        return [row[name] for row in self._rows]

    def rows(self, fields: Sequence[str]) -> list[Row]:
        """The key and some fields of every row; those of the dynamic field where a row has them."""
        if "*" in fields:
            return [dict(row) for row in self._rows]
        names = ["id", *(name for name in fields if name != "id")]
        return [{name: row[name] for name in names if name in row} for row in self._rows]

    def select(self, at: Sequence[int]) -> "RowBatch":
        """The rows at these places, in this order."""
        return RowBatch([self._rows[place] for place in at])


def _size(value: Any) -> int:
    if isinstance(value, str):
        return len(value.encode())
    return int(value.nbytes) if isinstance(value, np.ndarray) else NUMBER_BYTES


class RowTransfer:
    """Moves rows as dictionaries: a `nightloom.batches.Transfer`."""

    def __init__(self, client: MilvusClient, *, left_out: str, timeout_seconds: float) -> None:
        """Use an open client, which names its own database in every request.

        Args:
            client: Open.
            left_out: Name of a field that Milvus makes itself and takes from nobody; it is not read.
            timeout_seconds: Limit for one request.
        """
        self._client = client
        self._left_out = left_out
        self._timeout_seconds = timeout_seconds

    def time(self) -> int:
        """0: no public function asks for the server's time."""
        return 0

    def read(
        self,
        collection: str,
        condition: str,
        fields: Sequence[str],
        limit: int,
        *,
        moment: int,
        strong: bool,  # noqa: ARG002  the client lets an iterator have the collection's own level and no other
    ) -> tuple[RowBatch, int]:
        """As `nightloom.batches.Transfer`, but at the consistency level of the collection even where `strong`.

        So a scan on a server with several replicas may miss what was written within the last 5 s.
        """
        found = self._client.query(
            collection,
            filter=condition,
            output_fields=list(fields),
            limit=limit,
            iterator="True",  # in the order of the keys, as the client's own iterator asks for them
            reduce_stop_for_best="True",
            guarantee_timestamp=moment,
            timeout=self._timeout_seconds,
        )
        extra = getattr(found, "extra", None) or {}
        return RowBatch([self._row(one) for one in found]), int(extra.get(SESSION_TS, 0))

    def write(self, collection: str, batch: Batch) -> None:
        """Upsert rows."""
        self._client.upsert(collection, batch.rows(("*",)), timeout=self._timeout_seconds)

    def batch_of(self, rows: Sequence[Row]) -> RowBatch:
        """The rows themselves."""
        return RowBatch(rows)

    def _row(self, found: Any) -> Row:
        row = {name: value for name, value in dict(found).items() if name != self._left_out}
        if "embedding" in row:
            row["embedding"] = np.asarray(row["embedding"], dtype=np.float32)
        return row
