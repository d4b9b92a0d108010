"""Whole pipelines side by side: the same nodes, model and Milvus server, and what a user would take in place of this.

    python benchmarks/pipeline.py [--documents 200] [--longer 100 [--part 1]] [--runs 5] [--cranfield FOLDER]

- tutorial: LlamaIndex's `VectorStoreIndex.from_documents(use_async=True)`, as in Milvus's tutorial
- IngestionPipeline: LlamaIndex's `arun` with a docstore that knows duplicates
- LangChain: its indexing API with a record manager, over langchain-milvus
- Nightloom: the whole flow, in three precisions; it reads, splits, verifies and promotes as well
- bare: only the embedder of Nightloom, on the texts of the same nodes, in the process of the flow

Each in a process of its own, with the model open before the clock starts; first builds in turns, over the first
documents of Cranfield and over longer documents that are drawn by chance. The others are given Nightloom's nodes, one
document each. Of many longer documents they can be given a part, `--part 25` a twenty-fifth: they take as long for
each node however many there are, and the table says "(x25)". Then each builds all of Cranfield, and answers its
questions once the clock has stopped; where Cranfield is not there, the documents are the topics that Python carries,
and nobody is asked. CPU seconds are those of the process; neither Milvus nor Prefect's server is counted.
"""

# ruff: noqa: PLC0415  a way imports in its own process what only it needs

import argparse
import asyncio
import json
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any, Protocol
from uuid import uuid4

from pymilvus import connections

from benchmarks.measuring import RUNS, Timing, bars, own_process, peak_megabytes, table
from benchmarks.nights import clear, timed_night
from benchmarks.retrieval import MODEL, ROOT, cranfield
from deployments.local_milvus import local_milvus
from nightloom.corpus import EmbedderSettings, EvaluationSettings, SplittingSettings
from nightloom.documents import Document, DocumentRef
from nightloom.embedding import Embedder
from nightloom.evaluation import judge, score
from nightloom.flows.prefect_api import prefect_api
from nightloom.golden import load_golden
from nightloom.models import find_model
from nightloom.splitting import Splitter

DIM = 384
METRIC = "nDCG@10"
FOUND_NODES = 50
"""Of a question to a peer: their documents are ranked by their best nodes."""
WHOLE_TOKENS = 2_000
"""More than any node has: the peers split nothing."""
LONGER_WORDS = 300
"""Of a document that is drawn by chance: three nodes or four."""
OWN_WORDS = 60
"""Different ones, of such a document."""
TOPIC = 6
"""Documents of Cranfield that have about as many nodes as one of Python's topics."""
BARE = "bare embedder"


@dataclass(frozen=True)
class Work:
    """What every way indexes.

    Attributes:
        name: Of the collection of documents.
        folder: With corpus.jsonl, which holds them.
        nodes: URI and text of each node that Nightloom makes of them.
        queries: Golden queries in `folder`, as BEIR has them; None where nobody asks.
        part: What the peers are given of it, where that is not all; and how many times that is counted.
    """

    name: str
    folder: Path
    nodes: list[tuple[str, str]]
    queries: Path | None = None
    part: "tuple[Work, int] | None" = None


class Way(Protocol):
    """One way to index."""

    def build(self, work: Work) -> None:
        """Embed and write everything into a new collection."""

    def ndcg(self, work: Work) -> float:
        """On the golden queries, after `build`."""


class Peer:
    """What the other ways share: they are given nodes, and their answers are scored here."""

    def __init__(self, uri: str) -> None:
        """For a Milvus server."""
        self.uri = uri

    def search(self, query: str) -> list[str]:
        """URIs of the nodes that answer best, best first."""
        raise NotImplementedError

    def ndcg(self, work: Work) -> float:
        """On the golden queries."""
        if work.queries is None:
            return 0.0
        settings = EvaluationSettings(
            queries=work.queries, qrels=work.queries.with_name("qrels.tsv"), metrics=(METRIC,)
        )
        golden = load_golden(settings)
        judged = judge(golden, [(uri, uri) for uri, _ in work.nodes], gone_is_error=False)
        rankings = {
            key: [(uri, 0.0) for uri in dict.fromkeys(self.search(text))][:10] for key, text in judged.texts.items()
        }
        return score(judged, rankings).means[METRIC]


