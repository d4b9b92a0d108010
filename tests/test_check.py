"""`nightloom check`: sources of every kind, what Prefect knows, disk and index; each fault with its cure."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
import yaml
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.blocks.system import Secret
from prefect.blocks.webhook import Webhook as WebhookBlock
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import (
    DeploymentScheduleCreate,
    GlobalConcurrencyLimitCreate,
    WorkPoolCreate,
    WorkPoolUpdate,
)
from prefect.client.schemas.schedules import CronSchedule
from prefect.events.schemas.automations import AutomationCore
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings
from prefect.states import Failed, Running, Scheduled

from nightloom.corpus import Corpus
from nightloom.corpus_file import load_corpus
from nightloom.errors import EvaluationInputError, NightloomError
from nightloom.flows.check import _disk, _milvus, _queries, _sources
from nightloom.flows.prefect_checks import NO_SERVER, prefect_checks
from nightloom.index import open_index
from nightloom.tasks.lease import lease_name
from tests.builders import ROOT, write_tree
from tests.nights import ON_LITE, Home, live_name, night
from tests.prefect_server import PrefectServer
from tests.webhook import receiving
from tests.website import Website, answer, serving


@pytest.fixture
def website() -> Iterator[Website]:
    with serving() as site:
        yield site


def corpus_of(folder: Path, sources: list[dict[str, Any]], judged: str = "a.txt") -> Corpus:
    files: dict[str, bytes | str] = {
        "pages/a.txt": "a",
        "rows.csv": "_id,text\n1,one\n2,two\n",
        "queries.jsonl": '{"_id": "q1", "text": "what?"}\n',
        "qrels.tsv": f"query-id\tcorpus-id\tscore\nq1\t{judged}\t1\n",
        "corpus.toml": "",
    }
    write_tree(folder, files)
    evaluation = {"queries": "queries.jsonl", "qrels": "qrels.tsv"}
    given = {"name": "docs", "sources": sources, "evaluation": evaluation}
    return load_corpus(folder / "corpus.toml", given, {})


async def test_every_source_says_what_it_has(website: Website, tmp_path: Path) -> None:
    page = website.url("/page", answer())
    body = f"<urlset><url><loc>{page}</loc></url></urlset>".encode()
    sitemap = website.url("/sitemap.xml", answer(body=body))
    sources: list[dict[str, Any]] = [
        {"path": "pages", "exclude": ["*.xlsx"]},
        {"csv": "rows.csv"},
        {"url": page},
        {"sitemap": sitemap, "name": "site"},
    ]
    corpus = corpus_of(tmp_path, sources)
    write_tree(tmp_path, {"pages/b.xlsx": ""})
    says = await _sources(corpus)
    assert says == "3 documents on disk; 1 file left out by exclude: 1 .xlsx, 1 URLs answer, 1 pages in site"


@pytest.mark.parametrize("status", [404, 403, 500])
async def test_a_url_that_does_not_answer_well_is_an_error(website: Website, tmp_path: Path, status: int) -> None:
    url = website.url("/page", answer(status))
    with pytest.raises(NightloomError, match=f"{url}: HTTP {status}"):
        await _sources(corpus_of(tmp_path, [{"url": url}]))


async def test_judgements_of_documents_that_only_a_night_knows_are_no_error(tmp_path: Path) -> None:
    known, unknown = {"path": "pages"}, {"sitemap": "http://127.0.0.1:9/sitemap.xml", "name": "site"}
    with pytest.raises(EvaluationInputError, match="elsewhere"):
        await _queries(corpus_of(tmp_path, [known], judged="elsewhere"))
    says = await _queries(corpus_of(tmp_path, [known, unknown], judged="elsewhere"))
    assert says.endswith("only a night can tell whether they name documents of site")
    assert "only a night" not in await _queries(corpus_of(tmp_path, [known]))


# --- what Prefect knows


DEMO = ROOT / "corpora" / "demo.toml"
BLOCK_CANARY = "secret-9c1f52d07-of-a-block"


def holding(folder: Path, text: bytes) -> list[str]:
    """Files that hold a text."""
    return [file.name for file in folder.rglob("*") if file.is_file() and text in file.read_bytes()]


async def told(corpus: Corpus, file: Path = DEMO) -> dict[str, tuple[str, bool]]:
    return {name: (says, is_error) for name, says, is_error in await prefect_checks(corpus, file)}


@pytest.fixture
def on_a_server(tmp_path: Path) -> Corpus:
    """A corpus whose index is on a server that these checks never ask."""
    given = {"name": f"docs_{tmp_path.name[-8:].strip('_')}", "sources": [{"path": "pages"}]}
    return load_corpus(None, {**given, "milvus": {"uri": "http://127.0.0.1:9"}}, {})


async def test_without_a_server_that_is_said_and_is_no_error(on_a_server: Corpus) -> None:
    assert await told(on_a_server) == {"prefect": (NO_SERVER, False)}


async def test_a_server_that_does_not_answer_is_one_error(on_a_server: Corpus) -> None:
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        found = await told(on_a_server)
    assert found.keys() == {"prefect"}
    assert found["prefect"][1]
    assert "start it with `prefect server start`" in found["prefect"][0]


@pytest.mark.usefixtures("prefect_api")
async def test_what_stands_in_the_way_of_a_night_is_said_with_its_cure(
    on_a_server: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From nothing to a night, with everything that can be forgotten on the way."""
    pool, corpus = on_a_server.name, on_a_server
    file = ROOT / "corpora" / f"{pool}.toml"

    async def expect(name: str, says: str, *, is_error: bool = True) -> None:
        found = (await told(corpus, file))[name]
        assert (re.search(says, found[0]) is not None, found[1]) == (True, is_error), found

    await expect("prefect", r"answers: version 3\.", is_error=False)
    await expect("clock", "UTC, as the Prefect server's", is_error=False)
    await expect("schedule", rf"no deployment runs {pool}\.toml yet: `nightloom init` writes one", is_error=False)
    async with get_client() as client:
        flow = await client.create_flow_from_name("nightly-reindex")
        given = {"corpus_file": f"corpora/{pool}.toml"}
        deployment = await client.create_deployment(flow, pool, parameters=given)
        await expect("schedule", f"no schedule of nightly-reindex/{pool} is active")
        await client.create_deployment_schedules(
            deployment, [DeploymentScheduleCreate(schedule=CronSchedule(cron="0 2 * * *"))]
        )
        zoned = rf"nightly-reindex/{pool} at 0 2 \* \* \* \(UTC\); "
        await expect("schedule", f"{zoned}the server plans its runs within minutes", is_error=False)
        with monkeypatch.context() as later:
            later.setattr("nightloom.flows.prefect_checks.PLANNED_MINUTES", -1)
            await expect("schedule", "has planned no run .* its scheduler stands still")
        tomorrow = datetime.now(UTC) + timedelta(days=1)
        await client.create_flow_run_from_deployment(deployment, state=Scheduled(scheduled_time=tomorrow))
        await expect("schedule", f"{zoned}the next is planned for {tomorrow:%Y-%m-%d %H:%M} UTC", is_error=False)

        await client.create_work_pool(WorkPoolCreate(name=pool, type="process"))
        await client.create_deployment(flow, pool, parameters=given, work_pool_name=pool)
        await expect("pool", f"no worker polls .*`prefect worker start --pool {pool}`")
        await client.send_worker_heartbeat(pool, "worker of a test")
        await expect("pool", r"\(process\) with 1 workers online", is_error=False)
        await client.update_work_pool(pool, WorkPoolUpdate(is_paused=True))
        await expect("pool", f"is paused; `prefect work-pool resume {pool}`")

        await expect("limits", "is made by the first night", is_error=False)
        await client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=lease_name(corpus), limit=2))
        await expect("limits", "does not keep two nights apart; `prefect gcl update")

        await expect("last night", "none yet; `prefect deployment run", is_error=False)
        run = await client.create_flow_run_from_deployment(deployment)
        await client.set_flow_run_state(run.id, Running(), force=True)
        await client.set_flow_run_state(run.id, Failed(name="Held", message="too many are gone"), force=True)
        await expect("last night", "Held: too many are gone; `prefect flow-run logs")


