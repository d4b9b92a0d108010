"""A tree of documents of every kind, good and bad, and what must come of each."""

import io
import json
from collections.abc import Callable
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import docx
import pptx
import xlsxwriter

from tests.format_files import make_pdf


def words(at: int) -> str:
    """A few sentences that no other document has."""
    return f"Document number {at} is about the tides. The moon of night {at} pulls the sea towards it, and lets it go."


def html(at: int) -> str:
    """A page with what surrounds its text on a site."""
    return (
        f"<!DOCTYPE html><html><head><title>Page {at}</title><script>track({at})</script></head><body><nav>Home</nav>"
        f"<main><h1>Page {at}</h1><p>{words(at)}</p></main><footer>Imprint</footer></body></html>"
    )


def notebook(at: int) -> str:
    """A notebook of one text and one piece of code."""
    cells = [
        {"cell_type": "markdown", "metadata": {}, "source": [f"# Notebook {at}\\n", words(at)]},
        {"cell_type": "code", "metadata": {}, "source": ["print(1)"], "outputs": [], "execution_count": 1},
    ]
    return json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5})


def mail(at: int) -> bytes:
    """A message of plain text."""
    message = EmailMessage()
    message["Subject"], message["From"], message["To"] = f"Tides {at}", "a@example.com", "b@example.com"
    message.set_content(words(at))
    return bytes(message)


def word(at: int) -> bytes:
    """A document with a heading."""
    document = docx.Document()
    document.add_heading(f"Report {at}", 1)
    document.add_paragraph(words(at))
    return saved(document)


def slides(at: int) -> bytes:
    """One slide."""
    presentation = pptx.Presentation()
    slide = presentation.slides.add_slide(presentation.slide_layouts[5])
    assert slide.shapes.title is not None
    slide.shapes.title.text = words(at)
    return saved(presentation)


def sheet(at: int) -> bytes:
    """One sheet of two rows."""
    stream = io.BytesIO()
    with xlsxwriter.Workbook(stream) as book:
        table = book.add_worksheet()
        table.write_row(0, 0, ["night", "height"])
        table.write_row(1, 0, [at, words(at)])
    return stream.getvalue()


def saved(document: Any) -> bytes:
    """The bytes of a document that is written by `save`."""
    stream = io.BytesIO()
    document.save(stream)
    return stream.getvalue()


def pdf(at: int) -> bytes:
    """Two pages."""
    return make_pdf([words(at), f"The second page of {at}."])


Maker = Callable[[int], str | bytes]
KINDS: tuple[tuple[str, Maker, str], ...] = (
    ("txt", words, ""),
    ("md", lambda at: f"# Title {at}\n\n{words(at)}\n\n## More\n\n```\ncode({at})\n```\n", ""),
    ("rst", lambda at: f"Title {at}\n========\n\n{words(at)}\n", ""),
    ("html", html, ""),
    ("json", lambda at: json.dumps({"title": f"Row {at}", "text": words(at)}), ""),
    ("py", lambda at: f'"""{words(at)}"""\n', ""),
    ("utf16.txt", lambda at: words(at).encode("utf-16"), ""),
    ("latin.txt", lambda at: f"{words(at)} Où êtes-vous ? Très bien, là-bas, près de la forêt.".encode("cp1252"), ""),
    ("pdf", pdf, ""),
    ("ipynb", notebook, ""),
    ("eml", mail, ""),
    ("docx", word, ""),
    ("pptx", slides, ""),
    ("xlsx", sheet, ""),
    ("empty.txt", lambda _: "", "empty"),
    ("blank.md", lambda _: " \n\t\n", "empty"),
    ("binary.txt", lambda at: bytes(range(256)) * 4 + bytes([at % 256]), "binary"),
    ("cut.pdf", lambda at: pdf(at)[:200], "PDF"),
    ("false.docx", words, "is none"),
    ("deep.json", lambda _: "[" * 20_000 + "]" * 20_000, "nested"),
    ("picture.png", lambda _: b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "picture"),
    ("old.doc", lambda _: b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\x00" * 100, "save it as .docx"),
)
"""Suffix, maker, and a word of the reason for which such a document is quarantined; "" where it is indexed."""


def write_mixed_tree(folder: Path, documents: int) -> dict[str, str]:
    """Write so many documents into a few folders; return what must come of each, by path relative to the folder."""
    expected = {}
    for at in range(documents):
        suffix, make, reason = KINDS[at % len(KINDS)]
        name = f"{at % 7}/{at:06}.{suffix}"
        content = make(at)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
        expected[name] = reason
    return expected
