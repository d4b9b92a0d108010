"""A torture: nights over a corpus that changes, faults in them, and a look at the index after each."""

import random
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Self

from nightloom.corpus_file import load_corpus
from nightloom.fingerprint import fingerprint
from tests.torture.calls import Fault
from tests.torture.checker import Question, Sight, TortureFailed, differences, first_few, look, send_look
from tests.torture.child import Child, Ended, Order, log_end, run_night
from tests.torture.faults import draw
from tests.torture.model import SOURCE, HashEmbedder, ModelCorpus, State
from tests.torture.points import CLEARING_POINTS
from tests.torture.reader import Reader, Reads
from tests.torture.setting import KEEP, Setting, Tally

NIGHT_SECONDS = 120
CHANGES = (1, 5)
SAME_CORPUS = 0.25
"""Share of nights before which nothing changes: what a killed night left is then taken up as it is."""
KILLS_BETWEEN_WHOLE_NIGHTS = 5
SHOWN_NIGHTS = 12


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
        self._fired: frozenset[str] = frozenset()
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
        may_empty = not self.setting.in_place or self._is_settled
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

    def kill_at(self, point: str) -> Ended:
        """A night that must kill itself at a named point."""
        ended = self.night((Fault(point),))
        if ended.outcome != "killed":
            raise AssertionError(f"{point!r} was never reached: the night {ended.outcome}: {ended.reason}")
        return ended

    def kill_at_each(self, points: Iterable[str]) -> None:
        """One night after another killed, each at another point, and then a whole one.

        Before each there is a document more of several nodes; before nights that are to delete rows another one writes
        some, and every document changes or shrinks, so that there are rows of older versions where they write.
        """
        for point in points:
            self.corpus.add_large()
            if point in CLEARING_POINTS:
                self.kill_at("heads acknowledged")  # the point before may have left no row to delete
                self.corpus.rewrite()
                self.corpus.shorten()
            self.kill_at(point)
        self.whole_night()

    def random_faults(self, nights: int) -> None:
        """Nights with five random faults each; every second is followed by one without."""
        for at in range(nights):
            self.change()
            self.corpus.add_large()
            faults, is_killed = draw(self._rng)
            self.tally.drawn += len(faults) + is_killed
            kills = self.tally.kills
            self.night(faults, self._rng.uniform(0, self._usual_seconds) if is_killed else None)
            self.tally.fired += len(self._fired) + self.tally.kills - kills
            if at % 2:
                self.whole_night()

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
        order.journal.unlink(missing_ok=True)
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
        self._fired = frozenset(order.journal.read_text().splitlines()) if order.journal.exists() else frozenset()
        return ended

    def _judge(self, order: Order, ended: Ended, tonight: State, *, is_faulty: bool) -> None:
        if ended.outcome in {"promoted", "unchanged"}:
            self._judge_whole(ended, tonight, is_faulty=is_faulty)
            if not is_faulty:
                self._usual_seconds = ended.seconds
        elif not is_faulty:
            raise TortureFailed(f"a night without a fault ended {ended.outcome}: {ended.reason}")
        else:
            self.tally.failed += ended.outcome != "killed"
            self._judge_cut(order, ended, tonight)

    def _judge_whole(self, ended: Ended, tonight: State, *, is_faulty: bool) -> None:
        self.tally.whole += 1
        self.tally.resumed += ended.outcome == "promoted" and ended.generation in self._collections
        sight = self.look(tonight)
        if wrong := differences(sight, tonight):
            raise TortureFailed(f"the night ended {ended.outcome}, and readers see: {first_few(wrong)}")
        # Where a creation was cut off, the night after drops what it left.
        if not is_faulty and len(sight.collections) > KEEP + 1:
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
        if self.setting.in_place:
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
        if self._reader and self.live is not None and not self.setting.in_place:
            self._reader.allow(states)


def settle(torture: Torture, nights: int = 2) -> None:
    """Whole nights: after two of them there is a generation to drop."""
    for _ in range(nights):
        torture.change(3)
        torture.corpus.add_large()
        torture.whole_night()


def summary(torture: Torture) -> str:
    """What a torture did, in a line."""
    tally, reads, setting = torture.tally, torture.reads, torture.setting
    return (
        f"{setting.alias}, {setting.update}, seed {torture.seed}: {tally.nights} nights, {tally.kills} killed at"
        f" random, {tally.point_kills} at named points, {tally.failed} failed by themselves, {tally.fired} of"
        f" {tally.drawn} random faults struck; {tally.whole} whole, {tally.resumed} of them took up a half-built"
        f" generation, {tally.looks} looks; {reads.whole} reads, {reads.failed} requests that a retry mended within"
        f" {reads.longest_seconds:.1f} s"
    )
