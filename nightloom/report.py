"""The run report: what a night did, as data, and as pages that people read."""

import html
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Self

from pydantic import BaseModel, ConfigDict, Field

from nightloom.comparison import Difference, Loser
from nightloom.engines import Work
from nightloom.errors import Outcome
from nightloom.history import NightRecord
from nightloom.left_out import LeftOut
from nightloom.probes import ProbeScores, VectorChecks

SHOWN_QUARANTINED = 50
SHOWN_LOSERS = 20
QUESTION_CHARACTERS = 80
"""Of a question, in a message."""
SHOWN_TEXT = 120
"""Characters of a query."""

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

    @property
    def in_words(self) -> str:
        """What a score is a mean of, where some queries are set aside; "" else."""
        judged = self.asked + self.set_aside
        return f"over {self.asked} of {judged} queries, {self.set_aside} set aside" if self.set_aside else ""


class MetricEntry(ReportPart):
    """One metric of the golden queries, against the live generation and against what the gate asks."""

    metric: str
    candidate: float = Field(description="Mean over the queries of tonight's generation.")
    live: float | None = Field(None, description="Of the live generation; null where it was not asked.")
    difference: float | None = Field(None, description="Candidate minus live.")
    low: float | None = Field(None, description="Lower end of the 95 % bootstrap interval of the difference.")
    high: float | None = Field(None, description="Upper end.")
    paired: bool = Field(True, description="Whether both were asked the same queries in this run.")
    floor: float | None = Field(None, description="gate.floor.")
    tolerance: float = Field(description="gate.tolerance.")

    @classmethod
    def of(cls, metric: str, mean: float, difference: Difference | None, floor: float | None, tolerance: float) -> Self:
        """From a comparison, where there is one."""
        entry = cls(metric=metric, candidate=mean, floor=floor, tolerance=tolerance)
        if difference is None:
            return entry
        found = {"live": difference.live, "difference": difference.mean, "paired": difference.paired}
        interval = {"low": difference.low, "high": difference.high} if difference.paired else {}
        return entry.model_copy(update={**found, **interval})


class LoserEntry(ReportPart):
    """A golden query that tonight's generation answers worse than the live one."""

    query: str
    text: str
    metric: str
    before: float = Field(description="On the live generation.")
    now: float = Field(description="On tonight's.")
    found_before: list[str] = Field(description="URIs that the live generation finds first.")
    found_now: list[str] = Field(description="That tonight's finds first.")

    @classmethod
    def of(cls, loser: Loser, text: str) -> Self:
        """With the text of its query."""
        return cls(
            query=loser.query,
            text=text,
            metric=loser.metric,
            before=loser.before,
            now=loser.now,
            found_before=list(loser.found_before),
            found_now=list(loser.found_now),
        )


class ProbeCounts(ReportPart):
    """Sentences of the corpus that had to find their documents."""

    asked: int
    found: int
    depth: int = Field(description="Documents among which each had to find its own.")
    recall: float = Field(description="Share that found it.")
    floor: float = Field(description="gate.probe_recall.")
    missed: list[str] = Field(description="URIs of the documents that were not found.")
    compared: int = Field(0, description="Sentences that readers see today, looked for in tonight's text.")
    lost: list[str] = Field(default_factory=list, description="URIs of the documents whose text lacks them.")

    @classmethod
    def of(cls, probes: ProbeScores, floor: float) -> Self:
        """From what the probes found."""
        missed = [probe.uri for probe in probes.missed]
        return cls(
            asked=probes.asked,
            found=probes.asked - len(missed),
            depth=probes.depth,
            recall=probes.recall,
            floor=floor,
            missed=missed,
            compared=probes.compared,
            lost=[probe.uri for probe in probes.lost],
        )


class VectorCounts(ReportPart):
    """A sample of the rows."""

    sampled: int = Field(description="Rows that were looked at.")
    absent: int = Field(description="That are not there.")
    unusable: int = Field(description="With a vector that is zero or not finite.")
    not_unit: int = Field(description="With a vector of another length than 1.")
    alike: float = Field(description="Mean cosine similarity of the vectors of different texts.")
    duplicate_rate: float = Field(description="Share of the documents that repeat the content of another.")
    index_recall: float | None = Field(
        None,
        description="Share of the exact answers that the index over the vectors finds;"
        " null where it is exact, or was updated in place.",
    )

    @classmethod
    def of(cls, checks: VectorChecks, duplicate_rate: float, index_recall: float | None) -> Self:
        """From the checks of a sample."""
        return cls(**asdict(checks), duplicate_rate=duplicate_rate, index_recall=index_recall)


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
    since: str = Field("", description="Date of the first night that could not take it, in UTC.")
    is_new: bool = Field(True, description="Whether the night before could.")


