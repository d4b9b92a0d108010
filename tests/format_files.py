"""What the tests of the formats share: files made on the spot, and what comes of them."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from nightloom.errors import DocumentError
from nightloom.formats import MAX_TEXT_BYTES, Parsed, parse


def read(
    folder: Path, name: str, data: bytes | str, declared: str = "", max_text_bytes: int = MAX_TEXT_BYTES
) -> Parsed:
    """The file as text; what holds for every format is checked on the way."""
    file = folder / "file"
    file.write_bytes(data.encode() if isinstance(data, str) else data)
    return check(parse(file, name, declared, max_text_bytes))


def check(parsed: Parsed) -> Parsed:
    """What holds for every format."""
    assert parsed.text.strip()
    assert "\x00" not in parsed.text + parsed.title
    assert (parsed.text + parsed.title).encode()
    assert parsed.title == " ".join(parsed.title.split())
    starts = [place.start for place in parsed.places]
    assert starts == sorted(set(starts))
    assert all(0 <= start < len(parsed.text) for start in starts)
    ends = 0
    for start, end in parsed.wholes:
        assert ends <= start < end <= len(parsed.text)
        ends = end
    return parsed


def refusal(folder: Path, name: str, data: bytes | str, declared: str = "", **limits: int) -> str:
    """Why the file is refused."""
    with pytest.raises(DocumentError) as refused:
        read(folder, name, data, declared, **limits)
    return str(refused.value)


def sections(parsed: Parsed) -> list[tuple[tuple[str, ...], str]]:
    """The headings of every place, with the text that belongs to it."""
    ends = [place.start for place in parsed.places[1:]] + [len(parsed.text)]
    found = [
        (place.headings, parsed.text[place.start : end].strip()) for place, end in zip(parsed.places, ends, strict=True)
    ]
    before = parsed.text[: parsed.places[0].start if parsed.places else None].strip()
    return [((), before), *found] if before else found


def wholes(parsed: Parsed) -> list[str]:
    """What stays whole."""
    return [parsed.text[start:end] for start, end in parsed.wholes]


def make_pdf(pages: Sequence[str]) -> bytes:
    """A PDF with these lines of words on its pages, and the table of positions that readers want."""
    kids = " ".join(f"{4 + 2 * at} 0 R" for at in range(len(pages)))
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        f"<</Type/Pages/Kids[{kids}]/Count {len(pages)}>>".encode(),
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica/Encoding/WinAnsiEncoding>>",
    ]
    for at, words in enumerate(pages):
        lines = " T* ".join(f"({line}) Tj" for line in words.split("\n"))
        content = f"BT /F1 12 Tf 14 TL 20 700 Td {lines} ET".encode("cp1252")
        objects += [
            b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 600 800]/Contents %d 0 R"
            b"/Resources<</Font<</F1 3 0 R>>>>>>" % (5 + 2 * at),
            b"<</Length %d>>stream\n%b\nendstream" % (len(content), content),
        ]
    data, positions = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        positions.append(len(data))
        data += b"%d 0 obj%b\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % position for position in positions)
    head = b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    end = b"trailer<</Root 1 0 R/Size %d>>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, len(data))
    return data + head + table + end
