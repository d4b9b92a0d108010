"""The deployments on a real server and worker, what its UI shows, and the retries of tasks, which need a server."""

import asyncio
import contextlib
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any
from uuid import uuid4

import pytest
import yaml
from playwright.sync_api import Page, expect
from prefect import flow
from prefect.events.schemas.automations import AutomationCore
from prefect.logging.handlers import APILogWorker
from prefect.settings import PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW, temporary_settings

from deployments import screenshots
from deployments.local_prefect import ROOT, LocalPrefect, children, wait_until
from nightloom.errors import EmbedderError, Held, IndexUnavailable, IndexUnreachable, NightFailed, SourceUnavailable
from nightloom.tasks import begin as begin_module
from nightloom.tasks.policy import PAUSES, patience, pauses, step
from tests.prefect_stack import (
    CANARY,
    PLANNED_SECONDS,
    QUESTIONS,
    Deployed,
    Night,
    latest_run,
    night_of,
    speaking_to,
)
from tests.webhook import Webhook

pytest_plugins = ["tests.prefect_stack"]
pytestmark = pytest.mark.prefect

YAML = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))
NIGHTS = "nightloom.flows.nightly_reindex.nightly_reindex"
WRITTEN = {entry["name"]: entry for entry in YAML["deployments"] if entry["entrypoint"] == NIGHTS}
OTHERS = [entry for entry in YAML["deployments"] if entry["entrypoint"] != NIGHTS]
CONTAINERS = yaml.safe_load((ROOT / "deployments" / "prefect.containers.yaml").read_text(encoding="utf-8"))
NAMES = ("demo", "tutorial")

AUTOMATIONS = sorted((ROOT / "deployments" / "automations").glob("*.yaml"))
PAGE_LINES = 40
UNDER_WAY = frozenset({"PENDING", "RUNNING"})


def test_prefect_yaml_holds_the_deployments_and_no_path_of_this_machine() -> None:
    assert tuple(WRITTEN) == NAMES
    for entry in OTHERS:
        assert entry["parameters"] == WRITTEN[entry["name"]]["parameters"]
        assert "schedules" not in entry or "query_evaluation" in entry["entrypoint"], "nothing is taken back by itself"
    assert str(ROOT) not in json.dumps([YAML, CONTAINERS])


def test_docker_and_kubernetes_run_the_same_flows() -> None:
    flows = {entry["entrypoint"] for entry in YAML["deployments"]}
    pools: dict[str, set[str]] = {}
    for entry in CONTAINERS["deployments"]:
        pool = entry["work_pool"]
        pools.setdefault(pool["name"], set()).add(entry["entrypoint"])
        assert pool["job_variables"]["image"] == "{{ $NIGHTLOOM_IMAGE }}"
        assert pool["job_variables"]["env"]["NIGHTLOOM_MILVUS__TOKEN_BLOCK"]
        assert not any(schedule["active"] for schedule in entry.get("schedules", ()))
    assert pools == {"nightloom-docker": flows, "nightloom-kubernetes": flows}


@pytest.mark.parametrize("file", AUTOMATIONS, ids=lambda file: file.stem)
def test_prefect_takes_the_automations_with_all_their_keys(file: Path) -> None:
    """A key that it does not know it leaves out without a word."""
    written = yaml.safe_load(file.read_text(encoding="utf-8"))
    for action in written["actions"]:
        action |= {key: str(uuid4()) for key in ("block_document_id", "deployment_id") if key in action}
    taken = AutomationCore.model_validate(written).model_dump(mode="json")
    assert lost(written, taken) == []
    assert taken["enabled"] is True
    assert file.name in (ROOT / "docs" / "deploying.md").read_text(encoding="utf-8")


