"""Golden queries: reading them, running them against an index, scoring what came back."""

import hashlib
import json
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import ir_measures

from nightloom.concurrency import each
from nightloom.corpus import EvaluationSettings
from nightloom.embedding import Vectors
from nightloom.errors import EvaluationInputError
from nightloom.rows import Hit

DEFAULT_DEPTH = 100
"""Documents ranked for a metric that names no cutoff."""
NODES_PER_DOCUMENT = 4
MOST_NODES = 16_384
"""Milvus answers a search with no more."""
QRELS_COLUMNS = 3
NAMED = 5
QRELS_HEADER = ("query-id", "corpus-id", "score")

Ranking = list[tuple[str, float]]
Search = Callable[[Vectors, int], Awaitable[list[Hit]]]


@dataclass(frozen=True, slots=True)
class Judgement:
    """One line of the qrels: how relevant a document is to a query; document as the file names it."""

    query: str
    document: str
    relevance: int
    line: int


@dataclass(frozen=True, slots=True)
class GoldenQueries:
    """Queries with judgements, as the files give them.

    Attributes:
        texts: Text by query id, of the judged queries only.
        unjudged: Queries without a judgement; they are not asked.
        metrics: As ir-measures parsed them.
        content: sha256 over queries, qrels and metrics.
    """

    texts: Mapping[str, str]
    unjudged: int
    judgements: tuple[Judgement, ...]
    metrics: tuple[Any, ...]
    content: str
    qrels_file: Path

    @property
    def depth(self) -> int:
        """How many documents the metrics look at."""
        cutoffs = [metric.params.get("cutoff", DEFAULT_DEPTH) for metric in self.metrics]
        return max(cutoffs, default=DEFAULT_DEPTH)


@dataclass(frozen=True, slots=True)
class Scores:
    """What the index scored.

    Attributes:
        means: Mean over the queries, by metric.
        per_query: Value by metric, by query id.
        rankings: Documents (URI, score), best first, by query id.
        set_aside: Queries of which no relevant document is in the corpus any more; not in the means.
    """

    means: Mapping[str, float]
    per_query: Mapping[str, Mapping[str, float]]
    rankings: Mapping[str, Ranking]
    set_aside: tuple[str, ...]


def load_golden(settings: EvaluationSettings) -> GoldenQueries:
    """Read queries, judgements and metrics.

    Raises:
        EvaluationInputError: Names file and line: missing, malformed, a judgement of an unknown query, or a metric
            that ir-measures does not know.
    """
    queries = _read_queries(settings.queries)
    judgements = _read_qrels(settings.qrels)
    for judgement in judgements:
        if judgement.query not in queries:
            raise EvaluationInputError(
                f"{settings.qrels}: line {judgement.line}: query {judgement.query!r} is not in {settings.queries};"
                " add it there, or remove the line"
            )
    judged = {judgement.query for judgement in judgements}
    return GoldenQueries(
        texts={key: text for key, text in queries.items() if key in judged},
        unjudged=len(queries) - len(judged),
        judgements=judgements,
        metrics=tuple(_parse_metric(name) for name in settings.metrics),
        content=_content(settings),
        qrels_file=settings.qrels,
    )


def _content(settings: EvaluationSettings) -> str:
    digest = hashlib.sha256(json.dumps(settings.metrics).encode())
    for file in (settings.queries, settings.qrels):
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def _read_lines(file: Path) -> list[str]:
    try:
        # Not splitlines(): a query may hold any of the other characters that it takes for line ends.
        return file.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise EvaluationInputError(f"{file}: cannot be read: {reason}; see [evaluation] in the corpus file") from None


