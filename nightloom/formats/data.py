"""JSON as text that reads like a list of its values with their names."""

import json
from collections.abc import Iterator
from typing import Any

from nightloom.errors import DocumentError
from nightloom.formats.assembly import Assembly

MAX_DEPTH = 100
INDENT = "  "
TOO_DEEP = f"JSON nested more than {MAX_DEPTH} deep; store what is in it as documents of their own"


def read_json(text: str, out: Assembly) -> str:
    """Take names and values, one a line, indented as they are nested; what is no JSON after all is taken as it is.

    Returns:
        The value of "title" where the whole is an object that has one, or "".

    Raises:
        DocumentError: It is nested too deeply.
    """
    try:
        # Numbers as they are written: NaN, and integers of any length.
        value = json.loads(text, parse_int=str, parse_float=str, parse_constant=str)
    except RecursionError:
        raise DocumentError(TOO_DEEP) from None
    except ValueError:
        # Comments, one value a line, or words: readable as they are.
        out.piece(text)
        return ""
    out.piece("\n".join(_lines(value, "", 0)))
    title = value.get("title") if isinstance(value, dict) else None
    return title if isinstance(title, str) else ""


def _lines(value: Any, name: str, depth: int) -> Iterator[str]:
    """A value as lines; `name` is what stands before it, such as "key: " or "- "."""
    if depth > MAX_DEPTH:
        raise DocumentError(TOO_DEEP)
    margin = INDENT * depth
    if isinstance(value, dict):
        if name:
            yield f"{margin}{name}".rstrip()
        for key, item in value.items():
            yield from _lines(item, f"{key}: ", depth + bool(name))
    elif isinstance(value, list):
        if name:
            yield f"{margin}{name}".rstrip()
        for item in value:
            yield from _lines(item, "- ", depth + bool(name))
    else:
        yield f"{margin}{name}{_scalar(value)}"


def _scalar(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)
