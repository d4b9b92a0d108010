"""Nights in a benchmark: quiet, timed, and with a cheap embedder where everything else is measured."""

import os
import time
from pathlib import Path
from typing import Any

# Before Prefect is imported: it reads these when it is.
os.environ.setdefault("PREFECT_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from pymilvus import MilvusClient

from nightloom import night as night_module
from nightloom.flows.nightly_reindex import nightly_reindex
from tests.torture.model import HashEmbedder


def embed_by_hash() -> None:
    """Have every night of this process take hashes of texts for their embeddings."""
    setattr(night_module, "Embedder", HashEmbedder)  # noqa: B010  the one place that makes a night's embedder


async def timed_night(file: Path) -> tuple[float, dict[str, Any]]:
    """Seconds of one night, and its report."""
    started = time.monotonic()
    report: dict[str, Any] = await nightly_reindex(corpus_file=file)
    return time.monotonic() - started, report


def clear(uri: str, prefix: str = "") -> None:
    """Drop every collection whose name begins so: the more are loaded, the slower is the server."""
    client = MilvusClient(uri)
    for name in client.list_collections():
        if name.startswith(prefix):
            for alias in client.list_aliases(name)["aliases"]:
                client.drop_alias(alias)
            client.drop_collection(name)
    client.close()