def _read_queries(file: Path) -> dict[str, str]:
    queries: dict[str, str] = {}
    for number, line in enumerate(_read_lines(file), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            key, text = str(row["_id"]), row["text"]
        except (ValueError, TypeError, KeyError, RecursionError):
            raise EvaluationInputError(
                f'{file}: line {number}: not a query; one looks like {{"_id": "1", "text": "what is ..."}}'
            ) from None
        if not isinstance(text, str) or not text.strip():
            raise EvaluationInputError(f"{file}: line {number}: query {key!r} has no text")
        if key in queries:
            raise EvaluationInputError(f"{file}: line {number}: query {key!r} is there twice")
        queries[key] = text
    if not queries:
        raise EvaluationInputError(f"{file}: holds no query")
    return queries


def _read_qrels(file: Path) -> tuple[Judgement, ...]:
    judgements = []
    for number, line in enumerate(_read_lines(file), 1):
        columns = tuple(line.rstrip("\r").split("\t"))
        if not line.strip() or (number == 1 and columns == QRELS_HEADER):
            continue
        if len(columns) != QRELS_COLUMNS or not re.fullmatch("-?[0-9]+", columns[2].strip()):
            raise EvaluationInputError(
                f"{file}: line {number}: not three columns (query-id, corpus-id, whole score) with tabs between"
            )
        judgements.append(Judgement(columns[0], columns[1], int(columns[2]), number))
    if not judgements:
        raise EvaluationInputError(f"{file}: holds no judgement")
    return tuple(judgements)


def _parse_metric(name: str) -> Any:
    try:
        metric = ir_measures.parse_measure(name)
        if not isinstance(metric.params.get("cutoff", 1), int) or metric.params.get("cutoff", 1) < 1:
            raise ValueError("the cutoff is a whole number from 1")
        # Some are known and cannot be computed, for want of a parameter or a provider: better now than after hours.
        ir_measures.calc_aggregate([metric], [ir_measures.Qrel("q", "d", 1)], [ir_measures.ScoredDoc("q", "d", 1.0)])
    except Exception as error:  # noqa: BLE001  the name is the user's, and each metric fails in its own way
        raise EvaluationInputError(
            f"evaluation.metrics: {name!r} is no metric that ir-measures can compute: {error}; nDCG@10, R@10 and RR@10"
            " are"
        ) from None
    return metric


@dataclass(frozen=True, slots=True)
class Judged:
    """Golden queries whose judgements name URIs of this corpus.

    Attributes:
        set_aside: Queries without a relevant document in the corpus.
        names: What the judgements call a document, by URI: its id in its source, or the URI itself.
    """

    golden: GoldenQueries
    qrels: tuple[Any, ...]
    set_aside: tuple[str, ...]
    names: Mapping[str, str]


def judge(golden: GoldenQueries, items: Iterable[tuple[str, str]], *, gone_is_error: bool) -> Judged:
    """Find the documents that the judgements name.

    Args:
        golden: Queries and judgements.
        items: (URI, id in its source) of every document of the corpus, the quarantined ones included.
        gone_is_error: Whether a judged document that is not in the corpus is a mistake in the file. It is when the
            file is new; later it only says that the document left the corpus.

    Raises:
        EvaluationInputError: Names the lines whose document is unknown or ambiguous.
    """
    known = set(items)
    uris = _uris_by_name(known)
    qrels, unknown = [], []
    for judgement in golden.judgements:
        match uris.get(judgement.document, ()):
            case (uri,):
                qrels.append(ir_measures.Qrel(judgement.query, uri, judgement.relevance))
            case ():
                unknown.append(judgement)
            case several:
                first, second = sorted(several)[:2]
                raise EvaluationInputError(
                    f"{golden.qrels_file}: line {judgement.line}: {judgement.document!r} is an id in two sources"
                    f" ({first}, {second}); write the URI"
                )
    if unknown and gone_is_error:
        lines = ", ".join(f"line {entry.line}: {entry.document!r}" for entry in unknown[:NAMED])
        more = f" and {len(unknown) - NAMED} more" if len(unknown) > NAMED else ""
        raise EvaluationInputError(
            f"{golden.qrels_file}: documents that are not in the corpus: {lines}{more}; corpus-id is a document's"
            " URI or its id in its source"
        )
    findable = {qrel.query_id for qrel in qrels if qrel.relevance > 0}
    aside = tuple(key for key in golden.texts if key not in findable)
    named = {judgement.document for judgement in golden.judgements}
    by_item = not any(uri in named for uri, item in known if uri != item)
    names = {uri: item if by_item and uris[item] == (uri,) else uri for uri, item in known}
    return Judged(golden, tuple(qrel for qrel in qrels if qrel.query_id in findable), aside, names)


def _uris_by_name(items: Iterable[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    """URIs by each name that judgements may use: a URI means itself, whatever else bears it as an id."""
    found: dict[str, tuple[str, ...]] = {}
    pairs = list(items)
    for uri, item in pairs:
        found[item] = (*found.get(item, ()), uri)
    return found | {uri: (uri,) for uri, _ in pairs}


async def ask_all(
    judged: Judged, vectors: Mapping[str, Vectors], search: Search, concurrency: int
) -> dict[str, Ranking]:
    """Rank documents for every query that is not set aside, several at once.

    Args:
        judged: The queries.
        vectors: float32, shape (dim,), by query id.
        search: Vector and limit to hits, best first.
        concurrency: Queries in flight.
    """

    async def rank(key: str) -> tuple[str, Ranking]:
        return key, await rank_documents(search, vectors[key], judged.golden.depth)

    asked = [key for key in judged.golden.texts if key not in judged.set_aside]
    return dict(await each(asked, rank, at_once=concurrency))


async def rank_documents(search: Search, vector: Vectors, depth: int) -> Ranking:
    """The `depth` best documents, each by its best node; asks for more nodes until there are so many documents."""
    limit = min(MOST_NODES, depth * NODES_PER_DOCUMENT)
    while True:
        hits = await search(vector, limit)
        best: dict[str, float] = {}
        for hit in hits:
            best.setdefault(hit.uri, hit.score)
        if len(best) >= depth or len(hits) < limit or limit == MOST_NODES:
            return list(best.items())[:depth]
        limit = min(MOST_NODES, limit * 4)


def score(judged: Judged, rankings: Mapping[str, Ranking]) -> Scores:
    """Score rankings; a judged query without an answer scores zero, it is not dropped."""
    run = [
        # By rank, not by score: for L2 lower is better, and equal scores keep their order.
        ir_measures.ScoredDoc(query, uri, float(-rank))
        for query, ranking in rankings.items()
        for rank, (uri, _) in enumerate(ranking)
    ]
    metrics = judged.golden.metrics
    per_query: dict[str, dict[str, float]] = {}
    if judged.qrels:
        for value in ir_measures.iter_calc(list(metrics), list(judged.qrels), run):
            per_query.setdefault(value.query_id, {})[str(value.measure)] = value.value
    names = [str(metric) for metric in metrics]
    means = {
        name: sum(values[name] for values in per_query.values()) / len(per_query) if per_query else 0.0
        for name in names
    }
    return Scores(means, per_query, rankings, judged.set_aside)


def write_trec_run(file: Path, rankings: Mapping[str, Ranking], names: Mapping[str, str], tag: str) -> None:
    """Write rankings in TREC's format: query, Q0, document, rank, score, tag.

    Args:
        file: Its folder is made where it is missing.
        rankings: Documents (URI, score), best first, by query id.
        names: What to call a document, by URI, so that the run can be judged by the same qrels; else its URI.
        tag: Of the run.

    Source: trec_eval, "results file"; it sorts by score, so scores of L2 are written negative. White space, which it
    cannot read, is %-encoded.
    """
    lines = []
    for query, ranking in rankings.items():
        sign = -1 if ranking and ranking[0][1] < ranking[-1][1] else 1
        lines += [
            f"{_one_word(query)} Q0 {_one_word(names.get(uri, uri))} {rank} {sign * similarity:.6f} {tag}"
            for rank, (uri, similarity) in enumerate(ranking, 1)
        ]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _one_word(text: str) -> str:
    return re.sub(r"\s", lambda space: quote(space[0]), text)