class LeftOutEntry(ReportPart):
    """What one rule leaves out of the sources."""

    rule: str = Field(description="include, exclude, .gitignore, robots.txt, or what else decided.")
    count: int = Field(description="How many.")
    unit: str = Field(description="files, folders, pages, links or submodules.")
    kinds: dict[str, int] = Field(description="Of files: how many by the ending of their names, the most first.")
    says: str = Field(description="The same as a sentence.")

    @classmethod
    def of(cls, left: LeftOut) -> Self:
        """From what the sources counted."""
        kinds = dict(left.kinds.most_common()) if left.unit == "files" else {}
        return cls(rule=left.rule, count=left.kinds.total(), unit=left.unit, kinds=kinds, says=str(left))


class EmbedderWork(ReportPart):
    """What embedding took."""

    backend: str = Field(description="What ran the model: library, precision, device; or its endpoint.")
    texts: int = Field(description="Texts of nodes.")
    busy_seconds: float = Field(description="Time with a batch under way.")
    idle_share: float = Field(description="Of the time from the first batch to the last: 0 to 1.")

    @classmethod
    def of(cls, work: Work) -> Self:
        """The entry of an embedder's work."""
        idle = 1 - work.busy_seconds / work.whole_seconds if work.whole_seconds else 0.0
        return cls(
            backend=work.backend,
            texts=work.texts,
            busy_seconds=round(work.busy_seconds, 3),
            idle_share=round(max(0.0, idle), 4),
        )

    @property
    def in_words(self) -> str:
        """On one line."""
        rate = self.texts / self.busy_seconds if self.busy_seconds else 0.0
        return f"{self.backend}: {self.texts} texts, {rate:.1f} a second, idle {self.idle_share:.0%} of the time"


class RunReport(ReportPart):
    """What one night did. `nightloom run --json` prints it; docs/report.md describes each field."""

    corpus: str = Field(description="Name of the corpus, which is the alias.")
    outcome: Outcome = Field(description="promoted, unchanged, held, failed or refused.")
    reason: str = Field(description="Why, in a sentence.")
    readers: str = Field("", description="What readers saw when the night had ended, in a sentence.")
    generation: str | None = Field(None, description="The collection that the report is about.")
    fingerprint: str | None = Field(None, description="What makes its embeddings comparable; sha256, hex.")
    started: datetime = Field(description="UTC.")
    file: str | None = Field(None, description="Where the report lies as Markdown; as JSON and HTML, beside it.")
    documents: DocumentCounts = Field(default_factory=DocumentCounts)
    nodes: NodeCounts = Field(default_factory=NodeCounts)
    truncated_tokens: int = Field(0, description="Tokens of nodes that the embedder did not read; 0 when all is well.")
    embedder: EmbedderWork | None = Field(
        None, description="What embedding the night's nodes took; null where none was embedded."
    )
    seconds: dict[str, float] = Field(
        default_factory=dict,
        description="Wall time by stage, what was spent in no stage as other, and total, which is their sum: stages"
        " that overlap share the time in equal parts.",
    )
    scores: dict[str, float] | None = Field(
        None,
        description="Mean by metric; of a night that changes nothing, as the live generation keeps them; null where"
        " tonight's generation was not asked.",
    )
    comparison: list[MetricEntry] = Field(
        default_factory=list, description="Each metric against the live generation; empty where no query was asked."
    )
    losers: list[LoserEntry] = Field(
        default_factory=list, description="Queries that got worse on the first metric, the worst first."
    )
    probes: ProbeCounts | None = Field(None, description="Null where no probe was asked tonight.")
    vectors: VectorCounts | None = Field(None, description="Null likewise.")
    queries: QueryCounts | None = Field(None, description="That the scores are of; null where there are no scores.")
    answers: AnswerScores | None = Field(None, description="Null where no answer was judged tonight.")
    quarantine: list[QuarantineEntry] = Field(default_factory=list)
    left_out: list[LeftOutEntry] = Field(
        default_factory=list, description="What the sources have and their rules leave out, by rule."
    )
    history: list[NightRecord] = Field(
        default_factory=list, description="The last nights that changed something, or were held, and this one."
    )
    warnings: list[str] = Field(default_factory=list, description="What did not stop the night, and wants a look.")


