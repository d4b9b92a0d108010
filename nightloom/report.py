"""The run report: what a night did, as data, and as pages that people read."""

import html
import re
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from nightloom.errors import Outcome

SHOWN_QUARANTINED = 50

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+!|<>~])")


class ReportPart(BaseModel):
    """A part of the report; docs/report.md describes each field."""

    model_config = ConfigDict(extra="forbid")


class DocumentCounts(ReportPart):
    """Documents of the corpus tonight, against the live generation."""

    listed: int = Field(0, description="That the sources have tonight, those that could not be taken included.")
    added: int = Field(0, description="Indexed tonight, and not in the live generation.")
    changed: int = Field(0, description="Indexed tonight, and in the live generation in another version.")
    unchanged: int = Field(0, description="In the live generation in tonight's version.")
    removed: int = Field(0, description="In the live generation, and gone from the sources.")
    quarantined: int = Field(0, description="That could not be taken, each with its reason under quarantine.")


class NodeCounts(ReportPart):
    """Nodes, which are rows in Milvus."""

    embedded: int = Field(0, description="Embedded and written tonight.")
    copied: int = Field(0, description="Taken from the live generation, vectors and all.")
    deleted: int = Field(0, description="Of the live generation that tonight's does not hold.")
    total: int = Field(0, description="In the generation that the report is about.")


class QueryCounts(ReportPart):
    """Golden queries."""

    asked: int = Field(0, description="Asked and scored.")
    set_aside: int = Field(0, description="Not scored: no relevant document of theirs is in the corpus any more.")
    unjudged: int = Field(0, description="Not asked: there is no judgement for them.")


class JudgedAnswer(ReportPart):
    """What a model made of the answer to one golden query."""

    query: str = Field(description="Its id.")
    answer: str = Field("", description="What the model answered, cut after 500 characters.")
    in_corpus: bool = Field(True, description="Whether the model found an answer in the passages.")
    faithfulness: float | None = Field(None, description="1: the passages say what the answer says; 0: they do not.")
    relevancy: float | None = Field(None, description="1: answer and passages are about the question; 0: they are not.")
    correctness: float | None = Field(None, description="From 1 to 5, against the reference answer.")
    problem: str = Field("", description="Why there is no answer, or no judgement of it.")


class AnswerScores(ReportPart):
    """Answers to golden queries that have a reference answer: a model wrote and judged them. They decide nothing."""

    model: str = Field(description="As the endpoint calls it.")
    wanted: int = Field(0, description="Golden queries that have a reference answer.")
    answered: int = Field(0, description="Of these, with an answer that was judged.")
    not_in_corpus: int = Field(0, description="Of these, where the model found none in the passages.")
    failed: int = Field(0, description="Where the endpoint gave no answer, or no judgement that can be read.")
    not_asked: int = Field(0, description="Left out once the night had asked enough, or could ask no more.")
    stopped: str | None = Field(None, description="Why the rest was not asked.")
    faithfulness: float | None = Field(None, description="Mean over the answered, from 0 to 1.")
    relevancy: float | None = Field(None, description="Mean over the answered, from 0 to 1.")
    correctness: float | None = Field(None, description="Mean over the answered, from 1 to 5.")
    requests: int = Field(0, description="Sent to the endpoint.")
    input_tokens: int = Field(0, description="That the model read.")
    output_tokens: int = Field(0, description="That it wrote.")
    estimated: bool = Field(False, description="Whether the endpoint left some tokens uncounted.")
    cost_usd: float | None = Field(None, description="Null where no price is known.")
    doubtful: list[JudgedAnswer] = Field(default_factory=list, description="What wants a look, by query id.")


class QuarantineEntry(ReportPart):
    """A document that could not be taken."""

    uri: str
    reason: str


class RunReport(ReportPart):
    """What one night did. `nightloom run --json` prints it; docs/report.md describes each field."""

    corpus: str = Field(description="Name of the corpus, which is the alias.")
    outcome: Outcome = Field(description="promoted, unchanged, held, failed or refused.")
    reason: str = Field(description="Why, in a sentence.")
    generation: str | None = Field(None, description="The collection that the report is about.")
    fingerprint: str | None = Field(None, description="What makes its embeddings comparable; sha256, hex.")
    started: datetime = Field(description="UTC.")
    file: str | None = Field(None, description="Where the report lies as Markdown; as JSON, beside it.")
    documents: DocumentCounts = Field(default_factory=DocumentCounts)
    nodes: NodeCounts = Field(default_factory=NodeCounts)
    truncated_tokens: int = Field(0, description="Tokens of nodes that the embedder did not read; 0 when all is well.")
    seconds: dict[str, float] = Field(
        default_factory=dict, description="By stage, and total; stages overlap, and can add up to more than total."
    )
    scores: dict[str, float] | None = Field(None, description="Mean by metric; null where there are no golden queries.")
    queries: QueryCounts | None = Field(None, description="Null where no query was asked tonight.")
    answers: AnswerScores | None = Field(None, description="Null where no answer was judged tonight.")
    quarantine: list[QuarantineEntry] = Field(default_factory=list)
    warnings: list[str] = Field(default_factory=list, description="What did not stop the night, and wants a look.")


