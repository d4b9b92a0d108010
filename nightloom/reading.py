"""From a document as a source lists it to its text."""

from pathlib import Path, PurePosixPath
from typing import Any

from nightloom.corpus import ReadingSettings
from nightloom.documents import Document, DocumentRef
from nightloom.errors import DocumentError, SourceError
from nightloom.formats import Parsed, parse
from nightloom.metadata import clean
from nightloom.sources import hash_file, jsonl_content, parse_jsonl_row

LOADER_VERSION = 3
"""Part of the fingerprint: raise it whenever the text that comes of the same bytes changes."""

DEFAULTS = ReadingSettings()


def read_document(ref: DocumentRef, settings: ReadingSettings = DEFAULTS) -> Document:
    """Read a document and check that it still is what was listed.

    Args:
        ref: The document.
        settings: Bounds of it and of its text.

    Returns:
        The document; its text begins with its title where it has one, is never blank, and holds no NUL.

    Raises:
        DocumentError: It changed since it was listed, is empty or too large, is no text, or its format has no reader.
    """
    if ref.size_bytes > settings.max_document_bytes:
        raise DocumentError(
            f"{ref.size_bytes} bytes are more than reading.max_document_bytes = {settings.max_document_bytes}"
        )
    try:
        parsed = _read_span(ref, settings.max_text_bytes) if ref.span else _read_file(ref, settings.max_text_bytes)
    except OSError as error:
        raise DocumentError(f"cannot be read: {error.strerror}") from error
    given = {name for name, _ in ref.metadata}  # by the source, which comes over what a document says of itself
    metadata, notes = clean([*ref.metadata, *(pair for pair in parsed.metadata if pair[0] not in given)])
    return Document(ref, parsed.title, parsed.text, parsed.places, parsed.wholes, metadata, notes | parsed.notes)


def _read_span(ref: DocumentRef, max_text_bytes: int) -> Parsed:
    path, span = _place(ref), ref.span
    assert span is not None  # noqa: S101  the caller asked
    with path.open("rb") as stream:
        stream.seek(span.offset)
        line = stream.read(span.length)
    try:
        row: dict[str, Any] = parse_jsonl_row(line, path, span.line)
        content = jsonl_content(row, span, path)
    except SourceError:
        content, row = "", {}
    _check_unchanged(ref, content)
    title, text = (str(row.get(field) or "").replace("\x00", "") for field in (span.title_field, span.text_field))
    title = title.strip()
    text = f"{title}\n\n{text}" if title and text.strip() else title or text
    try:
        text.encode()
    except UnicodeEncodeError:
        raise DocumentError("holds a lone surrogate, which is no text; mend it at the source") from None
    if not text.strip():
        raise DocumentError("empty: it has no text")
    if len(text.encode()) > max_text_bytes:
        raise DocumentError(
            f"more than reading.max_text_bytes = {max_text_bytes} bytes of text; divide it, or raise it"
        )
    return Parsed(title, text)


def _read_file(ref: DocumentRef, max_text_bytes: int) -> Parsed:
    path = _place(ref)
    name = ref.uri.partition("?")[0].partition("#")[0] if "://" in ref.uri else ref.uri
    try:
        parsed = parse(path, PurePosixPath(name).name, ref.media_type, max_text_bytes)
    except DocumentError:
        _check_unchanged(ref, hash_file(path)[0])  # what a change broke is whole tomorrow
        raise
    _check_unchanged(ref, hash_file(path)[0])
    return parsed


def _place(ref: DocumentRef) -> Path:
    if ref.path is None:
        raise DocumentError("there is nothing to read: the source said that it is unchanged")
    return ref.path


def _check_unchanged(ref: DocumentRef, content: str) -> None:
    if content != ref.content:
        raise DocumentError("changed while the night ran; the next night takes it")
