"""Word, PowerPoint and Excel files, and the zip files that they are: order, tables, sections; no bombs, no entities."""

import io
import stat
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import docx
import pptx
import pytest
from docx.oxml import parse_xml
from docx.oxml.ns import nsdecls
from pptx.util import Inches

from tests.format_files import read, refusal, sections, wholes

Edit = Callable[[str, bytes], bytes | None]


def saved(document: Any) -> bytes:
    stream = io.BytesIO()
    document.save(stream)
    return stream.getvalue()


def word(*paragraphs: str) -> bytes:
    document = docx.Document()
    for paragraph in paragraphs:
        document.add_paragraph(paragraph)
    return saved(document)


def slides() -> bytes:
    presentation = pptx.Presentation()
    first = presentation.slides.add_slide(presentation.slide_layouts[1])
    first.shapes.title.text = "Tides"
    first.placeholders[1].text = "The moon\nThe sun"
    first.notes_slide.notes_text_frame.text = "Speak slowly"
    second = presentation.slides.add_slide(presentation.slide_layouts[6])
    table = second.shapes.add_table(2, 2, 0, 0, Inches(4), Inches(1)).table
    for at, words in enumerate(["Port", "Metres", "Brest", "6.9"]):
        table.cell(at // 2, at % 2).text = words
    group = second.shapes.add_group_shape()
    group.shapes.add_textbox(0, 0, Inches(1), Inches(1)).text_frame.text = "in a group"
    presentation.core_properties.title = "On tides"
    return saved(presentation)


SHEET = (
    '<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><sheetData>{}</sheetData></worksheet>'
)
MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
RELATIONS = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
PACKAGE = "http://schemas.openxmlformats.org/package/2006"


def workbook(*sheets: tuple[str, str], state: str = "visible") -> bytes:
    """An Excel workbook of sheets by name and rows; the last has the state."""
    listed = "".join(
        f'<sheet name="{name}" sheetId="{at}" r:id="r{at}" state="{state if at == len(sheets) else "visible"}"/>'
        for at, (name, _) in enumerate(sheets, 1)
    )
    related = "".join(
        f'<Relationship Id="r{at}" Type="{RELATIONS}/worksheet" Target="worksheets/sheet{at}.xml"/>'
        for at in range(1, len(sheets) + 1)
    )
    parts = {
        "[Content_Types].xml": f'<Types xmlns="{PACKAGE}/content-types"/>',
        "_rels/.rels": f'<Relationships xmlns="{PACKAGE}/relationships">'
        f'<Relationship Id="r1" Type="{RELATIONS}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
        "xl/workbook.xml": f'<workbook xmlns="{MAIN}" xmlns:r="{RELATIONS}"><sheets>{listed}</sheets></workbook>',
        "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{PACKAGE}/relationships">{related}</Relationships>',
    }
    parts |= {f"xl/worksheets/sheet{at}.xml": SHEET.format(rows) for at, (_, rows) in enumerate(sheets, 1)}
    return zipped(parts)


def zipped(parts: dict[str, str] | dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    return stream.getvalue()


def edited(data: bytes, edit: Edit, **more: str | bytes) -> bytes:
    """The zip file with every part as `edit` gives it back, and more parts."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        parts = {name: edit(name, archive.read(name)) for name in archive.namelist()}
    kept = {name: part for name, part in parts.items() if part is not None}
    return zipped(kept | {name: part.encode() if isinstance(part, str) else part for name, part in more.items()})


def text_row(number: int, *cells: str) -> str:
    inner = "".join(
        f'<c r="{chr(65 + at)}{number}" t="inlineStr"><is><t>{cell}</t></is></c>' for at, cell in enumerate(cells)
    )
    return f'<row r="{number}">{inner}</row>'


# --- Word


def test_a_word_document_is_read_in_its_order(tmp_path: Path) -> None:
    document = docx.Document()
    document.core_properties.title = "On tides"
    document.add_paragraph("Before any heading")
    document.add_heading("Tides", 1)
    document.add_paragraph("The moon")
    table = document.add_table(2, 2)
    for at, words in enumerate(["Port", "Metres", "Brest", "6.9"]):
        table.cell(at // 2, at % 2).text = words
    document.add_paragraph("after the table")
    document.add_heading("Spring tides", 2)
    document.add_paragraph("in a line\nand below\tit")
    parsed = read(tmp_path, "a.docx", saved(document))
    assert parsed.title == "On tides"
    assert sections(parsed) == [
        ((), "Before any heading"),
        (("Tides",), "Tides\n\nThe moon\n\nPort | Metres\nBrest | 6.9\n\nafter the table"),
        (("Tides", "Spring tides"), "Spring tides\n\nin a line\nand below\tit"),
    ]
    assert wholes(parsed) == ["Port | Metres\nBrest | 6.9"]


def paragraph(inner: str) -> Any:
    return parse_xml(f"<w:p {nsdecls('w')}>{inner}</w:p>")


@pytest.mark.parametrize(
    ("inner", "text"),
    [
        ("<w:ins><w:r><w:t>inserted</w:t></w:r></w:ins>", "inserted"),
        ("<w:r><w:t>kept</w:t></w:r><w:del><w:r><w:delText>deleted</w:delText></w:r></w:del>", "kept"),
        ("<w:r><w:t>kept</w:t></w:r><w:moveFrom><w:r><w:t>moved</w:t></w:r></w:moveFrom>", "kept"),
        ("<w:hyperlink><w:r><w:t>linked</w:t></w:r></w:hyperlink>", "linked"),
        ("<w:sdt><w:sdtContent><w:r><w:t>controlled</w:t></w:r></w:sdtContent></w:sdt>", "controlled"),
        ("<w:r><w:t>kept</w:t></w:r><w:r><w:rPr><w:vanish/></w:rPr><w:t>hidden</w:t></w:r>", "kept"),
        ("<w:r><w:instrText>PAGE</w:instrText><w:t>kept</w:t></w:r>", "kept"),
    ],
)
def test_a_word_paragraph_gives_what_its_reader_sees(tmp_path: Path, inner: str, text: str) -> None:
    document = docx.Document()
    document.element.body.insert(0, paragraph(inner))
    assert read(tmp_path, "a.docx", saved(document)).text == text


def test_a_content_control_around_paragraphs_hides_nothing(tmp_path: Path) -> None:
    document = docx.Document()
    control = parse_xml(f"<w:sdt {nsdecls('w')}><w:sdtContent/></w:sdt>")
    control[0].append(paragraph("<w:r><w:t>controlled</w:t></w:r>"))
    document.element.body.insert(0, control)
    assert read(tmp_path, "a.docx", saved(document)).text == "controlled"


def test_a_text_file_called_docx_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path, "a.docx", "words") == "called a Word document, and is none"
    assert "damaged zip" in refusal(tmp_path, "a.docx", word("words")[:-100])
    assert "Word document cannot be read" in refusal(
        tmp_path, "a.docx", zipped({"[Content_Types].xml": "<a/>", "word/document.xml": "<a/>"})
    )


def test_a_word_document_without_text_is_refused(tmp_path: Path) -> None:
    assert "no text" in refusal(tmp_path, "a.docx", word("", " "))


# --- PowerPoint


def test_slides_are_pages_with_titles_tables_and_notes(tmp_path: Path) -> None:
    parsed = read(tmp_path, "a.pptx", slides())
    assert parsed.title == "On tides"
    assert parsed.text == ("Tides\n\nThe moon\nThe sun\n\nSpeak slowly\n\nPort | Metres\nBrest | 6.9\n\nin a group")
    assert [(place.page, place.headings) for place in parsed.places] == [(1, ("Tides",)), (2, ())]
    assert wholes(parsed) == ["Port | Metres\nBrest | 6.9"]


# --- Excel


def test_sheets_are_sections_with_one_line_a_row(tmp_path: Path) -> None:
    numbers = '<row r="2"><c r="A2"><v>6.9</v></c><c r="B2"><v>5</v></c><c r="C2" t="b"><v>1</v></c></row>'
    data = workbook(
        ("Ports", text_row(1, "Brest", "Dover", "Known") + numbers + text_row(4, "a", "b")),
        ("Empty", ""),
        ("Hidden", text_row(1, "secret")),
        state="hidden",
    )
    parsed = read(tmp_path, "a.xlsx", data)
    assert sections(parsed) == [(("Ports",), "Ports\n\nBrest | Dover | Known\n6.9 | 5 | True\na | b")]
    assert wholes(parsed) == ["Brest | Dover | Known\n6.9 | 5 | True\na | b"]


@pytest.mark.parametrize(
    "rows",
    [
        '<row r="1"><c r="A1"><v>1</v></c></row><row r="1048576"><c r="XFD1048576"><v>1</v></c></row>',
        '<row r="1"><c r="A1" t="n"><v>1</v></c></row><row><c r=\'XFD1048576\' t="n"><v>1</v></c></row>',
        '<row r="1"><c><v>1</v></c></row><row r="1048576">' + "<c><v>1</v></c>" * 100 + "</row>",
        '<row r="1"><c t="n"><v>1</v></c></row><row spans="1:9" r="1048576">'
        + '<c t="n"><v>1</v></c>' * 100
        + "</row>",
    ],
)
def test_a_sheet_that_spans_too_many_cells_is_refused(tmp_path: Path, rows: str) -> None:
    assert "1,048,576 rows" in refusal(tmp_path, "a.xlsx", workbook(("Far", rows)))


def test_cells_that_do_not_say_their_place_are_read(tmp_path: Path) -> None:
    rows = "<row><c><v>1</v></c><c><v>2</v></c></row><row><c/><c><v>3</v></c></row>"
    assert read(tmp_path, "a.xlsx", workbook(("Sheet", rows))).text == "Sheet\n\n1 | 2\n | 3"


def test_far_cells_that_are_empty_count_for_nothing(tmp_path: Path) -> None:
    far = '<row r="1048576"><c r="XFD1048576" s="1"/></row>'
    assert read(tmp_path, "a.xlsx", workbook(("Far", text_row(1, "a") + far))).text == "Far\n\na"


# --- what all of them refuse


FILES = [("a.docx", word("words"), "word/document.xml"), ("a.pptx", slides(), "ppt/presentation.xml")]
FILES.append(("a.xlsx", workbook(("Sheet", text_row(1, "words"))), "xl/workbook.xml"))
each_file = pytest.mark.parametrize(("name", "data", "part"), FILES, ids=["docx", "pptx", "xlsx"])


def keep(_name: str, data: bytes) -> bytes:
    return data


@each_file
def test_the_files_that_are_broken_below_are_read_when_whole(tmp_path: Path, name: str, data: bytes, part: str) -> None:
    assert read(tmp_path, name, edited(data, keep)).text


@each_file
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize(
    "declares",
    [
        '<!DOCTYPE a [<!ENTITY file SYSTEM "file:///etc/hostname">]>',
        '<!DOCTYPE a [<!ENTITY a "boom"><!ENTITY b "&a;&a;&a;">]>',
        '<!DOCTYPE a SYSTEM "http://127.0.0.1/a.dtd">',
        "<!--" + "x" * 10_000 + "--><!DOCTYPE a>",
    ],
)
def test_a_part_that_declares_a_document_type_is_refused(
    tmp_path: Path, name: str, data: bytes, part: str, declares: str, encoding: str
) -> None:
    def declare(found: str, body: bytes) -> bytes:
        if found != part:
            return body
        root = body.decode().rpartition("?>")[2]
        return f'<?xml version="1.0" encoding="{encoding}"?>{declares}{root}'.encode(encoding)

    assert "declares a document type" in refusal(tmp_path, name, edited(data, declare))


@each_file
def test_a_bomb_in_a_part_is_refused_by_its_ratio(tmp_path: Path, name: str, data: bytes, part: str) -> None:
    bomb = bytes(100 << 20)
    assert "200 times" in refusal(tmp_path, name, edited(data, keep, bomb=bomb))


@each_file
def test_a_bomb_of_members_is_refused(tmp_path: Path, name: str, data: bytes, part: str) -> None:
    assert "10,000" in refusal(tmp_path, name, edited(data, keep, **{f"x{at}": b"" for at in range(10_001)}))


@each_file
@pytest.mark.parametrize("bad", ["../x", "/etc/x", "a/../../x", "..\\x", "C:\\x"])
def test_a_name_that_leads_out_is_refused(tmp_path: Path, name: str, data: bytes, part: str, bad: str) -> None:
    assert "leads out" in refusal(tmp_path, name, edited(data, keep, **{bad: b"words"}))


@each_file
def test_a_symbolic_link_is_refused(tmp_path: Path, name: str, data: bytes, part: str) -> None:
    stream = io.BytesIO(data)
    with zipfile.ZipFile(stream, "a") as archive:
        link = zipfile.ZipInfo("link")
        link.create_system = 3
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    assert "symbolic link" in refusal(tmp_path, name, stream.getvalue())


@each_file
def test_a_locked_member_is_refused(tmp_path: Path, name: str, data: bytes, part: str) -> None:
    at = data.rindex(b"PK\x01\x02")
    locked = data[: at + 8] + b"\x01" + data[at + 9 :]
    assert "without a password" in refusal(tmp_path, name, locked)


@each_file
def test_a_member_cannot_lie_about_its_size(tmp_path: Path, name: str, data: bytes, part: str) -> None:
    """Its directory says that it is small: no more than that is unpacked, and then its checksum is wrong."""
    bomb = edited(data, keep, **{part: b"<a>" + b"<b/>" * 5_000_000 + b"</a>"})
    size = (3 + 4 * 5_000_000 + 4).to_bytes(4, "little")
    assert bomb.count(size) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert refusal(tmp_path, name, bomb.replace(size, (100).to_bytes(4, "little")))


@each_file
def test_more_text_than_the_limit_is_refused(tmp_path: Path, name: str, data: bytes, part: str) -> None:
    assert "limit" in refusal(tmp_path, name, data, max_text_bytes=3)
