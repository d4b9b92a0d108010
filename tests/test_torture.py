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
from tests.torture.campaign import Setting, Torture, settle, summary
from tests.torture.checker import TortureFailed
from tests.torture.child import start_fork_server
from tests.torture.faults import ALIAS_STICKS, CLEARING_POINTS, FIRST_NIGHT_POINTS, POINTS, Fault
from tests.torture.model import MAX_TOKENS, HashEmbedder, ModelCorpus, State

KILLS = 25
"""At random moments, on each kind of Milvus; `make torture` does more."""
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
) -> Callable[[str], Setting]:
    """Where a torture of that name takes place."""
    uri = request.getfixturevalue("milvus_server") if kind == "server" else "index.db"
    return lambda name: Setting(tmp_path_factory.mktemp(name), uri, prefect_server, f"torture_{name}")


@pytest.fixture(scope="module")
def settled(setting: Callable[[str], Setting]) -> Iterator[Torture]:
    """A torture with a few whole nights behind it; tests leave it whole."""
    with Torture(setting("settled"), SEED) as torture:
        settle(torture)
        yield torture
        torture.change()
        torture.whole_night()


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


def test_nights_killed_at_random_moments_leave_exactly_the_model(
    setting: Callable[[str], Setting], record_property: Callable[[str, object], None]
) -> None:
    with Torture(setting("random"), SEED) as torture:
        settle(torture)
        torture.kill_at_random(KILLS)
        torture.change()
        torture.whole_night()
        assert torture.tally.kills >= KILLS
    record_property("torture", summary(torture))


@pytest.mark.parametrize("point", FIRST_NIGHT_POINTS)
def test_a_first_night_killed_at_a_named_point_is_ended_by_the_next(
    setting: Callable[[str], Setting], point: str
) -> None:
    with Torture(setting(point.replace(" ", "_")), SEED) as torture:
        torture.kill_at(point)
        torture.whole_night()


@pytest.mark.parametrize("point", POINTS)
def test_a_night_killed_at_a_named_point_is_ended_by_the_next(settled: Torture, point: str) -> None:
    settled.change(2)
    settled.corpus.add_large()
    settled.kill_at(point)
    settled.whole_night()


def test_a_night_killed_while_it_clears_up_after_another_is_ended_by_the_next(settled: Torture) -> None:
    for point in CLEARING_POINTS:
        for _ in range(3):  # two shards
            settled.corpus.add_large()
        settled.kill_at("heads acknowledged", 2)
        settled.corpus.rewrite()
        settled.kill_at(point)
    settled.whole_night()


# --- other faults


def test_five_random_faults_a_night_leave_exactly_the_model(
    setting: Callable[[str], Setting], record_property: Callable[[str, object], None]
) -> None:
    with Torture(setting("faults"), SEED) as torture:
        settle(torture)
        torture.random_faults(6)
        torture.whole_night()
    record_property("torture", summary(torture))


def test_an_alias_that_sticks_is_switched_until_reads_agree(settled: Torture) -> None:
    settled.corpus.add_large()
    assert settled.night((Fault(ALIAS_STICKS, 3),)).outcome == "promoted"


def test_a_candidate_that_somebody_released_is_loaded_before_the_switch(settled: Torture) -> None:
    settled.corpus.add_large()
    assert settled.night((Fault("candidate released"),)).outcome == "promoted"


@pytest.mark.parametrize("fault", ["clock a day forward", "clock a day back"])
def test_a_wrong_clock_has_no_effect(settled: Torture, fault: str) -> None:
    for faults in ((Fault(fault),), ()):
        settled.corpus.add_large()
        assert settled.night(faults).outcome == "promoted"


# --- negative controls: a torture that cannot fail proves nothing


@pytest.mark.parametrize(
    ("sabotage", "faults"),
    [
        ("random ids", ()),
        ("heads first", (Fault("heads acknowledged"),)),
        ("no probe after the switch", (Fault(ALIAS_STICKS),)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_torture_fails_when_the_product_is_broken(
    tmp_path: Path, prefect_server: str, sabotage: str, faults: tuple[Fault, ...]
) -> None:
    with pytest.raises(TortureFailed):
        three_nights(Setting(tmp_path, "index.db", prefect_server, "torture"), sabotage, faults)


@pytest.mark.milvus
@pytest.mark.parametrize("fault", ["insert acknowledgement lost", "copy acknowledgement lost"])
def test_the_torture_fails_when_writes_are_inserts(
    tmp_path: Path, prefect_server: str, milvus_server: str, fault: str
) -> None:
    """Milvus Lite keeps one row of a key, whatever writes it: only a server shows physical duplicates."""
    setting = Setting(tmp_path, milvus_server, prefect_server, f"torture_{fault.replace(' ', '_')}")
    with pytest.raises(TortureFailed):
        three_nights(setting, "insert for upsert", (Fault(fault),))


def three_nights(setting: Setting, sabotage: str, faults: tuple[Fault, ...]) -> None:
    """A first night, one with faults, one without."""
    with Torture(setting, SEED, (sabotage,)) as torture:
        torture.whole_night()
        torture.corpus.add_large()
        torture.night(faults)
        torture.whole_night()