def lost(written: Any, taken: Any, place: str = "") -> list[str]:
    """Places where what was taken is not what was written; lists may come back in another order."""
    if isinstance(written, dict) and isinstance(taken, dict):
        return [fault for key in written for fault in lost(written[key], taken.get(key), f"{place}.{key}")]
    if isinstance(written, list) and isinstance(taken, list) and written and isinstance(written[0], dict):
        return [fault for pair in zip(written, taken, strict=True) for fault in lost(*pair, place)]
    if isinstance(written, list) and isinstance(taken, list):
        written, taken = sorted(written), sorted(taken)
    return [] if written == taken else [f"{place}: {written} became {taken}"]


@pytest.mark.parametrize("name", NAMES)
def test_a_deployment_arrives_whole(deployed: Deployed, name: str) -> None:
    found, written = deployed.deployments[name], WRITTEN[name]
    (schedule,), (given,) = found["schedules"], written["schedules"]
    assert (schedule["schedule"]["cron"], schedule["schedule"]["timezone"]) == (given["cron"], given["timezone"])
    assert (schedule["active"], schedule["slug"], found["paused"]) == (True, "nightly", False)
    assert found["global_concurrency_limit"]["limit"] == 1
    assert found["concurrency_options"] == {"collision_strategy": "CANCEL_NEW", "grace_period_seconds": 300}
    for key in ("parameters", "tags", "description", "entrypoint"):
        assert found[key] == written[key], key
    assert found["pull_steps"] == written.get("pull", YAML["pull"])
    assert (ROOT / found["parameters"]["corpus_file"]).is_file()
    assert (found["work_pool_name"], found["job_variables"]) == ("nightloom", {"working_dir": "."})


@pytest.mark.parametrize("name", NAMES)
def test_no_path_of_the_machine_that_deploys_is_kept(deployed: Deployed, name: str) -> None:
    assert str(ROOT) not in json.dumps(deployed.deployments[name])


def test_the_version_of_a_deployment_is_the_commit(deployed: Deployed) -> None:
    asked = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    version = deployed.deployments["demo"]["version"].removesuffix("-dirty")
    assert asked.stdout.startswith(version) if asked.returncode == 0 else version == "unknown"


@pytest.mark.parametrize(("name", "time"), [("demo", "T02:00:00Z"), ("tutorial", "T02:30:00Z")])
def test_the_schedule_plans_nights(deployed: Deployed, name: str, time: str) -> None:
    """A server whose scheduler fails takes the schedule, shows it, and never starts anything."""
    mine = [run for run in deployed.planned if run["deployment_id"] == deployed.deployments[name]["id"]]
    assert mine, "the server plans no runs; see the errors in its log"
    assert all(run["auto_scheduled"] and run["expected_start_time"].endswith(time) for run in mine)


def test_a_watched_run_ends_completed_and_says_why(first_night: Night) -> None:
    assert first_night.exit_code == 0, first_night.output
    state = first_night.run["state"]
    assert (state["type"], state["name"]) == ("COMPLETED", "Promoted")
    assert state["message"] == "the first generation of this index"
    assert first_night.run["name"].startswith("demo 2")
    assert "finished successfully" in first_night.output


def test_a_run_leaves_report_counts_and_progress(first_night: Night) -> None:
    kinds = {key: found["type"] for key, found in first_night.artifacts.items()}
    pages = dict.fromkeys(("demo-report", "demo-scores"), "markdown")
    tables = dict.fromkeys(("demo-counts", "demo-documents", "demo-quarantine", "demo-generations"), "table")
    assert kinds == {**pages, **tables, "demo-progress": "progress"}
    report = first_night.artifacts["demo-report"]
    assert report["data"].startswith("# demo: promoted\n")
    assert f"| {len(QUESTIONS)} | {len(QUESTIONS)} | 0 | 0 | 0 | 0 |" in report["data"]
    assert report["description"] == "promoted: the first generation of this index"
    progress = first_night.artifacts["demo-progress"]
    assert progress["data"] == 100.0
    assert progress["description"].startswith("2 of 2 shards, ")


