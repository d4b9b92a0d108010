"""Evaluation: golden queries against the documents of a corpus, and what the rankings of an index score."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ir_measures

from nightloom.errors import EvaluationInputError
from nightloom.golden import GoldenQueries
from nightloom.retrieval import Ranking
from nightloom.trec import one_word, read_trec_run

NAMED = 5


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

    @property
    def texts(self) -> dict[str, str]:
        """Of the queries that are to be asked, by their ids."""
        aside = set(self.set_aside)
        return {key: text for key, text in self.golden.texts.items() if key not in aside}


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
    found |= {uri: (uri,) for uri, _ in pairs}
    as_trec_has_them = {one_word(name): uris for name, uris in found.items() if len(name.split()) > 1}
    return as_trec_has_them | found


def score(judged: Judged, rankings: Mapping[str, Ranking]) -> Scores:
    """Score rankings; a judged query without an answer scores zero, it is not dropped."""
    run = [
        # By rank, not by score: for L2 lower is better, and equal scores keep their order.
        ir_measures.ScoredDoc(query, uri, float(-rank))
        for query, ranking in rankings.items()
        for rank, (uri, _) in enumerate(ranking)
    ]
    metrics = judged.golden.metrics
    calculated: dict[str, dict[str, float]] = {}
    if judged.qrels:
        for value in ir_measures.iter_calc(list(metrics), list(judged.qrels), run):
            calculated.setdefault(value.query_id, {})[str(value.measure)] = value.value
    names = [str(metric) for metric in metrics]
    per_query = {query: {name: values[name] for name in names} for query, values in calculated.items()}
    means = {
        name: sum(values[name] for values in per_query.values()) / len(per_query) if per_query else 0.0
        for name in names
    }
    return Scores(means, per_query, rankings, judged.set_aside)


def score_run(golden: GoldenQueries, file: Path) -> tuple[Judged, Scores]:
    """Score the rankings of any system, in which documents bear the names that the judgements give them.

    A query that the run does not answer scores zero; one that is not judged counts for nothing.

    Args:
        golden: Queries and judgements; every judged document counts as one that can be found.
        file: A run in TREC's format.

    Raises:
        EvaluationInputError: The run cannot be read, or has no judged query, or no judged document.
    """
    documents = {judgement.document for judgement in golden.judgements}
    judged = judge(golden, {(name, name) for name in documents}, gone_is_error=True)
    queries = [key for key in golden.texts if key not in judged.set_aside]
    document_of = {one_word(name): name for name in documents}
    query_of = {one_word(key): key for key in queries}
    rankings = {
        query_of[query]: [(document_of.get(word, word), similarity) for word, similarity in ranking]
        for query, ranking in read_trec_run(file).items()
        if query in query_of
    }
    if not rankings:
        raise EvaluationInputError(f"{file}: answers none of the queries that {golden.qrels_file} judges")
    if documents.isdisjoint(uri for ranking in rankings.values() for uri, _ in ranking):
        raise EvaluationInputError(
            f"{file}: names none of the documents that {golden.qrels_file} judges; both must call a document the same"
        )
    return judged, score(judged, rankings)
