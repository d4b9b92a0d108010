"""The tables of Milvus's tutorial on LlamaIndex's asynchronous API, and Nightloom beside them.

    python benchmarks/tutorial.py [--round-trip-ms 30] [--runs 5] [--all]

Its workload: nodes with embeddings of 768 dimensions drawn by chance, added one by one, and searches for the best 3
under strong consistency; 10, 100 and 1,000 of each. Its two ways, a loop over the synchronous calls and a gather over
the asynchronous ones, and Nightloom's: the insert of a shard, and golden queries. Starts a Milvus server of its own on
loopback; --round-trip-ms puts a network's delay before it. All ways leave the same rows visible under strong
consistency and find the same nodes, or the exit code is 1.

A synchronous loop over 1,000 searches takes five minutes, and as long for each run: without --all, the loop does 25 of
1,000, and the table says "(x40)".
"""

import argparse
import asyncio
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import numpy.typing as npt
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores.types import VectorStoreQuery
from llama_index.vector_stores.milvus import MilvusVectorStore

from benchmarks.measuring import RUNS, Timing, in_turns, table
from benchmarks.slow_network import slow_network
from deployments.local_milvus import local_milvus
from nightloom.corpus import MilvusSettings
from nightloom.documents import Document, DocumentRef, Place, node_id, version_of
from nightloom.index import Index, open_index
from nightloom.retrieval import Question, Ranking, ask_all
from nightloom.splitting import Node
from nightloom.vectors import Vectors

DIM = 768
METRIC = "IP"
"""Of the tutorial's store, and hence of everything here: Milvus compares faster by it than by the cosine."""
BEST = 3
COUNTS = (10, 100, 1_000)
PART = 25
"""What the synchronous loop does of more, unless all is asked for."""
CONCURRENCY = 16
"""Requests in flight: the default of evaluation.concurrency."""
FINGERPRINT = "0" * 64
LOOP, GATHER, OURS = "synchronous loop", "asynchronous gather", "Nightloom"


class Workload:
    """So many nodes, as each side knows them, and the stores that they go to."""

    def __init__(self, uri: str, count: int) -> None:
        """Draw the vectors; the same count gives the same ones."""
        self.uri = uri
        self.count = count
        self.vectors = unit(np.random.default_rng(count).normal(size=(count, DIM)))
        refs = [DocumentRef(f"{at}.txt", f"{at}.txt", "tutorial", str(at), None, 0) for at in range(count)]
        self.nodes = [
            Node(node_id(ref.id, 0), Document(ref, "", ""), version_of(ref.item, FINGERPRINT), 0, 1, text, Place(0))
            for ref, text in ((ref, f"Node {at} of the tutorial's workload.") for at, ref in enumerate(refs))
        ]

    def text_nodes(self) -> list[TextNode]:
        """The nodes as the tutorial makes them."""
        pairs = zip(self.nodes, self.vectors, strict=True)
        return [TextNode(id_=node.id, text=node.text, embedding=vector.tolist()) for node, vector in pairs]

    def store(self) -> MilvusVectorStore:
        """An empty collection of the tutorial's, open."""
        return MilvusVectorStore(
            uri=self.uri,
            dim=DIM,
            collection_name=f"tutorial_{uuid4().hex}",
            overwrite=True,
            consistency_level="Strong",
        )


def unit(vectors: npt.NDArray[Any]) -> Vectors:
    """Vectors of unit length."""
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)


def visible(store: MilvusVectorStore, collection: str) -> int:
    """Rows of a collection under strong consistency."""
    rows = store.client.query(collection, output_fields=["count(*)"], consistency_level="Strong")
    return int(rows[0]["count(*)"])