def test_the_log_of_a_night_is_a_page_with_counts_and_rates(deployed: Deployed, first_night: Night) -> None:
    wanted = {"logs": {"flow_run_id": {"any_": [first_night.run["id"]]}}, "limit": 200}
    lines = [entry["message"] for entry in deployed.prefect.ask("/logs/filter", wanted)]
    assert any(re.match(r"2 of 2 shards, \d+\.\d nodes/s", line) for line in lines), lines
    assert len(lines) <= PAGE_LINES, lines
    assert sum(line.startswith("Finished in state Completed") for line in lines) <= 1, "one for each task"
    start = {topic: " ".join(topics[topic].split())[:40] for topic in QUESTIONS}
    assert not [topic for topic, text in start.items() if any(text in line for line in lines)]


def test_the_counts_add_up(first_night: Night) -> None:
    counts = counts_of(first_night)
    assert counts["documents", "listed"] == counts["documents", "added"] == len(QUESTIONS)
    assert counts["nodes", "embedded"] == counts["nodes", "total"] >= len(QUESTIONS)


def test_task_runs_say_what_they_work_on(first_night: Night) -> None:
    nodes = counts_of(first_night)["nodes", "embedded"]
    names = [run["name"] for run in first_night.tasks]
    assert {"download topics", "verify demo", "evaluate demo", "promote demo"} < set(names)
    assert {f"load shard {number}/2: 3 documents" for number in (1, 2)} < set(names)
    for verb in ("embed", "insert"):
        mine = [re.fullmatch(rf"{verb} shard [12]/2: (\d+) nodes", name) for name in names if name.startswith(verb)]
        assert sum(int(found[1]) for found in mine if found) == nodes, names
    assert all(run["state"]["type"] == "COMPLETED" and run["run_count"] == 1 for run in first_night.tasks)


def test_the_graph_of_a_night_leads_from_load_over_embed_to_insert(first_night: Night) -> None:
    verbs = {run["id"]: run["name"].split()[0] for run in first_night.tasks}
    before = {
        (verbs[run["id"]], verbs[given["id"]])
        for run in first_night.tasks
        for given in run["task_inputs"].get("work", ())
    }
    assert before == {("embed", "load"), ("insert", "embed")}


@pytest.fixture(scope="module")
def second_night(deployed: Deployed, first_night: Night, downstream: Night) -> tuple[Night, Night]:
    """A run on an unchanged corpus, and one that was asked for while it was under way."""
    prefect = deployed.prefect
    run = prefect.start_run("demo")
    prefect.run_when(run, UNDER_WAY)
    late = prefect.run_when(prefect.start_run("demo"))
    return night_of(prefect, prefect.run_when(run)), night_of(prefect, late)


def test_the_same_corpus_again_embeds_nothing(second_night: tuple[Night, Night]) -> None:
    night, _ = second_night
    assert night.run["state"]["type"] == "COMPLETED"
    assert night.run["state"]["name"] == "Unchanged"
    assert night.artifacts["demo-report"]["data"].startswith("# demo: unchanged\n")
    assert counts_of(night)["nodes", "embedded"] == 0
    assert {run["name"] for run in night.tasks} == {"read the index demo", "download topics", "plan demo"}


def test_a_run_that_meets_another_is_cancelled(second_night: tuple[Night, Night]) -> None:
    night, late = second_night
    assert night.run["state"]["type"] == "COMPLETED"
    assert (late.run["state"]["type"], late.tasks) == ("CANCELLED", [])
    assert late.run["state"]["message"] == "Deployment concurrency limit reached."


@pytest.fixture(scope="module")
def refused_night(deployed: Deployed, second_night: tuple[Night, Night]) -> Night:
    """After the others: the place that they held at the server is free again."""
    run = deployed.prefect.start_run("demo", {"changes": {"splitting": {"max_tokens": 5000}}})
    return night_of(deployed.prefect, deployed.prefect.run_when(run))


def test_a_bad_corpus_fails_with_key_and_cure(refused_night: Night) -> None:
    state, report = refused_night.run["state"], refused_night.artifacts["demo-report"]
    assert state["type"] == "FAILED"
    assert "splitting.max_tokens = 5000" in state["message"]
    assert "256" in state["message"], "it does not say what the embedder reads"
    assert report["data"].startswith("# demo: refused\n")
    assert report["description"].startswith("refused: splitting.max_tokens = 5000")


