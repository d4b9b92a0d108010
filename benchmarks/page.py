"""Write docs/benchmarks.md: run the benchmarks one after the other, and put what they print on one page.

    make bench         # in a .venv with the extra `bench`; less than half an hour
    make bench-long    # the sections that take longer: whole collections, and the largest sizes

Every section names its command, which can be run alone, over more.
"""

import argparse
import importlib.metadata
import os
import platform
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "benchmarks.md"
VERSIONS = (
    "prefect",
    "pymilvus",
    "llama-index-core",
    "llama-index-vector-stores-milvus",
    "sentence-transformers",
    "torch",
    "onnxruntime",
    "openvino",
    "tokenizers",
    "langchain-core",
    "langchain-milvus",
    "milvus",  # the server
)
INTRODUCTION = """# Benchmarks

Made by `make bench` and `make bench-long`. Seconds are medians of the runs, with the least and the most in brackets;
ratios are medians of the pairs of one turn, so that what disturbs the machine disturbs both. Where an arm was run over
a part of the work, the factor that it was counted with stands beside it. Everything of a table runs on one machine:
model, Milvus and Prefect share its cores. Tables can be of different days, and of machines of one kind that are not
equally fast: compare within a table.
"""


@dataclass(frozen=True)
class Section:
    """A benchmark on the page.

    Attributes:
        says: What is measured, and what to look for.
        command: Behind `python`.
        chart: Name of the picture that the benchmark draws; "" for none.
        is_long: Whether it takes so long that it is run only when asked for.
    """

    title: str
    says: str
    command: str
    chart: str = ""
    is_long: bool = False


SECTIONS = [
    Section(
        "The tutorial's own tables",
        "Milvus's tutorial adds nodes one by one, and searches one by one: in a loop, and gathered in one event loop."
        " Beside it the same nodes and searches through what Nightloom inserts and asks with; the same rows are visible"
        " under strong consistency, and the same nodes found.",
        "benchmarks/tutorial.py",
    ),
    Section(
        "The same over a network",
        "As above, with 30 ms put into every round trip to Milvus.",
        "benchmarks/tutorial.py --round-trip-ms 30 --counts 1000",
    ),
    Section(
        "Whole pipelines",
        "First builds of the same nodes, with the same model, on the same server. The bare embedder is the limit:"
        " nothing but the model on the same texts. A night of Nightloom also reads, splits, verifies, probes and"
        " promotes, which takes two seconds however small the corpus is.",
        "benchmarks/pipeline.py --longer 0 --whole-runs 0",
        "bench-pipeline.svg",
    ),
    Section(
        "Against the limit",
        "First builds of 5,000 longer documents, with the precision that this machine chooses, beside nothing but the"
        " model on the texts of the same nodes: what reading, splitting, Prefect and Milvus cost is what is missing"
        " from 1.",
        "benchmarks/pipeline.py --documents 0 --whole-runs 0 --longer 5000 --ways 'Nightloom bf16'",
        is_long=True,
    ),
    Section(
        "Whole pipelines over longer documents",
        "As above, of 5,000 documents of three or four nodes; the others are given a twenty-fifth of them,"
        " and their memory is that of so many.",
        "benchmarks/pipeline.py --documents 0 --whole-runs 0 --longer 5000 --part 25"
        " --ways tutorial IngestionPipeline LangChain 'Nightloom bf16'",
        is_long=True,
    ),
    Section(
        "Whole pipelines over all of Cranfield",
        "As above, and once the clock has stopped, each way is asked the collection's questions, by its own search.",
        "benchmarks/pipeline.py --runs 0 --whole-runs 5",
        "bench-cranfield.svg",
        is_long=True,
    ),
    Section(
        "The embedder",
        "Each way to run the model on this machine.",
        "benchmarks/embedder.py",
        is_long=True,
    ),
    Section(
        "Where a first build's time goes",
        "A first build of Cranfield, with the precision that this machine chooses: who had its processors, and what"
        " Python did in the flow's process, its start and imports included. What stays beside the model, and why:"
        " imports are those of Prefect, LlamaIndex and pymilvus, once a process; nodes are cut with the model's own"
        " tokenizer, once, as the embedder takes the same tokens; rows are packed as"
        " they lie in memory; Prefect's server writes down each task run, three for 512 documents. The waiting is"
        " at both ends, where there is nothing to embed yet or any more: the first nodes wait for LlamaIndex's imports,"
        " and verify's strong read for the ticks of Milvus's clock, up to 0.4 s late. Those seconds stay the same"
        " however large the corpus is.",
        "benchmarks/profile_build.py",
    ),
    Section(
        "The second night",
        "What the nights after the first cost against the first build, each counted with the model's time for what it"
        " embeds.",
        "benchmarks/second_night.py --documents 1000 10000",
    ),
    Section(
        "The second night of 50,000 documents",
        "As above.",
        "benchmarks/second_night.py --documents 50000",
        is_long=True,
    ),
    Section(
        "Memory",
        "The most memory that the flow's process holds.",
        "benchmarks/memory.py",
        is_long=True,
    ),
    Section(
        "Many questions",
        "Golden queries in one go against one by one; the rankings are the same. Up to 50,000 rows, every vector is"
        " compared with every query.",
        "benchmarks/ask_many.py",
    ),
    Section(
        "Prefect",
        "What a night takes beside the model: embeddings are replaced by a constant.",
        "benchmarks/prefect_cost.py",
    ),
    Section(
        "Reading",
        "Documents of each format, read and cut into nodes, in one process.",
        "benchmarks/parsing.py",
    ),
    Section(
        "PDF",
        "The engine that is used, and LlamaIndex's default.",
        "benchmarks/pdf_engines.py",
    ),
    Section(
        "Copying",
        "Rows of 384 dimensions from one generation to the next.",
        "benchmarks/copy_forward.py",
    ),
    Section(
        "Scale",
        "A generation copied forward, verified and promoted, without an index over its vectors.",
        "benchmarks/scale.py",
        "bench-scale.svg",
        is_long=True,
    ),
    Section(
        "Scale, with an index",
        "As above, with the index that so many rows get: from 50,000 on a graph, which Milvus builds before the rows"
        " are verified. An update in place builds none.",
        "benchmarks/scale.py --index auto --rows 30000 100000",
        is_long=True,
    ),
]


