"""The allocator of glibc, told to give memory back to the system; others do that by themselves, or cannot be told."""

import ctypes
import os
from typing import Any

_M_ARENA_MAX = -8
"""The parameter of mallopt that bounds the arenas, as glibc's malloc.h numbers it."""
FEWEST_ARENAS = 2


def _function(name: str) -> Any:
    """A function of the C library; None where there is none of this name: musl, macOS, Windows."""
    return getattr(ctypes.CDLL(None), name, None) if os.name == "posix" else None


def bound_arenas() -> None:
    """An arena for each core, unless whoever started this process has set the allocator up.

    Else there are eight for each, and every thread that is new leaves holes in one of its own.
    """
    mallopt = _function("mallopt")
    if mallopt and not any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        mallopt(_M_ARENA_MAX, max(FEWEST_ARENAS, os.cpu_count() or 1))


def give_memory_back() -> None:
    """Give back what is free now: a buffer of many megabytes, once freed, has glibc keep as much for the next.

    Fixed limits on what it keeps would do that, too, and have torch take half as long again: it frees buffers of that
    size all the time.
    """
    if trim := _function("malloc_trim"):
        trim(0)
