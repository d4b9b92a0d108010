"""Nights that are killed, cut and cheated, on Milvus Lite and on a real server: the rows are the model's in the end."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nightloom.corpus import EmbedderSettings, SplittingSettings
from nightloom.documents import document_id, node_id, version_of
from nightloom.splitting import Splitter
from tests.builders import MODEL, make_document
from tests.torture.calls import Fault
from tests.torture.campaign import Torture, settle, summary
from tests.torture.checker import TortureFailed
from tests.torture.child import start_fork_server
from tests.torture.model import MAX_TOKENS, HashEmbedder, ModelCorpus, State
from tests.torture.points import FIRST_NIGHT_POINTS, GROUPS, IN_PLACE_POINTS
from tests.torture.setting import Setting
from tests.torture.sticky import ALIAS_STICKS

KILLS = 13
"""At random moments, on each kind of Milvus; `make torture` does more."""
KILLS_IN_PLACE = 4
"""The same where nights write what readers read."""
FAULTY_NIGHTS = 3
FAULTS_THAT_STRIKE = 0.6
"""Share of the random faults, at least: a kill keeps those from striking that come after it."""
SEED = 20_261_122
KINDS = ["lite", pytest.param("server", marks=pytest.mark.milvus)]


@pytest.fixture(scope="module", autouse=True)
def _fork_server() -> None:
    start_fork_server()


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Which Milvus."""
    return str(request.param)


@pytest.fixture(scope="module")
def setting(
    kind: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, prefect_server: str
) -> Callable[..., Setting]:
    """Where a torture of that name takes place."""
    uri = request.getfixturevalue("milvus_server") if kind == "server" else "index.db"

    def make(name: str, update: str = "generation") -> Setting:
        return Setting(tmp_path_factory.mktemp(name), uri, prefect_server, f"torture_{name}", update)

    return make


@pytest.fixture(scope="module")
def settled(setting: Callable[..., Setting]) -> Iterator[Torture]:
    """A torture whose first night was killed before and after its switch; tests leave it whole."""
    with Torture(setting("settled"), SEED) as torture:
        torture.kill_at_each(FIRST_NIGHT_POINTS)
        settle(torture, 1)
        yield torture


# --- the model


@given(st.integers(0, 10_000))
@settings(max_examples=25)
def test_the_model_agrees_with_the_product_on_every_node(seed: int) -> None:
    embedder = HashEmbedder(EmbedderSettings(model=MODEL))
    splitter = Splitter(SplittingSettings(max_tokens=MAX_TOKENS, overlap_tokens=0), embedder)
    corpus = ModelCorpus(random.Random(seed))
    corpus.change(8)
    state = corpus.state(None, "fingerprint")
    found = {}
    for name, text in state.texts.items():
        document = make_document(text, f"texts/{name}")
        for node in splitter.split(document, version_of(document.ref.content or "", "fingerprint")):
            found[node.id] = (node.id, node.document.ref.id, node.version, node.position, node.total, node.text)
    assert found == {
        key: (row.id, row.document_id, row.version, row.position, row.total, row.text)
        for key, row in state.rows.items()
    }
    assert all(row.document_id == document_id(row.uri) for row in state.rows.values())
    assert all(row.id == node_id(row.document_id, row.position) for row in state.rows.values())


def test_a_seed_replays_the_same_corpus() -> None:
    def last(seed: int) -> State:
        corpus = ModelCorpus(random.Random(seed))
        for _ in range(20):
            corpus.change(5)
        return corpus.state(None, "fingerprint")

    assert last(1) == last(1)
    assert last(1) != last(2)


# --- kills


def test_nights_killed_at_random_moments_leave_exactly_the_model(setting: Callable[..., Setting]) -> None:
    with Torture(setting("random"), SEED) as torture:
        settle(torture)
        torture.kill_at_random(KILLS)
        torture.whole_night()
    assert torture.tally.kills >= KILLS, summary(torture)


