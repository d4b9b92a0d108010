"""Rows: what a node is in Milvus, and what comes back of it."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from nightloom.batches import Row
from nightloom.documents import ID_HEX_DIGITS
from nightloom.errors import IndexRefused
from nightloom.heads import Head
from nightloom.keywords import Keywords
from nightloom.splitting import Node
from nightloom.vectors import Vectors

Item = TypeVar("Item")

SCHEMA_VERSION = 2
"""Part of the fingerprint, and kept with every generation: raise it whenever the fields of a row change."""

SHOWN_TO_MODELS = frozenset({"uri", "title", "section", "page"})
"""Metadata that LlamaIndex puts into a prompt with the text."""

KEYWORDS = "bm25_keywords"
"""The field of the text that BM25 reads, in a generation for hybrid retrieval."""
SPARSE = "sparse_embedding"
"""The field that Milvus makes of it; the name is the one that LlamaIndex looks for."""

READ_ROWS = 2_000
"""Rows of a batch that is read, at most."""
FIRST_ROWS = 250
"""Of the first batch: it shows how large these rows are."""
READ_BYTES = 8_000_000
"""Of a batch, about: Milvus refuses to answer with 100 MB, and 2,000 rows of long texts have more."""
REQUEST_BYTES = 16_000_000
"""Of a request that writes; Milvus takes 64 MB."""
FILTER_DOCUMENTS = 100
"""Documents that one filter names."""

TITLE_CHARACTERS = 500
SECTION_CHARACTERS = 1_000
"""Of a path of headings."""

HEADS = "position == 0"
NOT_HEADS = "position > 0"
ALL_ROWS = "position >= 0"
HEAD_FIELDS = ("document_id", "version", "total", "uri", "item", "validator")

_ID = re.compile(rf"[0-9a-f]{{{ID_HEX_DIGITS}}}")
_NODE_ID = re.compile(rf"[0-9a-f]{{{ID_HEX_DIGITS}}}-[0-9]+")


@dataclass(frozen=True, slots=True)
class Hit:
    """A node that a query found.

    Attributes:
        score: As Milvus gives it: for COSINE and IP higher is better, for L2 lower.
        page: On which it begins, where the document has pages.
        section: Path of the headings that it is under.
    """

    node: str
    uri: str
    item: str
    title: str
    position: int
    score: float
    text: str
    page: int | None = None
    section: str = ""


def text_node(node: Node) -> Any:
    """A node as LlamaIndex knows it; metadata with the names of typed fields land in those fields."""
    from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode  # noqa: PLC0415

    ref = node.document.ref
    metadata: dict[str, Any] = {
        **node.document.metadata,
        "uri": ref.uri,
        "item": ref.item,
        "source": ref.source,
        "version": node.version,
        "position": node.position,
        "total": node.total,
    }
    if node.document.title:
        metadata["title"] = node.document.title[:TITLE_CHARACTERS]
    if node.place.page is not None:
        metadata["page"] = node.place.page
    if node.place.headings:
        metadata["section"] = " > ".join(node.place.headings)[:SECTION_CHARACTERS]
    if ref.validator and node.position == 0:
        metadata["validator"] = ref.validator
    return TextNode(
        id_=node.id,
        text=node.text,
        metadata=metadata,
        # Other programs embed and prompt with the text alone, as we do.
        excluded_embed_metadata_keys=list(metadata),
        excluded_llm_metadata_keys=[key for key in metadata if key not in SHOWN_TO_MODELS],
        relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id=ref.id)},
    )


def row_of(node: Node, vector: Vectors, keywords: Keywords | None) -> Row:
    """A node as the collection holds it: the fields that LlamaIndex writes, and the keywords where there are any.

    Args:
        node: The node.
        vector: float32, shape (dim,).
        keywords: None for a generation without them.
    """
    from llama_index.core.vector_stores.utils import node_to_metadata_dict  # noqa: PLC0415

    row = {
        **node_to_metadata_dict(text_node(node), remove_text=True),
        "id": node.id,
        "text": node.text,
        "embedding": vector,
    }
    # Beside what LlamaIndex keeps of a node, not in it: it would be stored twice, and come back with every answer.
    return row if keywords is None else {**row, KEYWORDS: keywords.of_node(node)}


NODE_FIELDS = ("text", "_node_content", "_node_type")
"""What a node of LlamaIndex is made of again."""


def node_of(row: Row) -> Any:
    """A row with `NODE_FIELDS`, as a node of LlamaIndex."""
    from llama_index.core.vector_stores.utils import metadata_dict_to_node  # noqa: PLC0415

    return metadata_dict_to_node(row, text=row["text"])


def hit_of(row: Row, score: float) -> Hit:
    """A row with `NODE_FIELDS`, as a passage with its score."""
    node = json.loads(row["_node_content"])
    kept = node["metadata"]
    return Hit(
        node["id_"],
        kept.get("uri", ""),
        kept.get("item", ""),
        kept.get("title", ""),
        kept.get("position", 0),
        score,
        row["text"],
        kept.get("page"),
        kept.get("section", ""),
    )


def head_of(row: Row) -> Head:
    """The head that a row with `HEAD_FIELDS` is."""
    return Head(
        row["document_id"],
        row["version"],
        row["total"],
        row["uri"],
        str(row.get("item") or row["uri"]),
        str(row.get("validator") or ""),
    )


def checked_id(value: str) -> str:
    """A document id or version, if it is one: nothing else ever goes into a filter.

    Raises:
        IndexRefused: It is none.
    """
    return _checked(value, _ID, f"id of {ID_HEX_DIGITS} hex digits")


def checked_node_id(value: str) -> str:
    """A primary key, if it is one of ours.

    Raises:
        IndexRefused: It is none.
    """
    return _checked(value, _NODE_ID, "id of a node")


def _checked(value: str, pattern: re.Pattern[str], what: str) -> str:
    if not pattern.fullmatch(value):
        raise IndexRefused(f"{value!r} is no {what}, and goes into no filter")
    return value


def parts(items: Sequence[Item], size: int = FILTER_DOCUMENTS) -> list[Sequence[Item]]:
    """Items so many at a time, by default as many documents as one filter can name."""
    return [items[start : start + size] for start in range(0, len(items), size)]


def among(documents: Iterable[str]) -> str:
    """The filter for the rows of these documents.

    Raises:
        IndexRefused: One of them is no id.
    """
    return f"document_id in {json.dumps([checked_id(key) for key in documents])}"


def nodes_among(nodes: Iterable[str]) -> str:
    """The filter for these rows.

    Raises:
        IndexRefused: One of them is no id of a node.
    """
    return f"id in {json.dumps([checked_node_id(key) for key in nodes])}"


def beyond(totals: Mapping[str, int]) -> str:
    """The filter for rows of documents at or beyond a position, by document id.

    Raises:
        IndexRefused: One of them is no id.
    """
    return " or ".join(f'(document_id == "{checked_id(key)}" and position >= {int(at)})' for key, at in totals.items())
