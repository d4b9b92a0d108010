"""Golden queries: queries, judgements and metrics, checked against each other."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ir_measures

from nightloom.corpus import EvaluationSettings
from nightloom.errors import EvaluationInputError
from nightloom.golden_files import Judgement, read_qrels, read_queries

DEFAULT_DEPTH = 100
"""Documents ranked for a metric that names no cutoff."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A question, and what a good answer to it says."""

    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class GoldenQueries:
    """Queries with judgements, as the files give them.

    Attributes:
        texts: Text by query id, of the judged queries only.
        unjudged: Queries without a judgement; they are not asked.
        metrics: As ir-measures parsed them.
        content: sha256 over queries, qrels and metrics.
        references: By query id, for queries with a reference answer, judged or not.
    """

    texts: Mapping[str, str]
    unjudged: int
    judgements: tuple[Judgement, ...]
    metrics: tuple[Any, ...]
    content: str
    qrels_file: Path
    references: Mapping[str, Reference] = field(default_factory=dict)

    @property
    def depth(self) -> int:
        """How many documents the metrics look at."""
        cutoffs = [metric.params.get("cutoff", DEFAULT_DEPTH) for metric in self.metrics]
        return max(cutoffs, default=DEFAULT_DEPTH)


def load_golden(settings: EvaluationSettings) -> GoldenQueries:
    """Read queries, judgements and metrics.

    Raises:
        EvaluationInputError: Names file and line: missing, malformed, a judgement of an unknown query, or a metric
            that ir-measures does not know.
    """
    queries = read_queries(settings.queries_file)
    _check_split(settings)
    judgements = read_qrels(settings.qrels_file)
    for judgement in judgements:
        if judgement.query not in queries:
            raise EvaluationInputError(
                f"{settings.qrels_file}: line {judgement.line}: query {judgement.query!r} is not in"
                f" {settings.queries_file}; add it there, or remove the line"
            )
    judged = {judgement.query for judgement in judgements}
    return GoldenQueries(
        texts={key: query.text for key, query in queries.items() if key in judged},
        unjudged=len(queries) - len(judged),
        judgements=judgements,
        metrics=tuple(_parse_metric(name) for name in settings.metrics),
        content=_content(settings),
        qrels_file=settings.qrels_file,
        references={key: Reference(query.text, query.answer) for key, query in queries.items() if query.answer},
    )


def _check_split(settings: EvaluationSettings) -> None:
    """Name the splits that a BEIR folder has, where it lacks the one that is asked for."""
    file = settings.qrels_file
    if settings.qrels is None and not file.exists():
        found = ", ".join(sorted(other.stem for other in file.parent.glob("*.tsv"))) or "none"
        raise EvaluationInputError(
            f"{file}: there is no such file: evaluation.split = {settings.split!r}, and the splits there are: {found}"
        )


def _content(settings: EvaluationSettings) -> str:
    digest = hashlib.sha256(json.dumps(settings.metrics).encode())
    for file in (settings.queries_file, settings.qrels_file):
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


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
