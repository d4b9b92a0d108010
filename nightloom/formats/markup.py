"""Markdown and reStructuredText: the text stays as it is written, its headings, code and tables are found."""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from nightloom.formats.assembly import Assembly, Heading
from nightloom.formats.front_matter import FRONT_MATTER, read_front_matter

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

MAX_PARSED_CHARACTERS = 8_000_000
"""Markdown longer than this is taken as plain text: its parser takes about a second for a million characters."""

LINE_END = re.compile(r"\r\n|\r|\n")
WHOLE_TOKENS = frozenset({"fence", "code_block", "table_open"})

ADORNMENT = re.compile(r"([!-/:-@\[-`{-~])\1+")
"""A line that underlines a title. Source: docutils, "reStructuredText Markup Specification", Sections."""
SHORT_ADORNMENT = 4
"""From this length on, an underline may be shorter than its title."""
GRID_TABLE = re.compile(r"\+(?:[-=]+\+)+")
SIMPLE_TABLE = re.compile(r"=+(?: +=+)+")
CODE_DIRECTIVE = re.compile(r"(?P<indent>[ \t]*)\.\. (?:code|code-block|sourcecode|parsed-literal|math)::")
ROLE = re.compile(r":[\w:+.-]+:(?=`)|[`*]+")


class Marks(NamedTuple):
    """Headings, in order, and what stays whole, as pairs of start and end."""

    headings: list[Heading]
    wholes: list[tuple[int, int]]


def read_markdown(text: str, out: Assembly) -> str:
    """Take Markdown; its front matter becomes metadata, and its title the first line where no heading says the same.

    Returns:
        The title of its front matter, or else its first heading of level 1, or "".
    """
    front = read_front_matter(text)
    out.take_metadata(front.fields, front.note)
    if front.end:
        body = text[front.end :].lstrip("\r\n")
        marks = markdown_marks(body)
        if front.title not in {heading.title for heading in marks.headings}:
            out.block(front.title)
        for value in front.texts:
            out.block(value)
    else:
        body = text
        found = FRONT_MATTER.match(text) if front.note else None  # of what stays text, nothing is a heading
        marks = markdown_marks(text, found.end() if found else 0)
    if body.strip():
        out.piece(body, headings=marks.headings, wholes=marks.wholes)
    return front.title or _first_title(marks.headings)


def markdown_marks(text: str, start: int = 0) -> Marks:
    """Where headings, code and tables are in Markdown (CommonMark and pipe tables), reading from `start` on."""
    marks = Marks([], [])
    if len(text) - start > MAX_PARSED_CHARACTERS:
        return marks
    parser = _markdown()
    body = text[start:]
    lines = [start, *(start + end.end() for end in LINE_END.finditer(body)), len(text)]
    tokens = parser.parse(body)
    for at, token in enumerate(tokens):
        if token.map is None:
            continue
        begin, end = (lines[min(line, len(lines) - 1)] for line in token.map)
        if token.type == "heading_open" and token.level == 0:
            marks.headings.append(Heading(begin, int(token.tag[1:]), _words(parser, tokens[at + 1])))
        elif token.type in WHOLE_TOKENS:
            marks.wholes.append((begin, begin + len(text[begin:end].rstrip())))
    return marks


def _markdown() -> "MarkdownIt":
    from markdown_it import MarkdownIt  # noqa: PLC0415  only Markdown needs it

    # Of the inside of a paragraph nothing is needed, and it is most of the work.
    return MarkdownIt("commonmark").enable("table").disable("inline")


def _words(parser: "MarkdownIt", inline: "Token") -> str:
    """A heading without its markup."""
    (token,) = parser.enable("inline").parseInline(inline.content)
    parser.disable("inline")
    return "".join(child.content or " " * (child.type == "softbreak") for child in token.children or [])


def _first_title(headings: list[Heading]) -> str:
    return next((heading.title for heading in headings if heading.level == 1), "")


class _Line(NamedTuple):
    start: int
    text: str

    @property
    def end(self) -> int:
        return self.start + len(self.text)

    @property
    def indent(self) -> int:
        return len(self.text) - len(self.text.lstrip())


def read_rst(text: str, out: Assembly) -> str:
    """Take reStructuredText; no directive is executed, and nothing is included.

    Returns:
        Its first heading of the outermost level, or "".
    """
    lines = list(_lines(text))
    headings = list(_rst_headings(lines))
    out.piece(text, headings=headings, wholes=list(_rst_wholes(lines)))
    return _first_title(headings)


def _lines(text: str) -> Iterator[_Line]:
    start = 0
    for end in LINE_END.finditer(text):
        yield _Line(start, text[start : end.start()].rstrip())
        start = end.end()
    yield _Line(start, text[start:].rstrip())


def _rst_headings(lines: list[_Line]) -> Iterator[Heading]:
    """Titles with a line under them, or over and under them; the order in which styles appear gives their levels."""
    styles: list[str] = []
    blank = _Line(0, "")
    for at in range(len(lines) - 1):
        before, title, under = lines[at - 1] if at else blank, lines[at], lines[at + 1]
        if not title.text or not _adorns(under, title) or _adorns(title, title):
            continue
        over = before.text == under.text
        if not over and (before.text or title.indent):
            continue
        style = under.text[0] * (2 if over else 1)
        if style not in styles:
            styles.append(style)
        words = ROLE.sub("", title.text.strip())
        yield Heading(before.start if over else title.start, styles.index(style) + 1, words)


def _adorns(line: _Line, title: _Line) -> bool:
    return ADORNMENT.fullmatch(line.text) is not None and len(line.text) >= min(len(title.text), SHORT_ADORNMENT)


def _rst_wholes(lines: list[_Line]) -> Iterator[tuple[int, int]]:
    at = 0
    while at < len(lines):
        last = _last_of_code(lines, at)
        if last is None:
            last = _last_of_table(lines, at)
            first = at
        else:
            first = next(index for index in range(at + 1, last + 1) if lines[index].text)
        if last is not None:
            yield lines[first].start, lines[last].end
        at = (at if last is None else last) + 1


def _last_of_code(lines: list[_Line], at: int) -> int | None:
    """The last line of the indented code that follows this one, which ends in `::` or is a directive of code."""
    opening = lines[at]
    if not CODE_DIRECTIVE.match(opening.text) and (not opening.text.endswith("::") or opening.text.startswith("..")):
        return None
    last = None
    for index in range(at + 1, len(lines)):
        if lines[index].text and lines[index].indent <= opening.indent:
            break
        if lines[index].text:
            last = index
    return last


def _last_of_table(lines: list[_Line], at: int) -> int | None:
    border = lines[at].text.strip()
    index = at
    if GRID_TABLE.fullmatch(border):
        while index + 1 < len(lines) and lines[index + 1].text.strip().startswith(("+", "|")):
            index += 1
        return index
    if not SIMPLE_TABLE.fullmatch(border):
        return None
    # A simple table has two borders, or three where it has a head; blank lines may stand between its rows.
    borders = []
    for index in range(at, len(lines)):
        if SIMPLE_TABLE.fullmatch(lines[index].text.strip()):
            borders.append(index)
            if index + 1 == len(lines) or not lines[index + 1].text:
                break
    return borders[-1]
