"""From the bytes of a document to its text."""

import hashlib
import io
from pathlib import Path, PurePosixPath
from typing import Any

import charset_normalizer

from nightloom.corpus import ReadingSettings
from nightloom.documents import Document, DocumentRef
from nightloom.errors import DocumentError, SourceError
from nightloom.metadata import clean
from nightloom.sources import jsonl_content, parse_jsonl_row

LOADER_VERSION = 1
"""Part of the fingerprint: raise it whenever the text that comes of the same bytes changes."""

DEFAULTS = ReadingSettings()

PDF_MAGIC = b"%PDF-"
BYTE_ORDER_MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
TEXT_TYPES = frozenset({"application/json", "application/xml", "application/yaml", "application/toml"})
NO_READER_TYPES = frozenset({"text/html", "application/xhtml+xml"})
NO_READER_SUFFIXES = frozenset(
    {".html", ".htm", ".xhtml", ".doc", ".docx", ".ppt", ".pptx", ".xls", ".xlsx", ".odt", ".epub", ".rtf"}
)
"""Formats whose bytes are, or hold, text that is not the document's. By name: the types that a machine knows differ."""

ENCODINGS = ("cp1252", "cp1251", "cp1253", "cp1255", "cp1256", "koi8_r", "shift_jis", "euc_jp", "gb18030", "euc_kr")
"""What text that is not Unicode is looked for in, one or two for each alphabet: of the dozens that remain, most differ
from these in a letter or two, and short texts would be taken for them."""


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
    if len(text.encode()) > settings.max_text_bytes:
        raise DocumentError(
            f"its text of {len(text.encode())} bytes is more than reading.max_text_bytes = {settings.max_text_bytes}"
        )
    metadata, notes = clean(ref.metadata)
    return Document(ref, title, text, metadata=metadata, notes=notes)


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


def decode(data: bytes) -> str:
    """Bytes of a text file as text, whatever its encoding; a byte order mark is dropped.

    Raises:
        DocumentError: It is binary, or no encoding fits.
    """
    for mark, encoding in BYTE_ORDER_MARKS.items():
        if data.startswith(mark):
            try:
                return data.decode(encoding).removeprefix("\ufeff")
            except UnicodeDecodeError as error:
                raise DocumentError(f"begins as {encoding} but is not: {error}") from None
    if b"\x00" in data:
        raise DocumentError("binary content under the name of a text file")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        best = charset_normalizer.from_bytes(data, cp_isolation=list(ENCODINGS)).best()
    if best is None:
        raise DocumentError("neither UTF-8 nor any encoding that could be detected")
    return str(best)


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
