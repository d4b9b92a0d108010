"""The model that answers, behind any endpoint that speaks OpenAI's protocol: every request is limited and counted."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import openai
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike
from pydantic import SecretStr

from nightloom.corpus import AnswersSettings
from nightloom.endpoints import BrokeOff, Contact, Declined, persist
from nightloom.errors import CorpusFileError, EndpointUnavailable, NoAnswer
from nightloom.metering import Meter, Usage, tokens_in

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

    def __init__(self, settings: AnswersSettings, contact: Contact, client: openai.AsyncOpenAI) -> None:
        """Nothing is sent yet.

        Args:
            settings: Where it is, and its limits.
            contact: It keeps the key out of messages.
            client: It has the key.

        Raises:
            CorpusFileError: The cost is to be limited, and no price is known; or the model takes no chat completions.
        """
        self.settings = settings
        self._contact = contact
        self._client = client
        self._meter = Meter(settings)
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
            with self._contact.translated():
                async with asyncio.timeout(self.settings.timeout_seconds):
                    try:
                        return [one.id for one in (await self._client.models.list()).data]
                    except openai.NotFoundError:
                        return []
        except (BrokeOff, Declined) as error:
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
        return await persist(partial(self._attempt, messages, send))

    async def _attempt(self, messages: Sequence[ChatMessage], send: Callable[[], Awaitable[Reply]]) -> Reply:
        most = sum(tokens_in(str(message.content)) for message in messages), self.settings.max_tokens
        async with self._turns:
            with self._meter.reserve(*most):
                await self._meter.turn()
                try:
                    with self._contact.translated():
                        reply = await send()
                except BrokeOff as error:
                    self._meter.count(*most, estimated=True)
                    raise EndpointUnavailable(str(error)) from None
                except Declined as error:
                    raise NoAnswer(str(error)) from None
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
            raise BrokeOff(self._contact.says("broke off in the middle of its answer"))
        return Reply(text, finish, refusal, tokens, last)

    def _check(self, reply: Reply) -> None:
        if reply.refusal or reply.finish == "content_filter":
            reason = self._contact.quoted(reply.refusal or reply.finish)
            raise NoAnswer(f"{self.settings.model} refuses to answer: {reason}")
        if not reply.text.strip():
            spent = f" before answers.max_tokens = {self.settings.max_tokens} were spent; raise it" * reply.is_cut
            raise NoAnswer(f"{self.settings.model} said nothing{spent}")


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
    contact = Contact("answers", settings, key, "chat completion")
    async with contact.client() as client:
        yield Endpoint(settings, contact, client)


def _tokens(raw: Any) -> tuple[int, int] | None:
    """Of input and output, where the endpoint counts them: not all do, and not all count right."""
    read, written = getattr(raw.usage, "prompt_tokens", None), getattr(raw.usage, "completion_tokens", None)
    return (read, written) if isinstance(read, int) and isinstance(written, int) else None
