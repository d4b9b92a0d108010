"""Seconds against rows: copy a generation forward, verify it, and promote it, up to 1,000,000 rows of 128 dimensions.

    python benchmarks/scale.py [--rows 10000 30000 100000 1000000] [--runs 5] [--index FLAT] [--uri ...]

On a real Milvus server (one of its own on loopback, unless --uri names one), what a night does in which nothing is
embedded and everything is copied; all sizes in turns. No index is built over the vectors but with --index: "auto" is
what so many rows get. The slope is the exponent of the line through the medians on logarithmic scales: 1 is seconds in
proportion to rows. Exit code 1 where it is above 1.1 without an index.
"""

import argparse
import asyncio
import os
import sys
import tempfile
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from benchmarks.copy_forward import FINGERPRINT, fill
from benchmarks.measuring import RUNS, Timing, line, table
from deployments.local_milvus import local_milvus
from nightloom.corpus import IndexSettings, MilvusSettings
from nightloom.index import Index, open_index, proof_of

SIZES = (10_000, 30_000, 100_000, 1_000_000)
DIM = 128
WORDS = 20
"""Of a node."""
STEPS = ("copy", "seal and verify", "promote")
WHOLE = "all of it"
STEEPEST = 1.1
NO_INDEX = "FLAT"
"""As Milvus calls it: every vector is compared."""
TIMEOUT_SECONDS = 600

Found = dict[int, dict[str, Timing]]
"""By rows and step."""


async def one(index: Index, rows: int, settings: IndexSettings, found: Found) -> None:
    """One size, once: everything is dropped again."""
    source, versions = await fill(index, rows, DIM, WORDS)
    await index.contents.seal(source.name, IndexSettings(type=NO_INDEX), may_rebuild=True)
    await index.promote(source.name, proof_of({}, versions), instead_of=None)
    await index.finish(source.name)
    live = next(one for one in await index.generations() if one.live)
    _, heads = await index.contents.read(live.name)
    times = [time.perf_counter()]
    target = await index.create(FINGERPRINT, DIM, await index.generations(), datetime.now(UTC))
    await index.contents.copy(live.name, target.name, versions)
    times.append(time.perf_counter())
    counted, _ = await index.contents.seal(target.name, settings, may_rebuild=True)
    await index.contents.verify(target.name, versions, counted)
    times.append(time.perf_counter())
    await index.promote(target.name, proof_of(heads, versions), instead_of=live.name)
    times.append(time.perf_counter())
    for step, seconds in zip((*STEPS, WHOLE), (*np.diff(times), times[-1] - times[0]), strict=True):
        found.setdefault(rows, {}).setdefault(step, Timing()).parts.append(float(seconds))
    print(rows, {step: f"{timing.parts[-1]:.1f}" for step, timing in found[rows].items()}, file=sys.stderr, flush=True)
    connection = index.connection
    await connection.call(lambda: connection.client.drop_alias(index.alias))
    for generation in await index.generations():
        await index.drop(generation)


async def measure(uri: str, sizes: list[int], settings: IndexSettings, runs: int) -> Found:
    """Every size, with such an index."""
    found: Found = {}
    async with open_index(MilvusSettings(uri=uri, timeout_seconds=TIMEOUT_SECONDS), f"scale_{os.getpid()}") as index:
        for _ in range(runs):
            for rows in sizes:
                await one(index, rows, settings, found)
    return found


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=SIZES)
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--index", default=NO_INDEX, help="its type, or auto")
    parser.add_argument("--chart", type=Path, help="a file for a picture")
    parser.add_argument("--uri", help="a Milvus server; default one of its own")
    arguments = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        uri = arguments.uri or stack.enter_context(local_milvus(folder)).uri
        settings = IndexSettings.model_validate({"type": arguments.index})
        found = asyncio.run(measure(uri, arguments.rows, settings, arguments.runs))
    lines = [
        [f"{rows:,}", *(str(timing) for timing in timings.values()), f"{rows / timings[WHOLE].median:,.0f}"]
        for rows, timings in found.items()
    ]
    print(table(["rows", *STEPS, WHOLE, "rows/s"], lines))
    if arguments.chart:
        points = {rows: timings[WHOLE].median for rows, timings in found.items()}
        line("Seconds against rows: copy, verify, promote", points, arguments.chart)
    if arguments.index != NO_INDEX:
        return 0
    slope, _ = np.polyfit(np.log(list(found)), np.log([timings[WHOLE].median for timings in found.values()]), 1)
    print(f"\nSlope: {slope:.2f}")
    return 0 if slope <= STEEPEST else 1


if __name__ == "__main__":
    raise SystemExit(main())