def test_a_night_is_taken_back_by_its_deployment(deployed: Deployed, second_night: tuple[Night, Night]) -> None:
    run = deployed.prefect.start_run("demo", {"changes": {"splitting": {"max_tokens": 128}}})
    bad = night_of(deployed.prefect, deployed.prefect.run_when(run))
    assert bad.run["state"]["type"] == "COMPLETED", bad.run["state"]["message"]
    done = deployed.prefect.prefect("deployment", "run", "rollback/demo", "--watch")
    assert done.returncode == 0, done.stdout + done.stderr
    (back,) = deployed.prefect.ask("/flow_runs/filter", {"sort": "START_TIME_DESC", "limit": 1})
    assert re.fullmatch(r"demo is demo_\w+ again, and was demo_\w+", back["state"]["message"])
    assert back["name"].startswith("demo 2")


def test_a_promotion_starts_another_deployment(downstream: Night) -> None:
    assert downstream.run["state"]["type"] == "COMPLETED", downstream.run["state"]["message"]
    assert downstream.run["created_by"]["type"] == "AUTOMATION"
    assert re.fullmatch(r"nDCG@10 \d\.\d{4}, R@10 .*", downstream.run["state"]["message"])
    assert set(downstream.artifacts) == {"demo-scores", "demo-queries"}


def test_somebody_is_called_when_a_night_has_failed(deployed: Deployed, refused_night: Night, webhook: Webhook) -> None:
    words = (refused_night.run["id"], "splitting.max_tokens = 5000")
    message = called(deployed, webhook, *words)
    assert message["subject"] == "nightly-reindex/demo: Refused"
    assert message["body"].startswith("demo: ")
    assert "What readers see now could not be asked." in message["body"]
    assert "None" not in message["body"]
    assert refused_night.run["id"] in message["body"], "no link to the run"


def test_somebody_is_called_when_scores_are_held(deployed: Deployed, refused_night: Night, webhook: Webhook) -> None:
    """Of ten documents that an answer names, one is judged to be right: precision is a tenth at best."""
    parameters = {"floor": 0.9, "evaluation": {"metrics": ["P@10"]}}
    run = deployed.prefect.run_when(deployed.prefect.start_run("demo", parameters, flow="query-evaluation"))
    assert (run["state"]["type"], run["state"]["name"]) == ("FAILED", "Held")
    assert "P@10 is 0." in called(deployed, webhook, run["id"], "Held")["body"]


def test_somebody_is_called_when_no_night_is_completed(
    deployed: Deployed, webhook: Webhook, first_night: Night
) -> None:
    assert "The last one ended at" in called(deployed, webhook, "demo: no completed night for 26 hours")["body"]


def test_somebody_is_called_when_a_night_does_not_begin(deployed: Deployed, webhook: Webhook) -> None:
    """The message names what to start by the deployment: a run has the name of its corpus only once it begins."""
    prefect = deployed.prefect
    prefect.done("work-pool", "pause", "nightloom")
    planned = datetime.now(UTC)
    run = prefect.start_run("demo")
    try:
        message = called(deployed, webhook, "nightly-reindex/demo has not begun")
    finally:
        prefect.delete(f"/flow_runs/{run}")
        prefect.done("work-pool", "resume", "nightloom")
    assert f"It was planned for {planned:%Y-%m-}" in message["body"]
    assert "prefect worker start --pool nightloom" in message["body"]
    assert run in message["body"], "no link to the run"


def called(deployed: Deployed, webhook: Webhook, *words: str) -> dict[str, Any]:
    """The message that holds these words, once it has come."""
    return wait_until(lambda: webhook.message(*words), f"a message {words}", PLANNED_SECONDS, deployed.prefect.log_end)


