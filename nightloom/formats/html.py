"""HTML: the main text of a page, or all of its visible text."""

import re
from typing import Any

from nightloom.errors import DocumentError
from nightloom.formats.assembly import BLOCK_GAP, Assembly
from nightloom.formats.text import decode

CHARSET_WITHIN_BYTES = 4096
CHARSET = re.compile(rb"<(?:meta|\?xml)[^>]*?(?:charset|encoding)\s*=\s*[\"']?\s*([\w.:-]+)", re.IGNORECASE)


def _names(*lines: str) -> frozenset[str]:
    return frozenset(" ".join(lines).split())


SKIPPED = _names(
    "script style template noscript iframe object embed applet svg canvas audio video map nav",
    "select option button input textarea dialog",
)
ANCHOR_SIGNS = frozenset("#¶§🔗")
HIDING = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.IGNORECASE)
HEADINGS = {f"h{level}": level for level in range(1, 7)}
BLOCKS = _names(
    "html body main article section div p header footer aside address blockquote quote center fieldset figure",
    "figcaption details summary ul ol dl dt dd list hr tr td th row cell caption thead tbody tfoot table",
)
ITEMS = frozenset({"li", "item"})
LINE_BREAKS = frozenset({"br", "lb"})
ROWS = frozenset({"tr", "row"})
CELLS = frozenset({"td", "th", "cell"})
WHITE = re.compile(r"\s+")
NEXT_TO_ALL = 0.95
AROUND_BREAK = re.compile(r" *\n *")


def decode_html(data: bytes, charset: str = "") -> str:
    """Bytes of a page as text: by its mark, as UTF-8, as the page says, as its source says (`charset`), as detected.

    Raises:
        DocumentError: It is binary, or no encoding fits.
    """
    said = CHARSET.search(data[:CHARSET_WITHIN_BYTES])
    return decode(data, said[1].decode("ascii") if said else charset)


def read_html(text: str, out: Assembly) -> str:
    """Take the main text of a page: what is not navigation, advertisement, script or hidden.

    Returns:
        Its title, or ""; the text begins with it.

    Raises:
        DocumentError: It has no visible text.
    """
    page = _tree(text)
    if page is None:
        return ""
    if not _letters(_body(page)):
        raise DocumentError("HTML page without visible text; the scripts of a page are not run")
    title = _title(page)
    tree = _main_text(page)
    if title and not _begins_with(tree, title):
        out.block(title)
    _Walker(out).walk(tree)
    return title


def read_body(text: str, out: Assembly) -> None:
    """Take all visible text of a page that is nothing but a document, under its title where it has no heading."""
    page = _tree(text)
    if page is None:
        return
    body = _body(page)
    out.enter(1, "" if any(map(_level, body.iter())) else _title(page))
    _Walker(out).walk(body)


def _tree(text: str) -> Any:
    """The page without what is no text or is not shown; None where nothing is left."""
    from lxml import etree, html  # type: ignore[import-untyped]  # noqa: PLC0415

    if not text.strip():
        return None
    parser = html.HTMLParser(encoding="utf-8", no_network=True, remove_comments=True, remove_pis=True)
    try:
        page = html.document_fromstring(text.encode("utf-8", "replace"), parser=parser)
    except etree.ParserError:
        return None
    for element in [element for element in page.iter() if element.tag in SKIPPED or _is_no_text(element)]:
        if element.getparent() is not None and element.tag != "body":
            element.drop_tree()
    return page


def _is_no_text(element: Any) -> bool:
    """Whether it is hidden, or the sign beside a heading that links to it."""
    attributes = element.attrib
    return (
        (element.tag == "a" and attributes.get("href", "").startswith("#") and element.text in ANCHOR_SIGNS)
        or "hidden" in attributes
        or attributes.get("aria-hidden") == "true"
        or HIDING.search(attributes.get("style", "")) is not None
    )


def _body(page: Any) -> Any:
    body = page.find("body")
    return page if body is None else body


