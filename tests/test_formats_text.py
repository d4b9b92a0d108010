"""Plain text in any encoding, and what is no text."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nightloom.errors import DocumentError
from nightloom.formats import parse
from nightloom.formats.text import decode
from tests.format_files import read, refusal

ENGLISH = "The moon pulls the tides.\nSailors know that.\n"
CHINESE = "月亮牵引潮汐。\n水手们都知道这一点。\n"
RUSSIAN = "Луна притягивает приливы.\nМоряки знают об этом, и поэтому ждут.\n"  # noqa: RUF001  Russian
FRENCH = "Le café à côté était fermé; nous avons donc mangé une crêpe à l'hôtel. "
HEAVY = {
    *("torch", "llama_index", "pymilvus", "prefect", "numpy", "pandas", "trafilatura", "lxml", "pypdfium2"),
    *("docx", "pptx", "python_calamine", "markdown_it", "charset_normalizer"),
}
WIDE = ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"]


# --- encodings


@pytest.mark.parametrize("text", [ENGLISH, CHINESE, RUSSIAN, "Zoë 😀 漢字"])
@pytest.mark.parametrize("encoding", [*WIDE, "utf-16", "utf-32", "utf-8-sig", "utf-8"])
def test_unicode_is_read_with_and_without_a_mark(tmp_path: Path, text: str, encoding: str) -> None:
    assert read(tmp_path, "page.txt", text.encode(encoding)).text == text


@settings(max_examples=200)
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1))
def test_utf_8_is_never_taken_for_anything_else(text: str) -> None:
    assume(not text.startswith("\ufeff"))
    assert decode(text.encode()) == text


@settings(max_examples=200)
@given(st.text(st.characters(min_codepoint=32, max_codepoint=0xFF), min_size=4), st.sampled_from(WIDE))
def test_wide_latin_text_is_read_without_a_mark(text: str, encoding: str) -> None:
    assume(not any("\x7f" <= letter <= "\x9f" for letter in text))
    assert decode(text.encode(encoding)) == text


@pytest.mark.parametrize(
    ("text", "encoding"),
    [(FRENCH, "latin-1"), (RUSSIAN, "cp1251"), ("こんにちは、世界。今日はいい天気です。", "shift_jis")],
)
def test_older_encodings_are_detected(tmp_path: Path, text: str, encoding: str) -> None:
    assert read(tmp_path, "page.txt", text.encode(encoding)).text == text


def test_an_encoding_is_detected_where_the_first_letters_of_it_come_late(tmp_path: Path) -> None:
    text = ENGLISH * 10_000 + FRENCH * 3
    assert read(tmp_path, "page.txt", text.encode("latin-1")).text == text


def test_what_the_source_declares_counts_where_the_bytes_are_not_utf_8(tmp_path: Path) -> None:
    assert read(tmp_path, "page.txt", "čtyři".encode("iso8859-2"), "text/plain; charset=ISO-8859-2").text == "čtyři"
    assert read(tmp_path, "page.txt", "čtyři".encode(), "text/plain; charset=ISO-8859-2").text == "čtyři"
    assert read(tmp_path, "page.txt", "潮".encode("iso2022_jp"), "text/plain;charset=iso-2022-jp").text == "潮"


@pytest.mark.parametrize("charset", ["unheard", "unicode_escape", "hex", "undefined", "\x00", "é"])
def test_an_encoding_that_is_none_is_not_used(charset: str) -> None:
    assert decode(b"41 \\x41", charset) == "41 \\x41"
    assert decode(FRENCH.encode("latin-1"), charset) == FRENCH


# --- what is no text


@pytest.mark.parametrize("data", [b"", b" \n\t ", b"\xef\xbb\xbf", b"\xff\xfe", "\u3000\n".encode()])
def test_what_is_blank_has_no_text(tmp_path: Path, data: bytes) -> None:
    assert "no text" in refusal(tmp_path, "page.txt", data)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"words, and then \x00 a NUL", "binary"),
        (bytes(range(256)) * 100, "binary"),
        (b"\x7fELF\x02\x01\x01" + bytes(57), "binary"),
        (b"MZ\x90\x00\x03\x00\x00\x00\x04\x00" * 9, "binary"),
        (b"SQLite format 3\x00" + bytes(100), "binary"),
        (bytes(range(1, 32)) * 9, "binary"),
        (b"\xff\xfeh\x00i", "begins as utf-16 but is not"),
        (b"\xef\xbb\xbf\xff\xff", "begins as utf-8-sig but is not"),
        (bytes(range(1, 256)) * 8, "neither UTF-8 nor any encoding"),
    ],
)
def test_binary_content_is_refused_whatever_its_name(tmp_path: Path, data: bytes, reason: str) -> None:
    assert reason in refusal(tmp_path, "page.txt", data)
    assert reason in refusal(tmp_path, "page.md", data)


@settings(max_examples=200, deadline=None)
@given(st.binary(min_size=1, max_size=400))
def test_bytes_become_text_or_are_refused_and_nothing_else(data: bytes) -> None:
    try:
        text = decode(data)
    except DocumentError:
        return
    assert "\x00" not in text
    assert text.encode().decode() == text


def test_a_stray_nul_is_stripped_from_what_is_text_otherwise(tmp_path: Path) -> None:
    assert read(tmp_path, "page.txt", ENGLISH.encode() * 50 + b"\x00end").text == ENGLISH * 50 + "end"


# --- limits


def test_a_line_of_50_megabytes_is_read_at_once(tmp_path: Path) -> None:
    line = "tide " * 10_000_000 + FRENCH
    for encoding in ("utf-8", "latin-1"):
        started = time.monotonic()
        assert read(tmp_path, "page.txt", line.encode(encoding)).text == line
        assert time.monotonic() - started < 10


def test_more_text_than_the_limit_is_refused_with_the_limit(tmp_path: Path) -> None:
    assert read(tmp_path, "page.txt", "é" * 500, max_text_bytes=1000).text == "é" * 500
    assert "1,000" in refusal(tmp_path, "page.txt", "é" * 501, max_text_bytes=1000)
    assert "1,000" in refusal(tmp_path, "page.txt", b"a" * 4001, max_text_bytes=1000)


# --- all formats


def test_reading_text_imports_nothing_heavy() -> None:
    code = "import sys, json, nightloom.formats; print(json.dumps(sorted(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert HEAVY.isdisjoint(json.loads(found.stdout))


def test_a_file_that_is_gone_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match="cannot be read: No such file"):
        parse(tmp_path / "gone.txt", "gone.txt")
