"""Nights against Milvus as newer versions answer: see `tests.twin`."""

import asyncio
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from milvus_lite.server_manager import ServerManager
from pymilvus import MilvusClient

from nightloom import index as index_module
from nightloom import operate
from nightloom.column_transfer import ColumnTransfer
from nightloom.corpus import MilvusSettings
from nightloom.documents import document_id
from nightloom.errors import Held, IndexInconsistent, IndexRefused, IndexTaken, IndexUnavailable, NightFailed
from nightloom.flows.check import checks
from nightloom.index import Index, open_index
from nightloom.milvus import Connection, open_connection
from tests.nights import TEXTS, Home, live_name, night
from tests.test_reads import VECTOR, only_node, rows
from tests.test_torture import CONTROLS, INSERTS, must_fail
from tests.torture.calls import Fault
from tests.torture.campaign import Torture, settle
from tests.torture.child import start_fork_server
from tests.torture.setting import Setting
from tests.torture.sticky import ALIAS_STICKS
from tests.twin import VERSIONS, Twin
from tests.twin.twin import ZILLIZ, without

Behind = tuple[str, bool]
"""Address of the Milvus behind a twin, and whether it is Milvus Lite."""
KILLED_AT = ("nodes acknowledged", "heads acknowledged", "copied nodes acknowledged", "after the switch")
IN_PLACE = '[index]\nupdate = "in_place"\n'

pytestmark = pytest.mark.usefixtures("prefect_api")
ONE_VERSION = pytest.mark.parametrize("twin", ["2.6.16"], indirect=True)
ON_LITE = pytest.mark.parametrize("behind", ["lite"], indirect=True)
"""For tests of what the twin does itself: it does not matter which Milvus is behind it."""
OWN_SERVER = (pytest.mark.milvus, pytest.mark.own_server)
ON_SERVER = pytest.mark.parametrize("behind", [pytest.param("server", marks=OWN_SERVER)], indirect=True)


@pytest.fixture(scope="module", params=["lite", pytest.param("server", marks=OWN_SERVER)])
def behind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Behind]:
    if request.param == "server":
        yield request.getfixturevalue("oldest_server"), False
        return
    manager = ServerManager()
    address = manager.start_and_get_uri(str(tmp_path_factory.mktemp("behind") / "index.db"))
    assert address
    yield address, True
    manager.release_all()


@pytest.fixture
def new_twin(behind: Behind) -> Iterator[Callable[[str], Twin]]:
    """Makes twins of versions; they end with the test."""
    made: list[Twin] = []

    def make(version: str) -> Twin:
        address, is_lite = behind
        made.append(Twin(address, version, is_lite=is_lite))
        return made[-1]

    yield make
    for twin in made:
        twin.stop()


@pytest.fixture(params=VERSIONS)
def twin(request: pytest.FixtureRequest, new_twin: Callable[[str], Twin]) -> Twin:
    return new_twin(request.param)


@pytest.fixture
def home(twin: Twin, tmp_path: Path) -> Iterator[Home]:
    """A corpus of five documents that no night has seen yet, on a twin."""
    yield from home_on(twin, tmp_path)


def home_on(twin: Twin, folder: Path) -> Iterator[Home]:
    new = Home(folder, twin.uri, f"test_{document_id(str(folder))[:12]}")
    new.write(TEXTS)
    new.configure()
    yield new
    new.drop_collections()


# --- nights


async def test_nights_of_every_kind(home: Home) -> None:
    assert (await night(home))["outcome"] == "promoted"
    first = await home.rows()
    assert (await night(home))["outcome"] == "unchanged"

    home.write(TEXTS | {"bread.txt": "Rye bread needs a sour dough. " * 40})
    changed = await night(home)
    assert (changed["outcome"], changed["documents"]["changed"]) == ("promoted", 1)
    second = await home.rows()
    assert second.keys() > first.keys()

    home.write(TEXTS | {"moon.txt": "A lamp."})
    with pytest.raises(Held, match="nDCG@10"):
        await night(home, gate={"floor": 1.0})
    assert await home.rows() == second
    home.write(TEXTS)

    switch = await operate.roll_back(home.corpus, None)
    assert switch.before == changed["generation"]
    assert await home.rows() == first

    client = MilvusClient(home.uri)
    client.delete(switch.after, filter=f'id == "{document_id("texts/moon.txt")}-0"')
    client.close()
    assert (await night(home, repair=True))["outcome"] == "promoted"
    assert await home.rows() == first

    home.configure(IN_PLACE)
    home.write(TEXTS | {"chess.txt": "A bishop moves along the diagonals. " * 40, "moon.txt": TEXTS["moon.txt"]})
    in_place = await night(home)
    assert in_place["outcome"] == "promoted"
    assert len(await home.rows()) > len(first)


