"""What a file is: by its content first, then by its name, then by what its source declares."""

import re
import zipfile
from pathlib import Path, PurePosixPath
from typing import Literal

from nightloom.errors import DocumentError
from nightloom.formats.archive import ENCRYPTED, open_zip

Kind = Literal["text", "markdown", "rst", "html", "json", "notebook", "mail", "pdf", "docx", "pptx", "xlsx", "epub"]

HEAD_BYTES = 1 << 12
ZIP_MAGIC = (b"PK\x03\x04", b"PK\x05\x06")
OLE_MAGIC = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
PDF_MAGIC = b"%PDF-"
PDF_MAGIC_WITHIN = 1024
"""Source: the implementation notes of the PDF reference, 3.4.1: readers accept it anywhere in so many bytes."""

ARCHIVE = "an archive, which is no document; store the documents that it holds"
PICTURE = "a picture, which has no text; OCR is not done"
RECORDING = "sound or video, which has no text; store its transcript"
OLD_OFFICE = "an old Office file (.doc, .xls, .ppt) or one with a password; save it as .docx, .xlsx or .pptx"
ODF = "an OpenDocument file; save it as .docx, .xlsx, .pptx or PDF"
NO_READER: tuple[tuple[bytes, str], ...] = (
    (OLE_MAGIC, OLD_OFFICE),
    (b"{\\rtf", "RTF; save it as .docx"),
    (b"%!PS", "PostScript; save it as PDF"),
    (b"\x1f\x8b", ARCHIVE),
    (b"BZh91AY&SY", ARCHIVE),
    (b"\xfd7zXZ\x00", ARCHIVE),
    (b"\x28\xb5\x2f\xfd", ARCHIVE),
    (b"7z\xbc\xaf\x27\x1c", ARCHIVE),
    (b"Rar!\x1a\x07", ARCHIVE),
    (b"\x89PNG\r\n\x1a\n", PICTURE),
    (b"\xff\xd8\xff", PICTURE),
    (b"II*\x00", PICTURE),
    (b"MM\x00*", PICTURE),
    (b"OggS\x00", RECORDING),
    (b"fLaC\x00", RECORDING),
    (b"\x1a\x45\xdf\xa3", RECORDING),
)
NO_READER_WITH_NULS = (
    (0, b"GIF8", PICTURE),
    (0, b"RIFF", RECORDING),
    (0, b"ID3", RECORDING),
    (4, b"ftyp", RECORDING),
    (257, b"ustar", ARCHIVE),
)
"""Magic that a text could hold as well, and the offset that it stands at."""

BY_SUFFIX: dict[str, Kind] = {
    ".md": "markdown",
    ".markdown": "markdown",
    ".mdx": "markdown",
    ".qmd": "markdown",
    ".rmd": "markdown",
    ".rst": "rst",
    ".html": "html",
    ".htm": "html",
    ".xhtml": "html",
    ".json": "json",
    ".geojson": "json",
    ".ipynb": "notebook",
    ".eml": "mail",
    ".pdf": "pdf",
    ".docx": "docx",
    ".pptx": "pptx",
    ".xlsx": "xlsx",
    ".epub": "epub",
}
BY_MEDIA_TYPE: dict[str, Kind] = {
    "text/markdown": "markdown",
    "text/x-markdown": "markdown",
    "text/x-rst": "rst",
    "text/prs.fallenstein.rst": "rst",
    "text/html": "html",
    "application/xhtml+xml": "html",
    "application/json": "json",
    "application/x-ipynb+json": "notebook",
    "message/rfc822": "mail",
    "application/pdf": "pdf",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
    "application/vnd.openxmlformats-officedocument.presentationml.presentation": "pptx",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xlsx",
    "application/epub+zip": "epub",
}
CALLED: dict[Kind, str] = {
    "text": "text file",
    "markdown": "Markdown file",
    "rst": "reStructuredText file",
    "html": "HTML page",
    "json": "JSON file",
    "notebook": "notebook",
    "mail": "mail message",
    "pdf": "PDF",
    "docx": "Word document",
    "pptx": "PowerPoint presentation",
    "xlsx": "Excel workbook",
    "epub": "EPUB",
}
"""What a kind is called in messages."""
BINARY: frozenset[Kind] = frozenset({"pdf", "docx", "pptx", "xlsx", "epub"})
NO_TEXT_SUFFIXES = frozenset({".doc", ".xls", ".ppt", ".odt", ".ods", ".odp", ".rtf", ".svg"})
"""Of formats that have no reader: what bears these names and is none of them is no text either."""
NEVER_TEXT = ("image/", "audio/", "video/", "font/")
"""How media types begin that no document with text has."""
NO_TEXT_MEDIA_TYPES = (*NEVER_TEXT, "application/zip", "application/gzip", "application/msword")
"""How those begin that no file of text has."""

