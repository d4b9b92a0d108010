"""Files of many rows, whatever their format and compression: read as a stream, row by row."""

import csv
import gzip
import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO, cast

from nightloom.corpus import SourceSettings
from nightloom.errors import SourceError
from nightloom.sources.jsonl import parse_jsonl_row
from nightloom.sources.listing import MEND

ROW_BYTES = 100_000_000
"""A longer line, or cell of a CSV file, is no row."""

BATCH_ROWS = 1_000
SKIP_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Row:
    """A row as it stands in its file.

    Attributes:
        line: Where it begins, from 1; in a Parquet file, its number.
        fields: Name to value; empty where it cannot be read.
        reason: Why it cannot be read; "" where it can.
        offset: Of its bytes in the file.
        raw: Its bytes; empty in formats whose rows are no lines.
    """

    line: int
    fields: dict[str, Any]
    reason: str = ""
    offset: int = 0
    raw: bytes = b""


def is_plain(file: Path) -> bool:
    """Whether the bytes of a file are not compressed."""
    return file.suffix.lower() not in {".gz", ".zst"}


def rows_of_file(source: SourceSettings, file: Path) -> Iterator[Row]:
    """Every row of a file, those that cannot be read included.

    Raises:
        SourceError: The file as a whole cannot be read: not there, cut, another format, or without a column that is
            named in the corpus file.
    """
    rows = {"jsonl": _jsonl_rows, "csv": _csv_rows, "parquet": _parquet_rows}[source.kind](source, file)
    try:
        yield from rows
    except (OSError, EOFError, zlib.error) as error:
        why = getattr(error, "strerror", None) or error
        raise SourceError(f"source {source.label!r}: {file}: {why}; {MEND} {source.kind}") from None


def _opened(file: Path) -> BinaryIO:
    match file.suffix.lower():
        case ".gz":
            return cast("BinaryIO", gzip.open(file, "rb"))
        case ".zst":
            import pyarrow as pa  # type: ignore[import-untyped]  # noqa: PLC0415  slow, and only few need it

            return cast("BinaryIO", io.BufferedReader(pa.input_stream(str(file), compression="zstd")))
    return file.open("rb")


# --- JSONL


def _jsonl_rows(_source: SourceSettings, file: Path) -> Iterator[Row]:
    with _opened(file) as stream:
        for number, offset, line in _lines(stream):
            if len(line) > ROW_BYTES:
                yield Row(number, {}, f"{file}: line {number}: longer than {ROW_BYTES} bytes", offset)
            elif line.strip():
                yield _jsonl_row(file, number, offset, line)


def _jsonl_row(file: Path, number: int, offset: int, line: bytes) -> Row:
    try:
        return Row(number, parse_jsonl_row(line, file, number), "", offset, line)
    except SourceError as error:
        return Row(number, {}, str(error), offset, line)


def _lines(stream: BinaryIO) -> Iterator[tuple[int, int, bytes]]:
    """Number, offset and bytes of every line; of one that is too long, no more than shows that it is."""
    number = offset = 0
    while line := stream.readline(ROW_BYTES + 1):
        number += 1
        yield number, offset, line
        offset += len(line)
        rest = line
        while len(line) > ROW_BYTES and not rest.endswith(b"\n") and (rest := stream.readline(SKIP_BYTES)):
            offset += len(rest)


# --- CSV


def _csv_rows(source: SourceSettings, file: Path) -> Iterator[Row]:
    csv.field_size_limit(ROW_BYTES)
    plain = Path(file.stem) if not is_plain(file) else file
    delimiter = source.delimiter or ("\t" if plain.suffix.lower() == ".tsv" else ",")
    # What is not UTF-8 becomes lone surrogates, by which its row is known.
    with io.TextIOWrapper(_opened(file), "utf-8-sig", errors="surrogateescape", newline="") as stream:
        reader = csv.reader(stream, delimiter=delimiter, strict=True)
        header = next(reader, [])
        _check_columns(source, file, header)
        line = reader.line_num + 1
        for cells in _csv_cells(reader):
            if cells != []:
                yield _csv_row(file, line, header, cells)
            line = reader.line_num + 1


