"""Golden queries: reading queries, judgements and metrics, each mistake named with its file and line."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ir_measures

from nightloom.corpus import EvaluationSettings
from nightloom.errors import EvaluationInputError

DEFAULT_DEPTH = 100
"""Documents ranked for a metric that names no cutoff."""
QRELS_COLUMNS = 3
QRELS_HEADER = ("query-id", "corpus-id", "score")


@dataclass(frozen=True, slots=True)
class Judgement:
    """One line of the qrels: how relevant a document is to a query; document as the file names it."""

    query: str
    document: str
    relevance: int
    line: int


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
    references: dict[str, Reference] = {}
    queries = _read_queries(settings.queries, references)
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
        references=references,
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


def _read_queries(file: Path, references: dict[str, Reference]) -> dict[str, str]:
    """Text by query id; reference answers are put where they are wanted."""
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
        answer = row.get("answer")
        if answer is not None:
            if not isinstance(answer, str) or not answer.strip():
                raise EvaluationInputError(f"{file}: line {number}: the answer to query {key!r} is no text; remove it")
            references[key] = Reference(text, answer)
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
