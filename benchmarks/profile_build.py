"""Where the processor's time goes in a first build: what runs beside the model, and how much of it.

    python benchmarks/profile_build.py [--documents 300] [--cranfield ../shared/data/cranfield]

py-spy looks a hundred times a second at every thread of the process of the flow, over a whole first build, imports and
all; each sample in which a thread has the processor is counted for one part. The processes that read formats, Milvus
and Prefect's server are processes of their own, and not in it.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from benchmarks.measuring import table
from benchmarks.pipeline import make_work, texts_of
from benchmarks.retrieval import ROOT
from deployments.local_milvus import local_milvus

PARTS = [
    ("the model", ("onnxruntime", "nightloom/backends.py", "nightloom/embedding.py")),
    ("splitting, and counting tokens", ("nightloom/splitting.py",)),
    ("reading documents", ("nightloom/readers.py", "nightloom/reading.py", "nightloom/formats")),
    ("rows: made, written, copied, looked at", ("nightloom/contents.py", "nightloom/milvus.py", "pymilvus")),
    ("Prefect's client", ("prefect/",)),
]
"""Name, and what a frame of it has in its file; the innermost that fits decides, imports before all."""
IMPORTS = "imports"
OTHER = "everything else"


def part_of(stack: str) -> str:
    """The part that a sample is counted for.

    Args:
        stack: Frames from the outermost, with semicolons between them.
    """
    frames = stack.split(";")
    if any(frame.startswith("_find_and_load") for frame in frames):
        return IMPORTS
    for frame in reversed(frames):
        for name, files in PARTS:
            if any(file in frame for file in files):
                return name
    return OTHER


def profile(folder: Path, uri: str, documents: int, cranfield: Path) -> Counter[str]:
    """Samples of one first build, by part."""
    work = make_work(folder, "profiled", texts_of(cranfield)[:documents])
    recorded = folder / "recorded.txt"
    code = (
        "from pathlib import Path; from benchmarks.pipeline import Nightloom, Work;"
        f"Nightloom({uri!r}).build(Work('profiled', Path({str(work.folder)!r}), [('', '')] * {len(work.nodes)}))"
    )
    record = ["record", "--rate", "100", "--full-filenames", "--format", "raw", "--output", str(recorded)]
    subprocess.run(
        [str(Path(sys.executable).with_name("py-spy")), *record, "--", sys.executable, "-c", code],
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=sys.stderr,
    )
    found: Counter[str] = Counter()
    for row in recorded.read_text(encoding="utf-8").splitlines():
        stack, _, count = row.rpartition(" ")
        found[part_of(stack)] += int(count)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=300)
    parser.add_argument("--cranfield", type=Path, default=ROOT.parent / "shared" / "data" / "cranfield")
    arguments = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        uri = stack.enter_context(local_milvus(folder / "milvus")).uri
        found = profile(folder, uri, arguments.documents, arguments.cranfield)
    whole = sum(found.values())
    print(table(["", "share of the samples"], [[name, f"{count / whole:.1%}"] for name, count in found.most_common()]))


if __name__ == "__main__":
    main()
