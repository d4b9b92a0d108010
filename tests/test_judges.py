"""Answers to golden queries, judged at night: they warn, they are counted, and they never fail or decide a night."""

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.blocks.system import Secret

from nightloom import endpoints
from nightloom.corpus import AnswersSettings, EvaluationSettings
from nightloom.corpus_file import load_corpus
from nightloom.errors import CorpusFileError, IndexUnavailable
from nightloom.golden import Reference, load_golden
from nightloom.judges import judge_answers, warnings_of
from nightloom.llm import open_endpoint
from nightloom.night_report import report_of
from nightloom.report import AnswerScores, to_markdown
from nightloom.rows import Hit
from nightloom.secrets import ANSWERS_KEY, OPENAI_KEY
from nightloom.tasks.secrets import find_secret
from tests.index_once import indexed
from tests.nights import QRELS, QUERIES, Home, night
from tests.openai_server import MODEL, Answer, Asked, OpenAIServer, breaks_off, fails, hangs, says, sends, serving
from tests.test_report import make_report

PRICES: dict[str, Any] = {"usd_per_million_input_tokens": 1.0, "usd_per_million_output_tokens": 10.0}
REFERENCES = {
    "q1": Reference("How does dough rise?", "Wild yeast ferments sugars."),
    "q2": Reference("Which chess piece jumps?", "The knight."),
    "q3": Reference("Why are there {tides}?", "The {moon} pulls the water."),
}


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with serving() as running:
        running.choose = model()
        yield running


@pytest.fixture(autouse=True)
def no_long_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoints, "PAUSE_SECONDS", 0.01)


def kind(asked: Asked) -> str:
    """What a request is for."""
    if "<passage 1 " in asked.user:
        return "answer"
    if "is supported by the context" in asked.user:
        return "faithfulness"
    return "relevancy" if "evaluate if the response" in asked.user else "correctness"


def model(**replies: Answer) -> Callable[[Asked], Answer]:
    """A model that does well, but for what a test says of a kind of request."""
    usual = {
        "answer": says("So it is {as the passage says} [1]."),
        "faithfulness": says("YES"),
        "relevancy": says("YES"),
        "correctness": says("4.5\nAs the reference says."),
    }
    return lambda asked: (usual | replies)[kind(asked)]


async def search(query: str) -> list[Hit]:
    return [Hit("n-0", "docs/a.txt", "a.txt", "", 0, 0.5, f"A passage for {query}, with {{braces}}.")]


async def judged(server: OpenAIServer, count: int = 3, **keys: Any) -> AnswerScores:
    settings = AnswersSettings(model=MODEL, base_url=server.base_url, **keys)
    references = dict(list(REFERENCES.items())[:count])
    references |= {f"more{at}": REFERENCES["q1"] for at in range(count - len(references))}
    async with open_endpoint(settings, None) as endpoint:
        return await judge_answers(endpoint, references, search)


# --- judging


async def test_each_answer_is_judged_by_passages_question_and_reference(server: OpenAIServer) -> None:
    scores = await judged(server, **PRICES)
    assert (scores.faithfulness, scores.relevancy, scores.correctness) == (1, 1, 4.5)
    assert (scores.wanted, scores.answered, scores.failed, scores.not_asked) == (3, 3, 0, 0)
    assert (scores.requests, scores.input_tokens, scores.output_tokens) == (12, 1200, 120)
    assert scores.cost_usd == pytest.approx(12 * (100 + 10 * 10) / 1e6)
    assert not scores.doubtful
    assert not warnings_of(scores)
    texts = {kind(asked): asked.user for asked in server.asked if "q3" in asked.user or "tides" in asked.user}
    assert "A passage for q3, with {braces}." in texts["answer"]
    assert "A passage for q3, with {braces}." in texts["faithfulness"]
    assert "So it is {as the passage says} [1]." in texts["faithfulness"]
    assert "Why are there {tides}?" in texts["relevancy"]
    assert "The {moon} pulls the water." in texts["correctness"]


