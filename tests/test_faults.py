"""Real faults, on a real Milvus server of our own: whatever is lost, killed or paused, the rows are right."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogWorker
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from pymilvus import MilvusClient, MilvusException
from pymilvus.client.utils import check_status
from pymilvus.decorators import retry_on_rpc_failure
from pymilvus.grpc_gen import milvus_pb2

from deployments import local_milvus
from deployments.local_milvus import LocalMilvus, LocalMilvusUnavailable, start
from nightloom import night as night_module
from nightloom.column_transfer import ColumnTransfer
from nightloom.contents import Contents
from nightloom.documents import document_id
from nightloom.embedding import Embedder
from nightloom.errors import IndexInconsistent, IndexUnavailable, NightloomError
from nightloom.generations import Generation
from nightloom.index import Index, open_index
from nightloom.night import Night
from nightloom.tasks.insert import insert
from nightloom.vectors import Tokens, Vectors
from tests.builders import ROOT
from tests.lossy_proxy import LossyProxy
from tests.nights import TEXTS, Home, night
from tests.prefect_server import PrefectServer

Rows = dict[str, dict[str, Any]]

DIM = 384
RATE_MB = 0.02
"""Megabytes a second that a server takes which has to be waited for."""
WAIT_SECONDS = 120
MANY = {f"{at:02}.txt": f"{TEXTS['whale.txt']} Note {at}." for at in range(6)}
UNDISTURBED: dict[str, Rows] = {}
ONE_BY_ONE = "[shards]\ndocuments = 1\nin_flight = 1"


class OwnServer:
    """A Milvus server that tests may kill, pause, and start again at the same address."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._server: LocalMilvus = start(folder)

    @property
    def uri(self) -> str:
        return self._server.uri

    @property
    def port(self) -> int:
        return self._server.port

    def kill(self) -> None:
        self._server.kill()

    def start_again(self) -> None:
        self._server = start(self._folder, self.port)

    def signal(self, number: signal.Signals) -> None:
        os.killpg(self._server.pid, number)


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnServer]:
    try:
        server = OwnServer(tmp_path_factory.mktemp("own-milvus"))
    except LocalMilvusUnavailable as error:
        pytest.skip(str(error))
    yield server
    server.kill()


NO_PROBES = "[gate]\nprobes = 0\n"
"""Where every text has the same vector, no sentence finds its document."""


class ConstantEmbedder(Embedder):
    """Measures as the real one does, and embeds every text alike: what is embedded does not matter here."""

    dim = DIM

    def open_soon(self) -> None:
        """Nothing: no model is needed."""

    async def embed_texts(self, texts: list[str], tokens: Sequence[Tokens] | None = None) -> Vectors:  # noqa: ARG002
        return np.full((len(texts), DIM), DIM**-0.5, dtype=np.float32)


@pytest.fixture
def _constant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(night_module, "Embedder", ConstantEmbedder)


def home_at(folder: Path, uri: str, texts: dict[str, str], more: str = "") -> Home:
    """A corpus that no night has seen yet, and that is not evaluated."""
    folder.mkdir(exist_ok=True)
    home = Home(folder, uri, f"fault_{document_id(str(folder))[:12]}")
    home.write(texts)
    home.configure(f"{NO_PROBES}{more}", evaluation=False)
    return home


async def undisturbed(folder: Path, server: OwnServer, texts: dict[str, str]) -> Rows:
    """The rows of a night over the same documents in which nothing happens; one night for all that ask."""
    key = json.dumps(texts)
    if key not in UNDISTURBED:
        twin = home_at(folder / "twin", server.uri, texts)
        await night(twin)
        UNDISTURBED[key] = await twin.rows()
    return UNDISTURBED[key]


async def night_or_next(home: Home) -> dict[str, Any]:
    """A night, and another one where it fails in a way that we foresaw."""
    with contextlib.suppress(NightloomError):
        return await night(home)
    return await night(home)


