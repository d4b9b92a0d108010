"""Books, notebooks, JSON and mail."""

import contextlib
import io
import json
import random
import zipfile
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nightloom.errors import DocumentError
from nightloom.formats.assembly import Assembly
from nightloom.formats.data import read_json
from tests.format_files import make_pdf, read, refusal, sections, wholes
from tests.test_formats_office import slides, text_row, word, workbook

CONTAINER = (
    '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
    '<rootfile full-path="OEBPS/content.opf"/></rootfiles></container>'
)


def book(chapters: dict[str, str], *, title: str = "On tides", items: str = "", spine: str = "", **parts: str) -> bytes:
    """An EPUB of chapters by name, in reverse order in the archive, so that the spine decides."""
    listed = "".join(
        f'<item id="i{at}" href="{name}" media-type="application/xhtml+xml"/>' for at, name in enumerate(chapters)
    )
    order = "".join(f'<itemref idref="i{at}"/>' for at in range(len(chapters)))
    package = (
        '<package xmlns="http://www.idpf.org/2007/opf"><metadata xmlns:dc="http://purl.org/dc/elements/1.1/">'
        f"<dc:title>{title}</dc:title></metadata><manifest>{listed}{items}</manifest>"
        f"<spine>{order}{spine}</spine></package>"
    )
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("mimetype", "application/epub+zip")
        files = {"META-INF/container.xml": CONTAINER, "OEBPS/content.opf": package}
        files |= {f"OEBPS/{name}".replace("%20", " "): page for name, page in reversed(chapters.items())}
        for name, data in (files | parts).items():
            archive.writestr(name, data)
    return stream.getvalue()


def chapter(body: str, title: str = "") -> str:
    return (
        '<?xml version="1.0"?><!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.1//EN" "http://www.w3.org/TR/xhtml11.dtd">'
        f'<html xmlns="http://www.w3.org/1999/xhtml"><head><title>{title}</title></head><body>{body}</body></html>'
    )


# --- EPUB


def test_a_book_is_read_in_the_order_of_its_spine(tmp_path: Path) -> None:
    chapters = {
        "one.xhtml": chapter("<h1>One</h1><p>The moon&nbsp;pulls.</p>"),
        "chapter%20two.xhtml": chapter("<p>The sun.</p>", title="Two"),
        "three.xhtml": chapter("<p>Before.</p><h2>Three</h2><p>The sea.</p><script>evil()</script>"),
    }
    parsed = read(tmp_path, "a.epub", book(chapters))
    assert parsed.title == "On tides"
    assert sections(parsed) == [
        (("One",), "One\n\nThe moon pulls."),
        (("Two",), "The sun."),
        ((), "Before."),
        (("Three",), "Three\n\nThe sea."),
    ]


def test_pictures_in_the_spine_are_passed_over(tmp_path: Path) -> None:
    picture = '<item id="p" href="p.svg" media-type="image/svg+xml"/>'
    data = book({"a.xhtml": chapter("<p>words</p>")}, items=picture, spine='<itemref idref="p"/><itemref idref="no"/>')
    assert read(tmp_path, "a.epub", data).text == "words"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (book({"a.xhtml": chapter("<p>words</p>")}, **{"../x": "evil"}), "leads out"),
        (book({"../../x.xhtml": chapter("<p>words</p>")}), "leads out"),
        (
            book(
                {},
                items='<item id="a" href="../../../etc/passwd" media-type="text/html"/>',
                spine='<itemref idref="a"/>',
            ),
            "does not hold",
        ),
        (book({"a.xhtml": chapter("")}), "no text"),
        (book({"a.xhtml": chapter("<p>words</p>")}, title="&bomb;"), "damaged XML"),
        (
            book(
                {"a.xhtml": chapter("<p>words</p>")},
                **{"META-INF/container.xml": '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]>' + CONTAINER},
            ),
            "declares entities",
        ),
        (
            book(
                {"a.xhtml": chapter("<p>words</p>")},
                **{
                    "META-INF/encryption.xml": '<encryption xmlns:e="http://www.w3.org/2001/04/xmlenc#">'
                    '<e:EncryptionMethod Algorithm="http://www.w3.org/2001/04/xmlenc#aes128-cbc"/></encryption>'
                },
            ),
            "DRM",
        ),
    ],
    ids=["name", "chapter", "link", "empty", "entity", "external entity", "locked"],
)
def test_a_book_that_is_none_or_leads_out_is_refused(tmp_path: Path, data: bytes, reason: str) -> None:
    assert reason in refusal(tmp_path, "a.epub", data)


def test_entities_of_a_chapter_are_not_expanded(tmp_path: Path) -> None:
    page = '<!DOCTYPE html [<!ENTITY file SYSTEM "file:///etc/hostname">]><html><body><p>words &file;</p></body></html>'
    assert "words &file;" in read(tmp_path, "a.epub", book({"a.xhtml": page})).text