@pytest.mark.usefixtures("prefect_api")
async def test_deployments_that_are_over_another_corpus_are_an_error(on_a_server: Corpus) -> None:
    name = on_a_server.name
    file, own = ROOT / "corpora" / f"{name}.toml", f"corpora/{name}.toml"
    async with get_client() as client:
        flow = await client.create_flow_from_name("rollback")
        mine = await client.create_deployment(flow, name, parameters={"corpus_file": own})
        assert (await told(on_a_server, file))["deployed"] == ("1 deployments, named after this corpus", False)
        for deployment, over, says in (
            (
                f"{name}-copied",
                str(DEMO),
                f"rollback/{name}-copied is over {DEMO}, the corpus demo: every run is refused",
            ),
            ("company", own, f"rollback/company is over {own}, the corpus {name}: every run is refused"),
        ):
            wrong = await client.create_deployment(flow, deployment, parameters={"corpus_file": over})
            found = (await told(on_a_server, file))["deployed"]
            assert (found[0].startswith(says), found[1]) == (True, True), found
            await client.delete_deployment(wrong)
        renamed = {"corpus_file": own, "changes": {"name": "company"}}
        fits = await client.create_deployment(flow, "company", parameters=renamed)
        assert (await told(on_a_server, file))["deployed"] == ("2 deployments, named after this corpus", False)
        await client.delete_deployment(fits)
        await client.delete_deployment(mine)


