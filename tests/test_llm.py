"""The model's endpoint: what is sent, what is made of every kind of answer, and the limits that hold."""

import asyncio
import inspect
import time
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from llama_index.core.llms import ChatMessage
from pydantic import SecretStr

from nightloom import endpoints
from nightloom.corpus import AnswersSettings
from nightloom.errors import (
    CorpusFileError,
    CostLimit,
    EndpointRefused,
    EndpointUnavailable,
    NightloomError,
    NoAnswer,
)
from nightloom.llm import open_endpoint
from tests.openai_server import (
    MODEL,
    Answer,
    OpenAIServer,
    breaks_off,
    chunk,
    fails,
    hangs,
    lists,
    says,
    sends,
    serving,
    stream,
)

KEY = "sk-very-secret-0123456789"
PRICES = {"usd_per_million_input_tokens": 1.0, "usd_per_million_output_tokens": 10.0}


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with serving() as running:
        yield running


@pytest.fixture(autouse=True)
def no_long_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoints, "PAUSE_SECONDS", 0.01)


def settings(server: OpenAIServer, **keys: Any) -> AnswersSettings:
    return AnswersSettings(model=MODEL, base_url=server.base_url, **keys)


async def ask(server: OpenAIServer, *, streamed: bool = False, key: str | None = KEY, **keys: Any) -> tuple[str, str]:
    """The reply, and what of it was shown."""
    shown: list[str] = []
    async with open_endpoint(settings(server, **keys), SecretStr(key) if key else None) as endpoint:
        messages = [ChatMessage(role="user", content="Why are there tides?")]
        reply = await endpoint.reply(messages, shown.append if streamed else None)
        return reply.text, "".join(shown)


# --- what is sent and said


@pytest.mark.parametrize("streamed", [False, True])
async def test_the_model_is_asked_as_the_corpus_file_says(server: OpenAIServer, streamed: bool) -> None:
    server.script = [says("The moon pulls them.")]
    text, shown = await ask(server, streamed=streamed, max_tokens=99)
    assert text == "The moon pulls them."
    assert shown == (text if streamed else "")
    (asked,) = server.asked
    assert asked.path == "/v1/chat/completions"
    assert asked.headers["authorization"] == f"Bearer {KEY}"
    assert (asked.body["model"], asked.body["max_tokens"]) == (MODEL, 99)
    assert asked.user == "Why are there tides?"


async def test_pieces_are_shown_as_they_come(server: OpenAIServer) -> None:
    shown: list[float] = []

    def slowly(handler: Any, _body: dict[str, Any]) -> None:
        events = [chunk({"content": "moon "}) for _ in range(3)]
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.send_header("Connection", "close")
        handler.end_headers()
        for event in [*events, chunk({}, finish="stop"), "[DONE]"]:
            handler.wfile.write(f"data: {event}\n\n".encode())
            handler.wfile.flush()
            time.sleep(0.1)
        handler.close_connection = True

    server.script = [slowly]
    async with open_endpoint(settings(server), None) as endpoint:
        messages = [ChatMessage(role="user", content="?")]
        await endpoint.reply(messages, lambda _piece: shown.append(time.monotonic()))
    assert shown[2] - shown[0] > 0.15


async def test_tokens_are_counted_and_priced(server: OpenAIServer) -> None:
    server.script = [says("x")]
    async with open_endpoint(settings(server, **PRICES), None) as endpoint:
        for _ in range(2):
            await endpoint.complete("?")
        usage = endpoint.usage
    assert (usage.requests, usage.input_tokens, usage.output_tokens, usage.estimated) == (2, 200, 20, False)
    assert usage.cost_usd == pytest.approx(2 * (100 * 1 + 10 * 10) / 1e6)


@pytest.mark.parametrize("streamed", [False, True])
async def test_tokens_that_are_not_counted_are_estimated(server: OpenAIServer, streamed: bool) -> None:
    server.script = [says("The moon.", usage=False)]
    async with open_endpoint(settings(server), None) as endpoint:
        messages = [ChatMessage(role="user", content="a" * 300)]
        await endpoint.reply(messages, (lambda _piece: None) if streamed else None)
        usage = endpoint.usage
    assert (usage.input_tokens, usage.output_tokens, usage.estimated, usage.cost_usd) == (100, 3, True, None)