@pytest.mark.parametrize("kind", ["lite"], indirect=True)  # on a server by `make torture`
def test_nights_in_place_killed_at_random_and_at_named_points_leave_exactly_the_model(
    setting: Callable[..., Setting],
) -> None:
    with Torture(setting("in_place", "in_place"), SEED) as torture:
        settle(torture, 1)
        torture.kill_at_random(KILLS_IN_PLACE)
        torture.kill_at_each(IN_PLACE_POINTS)


@pytest.mark.parametrize("points", GROUPS.values(), ids=GROUPS)
def test_nights_killed_at_named_points_are_ended_by_the_next(settled: Torture, points: list[str]) -> None:
    settled.change(2)
    settled.kill_at_each(points)


# --- other faults


def test_five_random_faults_a_night_leave_exactly_the_model(setting: Callable[..., Setting]) -> None:
    with Torture(setting("faults"), SEED) as torture:
        settle(torture)
        torture.random_faults(FAULTY_NIGHTS)
    assert torture.tally.fired >= FAULTS_THAT_STRIKE * torture.tally.drawn, summary(torture)


def test_an_alias_that_sticks_is_switched_until_reads_agree(settled: Torture) -> None:
    settled.corpus.add_large()
    assert settled.night((Fault(ALIAS_STICKS, 3), Fault("clock a day forward"))).outcome == "promoted"


def test_a_candidate_that_somebody_released_is_loaded_before_the_switch(settled: Torture) -> None:
    settled.corpus.add_large()
    assert settled.night((Fault("candidate released"), Fault("clock a day back"))).outcome == "promoted"


def test_an_alias_that_stuck_in_a_killed_night_is_healed_by_the_next_that_changes_nothing(settled: Torture) -> None:
    settled.corpus.add_large()
    assert settled.night((Fault(ALIAS_STICKS), Fault("after the switch"))).outcome == "killed"
    assert settled.whole_night().outcome == "unchanged"


# --- negative controls: a torture that cannot fail proves nothing


CONTROLS = [
    pytest.param(["random ids"], [()], id="random ids"),
    pytest.param(["heads first", "no audit"], [("heads acknowledged",), ()], id="heads first"),
    pytest.param(["no probe after the switch"], [(), (ALIAS_STICKS,)], id="no probe"),
]
"""Sabotages, and the nights of which the last shows them on every Milvus."""
INSERTS = pytest.param(["insert for upsert", "no verify"], [("insert acknowledgement lost",)], id="inserts")
"""Milvus Lite keeps one row of a key, whatever writes it: only a server shows physical duplicates."""


@pytest.mark.parametrize(("sabotages", "nights"), CONTROLS)
def test_the_torture_fails_when_the_product_is_broken(
    tmp_path: Path, prefect_server: str, sabotages: list[str], nights: list[tuple[str, ...]]
) -> None:
    must_fail(Setting(tmp_path, "index.db", prefect_server, "torture"), sabotages, nights)


@pytest.mark.milvus
@pytest.mark.parametrize(
    "nights", [[("insert acknowledgement lost",)], [(), ("copy acknowledgement lost",)]], ids=["inserts", "copies"]
)
def test_the_torture_fails_when_writes_are_inserts(
    tmp_path: Path, prefect_server: str, milvus_server: str, nights: list[tuple[str, ...]]
) -> None:
    """Milvus Lite keeps one row of a key, whatever writes it: only a server shows physical duplicates."""
    setting = Setting(tmp_path, milvus_server, prefect_server, f"torture_control_{len(nights)}")
    must_fail(setting, ["insert for upsert", "no verify"], nights)


def must_fail(setting: Setting, sabotages: list[str], nights: list[tuple[str, ...]]) -> None:
    """Nights with these faults, of which the last must show that the product is broken."""
    *before, last = nights
    torture = Torture(setting, SEED, sabotages)
    for names in before:
        torture.night(tuple(Fault(name) for name in names))
        torture.corpus.add_large()
    with pytest.raises(TortureFailed):
        last_night(torture, last)


def last_night(torture: Torture, names: tuple[str, ...]) -> None:
    """One more; the reader may be the first to see what is wrong."""
    with torture:
        torture.night(tuple(Fault(name) for name in names))
