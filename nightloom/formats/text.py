"""From bytes to text, whatever the encoding."""

import codecs
import re
import unicodedata

from nightloom.errors import DocumentError
from nightloom.formats.assembly import Assembly

BYTE_ORDER_MARKS = {
    b"\xef\xbb\xbf": "utf-8-sig",
    # Before UTF-16, whose mark is the beginning of this one.
    b"\xff\xfe\x00\x00": "utf-32",
    b"\x00\x00\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}
ENCODINGS = ("cp1252", "cp1251", "cp1253", "cp1255", "cp1256", "koi8_r", "shift_jis", "euc_jp", "gb18030", "euc_kr")
"""What text that is not Unicode is looked for in, one or two for each alphabet: of the dozens that remain, most differ
from these in a letter or two, and short texts would be taken for them."""

DECLARED_CODECS = ("iso8859", "cp", "koi8", "mac", "euc_", "gb", "hz", "big5", "shift_jis", "iso2022", "tis", "utf")
"""How the names of codecs begin that a document may ask for: Python has others, which are no encodings of text."""
SUPERSETS = {
    "iso8859-1": "cp1252",
    "iso8859-9": "cp1254",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
}
"""What is meant by a name in practice. Source: WHATWG, Encoding Standard, "Names and labels"."""
SEVEN_BIT_CODECS = ("iso2022", "hz")
"""Their bytes are ASCII, so they pass for UTF-8."""

SAMPLE_BYTES = 1 << 16
CONTEXT_BYTES = 64
STRAY_NULS = 1000
"""At most one byte in so many may be NUL in what is text otherwise."""
WIDE_NULS = 0.3
"""Share of NULs from which what would be UTF-8 without them is text of two or four bytes a letter."""
CONTROLS = re.compile(r"[\x00-\x07\x0e-\x1a\x1c-\x1f\x7f]")
MAX_CONTROLS = 0.05
WHITE = re.compile(rb"\s")
NOT_ASCII = re.compile(rb"[\x80-\xff]")
BINARY = "binary content under the name of a text file"


def read_text(text: str, out: Assembly) -> str:
    """Take plain text, source code or any other text as it is.

    Returns:
        "", as it has no title.
    """
    out.piece(text)
    return ""


def decode(data: bytes, charset: str = "") -> str:
    """Bytes of a text file as text; a byte order mark and stray NULs are dropped.

    Args:
        data: The whole file.
        charset: What the document, or who gave it, calls its encoding. It counts where the bytes are not UTF-8.

    Raises:
        DocumentError: It is binary, or no encoding fits.
    """
    for mark, encoding in BYTE_ORDER_MARKS.items():
        if data.startswith(mark):
            try:
                return data.decode(encoding).removeprefix("\ufeff")
            except UnicodeDecodeError as error:
                raise DocumentError(f"begins as {encoding} but is not: {error.reason}") from None
    if b"\x00" in data:
        return _decode_with_nuls(data)
    codec = _codec(charset)
    order = (codec, "utf-8") if codec.startswith(SEVEN_BIT_CODECS) else ("utf-8", codec)
    text = _first_that_fits(data, order)
    return _detect(data) if text is None else text


def check_not_binary(text: str) -> str:
    """The same text.

    Raises:
        DocumentError: It is full of control characters.
    """
    sample = text[:SAMPLE_BYTES]
    if len(CONTROLS.findall(sample)) > MAX_CONTROLS * len(sample):
        raise DocumentError(BINARY)
    return text


def _codec(charset: str) -> str:
    """The name of a codec for what a document calls its encoding; "" where there is none."""
    try:
        name = codecs.lookup(charset.strip()).name
    except (LookupError, ValueError):
        return ""
    return SUPERSETS.get(name, name) if name.startswith(DECLARED_CODECS) else ""


def _first_that_fits(data: bytes, encodings: tuple[str, ...]) -> str | None:
    for encoding in filter(None, encodings):
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    return None


def _decode_with_nuls(data: bytes) -> str:
    """UTF-32 or UTF-16 without a mark, or text with a few NULs in it."""
    sample = data[:SAMPLE_BYTES]
    if sample.count(0) < WIDE_NULS * len(sample):
        text = _first_that_fits(data.replace(b"\x00", b""), ("utf-8",))
        if text is not None and _is_prose(text[:SAMPLE_BYTES]):
            if data.count(0) * STRAY_NULS > len(data):
                raise DocumentError(BINARY)
            return text
    little = sample[1::2].count(0) >= sample[::2].count(0)
    for encoding in ("utf-32-le", "utf-32-be", "utf-16-le" if little else "utf-16-be"):
        text = _first_that_fits(data, (encoding,))
        if text is not None and _is_prose(text[:SAMPLE_BYTES]):
            return text
    raise DocumentError(BINARY)


def _is_prose(text: str) -> bool:
    """Whether every character is one that somebody writes; bytes read in the wrong width give others soon."""
    return all(
        character in "\t\n\r\f" or unicodedata.category(character) not in {"Cc", "Cn", "Co"} for character in text
    )


def _detect(data: bytes) -> str:
    import charset_normalizer  # noqa: PLC0415  most text is UTF-8

    found = charset_normalizer.from_bytes(_sample(data), cp_isolation=list(ENCODINGS))
    text = _first_that_fits(data, tuple(match.encoding for match in found))
    if text is None:
        raise DocumentError("neither UTF-8 nor any encoding that could be detected")
    return text


def _sample(data: bytes) -> bytes:
    """Whole words around the letters that are not ASCII: enough to tell an encoding by, whatever the size."""
    pieces: list[bytes] = []
    end = size = 0
    for letter in NOT_ASCII.finditer(data):
        if letter.start() < end:
            continue
        start, end = max(end, letter.start() - CONTEXT_BYTES), letter.start() + CONTEXT_BYTES
        # No encoding that is looked for has white space as the second byte of a letter.
        before, after = WHITE.search(data, start, letter.start()), WHITE.search(data, end, end + CONTEXT_BYTES)
        start, end = before.end() if before and start else start, after.start() if after else end
        pieces.append(data[start:end])
        size += end - start
        if size > SAMPLE_BYTES:
            break
    return b"\n".join(pieces)