async def measure_adds(index: Index, work: Workload, runs: int, part: int) -> dict[str, Timing]:
    """Seconds of adding the nodes, into new collections in each turn."""
    done = min(part, work.count)
    text_nodes = work.text_nodes()
    timings: dict[str, Timing] = {}
    for _ in range(runs):
        looped, gathered = work.store(), work.store()
        made = await index.create(FINGERPRINT, DIM, await index.generations(), datetime.now(UTC))
        await index.connection.load(made.name)  # as those of the tutorial are

        async def loop(store: MilvusVectorStore = looped) -> None:
            for node in text_nodes[:done]:
                store.add([node])

        async def gather(store: MilvusVectorStore = gathered) -> None:
            await asyncio.gather(*(store.async_add([node]) for node in text_nodes))

        async def ours(collection: str = made.name) -> None:
            await index.contents.upsert(collection, work.nodes, work.vectors)

        turn = await in_turns({LOOP: loop, GATHER: gather, OURS: ours}, 1, {LOOP: work.count // done})
        for name, timing in turn.items():
            timings.setdefault(name, Timing(timing.times)).parts += timing.parts
        seen = [visible(store, store.collection_name) for store in (looped, gathered)]
        seen.append(await index.connection.count(made.name))
        if seen != [done, work.count, work.count]:
            raise SystemExit(f"{work.count} nodes added: {seen} rows are visible")
        for store in (looped, gathered):
            store.client.drop_collection(store.collection_name)
        await index.drop(made)
    return timings


async def measure_searches(index: Index, work: Workload, runs: int, part: int) -> dict[str, Timing]:
    """Seconds of as many searches as there are nodes, over as many rows as the greatest count."""
    rows = Workload(work.uri, max(COUNTS))
    store = rows.store()
    await store.async_add(rows.text_nodes())
    made = await index.create(FINGERPRINT, DIM, await index.generations(), datetime.now(UTC))
    await index.contents.upsert(made.name, rows.nodes, rows.vectors)
    await index.connection.load(made.name)

    # Near a node each: what is drawn by chance alone is as far from every node, and finds what rounding makes of it.
    random = np.random.default_rng(1)
    asked = rows.vectors[random.integers(len(rows.vectors), size=work.count)]
    vectors = unit(asked + unit(random.normal(size=asked.shape)) / 2)
    queries = [VectorStoreQuery(query_embedding=vector.tolist(), similarity_top_k=BEST) for vector in vectors]
    questions = {str(at): Question(str(at), vector) for at, vector in enumerate(vectors)}
    done = min(part, work.count)
    uris = {node.id: node.document.ref.uri for node in rows.nodes}
    found: dict[str, list[list[str]]] = {}

    async def loop() -> None:
        found[LOOP] = [[uris[key] for key in store.query(query).ids] for query in queries[:done]]

    async def gather() -> None:
        answers = await asyncio.gather(*(store.aquery(query) for query in queries))
        found[GATHER] = [[uris[key] for key in answer.ids] for answer in answers]

    async def search(some: Sequence[Question], limit: int) -> list[Ranking]:
        return await index.contents.rank(made.name, some, limit)

    async def ours() -> None:
        await index.connection.count(made.name)  # the one strong read, which every search of the others does
        rankings = await ask_all(questions, search, BEST, CONCURRENCY)
        found[OURS] = [[uri for uri, _ in rankings[key]] for key in questions]

    timings = await in_turns({LOOP: loop, GATHER: gather, OURS: ours}, runs, {LOOP: work.count // done})
    if not found[OURS] == found[GATHER] or found[OURS][:done] != found[LOOP]:
        raise SystemExit(f"{work.count} searches: the ways do not find the same nodes")
    store.client.drop_collection(store.collection_name)
    await index.drop(made)
    return timings


def cells(what: str, count: int, timings: dict[str, Timing]) -> list[str]:
    """A row of the table."""
    ours = timings[OURS]
    ratios = [f"{timings[name].ratio(ours):,.1f}" for name in (LOOP, GATHER)]
    return [what, f"{count:,}", *(str(timings[name]) for name in (LOOP, GATHER, OURS)), *ratios]


async def measure(uri: str, counts: Sequence[int], runs: int, part: int) -> str:
    """The table."""
    lines = []
    async with open_index(MilvusSettings(uri=uri, metric=METRIC), f"tutorial_{os.getpid()}") as index:
        for what, measured in (("adds", measure_adds), ("searches", measure_searches)):
            for count in counts:
                timings = await measured(index, Workload(uri, count), runs, part)
                lines.append(cells(what, count, timings))
                print(*lines[-1], sep="  ", file=sys.stderr, flush=True)
    return table(["", "", LOOP, GATHER, OURS, "loop / Nightloom", "gather / Nightloom"], lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--round-trip-ms", type=float, default=0)
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS)
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--all", action="store_true", help="every synchronous call")
    arguments = parser.parse_args()
    with ExitStack() as stack:
        server = stack.enter_context(local_milvus(Path(stack.enter_context(tempfile.TemporaryDirectory()))))
        uri = server.uri
        if arguments.round_trip_ms:
            port = stack.enter_context(slow_network(int(uri.rpartition(":")[2]), arguments.round_trip_ms / 1000))
            uri = f"http://127.0.0.1:{port}"
        print(asyncio.run(measure(uri, arguments.counts, arguments.runs, max(COUNTS) if arguments.all else PART)))


if __name__ == "__main__":
    main()
