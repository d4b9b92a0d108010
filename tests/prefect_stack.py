"""One Prefect stack for the session, with every deployment, its automations, and a small corpus for its worker.

Test files name this module in `pytest_plugins`: its fixtures, imported, would be set up once a file. They import the
rest of it before pytest sees that, hence PYTEST_DONT_REWRITE.
"""

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pytest
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from deployments.local_prefect import ROOT, LocalPrefect, LocalPrefectFailed, prefect_stack, wait_until
from tests.webhook import Webhook, receiving

CANARY = "canary-4f6d2c19-milvus-token"
"""Given to the worker as the token of Milvus; it must be nowhere else afterwards."""

QUESTIONS = {
    "assert": "How do I check an assumption while debugging?",
    "lambda": "How is an anonymous function written?",
    "pass": "Which statement does nothing?",
    "del": "How do I remove a name from a namespace?",
    "break": "How do I leave a loop early?",
    "yield": "What makes a function a generator?",
}
"""A question for each topic of the corpus."""


MISSING_SECONDS = 15
LATE_SECONDS = 10
PLANNED_SECONDS = 240
"""For the server to plan runs, and its automations to act: usually seconds, minutes where SQLite keeps it waiting."""
UNFINISHED = {"SCHEDULED", "PENDING", "RUNNING"}
"""States of a task of a night that was completed, as long as the server has not yet written down the last one."""


@dataclass(frozen=True, slots=True)
class Deployed:
    """The stack, the deployments as they were right after deploying, and where the worker writes.

    Attributes:
        deployments: By name, as the API gave them.
        planned: Runs that the schedules asked for.
        worker: What the worker has in its environment beside what the stack gives it.
    """

    prefect: LocalPrefect
    deployments: dict[str, dict[str, Any]]
    planned: list[dict[str, Any]]
    reports: Path
    worker: Mapping[str, str]


@pytest.fixture(scope="session")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    """Both deployments on a real server, with a worker that indexes six topics into a Milvus Lite file."""
    folder = tmp_path_factory.mktemp("prefect")
    worker = small_corpus(folder / "corpus")
    with prefect_stack(folder, worker) as prefect:
        named = {name: prefect.ask(f"/deployments/name/nightly-reindex/{name}") for name in ("demo", "tutorial")}
        planned = planned_runs(prefect, {found["id"] for found in named.values()})
        for found in prefect.ask("/deployments/filter", {}):
            if found["schedules"]:  # a run that begins by itself would meet those of the tests
                prefect.ask(f"/deployments/{found['id']}/pause_deployment", {})
        yield Deployed(prefect, named, planned, folder / "corpus" / "reports", worker)


def planned_runs(prefect: LocalPrefect, deployments: set[str]) -> list[dict[str, Any]]:
    """The runs that the schedules ask for, once every deployment has one; empty where the server makes none."""

    def planned() -> list[dict[str, Any]] | None:
        found: list[dict[str, Any]] = prefect.ask("/flow_runs/filter", {"sort": "EXPECTED_START_TIME_ASC"})
        return found if {run["deployment_id"] for run in found} >= deployments else None

    with contextlib.suppress(LocalPrefectFailed):
        return wait_until(planned, "a planned run of every deployment", PLANNED_SECONDS, prefect.log_end)
    return []


def small_corpus(folder: Path) -> dict[str, str]:
    """Write six topics and their questions; return the variables that put them in place of any corpus file's."""
    (folder / "topics").mkdir(parents=True)
    for topic in QUESTIONS:
        (folder / "topics" / f"{topic}.txt").write_text(topics[topic], encoding="utf-8")
    queries = [json.dumps({"_id": topic, "text": text}) for topic, text in QUESTIONS.items()]
    (folder / "queries.jsonl").write_text("\n".join(queries) + "\n", encoding="utf-8")
    qrels = [f"{topic}\t{topic}.txt\t1" for topic in QUESTIONS]
    (folder / "qrels.tsv").write_text("\n".join(qrels) + "\n", encoding="utf-8")
    return {
        "NIGHTLOOM_SOURCES": json.dumps([{"path": str(folder / "topics")}]),
        "NIGHTLOOM_SHARDS__DOCUMENTS": "3",
        "NIGHTLOOM_MILVUS__URI": str(folder / "index.db"),
        "NIGHTLOOM_MILVUS_TOKEN": CANARY,
        "NIGHTLOOM_EVALUATION__QUERIES": str(folder / "queries.jsonl"),
        "NIGHTLOOM_EVALUATION__QRELS": str(folder / "qrels.tsv"),
        "NIGHTLOOM_REPORTS": str(folder / "reports"),
    }


