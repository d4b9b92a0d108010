"""Where a first build's time goes: processor seconds of every process and thread, and what the flow's own process does.

    python benchmarks/profile_build.py [--documents 1400] [--cranfield ../shared/data/cranfield]

Three tables of the same work, with the precision that this machine chooses. First the seconds of the flow beside those
of the bare embedder. Then who had the processors: seconds of processes come from the kernel, and those of the flow's
process are told apart by thread. Last what py-spy sees a hundred times a second in the flow's process, imports and all;
threads that wait are left out, and so are threads that are not Python's, such as those in which OpenVINO computes.
Linux alone says so much of its processes.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from contextlib import ExitStack, suppress
from pathlib import Path

from benchmarks.measuring import alone, table
from benchmarks.pipeline import Nightloom, Work, bare, make_work, texts_of
from benchmarks.retrieval import ROOT
from deployments.local_milvus import local_milvus
from nightloom.backends import cores

MODEL, LOOP, POOLS, PREFECT, READERS, SERVER, MILVUS = (
    "the model",
    "event loop: Prefect's engine, and the steps of the night",
    "threads that load, split, and speak with Milvus",
    "Prefect's threads for logs and events",
    "processes that read formats",
    "Prefect's server",
    "Milvus",
)
UNUSED = "nobody of these: waiting, or what else runs on this machine"
THREADS = (
    (("embedder", "encoder"), MODEL),
    (("MainThread",), LOOP),
    (("asyncio", "ThreadPool"), POOLS),
    ((), PREFECT),
)
"""How names of Python's threads begin, and who they are; those that are not Python's compute for the model."""

PARTS = [
    ("the model", ("onnxruntime", "openvino", "nightloom/backends.py", "nightloom/local_model.py")),
    ("splitting, and counting tokens", ("nightloom/splitting.py", "nightloom/tokenizing.py")),
    ("reading documents", ("nightloom/readers.py", "nightloom/reading.py", "nightloom/formats", "nightloom/sources")),
    ("rows: made, written, copied, looked at", ("nightloom/contents.py", "nightloom/milvus.py", "pymilvus")),
    ("Prefect's client", ("prefect/", "flows/prefect_api.py")),
]
"""Name, and what a frame of it has in its file; the innermost that fits decides, imports before all."""
IMPORTS = "imports"
OTHER = "everything else"
WAITS = ("selectors.py", "concurrent/futures/thread.py:81)", "threading.py:327)", "threading.py:331)", "queue.py")
"""What py-spy can take for work: the innermost frames of a thread that waits."""


# --- processor seconds


def seconds_of(stat: Path) -> float:
    """Processor seconds of a process or thread, by its `stat` under /proc."""
    fields = stat.read_text(encoding="utf-8").rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def children(pid: int) -> list[int]:
    """Processes below a process, at any depth."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread or process that ends meanwhile
            for child in map(int, (task / "children").read_text(encoding="utf-8").split()):
                found += [child, *children(child)]
    return found


def used(milvus: int) -> dict[str, float]:
    """Processor seconds up to now, of this process by thread, of those below it, and of Milvus."""
    found: dict[str, float] = defaultdict(float)
    names = {thread.native_id: thread.name for thread in threading.enumerate()}
    for task in Path("/proc/self/task").iterdir():
        name = names.get(int(task.name))
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that ended meanwhile is counted below
            found[MODEL if name is None else who(name)] += seconds_of(task / "stat")
    ended = resource.getrusage(resource.RUSAGE_SELF)
    found[POOLS] += ended.ru_utime + ended.ru_stime - sum(found.values())  # threads of pools that are no more
    for pid in children(os.getpid()):
        words = Path(f"/proc/{pid}/cmdline").read_bytes()
        found[SERVER if b"nightloom.flows.temporary_server" in words else READERS] += seconds_of(
            Path(f"/proc/{pid}/stat")
        )
    gone = resource.getrusage(resource.RUSAGE_CHILDREN)
    found[READERS] += gone.ru_utime + gone.ru_stime
    found[MILVUS] += sum(seconds_of(Path(f"/proc/{pid}/stat")) for pid in (milvus, *children(milvus)))
    return found


def who(name: str) -> str:
    """What a thread is for, by its name."""
    return next(part for starts, part in THREADS if not starts or name.startswith(starts))


def account(uri: str, first: Work, work: Work, milvus: int) -> tuple[float, float, dict[str, float]]:
    """Seconds of the flow, seconds of the bare embedder, and processor seconds of the flow by who used them."""
    way = Nightloom(uri)
    way.build(first)
    before, started = used(milvus), time.perf_counter()
    way.build(work)
    seconds = time.perf_counter() - started
    found = {name: value - before.get(name, 0) for name, value in used(milvus).items()}
    found[UNUSED] = max(0.0, seconds * cores() - sum(found.values()))
    return seconds, bare("auto", work), found


# --- samples


def part_of(stack: str) -> str | None:
    """The part that a sample is counted for; None for a thread that waits.

    Args:
        stack: Frames from the outermost, with semicolons between them.
    """
    frames = stack.split(";")
    if any(wait in frames[-1] for wait in WAITS):
        return None
    if any(frame.startswith("_find_and_load") for frame in frames):
        return IMPORTS
    for frame in reversed(frames):
        for name, files in PARTS:
            if any(file in frame for file in files):
                return name
    return OTHER


def profile(folder: Path, uri: str, work: Work) -> Counter[str]:
    """Samples of one first build, by part."""
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
        if part := part_of(stack):
            found[part] += int(count)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=1_400)
    parser.add_argument("--cranfield", type=Path, default=ROOT.parent / "shared" / "data" / "cranfield")
    arguments = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(local_milvus(folder / "milvus"))
        documents = texts_of(arguments.cranfield)[: arguments.documents]
        first = make_work(folder, "a few", documents[:5])
        work = make_work(folder, "profiled", documents)
        seconds, alone_seconds, by_whom = alone(account, server.uri, first, work, server.pid)
        samples = profile(folder, server.uri, work)
    print(f"{len(work.nodes)} nodes: the flow {seconds:.1f} s, the bare embedder {alone_seconds:.1f} s\n")
    whole = sum(by_whom.values())
    most_first = sorted(by_whom.items(), key=lambda one: one[1], reverse=True)
    rows = [[name, f"{seconds:.1f}", f"{seconds / whole:.1%}"] for name, seconds in most_first]
    print(table(["who had the processors", "seconds of one processor", "share"], rows))
    counted = sum(samples.values())
    rows = [[name, f"{count / 100:.1f}", f"{count / counted:.1%}"] for name, count in samples.most_common()]
    print("\n" + table(["Python in the flow's process", "seconds of a thread", "share"], rows))


if __name__ == "__main__":
    main()
