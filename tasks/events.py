"""Events: what automations react to. docs/events.md describes each with its payload."""

from typing import Any

from prefect.events import emit_event

from nightloom.errors import Outcome
from nightloom.report import RunReport

QUARANTINED_AT_MOST = 100
"""Events about quarantined documents in one night; the last of them counts the rest."""


def announce(event: str, alias: str, generation: str | None = None, **payload: Any) -> None:
    """Emit an event about an index.

    It is sent in the background, with the flow run, its deployment and its tags as related resources.

    Args:
        event: Its name without the prefix, such as "index.promoted".
        alias: Of the index, which is the event's resource: "nightloom.index.<alias>".
        generation: That it is about, which is a related resource; None where there is none.
        payload: What else it says: small values, never a document's text.
    """
    related = {
        "prefect.resource.id": f"nightloom.generation.{generation}",
        "prefect.resource.role": "generation",
        "prefect.resource.name": str(generation),
    }
    emit_event(
        event=f"nightloom.{event}",
        resource={"prefect.resource.id": f"nightloom.index.{alias}", "prefect.resource.name": alias},
        related=[related] if generation else [],
        payload={"corpus": alias, "generation": generation, **payload},
    )


_ENDS: dict[Outcome, str] = {
    "promoted": "night.completed",
    "unchanged": "night.completed",
    "held": "night.held",
    "failed": "night.failed",
    "refused": "night.failed",
}


def announce_end(report: RunReport) -> None:
    """Say how a night ended, and which documents it could not take."""
    shown = report.quarantine[:QUARANTINED_AT_MOST]
    for at, entry in enumerate(shown, 1):
        more = len(report.quarantine) - len(shown) if at == len(shown) else 0
        announce(
            "document.quarantined",
            report.corpus,
            report.generation,
            document=entry.uri,
            reason=entry.reason,
            more=more,
        )
    announce(
        _ENDS[report.outcome],
        report.corpus,
        report.generation,
        outcome=report.outcome,
        reason=report.reason,
        documents=report.documents.model_dump(),
        nodes=report.nodes.model_dump(),
        scores=report.scores or {},
        warnings=len(report.warnings),
    )
