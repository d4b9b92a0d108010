"""How fast unchanged rows go from one generation to the next: rows a second of 384 dimensions.

    python benchmarks/copy_forward.py [--rows 20000] [--runs 5] [--lite] [--transfer columns rows]

Starts a Milvus server of its own on loopback (or uses a Milvus Lite file), fills a generation, and copies it as a night
does, into a new one each time. Prints the median and the spread. With two transfers, they take turns.
"""

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np

from deployments.local_milvus import local_milvus
from nightloom.corpus import MilvusSettings
from nightloom.documents import Document, DocumentRef, Place, node_id, version_of
from nightloom.generations import Generation
from nightloom.index import Index, open_index
from nightloom.splitting import Node

DIM = 384
NODES = 5
"""Of a document."""
WORDS = 150
"""Of a node, about what 200 tokens hold."""
BATCH_DOCUMENTS = 400
FINGERPRINT = "0" * 64


def documents(first: int, count: int, words: int = WORDS) -> list[Node]:
    """The nodes of some documents, of so many words each."""
    nodes = []
    for at in range(first, first + count):
        ref = DocumentRef(f"docs/{at}.txt", f"{at}.txt", "docs", str(at), None, 0)
        document = Document(ref, "", "")
        text = " ".join(f"word{at}" for _ in range(words))
        version = version_of(str(at), FINGERPRINT)
        nodes += [Node(node_id(ref.id, at), document, version, at, NODES, text, Place(0)) for at in range(NODES)]
    return nodes


async def fill(index: Index, rows: int, dim: int = DIM, words: int = WORDS) -> tuple[Generation, dict[str, str]]:
    """A generation of so many rows, and the version of every document in it by id."""
    source = await index.create(FINGERPRINT, dim, await index.generations(), datetime.now(UTC))
    rng = np.random.default_rng(0)
    versions: dict[str, str] = {}
    for first in range(0, rows // NODES, BATCH_DOCUMENTS):
        nodes = documents(first, min(BATCH_DOCUMENTS, rows // NODES - first), words)
        vectors = rng.normal(size=(len(nodes), dim)).astype(np.float32)
        await index.contents.upsert(source.name, nodes, vectors)
        versions |= {node.document.ref.id: node.version for node in nodes}
    return source, versions


async def measure(uri: str, rows: int, runs: int, transfers: Sequence[str]) -> dict[str, list[float]]:
    """Rows a second of each run by transfer; every copy is verified."""
    rates: dict[str, list[float]] = {transfer: [] for transfer in transfers}
    async with open_index(MilvusSettings(uri=uri), f"copy_{os.getpid()}") as index:
        source, versions = await fill(index, rows)
    for _ in range(runs):
        for transfer in transfers:
            settings = MilvusSettings.model_validate({"uri": uri, "transfer": transfer})
            async with open_index(settings, f"copy_{os.getpid()}") as index:
                rates[transfer].append(await copy_once(index, source, versions))
    async with open_index(MilvusSettings(uri=uri), f"copy_{os.getpid()}") as index:
        await index.drop(source)
    return rates


async def copy_once(index: Index, source: Generation, versions: dict[str, str]) -> float:
    """Copy all rows into a new generation, verify it and drop it; rows a second of the copy alone."""
    await index.connection.count(source.name)  # a strong read, as a night begins with
    target = await index.create(FINGERPRINT, DIM, await index.generations(), datetime.now(UTC))
    await index.connection.load(target.name)
    started = time.monotonic()
    copied = await index.contents.copy(source.name, target.name, versions)
    seconds = time.monotonic() - started
    await index.contents.verify(target.name, versions)
    await index.drop(target)
    return copied / seconds


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--lite", action="store_true", help="Milvus Lite instead of a server")
    parser.add_argument("--transfer", nargs="+", choices=["columns", "rows"], default=["columns"])
    arguments = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        uri = str(folder / "copy.db") if arguments.lite else stack.enter_context(local_milvus(folder)).uri
        found = asyncio.run(measure(uri, arguments.rows, arguments.runs, arguments.transfer))
    kind = "Milvus Lite" if arguments.lite else "a Milvus server"
    for transfer, rates in found.items():
        print(f"{arguments.rows} rows of {DIM} dimensions, {kind}, as {transfer}:", end=" ")
        print(
            f"{statistics.median(rates):,.0f} rows/s (median of {len(rates)}; {min(rates):,.0f} to {max(rates):,.0f})"
        )


if __name__ == "__main__":
    main()
