"""Rows as Milvus sends them: a column for each field. What is copied as columns is never taken apart into rows.

The columns are protocol buffers (`schema.FieldData`); nothing here needs the client that received them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson

from nightloom.vectors import Vectors
from nightloom.versions import among

Columns = Sequence[Any]
PACKED = b"\x0a"
"""Tag of `FloatArray.data`: field 1, its numbers one after the other as they lie in memory."""


def column(columns: Columns, name: str) -> Sequence[str]:
    """The values of a text field.

    Raises:
        KeyError: There is no such column.
    """
    for field in columns:
        if field.field_name == name:
            values: Sequence[str] = field.scalars.string_data.data
            return values
    raise KeyError(name)


def size_of(columns: Columns) -> int:
    """Bytes of a message that holds them."""
    return sum(field.ByteSize() for field in columns)


def rows_in(columns: Columns, fields: Sequence[str]) -> list[dict[str, Any]]:
    """The key and some fields of every row; those of the dynamic field where a row has them.

    Args:
        columns: As Milvus sends them for these fields.
        fields: Their names; "*" for every field.
    """
    typed = {field.field_name: _values(field) for field in columns if not field.is_dynamic}
    names = [name for name in typed if name == "id" or name in fields or "*" in fields]
    rows = [dict(zip(names, values, strict=True)) for values in zip(*(typed[name] for name in names), strict=True)]
    others = [name for name in fields if name not in typed]
    for field in columns if others else ():
        if field.is_dynamic:
            for row, packed in zip(rows, field.scalars.json_data.data, strict=True):
                found = orjson.loads(packed)
                row.update(found if "*" in others else {name: found[name] for name in others if name in found})
    return rows


def _values(field: Any) -> Sequence[Any]:
    if field.WhichOneof("field") == "vectors":
        return vectors_of(field)  # type: ignore[return-value]  # row by row
    return getattr(field.scalars, field.scalars.WhichOneof("data")).data  # type: ignore[no-any-return]


def wanted(columns: Columns, versions: Mapping[str, str]) -> list[int]:
    """Which rows are of one of these documents in this version.

    Args:
        columns: With document_id and version.
        versions: Version by document id.
    """
    found = among(versions, column(columns, "document_id"))
    pairs = zip(column(columns, "version"), found, strict=True)
    return [at for at, (version, wanted) in enumerate(pairs) if version == wanted]


def select(columns: Columns, rows: Sequence[int]) -> list[Any]:
    """The same columns with these rows only."""
    if len(rows) == len(column(columns, "id")):
        return list(columns)
    return [_selected(field, rows) for field in columns]


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
        field: It.
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


def in_requests(columns: Columns, size_bytes: int) -> list[Columns]:
    """The columns in parts of at most so many bytes, as far as single rows allow it; none where they hold no row."""
    total = size_of(columns)
    count = len(column(columns, "id"))
    if not count:
        return []
    if total <= size_bytes or count <= 1:
        return [columns]
    half = count // 2
    parts = (select(columns, range(half)), select(columns, range(half, count)))
    return [request for part in parts for request in in_requests(part, size_bytes)]
