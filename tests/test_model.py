"""Random nights against a model of the index: a dictionary of what the corpus holds, on Milvus Lite."""

import asyncio
import shutil
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from nightloom import night as night_module
from nightloom import operate
from nightloom.contents import Contents
from nightloom.documents import document_id
from nightloom.errors import NightFailed
from nightloom.index import Index, open_index
from nightloom.night import Night
from nightloom.splitting import Splitter
from tests.builders import make_document
from tests.nights import Home, live_name, night
from tests.torture.model import HashEmbedder, vector_of

ALIAS_OF_OTHERS = "mine_alone"
EXAMPLES = 8
STEPS = 6
NAMES = st.sampled_from(["a.txt", "b'c\\.txt", 'd"\ne.txt', "日本.txt"])
LONG, AS_LONG = "Some words of one text. " * 90, "Many words of one text. " * 90
"""Of as many nodes as each other: no count can tell a mixture of them."""
TEXTS = st.sampled_from(["One.", "Été.", LONG, AS_LONG])
POINTS = st.sampled_from(["after rows", "before rows", "settle", "verify", "before switch", "after switch", "prune"])


class Died(NightFailed):
    """A night that was ended where a machine might die."""


class Nights(RuleBasedStateMachine):
    """Changes to a corpus, nights over it whole and cut short, and rollbacks.

    Attributes:
        corpus: Text by file name, as it lies on disk.
        live: The same as readers see it; None before the first night.
        undone: Whether the last night died.
        named: A generation that somebody else's alias names.
    """

    @initialize(in_place=st.booleans())
    def begin(self, in_place: bool) -> None:
        """A corpus of one document that no night has seen."""
        self.folder = Path(tempfile.mkdtemp(prefix="nightloom-model-"))
        self.home = Home(self.folder, "index.db", "model")
        self.in_place = in_place
        update = "in_place" if in_place else "generation"
        limits = "[gate]\nmax_removed = 1\nmax_quarantined = 1\nprobes = 0\n[shards]\ndocuments = 1\nin_flight = 2\n"
        self.home.configure(f'[index]\nupdate = "{update}"\nkeep = 1\n{limits}', evaluation=False)
        self.corpus = {"a.txt": LONG}
        self.live: dict[str, str] | None = None
        self.undone = False
        self.named: str | None = None
        self.splitter = Splitter(self.home.corpus.splitting, HashEmbedder(self.home.corpus.embedder))

    @rule(name=NAMES, text=TEXTS)
    def write(self, name: str, text: str) -> None:
        """Add or change a document."""
        self.corpus[name] = text

    @precondition(lambda self: len(self.corpus) > 1)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        """Take a document away."""
        del self.corpus[data.draw(st.sampled_from(sorted(self.corpus)))]

    @precondition(lambda self: len(self.corpus) > 1)
    @rule(data=st.data(), new=NAMES)
    def rename(self, data: st.DataObject, new: str) -> None:
        """Give a document another name."""
        old = data.draw(st.sampled_from(sorted(self.corpus)))
        self.corpus[new] = self.corpus.pop(old)

    @rule()
    def night(self) -> None:
        """A whole night."""
        self.home.write(self.corpus)
        run(night(self.home))
        self.live, self.undone = dict(self.corpus), False
        self.readers_see_one_night()

    @rule(point=POINTS, data=st.data(), goes_back=st.booleans())
    def cut_short(self, point: str, data: st.DataObject, goes_back: bool) -> None:
        """A night over a changed document that dies at a point, if it gets there; the change may be taken back."""
        name = data.draw(st.sampled_from(sorted(self.corpus)))
        self.corpus[name] = AS_LONG if self.corpus[name] == LONG else LONG
        self.home.write(self.corpus)
        with pytest.MonkeyPatch.context() as patch:
            die_at(patch, point)
            try:
                run(night(self.home))
            except NightFailed:
                self.undone = True
            else:
                self.live, self.undone = dict(self.corpus), False
        if not self.in_place:
            self.readers_see_one_night()
            if run(contents_of(self.home)) == self.nodes(self.corpus):
                self.live = dict(self.corpus)
        if goes_back and self.live is not None:
            self.corpus = dict(self.live)

    @precondition(lambda self: self.live is not None)
    @rule(data=st.data())
    def die_in_mid_document(self, data: st.DataObject) -> None:
        """Rows of two versions under one head, and a document that is as it was: what no count and no version shows."""
        self.cut_short("after rows", data, goes_back=True)

    @precondition(lambda self: self.live is not None and not self.in_place and not self.undone)
    @rule()
    def roll_back_and_forth(self) -> None:
        """To the generation before, and with another switch to the newest again."""

        async def switch() -> None:
            found = await operate.list_generations(self.home.corpus, None)
            seen = [one.name for one in found if one.state == "earlier"]
            live = next(one.name for one in found if one.state == "live")
            for name in [*seen[:1], live] if seen else []:
                await operate.roll_back(self.home.corpus, None, name)

        run(switch())
        self.readers_see_one_night()

    @precondition(lambda self: self.live is not None and self.named is None)
    @rule()
    def name_by_hand(self) -> None:
        """Somebody else keeps the live generation under an alias of their own."""
        self.named = run(name_live(self.home))

    def readers_see_one_night(self) -> None:
        """Rows, texts, vectors of one night and of nothing else; and what somebody else named is still there."""
        if self.named:
            assert self.named in [one.name for one in run(operate.list_generations(self.home.corpus, None))]
        found = run(contents_of(self.home))
        if not self.undone:
            assert found == self.nodes(self.live)
        else:  # the night that died may have switched readers, and never shows them a mixture
            assert found in (self.nodes(self.live), self.nodes(self.corpus))

    def nodes(self, texts: dict[str, str] | None) -> dict[str, list[str]] | None:
        """Texts of the nodes of every document, by file name."""
        if texts is None:
            return None
        return {
            name: [node.text for node in self.splitter.split(make_document(text), "")] for name, text in texts.items()
        }

    def teardown(self) -> None:
        """A last night mends whatever was left, and the next one has nothing to do."""
        if not hasattr(self, "home"):
            return
        try:
            self.night()
            report = run(night(self.home))
            assert report["outcome"] == "unchanged"
        finally:
            shutil.rmtree(self.folder)


