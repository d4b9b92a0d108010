"""Batches of rows, as columns and as rows: choosing rows, and requests that stay within a size."""

import json
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymilvus.grpc_gen import schema_pb2

from nightloom.batches import Batch, in_requests, wanted
from nightloom.column_transfer import ColumnBatch
from nightloom.row_transfer import RowBatch

DIM = 3

RowTuples = list[tuple[str, str, str, int]]


def columns_of(rows: RowTuples) -> Batch:
    """Columns as Milvus sends them: id, document_id, version, position, a vector, and dynamic fields."""
    fields = []
    for at, name in enumerate(("id", "document_id", "version")):
        field = schema_pb2.FieldData(field_name=name, type=schema_pb2.VarChar)
        field.scalars.string_data.data.extend(row[at] for row in rows)
        fields.append(field)
    position = schema_pb2.FieldData(field_name="position", type=schema_pb2.Int64)
    position.scalars.long_data.data.extend(row[3] for row in rows)
    vector = schema_pb2.FieldData(field_name="embedding", type=schema_pb2.FloatVector)
    vector.vectors.dim = DIM
    vector.vectors.float_vector.data.extend(float(row[3] + at) for row in rows for at in range(DIM))
    dynamic = schema_pb2.FieldData(field_name="$meta", type=schema_pb2.JSON, is_dynamic=True)
    dynamic.scalars.json_data.data.extend(json.dumps({"item": row[0]}).encode() for row in rows)
    return ColumnBatch([*fields, position, vector, dynamic])


def dictionaries_of(rows: RowTuples) -> Batch:
    """The same rows as the client's public functions give them."""
    names = ("id", "document_id", "version", "position")
    return RowBatch(
        [
            dict(zip(names, row, strict=True))
            | {"embedding": np.array([row[3] + at for at in range(DIM)], np.float32), "item": row[0]}
            for row in rows
        ]
    )


def rows_of(batch: Batch) -> RowTuples:
    """The rows again, with every field checked against the others."""
    if isinstance(batch, ColumnBatch) and len(batch):
        assert (batch.fields[-1].is_dynamic, batch.fields[-2].type) == (True, schema_pb2.FloatVector)
    found = []
    for row in batch.rows(("document_id", "version", "position", "embedding", "item")):
        assert row["embedding"].tolist() == [float(row["position"] + at) for at in range(DIM)]
        assert row["item"] == row["id"]
        found.append((row["id"], row["document_id"], row["version"], row["position"]))
    assert list(batch.texts("id")) == [key for key, *_ in found]
    return found


BOTH = pytest.mark.parametrize("batch_of", [columns_of, dictionaries_of])
ROWS = st.lists(
    st.tuples(st.uuids().map(str), st.sampled_from("abc"), st.sampled_from("12"), st.integers(0, 1000)), max_size=30
)


@BOTH
@given(rows=ROWS, versions=st.dictionaries(st.sampled_from("abc"), st.sampled_from("12")))
def test_the_rows_that_are_wanted_and_no_others(
    batch_of: Callable[[RowTuples], Batch], rows: RowTuples, versions: dict[str, str]
) -> None:
    batch = batch_of(rows)
    chosen = batch.select(wanted(batch, versions))
    assert rows_of(chosen) == [row for row in rows if versions.get(row[1]) == row[2]]


@BOTH
@given(rows=ROWS, size=st.integers(1, 2000))
def test_requests_hold_every_row_once_and_keep_to_the_size(
    batch_of: Callable[[RowTuples], Batch], rows: RowTuples, size: int
) -> None:
    requests = in_requests(batch_of(rows), size)
    assert [row for request in requests for row in rows_of(request)] == rows
    for request in requests:
        assert len(request) == 1 or request.size_bytes <= size


@BOTH
def test_a_field_that_is_not_there_is_said(batch_of: Callable[[RowTuples], Batch]) -> None:
    with pytest.raises(KeyError, match="title"):
        batch_of([("1", "a", "1", 0)]).texts("title")
