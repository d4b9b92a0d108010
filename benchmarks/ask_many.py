"""How fast golden queries are asked: 1,000 of them, in batches, against one by one; the same documents come back.

    python benchmarks/ask_many.py [--rows 2000 20000] [--queries 1000] [--runs 5] [--lite]

Starts a Milvus server of its own on loopback (or uses a Milvus Lite file), fills a generation and seals it as a night
does, and asks for the 10 best documents of each question, as `evaluate` and the gate do. Embedding the questions is not
in it. Prints medians, the spread, and in how many rankings the two ways differ.
"""

import argparse
import asyncio
import os
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np

from benchmarks.copy_forward import DIM, fill
from benchmarks.measuring import RUNS, Timing, in_turns, table
from deployments.local_milvus import local_milvus
from nightloom.corpus import IndexSettings, MilvusSettings
from nightloom.index import open_index
from nightloom.retrieval import Question, Ranking, Search, ask_all, rank_documents

DEPTH = 10
TOGETHER, ALONE = "in batches", "one by one"
CONCURRENCY = 16
"""Requests in flight: the default of evaluation.concurrency."""


async def one_by_one(search: Search, questions: dict[str, Question]) -> dict[str, Ranking]:
    """Each question in a request of its own, after the answer to the one before."""
    return {key: (await rank_documents(search, [question], DEPTH))[0] for key, question in questions.items()}


async def measure(uri: str, rows: int, queries: int, runs: int) -> tuple[dict[str, Timing], int]:
    """Seconds in batches and one by one, and the rankings that differ."""
    random = np.random.default_rng(1)
    vectors = random.normal(size=(queries, DIM)).astype(np.float32)
    questions = {str(at): Question(str(at), vector) for at, vector in enumerate(vectors)}
    found: dict[str, list[dict[str, Ranking]]] = {TOGETHER: [], ALONE: []}
    async with open_index(MilvusSettings(uri=uri), f"ask_{os.getpid()}") as index:
        generation, versions = await fill(index, rows)
        await index.contents.seal(generation.name, IndexSettings(), may_rebuild=True)
        await index.contents.verify(generation.name, versions)  # the strong read, after which all see every row

        async def search(some: Sequence[Question], limit: int) -> list[Ranking]:
            return await index.contents.rank(generation.name, some, limit)

        async def together() -> None:
            found[TOGETHER].append(await ask_all(questions, search, DEPTH, CONCURRENCY))

        async def alone() -> None:
            found[ALONE].append(await one_by_one(search, questions))

        timings = await in_turns({TOGETHER: together, ALONE: alone}, runs)
        await index.drop(generation)
    pairs = [(batched[key], single[key]) for batched, single in zip(*found.values(), strict=True) for key in questions]
    return timings, sum([uri for uri, _ in a] != [uri for uri, _ in b] for a, b in pairs)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=(2_000, 20_000))
    parser.add_argument("--queries", type=int, default=1_000)
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--lite", action="store_true", help="Milvus Lite instead of a server")
    arguments = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        uri = str(folder / "ask.db") if arguments.lite else stack.enter_context(local_milvus(folder)).uri
        lines = []
        for rows in arguments.rows:
            timings, differing = asyncio.run(measure(uri, rows, arguments.queries, arguments.runs))
            ratio = f"{timings[ALONE].ratio(timings[TOGETHER]):.1f}"
            differ = f"{differing} of {arguments.queries * arguments.runs}"
            lines.append([f"{rows:,}", *timings.values(), ratio, differ])
    kind = "Milvus Lite" if arguments.lite else "a Milvus server"
    print(f"{arguments.queries:,} queries, {DIM} dimensions, {kind}\n")
    print(table(["rows", TOGETHER, ALONE, f"{ALONE} / {TOGETHER}", "rankings that differ"], lines))


if __name__ == "__main__":
    main()
