"""Pages a second from file to text, on one core, for every format that a test can make.

    python benchmarks/parsing.py [--rounds 7]

A page is 3,000 characters of prose with a heading; the medians of interleaved rounds are printed, in pages a second of
processor time, so that what else runs on the machine counts for little. Exit code 1 where text, Markdown or HTML comes
below 200, or PDF below 50.
"""

import argparse
import io
import json
import random
import sys
import tempfile
import time
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import docx
import pypdf

from benchmarks.measuring import Timing, table
from nightloom.formats import parse

PAGE_CHARACTERS = 3000
PAGES = 20
TARGETS = {"text": 200, "markdown": 200, "rst": 200, "html": 200, "pdf": 50}


def pages() -> list[list[str]]:
    """Pages of paragraphs of words drawn by chance."""
    draw = random.Random(7)
    words = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in ("", "n", "r", "st", "ting")]

    def paragraph() -> str:
        return " ".join(draw.choices(words, k=100)).capitalize() + "."

    return [[paragraph() for _ in range(PAGE_CHARACTERS // 400)] for _ in range(PAGES)]


def saved(document: Any) -> bytes:
    """The bytes of what knows how to save itself."""
    stream = io.BytesIO()
    document.save(stream)
    return stream.getvalue()


def files(text: list[list[str]]) -> dict[str, list[tuple[str, bytes]]]:
    """For each format, the pages as files of that format."""
    made: dict[str, list[tuple[str, bytes]]] = {
        kind: [] for kind in ("text", "markdown", "rst", "html", "json", "mail")
    }
    for at, page in enumerate(text):
        body = "\n\n".join(page)
        made["text"].append((f"{at}.txt", body.encode()))
        made["markdown"].append((f"{at}.md", f"# Page {at}\n\n{body}\n\n```\ncode\n```\n".encode()))
        made["rst"].append((f"{at}.rst", f"Page {at}\n=======\n\n{body}\n".encode()))
        paragraphs = "".join(f"<p>{paragraph}</p>" for paragraph in page)
        navigation = "<nav>" + "".join(f"<a href='/{link}'>Link {link}</a>" for link in range(30)) + "</nav>"
        main = f"<main><article><h1>Page {at}</h1>{paragraphs}</article></main><footer>Imprint</footer>"
        head = f"<!doctype html><html><head><title>Page {at}</title><script>go()</script></head>"
        made["html"].append((f"{at}.html", f"{head}<body>{navigation}{main}</body></html>".encode()))
        made["json"].append((f"{at}.json", json.dumps({"title": f"Page {at}", "paragraphs": page}).encode()))
        mail = EmailMessage()
        mail["Subject"] = f"Page {at}"
        mail.set_content(body)
        made["mail"].append((f"{at}.eml", mail.as_bytes()))
    document = docx.Document()
    for at, page in enumerate(text):
        document.add_heading(f"Page {at}", 1)
        for paragraph in page:
            document.add_paragraph(paragraph)
    made["docx"] = [("all.docx", saved(document))]
    made["pdf"] = [("all.pdf", pdf(text))]
    return made


def pdf(text: list[list[str]]) -> bytes:
    """All pages as one PDF, each line of it placed as a typesetter does."""
    from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject  # noqa: PLC0415

    writer = pypdf.PdfWriter()
    font = DictionaryObject(
        {
            NameObject("/Type"): NameObject("/Font"),
            NameObject("/Subtype"): NameObject("/Type1"),
            NameObject("/BaseFont"): NameObject("/Helvetica"),
        }
    )
    for page in text:
        words = " ".join(page)
        lines = [words[start : start + 80] for start in range(0, len(words), 80)]
        stream = DecodedStreamObject()
        stream.set_data(f"BT /F1 9 Tf 12 TL 40 780 Td {' T* '.join(f'({line}) Tj' for line in lines)} ET".encode())
        sheet = writer.add_blank_page(600, 800)
        fonts = DictionaryObject({NameObject("/F1"): font})
        sheet[NameObject("/Resources")] = DictionaryObject({NameObject("/Font"): fonts})
        sheet[NameObject("/Contents")] = writer._add_object(stream)  # noqa: SLF001  pypdf has no other way
    stream_out = io.BytesIO()
    writer.write(stream_out)
    return stream_out.getvalue()


def measure(folder: Path, rounds: int) -> dict[str, Timing]:
    """Seconds of the processor for each format."""
    made = files(pages())
    for listed in made.values():
        for name, data in listed:
            (folder / name).write_bytes(data)
    seconds: dict[str, list[float]] = {kind: [] for kind in made}
    for _ in range(rounds + 1):
        for kind, listed in made.items():
            started = time.process_time()
            for name, _data in listed:
                parse(folder / name, name)
            seconds[kind].append(time.process_time() - started)
    # The first round imports the libraries.
    return {kind: Timing(parts=taken[1:]) for kind, taken in seconds.items()}


def main() -> int:
    """Print the table; 1 where a target is missed."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=7)
    with tempfile.TemporaryDirectory() as folder:
        timings = measure(Path(folder), options.parse_args().rounds)
    missed = [kind for kind, target in TARGETS.items() if PAGES / timings[kind].median < target]
    lines = [
        [kind, timing.rate(PAGES), TARGETS.get(kind, ""), "missed" if kind in missed else ""]
        for kind, timing in timings.items()
    ]
    print(table(["format", "pages/s", "target", ""], lines))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