@pytest.fixture(scope="module")
def _fork_server() -> None:
    start_fork_server()


@ON_SERVER
@pytest.mark.usefixtures("_fork_server")
def test_nights_that_are_killed_are_ended_by_the_next(twin: Twin, tmp_path: Path, prefect_server: str) -> None:
    name = f"torture_twin_{document_id(str(tmp_path))[:8]}"
    with Torture(Setting(tmp_path, twin.uri, prefect_server, name), 7) as torture:
        settle(torture, 1)
        torture.change(2)
        torture.kill_at_each(KILLED_AT)
        torture.corpus.add_large()
        assert torture.night((Fault(ALIAS_STICKS, 2),)).outcome == "promoted"
    drop_all(twin, name)


@pytest.mark.usefixtures("_fork_server")
@ONE_VERSION
@pytest.mark.parametrize(
    ("behind", "sabotages", "nights"),
    [
        *(pytest.param("lite", *one.values, id=one.id) for one in CONTROLS),
        pytest.param("server", *INSERTS.values, id=INSERTS.id, marks=OWN_SERVER),
    ],
    indirect=["behind"],
)
def test_the_torture_fails_when_the_product_is_broken(
    twin: Twin, tmp_path: Path, prefect_server: str, sabotages: list[str], nights: list[tuple[str, ...]]
) -> None:
    name = f"torture_twin_{document_id(str(tmp_path))[:8]}"
    must_fail(Setting(tmp_path, twin.uri, prefect_server, name), sabotages, nights)
    drop_all(twin, name)


def drop_all(twin: Twin, prefix: str) -> None:
    """Every loaded collection makes a server slower for the tests to come."""
    client = MilvusClient(twin.uri)
    for collection in client.list_collections():
        if collection.startswith(prefix):
            for alias in client.list_aliases(collection)["aliases"]:
                client.drop_alias(alias)
            client.drop_collection(collection)
    client.close()


@ON_LITE
@ONE_VERSION
async def test_hybrid_nights(home: Home) -> None:
    home.configure('[retrieval]\nmode = "hybrid"\n')
    assert (await night(home))["outcome"] == "promoted"
    home.write(TEXTS | {"bread.txt": "Rye bread needs a sour dough."})
    assert (await night(home))["outcome"] == "promoted"
    assert len(await home.rows()) == len(await home.rows())


@ON_LITE
@ONE_VERSION
async def test_nights_by_public_functions_of_the_client_alone(home: Home) -> None:
    rows_only: dict[str, Any] = {"milvus": {"transfer": "rows"}}
    assert (await night(home, **rows_only))["outcome"] == "promoted"
    home.write(TEXTS | {"bread.txt": "Rye bread needs a sour dough. " * 40})
    assert (await night(home, **rows_only))["outcome"] == "promoted"
    by_rows = await home.rows()
    assert (await night(home))["outcome"] == "unchanged"
    assert await home.rows() == by_rows


# --- the moment that a scan reads at