def die_at(patch: pytest.MonkeyPatch, point: str) -> None:
    """Have the process die, as far as Milvus can tell, when a night comes to a point."""
    owner, name, after = {
        "before rows": (Contents, "_add", False),
        "after rows": (Contents, "_add", True),
        "settle": (Night, "settle", False),
        "verify": (Night, "verify", False),
        "before switch": (Index, "promote", False),
        "after switch": (Index, "promote", True),
        "prune": (Night, "prune", False),
    }[point]
    original = getattr(owner, name)

    async def wrapped(*arguments: Any, **options: Any) -> Any:
        if after:
            await original(*arguments, **options)
        raise Died(point)

    patch.setattr(owner, name, wrapped)


async def name_live(home: Home) -> str:
    """Give the live generation another alias; return its name."""
    async with open_index(home.corpus.milvus, home.name) as index:
        live = await live_name(index)
        await index.connection.call(lambda: index.connection.client.create_alias(live, ALIAS_OF_OTHERS))
        return live


async def contents_of(home: Home) -> dict[str, list[str]] | None:
    """Texts of the nodes by file name as the live generation has them; None where nothing is live.

    Every row is checked: its id, total and vector; physical duplicates.
    """
    async with open_index(home.corpus.milvus, home.name) as index:
        if not any(generation.live for generation in await index.generations()):
            return None
        live = await live_name(index)
        count = await index.connection.count(live)
        rows = [row for batch in index.connection.scan(live, "position >= 0", ("*",)) for row in batch]
    assert count == len(rows), "physical duplicates"
    found: dict[str, dict[int, str]] = {}
    for row in rows:
        assert row["id"] == f"{document_id(row['uri'])}-{row['position']}"
        assert row["embedding"] == pytest.approx(vector_of(row["text"]).tolist(), abs=1e-6)
        found.setdefault(row["uri"].removeprefix("texts/"), {})[row["position"]] = row["text"]
    for row in rows:
        assert row["total"] == len(found[row["uri"].removeprefix("texts/")]), "rows are missing or left over"
    return {name: [parts[at] for at in sorted(parts)] for name, parts in found.items()}


def run(work: Coroutine[Any, Any, Any]) -> Any:
    """To the end, in an event loop of its own."""
    return asyncio.run(work)


@pytest.mark.usefixtures("prefect_api")
def test_the_index_is_its_model_whatever_happened_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(night_module, "Embedder", HashEmbedder)
    run_state_machine_as_test(
        Nights, settings=settings(max_examples=EXAMPLES, stateful_step_count=STEPS, derandomize=True, database=None)
    )
