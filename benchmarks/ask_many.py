"""How fast golden queries are asked: 1,000 of them, in batches, against one by one; the same documents come back.

    python benchmarks/ask_many.py [--rows 20000] [--queries 1000] [--runs 5] [--lite]

Starts a Milvus server of its own on loopback (or uses a Milvus Lite file), fills a generation, and asks for the 10 best
documents of each question, as `evaluate` and the gate do. Embedding the questions is not in it. Prints medians, the
spread, and in how many rankings the two ways differ.
"""

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np

from benchmarks.copy_forward import DIM, fill
from deployments.local_milvus import local_milvus
from nightloom.corpus import MilvusSettings
from nightloom.index import open_index
from nightloom.retrieval import Question, Ranking, Search, ask_all, rank_documents

DEPTH = 10
CONCURRENCY = 16
"""Requests in flight: the default of evaluation.concurrency."""


async def one_by_one(search: Search, questions: dict[str, Question]) -> dict[str, Ranking]:
    """Each question in a request of its own, after the answer to the one before."""
    return {key: (await rank_documents(search, [question], DEPTH))[0] for key, question in questions.items()}


async def measure(uri: str, rows: int, queries: int, runs: int) -> tuple[list[float], list[float], int]:
    """Seconds of each run in batches and one by one, and the rankings that differ."""
    random = np.random.default_rng(1)
    vectors = random.normal(size=(queries, DIM)).astype(np.float32)
    questions = {str(at): Question(str(at), vector) for at, vector in enumerate(vectors)}
    together, alone, differing = [], [], 0
    async with open_index(MilvusSettings(uri=uri), f"ask_{os.getpid()}") as index:
        generation, versions = await fill(index, rows)
        await index.contents.verify(generation.name, versions)  # the strong read, after which all see every row
        await index.connection.flush(generation.name)

        async def search(some: Sequence[Question], limit: int) -> list[Ranking]:
            return await index.contents.rank(generation.name, some, limit)

        for _ in range(runs):
            started = time.monotonic()
            batched = await ask_all(questions, search, DEPTH, CONCURRENCY)
            together.append(time.monotonic() - started)
            started = time.monotonic()
            single = await one_by_one(search, questions)
            alone.append(time.monotonic() - started)
            differing += sum([uri for uri, _ in batched[key]] != [uri for uri, _ in single[key]] for key in questions)
        await index.drop(generation)
    return together, alone, differing


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--queries", type=int, default=1_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--lite", action="store_true", help="Milvus Lite instead of a server")
    arguments = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        uri = str(folder / "ask.db") if arguments.lite else stack.enter_context(local_milvus(folder)).uri
        together, alone, differing = asyncio.run(measure(uri, arguments.rows, arguments.queries, arguments.runs))
    kind = "Milvus Lite" if arguments.lite else "a Milvus server"
    print(f"{arguments.queries} queries over {arguments.rows} rows of {DIM} dimensions, {kind}:")
    for what, seconds in (("in batches", together), ("one by one", alone)):
        spread = f"{min(seconds):.2f} to {max(seconds):.2f}"
        print(f"  {what}: {statistics.median(seconds):.2f} s (median of {len(seconds)}; {spread})")
    print(f"  rankings that differ: {differing} of {arguments.queries * arguments.runs}")


if __name__ == "__main__":
    main()