class Tutorial(Peer):
    """`VectorStoreIndex.from_documents(use_async=True)`."""

    def __init__(self, uri: str) -> None:
        """Open the model as LlamaIndex does."""
        from llama_index.core.node_parser import SentenceSplitter
        from llama_index.embeddings.huggingface import HuggingFaceEmbedding

        super().__init__(uri)
        self.model = HuggingFaceEmbedding(model_folder())
        self.whole = SentenceSplitter(chunk_size=WHOLE_TOKENS)

    def store(self) -> Any:
        """A new collection."""
        from llama_index.vector_stores.milvus import MilvusVectorStore

        return MilvusVectorStore(uri=self.uri, dim=DIM, collection_name=f"bench_{uuid4().hex}", overwrite=True)

    def documents(self, work: Work) -> list[Any]:
        """Each node as a document; only its text is embedded."""
        from llama_index.core import Document as LlamaDocument

        return [
            LlamaDocument(text=text, id_=f"{at}", metadata={"uri": uri}, excluded_embed_metadata_keys=["uri"])
            for at, (uri, text) in enumerate(work.nodes)
        ]

    def build(self, work: Work) -> None:
        """As the tutorial does."""
        from llama_index.core import StorageContext, VectorStoreIndex

        self.index = VectorStoreIndex.from_documents(
            self.documents(work),
            storage_context=StorageContext.from_defaults(vector_store=self.store()),
            embed_model=self.model,
            transformations=[self.whole],
            use_async=True,
        )

    def search(self, query: str) -> list[str]:
        """By the index's retriever."""
        return [
            str(hit.metadata["uri"]) for hit in self.index.as_retriever(similarity_top_k=FOUND_NODES).retrieve(query)
        ]


class Ingestion(Tutorial):
    """`IngestionPipeline.arun` with a docstore."""

    def build(self, work: Work) -> None:
        """Through a pipeline that knows what it has seen."""
        from llama_index.core import VectorStoreIndex
        from llama_index.core.ingestion import IngestionPipeline
        from llama_index.core.storage.docstore import SimpleDocumentStore

        store = self.store()
        pipeline = IngestionPipeline(
            transformations=[self.whole, self.model], vector_store=store, docstore=SimpleDocumentStore()
        )
        asyncio.run(pipeline.arun(documents=self.documents(work)))
        self.index = VectorStoreIndex.from_vector_store(store, embed_model=self.model)


class LangChain(Peer):
    """The indexing API with a record manager, over langchain-milvus."""

    def __init__(self, uri: str) -> None:
        """Open the model as langchain-huggingface does: sentence-transformers, with its defaults."""
        from sentence_transformers import SentenceTransformer

        super().__init__(uri)
        self.model = SentenceTransformer(model_folder(), device="cpu")

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Of LangChain's interface."""
        return [list(vector) for vector in self.model.encode(texts).tolist()]

    def embed_query(self, text: str) -> list[float]:
        """Of LangChain's interface."""
        return self.embed_documents([text])[0]

    def build(self, work: Work) -> None:
        """By the indexing API."""
        from langchain_core.documents import Document as LangDocument
        from langchain_core.indexing import InMemoryRecordManager, index
        from langchain_milvus import Milvus

        name = f"bench_{uuid4().hex}"
        model: Any = self  # it asks for no more than the two methods above
        self.store = Milvus(model, collection_name=name, connection_args={"uri": self.uri}, drop_old=True)
        connections.connect(alias=self.store.alias, uri=self.uri)  # it asks the older client, too, which knows it not
        records = InMemoryRecordManager(namespace=name)
        documents = [LangDocument(page_content=text, metadata={"uri": uri}) for uri, text in work.nodes]
        index(documents, records, self.store, cleanup="incremental", source_id_key="uri", key_encoder="sha256")

    def search(self, query: str) -> list[str]:
        """By similarity."""
        return [str(hit.metadata["uri"]) for hit in self.store.similarity_search(query, k=FOUND_NODES)]


class Nightloom:
    """The whole flow, a first build each time."""

    precision = "auto"

    def __init__(self, uri: str) -> None:
        """Prefect's server is there from here on, for as long as the process."""
        self.uri = uri
        self.settings = ""
        self._prefect = prefect_api()
        self._prefect.__enter__()

    def build(self, work: Work) -> None:
        """One night."""
        self.settings = (
            f'name = "bench_{uuid4().hex}"\n[[sources]]\njsonl = "corpus.jsonl"\nname = "bench"\n'
            f'[embedder]\nmodel = "{MODEL}"\nprecision = "{self.precision}"\n[milvus]\nuri = "{self.uri}"\n'
        )
        report = self._night(work, self.settings)
        if report["nodes"]["total"] != len(work.nodes):
            raise SystemExit(f"{work.name}: {report['nodes']} where the others are given {len(work.nodes)} nodes")

    def ndcg(self, work: Work) -> float:
        """By a night in which nothing has changed but that the corpus file names the queries."""
        if work.queries is None:
            return 0.0
        asks = f'[evaluation]\nqueries = "queries.jsonl"\nqrels = "qrels.tsv"\nmetrics = ["{METRIC}"]\n'
        return float(self._night(work, self.settings + asks)["scores"][METRIC])

    def _night(self, work: Work, settings: str) -> dict[str, Any]:
        """Its report."""
        file = work.folder / f"{self.precision}.toml"
        file.write_text(settings, encoding="utf-8")
        _, report = asyncio.run(timed_night(file))
        return report