VERDICTS: dict[str, tuple[str, str, tuple[float, float, float], str]] = {
    "unfaithful": ("faithfulness", "NO", (0, 1, 4.5), "3 of 3 say what their passages do not: q1, q2, q3"),
    "beside it": ("relevancy", "No.", (1, 0, 4.5), "3 of 3 are not about the question"),
    "wrong": ("correctness", "2.0\nIt says another thing.", (1, 1, 2), "3 of 3 are not what the reference says"),
    "one line": ("correctness", "Score: 3/5", (1, 1, 3), "3 of 3 are not what the reference says"),
    "unknown": ("answer", "Not in the corpus.", (1, 0, 1), "3 of 3 were not found in the passages"),
}


@pytest.mark.parametrize("verdict", VERDICTS)
async def test_a_bad_answer_is_a_warning_that_names_the_query(server: OpenAIServer, verdict: str) -> None:
    of, reply, means, warning = VERDICTS[verdict]
    server.choose = model(**{of: says(reply)})
    scores = await judged(server)
    assert (scores.faithfulness, scores.relevancy, scores.correctness) == means
    assert [one.query for one in scores.doubtful] == ["q1", "q2", "q3"]
    (says_so,) = warnings_of(scores)
    assert warning in says_so


MALFORMED: dict[str, tuple[str, Answer, str]] = {
    "refusal": ("answer", says("", refusal="I cannot."), "refuses to answer"),
    "nothing": ("answer", says(""), "said nothing"),
    "bad request": ("answer", fails(400, "too long"), "too long"),
    "no verdict": ("faithfulness", says("Perhaps."), "neither YES nor NO: 'Perhaps.'"),
    "no score": ("correctness", says("Very good!"), "gave no score from 1 to 5: 'Very good!'"),
    "wild score": ("correctness", says("87\nGood."), "gave no score from 1 to 5"),
    "no score above 5": ("correctness", says("5.5\nGood."), "gave no score from 1 to 5"),
}


@pytest.mark.parametrize("malformed", MALFORMED)
async def test_what_cannot_be_read_is_counted_and_the_others_go_on(server: OpenAIServer, malformed: str) -> None:
    of, reply, problem = MALFORMED[malformed]
    usual, bad = model(), model(**{of: reply})
    server.choose = lambda asked: (bad if "q2" in asked.user or "chess" in asked.user else usual)(asked)
    scores = await judged(server)
    assert (scores.answered, scores.failed, scores.not_asked, scores.stopped) == (2, 1, 0, None)
    assert (scores.faithfulness, scores.relevancy, scores.correctness) == (1, 1, 4.5)
    (one,) = scores.doubtful
    assert one.query == "q2"
    assert problem in one.problem
    assert problem in " ".join(warnings_of(scores))


DOWN: dict[str, tuple[Answer, int, int, str]] = {
    "wrong key": (fails(401, "no"), 1, 9, "401: no"),
    "outage": (fails(500), 3, 7, "failed 3 times in a row"),
    "rate limit": (fails(429, Retry_After="3600"), 3, 7, "left alone for 3600 s"),
    "a page": (sends(b"<html>", "text/html"), 3, 7, "failed 3 times in a row"),
}


@pytest.mark.parametrize("down", DOWN)
async def test_an_endpoint_that_is_down_is_not_asked_for_ever(server: OpenAIServer, down: str) -> None:
    reply, failed, not_asked, why = DOWN[down]
    server.choose = lambda _asked: reply
    scores = await judged(server, 10, concurrency=1)
    assert (scores.answered, scores.failed, scores.not_asked) == (0, failed, not_asked)
    assert scores.stopped is not None
    assert why in scores.stopped
    assert (scores.faithfulness, scores.relevancy, scores.correctness) == (None, None, None)
    assert f"{not_asked} of 10 were not asked for" in " ".join(warnings_of(scores))


async def test_judging_stops_at_its_cost(server: OpenAIServer) -> None:
    usual = model()
    server.choose = usual
    scores = await judged(server, 10, max_cost_usd=0.003, max_tokens=16, concurrency=2, **PRICES)
    assert scores.cost_usd is not None
    assert 0 < scores.cost_usd <= 0.003
    assert scores.requests == len(server.asked)
    assert scores.not_asked > 0
    assert scores.answered + scores.failed + scores.not_asked == 10
    assert "answers.max_cost_usd = 0.003" in str(scores.stopped)


async def test_judging_stops_when_its_time_is_over(server: OpenAIServer) -> None:
    server.choose = lambda _asked: hangs(server)
    began = time.monotonic()
    scores = await judged(server, max_seconds=0.4)
    assert time.monotonic() - began < 5
    assert (scores.answered, scores.not_asked) == (0, 3)
    assert scores.stopped == "answers.max_seconds = 0.4 were over"
    assert scores.requests == 3
    assert scores.estimated


