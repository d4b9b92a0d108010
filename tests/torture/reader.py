"""A reader that queries and searches through the alias all the time, as an application would."""

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pymilvus import MilvusClient

from tests.torture.checker import MOST_ROWS, TortureFailed
from tests.torture.model import State, vector_of

PAUSE_SECONDS = 0.01
MEND_SECONDS = 30
"""Within this time a retry must mend a failed request."""
REQUEST_SECONDS = 10
HITS = 5


@dataclass
class Reads:
    """What a reader has done.

    Attributes:
        whole: Answers; each was one of the nights that could be live.
        failed: Requests that failed and that a retry mended.
        longest_seconds: From the first failure to the answer that mended it.
    """

    whole: int = 0
    failed: int = 0
    longest_seconds: float = 0.0


class Reader(threading.Thread):
    """Reads until stopped; the first wrong answer ends it, and `check` raises it."""

    def __init__(self, uri: str, alias: str, seed: int) -> None:
        """A reader that sees nothing before `allow` names a state."""
        super().__init__(name=f"reader of {alias}", daemon=True)
        self.reads = Reads()
        self._uri = uri
        self._alias = alias
        self._rng = random.Random(seed)
        self._allowed: tuple[State, ...] = ()
        self._stopped = threading.Event()
        self._failure: BaseException | None = None

    def allow(self, states: Sequence[State]) -> None:
        """From now on an answer must be one of these states; nothing is read while there is none."""
        self._allowed = tuple(states)

    def check(self) -> None:
        """Raise what the reader met.

        Raises:
            TortureFailed: An answer was empty, a mixture, of an older night, or failed for too long.
        """
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """End it, and raise what it met."""
        self._stopped.set()
        self.join()
        self.check()

    def run(self) -> None:
        """Read."""
        try:
            client = MilvusClient(self._uri, timeout=REQUEST_SECONDS)
            try:
                while not self._stopped.wait(PAUSE_SECONDS):
                    if self._allowed:
                        self._ask(client, _all_heads, _of_one_night)
                        self._ask(client, self._search, _of_one_search)
            finally:
                client.close()
        except BaseException as error:  # noqa: BLE001  raised by check
            self._failure = error

    def _search(self, client: MilvusClient, alias: str) -> Any:
        text = self._rng.choice(sorted(self._allowed[0].sentences))
        fields = ["document_id", "version", "position", "text"]
        (hits,) = client.search(
            alias, [vector_of(text).tolist()], limit=HITS, output_fields=fields, timeout=REQUEST_SECONDS
        )
        return text, [(hit["id"], hit["entity"]["version"], hit["entity"]["text"]) for hit in hits]

    def _ask(
        self,
        client: MilvusClient,
        ask: Callable[[MilvusClient, str], Any],
        is_right: Callable[[Any, State], bool],
    ) -> None:
        before = self._allowed
        answer = self._answer(client, ask)
        states = (*before, *self._allowed)
        if not any(is_right(answer, state) for state in states):
            raise TortureFailed(f"a reader saw what no night has left: {answer!r:.2000}")
        self.reads.whole += 1

    def _answer(self, client: MilvusClient, ask: Callable[[MilvusClient, str], Any]) -> Any:
        failing_since = 0.0
        while True:
            try:
                answer = ask(client, self._alias)
            except Exception as error:
                failing_since = failing_since or time.monotonic()
                self.reads.failed += 1
                if time.monotonic() - failing_since > MEND_SECONDS:
                    raise TortureFailed(f"reads failed for {MEND_SECONDS} s: {error}") from error
                time.sleep(PAUSE_SECONDS)
            else:
                if failing_since:
                    took = time.monotonic() - failing_since
                    self.reads.longest_seconds = max(self.reads.longest_seconds, took)
                return answer


def _all_heads(client: MilvusClient, alias: str) -> dict[str, str]:
    rows = client.query(
        alias,
        filter="position == 0",
        output_fields=["document_id", "version"],
        limit=MOST_ROWS,
        timeout=REQUEST_SECONDS,
    )
    return {row["document_id"]: row["version"] for row in rows}


def _of_one_night(heads: dict[str, str], state: State) -> bool:
    return heads == state.heads


def _of_one_search(found: tuple[str, list[tuple[str, str, str]]], state: State) -> bool:
    """As many hits as asked for, every one a row of the state, and the text itself first where the state has it."""
    text, hits = found
    rows = state.rows
    known = all(key in rows and (rows[key].version, rows[key].text) == (version, said) for key, version, said in hits)
    first = not hits or text not in state.sentences or hits[0][2] == text
    return known and first and len(hits) == min(HITS, len(rows))