def test_a_run_whose_machine_is_gone_is_marked(deployed: Deployed, refused_night: Night, tmp_path: Path) -> None:
    """Killed with whatever watched over it, as by a power cut: only its heartbeats can tell."""
    prefect = deployed.prefect
    found = prefect.ask("/deployments/name/nightly-reindex/demo")
    pending = {"state": {"type": "PENDING"}, "parameters": {"changes": {"splitting": {"max_tokens": 96}}}}
    run = prefect.ask(f"/deployments/{found['id']}/create_flow_run", pending)["id"]
    written = yaml.safe_load((ROOT / "deployments" / "automations" / "lost-runs.yaml").read_text(encoding="utf-8"))
    written |= {"name": "Mark this one soon"}
    written["trigger"] |= {"match": {"prefect.resource.id": f"prefect.flow-run.{run}"}, "within": 10}
    (tmp_path / "soon.yaml").write_text(yaml.safe_dump(written), encoding="utf-8")
    prefect.bootstrap("--automations", tmp_path)
    machine = subprocess.Popen(
        [sys.executable, "-m", "prefect", "flow-run", "execute", run],
        cwd=ROOT,
        env={**prefect.environment, **deployed.worker},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_until(lambda: is_loading(prefect, run), "a shard is read", PLANNED_SECONDS, prefect.log_end)
    finally:
        for process in (machine.pid, *children(machine.pid)):
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process, signal.SIGKILL)
        machine.wait()
    assert prefect.ask(f"/flow_runs/{run}")["state"]["type"] == "RUNNING"
    state = prefect.run_when(run)["state"]
    assert (state["type"], state["message"]) == ("CRASHED", written["actions"][0]["message"])


def is_loading(prefect: LocalPrefect, run: str) -> bool | None:
    tasks = prefect.ask("/task_runs/filter", {"flow_runs": {"id": {"any_": [run]}}})
    return any(task["name"].startswith("load ") for task in tasks) or None


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="no /proc to find a process by its flow run")
def test_a_night_whose_process_is_killed_is_ended_by_the_next(
    deployed: Deployed, second_night: tuple[Night, Night]
) -> None:
    prefect, other = deployed.prefect, {"changes": {"splitting": {"max_tokens": 96}}}
    run = prefect.start_run("demo", other)
    wait_until(lambda: is_loading(prefect, run), "a shard is read", PLANNED_SECONDS, prefect.log_end)
    os.kill(process_of(run), signal.SIGKILL)
    assert prefect.run_when(run)["state"]["type"] == "CRASHED"
    after = prefect.run_when(prefect.start_run("demo", other))
    assert after["state"]["type"] == "COMPLETED", after["state"]["message"]
    assert after["state"]["message"].startswith("another fingerprint (splitting.max_tokens was ")


def process_of(run: str) -> int:
    """The process in which the worker runs a flow run: the oldest that was given its id."""
    wanted, found = f"PREFECT__FLOW_RUN_ID={run}".encode(), []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return min(found)


def test_the_token_is_nowhere(deployed: Deployed, first_night: Night, second_night: tuple[Night, Night]) -> None:
    home = deployed.prefect.database.parent
    files = [file for folder in (home, deployed.reports) for file in folder.rglob("*") if file.is_file()]
    files += deployed.prefect.folder.glob("*.log")
    assert {deployed.prefect.database, deployed.prefect.worker_log} < set(files)
    secrets = (CANARY, deployed.prefect.auth, deployed.prefect.auth.partition(":")[2])
    assert [file.name for file in files for secret in secrets if secret.encode() in file.read_bytes()] == []
    with closing(sqlite3.connect(f"file:{deployed.prefect.database}?mode=ro", uri=True)) as database:
        dump = "\n".join(database.iterdump())  # a value that SQLite laid over several pages is whole here
    assert not [secret for secret in secrets if secret in dump]
    assert str(deployed.reports) in dump, "the flow run's own log is not in what was searched"


