"""The lease of an index on a server: one night at a time, and none kept out by a dead one."""

import asyncio
import signal
import subprocess
import sys
from uuid import UUID

import pytest
from prefect.client.orchestration import PrefectClient, get_client
from prefect.variables import Variable

from nightloom.corpus import Corpus
from nightloom.corpus_file import load_corpus
from nightloom.errors import IndexBusy
from nightloom.tasks import lease as lease_module
from nightloom.tasks.lease import lease, lease_name
from tests.builders import ROOT
from tests.nights import environment

pytestmark = pytest.mark.usefixtures("prefect_api")

HOLDER = """
import asyncio, sys
from nightloom.corpus_file import load_corpus
from nightloom.tasks import lease as module

async def wait(*arguments, **options):
    print("there", flush=True)
    await asyncio.Event().wait()

async def main():
    corpus = load_corpus(None, {"name": sys.argv[1], "sources": [{"path": "."}], "milvus": {"uri": sys.argv[2]}}, {})
    if sys.argv[3] == "unsigned":
        put = module.Variable.aset
        async def first_only(name, *arguments, **options):
            if not name.endswith("trying"):
                await wait()
            await put(name, *arguments, **options)
        module.Variable.aset = first_only
    async with module.lease(corpus):
        await wait()

asyncio.run(main())
"""


@pytest.fixture
def corpus(request: pytest.FixtureRequest) -> Corpus:
    """A corpus in a Milvus that nobody asks: the lease comes first."""
    name = f"lease_{abs(hash(request.node.nodeid))}"
    milvus = {"uri": "http://127.0.0.1:1"}
    return load_corpus(None, {"name": name, "sources": [{"path": "."}], "milvus": milvus}, {})


def killed_holder(corpus: Corpus, prefect_server: str, when: str) -> None:
    """A process that gets the lease, and is killed while it has it."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, corpus.name, corpus.milvus.uri, when],
        cwd=ROOT,
        env=environment(prefect_server),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "there\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()


async def test_a_second_night_is_refused_until_the_first_has_ended(corpus: Corpus) -> None:
    async with lease(corpus):
        with pytest.raises(IndexBusy, match="this one ends, having done nothing"):
            async with lease(corpus):
                pytest.fail("two nights over one index")
    async with lease(corpus):
        pass


async def test_a_limit_that_is_there_is_not_created_again(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused by a unique key, it would leave a server on SQLite locked for a minute."""
    async with lease(corpus):
        pass
    monkeypatch.setattr(PrefectClient, "create_global_concurrency_limit", None)
    async with lease(corpus):
        pass


async def test_other_indexes_are_not_kept_waiting(corpus: Corpus) -> None:
    other = corpus.model_copy(update={"milvus": corpus.milvus.model_copy(update={"uri": "http://127.0.0.1:2"})})
    async with lease(corpus), lease(other):
        assert lease_name(corpus) != lease_name(other)


@pytest.mark.parametrize("when", ["signed", "unsigned"])
async def test_a_killed_night_keeps_nobody_out(corpus: Corpus, prefect_server: str, when: str) -> None:
    await asyncio.to_thread(killed_holder, corpus, prefect_server, when)
    async with lease(corpus):
        with pytest.raises(IndexBusy):
            async with lease(corpus):
                pytest.fail("the lease that was taken over does not hold")


async def test_a_lease_that_prefect_forgot_is_taken_again(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "RENEW_SECONDS", 0.05)
    record = lease_name(corpus).lower().replace("-", "_")

    async def held() -> str:
        found = await Variable.aget(record)
        assert isinstance(found, dict)
        return str(found["lease"])

    async with lease(corpus):
        first = await held()
        async with get_client() as client:
            await client.release_concurrency_slots_with_lease(UUID(first))
        async with asyncio.timeout(60):
            while await held() == first:  # noqa: ASYNC110  another task of Prefect changes it
                await asyncio.sleep(0.05)
        with pytest.raises(IndexBusy):
            async with lease(corpus):
                pytest.fail("the new lease does not hold")
