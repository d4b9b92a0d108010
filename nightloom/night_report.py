"""What a night says of itself: its report, and the sentence that the report begins with."""

from collections import Counter
from datetime import UTC, datetime

from nightloom.errors import NightloomError, Outcome
from nightloom.fingerprint import what_changed
from nightloom.heads import rows_of
from nightloom.history import NIGHTS
from nightloom.night import Night, short_id
from nightloom.planning import became
from nightloom.report import (
    DocumentCounts,
    EmbedderWork,
    LeftOutEntry,
    LoserEntry,
    MetricEntry,
    ProbeCounts,
    QuarantineEntry,
    QueryCounts,
    RunReport,
    VectorCounts,
)
from nightloom.rows import SCHEMA_VERSION

SHOWN_NOTES = 20


def report_of(night: Night, outcome: Outcome, reason: str) -> RunReport:
    """What the night has done so far."""
    generation = night.target or night.live
    if not night.target or not night.has_changes:
        night.nodes.total = rows_of(night.live_heads)
    record = night.record(outcome)
    return RunReport(
        corpus=night.corpus.name,
        outcome=outcome,
        reason=reason,
        generation=generation.name if generation else None,
        fingerprint=night.fingerprint,
        started=night.started,
        documents=_document_counts(night, outcome),
        nodes=night.nodes,
        truncated_tokens=night.truncated_tokens,
        embedder=EmbedderWork.of(night.embedder.work) if night.embedder.work.texts else None,
        seconds={stage: round(seconds, 3) for stage, seconds in night.progress.seconds.items()},
        scores=record.scores or None,
        comparison=_comparison(night),
        losers=[LoserEntry.of(loser, night.golden.texts[loser.query]) for loser in night.trial.losers]
        if night.golden
        else [],
        queries=_query_counts(night, outcome),
        probes=ProbeCounts.of(night.trial.probes, night.corpus.gate.probe_recall) if night.trial.probes else None,
        vectors=_vector_counts(night),
        history=[*night.history, record][-NIGHTS:],
        answers=night.answers,
        left_out=[LeftOutEntry.of(left) for left in night.left_out],
        quarantine=_quarantine(night),
        warnings=night.warnings + _notes(night.notes),
    )


def _quarantine(night: Night) -> list[QuarantineEntry]:
    before, since = night.quarantined_before, night.quarantined_since
    return [
        QuarantineEntry(
            uri=entry.uri, reason=entry.reason, since=since[short_id(entry)], is_new=short_id(entry) not in before
        )
        for entry in night.quarantined
    ]


def summary_of(night: Night) -> str:
    """What came of the night, in a sentence."""
    if not night.has_changes:
        return "the index already holds every document in tonight's version"
    if night.live is None:
        return "the first generation of this index"
    if night.live.fingerprint != night.fingerprint and night.live.schema != SCHEMA_VERSION:
        which = "an earlier" if night.live.schema < SCHEMA_VERSION else "a later"
        return f"{which} version of Nightloom made {night.live.name}: every document was embedded again"
    if night.live.fingerprint != night.fingerprint:
        changed = what_changed(night.live.made_of, night.made_of) or "loader, splitter, embedder, schema or metric"
        return f"another fingerprint ({changed}): every document was embedded again"
    counts = _document_counts(night)
    where = "in place: " if night.in_place else ""
    return f"{where}{counts.added} documents added, {counts.changed} changed, {counts.removed} removed"


def _document_counts(night: Night, outcome: Outcome = "promoted") -> DocumentCounts:
    """What became of tonight's documents; of a night that did not come to its end, of those that it indexed."""
    left_out = {entry.id for entry in night.quarantined}
    if outcome not in {"promoted", "unchanged"}:
        left_out |= {planned.ref.id for planned in night.plan.work if planned.ref.id not in night.versions}
    # One by one, and no sets of ids: of a first night, every document is among them.
    counts = Counter(what for _, what in became(night.plan, night.live_heads, left_out))
    return DocumentCounts(
        listed=night.plan.listed,
        added=counts["added"],
        changed=counts["changed"],
        unchanged=len(night.plan.unchanged) + counts["unchanged"],
        removed=len(night.plan.removed),
        quarantined=len(night.quarantined),
    )


def _comparison(night: Night) -> list[MetricEntry]:
    """Each metric with what the gate asks of it."""
    scores, settings = night.trial.scores, night.corpus.evaluation
    if scores is None or settings is None or night.golden is None:
        return []
    floors, tolerances = night.demands(night.golden, settings)
    differences = {difference.metric: difference for difference in night.trial.differences}
    return [
        MetricEntry.of(metric, mean, differences.get(metric), floors.get(metric), tolerances[metric])
        for metric, mean in scores.means.items()
    ]


def _vector_counts(night: Night) -> VectorCounts | None:
    trial = night.trial
    return VectorCounts.of(trial.vectors, trial.duplicate_rate, trial.index_recall) if trial.vectors else None


def _notes(notes: Counter[str]) -> list[str]:
    """What was done to documents so that they could be taken, the most frequent first; each key may have one."""
    says = [f"{note}: {count} documents" for note, count in sorted(notes.items(), key=lambda one: (-one[1], one[0]))]
    more = len(says) - SHOWN_NOTES
    return says[:SHOWN_NOTES] + ([f"and {more} more notes of this kind"] if more > 0 else [])


def _query_counts(night: Night, outcome: Outcome) -> QueryCounts | None:
    has_scores = night.trial.scores is not None or outcome == "unchanged"
    if not has_scores or night.judged is None:
        return None
    return QueryCounts(
        asked=len(night.judged.texts),
        set_aside=len(night.judged.set_aside),
        unjudged=night.judged.golden.unjudged,
    )


def refused_report(corpus: str, error: NightloomError) -> RunReport:
    """The report of a night that ended before it began."""
    return RunReport(
        corpus=corpus,
        outcome=error.outcome,
        reason=str(error),
        started=datetime.now(UTC),
    )
