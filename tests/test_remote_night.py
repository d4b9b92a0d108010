"""Nights whose embedder stands behind an endpoint: rows, secrets, and a pace that Prefect keeps for all."""

import asyncio
import json
import logging
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from prefect import flow, get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from nightloom import endpoints
from nightloom.corpus import EmbedderSettings
from nightloom.errors import EndpointRefused, EndpointUnavailable, NightFailed
from nightloom.flows.check import checks
from nightloom.secrets import EMBEDDER_KEY
from nightloom.tasks.pace import limit_name, shared_pace
from tests.builders import MODEL as ON_DISK
from tests.builders import console
from tests.nights import ON_LITE, QUERIES, TEXTS, Home, night
from tests.openai_server import MODEL, Answer, Asked, OpenAIServer, embeds, fails, serving

pytestmark = pytest.mark.usefixtures("prefect_api")

QUESTION = "yeast ferments sugars"
KEY = "sk-very-secret-0123456789"
WORDS = sorted({word.strip(".,;?").lower() for text in [*TEXTS.values(), *QUERIES.values()] for word in text.split()})
COMMON = {"the", "a", "in", "of", "is", "are", "and", "its", "why", "there", "how", "does", "which", "when", "them"}


def vector_of(text: str) -> list[float]:
    """How often each word of the corpus is in a text: what shares words is close."""
    words = [word.strip(".,;?").lower() for word in text.split()]
    counts = np.array([words.count(word) if word not in COMMON else 0.01 for word in WORDS], dtype=np.float32)
    return [float(count) for count in counts / np.linalg.norm(counts)]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenAIServer]:
    monkeypatch.setattr(endpoints, "PAUSE_SECONDS", 0.01)
    monkeypatch.setenv(EMBEDDER_KEY, KEY)
    with serving() as running:
        running.script = [embeds(vector_of)]
        yield running


def configure(home: Home, server: OpenAIServer, more: str = "") -> None:
    home.configure()
    ours = f'backend = "openai"\nmodel = "{MODEL}"\nbase_url = "{server.base_url}"\ntokenizer = "{ON_DISK}"\n{more}'
    home.file.write_text(home.file.read_text().replace(f'model = "{ON_DISK}"\n', f"{ours}\n"))


@ON_LITE
async def test_nights_over_an_endpoint_embed_what_is_new_and_keep_the_key(
    home: Home, server: OpenAIServer, caplog: pytest.LogCaptureFixture
) -> None:
    configure(home, server)
    with caplog.at_level(logging.DEBUG):
        first = await night(home)
    assert (first["outcome"], first["documents"]["added"]) == ("promoted", len(TEXTS))
    assert first["embedder"]["backend"].startswith("openai at 127.0.0.1:")
    assert first["scores"]["R@10"] == 1
    rows = await home.rows()
    sent = [text for asked in server.asked for text in asked.body["input"]]
    assert {row["text"] for row in rows.values()} <= set(sent)

    server.asked.clear()
    home.write(TEXTS | {"moon.txt": "Tides follow the moon."})
    configure(home, server, "concurrency = 1\n")
    second = await night(home)
    assert (second["outcome"], second["nodes"]["embedded"]) == ("promoted", 1)

    said = caplog.text + json.dumps([first, second])
    reports = [file for file in home.folder.rglob("*") if file.suffix in {".json", ".md"}]
    said += "".join(file.read_text() for file in reports)
    assert reports
    assert KEY not in said
    assert {asked.headers["authorization"] for asked in server.asked} == {f"Bearer {KEY}"}

    found = dict(await checks(home.file))
    assert f"answers, with vectors of {len(WORDS)} dimensions" in found["embedder"].says
    asked = await asyncio.to_thread(console, "ask", home.file, QUESTION, "--json", folder=home.folder)
    assert asked.returncode == 0, asked.stderr
    assert json.loads(asked.stdout)["passages"][0]["uri"] == "texts/bread.txt"

    server.script = [fails(401, f"no such key: {KEY}")]
    refused = await asyncio.to_thread(console, "ask", home.file, QUESTION, folder=home.folder)
    assert (refused.returncode, "check the key in NIGHTLOOM_EMBEDDER_KEY" in refused.stderr) == (2, True)
    assert KEY not in refused.stdout + refused.stderr
    found = dict(await checks(home.file))
    assert found["embedder"].is_error
    assert KEY not in found["embedder"].says


