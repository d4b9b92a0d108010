"""Filters: which nodes may answer a question, by their metadata, as an expression of Milvus.

LlamaIndex's own filters paste keys as they are, and values with half of their escapes: a crafted one reads other rows.
Milvus's filter templates are there on new servers only. So keys are checked here, and values escaped.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence

from nightloom.corpus import FilterValue, SourceSettings
from nightloom.documents import Scalar
from nightloom.errors import InputError
from nightloom.metadata import MAX_INTEGER, RESERVED

FILTERED = ("uri", "item", "source", "title", "section", "page")
"""What every row, or many, have beside the metadata of its document."""
TYPED_TEXTS = frozenset({"uri"})
"""Of these, fields of the schema: they compare with texts only."""

_KEY = re.compile(r"\w{1,500}")
_UNSEEN = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]|[\ud800-\udfff]")
"""Characters that not every kind of Milvus reads in an expression; no metadata need them."""


def parse_filters(texts: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Filters as the command line takes them, "key=value" each; the same key again means either value.

    Raises:
        InputError: One has no "=".
    """
    found: dict[str, tuple[str, ...]] = {}
    for text in texts:
        key, sign, value = text.partition("=")
        if not sign:
            raise InputError(f"--filter {text!r}: write key=value, such as source=handbook")
        found[key.strip()] = (*found.get(key.strip(), ()), value)
    return found


def condition(filters: Mapping[str, FilterValue], sources: Sequence[SourceSettings] = ()) -> str:
    """The expression that nodes meet if every key has the value, or one of the values, given for it; "" for no filter.

    Text that reads as a number or a boolean stands for that, too: what a field of a CSV file was stored as, nobody
    remembers. `tags` holds if the tag is one of those of the document's source.

    Args:
        filters: A value, or several, by key.
        sources: Of the corpus, for their tags.

    Raises:
        InputError: A key that no metadata has, no value for it, or a character in it that Milvus cannot read.
    """
    return " and ".join(_one_of(key, _values(key, value, sources)) for key, value in filters.items())


def _values(key: str, value: FilterValue, sources: Sequence[SourceSettings]) -> list[Scalar]:
    given = list(value) if isinstance(value, tuple) else [value]
    if not given:
        raise InputError(f"filter {key!r}: holds no value; give one, or remove the key")
    if key == "tags":
        return [*given, *{" ".join(source.tags) for source in sources if set(map(str, given)) & set(source.tags)}]
    return given


def _one_of(key: str, values: Iterable[Scalar]) -> str:
    if not _KEY.fullmatch(key) or key in RESERVED - set(FILTERED):
        raise InputError(
            f"filter {key!r}: no such metadata; there are {', '.join(FILTERED)}, tags, modified, and the fields of a"
            " source's rows, in letters, digits and underscores"
        )
    field = key if key in TYPED_TEXTS else f"$meta[{json.dumps(key, ensure_ascii=False)}]"
    literals = [literal for value in values for literal in _literals(key, value)]
    return f"({' or '.join(f'{field} == {literal}' for literal in dict.fromkeys(literals))})"


def _literals(key: str, value: Scalar) -> list[str]:
    """A value as expressions write it, in each type that it may have been stored as."""
    text = value if isinstance(value, str) else json.dumps(value)
    if _UNSEEN.search(text):
        raise InputError(f"filter {key!r}: {text!r} holds a character that Milvus cannot read in a filter")
    quoted = json.dumps(text, ensure_ascii=False)
    return [quoted] if key in TYPED_TEXTS or not _is_plain(text) else [text, quoted]


def _is_plain(text: str) -> bool:
    """Whether a text is how JSON writes a number that Milvus holds, or a boolean."""
    if text in {"true", "false"}:
        return True
    if not re.fullmatch(r"-?(0|[1-9][0-9]{0,18})(\.[0-9]{1,18})?", text, re.ASCII):
        return False
    return abs(float(text)) <= MAX_INTEGER
