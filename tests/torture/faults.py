"""Faults inside the child process that runs a night: which there are, how they are drawn, and how they get there.

The product knows nothing of all this: its methods, and pymilvus's, are wrapped.
"""

import random
from collections.abc import Sequence
from pathlib import Path

from tests.torture.calls import Due, Fault
from tests.torture.points import COPYING_POINTS, LAST_POINTS, POINTS, SWITCHING_POINTS, install_point
from tests.torture.sabotages import SABOTAGES
from tests.torture.sticky import ALIAS_STICKS, AliasMemory
from tests.torture.troubles import CLOCK, COPYING, CUTTING, ENDING, SWITCHING, TROUBLES, WRITING, Trouble

FAULTS_A_NIGHT = 5
LATE = 0.7
"""Share of nights in which the last fault strikes at the end, so that the others had their turn."""
AT_A_POINT = 0.5
"""Share of the last faults that kill; the others only cut the night, or cost it a request."""
REPEATED = ("query refused", "scan refused", "load refused")
"""The first such request reads what is live, and the night ends there: a later one costs it less."""


def draw(rng: random.Random) -> tuple[tuple[Fault, ...], bool]:
    """Five faults for one night, in the order in which a night meets them, and whether the last is a kill from outside.

    One each for the rows that are written, the requests around them, the switch, the clock, and the end.
    """
    faults = [Fault(rng.choice(list(WRITING)), rng.choice((1, 1, 2))), _one_of(rng, COPYING)]
    faults.append(Fault(ALIAS_STICKS, rng.randint(1, 3)) if rng.random() < AT_A_POINT else _one_of(rng, SWITCHING))
    faults.append(_one_of(rng, CLOCK))
    if rng.random() < LATE:
        late = [*SWITCHING_POINTS, *LAST_POINTS] if rng.random() < AT_A_POINT else list(ENDING)
        return (*faults, Fault(rng.choice(late))), False
    early = [*CUTTING, *COPYING_POINTS]
    if rng.random() < AT_A_POINT:
        return (*faults, Fault(rng.choice(early))), False
    return tuple(faults), True


def _one_of(rng: random.Random, troubles: dict[str, Trouble]) -> Fault:
    name = rng.choice(list(troubles))
    return Fault(name, 2 if name in REPEATED else 1)


def install(faults: Sequence[Fault], sabotages: Sequence[str], alias: AliasMemory, journal: Path) -> None:
    """Break this process: the product first, the world around it then."""
    for name in sabotages:
        SABOTAGES[name]()
    sticking = next((fault for fault in faults if fault.name == ALIAS_STICKS), None)
    alias.install(sticking.nth if sticking else 0, Due(sticking, journal) if sticking else None)
    for fault in faults:
        due = Due(fault, journal)
        if fault.name in POINTS:
            install_point(POINTS[fault.name], due)
        elif fault.name != ALIAS_STICKS:
            TROUBLES[fault.name](due)