def reached(monkeypatch: pytest.MonkeyPatch, shards: int) -> asyncio.Event:
    """Set when so many shards of a night in this process are in the index."""
    event, original = asyncio.Event(), Night.count_shard

    def count_shard(self: Night, *arguments: Any) -> None:
        original(self, *arguments)
        if self.progress.snapshot.shards_done >= shards:
            event.set()

    monkeypatch.setattr(Night, "count_shard", count_shard)
    return event


async def until(event: asyncio.Event, running: asyncio.Task[Any]) -> None:
    """Wait for an event of a night; one that ends before it raises why."""
    waiting = asyncio.create_task(event.wait())
    await asyncio.wait({waiting, running}, timeout=WAIT_SECONDS, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if not event.is_set():
        pytest.fail(f"it did not come to that: {await running if running.done() else running}")


# --- answers that are lost


@pytest.fixture
def proxy(own_server: OwnServer) -> Iterator[LossyProxy]:
    proxy = LossyProxy(own_server.port)
    yield proxy
    proxy.close()


@pytest.mark.milvus
@pytest.mark.own_server
@pytest.mark.usefixtures("_constant", "prefect_api")
async def test_writes_whose_answers_are_lost_leave_every_row_once(
    tmp_path: Path, own_server: OwnServer, proxy: LossyProxy
) -> None:
    home = home_at(tmp_path, proxy.uri, TEXTS, ONE_BY_ONE)
    proxy.to_lose = 3
    first = await night(home)
    assert (first["outcome"], proxy.lost) == ("promoted", 3)
    assert len(await home.rows()) == first["nodes"]["total"]

    changed = TEXTS | {"bread.txt": "Rye bread is dark.", "tea.txt": "Green tea is steeped at eighty degrees."}
    home.write(changed)
    proxy.to_lose = 3  # of the two shards, and of the rows that are copied
    report = await night(home)
    assert (report["outcome"], proxy.lost) == ("promoted", 6)
    assert report["nodes"]["copied"] > 0
    assert await home.rows() == await undisturbed(tmp_path, own_server, changed)


@pytest.mark.milvus
@pytest.mark.own_server
@pytest.mark.usefixtures("_constant", "prefect_api")
async def test_inserts_instead_of_upserts_would_leave_rows_twice(
    tmp_path: Path, proxy: LossyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test above can fail: this is what it would find."""

    def inserting(self: ColumnTransfer, request: milvus_pb2.UpsertRequest, *, timeout: float) -> None:
        inserts = milvus_pb2.InsertRequest(
            collection_name=request.collection_name, fields_data=request.fields_data, num_rows=request.num_rows
        )
        check_status(self._stub.Insert(inserts, timeout=timeout).status)

    monkeypatch.setattr(ColumnTransfer, "_upsert", retry_on_rpc_failure()(inserting))
    home = home_at(tmp_path, proxy.uri, TEXTS, ONE_BY_ONE)
    proxy.to_lose = 3
    with pytest.raises(IndexInconsistent):
        await night(home)
    assert proxy.lost == 3
    async with open_index(home.corpus.milvus, home.name) as index:
        (begun,) = await index.generations()
        ids = [row["id"] for batch in index.connection.scan(begun.name, "position >= 0", ("id",)) for row in batch]
        assert await index.connection.count(begun.name) > len(set(ids))


# --- a server that dies, or stands still


@pytest.mark.milvus
@pytest.mark.own_server
@pytest.mark.usefixtures("_constant", "prefect_api")
async def test_a_server_that_is_killed_and_started_again_ends_with_every_row(
    tmp_path: Path, own_server: OwnServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = home_at(tmp_path, own_server.uri, MANY, ONE_BY_ONE)
    second = reached(monkeypatch, 2)
    running = asyncio.create_task(night_or_next(home))
    await until(second, running)
    own_server.kill()
    assert not running.done()
    await asyncio.to_thread(own_server.start_again)
    assert (await running)["outcome"] == "promoted"
    assert await home.rows() == await undisturbed(tmp_path, own_server, MANY)


@pytest.mark.milvus
@pytest.mark.own_server
@pytest.mark.usefixtures("_constant", "prefect_api")
async def test_a_server_that_stands_still_is_waited_for(
    tmp_path: Path, own_server: OwnServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = home_at(tmp_path, own_server.uri, MANY, ONE_BY_ONE)
    home.configure(f"timeout_seconds = 6\n{NO_PROBES}{ONE_BY_ONE}", evaluation=False)
    gave_up, original = asyncio.Event(), Contents._add

    async def add(self: Contents, *arguments: Any) -> None:
        try:
            await original(self, *arguments)
        except IndexUnavailable:
            gave_up.set()
            raise

    monkeypatch.setattr(Contents, "_add", add)
    second = reached(monkeypatch, 2)
    running = asyncio.create_task(night(home))
    await until(second, running)
    own_server.signal(signal.SIGSTOP)
    try:
        await until(gave_up, running)
    finally:
        own_server.signal(signal.SIGCONT)
    assert (await running)["outcome"] == "promoted"
    assert await home.rows() == await undisturbed(tmp_path, own_server, MANY)


@pytest.mark.milvus
@pytest.mark.own_server
@pytest.mark.usefixtures("_constant", "prefect_api")
async def test_a_server_that_stays_down_ends_the_night_and_the_next_goes_on(
    tmp_path: Path, own_server: OwnServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = home_at(tmp_path, own_server.uri, MANY)
    home.configure(f"timeout_seconds = 6\n{NO_PROBES}{ONE_BY_ONE}\n[retry]\nminutes = 0.5\n", evaluation=False)
    monkeypatch.setattr(insert, "retry_delay_seconds", 0.5)
    second = reached(monkeypatch, 2)
    running = asyncio.create_task(night(home))
    await until(second, running)
    own_server.kill()
    with pytest.raises(IndexUnavailable):
        await running
    await asyncio.to_thread(own_server.start_again)
    report = await night(home)
    assert report["outcome"] == "promoted"
    assert 0 < report["nodes"]["embedded"] < report["nodes"]["total"]
    assert await home.rows() == await undisturbed(tmp_path, own_server, MANY)


@pytest.mark.milvus
@pytest.mark.own_server
def test_a_server_that_was_killed_takes_none_of_the_ports_that_it_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a service took the port of another one, collections were never loaded again."""

    def backwards(ports: Sequence[int], _count: int) -> list[int]:
        return [*reversed(had), *ports]

    had: list[int] = []
    try:
        server = OwnServer(tmp_path / "milvus")
    except LocalMilvusUnavailable as error:
        pytest.skip(str(error))
    try:
        client = MilvusClient(server.uri)
        client.create_collection("kept", dimension=4)
        client.close()
        had += json.loads((tmp_path / "milvus" / local_milvus.PORTS_FILE).read_text())
        server.kill()
        monkeypatch.setattr("deployments.local_milvus.random.sample", backwards)
        server.start_again()
        has = json.loads((tmp_path / "milvus" / local_milvus.PORTS_FILE).read_text())
        assert len(has) == len(had) > len(local_milvus.SERVICES)
        assert not {*has} & {*had}
        client = MilvusClient(server.uri)
        client.load_collection("kept", timeout=60)
        client.close()
    finally:
        server.kill()


@pytest.mark.milvus
@pytest.mark.own_server
@pytest.mark.usefixtures("_constant", "prefect_api")
async def test_a_server_that_limits_the_rate_is_waited_for(tmp_path: Path) -> None:
    rate = {f"quotaAndLimits.dml.{kind}Rate.max": RATE_MB for kind in ("insert", "upsert")}
    try:
        server = start(tmp_path / "milvus", more={"quotaAndLimits.dml.enabled": True, **rate})
    except LocalMilvusUnavailable as error:
        pytest.skip(str(error))
    try:
        home = home_at(tmp_path, server.uri, MANY, ONE_BY_ONE)
        assert (await night(home))["outcome"] == "promoted"
        rows = list((await home.rows()).values())
        assert {row["uri"] for row in rows} == {f"texts/{name}" for name in MANY}
        async with open_index(home.corpus.milvus, home.name) as index:
            (only,) = await index.generations()

            def too_fast() -> None:
                for _ in range(20):
                    index.connection.client.upsert(only.name, rows, retry_on_rate_limit=False)

            with pytest.raises(MilvusException, match="rate"):
                too_fast()
    finally:
        server.kill()


# --- a Prefect server that dies


@pytest.fixture
def mortal_prefect(tmp_path: Path) -> Iterator[PrefectServer]:
    """A server of a test's own; nights in this process use it, and ask it twice only."""
    (tmp_path / "prefect").mkdir()
    server = PrefectServer(tmp_path / "prefect")
    with temporary_settings({PREFECT_API_URL: server.api, PREFECT_CLIENT_MAX_RETRIES: 1}):
        yield server
        APILogWorker.drain_all()
        EventsWorker.drain_all()
    server.kill()


@pytest.mark.usefixtures("_constant")
async def test_a_prefect_server_that_dies_leaves_the_index_whole(
    tmp_path: Path, mortal_prefect: PrefectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The night ends, or fails; readers see yesterday or tonight, and the next night ends the work."""
    home = home_at(tmp_path, "index.db", TEXTS, ONE_BY_ONE)
    await night(home)
    home.write(MANY)
    home.configure(f"{NO_PROBES}max_removed = 1\n{ONE_BY_ONE}", evaluation=False)
    second = reached(monkeypatch, 2)
    running = asyncio.create_task(night(home))
    await until(second, running)
    mortal_prefect.kill()
    await asyncio.wait({running}, timeout=WAIT_SECONDS)
    assert running.done(), "the night hangs without Prefect"
    error = running.exception()
    seen = {row["uri"] for row in (await home.rows()).values()}
    assert seen in ({f"texts/{name}" for name in texts} for texts in (TEXTS, MANY)), error

    await asyncio.to_thread(mortal_prefect.start)
    await night(home)
    assert {row["uri"] for row in (await home.rows()).values()} == {f"texts/{name}" for name in MANY}


# --- two processes at once

OTHER = """
import asyncio, sys
from pathlib import Path
from nightloom.corpus_file import load_corpus
from nightloom.index import open_index

async def main():
    corpus = load_corpus(Path(sys.argv[1]), environ={})
    async with open_index(corpus.milvus, corpus.name) as index:
        await index.generations()
        print("ready", flush=True)
        for line in sys.stdin:
            collection, *documents = line.split()
            await index.contents.claim(collection)
            await index.contents.delete_documents(collection, documents)
            print("deleted", flush=True)

asyncio.run(main())
"""


@pytest.mark.milvus
@pytest.mark.own_server
@pytest.mark.usefixtures("_constant", "prefect_api")
async def test_another_process_deletes_what_was_written_a_moment_ago(tmp_path: Path, own_server: OwnServer) -> None:
    home = home_at(tmp_path, own_server.uri, TEXTS)
    await night(home)
    rows = list((await home.rows()).values())
    other = subprocess.Popen(  # noqa: ASYNC220  nothing else runs meanwhile
        [sys.executable, "-c", OTHER, str(home.file)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdin is not None
    assert other.stdout is not None
    try:
        assert other.stdout.readline() == "ready\n"
        async with open_index(home.corpus.milvus, home.name) as index:
            target = await index.create("f" * 64, DIM, await index.generations(), datetime.now(UTC))
            documents = {str(row["document_id"]) for row in rows}
            for _ in range(3):
                await write(index, target, rows)
                other.stdin.write(f"{target.name} {' '.join(documents)}\n")
                other.stdin.flush()
                assert other.stdout.readline() == "deleted\n"
                assert await index.connection.count(target.name) == 0
    finally:
        other.stdin.close()
        other.wait()
        other.stdout.close()


async def write(index: Index, target: Generation, rows: list[dict[str, Any]]) -> None:
    await index.connection.load(target.name)
    await index.connection.call(lambda: index.connection.client.upsert(target.name, rows))