async def test_judging_keeps_to_its_concurrency(server: OpenAIServer) -> None:
    server.choose = model(answer=says("The moon [1].", seconds=0.05), faithfulness=says("YES", seconds=0.05))
    await judged(server, 12, concurrency=3)
    assert server.most_at_once == 3


async def test_passages_that_cannot_be_searched_are_a_problem_of_the_query(server: OpenAIServer) -> None:
    async def broken(_query: str) -> list[Hit]:
        raise IndexUnavailable("Milvus is away")

    async with open_endpoint(AnswersSettings(model=MODEL, base_url=server.base_url), None) as endpoint:
        scores = await judge_answers(endpoint, REFERENCES, broken)
    assert (scores.failed, scores.requests) == (3, 0)
    assert "Milvus is away" in scores.doubtful[0].problem


# --- reference answers


def golden_files(folder: Path, *lines: str) -> EvaluationSettings:
    (folder / "queries.jsonl").write_text("\n".join(lines))
    (folder / "qrels.tsv").write_text("q1\tbread.txt\t1\n")
    return EvaluationSettings(queries=folder / "queries.jsonl", qrels=folder / "qrels.tsv")


def test_reference_answers_stand_beside_the_queries(tmp_path: Path) -> None:
    lines = '{"_id": "q1", "text": "?", "answer": "Yeast."}', '{"_id": "q2", "text": "Which?", "answer": null}'
    golden = load_golden(golden_files(tmp_path, *lines, '{"_id": "q3", "text": "Why?", "answer": "The moon."}'))
    assert golden.references == {"q1": Reference("?", "Yeast."), "q3": Reference("Why?", "The moon.")}


# --- the key


@pytest.mark.parametrize(
    ("url", "variables", "expected"),
    [
        ("http://127.0.0.1:8000/v1", {ANSWERS_KEY: "ours", OPENAI_KEY: "theirs"}, "ours"),
        ("http://127.0.0.1:8000/v1", {OPENAI_KEY: "theirs"}, None),
        ("https://api.openai.com.example.com/v1", {OPENAI_KEY: "theirs"}, None),
        ("http://api.openai.com/v1", {OPENAI_KEY: "theirs"}, None),
        ("https://api.openai.com/v1", {OPENAI_KEY: "theirs"}, "theirs"),
        ("https://api.openai.com/v1", {ANSWERS_KEY: "ours", OPENAI_KEY: "theirs"}, "ours"),
        ("https://api.openai.com/v1", {}, None),
    ],
)
async def test_openais_key_goes_to_openai_alone(
    monkeypatch: pytest.MonkeyPatch, url: str, variables: dict[str, str], expected: str | None
) -> None:
    for name in (ANSWERS_KEY, OPENAI_KEY):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    key = await find_secret(AnswersSettings(model=MODEL, base_url=url).secret)
    assert (key.get_secret_value() if key else None) == expected
    assert "ours" not in repr(key)


@pytest.mark.usefixtures("prefect_api")
async def test_the_key_comes_from_the_block_that_the_corpus_file_names() -> None:
    await Secret(value="from-the-block").asave("answers-key-of-a-test", overwrite=True)
    settings = AnswersSettings(model=MODEL, base_url="http://h/v1", api_key_block="answers-key-of-a-test")
    key = await find_secret(settings.secret)
    assert key is not None
    assert key.get_secret_value() == "from-the-block"
    with pytest.raises(CorpusFileError, match=r"answers\.api_key_block.*'nobody'.*NIGHTLOOM_ANSWERS_KEY"):
        await find_secret(settings.model_copy(update={"api_key_block": "nobody"}).secret)


# --- the night


