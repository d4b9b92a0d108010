"""Files in TREC's formats: rankings out and in, judgements out."""

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from nightloom.errors import EvaluationInputError
from nightloom.retrieval import Ranking

RUN_COLUMNS = 6


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
            f"{one_word(query)} Q0 {one_word(names.get(uri, uri))} {rank} {sign * similarity:.6f} {tag}"
            for rank, (uri, similarity) in enumerate(ranking, 1)
        ]
    _write(file, lines)


def write_trec_qrels(file: Path, qrels: Iterable[Any], names: Mapping[str, str]) -> None:
    """Write judgements in TREC's format: query, 0, document, relevance.

    Args:
        file: Its folder is made where it is missing.
        qrels: As ir-measures has them; documents by URI.
        names: As for `write_trec_run`, so that both files fit together.
    """
    _write(
        file,
        (
            f"{one_word(qrel.query_id)} 0 {one_word(names.get(qrel.doc_id, qrel.doc_id))} {qrel.relevance}"
            for qrel in qrels
        ),
    )


def read_trec_run(file: Path) -> dict[str, Ranking]:
    """Rankings of any system, by query id.

    Returns:
        Documents as the file names them, in the order in which trec_eval takes them: by score, as a 32-bit float,
        and of equal scores the last name first. The rank that the file gives counts for nothing.

    Raises:
        EvaluationInputError: Names file and line: unreadable, malformed, or a document that is there twice.

    Source: trec_eval, form_res_rels.c.
    """
    found: dict[str, dict[str, float]] = {}
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise EvaluationInputError(f"{file}: cannot be read: {reason}") from None
    for number, line in enumerate(text.split("\n"), 1):
        columns = line.split()
        if not columns:
            continue
        score = _score(columns[4]) if len(columns) == RUN_COLUMNS else None
        if score is None:
            raise EvaluationInputError(
                f"{file}: line {number}: not the six columns of a TREC run (query, Q0, document, rank, score, tag)"
            )
        scores = found.setdefault(columns[0], {})
        if columns[2] in scores:
            raise EvaluationInputError(
                f"{file}: line {number}: document {columns[2]!r} is there twice for query {columns[0]!r}"
            )
        scores[columns[2]] = score
    if not found:
        raise EvaluationInputError(f"{file}: holds no ranking")
    return {query: sorted(scores.items(), key=_as_trec_eval, reverse=True) for query, scores in found.items()}


def one_word(text: str) -> str:
    """A name as TREC's files can hold it: its white space %-encoded."""
    return re.sub(r"\s", lambda space: quote(space[0]), text)


def _as_trec_eval(entry: tuple[str, float]) -> tuple[float, bytes]:
    return float(np.float32(entry[1])), entry[0].encode()


def _score(text: str) -> float | None:
    try:
        score = float(text)
    except ValueError:
        return None
    return score if math.isfinite(score) else None


def _write(file: Path, lines: Iterable[str]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