def counts_of(night: Night) -> dict[tuple[str, str], int]:
    rows: list[dict[str, Any]] = json.loads(night.artifacts["demo-counts"]["data"])
    return {(row["what"], row["which"]): row["count"] for row in rows}


@pytest.fixture
def prefect_api(deployed: Deployed) -> Iterator[None]:
    with speaking_to(deployed.prefect), temporary_settings({PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW: "ignore"}):
        try:
            yield
        finally:
            APILogWorker.drain_all()  # what is sent at exit would find no server


class Attempts:
    """A task that fails as often as there are errors, and counts."""

    def __init__(self, *errors: Exception) -> None:
        self.count = 0

        @step("try", run_name="try", timeout_seconds=60)
        async def attempt() -> int:
            self.count += 1
            if self.count <= len(errors):
                raise errors[self.count - 1]
            return self.count

        self.run = attempt.with_options(retry_delay_seconds=0)


async def test_a_transient_error_is_tried_again(prefect_api: None) -> None:
    attempts = Attempts(SourceUnavailable("503"), IndexUnavailable("timed out"))
    assert await attempts.run() == 3


@pytest.mark.parametrize(("minutes", "retries"), [(0, 0), (0.5, 4), (1, 5), (10, 14), (45, 49)])
async def test_a_step_is_tried_again_for_as_long_as_the_corpus_says(
    prefect_api: None, minutes: float, retries: int
) -> None:
    attempts = Attempts(*[SourceUnavailable(f"503, attempt {count}") for count in range(1, len(PAUSES) + 5)])
    patience.set(minutes)
    assert sum(pauses()) <= 60 * minutes
    with pytest.raises(SourceUnavailable, match=f"attempt {retries + 1}$"):
        await attempts.run()
    assert attempts.count == retries + 1


@pytest.mark.parametrize("is_deployed", [True, False])
async def test_a_deployed_step_waits_for_a_milvus_that_is_being_started_again(
    prefect_api: None, monkeypatch: pytest.MonkeyPatch, *, is_deployed: bool
) -> None:
    attempts = Attempts(IndexUnreachable("nothing answers"))
    if is_deployed:
        monkeypatch.setenv("PREFECT__RUNTIME__DEPLOYMENT__ID", "one")
        assert await attempts.run() == 2
    else:
        with pytest.raises(IndexUnreachable):
            await attempts.run()


@pytest.mark.parametrize("is_deployed", [True, False])
async def test_a_deployed_night_waits_for_a_milvus_that_is_being_started_again(
    prefect_api: None, monkeypatch: pytest.MonkeyPatch, *, is_deployed: bool
) -> None:
    tries = []

    @contextlib.asynccontextmanager
    async def opening() -> AsyncIterator[Any]:
        tries.append(1)
        if len(tries) < 3:
            raise IndexUnreachable("milvus.uri: http://127.0.0.1:1: Milvus cannot be reached")
        yield "a night"

    @flow(persist_result=False)
    async def opened() -> str:
        async with contextlib.AsyncExitStack() as stack:
            return str(await begin_module._open(stack, opening))

    monkeypatch.setattr(begin_module, "pauses", lambda: (0.01,) * 5)
    if is_deployed:
        monkeypatch.setenv("PREFECT__RUNTIME__DEPLOYMENT__ID", "one")
        assert await opened() == "a night"
        assert len(tries) == 3
    else:
        with pytest.raises(IndexUnreachable):
            await opened()


@pytest.mark.parametrize("kind", [EmbedderError, NightFailed, Held, ValueError])
async def test_a_permanent_error_is_raised_at_once(prefect_api: None, kind: type[Exception]) -> None:
    attempts = Attempts(kind("no"))
    with pytest.raises(kind, match="no"):
        await attempts.run()
    assert attempts.count == 1


async def test_an_attempt_that_takes_too_long_is_tried_again(prefect_api: None) -> None:
    tried = []

    @step("wait", run_name="wait", timeout_seconds=0.5)
    async def wait() -> str:
        tried.append(1)
        if len(tried) == 1:
            await asyncio.Event().wait()
        return "done"

    assert await wait.with_options(retry_delay_seconds=0)() == "done"
    assert len(tried) == 2