def machine() -> str:
    """Processor, memory and system."""
    processor = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists() and (found := re.search(r"model name\s*: (.+)", information.read_text(encoding="utf-8"))):
        processor = found[1]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{processor}, {os.cpu_count()} cores, {memory:.0f} GB; {platform.system()}, Python {platform.python_version()}"
    )


def versions() -> str:
    """Of the packages that matter, as far as they are installed."""
    installed = {found.metadata["Name"].lower(): found.version for found in importlib.metadata.distributions()}
    return ", ".join(f"{name} {installed[name]}" for name in VERSIONS if name in installed)


def run(section: Section) -> str:
    """The section, as Markdown.

    Raises:
        subprocess.CalledProcessError: The benchmark failed, which is not the same as a limit that it misses.
    """
    words = shlex.split(section.command)
    if section.chart:
        words += ["--chart", str(PAGE.parent / "images" / section.chart)]
    started = time.monotonic()
    done = subprocess.run([sys.executable, *words], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode not in (0, 1) or not done.stdout.strip():
        done.check_returncode()
        raise SystemExit(f"{section.command}: printed nothing")
    print(f"{section.title}: {time.monotonic() - started:.0f} s", flush=True)
    picture = f"\n![{section.title}](images/{section.chart})\n" if section.chart else ""
    printed = done.stdout.strip() if "| ---" in done.stdout else f"```text\n{done.stdout.strip()}\n```"
    return f"## {section.title}\n\n{section.says}\n\n`python {section.command}`\n\n{printed}\n{picture}"


def main() -> None:
    """Run everything, or the sections whose titles hold one of the words given, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", help="words of titles; the other sections stay as they are")
    parser.add_argument("--long", action="store_true", help="the sections that take longer, and not the others")
    arguments = parser.parse_args()
    found = sections_of(PAGE.read_text(encoding="utf-8")) if PAGE.exists() else {}
    for section in SECTIONS:
        if wanted(section, arguments.only, is_long=arguments.long):
            found[section.title] = run(section)
            write(found)


def wanted(section: Section, only: Sequence[str] | None, *, is_long: bool) -> bool:
    """Whether to run a section."""
    if only:
        return any(word.lower() in section.title.lower() for word in only)
    return section.is_long == is_long


def write(found: Mapping[str, str]) -> None:
    """The page, as far as it is: a benchmark that fails takes none of those before it along."""
    sections = [found[section.title].strip() + "\n" for section in SECTIONS if section.title in found]
    parts = [INTRODUCTION, f"{machine()}.", "", f"{versions()}.", "", *sections]
    PAGE.write_text("\n".join(parts).rstrip() + "\n", encoding="utf-8")


def sections_of(page: str) -> dict[str, str]:
    """The sections of a page by their titles."""
    parts = re.split(r"(?m)^(?=## )", page)[1:]
    return {part.partition("\n")[0].removeprefix("## "): part for part in parts}


if __name__ == "__main__":
    main()
