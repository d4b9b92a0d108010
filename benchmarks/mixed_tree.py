"""A tree of documents of every kind, a third of them bad: is each accounted for, and does memory stay as it is?

    python benchmarks/mixed_tree.py [--documents 1000 10000] [--lite]

Each size is a night in a process of its own, into a Milvus server on loopback, with vectors that are hashes: what is
measured is the way of documents through listing, reading, splitting and writing. Milvus Lite (--lite) keeps its rows in
the same process, which then grows with them. Exits with 1 where a document is neither indexed nor
quarantined with the right reason, a second night changes anything, or the peak of the largest is more than 10% above
that of the smallest.
"""

import argparse
import asyncio
import tempfile
from contextlib import ExitStack
from pathlib import Path

from benchmarks.measuring import alone, peak_megabytes
from benchmarks.nights import embed_by_hash, timed_night
from deployments.local_milvus import local_milvus
from nightloom.flows.prefect_api import prefect_api
from tests.mixed_tree import write_mixed_tree
from tests.nights import Home

MOST_ABOVE = 1.10


def main() -> int:
    """Print a line for each size; exit code 1 where something is not as it must be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, nargs="+", default=[1_000, 10_000])
    parser.add_argument("--lite", action="store_true", help="Milvus Lite instead of a server")
    arguments = parser.parse_args()
    peaks, good = [], True
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        uri = "index.db" if arguments.lite else stack.enter_context(local_milvus(folder)).uri
        for documents in arguments.documents:
            says, right, peak = alone(measure, documents, uri)
            print(says, flush=True)
            good &= right
            peaks.append(peak)
    ratio = max(peaks) / min(peaks)
    print(f"peak memory of the largest over the smallest: {ratio:.3f}")
    return 0 if good and ratio <= MOST_ABOVE else 1


def measure(documents: int, uri: str) -> tuple[str, bool, float]:
    """Two nights over so many documents: what came of it, whether it is right, and megabytes at the most."""
    embed_by_hash()
    with tempfile.TemporaryDirectory() as name, prefect_api():
        folder = Path(name)
        expected = {f"texts/{file}": reason for file, reason in write_mixed_tree(folder / "texts", documents).items()}
        home = Home(folder, uri, f"mixed_{documents}")
        home.configure("[gate]\nprobes = 0\nmax_quarantined = 0.5\n", evaluation=False)
        seconds, report = asyncio.run(timed_night(home.file))
        peak = peak_megabytes()
        indexed = {row["uri"] for row in asyncio.run(home.rows()).values()}
        quarantined = {entry["uri"]: entry["reason"] for entry in report["quarantine"]}
        wrong = [uri for uri, reason in expected.items() if not reason and uri not in indexed]
        wrong += [uri for uri, reason in expected.items() if reason and reason not in quarantined.get(uri, "")]
        again = asyncio.run(timed_night(home.file))[1]["outcome"]
        says = (
            f"{documents:7} documents: {len(indexed)} indexed + {len(quarantined)} quarantined, {len(wrong)} wrong"
            f" {wrong[:3]}; {seconds:.1f} s, peak {peak:.0f} MB; again: {again}"
        )
        whole = not wrong and len(indexed) + len(quarantined) == documents
        return says, whole and again == "unchanged", peak


if __name__ == "__main__":
    raise SystemExit(main())
