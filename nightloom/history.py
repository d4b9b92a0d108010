"""The history of an index: its last nights, kept with its generations and carried from one to the next."""

from collections.abc import Sequence
from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from nightloom.errors import Outcome

NIGHTS = 30


class NightRecord(BaseModel):
    """One night in the history of an index, as the charts show it."""

    model_config = ConfigDict(extra="ignore")

    started: datetime = Field(description="UTC.")
    outcome: Outcome
    generation: str | None = None
    scores: dict[str, float] = Field(default_factory=dict, description="Mean by metric; without those not computed.")
    nodes: int = Field(0, description="In the generation.")
    embedded: int = Field(0, description="Nodes embedded that night.")
    seconds: float = Field(0, description="The whole night.")
    quarantined: dict[str, str] = Field(
        default_factory=dict,
        description="Since which date documents are, by the first digits of their ids; of the last night alone.",
    )


_RECORDS = TypeAdapter(list[NightRecord])


def read_history(kept: str) -> list[NightRecord]:
    """The nights that a generation keeps, oldest first; none where it keeps nothing that can be read."""
    try:
        return _RECORDS.validate_json(kept or "[]")
    except ValidationError:
        return []


def history_with(nights: Sequence[NightRecord], night: NightRecord) -> str:
    """What a generation keeps once another night has ended: the last ones, as JSON."""
    before = [one.model_copy(update={"quarantined": {}}) for one in nights]
    return _RECORDS.dump_json([*before, night][-NIGHTS:]).decode()
