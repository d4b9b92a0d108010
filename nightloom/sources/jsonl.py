"""One row of JSONL: parsed, and hashed over what the embedding depends on."""

import hashlib
import json
from pathlib import Path
from typing import Any, NoReturn

from nightloom.documents import ID_HEX_DIGITS, Span
from nightloom.errors import SourceError


def parse_jsonl_row(line: bytes, file: Path, number: int) -> dict[str, Any]:
    """One line of JSONL as an object.

    Raises:
        SourceError: Names file and line: not UTF-8, not JSON (which knows no NaN), or not an object.
    """
    try:
        row = _DECODER.decode(line.decode("utf-8-sig" if number == 1 else "utf-8"))
    except (ValueError, RecursionError) as error:
        # Its own text counts lines from this one.
        why = f"{error.msg} at character {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else error
        raise SourceError(f"{file}: line {number}: not a JSON object: {why}; mend or remove the line") from None
    if not isinstance(row, dict):
        raise SourceError(f"{file}: line {number}: not a JSON object but {type(row).__name__}; mend or remove the line")
    return row


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number in JSON")


_in_quotes = json.encoder.encode_basestring_ascii
_DECODER = json.JSONDecoder(parse_constant=_refuse)


def jsonl_content(row: dict[str, Any], span: Span, file: Path) -> str:
    """Hash of title and text of a row: what the embedding depends on, and nothing else of the line.

    Returns:
        32 hex digits of sha256: a corpus has many rows, and their hashes are held in memory.

    Raises:
        SourceError: One of them is not a string.
    """
    title, text = (_string(row, field, file, span.line) for field in (span.title_field, span.text_field))
    listed = f"[{_in_quotes(title)}, {_in_quotes(text)}]"  # as json.dumps has it, which takes three times as long
    return hashlib.sha256(listed.encode()).hexdigest()[:ID_HEX_DIGITS]


def _string(row: dict[str, Any], field: str, file: Path, number: int) -> str:
    value = row.get(field)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise SourceError(
            f"{file}: line {number}: field {field!r} holds {type(value).__name__}, not a string;"
            " mend the line, or name another field under [[sources]] in the corpus file"
        )
    return value
