"""From the bytes of a document to its text."""

import hashlib
import io
from pathlib import Path, PurePosixPath
from typing import Any

from nightloom.documents import Document, DocumentRef
from nightloom.errors import DocumentError, SourceError
from nightloom.formats.text import decode
from nightloom.sources import jsonl_content, parse_jsonl_row

LOADER_VERSION = 1
"""Part of the fingerprint: raise it whenever the text that comes of the same bytes changes."""

PDF_MAGIC = b"%PDF-"
TEXT_TYPES = frozenset({"application/json", "application/xml", "application/yaml", "application/toml"})
NO_READER_TYPES = frozenset({"text/html", "application/xhtml+xml"})
NO_READER_SUFFIXES = frozenset(
    {".html", ".htm", ".xhtml", ".doc", ".docx", ".ppt", ".pptx", ".xls", ".xlsx", ".odt", ".epub", ".rtf"}
)
"""Formats whose bytes are, or hold, text that is not the document's. By name: the types that a machine knows differ."""


def read_document(ref: DocumentRef) -> Document:
    """Read a document and check that it still is what was listed.

    Returns:
        The document; its text begins with its title where it has one, is never blank, and holds no NUL.

    Raises:
        DocumentError: It changed since it was listed, is empty, is no text, or its format has no reader.
    """
    try:
        title, text = _read_span(ref) if ref.span else ("", _read_file(ref))
    except OSError as error:
        raise DocumentError(f"cannot be read: {error.strerror}") from error
    title, text = title.replace("\x00", ""), text.replace("\x00", "")
    text = f"{title}\n\n{text}" if title and text.strip() else title or text
    try:
        text.encode()
    except UnicodeEncodeError:
        raise DocumentError("holds a lone surrogate, which is no text; mend it at the source") from None
    if not text.strip():
        raise DocumentError("empty: it has no text")
    return Document(ref, title, text)


def _read_span(ref: DocumentRef) -> tuple[str, str]:
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
    return (row.get(span.title_field) or "").strip(), row.get(span.text_field) or ""


def _read_file(ref: DocumentRef) -> str:
    path = _place(ref)
    data = path.read_bytes()
    _check_unchanged(ref, hashlib.sha256(data).hexdigest())
    if data.startswith(PDF_MAGIC):
        return _pdf_text(data)
    suffix = PurePosixPath(ref.uri).suffix.lower()
    declared = ref.media_type or "text/plain"
    is_text = declared.startswith("text/") or declared in TEXT_TYPES
    if not is_text or declared in NO_READER_TYPES or suffix in NO_READER_SUFFIXES:
        shown = suffix if suffix in NO_READER_SUFFIXES else declared
        raise DocumentError(f"{shown}: no reader for this format; text, Markdown and PDF are read")
    if suffix == ".pdf":
        raise DocumentError("called a PDF, and is none")
    return decode(data)


def _place(ref: DocumentRef) -> Path:
    if ref.path is None:
        raise DocumentError("there is nothing to read: the source said that it is unchanged")
    return ref.path


def _check_unchanged(ref: DocumentRef, content: str) -> None:
    if content != ref.content:
        raise DocumentError("changed while the night ran; the next night takes it")


def _pdf_text(data: bytes) -> str:
    import pypdf  # noqa: PLC0415  slow to import, and only PDFs need it

    try:
        reader = pypdf.PdfReader(io.BytesIO(data))
        if reader.is_encrypted:
            raise DocumentError("encrypted PDF; store it without a password")
        text = "\n\n".join(page.extract_text() for page in reader.pages)
    except DocumentError:
        raise
    except Exception as error:
        raise DocumentError(f"PDF cannot be read: {type(error).__name__}: {error}") from error
    if not text.strip():
        raise DocumentError("PDF of images only: no text; OCR is not done")
    # A broken font map gives lone surrogates: keep the readable rest of the document.
    return text.encode("utf-8", "replace").decode()
