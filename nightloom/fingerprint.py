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
    return hashlib.sha256(json.dumps(_parts(corpus, embedder), sort_keys=True).encode()).hexdigest()


def _parts(corpus: Corpus, embedder: Embedder) -> dict[str, Any]:
    """All that the fingerprint is made over."""
    parts: dict[str, Any] = {
        "loader": LOADER_VERSION,
        "splitter": [SPLITTER_VERSION, corpus.splitting.max_tokens, corpus.splitting.overlap_tokens],
        "embedder": embedder.identity,
        "schema": SCHEMA_VERSION,
        "metric": corpus.milvus.metric,
    }
    if corpus.retrieval.mode == "hybrid":
        parts["keywords"] = Keywords(corpus.retrieval.language).identity
    return parts


def made_of(corpus: Corpus, embedder: Embedder) -> dict[str, str]:
    """What goes into the fingerprint, by names that users know: it is kept with a generation, to name what changed."""
    parts = _parts(corpus, embedder)
    splitter, most, overlap = parts["splitter"]
    named: dict[str, Any] = {
        "embedder.model": corpus.embedder.model,
        "embedder.text_prefix": json.dumps(corpus.embedder.text_prefix, ensure_ascii=False),
        "the embedder's precision": embedder.precision,
        "splitting.max_tokens": most,
        "splitting.overlap_tokens": overlap,
        "milvus.metric": parts["metric"],
        "retrieval.mode": corpus.retrieval.mode,
        "retrieval.language": corpus.retrieval.language if "keywords" in parts else "none",
        "the version of the readers of formats": parts["loader"],
        "the version of the splitter": splitter,
        "the version of the schema": parts["schema"],
        FILES: parts["embedder"][:12],
    }
    return {name: str(value) for name, value in named.items()}


def what_changed(before: str, now: Mapping[str, str]) -> str:
    """Say in words which parts of a fingerprint have changed, each with what it was and what it is.

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
