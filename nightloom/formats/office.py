"""Word documents, PowerPoint presentations and Excel workbooks."""

import re
import zipfile
from collections.abc import Iterable, Iterator
from datetime import datetime, time
from pathlib import Path
from typing import Any

from nightloom.errors import DocumentError
from nightloom.formats.archive import check_xml, checked_zip
from nightloom.formats.assembly import Assembly

MATH_TEXT = "{http://schemas.openxmlformats.org/officeDocument/2006/math}t"
WORD = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
FALLBACK = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"
SPACES = {f"{WORD}tab": "\t", f"{WORD}br": "\n", f"{WORD}cr": "\n", f"{WORD}noBreakHyphen": "-"}
NOT_SHOWN = frozenset({f"{WORD}moveFrom", f"{WORD}pPr", f"{WORD}rPr", FALLBACK})
"""What has moved elsewhere, formats, and a second copy of a text box for older programs."""
WRAPPERS = frozenset({f"{WORD}sdt", f"{WORD}sdtContent", f"{WORD}ins", f"{WORD}moveTo", f"{WORD}customXml"})
"""What stands around paragraphs and adds nothing: content controls, insertions that are not accepted yet."""
NOTES = ("/footnotes", "/endnotes")
HEADING_STYLE = re.compile(r"heading (\d)", re.IGNORECASE)
TITLE_STYLE = "title"

ROW = re.compile(rb"<(?:\w+:)?row\b")
ROW_NUMBER = re.compile(rb"[^>]*?\br=[\"'](\d{1,7})[\"']")
CELL = re.compile(rb"<(?:\w+:)?c\b[^>]*?\br=[\"']([A-Z]{1,3})(\d{1,7})[\"'][^>]*(?<!/)>")
CELL_WITHOUT_PLACE = re.compile(rb"<(?:\w+:)?c(?:>|\s(?![^>]*\br=))")
MAX_CELLS = 20_000_000
"""In the rectangle that a sheet spans, empty cells among them: the reader makes room for every one."""
SHEET = re.compile(r"xl/worksheets/[^/]+\.xml", re.IGNORECASE)


def read_docx(path: Path, out: Assembly) -> str:
    """Take the body of a Word document in its order, then its footnotes and endnotes.

    Returns:
        The title of its properties, or the paragraph in the style Title, or "".

    Raises:
        DocumentError: It is a bomb, holds a document type, or is no Word document.
    """
    import docx  # noqa: PLC0415  only Word documents need it

    _check(path)
    document = docx.Document(str(path))
    levels = {style.style_id: level for style in document.styles if (level := _level(style))}
    title = ""
    for element in _blocks(document.element.body):
        if element.tag == f"{WORD}tbl":
            out.block(_word_table(element), whole=True)
            continue
        text, style = _word_text(element), element.style
        if style in levels and text.strip():
            out.heading(levels[style], text)
        else:
            out.block(text)
        if not title and style and style.lower() == TITLE_STYLE:
            title = text
    for note in _notes(document):
        out.block(note)
    return str(document.core_properties.title or title)


def _check(path: Path) -> None:
    with checked_zip(path) as opened:
        check_xml(opened)


def _level(style: Any) -> int:
    """The level of a heading's style, 0 for any other; styles that users base on one count, too."""
    for _ in range(10):
        if style is None:
            return 0
        found = HEADING_STYLE.fullmatch(style.name or "")
        if found:
            return int(found[1])
        style = getattr(style, "base_style", None)
    return 0


def _blocks(element: Any) -> Iterator[Any]:
    for child in element:
        if child.tag in {f"{WORD}p", f"{WORD}tbl"}:
            yield child
        elif child.tag in WRAPPERS:
            yield from _blocks(child)


def _word_text(element: Any) -> str:
    """The text of a paragraph or a cell, with that of the text boxes in it; what is deleted or hidden is left out."""
    words: list[str] = []
    pending = [element]
    while pending:
        part = pending.pop()
        if isinstance(part, str):
            words.append(part)
        elif part.tag in {f"{WORD}t", MATH_TEXT}:
            words.append(part.text or "")
        elif part.tag in SPACES:
            words.append(SPACES[part.tag])
        elif part.tag not in NOT_SHOWN and not _is_hidden(part):
            if part.tag == f"{WORD}p" and part is not element:
                pending.append("\n")
            pending.extend(reversed(part))
    return "".join(words)


def _is_hidden(part: Any) -> bool:
    mark = part.find(f"{WORD}rPr/{WORD}vanish") if part.tag == f"{WORD}r" else None
    return mark is not None and mark.get(f"{WORD}val") not in {"0", "false"}


def _word_table(table: Any) -> str:
    rows = (row for row in table.iterchildren(f"{WORD}tr"))
    return _as_table([_word_text(cell) for cell in _cells(row)] for row in rows)


def _cells(row: Any) -> Iterator[Any]:
    for child in row:
        if child.tag == f"{WORD}tc":
            yield child
        elif child.tag in WRAPPERS:
            yield from _cells(child)


