"""What a file is: content before name before what the source says."""

import gzip
import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from nightloom.formats.kind import Kind, kind_of
from tests.format_files import make_pdf, read, refusal

PAGE = "<!DOCTYPE html><html><head><title>Log in</title></head><body><p>Please log in</p></body></html>"
WORDS = "a few words"


def kind(folder: Path, name: str, data: bytes | str, declared: str = "") -> Kind:
    file = folder / "file"
    file.write_bytes(data.encode() if isinstance(data, str) else data)
    return kind_of(file, name, declared)


def zipped(*names: str, mimetype: str = "") -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        if mimetype:
            archive.writestr("mimetype", mimetype)
        for name in names:
            archive.writestr(name, "<a/>")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "declared", "expected"),
    [
        ("a.txt", WORDS, "", "text"),
        ("README", WORDS, "application/octet-stream", "text"),
        ("a.py", "import this", "text/x-python", "text"),
        ("a.unheard", WORDS, "application/x-unheard", "text"),
        ("a.md", WORDS, "", "markdown"),
        ("a.MD", WORDS, "text/plain", "markdown"),
        ("a", WORDS, "text/markdown", "markdown"),
        ("a.rst", WORDS, "", "rst"),
        ("a.html", "<p>words", "", "html"),
        ("a", "<p>words", "text/html", "html"),
        ("a.txt", PAGE, "", "html"),
        ("a.md", "\n<!-- made -->\n" + PAGE, "", "html"),
        ("a.md", '<h1 align="center">Title</h1>', "", "markdown"),
        ("a.md", "# Title", "text/html", "markdown"),
        ("a.json", '{"a": 1}', "", "json"),
        ("a", "[1]", "application/json", "json"),
        ("a.json", WORDS, "", "text"),
        ("a.ipynb", '{"cells": []}', "", "notebook"),
        ("a.eml", "Subject: words\n\nwords", "", "mail"),
        ("a.eml", WORDS, "", "text"),
        ("a.pdf", make_pdf(["words"]), "", "pdf"),
        ("a.txt", make_pdf(["words"]), "text/plain", "pdf"),
        ("a.pdf", b"\x01junk\n" + make_pdf(["words"]), "", "pdf"),
        ("a.py", 'head.startswith("%PDF-")', "", "text"),
        ("a.docx", zipped("[Content_Types].xml", "word/document.xml"), "", "docx"),
        ("a", zipped("[Content_Types].xml", "ppt/presentation.xml"), "application/zip", "pptx"),
        ("a.docx", zipped("[Content_Types].xml", "xl/workbook.xml"), "", "xlsx"),
        ("a.epub", zipped("META-INF/container.xml", mimetype="application/epub+zip"), "", "epub"),
    ],
)
def test_the_content_decides_and_the_name_helps(
    tmp_path: Path, name: str, data: bytes | str, declared: str, expected: Kind
) -> None:
    assert kind(tmp_path, name, data, declared) == expected


def tar() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("page.txt"))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(100), "save it as .docx"),
        (rb"{\rtf1\ansi words}", "save it as .docx"),
        (gzip.compress(b"words", mtime=0), "archive"),
        (zipped("a.txt"), "archive"),
        (tar(), "archive"),
        (zipped("[Content_Types].xml", "xl/workbook.bin"), "save it as .xlsx"),
        (zipped("content.xml", mimetype="application/vnd.oasis.opendocument.text"), "save it as .docx"),
        (b"PK\x03\x04 and then nothing", "damaged zip"),
        (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "picture"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF", "picture"),
        (b"GIF89a\x00\x01", "picture"),
        (b"RIFF\x00\x00\x00\x00WAVE", "sound"),
        (b"\x00\x00\x00\x20ftypisom\x00", "sound or video"),
        (b"%!PS-Adobe-3.0", "PDF"),
    ],
)
@pytest.mark.parametrize("name", ["file", "page.txt", "page.md"])
def test_a_format_without_a_reader_is_refused_with_what_to_do(
    tmp_path: Path, name: str, data: bytes, reason: str
) -> None:
    assert reason in refusal(tmp_path, name, data)


@pytest.mark.parametrize("name", ["a.pdf", "a.docx", "a.json", "a.html", "a"])
def test_an_empty_file_is_called_empty_whatever_its_name(tmp_path: Path, name: str) -> None:
    assert refusal(tmp_path, name, "") == "empty: it has no text"


def test_many_comments_before_the_page_are_passed_at_once(tmp_path: Path) -> None:
    assert kind(tmp_path, "a.txt", "<!-- -->" * 500 + "<html>") == "html"
    assert kind(tmp_path, "a.txt", "<!-- -->" * 500 + "words") == "text"


def test_a_text_may_begin_like_a_picture(tmp_path: Path) -> None:
    assert read(tmp_path, "a.txt", "GIF89a is a format").text == "GIF89a is a format"


@pytest.mark.parametrize("name", ["a.pdf", "a.docx", "a.pptx", "a.xlsx", "a.epub", "a.json", "a.ipynb", "a.eml"])
def test_a_login_page_under_the_name_of_a_document_is_refused(tmp_path: Path, name: str) -> None:
    reason = refusal(tmp_path, name, PAGE, "text/html")
    assert reason.startswith("called a")
    assert "and is none" in reason
    assert "login" in reason


@pytest.mark.parametrize("name", ["a.pdf", "a.docx", "a.pptx", "a.xlsx", "a.epub", "a.doc", "a.odt", "a.svg"])
def test_text_under_the_name_of_what_is_no_text_is_refused(tmp_path: Path, name: str) -> None:
    assert name[1:].strip(".")[:3] in refusal(tmp_path, name, WORDS).lower() or "is none" in refusal(
        tmp_path, name, WORDS
    )


@pytest.mark.parametrize(
    ("data", "declared"),
    [
        (WORDS, "image/png"),
        (WORDS, "video/mp4"),
        (WORDS, "application/zip"),
        (WORDS, "application/pdf"),
        (WORDS, "application/msword"),
        (make_pdf(["words"]), "image/png"),
        (PAGE, "application/pdf"),
    ],
)
def test_a_declared_type_that_contradicts_the_content_is_refused(
    tmp_path: Path, data: bytes | str, declared: str
) -> None:
    assert "its source calls it" in refusal(tmp_path, "page.txt", data, declared)