def test_published_prices_are_known_for_their_own_address_only() -> None:
    from nightloom.metering import price_of  # noqa: PLC0415

    price = price_of(AnswersSettings(model="gpt-4o-mini"))
    assert price is not None
    assert 0 < price(1_000_000, 0) < price(0, 1_000_000) < 100
    assert price_of(AnswersSettings(model="gpt-4o-mini", base_url="http://127.0.0.1:8000/v1")) is None
    assert price_of(AnswersSettings(model="nobody-knows-it")) is None


async def test_what_variables_say_of_openai_is_sent_to_nobody_else(
    server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("API_KEY", "ORG_ID", "PROJECT_ID"):
        monkeypatch.setenv(f"OPENAI_{name}", f"private-{name}")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("OPENAI_API_BASE", "http://127.0.0.1:9/v1")
    server.script = [says("x")]
    await ask(server, key=None)
    (asked,) = server.asked
    assert "private" not in str(asked.headers)


@pytest.mark.parametrize(
    ("models", "expected"),
    [(lists("a", MODEL), ["a", MODEL]), (lists(), []), (fails(404), [])],
    ids=["two", "none", "no list"],
)
async def test_the_models_of_an_endpoint_are_listed(server: OpenAIServer, models: Answer, expected: list[str]) -> None:
    server.models = models
    async with open_endpoint(settings(server), SecretStr(KEY)) as endpoint:
        assert await endpoint.models() == expected
    assert server.asked[0].path == "/v1/models"


@pytest.mark.parametrize("models", [fails(401), fails(500), sends(b"<html>"), sends(b"{}")])
async def test_an_endpoint_that_lists_nothing_readable_is_an_error(server: OpenAIServer, models: Answer) -> None:
    server.models = models
    async with open_endpoint(settings(server), SecretStr(KEY)) as endpoint:
        with pytest.raises((EndpointRefused, EndpointUnavailable)):
            await endpoint.models()


# --- what goes wrong


def sends_error_event(handler: Any, _body: dict[str, Any]) -> None:
    stream(handler, [chunk({"content": "The"}), '{"error": {"message": "out of memory"}}'])


WRONG: dict[str, tuple[Answer, type[NightloomError], str]] = {
    "401": (
        fails(401, "Incorrect API key"),
        EndpointRefused,
        "401: Incorrect API key; check the key in NIGHTLOOM",
    ),
    "402": (fails(402), EndpointRefused, "see your account"),
    "403": (fails(403, "not your model"), EndpointRefused, "not your model; check the key in NIGHTLOOM_ANSWERS_KEY"),
    "404": (fails(404, "no such model"), EndpointRefused, r"see answers\.model = 'test-model' and answers\.base_url"),
    "307": (fails(307, Location="/elsewhere"), EndpointRefused, "no redirect is followed"),
    "400": (fails(400, "too long"), NoAnswer, "answers 400: too long"),
    "429": (fails(429, "slow down"), EndpointUnavailable, "answers 429: slow down"),
    "429 for long": (fails(429, Retry_After="3600"), EndpointUnavailable, "left alone for 3600 s"),
    "429 for good": (fails(429, "pay", code="insufficient_quota"), EndpointRefused, "pay; see your account"),
    "500": (fails(500, "oh dear"), EndpointUnavailable, "answers 500: oh dear"),
    "no body": (sends(b"", "text/plain"), EndpointUnavailable, "no chat completion|broke off"),
    "broken JSON": (sends(b'{"choices": [{"mess'), EndpointUnavailable, "no chat completion|broke off"),
    "other JSON": (sends(b'{"pong": true}'), EndpointUnavailable, "no chat completion|broke off"),
    "a list": (sends(b"[1, 2]"), EndpointUnavailable, "no chat completion|broke off"),
    "a page": (sends(b"<html>Log in</html>", "text/html"), EndpointUnavailable, "no chat completion|broke off"),
    "bytes": (sends(b"\xff\xfe\x00"), EndpointUnavailable, "no chat completion|broke off"),
    "nothing": (says(""), NoAnswer, "test-model said nothing$"),
    "no text": (says(None), NoAnswer, "said nothing"),
    "thinking": (says("", finish="length"), NoAnswer, r"answers\.max_tokens = 1024 were spent; raise it"),
    "refusal": (says("", refusal="I cannot help with that."), NoAnswer, "refuses to answer: I cannot help"),
    "filter": (says("", finish="content_filter"), NoAnswer, "refuses to answer: content_filter"),
}


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("wrong", WRONG)
async def test_what_goes_wrong_is_said(server: OpenAIServer, wrong: str, streamed: bool) -> None:
    answer, kind, message = WRONG[wrong]
    server.script = [answer]
    with pytest.raises(kind, match=message) as caught:
        await ask(server, streamed=streamed)
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("politely", [False, True])
async def test_a_stream_that_is_cut_is_no_answer_and_not_begun_again(server: OpenAIServer, politely: bool) -> None:
    server.script = [breaks_off("The moon pu", politely=politely)]
    with pytest.raises(EndpointUnavailable, match="broke off"):
        await ask(server, streamed=True)
    assert len(server.asked) == 1


async def test_an_error_within_a_stream_is_said(server: OpenAIServer) -> None:
    server.script = [sends_error_event]
    with pytest.raises(EndpointUnavailable, match=r"broke off .*out of memory"):
        await ask(server, streamed=True)


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_hang_ends_in_time(server: OpenAIServer, streamed: bool) -> None:
    server.script = [hangs(server)]
    began = time.monotonic()
    with pytest.raises(EndpointUnavailable, match=r"did not answer within answers\.timeout_seconds = 0\.3"):
        await ask(server, streamed=streamed, timeout_seconds=0.3)
    assert time.monotonic() - began < 5
    assert len(server.asked) == 1


async def test_a_stream_that_falls_silent_ends_in_time(server: OpenAIServer) -> None:
    def falls_silent(handler: Any, _body: dict[str, Any]) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.end_headers()
        handler.wfile.write(f"data: {chunk({'content': 'The'})}\n\n".encode())
        for _ in range(100):
            if server.over.wait(0.05):
                return
            handler.wfile.write(b": still here\n\n")
            handler.wfile.flush()

    server.script = [falls_silent]
    with pytest.raises(EndpointUnavailable, match="did not answer within"):
        await ask(server, streamed=True, timeout_seconds=0.3)


async def test_an_endpoint_that_is_not_there_is_said() -> None:
    with serving() as server:
        base_url = server.base_url
    async with open_endpoint(AnswersSettings(model=MODEL, base_url=base_url), None) as endpoint:
        with pytest.raises(EndpointUnavailable, match=r"cannot be reached: .*see answers\.base_url"):
            await endpoint.complete("?")


async def test_without_a_key_the_variable_is_named(server: OpenAIServer) -> None:
    server.script = [fails(401)]
    with pytest.raises(EndpointRefused, match="no key was sent: set NIGHTLOOM_ANSWERS_KEY"):
        await ask(server, key=None)


async def test_the_key_is_in_no_error_and_in_no_text_of_the_client(server: OpenAIServer) -> None:
    server.script = [fails(401, f"Incorrect API key provided: {KEY}")]
    async with open_endpoint(settings(server), SecretStr(KEY)) as endpoint:
        with pytest.raises(EndpointRefused, match=r"provided: \*\*\*") as caught:
            await endpoint.complete("?")
        assert KEY not in repr(endpoint.llm)
        assert KEY not in repr(vars(endpoint.llm))
    error: BaseException | None = caught.value
    assert error is not None
    assert error.__cause__ is None
    assert error.__suppress_context__


UPSTREAM = [
    kind
    for module in (openai, httpx)
    for kind in [*vars(module).values()]  # the client fills itself as it is looked at
    if inspect.isclass(kind) and issubclass(kind, openai.OpenAIError | httpx.HTTPError | httpx.StreamError)
]


@pytest.mark.parametrize("kind", UPSTREAM, ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
async def test_every_error_of_the_clients_becomes_one_of_ours(server: OpenAIServer, kind: type[Exception]) -> None:
    error = kind.__new__(kind)  # each wants arguments of its own, and most matter to nobody
    if isinstance(error, openai.APIStatusError):
        response = httpx.Response(418, request=httpx.Request("POST", server.base_url))
        openai.APIStatusError.__init__(error, "no", response=response, body=None)

    async def fail(*_arguments: Any, **_kwargs: Any) -> None:
        raise error

    async with open_endpoint(settings(server), None) as endpoint:
        endpoint.llm._achat = fail  # where LlamaIndex meets the client
        with pytest.raises(NightloomError):
            await endpoint.complete("?")


@pytest.mark.parametrize("key", [f"{KEY}\n", f"  {KEY}\r\n"])
async def test_space_around_a_key_is_left_out(server: OpenAIServer, key: str) -> None:
    server.script = [says("x")]
    await ask(server, key=key)
    assert server.asked[0].headers["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("key", [f"{KEY}\n{KEY}", f"{KEY}\x00", f"\u201c{KEY}\u201d"])
async def test_what_can_be_no_key_is_refused_and_not_repeated(server: OpenAIServer, key: str) -> None:
    with pytest.raises(EndpointRefused, match="see NIGHTLOOM_ANSWERS_KEY") as refused:
        await ask(server, key=key)
    assert KEY not in str(refused.value)
    assert not server.asked


async def test_a_model_without_chat_completions_is_refused() -> None:
    with pytest.raises(CorpusFileError, match=r"answers\.model: .*gpt-5\.4-pro"):
        async with open_endpoint(AnswersSettings(model="gpt-5.4-pro"), None):
            pass


# --- what is sent again


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("status", [408, 429, 500, 502, 503])
async def test_what_passes_is_asked_again(server: OpenAIServer, status: int, streamed: bool) -> None:
    server.script = [fails(status), fails(status), says("The moon.")]
    assert (await ask(server, streamed=streamed))[0] == "The moon."
    assert len(server.asked) == 3


async def test_a_rate_limit_is_waited_out_by_all_as_long_as_it_says(server: OpenAIServer) -> None:
    server.script = [fails(429, Retry_After="1"), says("The moon.")]
    async with open_endpoint(settings(server, concurrency=1), None) as endpoint:
        await asyncio.gather(*(endpoint.complete("?") for _ in range(3)))
    refused, *others = server.asked
    assert len(others) == 3
    assert min(asked.seconds for asked in others) >= refused.seconds + 0.99


@pytest.mark.parametrize("answer", [fails(401), fails(404), fails(400), says(""), sends(b"{}")])
async def test_what_does_not_pass_is_asked_once(server: OpenAIServer, answer: Answer) -> None:
    server.script = [answer]
    with pytest.raises(NightloomError):
        await ask(server)
    assert len(server.asked) == 1


# --- limits


async def test_no_more_requests_are_in_flight_than_allowed(server: OpenAIServer) -> None:
    server.script = [says("x", seconds=0.05)]
    async with open_endpoint(settings(server, concurrency=3), None) as endpoint:
        await asyncio.gather(*(endpoint.complete("?") for _ in range(12)))
    assert server.most_at_once == 3


async def test_requests_keep_to_their_rate(server: OpenAIServer) -> None:
    server.script = [says("x")]
    async with open_endpoint(settings(server, requests_per_minute=600, concurrency=8), None) as endpoint:
        started = time.monotonic()  # and not when the first came, which may be late
        await asyncio.gather(*(endpoint.complete("?") for _ in range(6)))
    assert server.asked[5].seconds - started >= 0.49


async def test_no_more_is_spent_than_allowed(server: OpenAIServer) -> None:
    server.script = [says("x", seconds=0.02)]
    limit = {"max_cost_usd": 0.0012, "max_tokens": 16, "concurrency": 8, **PRICES}
    async with open_endpoint(settings(server, **limit), None) as endpoint:
        found = await asyncio.gather(*(endpoint.complete("a" * 300) for _ in range(30)), return_exceptions=True)
        usage = endpoint.usage
    refused = [one for one in found if isinstance(one, CostLimit)]
    assert refused
    assert "answers.max_cost_usd = 0.0012" in str(refused[-1])
    assert len(server.asked) == 30 - len(refused) == usage.requests > 0
    assert usage.cost_usd is not None
    assert usage.cost_usd <= 0.0012


async def test_a_request_that_broke_off_counts_at_its_most(server: OpenAIServer) -> None:
    server.script = [hangs(server)]
    async with open_endpoint(settings(server, timeout_seconds=0.2, **PRICES), None) as endpoint:
        with pytest.raises(EndpointUnavailable):
            await endpoint.complete("?")
    assert (endpoint.usage.output_tokens, endpoint.usage.estimated) == (1024, True)


async def test_a_limit_of_cost_needs_a_price(server: OpenAIServer) -> None:
    with pytest.raises(CorpusFileError, match=r"answers\.max_cost_usd: no price is known for 'test-model'"):
        async with open_endpoint(settings(server, max_cost_usd=1), None):
            pass
