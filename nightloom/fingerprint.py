"""What makes two embeddings comparable, in one hash. Another fingerprint means another generation."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from nightloom.corpus import Corpus
from nightloom.embedding import Embedder
from nightloom.keywords import Keywords
from nightloom.reading import LOADER_VERSION
from nightloom.rows import SCHEMA_VERSION
from nightloom.splitting import SPLITTER_VERSION

FILES = "the files of the embedder's model"


def fingerprint(corpus: Corpus, embedder: Embedder) -> str:
    """sha256, hex, over loader, splitter, embedder with its weights, schema, metric and keywords: the same on every
    machine."""
    parts: dict[str, Any] = {
        "loader": LOADER_VERSION,
        "splitter": [SPLITTER_VERSION, corpus.splitting.max_tokens, corpus.splitting.overlap_tokens],
        "embedder": embedder.identity,
        "schema": SCHEMA_VERSION,
        "metric": corpus.milvus.metric,
    }
    if corpus.retrieval.mode == "hybrid":
        parts["keywords"] = Keywords(corpus.retrieval.language).identity
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def made_of(corpus: Corpus, embedder: Embedder) -> dict[str, str]:
    """What goes into the fingerprint, by names that users know: it is kept with a generation, to name what changed."""
    parts: dict[str, Any] = {
        "embedder.model": corpus.embedder.model,
        "embedder.text_prefix": json.dumps(corpus.embedder.text_prefix, ensure_ascii=False),
        "the embedder's precision": embedder.precision,
        "splitting.max_tokens": corpus.splitting.max_tokens,
        "splitting.overlap_tokens": corpus.splitting.overlap_tokens,
        "milvus.metric": corpus.milvus.metric,
        "retrieval.mode": corpus.retrieval.mode,
        "retrieval.language": corpus.retrieval.language if corpus.retrieval.mode == "hybrid" else "none",
        "the version of the readers of formats": LOADER_VERSION,
        "the version of the splitter": SPLITTER_VERSION,
        "the version of the schema": SCHEMA_VERSION,
        FILES: embedder.identity[:12],
    }
    return {name: str(value) for name, value in parts.items()}


def what_changed(before: str, now: Mapping[str, str]) -> str:
    """Which parts of a fingerprint are others, from what to what, in words.

    Args:
        before: What `made_of` gave when a generation was made, as JSON; "" where it was not kept.
        now: What it gives tonight.

    Returns:
        "" where that is not known.
    """
    kept: dict[str, str] = json.loads(before) if before else {}
    changed = [name for name, value in now.items() if kept.get(name, value) != value]
    if len(changed) > 1 and FILES in changed:
        changed.remove(FILES)  # it follows from the others
    if changed == [FILES]:
        return "the files of the embedder's model are others than they were"
    return "; ".join(f"{name} was {kept[name]} and is {now[name]}" for name in changed)
