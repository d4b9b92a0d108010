"""What an operator sees in the UI after a night."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from deployments import screenshots
from tests.prefect_stack import QUESTIONS, Deployed, Night

pytest_plugins = ["tests.prefect_stack"]
pytestmark = [
    pytest.mark.browser,
    pytest.mark.prefect,
    pytest.mark.skipif(screenshots.find_browser() is None, reason="neither Chromium nor Chrome is on the PATH"),
]


@pytest.fixture(scope="module")
def page(deployed: Deployed, first_night: Night) -> Iterator[Page]:
    with screenshots.open_browser(deployed.prefect.url) as page:
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


def test_a_run_is_found_by_its_name(page: Page, url: str, first_night: Night, picture: Path) -> None:
    name = first_night.run["name"]
    page.goto(f"{url}/v2/runs")
    page.get_by_placeholder("Search by flow run name").fill(name)
    page.locator(f"a[href*='{first_night.run['id']}']").filter(has_text=name).first.click()
    expect(page).to_have_url(re.compile(first_night.run["id"]))
    expect(page.get_by_text("Completed", exact=True).first).to_be_visible()


def test_a_run_shows_its_tasks_and_artifacts(page: Page, url: str, first_night: Night, picture: Path) -> None:
    screenshots.open_flow_run(page, url, first_night.run["id"])
    for key in ("demo-report", "demo-counts", "demo-progress"):
        expect(page.get_by_text(key, exact=True).first).to_be_visible()
    page.get_by_role("tab", name="Task Runs").click()
    for name in ("download topics", "promote demo"):
        expect(page.get_by_text(name, exact=True).first).to_be_visible()


def test_a_run_says_what_came_of_it(page: Page, url: str, first_night: Night, picture: Path) -> None:
    page.goto(f"{url}/v2/runs/flow-run/{first_night.run['id']}?tab=Details")
    expect(page.get_by_text("promoted: the first generation of this index").first).to_be_visible()


def test_the_report_is_rendered(page: Page, url: str, first_night: Night, picture: Path) -> None:
    screenshots.open_report(page, url, first_night.artifacts["demo-report"]["id"])
    expect(page.get_by_role("heading", name="demo: promoted", exact=True)).to_be_visible()
    for heading in ("Scores", "Documents", "Nodes", "Seconds"):
        expect(page.get_by_role("heading", name=heading, exact=True)).to_be_visible()
    scores = page.get_by_role("table").filter(has_text="nDCG@10")
    expect(scores.get_by_role("columnheader", name="Metric")).to_be_visible()
    expect(page.get_by_text("| --- |").filter(visible=True)).to_have_count(0)


def test_the_counts_are_a_table(page: Page, url: str, first_night: Night, picture: Path) -> None:
    page.goto(f"{url}/v2/artifacts/artifact/{first_night.artifacts['demo-counts']['id']}")
    added = page.get_by_role("row").filter(has_text="documents").filter(has_text="added")
    expect(added.get_by_text(str(len(QUESTIONS)), exact=True)).to_be_visible()


def test_the_deployments_show_their_schedules(page: Page, url: str, picture: Path) -> None:
    screenshots.open_deployments(page, url)
    for time in ("At 02:00 AM", "At 02:30 AM"):
        expect(page.get_by_text(time).first).to_be_visible()


def test_the_form_of_a_custom_run_helps(page: Page, url: str, deployed: Deployed, picture: Path) -> None:
    screenshots.open_form(page, url, deployed.deployments["demo"]["id"])
    expect(page.get_by_text("Over the keys of [splitting]").first).to_be_visible()
    expect(page.get_by_label("Tokens a node").first).to_have_value("")


def test_the_form_sends_the_keys_that_were_filled_in_and_no_other(
    page: Page, url: str, deployed: Deployed, picture: Path
) -> None:
    """A default that was sent would replace the corpus file's model, and embed every document again."""
    address = "**/create_flow_run"
    page.route(address, lambda route: route.abort())  # no run begins
    screenshots.open_form(page, url, deployed.deployments["demo"]["id"])
    page.get_by_text("EmbedderChanges", exact=True).first.click()
    page.get_by_label("Batch size").first.fill("16")
    with page.expect_event("requestfailed", lambda request: request.url.endswith("/create_flow_run")) as sent:
        page.get_by_role("button", name="Submit").click()
    page.unroute(address)
    run: Any = sent.value.post_data_json
    given = {key: value for key, value in run["parameters"].items() if value is not None}
    assert given.pop("corpus_file") == "corpora/demo.toml"
    assert {key: value for key, value in given.pop("embedder").items() if value is not None} == {"batch_size": 16}
    assert not any(given.pop("splitting", {}).values())
    assert given == {}


def test_the_classic_ui_shows_the_report_too(page: Page, url: str, first_night: Night, picture: Path) -> None:
    page.context.add_cookies([{"name": "prefect_ui_version", "value": "v1", "url": url}])
    page.goto(f"{url}/artifacts/artifact/{first_night.artifacts['demo-report']['id']}")
    expect(page.get_by_role("heading", name="demo: promoted", exact=True)).to_be_visible()
    expect(page.get_by_text("nDCG@10").first).to_be_visible()
