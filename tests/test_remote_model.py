"""A model behind an endpoint: what is sent, what is made of every kind of answer, and the limits that hold."""

import asyncio
import base64
import hashlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import SecretStr, ValidationError

from nightloom import endpoints
from nightloom.corpus import OPENAI_URL, EmbedderSettings, SplittingSettings
from nightloom.corpus_file import load_corpus
from nightloom.embedding import Embedder
from nightloom.engines import Access
from nightloom.errors import (
    CorpusFileError,
    EmbedderError,
    EmbeddingError,
    EndpointRefused,
    EndpointUnavailable,
    NightloomError,
    TextsDeclined,
)
from nightloom.remote_model import BATCH_TEXTS
from nightloom.splitting import Splitter
from tests.builders import MODEL as ON_DISK
from tests.builders import make_document
from tests.openai_server import MODEL, Answer, OpenAIServer, embeds, fails, hangs, sends, serving

KEY = "sk-very-secret-0123456789"
DIM = 8
TEXTS = [f"{'The tide follows the moon. ' * (1 + at % 7)}Note {at}." for at in range(80)]


def vector_of(text: str) -> list[float]:
    """A unit vector that tells which text it belongs to."""
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
    vector = np.random.default_rng(seed).standard_normal(DIM).astype(np.float32)
    return [float(number) for number in vector / np.linalg.norm(vector)]


def expected(texts: list[str]) -> Any:
    return np.array([vector_of(text) for text in texts], dtype=np.float32)


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with serving() as running:
        running.script = [embeds(vector_of)]
        yield running


@pytest.fixture(autouse=True)
def no_long_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoints, "PAUSE_SECONDS", 0.01)


def settings(base_url: str, **keys: Any) -> EmbedderSettings:
    given = {"backend": "openai", "model": MODEL, "base_url": base_url, "tokenizer": ON_DISK}
    return EmbedderSettings.model_validate(given | keys)


def embedder_of(server: OpenAIServer, key: str | None = KEY, **keys: Any) -> Embedder:
    return Embedder(settings(server.base_url, **keys), Access(SecretStr(key) if key else None))


def sent(server: OpenAIServer) -> list[str]:
    return [text for asked in server.asked for text in asked.body["input"]]


# --- what is sent, and what comes of it


async def test_every_text_gets_its_own_vector(server: OpenAIServer) -> None:
    embedder = embedder_of(server, text_prefix="passage: ", query_prefix="query: ")
    vectors = await embedder.embed_texts(TEXTS)
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, expected([f"passage: {text}" for text in TEXTS]))
    np.testing.assert_array_equal(await embedder.embed_queries(["tides"]), expected(["query: tides"]))
    assert {asked.path for asked in server.asked} == {"/v1/embeddings"}
    assert {asked.headers["authorization"] for asked in server.asked} == {f"Bearer {KEY}"}
    assert {asked.body["model"] for asked in server.asked} == {MODEL}
    assert not [asked for asked in server.asked if "dimensions" in asked.body]
    work = embedder.work
    assert (work.backend, work.texts) == (f"openai at {server.address.removeprefix('http://')}", len(TEXTS))
    assert 0 < work.busy_seconds <= work.whole_seconds


@pytest.mark.parametrize("form", ["float", "base64"])
async def test_vectors_come_packed_or_as_numbers(server: OpenAIServer, form: str) -> None:
    answer = embeds(vector_of)
    server.script = [lambda handler, body: answer(handler, body | {"encoding_format": form})]
    np.testing.assert_array_equal(await embedder_of(server).embed_texts(TEXTS), expected(TEXTS))


async def test_requests_keep_to_tokens_and_texts_and_hold_texts_of_like_length(server: OpenAIServer) -> None:
    embedder = embedder_of(server, batch_tokens=200)
    await embedder.embed_texts([*TEXTS, *["x"] * 50])
    requests = [[embedder.count_tokens(text) for text in asked.body["input"]] for asked in server.asked]
    assert all(sum(lengths) <= 200 for lengths in requests)
    assert max(map(len, requests)) == BATCH_TEXTS
    assert sorted(sent(server)) == sorted([*TEXTS, *["x"] * 50])
    assert sum(max(lengths) - min(lengths) for lengths in requests) < 30


async def test_a_text_that_is_too_long_is_sent_as_far_as_the_model_reads(server: OpenAIServer) -> None:
    embedder = embedder_of(server, max_tokens=32)
    assert embedder.max_tokens == 32
    await embedder.embed_queries(["moon " * 400, "short"])
    short, long = sorted(sent(server), key=len)
    assert short == "short"
    assert embedder.count_tokens(long) == 32
    assert ("moon " * 400).startswith(long)