# --- notebooks


def notebook(*cells: dict[str, Any], **more: Any) -> str:
    return json.dumps({"cells": cells, "nbformat": 4, "metadata": {}} | more)


def test_a_notebook_gives_its_words_its_code_and_short_outputs(tmp_path: Path) -> None:
    cells: list[dict[str, Any]] = [
        {"cell_type": "markdown", "source": ["# Tides\n", "\n", "The moon."]},
        {
            "cell_type": "code",
            "source": "print(tide)",
            "outputs": [
                {"output_type": "stream", "text": ["6.9\n"]},
                {"output_type": "execute_result", "data": {"text/plain": "42", "text/html": "<b>42</b>"}},
                {"output_type": "display_data", "data": {"image/png": "aWs="}},
                {"output_type": "stream", "text": "log " * 1000},
            ],
        },
        {"cell_type": "markdown", "source": "## Spring tides\n\n```\ncode\n```"},
        {"cell_type": "code", "source": "", "outputs": []},
        {"cell_type": "raw", "source": "raw"},
    ]
    parsed = read(tmp_path, "a.ipynb", notebook(*cells))
    assert parsed.title == "Tides"
    assert sections(parsed) == [
        (("Tides",), "# Tides\n\nThe moon.\n\nprint(tide)\n\n6.9\n\n42"),
        (("Tides", "Spring tides"), "## Spring tides\n\n```\ncode\n```\n\nraw"),
    ]
    assert wholes(parsed) == ["print(tide)", "```\ncode\n```"]


def test_an_old_notebook_is_read(tmp_path: Path) -> None:
    cells = [{"cell_type": "code", "input": ["print(tide)"], "outputs": [{"text": "6.9"}]}]
    assert read(tmp_path, "a.ipynb", json.dumps({"worksheets": [{"cells": cells}]})).text == "print(tide)\n\n6.9"


@pytest.mark.parametrize(
    "data", ["{}", '{"cells": 1}', '{"cells": [1]}', '{"worksheets": []}', "{", '{"worksheets": 1}']
)
def test_json_that_is_no_notebook_is_refused(tmp_path: Path, data: str) -> None:
    assert "notebook" in refusal(tmp_path, "a.ipynb", data)


# --- JSON


def test_json_becomes_lines_of_names_and_values(tmp_path: Path) -> None:
    data = {"title": "On tides", "ports": [{"name": "Brest", "metres": 6.90}, "Dover"], "known": True, "none": None}
    parsed = read(tmp_path, "a.json", json.dumps(data))
    assert parsed.title == "On tides"
    assert parsed.text == (
        "title: On tides\nports:\n  -\n    name: Brest\n    metres: 6.9\n  - Dover\nknown: true\nnone: null"
    )


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ('{"a": NaN, "b": -Infinity}', "a: NaN\nb: -Infinity"),
        ('{"a": 1' + "0" * 5000 + "}", "a: 1" + "0" * 5000),
        ('{"a": 0.10}', "a: 0.10"),
        ('["te\\u0000xt"]', "- text"),
        ('// tsconfig\n{"a": 1}', '// tsconfig\n{"a": 1}'),
        ('{"a": 1}\n{"a": 2}', '{"a": 1}\n{"a": 2}'),
        ('{"a": ', '{"a": '),
    ],
)
def test_json_that_is_not_quite_json_is_readable(tmp_path: Path, data: str, text: str) -> None:
    assert read(tmp_path, "a.json", data).text == text


@pytest.mark.parametrize(
    "data", ["[" * 10_000 + "]" * 10_000, '{"a":' * 10_000 + "1" + "}" * 10_000, "[" * 200 + "]" * 200]
)
def test_json_nested_deeply_is_refused(tmp_path: Path, data: str) -> None:
    assert "nested more than 100 deep" in refusal(tmp_path, "a.json", data)


def test_a_notebook_nested_deeply_is_refused(tmp_path: Path) -> None:
    data = "[" * 10_000 + "]" * 10_000
    assert refusal(tmp_path, "a.ipynb", f'{{"cells": {data}}}') == "notebook cannot be read: nested too deeply"


def test_a_lone_surrogate_in_json_is_refused(tmp_path: Path) -> None:
    assert "lone surrogate" in refusal(tmp_path, "a.json", r'{"a": "b \ud800 c"}')
    assert "lone surrogate" in refusal(tmp_path, "a.json", r'{"\udfff": 1}')
    assert read(tmp_path, "a.json", r'{"a": "\ud83d\ude00"}').text == "a: 😀"
    assert "lone surrogate" in refusal(tmp_path, "a.ipynb", notebook({"cell_type": "markdown", "source": "a \ud800"}))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(min_size=1, max_size=3), inner, max_size=3),
    max_leaves=20,
)