# --- what an operator sees in the UI after a night


@pytest.fixture(scope="module")
def page(deployed: Deployed, first_night: Night) -> Iterator[Page]:
    if screenshots.find_browser() is None:
        pytest.skip("neither Chromium nor Chrome is on the PATH")
    with screenshots.open_browser(deployed.prefect.url, deployed.prefect.auth) as page:
        yield page


@pytest.fixture(scope="module")
def url(deployed: Deployed) -> str:
    return deployed.prefect.url


@pytest.fixture
def picture(page: Page, tmp_path: Path) -> Iterator[Path]:
    """Where the picture of a test is; taken when it ends, so that it shows what was found wrong."""
    file = tmp_path / "page.png"
    yield file
    page.screenshot(path=file)


@pytest.mark.browser
def test_a_run_is_found_by_its_name(page: Page, url: str, first_night: Night, picture: Path) -> None:
    name = first_night.run["name"]
    page.goto(f"{url}/v2/runs")
    page.get_by_placeholder("Search by flow run name").fill(name)
    found = page.locator(f"a[href*='{first_night.run['id']}']").filter(has_text=name).first
    # A click can meet the list while it still takes in its own address, and this UI then shows an error.
    page.goto(f"{url}{found.get_attribute('href')}")
    expect(page).to_have_url(re.compile(first_night.run["id"]))
    expect(page.get_by_text("Promoted", exact=True).first).to_be_visible()


@pytest.mark.browser
def test_a_run_shows_its_tasks_and_artifacts(page: Page, url: str, first_night: Night, picture: Path) -> None:
    screenshots.open_flow_run(page, url, first_night.run["id"])
    for key in ("demo-report", "demo-counts", "demo-progress"):
        expect(page.get_by_text(key, exact=True).first).to_be_visible()
    page.get_by_role("tab", name="Task Runs").click()
    for name in ("download topics", "promote demo"):
        expect(page.get_by_text(name, exact=True).first).to_be_visible()


@pytest.mark.browser
def test_a_run_says_what_came_of_it(page: Page, url: str, first_night: Night, picture: Path) -> None:
    page.goto(f"{url}/v2/runs/flow-run/{first_night.run['id']}?tab=Details")
    expect(page.get_by_text("the first generation of this index").first).to_be_visible()


@pytest.mark.browser
def test_the_report_is_rendered(page: Page, url: str, first_night: Night, picture: Path) -> None:
    screenshots.open_report(page, url, first_night.artifacts["demo-report"]["id"])
    expect(page.get_by_role("heading", name="demo: promoted", exact=True)).to_be_visible()
    for heading in ("Scores", "Documents", "Nodes", "Seconds"):
        expect(page.get_by_role("heading", name=heading, exact=True)).to_be_visible()
    scores = page.get_by_role("table").filter(has_text="nDCG@10")
    expect(scores.get_by_role("columnheader", name="Metric")).to_be_visible()
    expect(page.get_by_text("| --- |").filter(visible=True)).to_have_count(0)


@pytest.mark.browser
def test_the_counts_are_a_table(page: Page, url: str, first_night: Night, picture: Path) -> None:
    page.goto(f"{url}/v2/artifacts/artifact/{first_night.artifacts['demo-counts']['id']}")
    added = page.get_by_role("row").filter(has_text="documents").filter(has_text="added")
    expect(added.get_by_text(str(len(QUESTIONS)), exact=True)).to_be_visible()


@pytest.mark.browser
def test_the_deployments_show_their_schedules(page: Page, url: str, picture: Path) -> None:
    screenshots.open_deployments(page, url)
    for time in ("At 02:00 AM", "At 02:30 AM"):
        expect(page.get_by_text(time).first).to_be_visible()


