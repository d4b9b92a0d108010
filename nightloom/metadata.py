"""Metadata as Milvus can hold it: names that mean nothing else, and values of a bounded size."""

import json
import math
import re
from collections.abc import Iterable

from nightloom.documents import Scalar

MAX_METADATA_BYTES = 16_000
"""Of a node, as JSON. Milvus holds 65,535 bytes, and LlamaIndex stores metadata twice."""
MAX_INTEGER = 2**63 - 1
RESERVED = frozenset(
    {
        "id",
        "doc_id",
        "document_id",
        "ref_doc_id",
        "text",
        "embedding",
        "version",
        "position",
        "total",
        "uri",
        "item",
        "source",
        "title",
        "page",
        "section",
        "validator",
        "_node_content",
        "_node_type",
        "bm25_keywords",
        "sparse_embedding",
    }
)
"""Fields of a row that are ours or LlamaIndex's."""

SHOWN_NAME = 60
"""Characters of a field's name in a note."""
AS_TEXT = "metadata values that Milvus cannot hold stored as text"
LEFT_OUT = f"metadata fields left out beyond {MAX_METADATA_BYTES} bytes"


def clean(pairs: Iterable[tuple[str, Scalar]]) -> tuple[dict[str, Scalar], frozenset[str]]:
    """Metadata that is safe to store and to filter on, and what was done to it, in words for the run report.

    A key is made of letters, digits and underscores; one that a row uses for itself gets an underscore behind it.
    """
    kept: dict[str, Scalar] = {}
    done: set[str] = set()
    size = 0
    for key, value in pairs:
        name = re.sub(r"\W", "_", key) or "_"
        while name in RESERVED or name in kept:
            name += "_"
        held = _held(value)
        size += len(json.dumps({name: held}).encode())
        if size > MAX_METADATA_BYTES:
            done.add(LEFT_OUT)
            break
        kept[name] = held
        done |= ({renamed(key, name)} if name != key else set()) | ({AS_TEXT} if held is not value else set())
    return kept, frozenset(done)


def renamed(key: str, name: str) -> str:
    """The note of a field that is stored under another name."""
    return f"metadata field {key[:SHOWN_NAME]!r} is stored as {name[:SHOWN_NAME]!r}"


def _held(value: Scalar) -> Scalar:
    """A value, or text that says the same where Milvus would refuse it or give back another."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, int) and abs(value) > MAX_INTEGER:
        return str(value)
    if isinstance(value, str) and (bad := value.encode("utf-8", "replace").decode().replace("\x00", "")) != value:
        return bad
    return value