def send_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong code: every page asks for the time by which pymilvus says "bounded staleness"."""
    read = ColumnTransfer.read

    def bounded(self: ColumnTransfer, *arguments: Any, strong: bool, **_: Any) -> Any:
        return read(self, *arguments, moment=2, strong=strong)

    monkeypatch.setattr(ColumnTransfer, "read", bounded)


@ON_LITE
async def test_a_time_that_the_server_has_not_given_hides_every_row(
    home: Home, twin: Twin, monkeypatch: pytest.MonkeyPatch
) -> None:
    send_bounded(monkeypatch)
    with pytest.raises(IndexInconsistent, match="holds 6 rows where 0 are expected"):
        await night(home)
    with without(twin.moments):  # the rule is what finds it
        assert (await night(home))["outcome"] == "promoted"


@pytest.fixture
async def collection(twin: Twin, tmp_path: Path) -> Any:
    """A collection of two dimensions on a twin, and a connection to it."""
    name = f"twin_{document_id(str(tmp_path))[:12]}"
    async with open_connection(MilvusSettings(uri=twin.uri), None) as opened:
        await opened.create(name, dim=2, properties={"x": "y"})
        yield opened, name
        await opened.call(lambda: opened.client.drop_collection(name))


async def test_a_scan_is_one_snapshot(collection: tuple[Connection, str], twin: Twin) -> None:
    connection, name = collection
    await connection.call(partial(connection.upsert_now, name, rows([f"{at:03}" for at in range(40)])))
    await connection.count(name)
    scan = connection.scan(name, "position >= 0", ("position",), 10)
    first = next(scan)
    late = [row | {"id": f"{at:03}x"} for at, row in enumerate(rows([str(at) for at in range(40)]))]
    await connection.call(partial(connection.upsert_now, name, late))
    assert [row["id"] for batch in (first, *scan) for row in batch] == [f"{at:03}" for at in range(40)]
    pages = [call.request for call in twin.proxy.calls if call.method == "Query" and call.request.query_params]
    asked = [page.guarantee_timestamp for page in pages if page.output_fields != ["count(*)"]]
    assert asked[0] == 0
    assert len(set(asked[1:])) == 1
    assert asked[1] > 0
    with without(twin.moments):
        assert len([row for batch in connection.scan(name, "position >= 0", (), 10) for row in batch]) == 80


@ONE_VERSION
async def test_reads_after_a_count_see_what_it_saw_on_a_replica_whose_clock_is_behind(
    collection: tuple[Connection, str], twin: Twin
) -> None:
    connection, name = collection
    twin.moments.lag_seconds = 60
    keys = [f"{at:03}" for at in range(30)]
    await connection.call(partial(connection.upsert_now, name, rows(keys)))
    assert await connection.count(name) == len(keys)
    assert [row["id"] for batch in connection.scan(name, "position >= 0", (), 10) for row in batch] == keys
    (nearest,) = connection.nearest(name, [np.array([0.6, 0.8], dtype=np.float32)], 30, ["id"])
    assert len(nearest) == len(keys)
    bounded = connection.client.query(name, filter="position >= 0", output_fields=["id"], consistency_level="Bounded")
    assert not bounded, "the replica is behind, or this shows nothing"


# --- an alias that sticks


def switch_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong code: the same alter_alias is made again."""

    def again(self: Index, collection: str, _instead_of: str | None, _detour: str | None) -> bool:
        if self._alias_target() is None:
            self.connection.client.create_alias(collection, self.alias)
            return True
        self.connection.client.alter_alias(collection, self.alias)
        return False

    monkeypatch.setattr(Index, "_switch", again)


@ON_LITE
@pytest.mark.parametrize("times", [1, 3])
async def test_an_alias_that_sticks_is_healed_by_real_changes(home: Home, twin: Twin, times: int) -> None:
    await night(home)
    home.write(TEXTS | {"bread.txt": "Rye bread needs a sour dough."})
    twin.aliases.sticks = times
    assert (await night(home))["outcome"] == "promoted"
    client = MilvusClient(home.uri)
    heads = client.query(home.name, filter="position == 0", output_fields=["version"], consistency_level="Strong")
    client.close()
    assert {row["version"] for row in heads} == {row["version"] for row in (await home.rows()).values()}


@ON_LITE
@ONE_VERSION
async def test_the_same_switch_again_does_not_heal_it(home: Home, twin: Twin, monkeypatch: pytest.MonkeyPatch) -> None:
    await night(home)
    home.write(TEXTS | {"bread.txt": "Rye bread needs a sour dough."})
    monkeypatch.setattr(index_module, "PROOF_PAUSE_SECONDS", 0.01)
    switch_again(monkeypatch)
    twin.aliases.sticks = 1
    with pytest.raises(IndexInconsistent, match="still answer from another generation"):
        await night(home)
    twin.aliases.ignores_the_same = False  # the rule is what finds it
    twin.aliases.sticks = 1
    home.write(TEXTS | {"bread.txt": "Wheat bread does not."})
    assert (await night(home))["outcome"] == "promoted"


@ON_LITE
@ONE_VERSION
async def test_readers_are_led_through_no_generation_that_was_taken_back(home: Home, twin: Twin) -> None:
    await night(home)
    home.write(TEXTS | {"bread.txt": "Rye bread needs a sour dough."})
    taken_back = (await night(home))["generation"]
    home.write(TEXTS)
    live = (await operate.roll_back(home.corpus, None)).after
    twin.aliases._stale["default", home.name] = taken_back
    del twin.proxy.calls[:]
    assert (await night(home))["outcome"] == "unchanged"
    switched = [call.request.collection_name for call in twin.proxy.calls if call.method == "AlterAlias"]
    assert set(switched) == {live}
    assert not twin.aliases._stale


