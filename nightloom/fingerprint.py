"""What makes two embeddings comparable, in one hash. Another fingerprint means another generation."""

import hashlib
import json
from typing import Any

from nightloom.corpus import Corpus
from nightloom.embedding import Embedder
from nightloom.keywords import Keywords
from nightloom.reading import LOADER_VERSION
from nightloom.rows import SCHEMA_VERSION
from nightloom.splitting import SPLITTER_VERSION


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