@ON_LITE
async def test_what_is_no_embedding_ends_the_night_and_is_no_row(
    home: Home, server: OpenAIServer, caplog: pytest.LogCaptureFixture
) -> None:
    configure(home, server)
    server.script = [embeds(vector_of, arrange=lambda data: data[:-1])]
    with pytest.raises(NightFailed, match="embeddings for"):
        await night(home)
    server.script = [fails(401, f"no such key: {KEY}")]
    with pytest.raises(EndpointRefused, match="check the key in NIGHTLOOM_EMBEDDER_KEY"):
        await night(home)
    assert KEY not in caplog.text
    server.script = [embeds(vector_of)]
    assert (await night(home))["outcome"] == "promoted"


@ON_LITE
async def test_a_text_that_the_endpoint_declines_quarantines_its_document_and_no_other(
    home: Home, server: OpenAIServer
) -> None:
    def choose(asked: Asked) -> Answer:
        declined = any("griffin" in text for text in asked.body["input"])
        return fails(400, "this text is flagged") if declined else embeds(vector_of)

    configure(home, server)
    home.write(TEXTS | {"a.txt": "A griffin flies.", "b.txt": "Another griffin flies.", "c.txt": "Bishops do not."})
    server.choose = choose
    report = await night(home)
    assert report["outcome"] == "promoted"
    assert {entry["uri"] for entry in report["quarantine"]} == {"texts/a.txt", "texts/b.txt"}
    assert all("answers 400: this text is flagged" in entry["reason"] for entry in report["quarantine"])
    assert {row["uri"] for row in (await home.rows()).values()} == {f"texts/{name}" for name in [*TEXTS, "c.txt"]}
    again = await night(home)
    assert (again["outcome"], again["documents"]["quarantined"]) == ("unchanged", 2)


@ON_LITE
async def test_another_model_is_compared_with_the_one_before_as_far_as_that_still_answers(
    home: Home, server: OpenAIServer
) -> None:
    def choose(asked: Asked) -> Answer:
        return fails(404, "no such model") if asked.body["model"] in gone else embeds(vector_of)

    gone: set[str] = set()
    server.choose = choose
    configure(home, server)
    await night(home)
    for model in ("second", "third"):
        configure(home, server)
        home.file.write_text(home.file.read_text().replace(MODEL, model))
        if model == "third":
            gone.add("second")
        report = await night(home)
        assert (report["outcome"], report["nodes"]["embedded"]) == ("promoted", report["nodes"]["total"])
        lost = [warning for warning in report["warnings"] if "could not be asked with its own embedder" in warning]
        assert [("no such model" in warning) for warning in lost] == [True] * (model == "third")
        assert report["comparison"][0]["paired"] == (model == "second")


@ON_LITE
async def test_an_endpoint_that_wants_to_be_left_alone_for_long_is_and_its_shard_is_not_tried_again(
    home: Home, server: OpenAIServer
) -> None:
    configure(home, server)
    server.script = [fails(429, Retry_After="3600")]
    with pytest.raises(EndpointUnavailable, match="left alone for 3600 s"):
        await night(home)
    assert len(server.asked) == 1


# --- the pace


def limited(**limits: int) -> EmbedderSettings:
    return EmbedderSettings(backend="openai", model="any", **limits)


async def test_two_nights_keep_one_pace_together() -> None:
    settings = limited(requests_per_minute=600, tokens_per_minute=60_000)
    paces = [await shared_pace(settings), await shared_pace(settings)]
    async with get_client() as client:
        found = [await client.read_global_concurrency_limit_by_name(limit_name(settings, "tokens"))]
    assert [(limit.limit, limit.slot_decay_per_second) for limit in found] == [(3000, 1000)]

    async def ask(pace: Any, times: int, tokens: int) -> None:
        for _ in range(times):
            await pace(tokens)

    began = time.monotonic()
    await asyncio.gather(*(ask(pace, 2, 2000) for pace in paces))
    assert time.monotonic() - began >= (4 * 2000 - 3000) / 1000 - 0.5, "8,000 tokens take 5 s beyond the 3,000 at once"


async def test_without_a_limit_or_a_server_there_is_no_pace_to_share() -> None:
    assert await shared_pace(limited()) is None
    with temporary_settings({PREFECT_API_URL: None}):
        assert await shared_pace(limited(requests_per_minute=5)) is None


async def test_where_prefect_is_lost_a_night_goes_on_at_its_own_pace(caplog: pytest.LogCaptureFixture) -> None:
    settings = limited(requests_per_minute=700)
    pace = await shared_pace(settings)
    assert pace is not None
    async with get_client() as client:
        await client.delete_global_concurrency_limit_by_name(limit_name(settings, "requests"))

    @flow
    async def ask() -> None:
        for _ in range(2):
            await pace(5)

    with caplog.at_level(logging.WARNING):
        await ask()
    assert caplog.text.count("keeps to the embedder's limits by itself") == 1