HTML_BEGINNING = re.compile(
    rb"(?:<\?xml[^>]*>\s*|(?><!--.*?-->)\s*)*+<(?:!doctype\s+html|html)[\s>]", re.IGNORECASE | re.DOTALL
)
MAIL_BEGINNING = re.compile(rb"(?:From [^\n]*\n)?[A-Za-z][A-Za-z0-9-]*:[ \t\r\n]")


def kind_of(path: Path, name: str, declared: str = "") -> Kind:
    """What the file is.

    Args:
        path: The file.
        name: The last part of its URI.
        declared: Media type that its source gave, without parameters, or "".

    Raises:
        DocumentError: No format that is read, or not what its name or its source says.
    """
    with path.open("rb") as stream:
        head = stream.read(HEAD_BYTES)
    if not head:
        raise DocumentError("empty: it has no text")
    suffix = PurePosixPath(name).suffix.lower()
    if declared.startswith(NEVER_TEXT):
        raise DocumentError(f"its source calls it {declared}, which has no text; exclude it")
    by_magic = _by_magic(path, head, suffix)
    return by_magic or _kind_of_text(head, suffix, declared)


def _by_magic(path: Path, head: bytes, suffix: str) -> Kind | None:
    if head.lstrip().startswith(PDF_MAGIC) or (suffix == ".pdf" and PDF_MAGIC in head[:PDF_MAGIC_WITHIN]):
        return "pdf"
    if head.startswith(ZIP_MAGIC):
        return _kind_of_zip(path)
    for magic, reason in NO_READER:
        if head.startswith(magic):
            raise DocumentError(reason)
    for offset, magic, reason in NO_READER_WITH_NULS:
        if head.startswith(magic, offset) and b"\x00" in head:
            raise DocumentError(reason)
    return None


def _kind_of_zip(path: Path) -> Kind:
    with open_zip(path) as opened:
        names = opened.namelist()
        media_type = opened.read("mimetype") if _can_be_read(opened, "mimetype") else b""
    if media_type.strip() == b"application/epub+zip":
        return "epub"
    if media_type.startswith(b"application/vnd.oasis.opendocument"):
        raise DocumentError(ODF)
    if "[Content_Types].xml" in names:
        if "xl/workbook.bin" in names:
            raise DocumentError("a binary Excel workbook (.xlsb); save it as .xlsx")
        kinds: dict[str, Kind] = {"word/": "docx", "ppt/": "pptx", "xl/": "xlsx"}
        for folder, kind in kinds.items():
            if any(name.startswith(folder) for name in names):
                return kind
    raise DocumentError(ARCHIVE)


def _can_be_read(opened: zipfile.ZipFile, name: str) -> bool:
    if name not in opened.namelist():
        return False
    member = opened.getinfo(name)
    return member.file_size <= HEAD_BYTES and not member.flag_bits & ENCRYPTED


def _kind_of_text(head: bytes, suffix: str, declared: str) -> Kind:
    """What a file without magic is, which is text of some kind or nothing that is read."""
    begins = head.replace(b"\x00", b"").lstrip(b"\xef\xbb\xbf\xfe\xff \t\r\n\f")
    is_page = HTML_BEGINNING.match(begins) is not None
    by_name = BY_SUFFIX.get(suffix)
    by_source = BY_MEDIA_TYPE.get(declared)
    page = "; it is an HTML page, perhaps of a login or an error" if is_page else ""
    if by_name in BINARY:
        raise DocumentError(f"called {_a(by_name)}, and is none{page}")
    if suffix in NO_TEXT_SUFFIXES:
        raise DocumentError(f"{suffix}: no reader for this format; save it as .docx, .xlsx, .pptx or PDF")
    if by_source in BINARY:
        raise DocumentError(f"its source calls it {_a(by_source)}, and it is none{page}")
    if declared.startswith(NO_TEXT_MEDIA_TYPES):
        raise DocumentError(f"its source calls it {declared}, and it is none{page}")
    if is_page and by_name in {"json", "notebook", "mail"}:
        raise DocumentError(f"called {_a(by_name)}, and is none{page}")
    if is_page:
        return "html"
    return _by_form(begins, by_name) or _by_form(begins, by_source) or "text"


def _a(kind: Kind) -> str:
    name = CALLED[kind]
    return f"an {name}" if name.startswith("E") else f"a {name}"


def _by_form(begins: bytes, kind: Kind | None) -> Kind | None:
    """A kind that was said, where the text has its form; any text may be Markdown."""
    forms: dict[Kind, bool] = {
        "html": b"<" in begins,
        "json": begins.startswith((b"{", b"[")),
        "notebook": begins.startswith(b"{"),
        "mail": MAIL_BEGINNING.match(begins) is not None,
    }
    return kind if kind and forms.get(kind, True) else None
