"""Rows as columns: choosing rows, and requests that stay within a size."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymilvus.grpc_gen import schema_pb2

from nightloom.columns import Columns, column, in_requests, select, wanted

DIM = 3


def columns_of(rows: list[tuple[str, str, str, int]]) -> Columns:
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
    return [*fields, position, vector, dynamic]


def rows_of(columns: Columns) -> list[tuple[str, str, str, int]]:
    """The rows again, with every column checked against the others."""
    names = [column(columns, name) for name in ("id", "document_id", "version")]
    _, _, _, position, vector, dynamic = columns
    positions = list(position.scalars.long_data.data)
    assert list(vector.vectors.float_vector.data) == [float(value + at) for value in positions for at in range(DIM)]
    assert [json.loads(cell)["item"] for cell in dynamic.scalars.json_data.data] == list(names[0])
    assert (vector.vectors.dim, dynamic.is_dynamic, vector.type) == (DIM, True, schema_pb2.FloatVector)
    return list(zip(*names, positions, strict=True))


ROWS = st.lists(
    st.tuples(st.uuids().map(str), st.sampled_from("abc"), st.sampled_from("12"), st.integers(0, 1000)), max_size=30
)


@given(ROWS, st.dictionaries(st.sampled_from("abc"), st.sampled_from("12")))
def test_the_rows_that_are_wanted_and_no_others(
    rows: list[tuple[str, str, str, int]], versions: dict[str, str]
) -> None:
    columns = columns_of(rows)
    chosen = select(columns, wanted(columns, versions))
    assert rows_of(chosen) == [row for row in rows if versions.get(row[1]) == row[2]]


@given(ROWS, st.integers(1, 2000))
def test_requests_hold_every_row_once_and_keep_to_the_size(rows: list[tuple[str, str, str, int]], size: int) -> None:
    requests = in_requests(columns_of(rows), size)
    assert [row for request in requests for row in rows_of(request)] == rows
    for request in requests:
        assert len(rows_of(request)) == 1 or sum(field.ByteSize() for field in request) <= size


def test_a_column_that_is_not_there_is_said() -> None:
    with pytest.raises(KeyError, match="title"):
        column(columns_of([]), "title")