async def test_dimensions_are_asked_for(server: OpenAIServer) -> None:
    await embedder_of(server, dimensions=DIM).embed_texts(["x"])
    assert server.asked[0].body["dimensions"] == DIM


async def test_an_answer_in_another_order_is_put_in_order_by_its_indices(server: OpenAIServer) -> None:
    server.script = [embeds(vector_of, arrange=lambda data: data[::-1])]
    np.testing.assert_array_equal(await embedder_of(server).embed_texts(TEXTS), expected(TEXTS))


async def test_what_variables_say_of_openai_is_sent_to_nobody_else(
    server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("API_KEY", "ORG_ID", "PROJECT_ID"):
        monkeypatch.setenv(f"OPENAI_{name}", f"private-{name}")
    await embedder_of(server, None).embed_texts(["x"])
    assert "private" not in str(server.asked[0].headers)


async def test_connections_are_shared_while_anything_is_asked_and_closed_then(server: OpenAIServer) -> None:
    server.script = [embeds(vector_of, seconds=0.02)]
    embedder = embedder_of(server, batch_tokens=64, concurrency=2)
    for _ in range(2):
        await asyncio.gather(embedder.embed_texts(TEXTS[:20]), embedder.embed_texts(TEXTS[20:40]))
        async with asyncio.timeout(5):
            while server.connections:  # noqa: ASYNC110  the server's own threads see that they are closed
                await asyncio.sleep(0.01)
    assert len(server.asked) > 20
    assert server.connected <= 4


# --- what goes wrong

Entries = list[dict[str, Any]]


def with_one(change: Callable[[list[float]], Any]) -> Callable[[Entries], Entries]:
    """An answer with one vector changed, as numbers."""

    def arrange(data: Entries) -> Entries:
        vectors = [np.frombuffer(base64.b64decode(one["embedding"]), np.float32) for one in data]
        found = [one | {"embedding": [float(x) for x in vector]} for one, vector in zip(data, vectors, strict=True)]
        return [found[0] | {"embedding": change(found[0]["embedding"])}, *found[1:]]

    return arrange


WRONG: dict[str, tuple[Callable[[Entries], Any], str]] = {
    "too few": (lambda data: data[:-1], "gave 2 embeddings for 3 texts"),
    "too many": (lambda data: [*data, data[-1] | {"index": 3}], "gave 4 embeddings for 3 texts"),
    "one twice": (lambda data: [*data[:-1], data[0]], "does not say which embedding is of which of 3 texts"),
    "from one": (lambda data: [one | {"index": one["index"] + 1} for one in data], "does not say which"),
    "no index": (lambda data: [{"embedding": one["embedding"]} for one in data], "does not say which"),
    "shorter": (with_one(lambda vector: vector[:-1]), "no vectors of one length"),
    "not a number": (with_one(lambda vector: [float("nan"), *vector[1:]]), "no vectors of finite numbers"),
    "infinite": (with_one(lambda vector: [float("-inf"), *vector[1:]]), "no vectors of finite numbers"),
    "too large": (with_one(lambda vector: [1e39, *vector[1:]]), "no vectors of finite numbers"),
    "null": (with_one(lambda vector: [None, *vector[1:]]), "no vectors of"),
    "no vector": (with_one(lambda _vector: None), "no vectors of"),
    "of no length": (lambda data: [one | {"embedding": []} for one in data], "no vectors of finite numbers"),
    "deeper": (lambda data: [one | {"embedding": [[1.0]]} for one in data], "no vectors of finite numbers"),
}


@pytest.mark.parametrize("wrong", WRONG)
async def test_what_is_no_embedding_of_each_text_is_an_error_and_no_row(server: OpenAIServer, wrong: str) -> None:
    arrange, message = WRONG[wrong]
    server.script = [embeds(vector_of, arrange=arrange)]
    with pytest.raises(EmbeddingError, match=message):
        await embedder_of(server).embed_texts(TEXTS[:3])
    assert len(server.asked) == 1


async def test_another_dimension_than_asked_for_or_than_before_is_an_error(server: OpenAIServer) -> None:
    with pytest.raises(EmbeddingError, match=r"8 dimensions, and not embedder\.dimensions = 7"):
        await embedder_of(server, dimensions=7).embed_texts(["x"])
    embedder = embedder_of(server)
    await embedder.embed_texts(["x"])
    server.script = [embeds(lambda text: vector_of(text)[:-1])]
    with pytest.raises(EmbeddingError, match="7 dimensions, and not the 8 that it gave before"):
        await embedder.embed_texts(["x"])


FAILURES: dict[str, tuple[Answer, type[NightloomError], str, int]] = {
    "401": (fails(401, f"Incorrect API key: {KEY}"), EndpointRefused, r"\*\*\*; check the key in NIGHTLOOM_EMBED", 1),
    "404": (fails(404), EndpointRefused, r"see embedder\.model = 'test-model' and embedder\.base_url", 1),
    "307": (fails(307, Location="/elsewhere"), EndpointRefused, r"no redirect is followed: see embedder\.base_url", 1),
    "400": (fails(400, "no"), EmbeddingError, r"answers 400: no \(a text of 3 tokens\); it declines any other", 2),
    "429": (fails(429, "slow down"), EndpointUnavailable, "answers 429: slow down", 3),
    "429 for long": (fails(429, Retry_After="3600"), EndpointUnavailable, "left alone for 3600 s", 1),
    "429 for good": (fails(429, "pay", code="insufficient_quota"), EndpointRefused, "pay; see your account", 1),
    "500": (fails(500, "oh dear"), EndpointUnavailable, "answers 500: oh dear", 3),
    "broken JSON": (sends(b'{"data": [{"embed'), EndpointUnavailable, "no list of embeddings|broke off", 3),
    "other JSON": (sends(b'{"pong": true}'), EndpointUnavailable, "no list of embeddings|broke off", 3),
    "a list": (sends(b"[1, 2]"), EndpointUnavailable, "no list of embeddings|broke off", 3),
    "empty": (sends(b'{"data": []}'), EndpointUnavailable, "no list of embeddings", 3),
    "bad packing": (
        sends(b'{"data": [{"index": 0, "embedding": "AAA"}]}'),
        EndpointUnavailable,
        "no list of embeddings",
        3,
    ),
    "a page": (sends(b"<html>Log in</html>", "text/html"), EndpointUnavailable, "no list of embeddings|broke off", 3),
}


@pytest.mark.parametrize("failure", FAILURES)
async def test_what_goes_wrong_is_said_and_what_passes_is_asked_again(server: OpenAIServer, failure: str) -> None:
    answer, kind, message, attempts = FAILURES[failure]
    server.script = [answer]
    with pytest.raises(kind, match=message) as caught:
        await embedder_of(server).embed_texts(["x"])
    assert type(caught.value) is kind
    assert KEY not in str(caught.value)
    assert caught.value.__cause__ is None
    assert len(server.asked) == attempts


async def test_a_text_that_is_declined_is_named_and_the_others_are_embedded(server: OpenAIServer) -> None:
    bad = {TEXTS[3], TEXTS[40], TEXTS[41]}
    server.choose = lambda asked: fails(422, "no such text") if bad & {*asked.body["input"]} else embeds(vector_of)
    embedder = embedder_of(server)
    with pytest.raises(TextsDeclined, match=r"answers 422: no such text \(a text of \d+ tokens\)$") as caught:
        await embedder.embed_texts(TEXTS)
    assert sorted(caught.value.reasons) == [3, 40, 41]
    embedded = {text for asked in server.asked for text in asked.body["input"] if not bad & {*asked.body["input"]}}
    assert embedded == {*TEXTS} - bad
    server.asked.clear()
    with pytest.raises(TextsDeclined):
        await embedder.embed_texts([TEXTS[3]])
    assert len(server.asked) == 1, "it is known to embed others"


async def test_an_endpoint_that_takes_fewer_texts_at_once_gets_fewer(server: OpenAIServer) -> None:
    server.choose = lambda asked: fails(413) if len(asked.body["input"]) > 8 else embeds(vector_of)
    np.testing.assert_array_equal(await embedder_of(server).embed_texts(TEXTS), expected(TEXTS))


async def test_without_a_key_the_variable_is_named(server: OpenAIServer) -> None:
    server.script = [fails(401)]
    with pytest.raises(EndpointRefused, match=r"no key was sent: set NIGHTLOOM_EMBEDDER_KEY, .*embedder\.api_key_bl"):
        await embedder_of(server, None).embed_texts(["x"])


async def test_a_server_that_fails_for_a_while_is_asked_until_it_answers(server: OpenAIServer) -> None:
    server.script = [fails(500), fails(503), embeds(vector_of)]
    np.testing.assert_array_equal(await embedder_of(server).embed_texts(["x"]), expected(["x"]))
    assert len(server.asked) == 3


async def test_a_hang_ends_in_time_and_is_asked_again(server: OpenAIServer) -> None:
    server.script = [hangs(server), embeds(vector_of)]
    began = time.monotonic()
    await embedder_of(server, timeout_seconds=0.3).embed_texts(["x"])
    assert 0.3 <= time.monotonic() - began < 5
    server.script = [hangs(server)]
    with pytest.raises(EndpointUnavailable, match=r"did not answer within embedder\.timeout_seconds = 0\.1"):
        await embedder_of(server, timeout_seconds=0.1).embed_texts(["x"])


async def test_an_endpoint_that_is_not_there_is_said() -> None:
    with serving() as server:
        gone = server
    with pytest.raises(EndpointUnavailable, match=r"cannot be reached: .*see embedder\.base_url"):
        await embedder_of(gone).embed_texts(["x"])


async def test_one_request_that_fails_ends_the_others(server: OpenAIServer) -> None:
    server.choose = lambda _asked: fails(401) if len(server.asked) == 1 else embeds(vector_of, seconds=30)
    began = time.monotonic()
    with pytest.raises(EndpointRefused):
        await embedder_of(server, batch_tokens=64).embed_texts(TEXTS)
    assert time.monotonic() - began < 5


# --- limits


async def test_no_more_requests_are_in_flight_than_allowed_whoever_asks(server: OpenAIServer) -> None:
    server.script = [embeds(vector_of, seconds=0.05)]
    embedder = embedder_of(server, batch_tokens=64, concurrency=3)
    await asyncio.gather(*(embedder.embed_texts(TEXTS[at : at + 20]) for at in (0, 20, 40)))
    assert server.most_at_once == 3


async def test_requests_and_tokens_keep_to_their_rates(server: OpenAIServer) -> None:
    for key, limit in (("requests_per_minute", 600), ("tokens_per_minute", 30_000)):
        server.asked.clear()
        embedder = embedder_of(server, KEY, batch_tokens=64, **{key: limit})
        await embedder.embed_texts(["word " * 48] * 6)  # 50 tokens each, one a request
        seconds = [asked.seconds for asked in server.asked]
        assert len(seconds) == 6
        assert seconds[5] - seconds[0] >= 0.35, "a tenth of a second each, but for how exactly an event loop wakes"


async def test_a_pace_that_is_kept_with_others_is_waited_for(server: OpenAIServer) -> None:
    turns: list[int] = []

    async def pace(tokens: int) -> None:
        assert len(server.asked) == len(turns)
        turns.append(tokens)
        await asyncio.sleep(0.01)

    embedder = Embedder(settings(server.base_url, batch_tokens=64, concurrency=1), Access(None, pace))
    await embedder.embed_texts(["word " * 48] * 3)
    assert turns == [50, 50, 50]


async def test_a_rate_limit_is_waited_out_by_all_as_long_as_it_says(server: OpenAIServer) -> None:
    server.script = [fails(429, Retry_After="1"), embeds(vector_of)]
    await embedder_of(server, batch_tokens=64, concurrency=1).embed_texts(["word " * 48] * 3)
    refused, *others = server.asked
    assert len(others) == 3
    assert min(asked.seconds for asked in others) >= refused.seconds + 0.99


# --- what it is


def identity(base_url: str = "http://127.0.0.1:1/v1", **keys: Any) -> str:
    return Embedder(settings(base_url, **keys)).identity


def test_the_identity_is_of_the_model_wherever_it_stands() -> None:
    first = identity()
    for keys in ({"concurrency": 1}, {"timeout_seconds": 5}, {"max_tokens": 100}, {"query_prefix": "q"}):
        assert identity(**keys) == first
    assert identity("https://elsewhere.example/v1") == first
    others = [
        identity(model="another"),
        identity(revision="2"),
        identity(dimensions=4),
        identity(text_prefix="passage: "),
        identity(tokenizer="cl100k_base", max_tokens=512),
        Embedder(EmbedderSettings(model=ON_DISK)).identity,
    ]
    assert len({first, *others}) == 1 + len(others)


def test_a_generation_opens_its_own_embedder_again_at_the_same_address_only(server: OpenAIServer) -> None:
    tonight = embedder_of(server, model="new")
    before = tonight.other(embedder_of(server, None).description)
    assert before is not None
    assert before.settings.model == MODEL
    assert KEY not in tonight.description
    elsewhere = Embedder(settings("http://127.0.0.1:1/v1")).description
    assert tonight.other(elsewhere) is None
    moved = embedder_of(server)
    assert moved.other(elsewhere) is moved
    assert Embedder(EmbedderSettings(model=ON_DISK)).other(elsewhere) is None
    assert tonight.other(Embedder(EmbedderSettings(model=ON_DISK)).description) is not None


def test_openais_own_models_need_a_name_only() -> None:
    embedder = Embedder(EmbedderSettings(backend="openai", model="text-embedding-3-small"))
    assert (embedder.max_tokens, embedder.special_tokens) == (8191, 0)
    assert embedder.settings.base_url == OPENAI_URL
    assert embedder.count_tokens("Why are there tides? <|endoftext|>") > 10, "it is text like any other"
    nodes = Splitter(SplittingSettings(max_tokens=16, overlap_tokens=0), embedder).split(
        make_document("Tides follow the moon. " * 30), "version"
    )
    assert len(nodes) > 5
    assert all(embedder.count_tokens(node.text) <= 16 for node in nodes)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"backend": "openai"}, 'model: backend = "openai" needs the name'),
        (
            {"backend": "openai", "model": "m", "base_url": "http://h/v1"},
            "tokenizer: give that of the",
        ),
        ({"backend": "openai", "model": "m", "precision": "int8"}, "precision: not for backend = 'openai'"),
        ({"base_url": "http://h/v1", "concurrency": 2}, "base_url and concurrency: not for backend = 'auto'"),
        ({"tokens_per_minute": 5}, "tokens_per_minute: not for"),
        ({"base_url": "https://user:pass@h/v1"}, "set NIGHTLOOM_EMBEDDER_KEY instead"),
        ({"base_url": "https://h/v1?key=pass"}, "set NIGHTLOOM_EMBEDDER_KEY instead"),
        ({"base_url": "https://h/v1#pass"}, "set NIGHTLOOM_EMBEDDER_KEY instead"),
        ({"base_url": ["pass"]}, "not repeated here"),
        ({"base_url": "pass"}, "no http:// or https:// address"),
    ],
)
def test_keys_that_do_not_go_together_are_refused_and_named(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(CorpusFileError) as refused:
        load_corpus(None, {"name": "docs", "sources": [{"path": "docs"}], "embedder": keys}, {})
    assert message in str(refused.value)
    assert "embedder" in str(refused.value)
    assert "pass" not in str(refused.value).replace("passwords", "").replace("password", "")


def test_where_nobody_knows_what_the_model_reads_the_key_is_named() -> None:
    with pytest.raises(EmbedderError, match=r"embedder\.max_tokens: give how many tokens test-model reads"):
        Embedder(settings("http://127.0.0.1:1/v1", tokenizer="cl100k_base"))


@pytest.mark.parametrize("tokenizer", ["nobody-has/this-model", "package:no_such_package", "/no/such/folder"])
def test_a_tokenizer_that_cannot_be_had_is_named(tokenizer: str) -> None:
    with pytest.raises(EmbedderError, match=f"embedder.tokenizer: {tokenizer}"):
        Embedder(settings("http://127.0.0.1:1/v1", tokenizer=tokenizer))


def test_a_tokenizer_needs_no_weights(tmp_path: Path) -> None:
    from nightloom.models import find_model  # noqa: PLC0415

    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((find_model(ON_DISK) / name).read_bytes())
    embedder = Embedder(settings("http://127.0.0.1:1/v1", tokenizer=str(tmp_path)))
    assert embedder.count_tokens("Why are there tides?") == 7


def test_a_folder_of_the_models_name_is_no_model_of_an_endpoint(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    file = tmp_path / "corpus.toml"
    file.write_text(
        'name = "docs"\n[[sources]]\npath = "."\n[embedder]\nbackend = "openai"\nmodel = "m"\ntokenizer = "./m"\n'
    )
    found = load_corpus(file, None, {}).embedder
    assert (found.model, found.tokenizer) == ("m", str(tmp_path / "m"))


def test_settings_that_a_generation_keeps_can_be_read_again(server: OpenAIServer) -> None:
    for one in (settings(server.base_url, dimensions=4), EmbedderSettings(model=ON_DISK)):
        assert EmbedderSettings.model_validate(one.model_dump()) == one
    with pytest.raises(ValidationError):
        EmbedderSettings.model_validate(settings(server.base_url).model_dump() | {"backend": "onnx"})