@settings(max_examples=50)
@given(JSON)
def test_every_word_of_json_is_in_its_text(value: Any) -> None:
    out = Assembly(1 << 20)
    read_json(json.dumps({"words": "the moon", "value": value}), out)
    text = out.parsed("").text

    def leaves(found: Any) -> list[str]:
        if isinstance(found, dict):
            return [leaf for item in found.values() for leaf in leaves(item)]
        return [leaf for item in found for leaf in leaves(item)] if isinstance(found, list) else [found]

    assert all(leaf in text for leaf in leaves(value) if isinstance(leaf, str))


# --- mail


def message(**headers: str) -> EmailMessage:
    mail = EmailMessage()
    for name, value in (
        {"Subject": "On tides", "From": "Ann <ann@example.org>", "To": "bob@example.org"} | headers
    ).items():
        mail[name] = value
    return mail


def test_a_message_gives_its_subject_people_and_text(tmp_path: Path) -> None:
    mail = message(Date="Sun, 22 Nov 2026 22:00:00 +0000", Subject="Où est la mer ?")
    mail.set_content("The moon.\n")
    mail.add_alternative("<p>The <b>moon</b> in HTML.</p>", subtype="html")
    mail.add_attachment(b"%PDF- secret", maintype="application", subtype="pdf", filename="tides.pdf")
    parsed = read(tmp_path, "a.eml", mail.as_bytes())
    assert parsed.title == "Où est la mer ?"
    assert parsed.text == (
        "Où est la mer ?\n\nFrom: Ann <ann@example.org>\nTo: bob@example.org\nDate: Sun, 22 Nov 2026 22:00:00 +0000\n\n"
        "The moon.\n\nAttachments: tides.pdf"
    )


def test_a_message_in_html_only_gives_its_visible_text(tmp_path: Path) -> None:
    mail = message()
    mail.set_content("<h1>Tides</h1><p>The <b>moon</b>.</p><p hidden>x</p><script>evil()</script>", subtype="html")
    assert read(tmp_path, "a.eml", mail.as_bytes()).text.endswith("bob@example.org\n\nTides\n\nThe moon.")


@pytest.mark.parametrize(
    ("body", "charset", "text"),
    [
        ("Où est la mer ?".encode("latin-1"), "iso-8859-1", "Où est la mer ?"),
        ("Où est la mer ?".encode(), "unheard-of", "Où est la mer ?"),
        ("Où est la mer ? À côté.".encode("latin-1"), "us-ascii", "Où est la mer ? À côté."),
    ],
)
def test_the_encoding_of_a_message_is_found(tmp_path: Path, body: bytes, charset: str, text: str) -> None:
    head = f"Subject: a\nContent-Type: text/plain; charset={charset}\nContent-Transfer-Encoding: 8bit\n\n".encode()
    assert read(tmp_path, "a.eml", head + body).text == f"a\n\n{text}"


@pytest.mark.parametrize(
    "data",
    [
        b"Subject: \xff\xfe broken\nFrom: <<<@@@\nDate: never\n\nwords",
        b"Subject: =?utf-8?q?=ED=A0=80?=\n\nwords",
        b"Subject: a\nContent-Type: multipart/mixed\n\nwords",
        b"Subject: a\nContent-Type: text/plain\nContent-Transfer-Encoding: base64\n\n!!!",
        b"Subject: a\nContent-Type: message/rfc822\n\n" * 50 + b"words",
    ],
)
def test_a_broken_message_gives_what_can_be_read(tmp_path: Path, data: bytes) -> None:
    assert read(tmp_path, "a.eml", data).text


def test_a_message_of_parts_without_end_is_refused(tmp_path: Path) -> None:
    parts = b"".join(
        b'Subject: a\nContent-Type: multipart/mixed; boundary="%d"\n\n--%d\n' % (at, at) for at in range(1000)
    )
    assert "100 nested parts" in refusal(tmp_path, "a.eml", parts + b"\nwords")


# --- every format


def damaged(data: bytes, draw: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(draw.choice((1, 5, 20))):
        at = draw.randrange(len(changed))
        changed[at : at + draw.choice((0, 1, 9))] = draw.randbytes(draw.choice((0, 1, 9)))
    return bytes(changed)


@pytest.mark.parametrize("name", ["a.pdf", "a.docx", "a.pptx", "a.xlsx", "a.epub"])
@pytest.mark.filterwarnings("ignore")
def test_a_damaged_file_is_read_or_refused_and_ends_nothing(tmp_path: Path, name: str) -> None:
    whole = {
        "a.pdf": make_pdf(["Words\nof a page"] * 3),
        "a.docx": word("words", "more words"),
        "a.pptx": slides(),
        "a.xlsx": workbook(("Sheet", text_row(1, "words", "more"))),
        "a.epub": book({"a.xhtml": chapter("<p>words</p>")}),
    }[name]
    draw = random.Random(name)
    for _ in range(40):
        with contextlib.suppress(DocumentError):
            read(tmp_path, name, damaged(whole, draw))
