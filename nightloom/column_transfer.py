"""Rows as columns, as Milvus sends them and takes them: never taken apart into rows where they are copied.

The only module that uses parts of pymilvus that are not public: its client has no public way to columns, and taking
every batch apart into rows and putting them together again takes longer than Milvus itself does. Where another version
of pymilvus has moved those parts, `ColumnTransfer` raises `PrivatePartsMoved`, and rows go by `nightloom.row_transfer`.
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
from pymilvus import DataType, MilvusClient, MilvusException

from nightloom.batches import Batch, Row
from nightloom.milvus_errors import RETRIABLE
from nightloom.vectors import Vectors

try:
    from pymilvus.client.prepare import Prepare
    from pymilvus.client.types import ConsistencyLevel, Status
    from pymilvus.client.utils import check_status
    from pymilvus.decorators import retry_on_rpc_failure
    from pymilvus.grpc_gen import milvus_pb2
    from pymilvus.grpc_gen.schema_pb2 import FieldData
except ImportError as moved:
    MOVED: str | None = str(moved)

    def retry_on_rpc_failure() -> Any:
        """A decorator that changes nothing: it lets this module be imported where pymilvus has no such one."""
        return lambda function: function
else:
    MOVED = None

PACKED = b"\x0a"
"""Tag of `FloatArray.data`: field 1, its numbers one after the other as they lie in memory."""
CONNECT_SECONDS = 5


class PrivatePartsMoved(Exception):
    """This version of pymilvus does not have the parts that move columns."""


class ColumnBatch:
    """Rows as one protocol buffer (`schema.FieldData`) a field."""

    def __init__(self, fields: Sequence[Any]) -> None:
        """Take columns of equal length; the key's is among them unless there is no row."""
        self.fields = fields

    @property
    def size_bytes(self) -> int:
        """Bytes of a message that holds them."""
        return sum(field.ByteSize() for field in self.fields)

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.texts("id")) if self.fields else 0

    def texts(self, name: str) -> Sequence[str]:
        """The values of a text field, row by row.

        Raises:
            KeyError: There is no such column.
        """
        for field in self.fields:
            if field.field_name == name:
                values: Sequence[str] = field.scalars.string_data.data
                return values
        raise KeyError(name)

    def rows(self, fields: Sequence[str]) -> list[Row]:
        """The key and some fields of every row; those of the dynamic field where a row has them.

        Args:
            fields: Names of those that Milvus was asked for; "*" for every field.
        """
        typed = {field.field_name: _values(field) for field in self.fields if not field.is_dynamic}
        names = [name for name in typed if name == "id" or name in fields or "*" in fields]
        rows = [dict(zip(names, values, strict=True)) for values in zip(*(typed[name] for name in names), strict=True)]
        others = [name for name in fields if name not in typed]
        for field in self.fields if others else ():
            if field.is_dynamic:
                for row, packed in zip(rows, field.scalars.json_data.data, strict=True):
                    found = orjson.loads(packed)
                    row.update(found if "*" in others else {name: found[name] for name in others if name in found})
        return rows

    def select(self, at: Sequence[int]) -> "ColumnBatch":
        """The rows at these places, in this order."""
        if len(at) == len(self):
            return self
        return ColumnBatch([_selected(field, at) for field in self.fields])


def _values(field: Any) -> Sequence[Any]:
    if field.WhichOneof("field") == "vectors":
        return vectors_of(field)  # type: ignore[return-value]  # row by row
    return getattr(field.scalars, field.scalars.WhichOneof("data")).data  # type: ignore[no-any-return]


def _selected(field: Any, rows: Sequence[int]) -> Any:
    new = type(field)(field_name=field.field_name, type=field.type, is_dynamic=field.is_dynamic)
    if field.WhichOneof("field") == "vectors":
        set_vectors(new, vectors_of(field)[rows])
        return new
    kind = field.scalars.WhichOneof("data")
    values = getattr(field.scalars, kind).data
    getattr(new.scalars, kind).data.extend([values[at] for at in rows])
    return new


def vectors_of(field: Any) -> Vectors:
    """What a column of embeddings holds: float32, shape (n, dim)."""
    numbers = field.vectors.float_vector
    size = len(numbers.data) * np.dtype(np.float32).itemsize
    packed = numbers.SerializeToString()  # number by number would take thirty times as long
    return np.frombuffer(packed, dtype="<f4", offset=len(packed) - size).reshape(-1, field.vectors.dim)


def set_vectors(field: Any, vectors: Vectors) -> None:
    """Fill an empty column of embeddings.

    Args:
        field: The column.
        vectors: float32, shape (n, dim).
    """
    numbers = vectors.astype("<f4").tobytes()
    field.vectors.dim = vectors.shape[1]
    field.vectors.float_vector.ParseFromString(PACKED + _varint(len(numbers)) + numbers)


def _varint(number: int) -> bytes:
    """A length as protocol buffers write it: seven bits a byte, the lowest first, the eighth set where more follow."""
    follow = 0x80
    written = bytearray()
    while number >= follow:
        written.append(number % follow + follow)
        number //= follow
    return bytes([*written, number])


def _check(status: Any) -> None:
    """Raise what a status says, and let the error say whether the server holds a retry to be of use."""
    try:
        check_status(status)
    except MilvusException as error:
        setattr(error, RETRIABLE, bool(status.retriable))
        raise


