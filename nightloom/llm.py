"""The model that answers, behind any endpoint that speaks OpenAI's protocol: every request is limited and counted."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import openai
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike
from pydantic import SecretStr
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_exponential

from nightloom.corpus import AnswersSettings
from nightloom.errors import CorpusFileError, EndpointRefused, EndpointUnavailable, NightloomError, NoAnswer
from nightloom.metering import Meter, Usage, tokens_in
from nightloom.report import plain
from nightloom.secrets import ANSWERS_KEY, OPENAI_KEY

ATTEMPTS = 3
PAUSE_SECONDS = 1.0
"""Before the second attempt, where the endpoint asks for no longer one; twice as long before the third."""
LONGEST_PAUSE_SECONDS = 60.0
"""That an endpoint can make us wait."""
CONNECT_SECONDS = 10.0
SHOWN_CHARACTERS = 300
"""Of what an endpoint says of an error."""

LATER = frozenset({408, 409, 425, 429})
"""Statuses below 500 that pass."""
REFUSES_ALL = frozenset({401, 402, 403, 404})
"""What an endpoint says of a key, an address or a model, and would say of every other request."""
OUT_OF_MONEY = frozenset({"insufficient_quota", "billing_hard_limit_reached"})
"""Codes of a 429 that does not pass."""

Show = Callable[[str], None]
"""Takes the pieces of a reply as they come."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What the model said.

    Attributes:
        finish: Why it ended: "stop", "length", "content_filter", or as the endpoint calls it.
        tokens: Of input and output, as the endpoint counts them; None where it does not.
        response: As LlamaIndex gives it.
    """

    text: str
    finish: str
    refusal: str
    tokens: tuple[int, int] | None
    response: Any

    @property
    def is_cut(self) -> bool:
        """Whether it ended at the limit of tokens, in the middle of what it was saying."""
        return self.finish == "length"


class Endpoint:
    """One model behind one address.

    Attributes:
        llm: For LlamaIndex; what it asks is limited and counted as well.
    """

    def __init__(self, settings: AnswersSettings, key: str, client: openai.AsyncOpenAI) -> None:
        """Nothing is sent yet.

        Args:
            settings: Where it is, and its limits.
            key: To be kept out of messages; empty where there is none.
            client: It has the key.

        Raises:
            CorpusFileError: The cost is to be limited, and no price is known; or the model takes no chat completions.
        """
        self.settings = settings
        self._client = client
        self._meter = Meter(settings)
        self._key = key
        self._turns = asyncio.Semaphore(settings.concurrency)
        try:
            self.llm = _Client(
                model=settings.model,
                api_base=settings.base_url,
                api_key="held by the client",  # this field is no secret to LlamaIndex
                async_openai_client=client,
                is_chat_model=True,
                context_window=settings.context_tokens,
                max_tokens=settings.max_tokens,
                max_retries=0,
                temperature=0.0,
                timeout=settings.timeout_seconds,
            )
        except ValueError as error:
            raise CorpusFileError(f"answers.model: {error}") from None
        self.llm.bind(self._ask)

    @property
    def usage(self) -> Usage:
        """What was asked so far, and what it took."""
        return self._meter.usage

    async def models(self) -> list[str]:
        """Names of the models that the endpoint lists, which costs nothing; empty where it lists none.

        Raises:
            EndpointUnavailable: No answer that can be read.
            EndpointRefused: The key or the address is wrong.
        """
        try:
            with self._translated():
                async with asyncio.timeout(self.settings.timeout_seconds):
                    try:
                        return [one.id for one in (await self._client.models.list()).data]
                    except openai.NotFoundError:
                        return []
        except _BrokeOff as error:
            raise EndpointUnavailable(str(error)) from None

    async def complete(self, prompt: str) -> str:
        """What the model says to a prompt.

        Raises:
            As `reply`.
        """
        return (await self.reply([ChatMessage(role="user", content=prompt)])).text

    async def reply(self, messages: Sequence[ChatMessage], show: Show | None = None) -> Reply:
        """What the model says to messages; a request that fails for now is sent again, unless a reply had begun.

        Args:
            messages: The conversation.
            show: Given each piece of the text as it comes; None to have all at once.

        Raises:
            EndpointUnavailable: No answer, none in time, "later" for too long, one that broke off or is none.
            EndpointRefused: The key, the model or the address is wrong.
            NoAnswer: The model refuses, says nothing, or cannot take this request.
            CostLimit: It could cost too much; nothing was sent.
        """
        if show is None:
            return await self._ask(messages, lambda: self.llm.whole(messages))
        return await self._ask(messages, lambda: self._stream(messages, show))

    async def _ask(self, messages: Sequence[ChatMessage], send: Callable[[], Awaitable[Reply]]) -> Reply:
        retrying = AsyncRetrying(
            retry=retry_if_exception(_passes),
            stop=stop_after_attempt(ATTEMPTS),
            wait=wait_exponential(PAUSE_SECONDS),
            reraise=True,
        )
        reply: Reply = await retrying(self._attempt, messages, send)
        return reply

    async def _attempt(self, messages: Sequence[ChatMessage], send: Callable[[], Awaitable[Reply]]) -> Reply:
        most = sum(tokens_in(str(message.content)) for message in messages), self.settings.max_tokens
        async with self._turns:
            with self._meter.reserve(*most):
                await self._meter.turn()
                try:
                    with self._translated():
                        reply = await send()
                except _BrokeOff as error:
                    self._meter.count(*most, estimated=True)
                    raise EndpointUnavailable(str(error)) from None
                except asyncio.CancelledError:
                    self._meter.count(*most, estimated=True)
                    raise
                except EndpointUnavailable as error:
                    self._meter.hold(error.retry_after_seconds or 0)
                    raise
                counted = reply.tokens or (most[0], tokens_in(reply.text))
                self._meter.count(*counted, estimated=reply.tokens is None)
        self._check(reply)
        return reply

    async def _stream(self, messages: Sequence[ChatMessage], show: Show) -> Reply:
        text, refusal, finish, tokens, last = "", "", "", None, None
        async with asyncio.timeout(self.settings.timeout_seconds) as silence:
            async for last in await self.llm.pieces(messages):
                silence.reschedule(asyncio.get_running_loop().time() + self.settings.timeout_seconds)
                piece = last.delta or ""
                text += piece
                show(piece)
                tokens = _tokens(last.raw) or tokens
                for choice in last.raw.choices[:1]:
                    refusal += choice.delta.refusal or ""
                    finish = choice.finish_reason or finish
        if not finish:
            raise _BrokeOff(self._says("broke off in the middle of its answer"))
        return Reply(text, finish, refusal, tokens, last)

    def _check(self, reply: Reply) -> None:
        if reply.refusal or reply.finish == "content_filter":
            raise NoAnswer(f"{self.settings.model} refuses to answer: {self._quoted(reply.refusal or reply.finish)}")
        if not reply.text.strip():
            spent = f" before answers.max_tokens = {self.settings.max_tokens} were spent; raise it" * reply.is_cut
            raise NoAnswer(f"{self.settings.model} said nothing{spent}")

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Errors of the clients as ours, without what they carry: it may hold the key."""
        try:
            yield
        except NightloomError:
            raise
        except openai.APIStatusError as error:
            raise self._status_error(error) from None
        except (TimeoutError, openai.APITimeoutError, httpx.TimeoutException):
            limit = self.settings.timeout_seconds
            raise _BrokeOff(self._says(f"did not answer within answers.timeout_seconds = {limit:g}")) from None
        except openai.APIConnectionError as error:
            reason = self._quoted(str(error.__cause__ or error))
            raise EndpointUnavailable(
                self._says(f"cannot be reached: {reason}; see answers.base_url"), retry_after_seconds=0
            ) from None
        except (openai.OpenAIError, httpx.HTTPError, httpx.StreamError) as error:
            raise _BrokeOff(self._says(f"broke off in the middle of its answer: {self._quoted(str(error))}")) from None
        except _NO_COMPLETION as error:
            raise _BrokeOff(
                self._says(f"sent what is no chat completion ({type(error).__name__}); see answers.base_url")
            ) from None

    def _status_error(self, error: openai.APIStatusError) -> NightloomError:
        status = error.status_code
        body = error.body if isinstance(error.body, dict) else {}
        reason = self._quoted(str(body.get("message") or error.response.text))
        says = self._says(f"answers {status}{': ' * bool(reason)}{reason}")
        if error.code in OUT_OF_MONEY or status in REFUSES_ALL or status < 400:  # noqa: PLR2004  redirects
            return EndpointRefused(f"{says}; {self._advice(status)}")
        if status in LATER or status >= 500:  # noqa: PLR2004  all that a server calls its own fault
            after = _retry_after(error.response.headers)
            if after > LONGEST_PAUSE_SECONDS:
                return EndpointUnavailable(f"{says}; it asks to be left alone for {after:.0f} s")
            return EndpointUnavailable(says, retry_after_seconds=after)
        return NoAnswer(says)

    def _advice(self, status: int) -> str:
        if status == httpx.codes.NOT_FOUND:
            return f"see answers.model = {self.settings.model!r} and answers.base_url"
        if status in {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}:
            variables = f"{ANSWERS_KEY} (or {OPENAI_KEY})" if self.settings.is_openai else ANSWERS_KEY
            given = "check the key in" if self._key else "no key was sent: set"
            return f"{given} {variables}, or the block of answers.api_key_block"
        if status < httpx.codes.BAD_REQUEST:
            return "no redirect is followed: see answers.base_url"
        return "see your account there"

    def _says(self, what: str) -> str:
        return f"{self.settings.base_url} {what}"

    def _quoted(self, text: str) -> str:
        """What somebody else wrote, on one line, without the key."""
        line = " ".join(plain(text.replace(self._key, "***") if self._key else text).split())
        return line if len(line) <= SHOWN_CHARACTERS else f"{line[:SHOWN_CHARACTERS]}..."