def escape(text: str) -> str:
    """Text of a corpus, safe in Markdown and HTML: shown as it is, never markup, never a control character."""
    return _MARKDOWN.sub(r"\\\1", html.escape(_CONTROL.sub("\ufffd", text.replace("\n", " ")), quote=False))


def plain(text: str) -> str:
    """Text of a corpus, safe in a terminal: control and direction characters are replaced, line breaks kept."""
    return "\n".join(_CONTROL.sub("\ufffd", line) for line in text.replace("\t", "    ").split("\n"))


def shortened(text: str, characters: int = QUESTION_CHARACTERS) -> str:
    """A text, such as a question, as a message names it: cut between words where it is longer than that."""
    return textwrap.shorten(text, characters, placeholder=" ...")


def to_markdown(report: RunReport, *, charts: bool = True) -> str:
    """The report as a page: outcome, what to look at and what changed, then scores, counts, times and the rest.

    Args:
        report: It.
        charts: Whether it holds charts of the last nights, as pictures of many kilobytes that only browsers show.
    """
    parts = [
        f"# {escape(report.corpus)}: {report.outcome}",
        escape(report.reason),
        *([escape(report.readers)] if report.readers else ()),
        *(f"**Warning:** {escape(warning)}" for warning in report.warnings),
        "\n\n".join(["## Documents", _count_row(report.documents), *_left_out(report)]),
        *_quarantine(report),
        *_scores(report),
        *_losers(report),
        *_probes(report),
        *_answers(report.answers),
        "## Nodes\n\n" + _count_row(report.nodes),
        *(_history(report) if charts else ()),
        "## Seconds\n\n" + _table(("Stage", "Seconds"), [(k, f"{v:.2f}") for k, v in report.seconds.items()]),
        "## Details",
        _table(
            ("", ""),
            [
                ("Generation", f"`{report.generation}`" if report.generation else "none"),
                ("Fingerprint", f"`{report.fingerprint[:16]}`" if report.fingerprint else "none"),
                ("Started", report.started.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")),
                ("Embedder", report.embedder.in_words if report.embedder else "not needed"),
                ("Truncated tokens", str(report.truncated_tokens)),
            ],
        ),
    ]
    return "\n\n".join(parts) + "\n"


def scores_page(report: RunReport) -> str:
    """The scores alone, as a page: a table, a chart of the last nights, and the queries that got worse."""
    from nightloom.charts import as_data_uri, scores_chart  # noqa: PLC0415  only reports draw

    head = f"# {escape(report.corpus)}: scores"
    generation = f"Of `{report.generation}`, {report.started.astimezone(UTC).strftime('%Y-%m-%d %H:%M:%S UTC')}."
    chart = f"![scores]({as_data_uri(scores_chart(report.history))})"
    return "\n\n".join([head, generation, *_scores(report), chart, *_losers(report)]) + "\n"


def _scores(report: RunReport) -> list[str]:
    if report.scores is None:
        return []
    parts = ["## Scores", _scores_table(report.scores, report.comparison)]
    if report.queries:
        asked = report.queries
        parts.append(f"{asked.asked} queries asked, {asked.set_aside} set aside, {asked.unjudged} without a judgement.")
    return ["\n\n".join(parts)]


def scores_in_words(report: RunReport) -> str:
    """The scores on one line, with what they are means of where that is not every judged query."""
    if not report.scores:
        return ""
    says = ", ".join(f"{metric} {value:.4f}" for metric, value in report.scores.items())
    return f"{says} {report.queries.in_words}".rstrip() if report.queries else says


def _scores_table(scores: Mapping[str, float], comparison: Sequence[MetricEntry]) -> str:
    """No column of which every cell would be empty: of a comparison with nothing, or of floors that nobody asks for."""
    if any(entry.live is not None for entry in comparison):
        head = ("Metric", "Tonight", "Live", "Difference", "95 % interval", "Floor", "Tolerance")
        return _table(head, [_metric_row(entry) for entry in comparison])
    if any(entry.floor is not None for entry in comparison):
        rows = [(escape(entry.metric), f"{entry.candidate:.4f}", _floor(entry)) for entry in comparison]
        return _table(("Metric", "Mean", "Floor"), rows)
    return _table(("Metric", "Mean"), [(escape(metric), f"{mean:.4f}") for metric, mean in scores.items()])


def _metric_row(entry: MetricEntry) -> tuple[str, ...]:
    interval = f"{entry.low:+.4f} to {entry.high:+.4f}" if entry.low is not None and entry.high is not None else ""
    return (
        escape(entry.metric),
        f"{entry.candidate:.4f}",
        "" if entry.live is None else f"{entry.live:.4f}",
        "" if entry.difference is None else f"{entry.difference:+.4f}",
        interval if entry.paired else "not paired",
        _floor(entry),
        f"{entry.tolerance:g}",
    )


def _floor(entry: MetricEntry) -> str:
    return "" if entry.floor is None else f"{entry.floor:g}"


def _losers(report: RunReport) -> list[str]:
    if not report.losers:
        return []
    shown = report.losers[:SHOWN_LOSERS]
    rows = [
        (
            escape(loser.query),
            escape(loser.text[:SHOWN_TEXT]),
            f"{loser.before:.4f}",
            f"{loser.now:.4f}",
            ", ".join(escape(uri) for uri in loser.found_before),
            ", ".join(escape(uri) for uri in loser.found_now),
        )
        for loser in shown
    ]
    table = _table(("Query", "Text", "Before", "Now", "Found before", "Finds now"), rows)
    more = len(report.losers) - len(shown)
    says = f"\n\nand {more} more, in the JSON report" if more else ""
    return [f"## Queries that got worse on {escape(shown[0].metric)}\n\n{table}{says}"]


def _probes(report: RunReport) -> list[str]:
    probes, vectors = report.probes, report.vectors
    if probes is None or vectors is None:
        return []
    says = (
        f"{probes.found} of {probes.asked} sentences of the corpus find their document among the first {probes.depth}:"
        f" recall {probes.recall:.2f}, and {probes.floor:g} is asked for."
    )
    if probes.missed:
        more = f" and {len(probes.missed) - SHOWN_LOSERS} more" if len(probes.missed) > SHOWN_LOSERS else ""
        says += f" Missed: {', '.join(escape(uri) for uri in probes.missed[:SHOWN_LOSERS])}{more}."
    if probes.lost:
        says += (
            f" {len(probes.lost)} of {probes.compared} sentences that readers see today are not in tonight's text:"
            f" {', '.join(escape(uri) for uri in probes.lost[:SHOWN_LOSERS])}."
        )
    rows = (
        f"{vectors.sampled} rows looked at: {vectors.absent} absent, {vectors.unusable} with an unusable vector,"
        f" {vectors.not_unit} not of unit length; mean similarity of different texts {vectors.alike:.2f}."
        f" {vectors.duplicate_rate:.1%} of the documents repeat another."
    )
    if vectors.index_recall is not None:
        rows += f" The index over the vectors finds {vectors.index_recall:.1%} of the exact answers."
    return [f"## Probes\n\n{says}\n\n{rows}"]


def _history(report: RunReport) -> list[str]:
    if len(report.history) < 2:  # noqa: PLR2004  one night is no history
        return []
    from nightloom.charts import as_data_uri, scores_chart, work_chart  # noqa: PLC0415  only reports draw

    charts = [("nodes and seconds", work_chart)]
    if any(night.scores for night in report.history):
        charts.insert(0, ("scores", scores_chart))
    pictures = [f"![{name}]({as_data_uri(draw(report.history))})" for name, draw in charts]
    return ["\n\n".join(["## The last nights", *pictures])]


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
    rows = [(escape(one.uri), escape(one.reason), "new" if one.is_new else one.since) for one in shown]
    table = _table(("Document", "Reason", "Since"), rows)
    more = len(report.quarantine) - len(shown)
    return [f"## Quarantined\n\n{table}" + (f"\n\nand {more} more, in the JSON report" if more else "")]


def _left_out(report: RunReport) -> list[str]:
    return ["\n".join(f"- {escape(left.says)}" for left in report.left_out)] if report.left_out else []


def _count_row(part: ReportPart) -> str:
    counts = part.model_dump()
    return _table(tuple(counts), [tuple(str(count) for count in counts.values())])


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