def _as_table(rows: Iterable[Iterable[str]]) -> str:
    lines = [" | ".join(" ".join(cell.split()) for cell in row) for row in rows]
    return "\n".join(line.rstrip(" |") for line in lines if line.strip(" |"))


def _notes(document: Any) -> Iterator[str]:
    from docx.oxml.parser import parse_xml  # noqa: PLC0415  resolves no entities

    for relation in document.part.rels.values():
        if relation.reltype.endswith(NOTES) and not relation.is_external:
            for note in parse_xml(relation.target_part.blob):
                yield "\n".join(_word_text(paragraph) for paragraph in _blocks(note))


def read_pptx(path: Path, out: Assembly) -> str:
    """Take the slides of a presentation: titles, texts, tables and the speaker's notes.

    Returns:
        The title of its properties, or "".

    Raises:
        DocumentError: It is a bomb, holds a document type, or is no presentation.
    """
    import pptx  # noqa: PLC0415  only presentations need it

    _check(path)
    presentation = pptx.Presentation(str(path))
    for number, slide in enumerate(presentation.slides, 1):
        out.page(number)
        title = slide.shapes.title
        # Every slide is a section of its own, with or without a title.
        out.heading(1, title.text_frame.text if title is not None else "")
        for shape in _shapes(slide.shapes):
            if not _is_furniture(shape) and (title is None or shape.shape_id != title.shape_id):
                _add_shape(shape, out)
        if slide.has_notes_slide and slide.notes_slide.notes_text_frame is not None:
            out.block(slide.notes_slide.notes_text_frame.text)
    return str(presentation.core_properties.title)


def _shapes(shapes: Iterable[Any]) -> Iterator[Any]:
    for shape in shapes:
        if hasattr(shape, "shapes"):
            yield from _shapes(shape.shapes)
        else:
            yield shape


def _is_furniture(shape: Any) -> bool:
    """Whether this is the date, the number or the footer that every slide bears."""
    from pptx.enum.shapes import PP_PLACEHOLDER  # noqa: PLC0415

    furniture = {PP_PLACEHOLDER.DATE, PP_PLACEHOLDER.FOOTER, PP_PLACEHOLDER.SLIDE_NUMBER}
    return shape.is_placeholder and shape.placeholder_format.type in furniture


def _add_shape(shape: Any, out: Assembly) -> None:
    if shape.has_text_frame:
        out.block(shape.text_frame.text.replace("\v", "\n"))
    elif getattr(shape, "has_table", False):
        out.block(_as_table([cell.text for cell in row.cells] for row in shape.table.rows), whole=True)


def read_xlsx(path: Path, out: Assembly) -> str:
    """Take the values of the visible sheets of a workbook, each a table under its name; formulas give their results.

    Returns:
        "", as the reader gives no properties.

    Raises:
        DocumentError: It is a bomb, spans too many cells, holds a document type, or is no workbook.
    """
    from python_calamine import CalamineWorkbook, SheetTypeEnum, SheetVisibleEnum  # noqa: PLC0415

    with checked_zip(path) as opened:
        check_xml(opened)
        _check_cells(opened)
    with CalamineWorkbook.from_path(str(path)) as workbook:
        for sheet in workbook.sheets_metadata:
            if sheet.visible != SheetVisibleEnum.Visible or sheet.typ != SheetTypeEnum.WorkSheet:
                continue
            rows = workbook.get_sheet_by_name(sheet.name).iter_rows()
            table = _as_table([_cell_text(value) for value in row] for row in rows)
            if table:
                out.heading(1, sheet.name)
                out.block(table, whole=True)
    return ""


def _check_cells(opened: zipfile.ZipFile) -> None:
    for name in opened.namelist():
        if SHEET.fullmatch(name):
            rows, columns = _extent(opened.read(name))
            if rows * columns > MAX_CELLS:
                raise DocumentError(
                    f"a sheet of {rows:,} rows and {columns:,} columns, where {MAX_CELLS:,} cells are the limit"
                )


def _extent(sheet: bytes) -> tuple[int, int]:
    """How many rows and columns a sheet spans at most; empty cells count where they do not say their place."""
    rows = columns = 0
    for cell in CELL.finditer(sheet):
        columns, rows = max(columns, _column(cell[1])), max(rows, int(cell[2]))
    if CELL_WITHOUT_PLACE.search(sheet):
        for count, row in enumerate(ROW.split(sheet)):
            number = ROW_NUMBER.match(row)
            rows = max(rows, int(number[1]) if number else 0, count)
            columns = max(columns, len(CELL_WITHOUT_PLACE.findall(row)))
    return rows, columns


def _column(letters: bytes) -> int:
    number = 0
    for letter in letters:
        number = number * 26 + letter - ord("A") + 1
    return number


def _cell_text(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, datetime):
        return str(value.date() if value.time() == time() else value)
    return str(value)