class _BrokeOff(Exception):
    """A request that the endpoint may have taken, and charges for, and that gave nothing."""


_NO_COMPLETION = (AttributeError, IndexError, KeyError, TypeError, ValueError)
"""What the clients raise over an answer that is not of the protocol: they look into it as if it were."""


class _Client(OpenAILike):  # type: ignore[misc]  # LlamaIndex carries no types
    """LlamaIndex's client; whoever asks it, evaluators included, goes by the limits of the endpoint."""

    _ask: Callable[..., Awaitable[Reply]] = PrivateAttr()

    def bind(self, ask: Callable[..., Awaitable[Reply]]) -> None:
        self._ask = ask

    async def achat(self, messages: Sequence[ChatMessage], **_kwargs: Any) -> Any:
        return (await self._ask(messages, lambda: self.whole(messages))).response

    async def whole(self, messages: Sequence[ChatMessage]) -> Reply:
        async with asyncio.timeout(self.timeout):
            response = await super().achat(messages)
        choice = response.raw.choices[0]
        text, refusal = response.message.content or "", choice.message.refusal or ""
        return Reply(text, choice.finish_reason or "stop", refusal, _tokens(response.raw), response)

    async def pieces(self, messages: Sequence[ChatMessage]) -> Any:
        return await super().astream_chat(messages, stream_options={"include_usage": True})


