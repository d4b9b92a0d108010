"""Take the pictures of docs/images: the demo, deployed and run twice, in the UI of a Prefect server of its own.

    python deployments/screenshots.py [FOLDER]

Needs Chromium or Chrome, and the package `playwright`. The demo is indexed into a temporary folder; what is in data/
stays as it is. The first night finds some topics half as long, so that the second has something to compare. Takes some
minutes: every topic is embedded.
"""

import argparse
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, Route, ViewportSize, expect, sync_playwright
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from deployments.local_prefect import ROOT, LocalPrefect, LocalPrefectFailed, prefect_stack, wait_until

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
SIZE: ViewportSize = {"width": 1400, "height": 900}
WAIT_SECONDS = 60
RUN_SECONDS = 900
SHORTER = ("with", "lambda", "yield")
DRAWN_BYTES = 10_000
"""A PNG of the task graph is larger than this once the tasks are drawn; an empty one has about 3,000 bytes."""


def find_browser() -> str | None:
    """The first Chromium or Chrome on the PATH."""
    return next((found for found in map(shutil.which, BROWSERS) if found), None)


@contextmanager
def open_browser(url: str, auth: str) -> Iterator[Page]:
    """A page of a browser with an empty profile, logged in to one server, which reaches nothing else.

    Prefect's UI asks addresses outside for its own statistics, even where the server's are off.

    Raises:
        LocalPrefectFailed: There is no browser.
    """
    browser = find_browser()
    if browser is None:
        raise LocalPrefectFailed(f"none of {', '.join(BROWSERS)} is on the PATH")

    def only_ours(route: Route) -> None:
        if route.request.url.startswith((f"{url}/", "data:", "blob:")):
            route.continue_()
        else:
            route.abort()

    with tempfile.TemporaryDirectory() as profile, sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            profile, executable_path=browser, args=ARGUMENTS, viewport=SIZE, color_scheme="light"
        )
        context.set_default_timeout(WAIT_SECONDS * 1000)
        expect.set_options(timeout=WAIT_SECONDS * 1000)
        context.route("**/*", only_ours)
        try:
            log_in(context.pages[0], url, auth)
            yield context.pages[0]
        finally:
            context.close()


def log_in(page: Page, url: str, auth: str) -> None:
    """Give the password that the server asks for."""
    page.goto(f"{url}/v2/login")
    page.get_by_placeholder("admin:pass").fill(auth)
    page.get_by_role("button", name="Login").click()
    expect(page).to_have_url(re.compile("/dashboard"))


def open_flow_run(page: Page, url: str, run: str) -> None:
    """Show a flow run with its artifacts, and wait until the graph of its tasks is drawn."""
    page.goto(f"{url}/v2/runs/flow-run/{run}?tab=Artifacts")
    expect(page.get_by_text("Promoted", exact=True).first).to_be_visible()
    expect(page.get_by_text("demo-report", exact=True).first).to_be_visible()
    graph = page.locator("canvas").first
    wait_until(lambda: len(graph.screenshot()) > DRAWN_BYTES or None, "the task graph", WAIT_SECONDS, lambda: "")


def open_report(page: Page, url: str, artifact: str) -> None:
    """Show the run report as the UI renders it."""
    page.goto(f"{url}/v2/artifacts/artifact/{artifact}")
    expect(page.get_by_role("heading", name="Documents", exact=True)).to_be_visible()


def open_deployments(page: Page, url: str) -> None:
    """Show the list of deployments with their schedules, and the runs of the demo as bars."""
    page.goto(f"{url}/v2/deployments")
    for name in ("demo", "tutorial"):
        expect(page.get_by_role("link", name=name, exact=True).first).to_be_visible()
    expect(page.locator("[class*=fill-state-completed]").first).to_be_attached()


def open_scores(page: Page, url: str, artifact: str) -> None:
    """Show the scores of a night as a table and a chart."""
    page.goto(f"{url}/v2/artifacts/artifact/{artifact}")
    expect(page.get_by_role("columnheader", name="Metric")).to_be_visible()
    expect(page.get_by_role("img", name="scores")).to_be_visible()


def open_rollback(page: Page, url: str, deployment: str) -> None:
    """Show the form of a rollback."""
    page.goto(f"{url}/v2/deployments/deployment/{deployment}/run")
    expect(page.get_by_text("Name of a generation").first).to_be_visible()


