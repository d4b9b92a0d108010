"""EPUB: the chapters of a book in reading order."""

import posixpath
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

from nightloom.errors import DocumentError
from nightloom.formats.archive import checked_zip
from nightloom.formats.assembly import Assembly
from nightloom.formats.html import decode_html, read_body

CONTAINER = "META-INF/container.xml"
ENCRYPTION = "META-INF/encryption.xml"
ROOT_FILE = "{urn:oasis:names:tc:opendocument:xmlns:container}rootfile"
METHOD = "{http://www.w3.org/2001/04/xmlenc#}EncryptionMethod"
FONTS_ONLY = frozenset({"http://www.idpf.org/2008/embedding", "http://ns.adobe.com/pdf/enc#RC"})
"""Methods that lock fonts and no text. Source: EPUB 3.3, "Font obfuscation"."""
OPF = "{http://www.idpf.org/2007/opf}"
BOOK_TITLE = "{http://purl.org/dc/elements/1.1/}title"
CHAPTER_TYPES = frozenset({"application/xhtml+xml", "text/html"})


def read_epub(path: Path, out: Assembly) -> str:
    """Take the chapters in the order of the spine; each is a section.

    Returns:
        The title of the book, or "".

    Raises:
        DocumentError: It is a bomb, locked, declares entities, or names a chapter that it does not hold.
    """
    with checked_zip(path) as book:
        _check_unlocked(book)
        root_file = _xml(book, CONTAINER).find(f".//{ROOT_FILE}")
        package_name = "" if root_file is None else root_file.get("full-path", "")
        package = _xml(book, package_name)
        for name in _chapters(package, PurePosixPath(package_name).parent):
            read_body(decode_html(_part(book, name)), out)
    return package.findtext(f".//{BOOK_TITLE}") or ""


def _check_unlocked(book: zipfile.ZipFile) -> None:
    if ENCRYPTION in book.namelist():
        methods = {method.get("Algorithm") for method in _xml(book, ENCRYPTION).iter(METHOD)}
        if methods - FONTS_ONLY:
            raise DocumentError("a locked EPUB (DRM); store it without")


def _chapters(package: Any, folder: PurePosixPath) -> list[str]:
    """Names of the chapters in the archive, in the order of the spine."""
    items = {item.get("id"): item for item in package.iter(f"{OPF}item")}
    spine = [items.get(reference.get("idref")) for reference in package.iter(f"{OPF}itemref")]
    return [
        posixpath.normpath(f"{folder}/{unquote(item.get('href', ''))}")
        for item in spine
        if item is not None and item.get("media-type") in CHAPTER_TYPES
    ]


def _xml(book: zipfile.ZipFile, name: str) -> Any:
    from defusedxml import DefusedXmlException  # type: ignore[import-untyped]  # noqa: PLC0415
    from defusedxml.ElementTree import fromstring  # type: ignore[import-untyped]  # noqa: PLC0415

    try:
        return fromstring(_part(book, name))
    except DefusedXmlException:
        raise DocumentError("one of its parts declares entities") from None
    except SyntaxError:
        raise DocumentError("one of its parts is damaged XML") from None


def _part(book: zipfile.ZipFile, name: str) -> bytes:
    try:
        return book.read(name)
    except KeyError:
        raise DocumentError("an EPUB that names a part which it does not hold") from None
