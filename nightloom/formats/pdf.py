"""PDF: the text of its pages, their numbers and its bookmarks."""

import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from nightloom.errors import DocumentError
from nightloom.formats.assembly import Assembly, Heading

PASSWORD_ERROR = 4
"""FPDF_ERR_PASSWORD. Source: PDFium, fpdfview.h."""
END_OF_FILE = b"%%EOF"
END_WITHIN_BYTES = 4096
"""Some programs write a few bytes behind the end."""
MAX_BOOKMARKS = 10_000

NO_TITLE = re.compile(r"(?:Microsoft \w+ - )?\S+\.\w{2,5}|\S*[/\\]\S*|untitled", re.IGNORECASE)
"""The name of a file or an address, which programs put where a title belongs."""

DIVISION = re.compile("[\x02\ufffe][ \t]*\n?")
"""What PDFium gives for the hyphen of a word that is divided at the end of a line."""
CONTROLS = dict.fromkeys((*range(9), 11, *range(14, 32)))
"""What fonts without a map give for letters."""
WORD_CHARACTERS = 100
"""Longer than any word, so that a page without white space is not gone through again and again."""
LIGATURES = str.maketrans(
    {"\ufb00": "ff", "\ufb01": "fi", "\ufb02": "fl", "\ufb03": "ffi", "\ufb04": "ffl", "\ufb05": "st", "\ufb06": "st"}
)


def read_pdf(path: Path, out: Assembly) -> str:
    """Take the text of every page, one after the other.

    Returns:
        The title that its metadata give, or ""; the text holds it only where a page does.

    Raises:
        DocumentError: It needs a password, is cut off or damaged, or has no text.
    """
    import pypdfium2  # type: ignore[import-untyped]  # noqa: PLC0415  only PDFs need it

    _check_end(path)
    try:
        with pypdfium2.PdfDocument(path) as pdf:
            bookmarks = _bookmarks(pdf)
            for at in range(len(pdf)):
                out.page(at + 1)
                _add_page(_page_text(pdf, at), bookmarks[at], out)
            title: str = pdf.get_metadata_value("Title")
    except pypdfium2.PdfiumError as error:
        if error.err_code == PASSWORD_ERROR:
            raise DocumentError("encrypted PDF; store it without a password") from None
        raise DocumentError(f"PDF cannot be read: {error}") from error
    if not out.has_text:
        raise DocumentError("PDF of images only: no text; OCR is not done")
    return "" if NO_TITLE.fullmatch(title) else title


def _check_end(path: Path) -> None:
    """PDFium mends what is cut off as well as it can, which would index half a document as if it were whole."""
    with path.open("rb") as stream:
        size = stream.seek(0, 2)
        stream.seek(max(0, size - END_WITHIN_BYTES))
        if END_OF_FILE not in stream.read():
            raise DocumentError("PDF cannot be read: it is cut off, or damaged at its end; store it again")


def _page_text(pdf: Any, at: int) -> str:
    page = pdf[at]
    try:
        text_page = page.get_textpage()
        # A broken font map gives lone surrogates: keep the readable rest of the page.
        raw = text_page.get_text_bounded(errors="surrogatepass")
        text_page.close()
    finally:
        page.close()
    text = str(raw).encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return with_whole_words(text).translate(LIGATURES | CONTROLS).strip()


def with_whole_words(text: str) -> str:
    """The text with divided words joined; a hyphen stays in a compound, which has another or goes on in a capital."""
    first, *pieces = DIVISION.split(text)
    whole = [first]
    for piece in pieces:
        word = whole[-1][-WORD_CHARACTERS:].split(" ")[-1].rpartition("\n")[-1]
        whole.append(f"-{piece}" if "-" in word or not piece[:1].islower() else piece)
    return "".join(whole)


def _add_page(text: str, bookmarks: list[tuple[int, str]], out: Assembly) -> None:
    """Add a page; a section begins at its title in the text, or else where the last one before it began."""
    headings, position = [], 0
    for level, title in bookmarks:
        words = r"\s+".join(map(re.escape, title.split()))
        # At the beginning of a line, after its number, if it stands there.
        patterns = (re.compile(start + words, re.IGNORECASE | re.MULTILINE) for start in (r"^[\d. ]*", ""))
        found = next((match for pattern in patterns if (match := pattern.search(text, position))), None)
        position = found.start() if found else position
        headings.append(Heading(position, level, title))
    if text:
        out.piece(text, headings=headings)
    for heading in () if text else headings:
        out.enter(heading.level, heading.title)


def _bookmarks(pdf: Any) -> dict[int, list[tuple[int, str]]]:
    """Level and title of the bookmarks, by index of their page."""
    import pypdfium2  # noqa: PLC0415  only PDFs need it

    found: dict[int, list[tuple[int, str]]] = defaultdict(list)
    for number, bookmark in enumerate(pdf.get_toc()):
        if number == MAX_BOOKMARKS:
            break
        try:
            target = bookmark.get_dest()
            index = target.get_index() if target else None
            title = bookmark.get_title()
        except (pypdfium2.PdfiumError, UnicodeDecodeError):
            continue
        if index is not None and title.strip():
            found[index].append((bookmark.level + 1, title))
    return found
