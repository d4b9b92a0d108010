"""The allocator of glibc, told to give memory back to the system; others do that by themselves, or cannot be told."""

import ctypes
import os

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
"""Parameters of mallopt, as glibc's malloc.h numbers them."""

THRESHOLD_BYTES = 128 * 1024
"""What glibc begins with, for both. Unless it is told, it raises them to 32 and 64 MB as soon as a buffer of that size
has been freed, and keeps what such buffers left behind: the requests of a night are of all sizes up to 16 MB."""
ARENAS = 2
"""Else eight for every core: each thread that is new leaves holes in one of its own."""


def give_memory_back() -> None:
    """Have this process give back what is free, unless whoever started it has set the allocator up."""
    if any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # musl, macOS
        return
    for parameter, value in (
        (_M_TRIM_THRESHOLD, THRESHOLD_BYTES),
        (_M_MMAP_THRESHOLD, THRESHOLD_BYTES),
        (_M_ARENA_MAX, ARENAS),
    ):
        mallopt(parameter, value)