@ONE_VERSION
async def test_an_alias_that_sticks_where_no_other_generation_is_left(home: Home, twin: Twin) -> None:
    """The earlier generation is gone, so that there is no other to lead through."""
    home.configure("[index]\nkeep = 0\n")
    await night(home)
    twin.aliases._stale["default", home.name] = "gone"
    assert (await night(home))["outcome"] == "unchanged"
    assert not twin.aliases._stale


# --- properties from a cache


@pytest.fixture
def two_doors(new_twin: Callable[[str], Twin]) -> tuple[Twin, Twin]:
    """Two proxies of one cluster: each hears of the changes that went through it."""
    return new_twin("2.6.16"), new_twin("2.6.16")


async def test_a_night_that_lost_its_claim_writes_no_head_whatever_a_cache_says(
    two_doors: tuple[Twin, Twin], tmp_path: Path
) -> None:
    here, there = two_doors
    name = f"claim_{document_id(str(tmp_path))[:8]}"
    async with open_index(MilvusSettings(uri=here.uri), name) as older:
        made = await older.create("0" * 64, 2, [], datetime.now(UTC))
        await older.contents.check_claim(made.name)
        async with open_index(MilvusSettings(uri=there.uri), name) as newer:
            await newer.contents.claim(made.name)
        assert older.connection.properties(made.name)["nightloom.writer"] == older.contents.writer, "from the cache"
        with pytest.raises(IndexTaken, match="another night has taken up"):
            await older.contents.upsert(made.name, [only_node("a", 1)], VECTOR)
        with pytest.raises(IndexTaken, match="another night has taken up"):
            await older.contents.check_claim(made.name)
        assert await older.connection.count(made.name) == 0
        await older.drop(made)


@ON_LITE
@ONE_VERSION
async def test_shards_of_one_night_do_not_take_each_other_for_another_night(twin: Twin, tmp_path: Path) -> None:
    name = f"claim_{document_id(str(tmp_path))[:8]}"
    async with open_index(MilvusSettings(uri=twin.uri), name) as index:
        made = await index.create("0" * 64, 2, [], datetime.now(UTC))
        await asyncio.gather(*(index.contents.check_claim(made.name) for _ in range(20)))
        await index.drop(made)


# --- errors by their codes


@ON_LITE
@ONE_VERSION
@pytest.mark.parametrize(("code", "kind"), [(1, IndexUnavailable), (2, IndexUnavailable), (100, IndexRefused)])
async def test_a_collection_that_cannot_be_described_now_is_asked_for_again(
    collection: tuple[Connection, str], twin: Twin, code: int, kind: type[Exception]
) -> None:
    connection, name = collection
    twin.failures.fail("DescribeCollection", code, "what happened")
    with pytest.raises(kind, match="what happened"):
        await connection.call(lambda: connection.properties(name))
    assert (await connection.call(lambda: connection.properties(name)))["x"] == "y"


@ON_LITE
@ONE_VERSION
@pytest.mark.parametrize(
    ("method", "code"), [("Upsert", 1102), ("Upsert", 109), ("Upsert", 65_535), ("CreateCollection", 102)]
)
async def test_what_no_retry_mends_is_refused(
    collection: tuple[Connection, str], twin: Twin, method: str, code: int
) -> None:
    connection, name = collection
    twin.failures.fail(method, code, "what happened", times=99)
    tries = {
        "Upsert": lambda: connection.call(partial(connection.upsert_now, name, rows(["a"]))),
        "CreateCollection": lambda: connection.create(f"{name}_more", dim=2, properties={"x": "y"}),
    }
    with pytest.raises(IndexRefused, match="what happened"):
        await tries[method]()


@ON_LITE
@ONE_VERSION
async def test_the_server_knows_best_whether_a_retry_is_of_use(collection: tuple[Connection, str], twin: Twin) -> None:
    connection, name = collection
    twin.failures.fail("Upsert", 1100, "what happened", retriable=True)
    with pytest.raises(IndexUnavailable):
        await connection.call(partial(connection.upsert_now, name, rows(["a"])))


async def test_a_collection_that_is_not_there_is_refused(twin: Twin) -> None:
    async with open_connection(MilvusSettings(uri=twin.uri), None) as opened:
        with pytest.raises(IndexRefused, match="can't find collection"):
            await opened.call(lambda: opened.properties("nobody"))


# --- the dynamic field


