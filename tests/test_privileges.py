"""What nights, commands and readers ask of Milvus, call by call, and what the shipped roles let them do: the same."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from pymilvus import MilvusClient

import nightloom
from deployments.milvus_access import ROLES
from nightloom import live, operate
from nightloom.documents import document_id
from nightloom.errors import Held, IndexRefused
from nightloom.secrets import MILVUS_TOKEN
from tests.nights import TEXTS, Home, night
from tests.twin import Twin
from tests.twin.rules import privilege_of

pytestmark = [pytest.mark.milvus, pytest.mark.own_server, pytest.mark.usefixtures("prefect_api")]

INDEXER, READER = "nightloom_indexer", "nightloom_reader"
IN_PLACE = '[index]\nupdate = "in_place"\n'
DATABASES = ["default", "x"]


def granted(role: str, database: str) -> set[tuple[str, str, str]]:
    """What a role of `milvus_access` may do, as the twin checks it."""
    return {(database, kind, privilege) for kind, privileges in ROLES[role].items() for privilege in privileges}


def asked(twin: Twin) -> set[tuple[str, str]]:
    """The privileges that the calls of all clients so far ask for, by the options of their messages."""
    return {wanted for call in twin.proxy.calls if (wanted := privilege_of(call.method))}


@pytest.fixture(params=[("2.6.16", "x"), ("3.0.0", "x"), ("3.0.0", "default")], ids="-".join)
def place(request: pytest.FixtureRequest) -> tuple[str, str]:
    """A version, and a database of its."""
    version, database = request.param
    return version, database


@pytest.fixture
def twin(place: tuple[str, str], oldest_server: str) -> Iterator[Twin]:
    """A Milvus that asks of each call for its privilege."""
    new = Twin(oldest_server, place[0])
    yield new
    new.stop()


@pytest.fixture
def database(place: tuple[str, str], oldest_server: str) -> Iterator[str]:
    name, client = place[1], MilvusClient(oldest_server)
    if name not in client.list_databases():
        client.create_database(name)
    yield name
    if name != "default":
        client.drop_database(name)
    client.close()


@pytest.fixture
def home(twin: Twin, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    twin.privileges.users = {INDEXER: granted(INDEXER, database), READER: granted(READER, database)}
    monkeypatch.setenv(MILVUS_TOKEN, f"{INDEXER}:secret")
    new = Home(tmp_path, f"{twin.uri}/{database}", f"rights_{document_id(str(tmp_path))[:12]}")
    new.write(TEXTS)
    new.configure()
    yield new
    twin.privileges.users = {}
    new.drop_collections()


async def nights_of_every_kind(home: Home, token: SecretStr) -> None:
    """Whatever a night or a command of an operator may do."""
    assert (await night(home))["outcome"] == "promoted"
    home.configure('[index]\ntype = "HNSW"\nkeep = 0\n')  # another index over the vectors, once the rows are flushed
    home.write(TEXTS | {"bread.txt": "Rye bread needs a sour dough. " * 40})
    assert (await night(home))["outcome"] == "promoted"
    home.configure()
    home.write(TEXTS | {"moon.txt": "A lamp."})
    with pytest.raises(Held):
        await night(home)
    held = next(one.name for one in await operate.all_generations(home.corpus, token) if one.held)
    await operate.promote_held(home.corpus, token, held)
    await operate.roll_back(home.corpus, token)
    await operate.list_generations(home.corpus, token)
    await operate.verify_live(home.corpus, token)
    home.configure(IN_PLACE)
    home.write({name: text for name, text in TEXTS.items() if name != "piano.txt"})
    assert (await night(home, repair=True))["outcome"] == "promoted"


@pytest.mark.parametrize("place", [("2.6.16", "x"), ("3.0.0", "default")], ids="-".join, indirect=True)
async def test_the_roles_hold_exactly_what_nights_and_readers_ask_for(home: Home, twin: Twin, database: str) -> None:
    del twin.proxy.calls[:]
    await nights_of_every_kind(home, SecretStr(f"{INDEXER}:secret"))
    indexer = asked(twin)
    del twin.proxy.calls[:]
    reader_token = SecretStr(f"{READER}:secret")
    assert await live.ask(home.corpus, reader_token, "How does dough rise?")
    assert (await live.status(home.corpus, reader_token)).documents
    await live.evaluate_live(home.corpus, reader_token, None)
    with nightloom.reader(home.file, token=reader_token) as opened:
        assert await opened.retriever().aretrieve("How does dough rise?")
    reads_without_nightloom(home, database)
    reader = asked(twin)
    assert sorted(pairs(ROLES[READER])) == sorted(reader)
    assert sorted(pairs(ROLES[INDEXER])) == sorted(indexer | reader)


def reads_without_nightloom(home: Home, database: str) -> None:
    """What an application does that asks the alias with pymilvus alone."""
    client = MilvusClient(home.uri, token=f"{READER}:secret", db_name=database)
    name = client.describe_alias(home.name)["collection_name"]
    client.load_collection(name)
    assert client.query(home.name, filter="position == 0", output_fields=["text"], limit=1)
    client.close()


def pairs(role: Mapping[str, Any]) -> set[tuple[str, str]]:
    """Kind of object and privilege, as a role lists them."""
    return {(kind, privilege) for kind, privileges in role.items() for privilege in privileges}


@pytest.mark.parametrize("place", [("2.6.16", "x"), ("3.0.0", "x")], ids="-".join, indirect=True)
async def test_a_role_of_another_database_is_refused(home: Home, twin: Twin, database: str) -> None:
    other = next(one for one in DATABASES if one != database)
    twin.privileges.users = {INDEXER: granted(INDEXER, other)}
    with pytest.raises(IndexRefused, match=f"permission deny to {INDEXER} in the `{database}` database"):
        await night(home)