def configure(home: Home, server: OpenAIServer, more: str = "") -> None:
    """Golden queries with reference answers to two of three, and the server as the model."""
    home.configure(f'[answers]\nmodel = "{MODEL}"\nbase_url = "{server.base_url}"\ntimeout_seconds = 5\n{more}')
    rows: list[dict[str, str]] = [{"_id": key, "text": text} for key, text in QUERIES.items()]
    rows[0]["answer"] = "Wild yeast ferments sugars."
    rows[2]["answer"] = "The moon pulls the water."
    (home.folder / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert len(QRELS) == 3


@pytest.mark.parametrize("home", ["lite"], indirect=True)
@pytest.mark.usefixtures("prefect_api")
async def test_a_night_judges_answers_and_reports_what_they_took(
    home: Home, server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ANSWERS_KEY, "sk-very-secret-0123456789")
    server.choose = model(correctness=says("2\nNo."))
    configure(home, server, "usd_per_million_input_tokens = 1\nusd_per_million_output_tokens = 10")
    report = await night(home)
    assert report["outcome"] == "promoted"
    answers = report["answers"]
    assert (answers["wanted"], answers["answered"], answers["correctness"]) == (2, 2, 2)
    assert (answers["requests"], answers["input_tokens"], answers["output_tokens"]) == (8, 800, 80)
    assert answers["cost_usd"] == pytest.approx(8 * 0.0002)
    assert report["warnings"] == ["answers: 2 of 2 are not what the reference says: q1, q3"]
    prompts = [asked.user for asked in server.asked if kind(asked) == "answer"]
    assert any("wild yeast" in prompt for prompt in prompts)
    page = await asyncio.to_thread(Path(report["file"]).read_text)
    assert "## Answers" in page
    assert "sk-very-secret" not in page + json.dumps(report)
    assert (await night(home))["answers"] is None, "nothing has changed, and nothing is asked"
    assert len(server.asked) == 8


TROUBLES: dict[str, Callable[[OpenAIServer], Answer]] = {
    "outage": lambda _server: fails(500),
    "rate limit": lambda _server: fails(429, Retry_After="3600"),
    "wrong key": lambda _server: fails(401),
    "refusal": lambda _server: says("", refusal="I cannot."),
    "broken JSON": lambda _server: sends(b'{"choices": ['),
    "cut": lambda _server: breaks_off("The", politely=False),
    "hang": hangs,
}


@pytest.mark.parametrize("trouble", TROUBLES)
async def test_whatever_the_endpoint_does_the_night_ends_as_without_it(
    tmp_path: Path, server: OpenAIServer, trouble: str
) -> None:
    home = Home(tmp_path, "index.db", "test_answers")
    home.write({"bread.txt": "Sourdough bread rises because wild yeast ferments.", "moon.txt": "The moon pulls tides."})
    server.choose = lambda _asked: TROUBLES[trouble](server)
    configure(home, server)
    file = home.file
    file.write_text(file.read_text().replace("timeout_seconds = 5", "timeout_seconds = 0.5"))
    (tmp_path / "qrels.tsv").write_text("q1\tbread.txt\t1\nq3\tmoon.txt\t1\n")
    async with indexed(load_corpus(file, environ={})) as one:
        await one.evaluate()
        assert (await one.judge_answers(None)).failed > 0
        await one.promote()
        report = report_of(one, "promoted", "")
    assert report.answers is not None
    assert report.answers.answered == 0
    assert any(warning.startswith("answers: ") for warning in report.warnings)


@pytest.mark.parametrize("home", ["lite"], indirect=True)
@pytest.mark.usefixtures("prefect_api")
async def test_answers_that_cannot_be_asked_for_at_all_are_a_warning(home: Home, server: OpenAIServer) -> None:
    configure(home, server, 'api_key_block = "is-not-there"')
    report = await night(home)
    assert (report["outcome"], report["answers"]) == ("promoted", None)
    (warning,) = report["warnings"]
    assert "none was judged: answers.api_key_block: there is no Prefect Secret block 'is-not-there'" in warning
    assert not server.asked


# --- the report


def test_the_page_shows_answers_and_keeps_what_they_say_as_text() -> None:
    scores = asyncio.run(_hostile_scores())
    page = to_markdown(make_report(answers=scores))
    assert "## Answers" in page
    assert "<script>" not in page
    assert r"| \[click\]\(http" in page.replace(r"\](", r"\]\(")
    assert "Faithfulness | 0.00 of 1" in page
    assert "$" not in page.split("## Answers")[1].split("## Documents")[0]


async def _hostile_scores() -> AnswerScores:
    with serving() as server:
        server.choose = model(answer=says("<script>x</script> | a | [click](http://evil)"), faithfulness=says("NO"))
        return await judged(server, 1)
