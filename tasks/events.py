"""Events: what automations react to. docs/events.md describes each with its payload."""

from typing import Any, TypeAlias

from prefect.client.orchestration import get_client
from prefect.events import Event, emit_event

from nightloom.errors import Outcome
from nightloom.operate import Switch
from nightloom.report import RunReport

EventParts: TypeAlias = dict[str, Any]
"""What Prefect makes an event of: its name, resource, related resources and payload."""

QUARANTINED_AT_MOST = 100
"""Events about quarantined documents in one night; the last of them counts the rest."""


def about(event: str, alias: str, generation: str | None = None, **payload: Any) -> EventParts:
    """An event about an index.

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
    return {
        "event": f"nightloom.{event}",
        "resource": {"prefect.resource.id": f"nightloom.index.{alias}", "prefect.resource.name": alias},
        "related": [related] if generation else [],
        "payload": {"corpus": alias, "generation": generation, **payload},
    }


def promotion(report: RunReport, before: str | None) -> EventParts:
    """Readers see the generation of a report; before it they saw another one, or none."""
    counts = {"documents": report.documents.model_dump(), "nodes": report.nodes.model_dump()}
    return about("index.promoted", report.corpus, report.generation, before=before, reason=report.reason, **counts)


def way_back(made: Switch) -> EventParts:
    """Readers see an earlier generation again."""
    counts = {"documents": made.documents, "nodes": made.nodes}
    return about("index.rolled-back", made.alias, made.after, before=made.before, **counts)


def announce(parts: EventParts) -> None:
    """Emit an event of a flow run: in the background, with run, deployment and tags as related resources."""
    emit_event(**parts)


async def send(parts: EventParts) -> None:
    """Emit an event of a command, which is no flow run, and wait until the server has it.

    Raises:
        httpx.HTTPError: The server does not answer, or does not take it; sending it again makes another event.
    """
    # Not by `emit_event`: where the server is away, that looks for it until long after the command is done.
    async with get_client() as client:
        await client.request("POST", "/events", json=[Event(**parts).model_dump(mode="json")])


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
        told = {
            "document": entry.uri,
            "reason": entry.reason,
            "more": len(report.quarantine) - len(shown) if at == len(shown) else 0,
        }
        announce(about("document.quarantined", report.corpus, report.generation, **told))
    ended = {
        "outcome": report.outcome,
        "reason": report.reason,
        "documents": report.documents.model_dump(),
        "nodes": report.nodes.model_dump(),
        "scores": report.scores or {},
        "warnings": len(report.warnings),
    }
    announce(about(_ENDS[report.outcome], report.corpus, report.generation, **ended))