def _csv_cells(reader: Any) -> Iterator[list[str] | str]:
    """The cells of each row, or what is wrong with it."""
    while True:
        try:
            yield next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield str(error)


def _csv_row(file: Path, line: int, header: list[str], cells: list[str] | str) -> Row:
    if isinstance(cells, str):
        return Row(line, {}, f"{file}: line {line}: not CSV: {cells}; mend the line")
    if len(cells) != len(header):
        says = f"{file}: line {line}: {len(cells)} fields where the header has {len(header)}; mend the line"
        return Row(line, dict(zip(header, cells, strict=False)), says)
    try:
        "".join(cells).encode()
    except UnicodeEncodeError:
        return Row(line, {}, f"{file}: line {line}: not UTF-8; save the file as UTF-8")
    return Row(line, dict(zip(header, cells, strict=True)))


# --- Parquet


def _parquet_rows(source: SourceSettings, file: Path) -> Iterator[Row]:
    import pyarrow as pa  # noqa: PLC0415  slow, and only few need it
    import pyarrow.parquet as pq  # type: ignore[import-untyped]  # noqa: PLC0415

    try:
        with pq.ParquetFile(file) as opened:
            schema = opened.schema_arrow
            _check_columns(source, file, schema.names)
            _check_text(source, file, schema, pa)
            number = 0
            for batch in opened.iter_batches(BATCH_ROWS, columns=_wanted(source, schema, pa)):
                for fields in _readable(batch, pa).to_pylist():
                    number += 1
                    yield Row(number, {name: _plain(value) for name, value in fields.items()})
    except pa.ArrowException as error:
        raise SourceError(
            f"source {source.label!r}: {file}: cannot be read as Parquet: {error}; {MEND} parquet"
        ) from None


def _check_text(source: SourceSettings, file: Path, schema: Any, pa: Any) -> None:
    for name in {source.title_field, source.text_field} & set(schema.names):
        kind = schema.field(name).type
        value = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not any(is_kind(value) for is_kind in (pa.types.is_string, pa.types.is_large_string, pa.types.is_null)):
            raise SourceError(
                f"source {source.label!r}: {file}: the column {name!r} holds {kind}, not text; {MEND} title_field"
                " or text_field"
            )


def _wanted(source: SourceSettings, schema: Any, pa: Any) -> list[str]:
    needed = {source.id_field, source.title_field, source.text_field, *(source.metadata_fields or ())}
    if source.metadata_fields is None:
        needed |= {field.name for field in schema if not pa.types.is_nested(field.type)}
    return [name for name in schema.names if name in needed]


def _readable(batch: Any, pa: Any) -> Any:
    """The batch with times as Python has them: nanoseconds are more than it knows."""
    for at, field in enumerate(batch.schema):
        if pa.types.is_timestamp(field.type):
            column = batch.column(at).cast(pa.timestamp("us", field.type.tz), safe=False)
            batch = batch.set_column(at, field.name, column)
    return batch


def _plain(value: Any) -> Any:
    if isinstance(value, date):
        return value.isoformat()
    return str(value) if isinstance(value, Decimal) else value


def _check_columns(source: SourceSettings, file: Path, columns: list[str]) -> None:
    named = {"id_field": source.id_field, "text_field": source.text_field}
    if source.title_field != type(source).model_fields["title_field"].default:
        named["title_field"] = source.title_field
    for key, name in (*named.items(), *(("metadata_fields", name) for name in source.metadata_fields or ())):
        if name not in columns:
            has = ", ".join(map(repr, columns[:20])) or "no column at all"
            raise SourceError(f"source {source.label!r}: {file}: no column {name!r}; it has {has}; {MEND} {key}")