@ON_LITE
@pytest.mark.parametrize("older", [True, False])
@ONE_VERSION
async def test_rows_are_copied_whether_the_dynamic_field_may_say_that_it_is_not_there(
    collection: tuple[Connection, str], twin: Twin, *, older: bool
) -> None:
    connection, name = collection
    await connection.call(partial(connection.upsert_now, name, rows([f"{at:03}" for at in range(9)])))
    await connection.count(name)
    batches = list(connection.read_batches(name, "position >= 0"))
    twin.dynamic.older = older
    for batch in batches:
        connection.write(name, batch)
        connection.write(name, batch.select([0, 2]))
    assert await connection.count(name) == 9


# --- flush


@ONE_VERSION
async def test_a_night_flushes_a_collection_once(home: Home, twin: Twin) -> None:
    await night(home)
    flushed = [name for call in twin.proxy.calls if call.method == "Flush" for name in call.request.collection_names]
    assert len(flushed) == len(set(flushed))


# --- what `nightloom check` says


@ON_LITE
async def test_check_names_kind_version_and_what_is_known_to_be_wrong(home: Home, twin: Twin) -> None:
    found = dict(await checks(home.file))["milvus"]
    assert not found.is_error
    assert found.says.startswith(f"{home.uri}: Milvus {twin.version}, 0 generations, live: none")
    assert ("52055" in found.says) is (twin.version == "2.6.16")


# --- Zilliz Cloud


@pytest.fixture
def cloud(new_twin: Callable[[str], Twin], behind: Behind) -> Twin:
    client = MilvusClient(behind[0])
    left = client.list_collections()
    client.close()
    if left:
        pytest.skip(f"collections of other tests are there: {left}")
    return new_twin(ZILLIZ)


@ON_LITE
async def test_reads_on_zilliz_cloud_see_what_was_counted_though_it_tells_no_time(cloud: Twin, tmp_path: Path) -> None:
    cloud.moments.lag_seconds = 60
    name = f"cloud_{document_id(str(tmp_path))[:12]}"
    async with open_connection(MilvusSettings(uri=cloud.uri), None) as opened:
        await opened.create(name, dim=2, properties={"x": "y"})
        await opened.call(partial(opened.upsert_now, name, rows([f"{at:03}" for at in range(30)])))
        assert await opened.count(name) == 30
        (nearest,) = opened.nearest(name, [np.array([0.6, 0.8], dtype=np.float32)], 30, ["id"])
        assert len(nearest) == 30
        await opened.call(lambda: opened.client.drop_collection(name))


@ON_LITE
async def test_hybrid_nights_on_zilliz_cloud(cloud: Twin, tmp_path: Path) -> None:
    for home in home_on(cloud, tmp_path):
        home.configure('[retrieval]\nmode = "hybrid"\n')
        assert (await night(home))["outcome"] == "promoted"


@ON_LITE
async def test_nights_on_zilliz_cloud(cloud: Twin, tmp_path: Path) -> None:
    for home in home_on(cloud, tmp_path):
        assert (await night(home))["outcome"] == "promoted"
        assert (await night(home))["outcome"] == "unchanged"
        home.configure('[index]\ntype = "HNSW"\n[gate]\nprobes = 40\n')
        home.write(TEXTS | {"bread.txt": "Rye bread needs a sour dough. " * 40})
        report = await night(home)
        assert report["outcome"] == "promoted"
        assert any("AUTOINDEX" in warning for warning in report["warnings"])
        async with open_index(home.corpus.milvus, home.name) as index:
            assert index.connection.capabilities.kind == ZILLIZ
            assert not await index.contents.is_exact(await live_name(index))
        home.configure()
        home.write(TEXTS)
        assert (await night(home))["outcome"] == "promoted"


@ON_LITE
async def test_a_plan_that_takes_no_more_collections_says_so(cloud: Twin, tmp_path: Path) -> None:
    for home in home_on(cloud, tmp_path):
        client = MilvusClient(home.uri)
        for at in range(5):
            client.create_collection(f"{home.name}_x{at}", dimension=2)
        client.close()
        found = dict(await checks(home.file))["milvus"]
        assert (
            "it holds 5 collections, and a night needs one more; plans take so many: Free 5, Serverless 100"
            in found.says
        )
        with pytest.raises((IndexRefused, NightFailed), match="exceeded the limit number of collections"):
            await night(home)


# --- controls


def test_every_rule_says_where_it_comes_from(new_twin: Callable[[str], Twin]) -> None:
    for version in (*VERSIONS, ZILLIZ):
        assert all(rule.source for rule in new_twin(version).rules)
