"""The flows beside the nightly one: what they do and show in the UI, and the events that they and nights emit."""

import asyncio
import json
import logging
import re
from typing import Any

import httpx
import pytest
from prefect.exceptions import ParameterTypeError
from prefect.settings import PREFECT_API_URL, temporary_settings

from nightloom.corpus import Alias
from nightloom.documents import document_id
from nightloom.errors import Held, IndexInconsistent, IndexUnavailable
from nightloom.flows.check import checks
from nightloom.flows.nightly_reindex import nightly_reindex
from nightloom.flows.promote import promote
from nightloom.flows.prune import prune
from nightloom.flows.query_evaluation import query_evaluation
from nightloom.flows.rollback import rollback
from nightloom.flows.verify import verify
from nightloom.index import Index, open_index
from nightloom.operate import all_generations
from nightloom.report import RunReport
from nightloom.rows import among
from nightloom.tasks.operate import promote_held, switch_back
from tests.builders import command
from tests.nights import QUERIES, TEXTS, Home, live_name, night

WAIT_SECONDS = 20
"""For the server to have what was sent in the background."""

FIRST = {**TEXTS, "empty.txt": ""}
SECOND = {
    **{name: text for name, text in TEXTS.items() if name != "piano.txt"},
    "chess.txt": "Chess.",
    "new.txt": "New.",
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, prefect_server: str) -> Home:
    """A corpus with an index of two generations, which the tests of this file look at one after the other."""
    folder = tmp_path_factory.mktemp("operating")
    new = Home(folder, "index.db", f"ops_{document_id(str(folder))[:12]}")
    new.configure("[index]\nkeep = 5")
    for texts in (FIRST, SECOND):
        new.write(texts)
        with temporary_settings({PREFECT_API_URL: prefect_server}):
            asyncio.run(night(new))
    return new


@pytest.fixture
def key(home: Home) -> str:
    """What the keys of its artifacts begin with."""
    return home.name.replace("_", "-")


async def events_of(api: str, alias: Alias, last: str, times: int = 1) -> list[dict[str, Any]]:
    """Every event about an index, oldest first, once `last` is among them so often."""
    wanted = {"resource": {"id": [f"nightloom.index.{alias}"]}, "order": "ASC"}
    found: list[dict[str, Any]] = []
    async with httpx.AsyncClient() as client:
        for _ in range(WAIT_SECONDS * 5):
            answer = await client.post(f"{api}/events/filter", json={"filter": wanted, "limit": 50})
            found = answer.raise_for_status().json()["events"]
            if [event["event"] for event in found].count(last) >= times:
                return found
            await asyncio.sleep(0.2)
    raise AssertionError(f"no {last} in {[event['event'] for event in found]}")


def latest(api: str, key: str) -> Any:
    """The data of the newest artifact of a key."""
    return httpx.get(f"{api}/artifacts/{key}/latest").raise_for_status().json()["data"]


def history(api: str, key: str) -> list[str]:
    """The data of every artifact of a key, as text."""
    wanted = {"artifacts": {"key": {"any_": [key]}}}
    return [str(one["data"]) for one in httpx.post(f"{api}/artifacts/filter", json=wanted).raise_for_status().json()]