@dataclass(frozen=True, slots=True)
class Night:
    """A flow run that has ended, what came of it, and what the command that watched it printed."""

    run: dict[str, Any]
    artifacts: dict[str, dict[str, Any]]
    tasks: list[dict[str, Any]]
    output: str
    exit_code: int


@pytest.fixture(scope="session")
def webhook(deployed: Deployed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Webhook]:
    """The shipped automations on the server, which call here; those that wait for hours or a minute wait less."""
    folder = shutil.copytree(ROOT / "deployments" / "automations", tmp_path_factory.mktemp("shipped") / "automations")
    for name, written, soon in (
        ("missing-night.yaml", "within: 93600", f"within: {MISSING_SECONDS}"),
        ("late-night.yaml", "within: 1800", f"within: {LATE_SECONDS}"),
        ("after-promotion.yaml", "schedule_after: 60", "schedule_after: 0"),
    ):
        text = (folder / name).read_text(encoding="utf-8")
        assert written in text
        (folder / name).write_text(text.replace(written, soon), encoding="utf-8")
    with receiving() as webhook:
        with speaking_to(deployed.prefect):
            body = {"subject": "{{subject}}", "body": "{{body}}"}
            CustomWebhookNotificationBlock(name="tests", url=webhook.url, json_data=body).save("nightloom-alerts")
        deployed.prefect.bootstrap("--automations", folder)
        yield webhook


@contextlib.contextmanager
def speaking_to(prefect: LocalPrefect) -> Iterator[None]:
    """Let this process speak to the server of a stack."""
    with temporary_settings({PREFECT_API_URL: prefect.api, PREFECT_API_AUTH_STRING: prefect.auth}):
        yield


@pytest.fixture(scope="session")
def first_night(deployed: Deployed, webhook: Webhook) -> Night:
    """The first run of the deployment `demo`, asked for and watched as an operator does."""
    done = deployed.prefect.prefect("deployment", "run", "nightly-reindex/demo", "--watch")
    run = latest_run(deployed.prefect, "nightly-reindex")
    assert run, done.stdout + done.stderr
    return night_of(deployed.prefect, run, done.stdout + done.stderr, done.returncode)


@pytest.fixture(scope="session")
def downstream(deployed: Deployed, first_night: Night) -> Night:
    """The run that the promotion of the first night has started; the automation is gone then."""
    prefect = deployed.prefect

    def started() -> dict[str, Any] | None:
        return latest_run(prefect, "query-evaluation")

    run = wait_until(started, "a run of query-evaluation after the promotion", PLANNED_SECONDS, prefect.log_end)
    ended = prefect.run_when(run["id"])
    names = {one["name"]: one["id"] for one in prefect.ask("/automations/filter", {})}
    prefect.delete(f"/automations/{names['After a promotion of demo']}")
    return night_of(prefect, ended)


def latest_run(prefect: LocalPrefect, flow: str) -> dict[str, Any] | None:
    """The run of a flow that was asked for last, not by a schedule; None where there is none."""
    wanted = {"flows": {"name": {"any_": [flow]}}, "sort": "EXPECTED_START_TIME_DESC"}
    runs: list[dict[str, Any]] = prefect.ask("/flow_runs/filter", wanted)
    return next((run for run in runs if not run["auto_scheduled"]), None)


def night_of(prefect: LocalPrefect, run: dict[str, Any], output: str = "", exit_code: int = 0) -> Night:
    """Gather what a flow run that has ended left on the server, which may still be writing down states of its tasks."""
    of_run = {"flow_runs": {"id": {"any_": [run["id"]]}}}

    def recorded() -> list[dict[str, Any]] | None:
        tasks: list[dict[str, Any]] = prefect.ask("/task_runs/filter", of_run | {"sort": "EXPECTED_START_TIME_ASC"})
        late = run["state"]["type"] == "COMPLETED" and any(task["state"]["type"] in UNFINISHED for task in tasks)
        return None if late else tasks

    artifacts = {found["key"]: found for found in prefect.ask("/artifacts/filter", of_run)}
    tasks = wait_until(recorded, "the last states of the tasks", PLANNED_SECONDS, prefect.log_end)
    return Night(run, artifacts, tasks, output, exit_code)