def _main_text(page: Any) -> Any:
    """What trafilatura takes for the main text, or the whole body where that leaves nothing out.

    Where it finds no main text, it gives what it can as one paragraph; the body has structure.
    """
    import trafilatura  # noqa: PLC0415  slow to import, and only HTML needs it

    found = trafilatura.bare_extraction(
        page, fast=True, include_comments=False, include_tables=True, output_format="xml"
    )
    main, body = getattr(found, "body", None), _body(page)
    if main is None:
        return body
    share = NEXT_TO_ALL if len(main) <= 1 else 1
    return body if _letters(main) >= share * _letters(body) else main


def _letters(tree: Any) -> int:
    """How many letters an element holds, white space aside."""
    return sum(len(word) for piece in tree.itertext() for word in piece.split())


def _title(page: Any) -> str:
    return " ".join((page.findtext(".//title") or "").split())


def _begins_with(tree: Any, title: str) -> bool:
    """Whether a text begins with a title, or with the part of it that is not the name of the site."""
    words = (" ".join(piece.split()) for piece in tree.itertext())
    begins = next(filter(None, words), "")
    rest = title.removeprefix(begins)
    return bool(begins) and (begins.startswith(title) or (rest != title and not rest[:1].isalnum()))


class _Walker:
    """Goes through an element and adds blocks; it never recurses, as pages can be nested deeply."""

    def __init__(self, out: Assembly) -> None:
        self._out = out
        self._words: list[str] = []
        self._is_item = False
        self._follows_item = False

    def walk(self, tree: Any) -> None:
        from lxml import etree  # noqa: PLC0415

        events = etree.iterwalk(tree, events=("start", "end"))
        for event, element in events:
            if event == "start" and not self._start(element):
                events.skip_subtree()
            elif event == "end":
                self._end(element, is_root=element is tree)
        self._flush()

    def _start(self, element: Any) -> bool:
        """Whether to go on inside."""
        tag = element.tag
        if tag in LINE_BREAKS:
            self._words.append("\n")
        elif tag == "pre" or (tag == "code" and "\n" in "".join(element.itertext()).strip()):
            self._flush()
            self._out.block("".join(element.itertext()), whole=True)
            return False
        elif tag == "table" and _is_data(element):
            self._flush()
            self._out.block(_rows(element), whole=True)
            return False
        elif tag in BLOCKS or tag in ITEMS or _level(element):
            self._flush()
            self._is_item = self._is_item or tag in ITEMS
        self._words.append(WHITE.sub(" ", element.text or ""))
        return True

    def _end(self, element: Any, *, is_root: bool) -> None:
        if level := _level(element):
            title, self._words = _joined(self._words), []
            self._out.heading(level, title)
            self._follows_item = False
        elif element.tag in BLOCKS or element.tag in ITEMS:
            self._flush()
            self._is_item = self._is_item and element.tag not in ITEMS
        if not is_root:
            self._words.append(WHITE.sub(" ", element.tail or ""))

    def _flush(self) -> None:
        text, self._words = _joined(self._words), []
        if not text:
            return
        tight = self._is_item and self._follows_item
        self._out.block(f"- {text}" if self._is_item else text, gap="\n" if tight else BLOCK_GAP)
        self._follows_item, self._is_item = self._is_item, False


def _level(element: Any) -> int:
    """The level of a heading, 0 where it is none; trafilatura calls a heading "head" and keeps its level aside."""
    tag = element.get("rend", "") if element.tag == "head" else element.tag
    return HEADINGS.get(tag, 0)


def _joined(words: list[str]) -> str:
    return AROUND_BREAK.sub("\n", re.sub(" +", " ", "".join(words))).strip()


def _is_data(table: Any) -> bool:
    """Whether a table holds data; pages are laid out in tables, too."""
    return not any(
        inside is not table and (inside.tag in {"table", "pre"} or _level(inside))
        for inside in table.iter()
        if isinstance(inside.tag, str)
    )


def _rows(table: Any) -> str:
    rows = []
    for row in (element for element in table.iter() if element.tag in ROWS):
        cells = [" ".join(" ".join(cell.itertext()).split()) for cell in row if cell.tag in CELLS]
        if any(cells):
            rows.append(" | ".join(cells))
    return "\n".join(rows)