def table(api: str, key: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(latest(api, key))
    return rows


async def test_a_night_emits_its_events_about_the_alias(home: Home, prefect_api: str) -> None:
    events = await events_of(prefect_api, home.name, "nightloom.night.completed", times=2)
    assert [event["event"].removeprefix("nightloom.") for event in events] == [
        *("night.started", "index.promoted", "document.quarantined", "night.completed"),
        *("night.started", "index.promoted", "night.completed"),
    ]
    promoted, refused, ended = (event["payload"] for event in events[1:4])
    assert (promoted["before"], promoted["documents"]["added"]) == (None, len(TEXTS))
    assert (refused["document"], refused["more"]) == ("texts/empty.txt", 0)
    assert refused["reason"]
    assert (ended["outcome"], ended["generation"]) == ("promoted", promoted["generation"])
    assert events[5]["payload"]["before"] == promoted["generation"]
    roles = {related["prefect.resource.role"] for related in events[1]["related"]}
    assert {"generation", "flow-run", "flow"} <= roles
    everything = json.dumps(events)
    assert not any(text[:40] in everything for text in TEXTS.values()), "an event holds the text of a document"


def test_a_night_shows_documents_quarantine_scores_and_generations(home: Home, key: str, prefect_api: str) -> None:
    rows = [(row["document"], row["what"]) for row in table(prefect_api, f"{key}-documents")]
    assert rows == [("texts/piano.txt", "removed"), ("texts/chess.txt", "changed"), ("texts/new.txt", "added")]
    assert table(prefect_api, f"{key}-quarantine") == []
    (before,) = [json.loads(one) for one in history(prefect_api, f"{key}-quarantine") if one != "[]"]
    assert [row["document"] for row in before] == ["texts/empty.txt"]
    assert [row["state"] for row in table(prefect_api, f"{key}-generations")] == ["live", "earlier"]
    scores = latest(prefect_api, f"{key}-scores")
    assert "| nDCG@10 |" in scores
    assert "data:image/svg+xml" in scores


@pytest.mark.usefixtures("prefect_api")
async def test_a_refused_run_ends_in_words_and_shows_no_traceback(
    home: Home, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = await rollback(corpus_file=home.file, to="no_such_generation", return_state=True)
    assert (state.type.value, state.name) == ("FAILED", "Refused")
    assert re.match(
        rf"{home.name}: no_such_generation: no generation of .*\. Readers see {home.name}_\S+ of .*, \d+ nodes\.$",
        state.message or "",
    )
    shown = [record for record in caplog.records if record.levelno >= logging.INFO]
    assert not [record for record in shown if record.exc_info], "a traceback"
    assert "Traceback" not in "".join(map(str, shown))

    def broken(*_arguments: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("nightloom.tasks.operate.operate.roll_back", broken)
    with pytest.raises(ZeroDivisionError):
        await rollback(corpus_file=home.file)
    assert [record for record in caplog.records if record.exc_info and record.levelno >= logging.ERROR], "unforeseen"


async def test_the_live_index_is_scored_and_a_missed_floor_is_held(home: Home, key: str, prefect_api: str) -> None:
    found = await query_evaluation(corpus_file=home.file)
    assert found["scores"]["nDCG@10"] == 1.0
    rows = table(prefect_api, f"{key}-queries")
    assert {row["query"] for row in rows} == set(QUERIES)
    assert list(rows[0]) == ["query", "nDCG@10", "R@10", "RR@10", "text"], "the UI cuts a table off on the right"
    assert "| Metric | Mean |\n" in latest(prefect_api, f"{key}-scores"), "there is nothing to compare with"

    # Who asks for bread is judged to want whales: no index finds them first.
    (home.folder / "other.tsv").write_text("query-id\tcorpus-id\tscore\nq1\twhale.txt\t1\n")
    other = {"qrels": str(home.folder / "other.tsv")}
    state = await query_evaluation(corpus_file=home.file, evaluation=other, floor=0.9, return_state=True)
    assert (state.type.value, state.name) == ("FAILED", "Held")
    assert re.match(rf"{home.name}: nDCG@10 is 0\.\d+, and gate.floor asks for 0.9 at least", state.message or "")
    page = latest(prefect_api, f"{key}-scores")
    assert "| Metric | Mean | Floor |\n" in page
    assert "| 0.9 |" in page
    warned = await query_evaluation(corpus_file=home.file, evaluation=other, floor=0.9, missed_floor="warn")
    assert warned["scores"]["nDCG@10"] < 0.9


def cut_off_once(monkeypatch: pytest.MonkeyPatch, step: Any) -> None:
    """The connection is lost right after the next switch, and the step that made it tries again at once."""
    keep, cut = Index._keep, iter([True])

    async def cut_off(self: Index, *given: Any) -> None:
        if next(cut, False):
            raise IndexUnavailable("cut off")
        await keep(self, *given)

    monkeypatch.setattr(Index, "_keep", cut_off)
    monkeypatch.setattr(step, "retry_delay_seconds", 0)


async def test_a_rollback_emits_its_event_and_shows_what_is_live(
    home: Home, key: str, prefect_api: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    live, *earlier = reversed(await all_generations(home.corpus, None))
    cut_off_once(monkeypatch, switch_back)
    await rollback(corpus_file=home.file)
    (back,) = (await events_of(prefect_api, home.name, "nightloom.index.rolled-back"))[-1:]
    assert (back["payload"]["generation"], back["payload"]["before"]) == (earlier[0].name, live.name)
    assert [row["state"] for row in table(prefect_api, f"{key}-generations")][:2] == ["earlier", "live"]
    await rollback(corpus_file=home.file, to=live.name)


def test_a_rollback_from_the_command_line_emits_the_same_event(home: Home, key: str, prefect_api: str) -> None:
    live, before, *_ = reversed(asyncio.run(all_generations(home.corpus, None)))
    earlier = asyncio.run(events_of(prefect_api, home.name, "nightloom.night.completed"))
    times = [event["event"] for event in earlier].count("nightloom.index.rolled-back") + 1
    done = command("rollback", home.file, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    made = json.loads(done.stdout)
    assert (made.pop("alias"), made.pop("after"), made["before"]) == (home.name, before.name, live.name)
    *_, back = asyncio.run(events_of(prefect_api, home.name, "nightloom.index.rolled-back", times))
    assert back["payload"] == {"corpus": home.name, "generation": before.name, **made}
    assert [one["prefect.resource.name"] for one in back["related"]] == [before.name]
    assert [row["state"] for row in table(prefect_api, f"{key}-generations")][:2] == ["earlier", "live"]
    assert command("rollback", home.file, "--to", live.name).returncode == 0


def test_a_promotion_from_the_command_line_emits_its_event(home: Home, key: str, prefect_api: str) -> None:
    home.write(SECOND | {"held.txt": "Held."})
    with pytest.raises(Held):
        asyncio.run(night(home, gate={"floor": 2.0}))
    *_, live, held = asyncio.run(all_generations(home.corpus, None))
    too_long = command("promote", home.file, held.name, "--yes", "--reason", 1001 * "x")
    assert (too_long.returncode, too_long.stderr.count("1001 characters; shorten it to 1000")) == (2, 1)
    done = command("promote", home.file, held.name, "--yes", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    *_, made = asyncio.run(events_of(prefect_api, home.name, "nightloom.index.promoted", times=3))
    assert (made["payload"]["generation"], made["payload"]["before"]) == (held.name, live.name)
    assert made["payload"]["reason"] == json.loads(done.stdout)["reason"]
    assert made["payload"]["documents"]["listed"] == len(SECOND) + 1
    assert table(prefect_api, f"{key}-generations")[0]["state"] == "live"


async def test_a_promotion_from_the_ui_needs_a_reason_and_keeps_it(
    home: Home, key: str, prefect_api: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.write(SECOND | {"other.txt": "Other."})
    with pytest.raises(Held):
        await night(home, gate={"floor": 2.0})
    *_, live, held = await all_generations(home.corpus, None)
    with pytest.raises(ParameterTypeError):
        await promote(corpus_file=home.file, reason=" ")
    cut_off_once(monkeypatch, promote_held)
    state = await promote(corpus_file=home.file, reason="queries are old", return_state=True)
    assert (state.type.value, state.name) == ("COMPLETED", "Promoted"), state.message
    report = RunReport.model_validate(await state.aresult())
    assert report.reason.endswith(f"{held.held}; the operator's reason: queries are old")
    *_, made = await events_of(prefect_api, home.name, "nightloom.index.promoted", times=4)
    assert (made["payload"]["generation"], made["payload"]["before"]) == (held.name, live.name)
    assert made["payload"]["reason"] == report.reason
    assert "queries are old" in table(prefect_api, f"{key}-generations")[0]["held"]
    state = await promote(corpus_file=home.file, reason="again", return_state=True)
    assert (state.name, f"{held.name} (live)" in str(state.message)) == ("Refused", True), "nothing is held"
    warnings = (await night(home))["warnings"]
    assert [one for one in warnings if one.endswith("queries are old")], "and every night says so"


def test_a_command_has_done_its_work_where_prefect_is_away(home: Home) -> None:
    live = asyncio.run(all_generations(home.corpus, None))[-1]
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        done = command("rollback", home.file)
    assert (done.returncode, f"and was {live.name}" in " ".join(done.stdout.split())) == (0, True)
    assert "no automation reacts: PREFECT_API_URL: http://127.0.0.1:9/api does not answer" in done.stderr
    done = command("rollback", home.file, "--to", live.name)  # nor is there a server that it should know of
    assert (done.returncode, done.stderr) == (0, "")


async def test_rows_that_are_not_whole_fail_the_run_until_it_repairs_them(
    home: Home, key: str, prefect_api: str
) -> None:
    before = await home.rows()
    assert (await verify(corpus_file=home.file))["repaired"] == 0
    async with open_index(home.corpus.milvus, home.name) as index:
        where = f"{among([document_id('texts/whale.txt')])} and position == 1"
        index.connection.client.delete(await live_name(index), filter=where)
    with pytest.raises(IndexInconsistent, match=r"whale.txt \(1 missing\)"):
        await verify(corpus_file=home.file)
    (found,) = table(prefect_api, f"{key}-verify")
    assert found == {"document": "texts/whale.txt", "missing": 1, "surplus": 0, "duplicates": 0}
    assert (await verify(corpus_file=home.file, repair=True))["repaired"] == 1
    assert await home.rows() == before


async def test_generations_beyond_those_to_keep_are_dropped(home: Home, prefect_api: str) -> None:
    home.write(TEXTS)
    with pytest.raises(Held):
        await night(home, gate={"floor": 2.0})
    *seen, live, held = [one.name for one in await all_generations(home.corpus, None)]
    assert await prune(corpus_file=home.file) == {"dropped": [], "dry_run": False}
    assert (await prune(corpus_file=home.file, keep=1, dry_run=True))["dropped"] == [*reversed(seen[:-1])]
    assert (await prune(corpus_file=home.file, keep=0, which="all"))["dropped"] == [held, *reversed(seen)]
    assert [one.name for one in await all_generations(home.corpus, None)] == [live]


@pytest.mark.usefixtures("prefect_api")
async def test_a_night_whose_report_cannot_be_written_is_promoted(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTLOOM_REPORTS", str(home.file / "reports"))
    home.write(SECOND | {"more.txt": "The oboe is a double-reed instrument."})
    state = await nightly_reindex(corpus_file=home.file, return_state=True)
    assert (state.type.value, state.name) == ("COMPLETED", "Promoted"), state.message
    report = RunReport.model_validate(await state.aresult())
    assert report.file is None
    assert [one for one in report.warnings if "the report could not be written there: Not a directory" in one]
    assert re.fullmatch(r"Readers see \w+ of [-0-9]+ [0-9:]+ UTC, \d+ nodes\.", report.readers)
    found = dict(await checks(home.file))["disk"]
    assert found.is_error
    home.write(SECOND)
    await nightly_reindex(corpus_file=home.file)
    state = await nightly_reindex(corpus_file=home.file, return_state=True)
    assert state.name == "Unchanged"
