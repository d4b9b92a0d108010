"""Sources that have many documents in one file: JSONL, CSV and Parquet, one document a row."""

import json
import math
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any, BinaryIO

from nightloom.corpus import SourceSettings
from nightloom.document_table import DocumentTable
from nightloom.documents import DocumentRef, Listing, Quarantined, Scalar, Span, document_id
from nightloom.errors import SourceError
from nightloom.sources.jsonl import jsonl_content
from nightloom.sources.listing import metadata_of, not_text
from nightloom.sources.tables import Row, is_plain, rows_of_file

METADATA_CHARACTERS = 1_000
"""A longer string is a text and no value to filter on: left out."""


def list_rows(source: SourceSettings, file: Path, folder: Path | None) -> Listing:
    """List the rows of a file.

    A row that cannot be taken is quarantined, under its id where that can be known, else as `<name>#line-<number>`.

    Args:
        source: Of rows.
        file: It.
        folder: For title and text of rows that do not lie as plain lines of JSON in their file.

    Raises:
        SourceError: The file as a whole cannot be read, or no row of it has an id.
    """
    rows = _Rows(source, file)
    if source.jsonl and is_plain(file):
        for row in rows_of_file(source, file):
            rows.add(row, file, row.offset, len(row.raw))
        return rows.listing()
    if folder is None:
        raise TypeError(f"the rows of {file} need a folder to be written to")
    place = folder / f"{document_id(f'{source.label} {file}')}.jsonl"
    with place.open("wb") as stream:
        for row in rows_of_file(source, file):
            offset = stream.tell()
            rows.add(row, place, offset, _write(stream, source, row))
    return rows.listing()


def _write(stream: BinaryIO, source: SourceSettings, row: Row) -> int:
    """Write title and text of a row as a line of JSON."""
    kept = {name: row.fields[name] for name in (source.title_field, source.text_field) if name in row.fields}
    return stream.write(json.dumps(kept).encode() + b"\n")


class _Rows:
    """The rows that were taken so far, and those that could not be."""

    def __init__(self, source: SourceSettings, file: Path) -> None:
        self._source = source
        self._file = file
        self._found = DocumentTable()
        self._refused: list[tuple[int, str, str]] = []
        self._has_ids = False

    def add(self, row: Row, place: Path, offset: int, length: int) -> None:
        """Take a row whose title and text lie at this place, or remember why it cannot be taken."""
        item = self._item(row)
        self._has_ids |= bool(item)
        try:
            self._check(row, item)
            span = Span(offset, length, row.line, self._source.title_field, self._source.text_field)
            self._found.add(self._document(row, item, place, span))
        except SourceError as error:
            self._refused.append((row.line, item, str(error)))

    def listing(self) -> Listing:
        """All of them.

        Raises:
            SourceError: None has an id.
        """
        if self._refused and not self._has_ids:
            raise SourceError(f"source {self._source.label!r}: {self._refused[0][2]}; no row of the file has an id")
        documents = self._without_twins()
        refused = {item for _, item, _ in self._refused}
        taken = {ref.item for ref in documents if ref.item in refused} if refused else set()
        return Listing(documents, tuple(self._quarantined(*entry, taken) for entry in sorted(self._refused)))

    def _without_twins(self) -> DocumentTable:
        """Rows by URI, the first of each; the others are refused. Told by their order: a table of ids takes much."""
        found = self._found.by_uri()  # which keeps the order of lines
        twins = {second: first for first, second in found.twins()}
        for second, first in twins.items():
            ref, taken = found[second], found[first]
            if ref.span and taken.span:
                says = f"{self._file}: line {ref.span.line}: its id {ref.item!r} is that of line {taken.span.line}"
                self._refused.append((ref.span.line, ref.item, f"{says}; give each line its own"))
        return found.without(twins) if twins else found

    def _quarantined(self, line: int, item: str, reason: str, taken: Collection[str]) -> Quarantined:
        named = item and item not in taken and not not_text(item)
        shown = item if named else f"line-{line}"
        return Quarantined(f"{self._source.name}#{shown}", shown, reason, self._source.label)

    def _item(self, row: Row) -> str:
        """The id of a row; "" where it has none. Of a line that is no JSON, what it begins with may still tell."""
        field = self._source.id_field
        item = row.fields.get(field)
        if row.reason and item is None:
            begins = re.match(rb'\s*\{\s*%b\s*:\s*("[^"\\]+"|\d+)\s*,' % re.escape(json.dumps(field)).encode(), row.raw)
            item = begins[1].strip(b'"').decode("utf-8", "replace") if begins else None
        return "" if isinstance(item, bool) or not isinstance(item, str | int) else str(item)

    def _check(self, row: Row, item: str) -> None:
        if row.reason:
            raise SourceError(row.reason)
        says = f"{self._file}: line {row.line}: "
        if not item:
            raise SourceError(f"{says}no id in the field {self._source.id_field!r}; name the right one as id_field")
        if not_text(item):
            raise SourceError(f"{says}the id {item!r} holds a lone surrogate, which is no text; mend it")

    def _document(self, row: Row, item: str, place: Path, span: Span) -> DocumentRef:
        return DocumentRef(
            f"{self._source.name}#{item}",
            item,
            self._source.label,
            jsonl_content(row.fields, span, self._file),
            place,
            span.length,
            media_type="text/plain",
            span=span,
            metadata=self._metadata(row),
        )

    def _metadata(self, row: Row) -> tuple[tuple[str, Scalar], ...]:
        fields = {name: value for name, value in row.fields.items() if self._is_metadata(name, value)}
        for name, value in fields.items():
            if not_text(name) or (isinstance(value, str) and not_text(value)):
                raise SourceError(f"{self._file}: line {row.line}: field {name!r} holds a lone surrogate; mend it")
        return metadata_of(self._source, fields)

    def _is_metadata(self, name: str, value: Any) -> bool:
        source = self._source
        if name in {source.id_field, source.title_field, source.text_field}:
            return False
        if source.metadata_fields is not None and name not in source.metadata_fields:
            return False
        if isinstance(value, float):
            return math.isfinite(value)
        return isinstance(value, int) or (isinstance(value, str) and 0 < len(value) <= METADATA_CHARACTERS)
