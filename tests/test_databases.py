"""Databases of a server: an index lives in one of them, with everything that belongs to it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from pymilvus import MilvusClient

from nightloom import live, operate
from nightloom.corpus import MilvusSettings
from nightloom.errors import IndexInputError
from nightloom.flows.check import checks
from nightloom.index import open_index
from tests.nights import TEXTS, Home, night

pytestmark = pytest.mark.usefixtures("prefect_api")

NAMES = ("north", "south")
ALIAS = "the_same"


@pytest.mark.parametrize(
    ("given", "uri", "database"),
    [
        ({"uri": "http://milvus:19530"}, "http://milvus:19530", None),
        ({"uri": "http://milvus:19530/"}, "http://milvus:19530", None),
        ({"uri": "http://milvus:19530/north"}, "http://milvus:19530", "north"),
        ({"uri": "https://milvus/north/", "database": "north"}, "https://milvus", "north"),
        ({"uri": "http://milvus:19530", "database": "north"}, "http://milvus:19530", "north"),
    ],
)
def test_a_path_in_the_address_is_a_database(given: dict[str, str], uri: str, database: str | None) -> None:
    found = MilvusSettings.model_validate(given)
    assert (found.uri, found.database) == (uri, database)
    assert found.place == (f"{uri}/{database}" if database else uri)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"uri": "http://milvus:19530/north", "database": "south"}, "keep one of them"),
        ({"uri": "http://milvus:19530/north/south"}, "database"),
        ({"uri": "data/index.db", "database": "north"}, "not for a Milvus Lite file"),
        ({"uri": "http://milvus:19530", "database": "it's"}, "database"),
    ],
)
def test_what_is_no_database_is_refused(given: dict[str, str], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        MilvusSettings.model_validate(given)


@pytest.fixture
def homes(milvus_server: str, tmp_path: Path) -> Iterator[tuple[Home, Home]]:
    """Two corpora of one alias, in two databases of a server: one by a path in the address, one by a key."""
    client = MilvusClient(milvus_server)
    for name in NAMES:
        client.create_database(name)
    north, south = (Home(tmp_path / name, milvus_server, ALIAS) for name in NAMES)
    north.folder.mkdir()
    south.folder.mkdir()
    north = Home(north.folder, f"{milvus_server}/north", ALIAS)
    south.write({"rye.txt": "Rye bread needs a sour dough."})
    north.write(TEXTS)
    north.configure()
    south.configure(evaluation=False)
    south.file.write_text(south.file.read_text().replace("[milvus]\n", '[milvus]\ndatabase = "south"\n'))
    yield north, south
    for name in NAMES:
        Home(tmp_path, f"{milvus_server}/{name}", ALIAS).drop_collections()
        client.drop_database(name)
    client.close()


def collections(server: str, database: str) -> list[str]:
    client = MilvusClient(server, db_name=database)
    found: list[str] = client.list_collections()
    client.close()
    return found


@pytest.mark.milvus
async def test_indexes_of_one_alias_in_two_databases_never_see_each_other(
    homes: tuple[Home, Home], milvus_server: str
) -> None:
    north, south = homes
    before = set(collections(milvus_server, "default"))
    assert (await night(north))["outcome"] == "promoted"
    assert (await night(south))["outcome"] == "promoted"
    for home, uris in ((north, {f"texts/{name}" for name in TEXTS}), (south, {"texts/rye.txt"})):
        assert {row["uri"] for row in (await home.rows()).values()} == uris
        assert (await night(home))["outcome"] == "unchanged"
    north.write(TEXTS | {"bread.txt": "Wheat bread does not. " * 40})
    assert (await night(north))["outcome"] == "promoted"
    assert (await night(north, index={"update": "in_place"}))["outcome"] == "unchanged"
    await operate.roll_back(north.corpus, None)
    assert (await operate.verify_live(north.corpus, None))[1].findings == ()
    assert {hit.uri for hit in await live.ask(south.corpus, None, "How does dough rise?", 20)} == {"texts/rye.txt"}
    assert len(await operate.all_generations(north.corpus, None)) == 2
    assert len(await operate.all_generations(south.corpus, None)) == 1
    assert set(collections(milvus_server, "default")) == before, "nothing of theirs is in another database"
    found = dict(await checks(south.file))["milvus"]
    assert found.says.startswith(f"{milvus_server}/south: Milvus")
    assert "1 generations" in found.says


@pytest.mark.milvus
async def test_a_database_that_is_not_there_is_named(milvus_server: str, tmp_path: Path) -> None:
    home = Home(tmp_path, f"{milvus_server}/nowhere", ALIAS)
    home.write(TEXTS)
    home.configure()
    with pytest.raises(IndexInputError, match=r'milvus.database: .*: the server has no database "nowhere"; create it'):
        await night(home)
    async with open_index(MilvusSettings(uri=milvus_server), ALIAS) as index:
        assert await index.generations() == []