@asynccontextmanager
async def open_endpoint(settings: AnswersSettings, key: SecretStr | None) -> AsyncIterator[Endpoint]:
    """The model of a corpus, in the running event loop.

    Args:
        settings: Where it is, and its limits.
        key: None for an endpoint that asks for none.

    Raises:
        CorpusFileError: The cost is to be limited, and no price is known; or the model takes no chat completions.
        EndpointRefused: The key is none.
    """
    secret = key.get_secret_value().strip() if key else ""
    if not (secret.isascii() and secret.isprintable()):  # clients would quote it in their errors
        raise EndpointRefused(f"the key holds characters that no key has: see {ANSWERS_KEY}, or answers.api_key_block")
    timeout = httpx.Timeout(settings.timeout_seconds, connect=min(CONNECT_SECONDS, settings.timeout_seconds))
    # No redirect is followed: questions and passages go to the address in the corpus file and nowhere else.
    http = openai.DefaultAsyncHttpxClient(timeout=timeout, follow_redirects=False)
    async with openai.AsyncOpenAI(
        api_key=secret or "none",
        base_url=settings.base_url,
        max_retries=0,
        http_client=http,
    ) as client:
        if not settings.is_openai:  # the client takes these from variables that are meant for OpenAI
            client.organization = client.project = None
        yield Endpoint(settings, secret, client)


def _tokens(raw: Any) -> tuple[int, int] | None:
    """Of input and output, where the endpoint counts them: not all do, and not all count right."""
    read, written = getattr(raw.usage, "prompt_tokens", None), getattr(raw.usage, "completion_tokens", None)
    return (read, written) if isinstance(read, int) and isinstance(written, int) else None


def _retry_after(headers: httpx.Headers) -> float:
    """Seconds that an answer asks to wait; 0 where it does not say."""
    try:
        return max(0.0, float(headers.get("retry-after", "0")))
    except ValueError:
        return 0.0  # a date: clocks differ, and our own pauses do as well


def _passes(error: BaseException) -> bool:
    """Whether another try may do: not once a reply has begun."""
    return isinstance(error, EndpointUnavailable) and error.retry_after_seconds is not None