@pytest.mark.browser
def test_the_form_of_a_custom_run_helps(page: Page, url: str, deployed: Deployed, picture: Path) -> None:
    screenshots.open_form(page, url, deployed.deployments["demo"]["id"])
    expect(page.get_by_text("sections of the corpus file with the keys").first).to_be_visible()
    expect(page.get_by_text('Property is type "None"')).to_have_count(0)


@pytest.mark.browser
def test_the_form_sends_what_was_filled_in_and_no_other(
    page: Page, url: str, deployed: Deployed, picture: Path
) -> None:
    """A default that was sent would replace the corpus file's model, and embed every document again."""
    address = "**/create_flow_run"
    page.route(address, lambda route: route.abort())  # no run begins
    screenshots.open_form(page, url, deployed.deployments["demo"]["id"])
    page.get_by_label("Allow removals").first.click()
    with page.expect_event("requestfailed", lambda request: request.url.endswith("/create_flow_run")) as sent:
        page.get_by_role("button", name="Submit").click()
    page.unroute(address)
    run: Any = sent.value.post_data_json
    given = {key: value for key, value in run["parameters"].items() if value is not None}
    assert given.pop("changes", {}) == {}
    assert given == {"corpus_file": "corpora/demo.toml", "allow_removals": True, "repair": False}


@pytest.mark.browser
def test_the_classic_ui_shows_the_report_too(page: Page, url: str, first_night: Night, picture: Path) -> None:
    page.context.add_cookies([{"name": "prefect_ui_version", "value": "v1", "url": url}])
    page.goto(f"{url}/artifacts/artifact/{first_night.artifacts['demo-report']['id']}")
    expect(page.get_by_role("heading", name="demo: promoted", exact=True)).to_be_visible()
    expect(page.get_by_text("nDCG@10").first).to_be_visible()


@pytest.mark.browser
def test_an_operator_takes_a_night_back_from_the_ui(page: Page, url: str, deployed: Deployed, picture: Path) -> None:
    """The last night of this file: what it left is found by its keys, and the form of the rollback needs no name."""
    prefect = deployed.prefect
    last = latest_run(prefect, "nightly-reindex")
    assert last
    page.goto(f"{url}/v2/runs/flow-run/{last['id']}?tab=Artifacts")
    for key in ("demo-report", "demo-scores", "demo-quarantine", "demo-documents", "demo-generations"):
        expect(page.get_by_text(key, exact=True).first).to_be_visible()
    screenshots.open_scores(page, url, screenshots.artifact_of(prefect, last["id"], "demo-scores")["id"])
    expect(page.get_by_text("nDCG@10").first).to_be_visible()

    live = latest_generations(prefect)[0]
    screenshots.open_rollback(page, url, prefect.ask("/deployments/name/rollback/demo")["id"])
    submit(page)
    expect(page).not_to_have_url(re.compile("/run$"))
    back = latest_run(prefect, "rollback")
    assert back
    ended = prefect.run_when(back["id"])
    assert ended["state"]["type"] == "COMPLETED", ended["state"]["message"]
    page.goto(f"{url}/v2/runs/flow-run/{back['id']}?tab=Details")
    expect(page.get_by_text(f"again, and was {live['generation']}").first).to_be_visible()
    page.goto(f"{url}/v2/artifacts/key/demo-generations")
    now = latest_generations(prefect)
    assert [row["state"] for row in now[:2]] == ["earlier", "live"]
    expect(page.get_by_text(f"live: {now[1]['generation']}").first).to_be_visible()


def submit(page: Page) -> None:
    """Submit a form until the server takes it: a busy one answers 503, of which the page says so and stays."""
    answers = []
    for _ in range(3):
        with page.expect_response(lambda answer: answer.url.endswith("/create_flow_run")) as answered:
            page.get_by_role("button", name="Submit").click()
        if answered.value.ok:
            return
        answers.append(f"{answered.value.status} {answered.value.text()[:200]}")
    pytest.fail(f"Prefect took no run: {answers}")


def latest_generations(prefect: LocalPrefect) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(prefect.ask("/artifacts/demo-generations/latest")["data"])
    return rows