class ColumnTransfer:
    """Moves rows as columns: a `nightloom.batches.Transfer`."""

    def __init__(
        self,
        client: MilvusClient,
        *,
        database: str,
        texts: Sequence[str],
        numbers: Sequence[str],
        left_out: str,
        timeout_seconds: float,
    ) -> None:
        """Look for the parts of pymilvus that this needs.

        Args:
            client: Open.
            database: Name of the database for every request; "" for the default one.
            texts: Names of the text fields of the schema, the key's first; a row may lack some of them.
            numbers: Names of its integer fields.
            left_out: Name of a field that Milvus makes itself and takes from nobody; it is not read.
            timeout_seconds: Limit for one request.

        Raises:
            PrivatePartsMoved: They are not there.
        """
        if MOVED is not None:
            raise PrivatePartsMoved(MOVED)
        self._client = client
        self._database = database
        # Up to 2.6 the server asks for a user's rights in the database that is named here, not in the request.
        self._metadata = (("dbname", database),) if database else ()
        self._texts = texts
        self._numbers = numbers
        self._left_out = left_out
        self._timeout_seconds = timeout_seconds
        try:
            _ = (self._stub.Query, self._stub.Upsert, self._connection.alloc_timestamp)
        except AttributeError as error:
            raise PrivatePartsMoved(str(error)) from None

    @property
    def _connection(self) -> Any:
        return self._client._get_connection()  # noqa: SLF001  there is no public way to columns

    @property
    def _stub(self) -> Any:
        return self._connection._stub  # noqa: SLF001

    def time(self) -> int:
        """The server's time, which is later than that of every write before."""
        return int(self._connection.alloc_timestamp(timeout=CONNECT_SECONDS))

    def read(
        self, collection: str, condition: str, fields: Sequence[str], limit: int, *, moment: int, strong: bool
    ) -> tuple[ColumnBatch, int]:
        """Read the first rows that meet a condition, in the order of their keys: see `nightloom.batches.Transfer`."""
        request = Prepare.query_request(
            collection,
            condition,
            list(fields),
            [],
            use_default_consistency=False,
            consistency_level=ConsistencyLevel.Strong if strong else ConsistencyLevel.Bounded,
            guarantee_timestamp=moment,
            limit=limit,
            iterator="True",  # in the order of the keys, as the client's own iterator asks for them
            reduce_stop_for_best="True",
        )
        request.db_name = self._database
        return self._query(request, timeout=self._timeout_seconds)  # type: ignore[no-any-return]

    @retry_on_rpc_failure()  # type: ignore[untyped-decorator]
    def _query(self, request: Any, *, timeout: float) -> tuple[ColumnBatch, int]:
        answer = self._stub.Query(request, timeout=timeout, metadata=self._metadata)
        if Status.EMPTY_COLLECTION in {answer.status.code, answer.status.error_code}:
            return ColumnBatch(()), 0  # how older servers say it
        _check(answer.status)
        columns = [field for field in answer.fields_data if field.field_name != self._left_out]
        for field in columns:
            # From 2.6.8 on, the dynamic field says of each row whether it is there. Ours always is, and a server
            # refuses the flags for a collection that an older version made.
            field.ClearField("valid_data")
        return ColumnBatch(columns), int(answer.session_ts)

    def write(self, collection: str, batch: Batch) -> None:
        """Upsert rows."""
        if not isinstance(batch, ColumnBatch):
            raise TypeError(f"{type(batch).__name__} is no batch of columns")
        request = milvus_pb2.UpsertRequest(
            db_name=self._database, collection_name=collection, fields_data=batch.fields, num_rows=len(batch)
        )
        self._upsert(request, timeout=self._timeout_seconds)

    @retry_on_rpc_failure()  # type: ignore[untyped-decorator]
    def _upsert(self, request: Any, *, timeout: float) -> None:
        _check(self._stub.Upsert(request, timeout=timeout, metadata=self._metadata).status)

    def batch_of(self, rows: Sequence[Row]) -> ColumnBatch:
        """Rows as columns: the fields of the schema, and the rest as the dynamic field.

        The client would take each value of each row through a dozen calls, which takes longer than Milvus itself does.

        Args:
            rows: One at least, all with the same fields of the schema; each embedding is float32, shape (dim,).
        """
        texts = [name for name in self._texts if name in rows[0]]
        typed = {*texts, *self._numbers, "embedding"}
        columns = [FieldData(field_name=name, type=DataType.VARCHAR) for name in texts]
        for field in columns:
            field.scalars.string_data.data.extend([row[field.field_name] for row in rows])
        for name in self._numbers:
            columns.append(FieldData(field_name=name, type=DataType.INT64))
            columns[-1].scalars.long_data.data.extend([row[name] for row in rows])
        columns.append(FieldData(field_name="embedding", type=DataType.FLOAT_VECTOR))
        set_vectors(columns[-1], np.stack([row["embedding"] for row in rows]))
        columns.append(FieldData(field_name="$meta", type=DataType.JSON, is_dynamic=True))
        rest = [{key: value for key, value in row.items() if key not in typed} for row in rows]
        columns[-1].scalars.json_data.data.extend([json.dumps(one).encode() for one in rest])
        return ColumnBatch(columns)
