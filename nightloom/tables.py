"""What a night did, as tables: rows with the same keys, at most so many, and the last one counts the rest."""

import bisect
from collections.abc import Collection, Iterable, Iterator, Mapping, Sized
from datetime import UTC
from itertools import islice
from typing import Protocol

from nightloom.audit import Finding
from nightloom.generations import Generation, state_of
from nightloom.heads import Head
from nightloom.planning import Plan, became
from nightloom.report import QuarantineEntry, ReportPart, RunReport, plain

Row = dict[str, str | int | float]

SHOWN_ROWS = 200


class Rows(Sized, Iterable[Row], Protocol):
    """Rows that are counted, and may be made as they are looked at."""


def capped(rows: Rows) -> list[Row]:
    """As many rows as somebody reads; one more says how many there are beside them."""
    shown = list(islice(rows, SHOWN_ROWS))
    if len(rows) > len(shown):
        first, *others = shown[0]
        shown.append({first: f"and {len(rows) - len(shown)} more", **dict.fromkeys(others, "")})
    return shown


def counts_table(report: RunReport) -> list[Row]:
    """Documents and nodes."""
    parts: tuple[tuple[str, ReportPart], ...] = (("documents", report.documents), ("nodes", report.nodes))
    return [
        {"what": what, "which": which, "count": count}
        for what, part in parts
        for which, count in part.model_dump().items()
    ]


class DocumentsTable:
    """The documents that a night removed, changed and added, in this order: there may be millions, and few are read."""

    def __init__(self, plan: Plan, live: Mapping[str, Head], quarantined: Collection[str]) -> None:
        """Compare what the night took with what readers saw.

        Args:
            plan: Of the night.
            live: Heads of the generation that readers saw before it, by document id.
            quarantined: Ids of the documents that could not be taken.
        """
        self._count = 0
        self._uris: dict[str, list[str]] = {"removed": [], "changed": [], "added": []}
        for head in plan.removed:
            self._add("removed", head.uri)
        for uri, what in became(plan, live, quarantined):
            if what != "unchanged":
                self._add(what, uri)

    def _add(self, what: str, uri: str) -> None:
        self._count += 1
        bisect.insort(self._uris[what], uri)
        del self._uris[what][SHOWN_ROWS:]

    def __len__(self) -> int:
        """How many documents."""
        return self._count

    def __iter__(self) -> Iterator[Row]:
        """A row for each that may be shown, in order of their URIs."""
        return ({"document": plain(uri), "what": what} for what, uris in self._uris.items() for uri in uris)


def quarantine_table(entries: Iterable[QuarantineEntry]) -> list[Row]:
    """Documents that could not be taken, with the reason, and since when."""
    return [
        {"document": plain(one.uri), "reason": plain(one.reason), "since": "new" if one.is_new else one.since}
        for one in entries
    ]


def findings_table(findings: Iterable[Finding]) -> list[Row]:
    """Documents whose rows are not whole."""
    return [
        {
            "document": plain(finding.uri or finding.document),
            "missing": finding.missing,
            "surplus": finding.surplus,
            "duplicates": finding.duplicates,
        }
        for finding in findings
    ]


def generations_table(generations: Iterable[Generation]) -> list[Row]:
    """The generations of an index, newest first: what a rollback can name."""
    return [
        {
            "generation": one.name,
            "state": state_of(one),
            "created (UTC)": one.created.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S"),
            "scores": ", ".join(f"{metric} {value:.4f}" for metric, value in one.scores),
            "held": plain(one.held or one.overruled),
        }
        for one in sorted(generations, key=lambda one: one.created, reverse=True)
    ]


def queries_table(texts: Mapping[str, str], per_query: Mapping[str, Mapping[str, float]]) -> list[Row]:
    """Golden queries with what each scored, the worst first; texts last, as the UI cuts a table off on the right."""
    worst = sorted(per_query.items(), key=lambda item: (sum(item[1].values()), item[0]))
    scores = {key: {metric: round(value, 4) for metric, value in values.items()} for key, values in worst}
    return [{"query": plain(key), **values, "text": plain(texts[key])} for key, values in scores.items()]
