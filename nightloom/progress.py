"""How far a night is, for whoever watches: the terminal, the Prefect UI."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

OTHER = "other"
"""What a night spends in no stage: Milvus's state is read, the report is made, an endpoint is waited for."""
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
    """Counts shards and nodes, and deals the time of the night out to its stages."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start the clock, which gives seconds."""
        self._clock = clock
        self._seconds = dict.fromkeys((*STAGES, OTHER), 0.0)
        self._under_way: Counter[str] = Counter()
        self._started = self._dealt_until = clock()
        self._shards_started = self._started
        self._stage = STAGES[0]
        self._shards = self._shards_done = self._documents = self._documents_done = self._nodes = 0

    @property
    def total_seconds(self) -> float:
        """Since the night began."""
        return self._clock() - self._started

    @property
    def seconds(self) -> dict[str, float]:
        """Wall time by stage, what was spent in none of them as "other", and the total, which is their sum."""
        self._deal()
        return {**self._seconds, "total": sum(self._seconds.values())}

    def _deal(self) -> None:
        """Give the time since the last call to the stages that were under way, in equal parts."""
        now = self._clock()
        stages = list(self._under_way) or [OTHER]
        for name in stages:
            self._seconds[name] += (now - self._dealt_until) / len(stages)
        self._dealt_until = now

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time that the block takes to a stage; stages that overlap share it, however often each is entered."""
        self._deal()
        self._under_way[name] += 1
        self._stage = name
        self._tell()
        try:
            yield
        finally:
            self._deal()
            self._under_way[name] -= 1
            self._under_way += Counter()  # without those that are at zero

    def expect(self, shards: int, documents: int) -> None:
        """Say how much work there will be."""
        self._shards, self._documents, self._shards_started = shards, documents, self._clock()
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
        elapsed = self._clock() - self._shards_started
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
