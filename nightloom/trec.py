"""Files in TREC's formats."""

import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from nightloom.retrieval import Ranking


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