class NightloomFp32(Nightloom):
    """With the numbers of the model as they were published."""

    precision = "fp32"


class NightloomBf16(Nightloom):
    """With half as many bits for each number."""

    precision = "bf16"


class NightloomInt8(Nightloom):
    """With a byte for each."""

    precision = "int8"


WAYS: dict[str, Callable[[str], Way]] = {
    "tutorial": Tutorial,
    "IngestionPipeline": Ingestion,
    "LangChain": LangChain,
    "Nightloom fp32": NightloomFp32,
    "Nightloom bf16": NightloomBf16,
    "Nightloom int8": NightloomInt8,
}
OURS = {"Nightloom fp32": "fp32", "Nightloom bf16": "bf16", "Nightloom int8": "int8"}
PEERS = ("tutorial", "IngestionPipeline", "LangChain")

opened: dict[str, Way] = {}
"""The way of this process, by its name."""


def model_folder() -> str:
    """Where the packaged model lies."""
    return str(find_model(MODEL))


def open_way(name: str, uri: str, work: Work) -> None:
    """In a process of its own: open the model, and everything that is imported late."""
    opened[name] = WAYS[name](uri)
    opened[name].build(work)


def build(name: str, work: Work) -> tuple[float, float]:
    """Seconds and CPU seconds of one first build."""
    cpu, started = cpu_seconds(), time.perf_counter()
    opened[name].build(work)
    return time.perf_counter() - started, cpu_seconds() - cpu


def bare(precision: str, work: Work) -> float:
    """Seconds that only the embedder takes for the same texts."""
    embedder = Embedder(EmbedderSettings.model_validate({"model": MODEL, "precision": precision}))
    texts = [text for _, text in work.nodes]
    tokens = [embedder.tokens(text) for text in texts]
    started = time.perf_counter()
    asyncio.run(embedder.embed_texts(texts, tokens))
    return time.perf_counter() - started


def ndcg(name: str, work: Work) -> float:
    """Of the last build."""
    return opened[name].ndcg(work)


def cpu_seconds() -> float:
    """Of this process and of its children that have ended."""
    usages = (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


# --- what is indexed


def make_work(folder: Path, name: str, documents: Sequence[tuple[str, str]]) -> Work:
    """Write documents, and split them as a night does."""
    place = folder / name.replace(" ", "_")
    place.mkdir()
    rows = [json.dumps({"_id": key, "text": text}) for key, text in documents]
    (place / "corpus.jsonl").write_text("\n".join(rows), encoding="utf-8")
    splitter = Splitter(SplittingSettings(), Embedder(EmbedderSettings(model=MODEL)))
    nodes = [
        (key, node.text)
        for key, text in documents
        if text.strip()
        for node in splitter.split(Document(DocumentRef(key, key, "bench", key, None, 0), "", text), "0" * 32)
    ]
    return Work(name, place, nodes)


def texts_of(folder: Path) -> list[tuple[str, str]]:
    """Cranfield, or Python's topics."""
    if not folder.is_dir():
        return list(topics.items())
    return [(key, f"{title}\n\n{text}") for key, title, text in cranfield(folder)[0]]


def longer(count: int) -> list[tuple[str, str]]:
    """Documents of words drawn by chance, in sentences; each has words of its own, by which it can be found."""
    syllables = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in ("", "n", "r", "st")]
    found = []
    for at in range(count):
        chance = random.Random(at)
        own = ["".join(chance.choices(syllables, k=2)) for _ in range(OWN_WORDS)]
        words = chance.choices(own, k=LONGER_WORDS)
        sentences = [" ".join(words[start : start + 15]).capitalize() + "." for start in range(0, LONGER_WORDS, 15)]
        found.append((str(at), " ".join(sentences)))
    return found


def with_queries(work: Work, folder: Path) -> Work:
    """The same, asked what Cranfield is asked."""
    if not folder.is_dir():
        return work
    _, queries, qrels = cranfield(folder)
    for file, name in ((queries, "queries.jsonl"), (qrels, "qrels.tsv")):
        (work.folder / name).write_bytes(file.read_bytes())
    return replace(work, queries=work.folder / "queries.jsonl")


# --- measuring


