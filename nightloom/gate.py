"""What stops a night before readers see it."""

from nightloom.corpus import GateSettings
from nightloom.errors import Held

ALWAYS_ALLOWED = 10
"""Documents that may go, or be quarantined, however small the corpus is."""


def check_removals(removed: int, live: int, settings: GateSettings) -> None:
    """Hold a night whose listing lacks suspiciously many of the live documents.

    Raises:
        Held: Says how many are gone and how many may be.
    """
    allowed = max(ALWAYS_ALLOWED, int(settings.max_removed * live))
    if removed > allowed:
        raise Held(
            f"{removed} of {live} live documents are gone from the corpus, and gate.max_removed ="
            f" {settings.max_removed:g} allows {allowed}; check the sources; if the documents are to go, run once with"
            " --allow-removals (in the UI: allow_removals)"
        )


def check_quarantine(quarantined: int, listed: int, settings: GateSettings) -> None:
    """Hold a night that could not take suspiciously many of its documents.

    Raises:
        Held: Says how many are quarantined and how many may be.
    """
    allowed = max(ALWAYS_ALLOWED, int(settings.max_quarantined * listed))
    if quarantined > allowed:
        raise Held(
            f"{quarantined} of {listed} documents are quarantined, and gate.max_quarantined ="
            f" {settings.max_quarantined:g} allows {allowed}; the report names them with their reasons"
        )
