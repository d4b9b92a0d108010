"""PDF: pages in order, with their numbers and bookmarks; a reason for whatever has no text."""

import io
import time
from pathlib import Path

import pypdf
import pytest
from pypdf.generic import DecodedStreamObject, NameObject

from nightloom.formats import parse
from nightloom.formats.pdf import with_whole_words
from tests.format_files import check, make_pdf, read, refusal, sections


def written(writer: pypdf.PdfWriter) -> bytes:
    stream = io.BytesIO()
    writer.write(stream)
    return stream.getvalue()


def writer_of(*pages: str) -> pypdf.PdfWriter:
    return pypdf.PdfWriter(clone_from=io.BytesIO(make_pdf(pages)))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("attention_is_all_you_need.pdf", "The Transformer achieves better BLEU scores"),
        ("noisebridge_receipt.pdf", "Receipt number 2721-5058"),
        ("saas_slide.pdf", "Monthly Recurring Revenue"),
    ],
)
def test_real_pdfs_are_read(shared_data: Path, name: str, words: str) -> None:
    parsed = check(parse(shared_data / "pdf" / name, name))
    assert words in parsed.text
    assert parsed.places[0].page == 1


def test_pages_follow_each_other_with_their_numbers(tmp_path: Path) -> None:
    parsed = read(tmp_path, "a.pdf", make_pdf(["First page\nsecond line", "Second page", "", "Fourth page"]))
    assert parsed.text == "First page\nsecond line\n\nSecond page\n\nFourth page"
    assert [(place.page, parsed.text[place.start :].split()[0]) for place in parsed.places] == [
        (1, "First"),
        (2, "Second"),
        (4, "Fourth"),
    ]


def test_the_title_of_the_metadata_is_not_put_into_the_text(tmp_path: Path) -> None:
    writer = writer_of("words")
    writer.add_metadata({"/Title": "On  tides"})
    parsed = read(tmp_path, "a.pdf", written(writer))
    assert (parsed.title, parsed.text) == ("On tides", "words")


@pytest.mark.parametrize("title", ["Microsoft Word - report.docx", "report.indd", "untitled", "10.0.0.1:80/x"])
def test_the_name_of_a_file_is_no_title(tmp_path: Path, title: str) -> None:
    writer = writer_of("words")
    writer.add_metadata({"/Title": title})
    assert read(tmp_path, "a.pdf", written(writer)).title == ""


SECOND_PAGE = "words before one\n1. One\nwords of one\nOne point one\nmore words"


def test_bookmarks_are_headings_where_their_titles_stand(tmp_path: Path) -> None:
    writer = writer_of("Preface\nwords", SECOND_PAGE, "still one", "Two\nend")
    one = writer.add_outline_item(title="One", page_number=1)
    writer.add_outline_item(title="One  point ONE", page_number=1, parent=one)
    writer.add_outline_item(title="Elsewhere called so", page_number=3)
    assert sections(read(tmp_path, "a.pdf", written(writer))) == [
        ((), "Preface\nwords"),
        ((), "words before one"),
        (("One",), "1. One\nwords of one"),
        (("One", "One point ONE"), "One point one\nmore words"),
        (("One", "One point ONE"), "still one"),
        (("Elsewhere called so",), "Two\nend"),
    ]


@pytest.mark.parametrize(
    ("divided", "whole"),
    [
        ("the trans-\nformer model", "the transformer model"),
        ("state-of-the-\nart words", "state-of-the-art words"),
        ("well-\nKnown words", "well-Known words"),
        ("pages 3-\n4 there", "pages 3-\n4 there"),
        ("one trans-\nformer\nand a trans-\nlation", "one transformer\nand a translation"),
    ],
)
def test_a_divided_word_is_made_whole(tmp_path: Path, divided: str, whole: str) -> None:
    assert read(tmp_path, "a.pdf", make_pdf([divided])).text == whole


def test_a_page_without_white_space_is_gone_through_once() -> None:
    started = time.monotonic()
    assert len(with_whole_words("wor\x02d" * 100_000)) == 400_000
    assert time.monotonic() - started < 2


def test_ligatures_become_letters(tmp_path: Path) -> None:
    assert "ﬁ" not in read(tmp_path, "a.pdf", make_pdf(["office first"])).text
    page = make_pdf(["x"]).replace(b"/Encoding/WinAnsiEncoding", b"/Encoding<</Differences[120/fi]>>   ")
    assert read(tmp_path, "a.pdf", page).text == "fi"


def test_a_broken_font_map_gives_no_lone_surrogate(tmp_path: Path) -> None:
    writer = writer_of("xyz")
    to_unicode = DecodedStreamObject()
    to_unicode.set_data(
        b"/CIDInit /ProcSet findresource begin begincmap 1 begincodespacerange <00> <ff> endcodespacerange\n"
        b"2 beginbfchar <78> <d800> <79> <0041> endbfchar endcmap end"
    )
    font = writer.pages[0]["/Resources"]["/Font"]["/F1"].get_object()  # type: ignore[index]
    font[NameObject("/ToUnicode")] = writer._add_object(to_unicode)
    assert "A" in read(tmp_path, "a.pdf", written(writer)).text


# --- what has no text


def test_a_pdf_of_images_only_is_refused(tmp_path: Path) -> None:
    writer = pypdf.PdfWriter()
    writer.add_blank_page(100, 100)
    assert "images only" in refusal(tmp_path, "scan.pdf", written(writer))


def test_an_encrypted_pdf_is_refused_with_what_to_do(tmp_path: Path) -> None:
    writer = writer_of("words")
    writer.encrypt("password", algorithm="RC4-128")
    assert refusal(tmp_path, "a.pdf", written(writer)) == "encrypted PDF; store it without a password"


def test_a_pdf_that_opens_without_a_password_is_read(tmp_path: Path) -> None:
    writer = writer_of("words")
    writer.encrypt("", "of the owner", algorithm="RC4-128")
    assert read(tmp_path, "a.pdf", written(writer)).text == "words"


@pytest.mark.parametrize("data", [b"%PDF-", b"%PDF-1.4\ngarbage\n%%EOF", b"%PDF-1.7\n" + b"\x00\xff" * 500])
def test_a_broken_pdf_is_refused(tmp_path: Path, data: bytes) -> None:
    assert "PDF cannot be read" in refusal(tmp_path, "a.pdf", data)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_a_truncated_pdf_is_refused(tmp_path: Path, share: float) -> None:
    data = make_pdf([f"Words of page {number}" for number in range(100)])
    assert "cut off" in refusal(tmp_path, "a.pdf", data[: int(len(data) * share)])


def test_a_pdf_with_more_text_than_the_limit_is_refused(tmp_path: Path) -> None:
    data = make_pdf(["words\n" * 20] * 100)
    assert "limit" in refusal(tmp_path, "a.pdf", data, max_text_bytes=5000)