def open_automations(page: Page, url: str) -> None:
    """Show what the server does by itself."""
    page.goto(f"{url}/v2/automations")
    expect(page.get_by_text("A night failed or was held").first).to_be_visible()


def open_form(page: Page, url: str, deployment: str) -> None:
    """Show the form of a custom run."""
    page.goto(f"{url}/v2/deployments/deployment/{deployment}/run")
    expect(page.get_by_text("Changes to the corpus file").first).to_be_visible()


def take_all(prefect: LocalPrefect, first: str, second: str, folder: Path) -> None:
    """Take every picture of two flow runs of the demo that have ended: the long one's tasks, the other one's report."""
    deployment = prefect.ask("/deployments/name/nightly-reindex/demo")["id"]
    with open_browser(prefect.url, prefect.auth) as page:
        open_flow_run(page, prefect.url, first)
        _take(page, folder / "flow-run.png")
        open_report(page, prefect.url, artifact_of(prefect, second, "demo-report")["id"])
        _take(page, folder / "run-report.png")
        open_scores(page, prefect.url, artifact_of(prefect, second, "demo-scores")["id"])
        _take(page, folder / "scores.png")
        open_rollback(page, prefect.url, prefect.ask("/deployments/name/rollback/demo")["id"])
        _take(page, folder / "rollback.png")
        open_automations(page, prefect.url)
        _take(page, folder / "automations.png")
        open_deployments(page, prefect.url)
        _take(page, folder / "deployments.png")
        open_form(page, prefect.url, deployment)
        _take(page, folder / "custom-run.png")


def save_alerts(prefect: LocalPrefect) -> None:
    """Create the notification block that the automations name, and then the automations."""
    with temporary_settings({PREFECT_API_URL: prefect.api, PREFECT_API_AUTH_STRING: prefect.auth}):
        CustomWebhookNotificationBlock(name="nobody", url="http://127.0.0.1:9/").save("nightloom-alerts")
    prefect.bootstrap()


def of_yesterday(folder: Path) -> Path:
    """The topics, some of them not yet as long as they are."""
    topics = shutil.copytree(ROOT / "corpora" / "demo" / "topics", folder / "topics")
    for name in SHORTER:
        file = topics / f"{name}.txt"
        text = file.read_text(encoding="utf-8")
        file.write_text(text[: len(text) // 2], encoding="utf-8")
    return topics


def run_demo(prefect: LocalPrefect, parameters: dict[str, Any]) -> str:
    """Run the demo, and wait for its end."""
    run = prefect.start_run("demo", parameters)
    state = prefect.run_when(run, timeout_seconds=RUN_SECONDS)["state"]
    print(f"{state['name']}: {state['message']}")
    return run


def artifact_of(prefect: LocalPrefect, run: str, key: str) -> dict[str, Any]:
    """An artifact of a flow run, by its key."""
    found: list[dict[str, Any]] = prefect.ask("/artifacts/filter", {"flow_runs": {"id": {"any_": [run]}}})
    return next(artifact for artifact in found if artifact["key"] == key)


def _take(page: Page, file: Path) -> None:
    page.wait_for_load_state("networkidle")
    page.screenshot(path=file)
    print(file)


def main() -> int:
    """Take the pictures; 1 where there is no browser, or the demo did not go through."""
    parser = argparse.ArgumentParser(description="Take the pictures of docs/images.")
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "docs" / "images", help="(default: docs/images)")
    folder: Path = parser.parse_args().folder
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # server and worker end with us
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run([sys.executable, ROOT / "corpora" / "demo" / "write_topics.py"], check=True)  # noqa: S603  ours
    with tempfile.TemporaryDirectory() as temporary:
        index = {
            "NIGHTLOOM_MILVUS__URI": str(Path(temporary, "demo.db")),
            "NIGHTLOOM_REPORTS": str(Path(temporary, "reports")),
            "NIGHTLOOM_SHARDS__SIZE_BYTES": "200000",  # few enough that the graph's names can be read
        }
        try:
            with prefect_stack(Path(temporary) / "prefect", index) as prefect:
                save_alerts(prefect)
                sources = [{"path": str(of_yesterday(Path(temporary))), "include": ["*.txt"]}]
                first = run_demo(prefect, {"changes": {"sources": sources}})
                take_all(prefect, first, run_demo(prefect, {}), folder)
        except LocalPrefectFailed as error:
            print(error, file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