class Ways:
    """A process for each way, open."""

    def __init__(self, uri: str, stack: ExitStack, first: Work, names: Sequence[str]) -> None:
        """Start them one after the other, each with a small build."""
        self.uri = uri
        self.processes = {name: stack.enter_context(own_process()) for name in names}
        for name, process in self.processes.items():
            process.submit(open_way, name, uri, first).result()

    def turn(self, work: Work, timings: dict[str, Timing], cpu: dict[str, Timing]) -> None:
        """One build by each way, and what the embedder alone takes; the last turn's collections stay to be asked."""
        clear(self.uri)
        for name, process in self.processes.items():
            mine, times = work.part if work.part and name in PEERS else (work, 1)
            seconds, used = process.submit(build, name, mine).result()
            timings.setdefault(name, Timing(times)).parts.append(seconds)
            cpu.setdefault(name, Timing(times)).parts.append(used)
            if name in OURS:
                alone = process.submit(bare, OURS[name], work).result()
                timings.setdefault(f"{BARE} {OURS[name]}", Timing()).parts.append(alone)
            print(work.name, name, f"{seconds:.1f} s", file=sys.stderr, flush=True)

    def measured(self, work: Work, runs: int, chart: Path | None = None) -> str:
        """The table of one collection of documents, and a picture."""
        timings: dict[str, Timing] = {}
        cpu: dict[str, Timing] = {}
        for _ in range(runs):
            self.turn(work, timings, cpu)
        scores = {name: process.submit(ndcg, name, work).result() for name, process in self.processes.items()}
        peaks = {name: process.submit(peak_megabytes).result() for name, process in self.processes.items()}
        peers = [name for name in PEERS if name in timings]
        fastest = min(peers or timings, key=lambda name: timings[name].median)
        lines = []
        for name, timing in timings.items():
            limit = timings.get(f"{BARE} {OURS[name]}") if name in OURS else None
            lines.append(
                [
                    name,
                    str(timing),
                    f"{len(work.nodes) / timing.median:.1f}",
                    f"{timings[fastest].ratio(timing):.2f}",
                    f"{limit.ratio(timing):.3f}" if limit else "",
                    f"{cpu[name].median:.1f}" if name in cpu else "",
                    f"{peaks[name]:.0f}" if name in peaks else "",
                    f"{scores[name]:.4f}" if work.queries and name in scores else "",
                ]
            )
        if chart:
            rates = {name: len(work.nodes) / timing.median for name, timing in timings.items()}
            bars(f"Nodes a second: {work.name}", rates, chart)
        head = ["", "seconds", "nodes/s", f"times {fastest}", "of the bare embedder", "CPU s", "peak MB", METRIC]
        return f"{work.name}: {len(work.nodes)} nodes, {runs} runs\n\n{table(head, lines)}\n"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--documents", type=int, default=200, help=f"the first of Cranfield, or a {TOPIC}th of topics; 0 for none"
    )
    parser.add_argument("--longer", type=int, default=100, help="documents drawn by chance; 0 for none")
    parser.add_argument("--part", type=int, default=1, help="of the longer ones, to the others: 10 is a tenth")
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), metavar="NAME", help=", ".join(WAYS))
    parser.add_argument("--chart", type=Path, help="a file for a picture")
    parser.add_argument("--whole-runs", type=int, default=1, help="of all of Cranfield")
    parser.add_argument("--cranfield", type=Path, default=ROOT.parent / "shared" / "data" / "cranfield")
    arguments = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        uri = stack.enter_context(local_milvus(folder / "milvus")).uri
        documents = texts_of(arguments.cranfield)
        name = "Cranfield" if arguments.cranfield.is_dir() else "Python's topics"
        ways = Ways(uri, stack, make_work(folder, "a few", documents[:5]), arguments.ways)
        if arguments.runs and arguments.documents:
            count = arguments.documents // (1 if arguments.cranfield.is_dir() else TOPIC)
            first = make_work(folder, f"{name}, the first", documents[:count])
            print(ways.measured(first, arguments.runs, arguments.chart))
        if arguments.runs and arguments.longer:
            many = longer(arguments.longer)
            work = make_work(folder, "longer documents", many)
            if arguments.part > 1:
                some = make_work(folder, "the first longer documents", many[: len(many) // arguments.part])
                work = replace(work, part=(some, arguments.part))
            print(ways.measured(work, arguments.runs))
        if arguments.whole_runs:
            whole = with_queries(make_work(folder, f"{name}, all", documents), arguments.cranfield)
            print(ways.measured(whole, arguments.whole_runs, None if arguments.runs else arguments.chart))


if __name__ == "__main__":
    main()
