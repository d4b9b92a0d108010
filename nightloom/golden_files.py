"""Files of golden queries: queries as JSONL, TSV or TREC topics, judgements as TSV or TREC qrels.

A format is known by the first line that holds anything. Each mistake is named with its file and line.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nightloom.errors import EvaluationInputError

TSV_HEADER = ("query-id", "corpus-id", "score")
TREC_COLUMNS = 4
FORMATS = {len(TSV_HEADER): "three columns with tabs between", TREC_COLUMNS: "the four columns of TREC"}
"""Of qrels, by the number of columns."""

_WHOLE = re.compile("-?[0-9]+")
_TAG = re.compile(r"\s*<(/?[a-zA-Z]+)>(.*)")
_CLOSING_TAG = re.compile(r"</[a-zA-Z]+>\s*$")
_LABELS = {"num": re.compile(r"^\s*Number:", re.IGNORECASE), "title": re.compile(r"^\s*Topic:", re.IGNORECASE)}
"""What older TREC topics say after a tag, which is no part of the field."""


@dataclass(frozen=True, slots=True)
class Query:
    """A query as its file gives it.

    Attributes:
        answer: The reference answer; "" where there is none.
    """

    key: str
    text: str
    answer: str = ""


@dataclass(frozen=True, slots=True)
class Judgement:
    """One line of the qrels: how relevant a document is to a query; document as the file names it.

    Attributes:
        relevance: 0 and less are not relevant.
    """

    query: str
    document: str
    relevance: int
    line: int


def read_queries(file: Path) -> dict[str, Query]:
    """Queries by id.

    Raises:
        EvaluationInputError: Names file and line: unreadable, malformed, without text, there twice, or none at all.
    """
    queries: dict[str, Query] = {}
    for number, query in _queries(file, _read_lines(file)):
        if not query.text.strip():
            raise EvaluationInputError(f"{file}: line {number}: query {query.key!r} has no text")
        if query.key in queries:
            raise EvaluationInputError(f"{file}: line {number}: query {query.key!r} is there twice")
        queries[query.key] = query
    if not queries:
        raise EvaluationInputError(f"{file}: holds no query")
    return queries


def read_qrels(file: Path) -> tuple[Judgement, ...]:
    """Judgements in the order of the file.

    Raises:
        EvaluationInputError: Names file and line: unreadable, malformed, of two formats, a document that a query is
            judged with in two ways, or none at all.
    """
    judgements: dict[tuple[str, str], Judgement] = {}
    format_ = ""
    for number, line in _filled(_read_lines(file)):
        columns = _columns(line)
        if not format_ and tuple(columns) == TSV_HEADER:
            format_ = FORMATS[len(columns)]
            continue
        if not columns or not _WHOLE.fullmatch(columns[-1].strip()):
            raise EvaluationInputError(
                f"{file}: line {number}: not three columns (query-id, corpus-id, whole score) with tabs between, nor"
                " the four of TREC (query, 0, document, whole score)"
            )
        format_ = format_ or FORMATS[len(columns)]
        if FORMATS[len(columns)] != format_:
            raise EvaluationInputError(
                f"{file}: line {number}: {FORMATS[len(columns)]}, where the lines before have {format_}; a file has one"
                " format"
            )
        judgement = Judgement(columns[0], columns[-2], int(columns[-1]), number)
        known = judgements.setdefault((judgement.query, judgement.document), judgement)
        if known.relevance != judgement.relevance:
            raise EvaluationInputError(
                f"{file}: line {number}: query {judgement.query!r} has another score for {judgement.document!r} on"
                f" line {known.line}; remove one of them"
            )
    if not judgements:
        raise EvaluationInputError(f"{file}: holds no judgement")
    return tuple(judgements.values())


def _read_lines(file: Path) -> list[str]:
    try:
        # Not splitlines(): a query may hold any of the other characters that it takes for line ends.
        return file.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise EvaluationInputError(f"{file}: cannot be read: {reason}; see [evaluation] in the corpus file") from None


def _filled(lines: list[str]) -> Iterator[tuple[int, str]]:
    """Lines that hold anything, with their numbers."""
    return ((number, line.rstrip("\r")) for number, line in enumerate(lines, 1) if line.strip())


def _queries(file: Path, lines: list[str]) -> Iterator[tuple[int, Query]]:
    first = next((line for _, line in _filled(lines)), "").lstrip()
    if first.lower().startswith("<top>"):
        return _topics(file, lines)
    read = _tsv_query if "\t" in first and not first.startswith("{") else _json_query
    return ((number, read(file, number, line)) for number, line in _filled(lines))


def _json_query(file: Path, number: int, line: str) -> Query:
    try:
        row = json.loads(line)
        key, text, answer = str(row["_id"]), row["text"], row.get("answer")
    except (ValueError, TypeError, KeyError, RecursionError):
        raise EvaluationInputError(
            f'{file}: line {number}: not a query; one looks like {{"_id": "1", "text": "what is ..."}}, or is'
            " an id and a text with a tab between"
        ) from None
    if not isinstance(text, str):
        raise EvaluationInputError(f"{file}: line {number}: query {key!r} has no text")
    if not isinstance(answer, str | None):
        raise EvaluationInputError(f"{file}: line {number}: the answer of query {key!r} is no text")
    return Query(key, text, (answer or "").strip())


def _tsv_query(file: Path, number: int, line: str) -> Query:
    key, *texts = line.split("\t")
    if len(texts) != 1 or not key.strip():
        raise EvaluationInputError(f"{file}: line {number}: not two columns (id, text) with a tab between")
    return Query(key.strip(), texts[0].strip())


def _topics(file: Path, lines: list[str]) -> Iterator[tuple[int, Query]]:
    """Topics of TREC: of each, `num` is the id, and `title` the text."""
    fields: dict[str, str] = {}
    begun, field = 0, ""
    for number, line in _filled(lines):
        found = _TAG.match(line)
        tag, text = (found[1].lower(), found[2]) if found else ("", line)
        if tag == "/top" and begun:
            yield begun, _topic(file, begun, fields)
            begun, field = 0, ""
        elif tag == "top" and not begun:
            begun, fields = number, {}
        elif not begun or tag in {"top", "/top"}:
            raise EvaluationInputError(f"{file}: line {number}: not in a topic; one goes from <top> to </top>")
        else:
            field = tag or field
            fields[field] = f"{fields.get(field, '')} {_CLOSING_TAG.sub('', text)}"
    if begun:
        raise EvaluationInputError(f"{file}: line {begun}: this topic has no </top>")


def _topic(file: Path, number: int, fields: dict[str, str]) -> Query:
    key, title = (" ".join(label.sub("", fields.get(name, "").strip()).split()) for name, label in _LABELS.items())
    if not key:
        raise EvaluationInputError(f"{file}: line {number}: this topic has no <num>")
    return Query(key, title)


def _columns(line: str) -> list[str]:
    """What a line of qrels holds, in one of the two formats; nothing where it is neither."""
    if line.count("\t") == len(TSV_HEADER) - 1:
        return line.split("\t")
    words = line.split()
    return words if len(words) == TREC_COLUMNS else []
