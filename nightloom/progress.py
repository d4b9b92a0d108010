"""How far a night is, for whoever watches: the terminal, the Prefect UI."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

STAGES = ("download", "plan", "load", "embed", "insert", "copy", "verify", "evaluate", "judge", "promote")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Where a night stands.

    Attributes:
        stage: What it does now.
        nodes_per_second: Embedded and inserted since the first shard began; 0 before the first is done.
        seconds_left: Until the last shard is done, by the pace of those before; None while unknown.
    """

    stage: str
    shards_done: int
    shards: int
    nodes: int
    nodes_per_second: float
    seconds_left: float | None


Watcher = Callable[[Snapshot], None]
watcher: ContextVar[Watcher | None] = ContextVar("watcher", default=None)
"""Who watches the nights of this process; the command line sets it around the flow."""


class Progress:
    """Counts shards and nodes, and keeps the time of each stage."""

    def __init__(self) -> None:
        """Start the clock."""
        self.seconds: dict[str, float] = dict.fromkeys(STAGES, 0.0)
        self._started = time.monotonic()
        self._shards_started = self._started
        self._stage = STAGES[0]
        self._shards = self._shards_done = self._documents = self._documents_done = self._nodes = 0

    @property
    def total_seconds(self) -> float:
        """Since the night began."""
        return time.monotonic() - self._started

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time that the block takes to a stage; of stages that overlap, each counts its own time."""
        started = time.monotonic()
        self._stage = name
        self._tell()
        try:
            yield
        finally:
            self.seconds[name] += time.monotonic() - started

    def expect(self, shards: int, documents: int) -> None:
        """Say how much work there will be."""
        self._shards, self._documents, self._shards_started = shards, documents, time.monotonic()
        self._tell()

    def shard_done(self, documents: int, nodes: int) -> None:
        """Count a shard that is in the index."""
        self._shards_done += 1
        self._documents_done += documents
        self._nodes += nodes
        self._tell()

    @property
    def snapshot(self) -> Snapshot:
        """Where the night stands now."""
        elapsed = time.monotonic() - self._shards_started
        done, left = self._documents_done, self._documents - self._documents_done
        return Snapshot(
            self._stage,
            self._shards_done,
            self._shards,
            self._nodes,
            self._nodes / elapsed if self._nodes else 0.0,
            elapsed / done * left if done else None,
        )

    def _tell(self) -> None:
        watch = watcher.get()
        if watch is not None:
            watch(self.snapshot)
