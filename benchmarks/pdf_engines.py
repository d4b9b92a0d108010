"""How fast PDFs are read, and how much text is found: pypdfium2, through our reader, against pypdf.

    python benchmarks/pdf_engines.py [FOLDER] [--rounds 9]

pypdf's `extract_text` is what LlamaIndex reads a PDF with unless told otherwise. FOLDER is searched for *.pdf; by
default it is `shared/data/pdf` beside this checkout. Rounds are interleaved, one reader after the other, so that both
meet the same machine; the figures are medians, in pages a second of processor time.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pypdf

from benchmarks.measuring import Timing, table
from nightloom.errors import DocumentError
from nightloom.formats import parse

PDFS = Path(__file__).resolve().parents[2] / "shared" / "data" / "pdf"


def with_pypdf(path: Path) -> str:
    """The text of all pages."""
    return "\n".join(page.extract_text() for page in pypdf.PdfReader(path).pages)


def with_pypdfium2(path: Path) -> str:
    """The text as this package gives it."""
    return parse(path, path.name).text


READERS: dict[str, Callable[[Path], str]] = {"pypdfium2": with_pypdfium2, "pypdf": with_pypdf}


def measure(path: Path, rounds: int) -> dict[str, tuple[Timing, int]]:
    """Seconds of the processor, and characters of text, for each reader."""
    seconds: dict[str, list[float]] = {name: [] for name in READERS}
    characters: dict[str, int] = {}
    for _ in range(rounds + 1):
        for name, read in READERS.items():
            started = time.process_time()
            characters[name] = len(read(path))
            seconds[name].append(time.process_time() - started)
    # The first round imports the libraries.
    return {name: (Timing(parts=taken[1:]), characters[name]) for name, taken in seconds.items()}


def main() -> int:
    """Print the table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("folder", nargs="?", type=Path, default=PDFS)
    options.add_argument("--rounds", type=int, default=9)
    given = options.parse_args()
    files = sorted(given.folder.rglob("*.pdf"))
    if not files:
        print(f"skipped: no PDFs in {given.folder}")
        return 0
    lines: list[list[object]] = []
    for path in files:
        pages = len(pypdf.PdfReader(path).pages)
        try:
            found = measure(path, given.rounds)
        except DocumentError as error:
            lines.append([path.name, pages, f"refused: {error}"])
            continue
        cells = ((timing.rate(pages), f"{characters:,}") for timing, characters in found.values())
        lines.append([path.name, pages, *(cell for pair in cells for cell in pair)])
    heads = (head for name in READERS for head in (f"{name}: pages/s", "characters"))
    print(table(["file", "pages", *heads], lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