def escape(text: str) -> str:
    """Text of a corpus, safe in Markdown and HTML: shown as it is, never markup, never a control character."""
    return _MARKDOWN.sub(r"\\\1", html.escape(_CONTROL.sub("\ufffd", text.replace("\n", " ")), quote=False))


def plain(text: str) -> str:
    """Text of a corpus, safe in a terminal: control and direction characters are replaced, line breaks kept."""
    return "\n".join(_CONTROL.sub("\ufffd", line) for line in text.replace("\t", "    ").split("\n"))


def counts_table(report: RunReport) -> list[dict[str, str | int]]:
    """Documents and nodes as rows of a table."""
    parts: tuple[tuple[str, ReportPart], ...] = (("documents", report.documents), ("nodes", report.nodes))
    return [
        {"what": what, "which": which, "count": count}
        for what, part in parts
        for which, count in part.model_dump().items()
    ]


def to_markdown(report: RunReport) -> str:
    """The report as a page: outcome first, then scores, counts, quarantine and times."""
    parts = [
        f"# {escape(report.corpus)}: {report.outcome}",
        escape(report.reason),
        _table(
            ("", ""),
            [
                ("Generation", f"`{report.generation}`" if report.generation else "none"),
                ("Fingerprint", f"`{report.fingerprint[:16]}`" if report.fingerprint else "none"),
                ("Started", report.started.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")),
                ("Truncated tokens", str(report.truncated_tokens)),
            ],
        ),
        *_scores(report),
        *(f"**Warning:** {escape(warning)}" for warning in report.warnings),
        *_answers(report.answers),
        "## Documents\n\n" + _count_row(report.documents),
        "## Nodes\n\n" + _count_row(report.nodes),
        *_quarantine(report),
        "## Seconds\n\n" + _table(("Stage", "Seconds"), [(k, f"{v:.2f}") for k, v in report.seconds.items()]),
    ]
    return "\n\n".join(parts) + "\n"


def _scores(report: RunReport) -> list[str]:
    if report.scores is None:
        return []
    parts = ["## Scores", _table(("Metric", "Mean"), [(k, f"{v:.4f}") for k, v in report.scores.items()])]
    if report.queries:
        asked = report.queries
        parts.append(f"{asked.asked} queries asked, {asked.set_aside} set aside, {asked.unjudged} without a judgement.")
    return ["\n\n".join(parts)]


def _answers(scores: AnswerScores | None) -> list[str]:
    if scores is None:
        return []
    about = "about " if scores.estimated else ""
    cost = "unknown" if scores.cost_usd is None else f"{about}${scores.cost_usd:.4f}"
    means = (
        ("Faithfulness", scores.faithfulness, 1),
        ("Relevancy", scores.relevancy, 1),
        ("Correctness", scores.correctness, 5),
    )
    rows: list[tuple[str, ...]] = [
        *((name, "none" if value is None else f"{value:.2f} of {best}") for name, value, best in means),
        ("Answered", f"{scores.answered} of {scores.wanted}"),
        ("Not in the corpus", str(scores.not_in_corpus)),
        ("Failed", str(scores.failed)),
        ("Not asked", str(scores.not_asked)),
        ("Requests", str(scores.requests)),
        ("Tokens", f"{about}{scores.input_tokens} read, {scores.output_tokens} written"),
        ("Cost", cost),
    ]
    parts = ["## Answers", f"By {escape(scores.model)}; they decide nothing.", _table(("", ""), rows)]
    if scores.doubtful:
        head = ("Query", "Faithfulness", "Relevancy", "Correctness", "Answer or problem")
        parts.append(_table(head, [_doubtful(one) for one in scores.doubtful[:SHOWN_QUARANTINED]]))
    return ["\n\n".join(parts)]


def _doubtful(one: JudgedAnswer) -> tuple[str, ...]:
    judgements = (one.faithfulness, one.relevancy, one.correctness)
    shown = ("" if value is None else f"{value:g}" for value in judgements)
    return (escape(one.query), *shown, escape(one.problem or one.answer))


def _quarantine(report: RunReport) -> list[str]:
    if not report.quarantine:
        return []
    shown = report.quarantine[:SHOWN_QUARANTINED]
    table = _table(("Document", "Reason"), [(escape(entry.uri), escape(entry.reason)) for entry in shown])
    more = len(report.quarantine) - len(shown)
    return [f"## Quarantined\n\n{table}" + (f"\n\nand {more} more, in the JSON report" if more else "")]


def _count_row(part: ReportPart) -> str:
    counts = part.model_dump()
    return _table(tuple(counts), [tuple(str(count) for count in counts.values())])


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def save_report(report: RunReport, folder: Path) -> None:
    """Write the report as Markdown, and as JSON beside it; the report then says where."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{report.corpus}_{report.started.astimezone(UTC).strftime('%Y%m%dt%H%M%Sz')}.md"
    report.file = str(file)
    file.write_text(to_markdown(report), encoding="utf-8")
    file.with_suffix(".json").write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
