"""What each way to run the embedder gives on this machine: nodes a second, and nDCG@10 on Cranfield.

    python benchmarks/embedder.py [--cranfield ../shared/data/cranfield] [--runs 5] [--nodes 200]

Beside Nightloom's ways stands what LlamaIndex does by itself with the same model: HuggingFaceEmbedding, ten texts at a
time, in the order in which they come. Rates are medians over the same nodes, in turns. Vectors of each precision are
searched exactly, in memory. Where Cranfield is not there, the nodes come from the topics that Python carries, and
nothing is said of nDCG.
"""

import argparse
import asyncio
import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from pydoc_data.topics import topics

from llama_index.embeddings.huggingface import HuggingFaceEmbedding

from benchmarks.measuring import RUNS, Arm, in_turns, table
from benchmarks.retrieval import MODEL, ROOT, cranfield, dense_lists, documents, embedded
from nightloom.backends import computes_bf16, cores
from nightloom.corpus import EmbedderSettings, SplittingSettings
from nightloom.documents import Document, DocumentRef
from nightloom.embedding import Embedder
from nightloom.evaluation import score
from nightloom.models import find_model
from nightloom.splitting import Node, Splitter

WAYS = [("torch", "fp32"), ("onnx", "fp32"), ("openvino", "fp32"), ("onnx", "int8"), ("openvino", "int8")]
LLAMA = "LlamaIndex, as it comes"


def open_way(backend: str, precision: str) -> Embedder:
    """An embedder."""
    return Embedder(EmbedderSettings.model_validate({"model": MODEL, "backend": backend, "precision": precision}))


async def rates(nodes: list[Node], runs: int) -> dict[str, list[str]]:
    """Nodes a second of each way, by its name, and the ratio to LlamaIndex's own."""
    embedders = {f"{backend} {precision}": open_way(backend, precision) for backend, precision in WAYS}
    plain = HuggingFaceEmbedding(str(find_model(MODEL)))
    texts = [node.text for node in nodes]
    tokens = [node.tokens for node in nodes if node.tokens is not None]

    async def llama() -> None:
        await plain.aget_text_embedding_batch(texts)

    def arm(name: str) -> Arm:
        async def embed() -> None:
            await embedders[name].embed_texts(texts, tokens)

        return embed

    arms: dict[str, Arm] = {LLAMA: llama, **{name: arm(name) for name in embedders}}
    for one in arms.values():
        await one()  # opened and warm
    timings = await in_turns(arms, runs)
    return {name: [timing.rate(len(texts)), f"{timings[LLAMA].ratio(timing):.2f}"] for name, timing in timings.items()}


async def scores(folder: Path) -> dict[str, str]:
    """NDCG@10 on Cranfield, by what the vectors depend on: see `vectors_of`."""
    found: dict[str, str] = {}
    for backend, precision in reversed(WAYS):  # torch, which is slow, has no vectors of its own
        key = vectors_of(backend, precision)
        if key in found:
            continue
        collection = await embedded("cranfield", open_way(backend, precision), *cranfield(folder))
        lists = {
            query: documents((uri, value) for _, uri, value in rows) for query, rows in dense_lists(collection).items()
        }
        found[key] = f"{score(collection.judged, lists).means['nDCG@10']:.4f}"
        print(key, found[key], file=sys.stderr, flush=True)
    return found


def vectors_of(backend: str, precision: str) -> str:
    """What vectors depend on: at int8 each backend rounds in a way of its own, else all give the same."""
    return f"{backend} {precision}" if precision == "int8" else precision


def some_nodes(folder: Path, count: int) -> list[Node]:
    """The first nodes of Cranfield, or of Python's topics."""
    texts = cranfield(folder)[0] if folder.is_dir() else [(key, "", text) for key, text in topics.items()]
    splitter = Splitter(SplittingSettings(), open_way(*WAYS[0]))
    nodes: list[Node] = []
    for key, title, text in texts:
        if len(nodes) >= count:
            break
        whole = f"{title}\n\n{text}"
        nodes += splitter.split(Document(DocumentRef(key, key, "bench", key, None, 0), title, whole), "0" * 32)
    return nodes[:count]


async def measure(folder: Path, runs: int, count: int, *, with_scores: bool) -> None:
    """Print the table."""
    nodes = some_nodes(folder, count)
    mean = sum(len(node.tokens) for node in nodes if node.tokens is not None) / len(nodes)
    print(f"{len(nodes)} nodes of {mean:.0f} tokens on average, {cores()} cores, median of {runs} runs in turns\n")
    found = await rates(nodes, runs)
    measured = await scores(folder) if with_scores else {}
    keys = {f"{backend} {precision}": vectors_of(backend, precision) for backend, precision in WAYS}
    lines = [[name, *cells, measured.get(keys.get(name, ""), "")] for name, cells in found.items()]
    print(table(["", "nodes/s", "times LlamaIndex", "nDCG@10"], lines))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cranfield", type=Path, default=ROOT.parent / "shared" / "data" / "cranfield")
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--nodes", type=int, default=200)
    arguments = parser.parse_args()
    folder = arguments.cranfield
    if computes_bf16():  # torch emulates it elsewhere, a hundred times as slow
        WAYS.extend([("torch", "bf16"), ("openvino", "bf16")])
    asyncio.run(measure(folder, arguments.runs, arguments.nodes, with_scores=folder.is_dir()))


if __name__ == "__main__":
    main()