@pytest.mark.usefixtures("prefect_api")
async def test_clocks_that_differ_are_an_error(on_a_server: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nightloom.flows.prefect_checks.CLOCK_SECONDS", -1)
    assert "set both by NTP" in (await told(on_a_server))["clock"][0]


async def test_a_server_with_a_password_lets_nobody_in_who_has_none(
    on_a_server: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stays open tells only that it is there; and a Secret block is in no file of the server as it was given."""
    monkeypatch.setenv("PREFECT_SERVER_API_AUTH_STRING", "admin:secret-of-a-test")
    server, anybody = PrefectServer(tmp_path), httpx.AsyncClient()
    try:
        for path in ("/flows/filter", "/block_documents/filter", "/variables/filter", "/logs/filter"):
            assert (await anybody.post(f"{server.api}{path}", json={})).status_code == 401, path
        assert (await anybody.get(f"{server.api}/health")).status_code == 200
        with temporary_settings({PREFECT_API_URL: server.api}):
            assert "set PREFECT_API_AUTH_STRING to user:password" in (await told(on_a_server))["prefect"][0]
            with temporary_settings({PREFECT_API_AUTH_STRING: "admin:secret-of-a-test"}):
                assert not (await told(on_a_server))["prefect"][1]
                await Secret(value=BLOCK_CANARY).asave("canary")
                block: Any = await Secret.aload("canary")
                assert block.get() == BLOCK_CANARY
        assert holding(tmp_path, b"canary"), "the block's name is not in what was searched"
        assert holding(tmp_path, BLOCK_CANARY.encode()) == []
    finally:
        await anybody.aclose()
        server.kill()


# --- disk, and the health of the index


async def test_a_full_disk_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = corpus_of(tmp_path, [{"path": "pages"}])
    assert f"free in {tmp_path}" in await _disk(corpus)
    monkeypatch.setattr("nightloom.flows.check.FREE_BYTES", 10**18)
    with pytest.raises(NightloomError, match=rf"{tmp_path} has .* GB left.*make room, or set TMPDIR"):
        await _disk(corpus)


@ON_LITE
@pytest.mark.usefixtures("prefect_api")
async def test_an_index_that_is_not_whole_is_an_error(home: Home) -> None:
    await night(home)
    assert "5 documents in 6 rows, and reads through the alias agree" in await _milvus(home.corpus)
    async with open_index(home.corpus.milvus, home.name) as index:
        live, connection = await live_name(index), index.connection
        await connection.call(lambda: connection.client.delete(live, filter="position == 1"))
    with pytest.raises(NightloomError, match=r"has 5 rows, and its documents say 6; `nightloom verify --repair`"):
        await _milvus(home.corpus)


@pytest.mark.usefixtures("prefect_api")
async def test_whoever_is_to_be_called_can_be(on_a_server: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    name, file = on_a_server.name.replace("_", "-"), ROOT / "corpora" / "alerts.toml"

    async def alerts(*, test: bool = False) -> tuple[str, bool]:
        found = await prefect_checks(on_a_server, file, test_alert=test)
        return next((says, is_error) for what, says, is_error in found if what == "alerts")

    with monkeypatch.context() as without:
        without.setattr("nightloom.flows.alerts.CALLS", ())
        says, is_error = await alerts()
        assert ("`nightloom bootstrap`" in says, is_error) == (True, False)
        assert (await alerts(test=True))[1], "nobody can be called"

    written = yaml.safe_load((ROOT / "deployments" / "automations" / "failed-night.yaml").read_text("utf-8"))

    def calling(block: object) -> AutomationCore:
        calls = {"type": "send-notification", "block_document_id": str(block), "subject": "s", "body": "b"}
        return AutomationCore.model_validate(written | {"name": name, "actions": [calls]})

    async with get_client() as client:
        automation = await client.create_automation(calling(uuid4()))
        assert await alerts() == ("an automation sends by a block that is gone; run `nightloom bootstrap`", True)
        with receiving() as webhook:
            message = {"subject": "{{subject}}", "body": "{{body}}"}
            block: Any = CustomWebhookNotificationBlock(name="x", url="not an address", json_data=message)
            await client.update_automation(automation, calling(await block.save(name)))
            says, is_error = await alerts()
            assert (says.startswith(f"the block {name!r} cannot send: its URL is no address; mend"), is_error) == (
                True,
                True,
            )
            block.url = webhook.url
            await block.save(name, overwrite=True)
            says, is_error = await alerts()
            assert (name in says, is_error) == (True, False)
            assert not webhook.messages
            says, is_error = await alerts(test=True)
            assert ("a test was sent by" in says, is_error) == (True, False)
            assert "No night has failed." in webhook.messages[0]["body"]
            keeps_its_url: Any = WebhookBlock(url=webhook.url)  # as a secret
            await client.update_automation(automation, calling(await keeps_its_url.save(f"{name}-secret")))
            says, is_error = await alerts()
            assert (says.startswith("somebody is called by"), is_error) == (True, False), says
        await client.delete_automation(automation)
