"""A model behind an endpoint that speaks OpenAI's protocol: texts to vectors, in requests that keep to its limits."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import cached_property, partial
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import openai

from nightloom.concurrency import each
from nightloom.corpus import EmbedderSettings, is_openai
from nightloom.endpoints import BrokeOff, Contact, Declined, persist
from nightloom.engines import Access, Work, batches
from nightloom.errors import EmbedderError, EmbeddingError, EndpointUnavailable, TextsDeclined
from nightloom.models import find_tokenizer, read_limit, tokenizer_of
from nightloom.pace import LocalPace
from nightloom.tokenizing import ENCODINGS, Tokenizer, tokenizer_in, tokenizer_of_encoding
from nightloom.vectors import Tokens, Vectors

BATCH_TOKENS = 16_384
"""Of a request, where the corpus file does not say."""
BATCH_TEXTS = 32
"""Of a request: TEI takes no more unless it is told to, and others gain little by more."""
HARMLESS = "A text."
"""What any endpoint embeds that embeds at all."""
OPENAI_MAX_TOKENS = 8_191
"""That the embedding models of OpenAI read."""


class RemoteModel:
    """A model behind an endpoint; its connections stay open while anything is asked of it.

    Attributes:
        max_tokens: Tokens that it reads of a text, special tokens included.
        work: What embedding nodes took so far.
    """

    def __init__(self, settings: EmbedderSettings, access: Access) -> None:
        """Find the tokenizer; nothing is sent yet.

        Raises:
            EmbedderError: Unknown tokenizer, or nobody knows how much the model reads.
            EndpointRefused: The key is none.
        """
        self._settings = settings
        self._contact = Contact("embedder", settings, access.key, "list of embeddings")
        self._shared = access.pace
        self._pace = LocalPace(settings.requests_per_minute, settings.tokens_per_minute)
        self._turns = asyncio.Semaphore(settings.concurrency)
        self._dimensions = settings.dimensions
        self._client: openai.AsyncOpenAI | None = None
        self._embeds = False  # it has given vectors, so that a request that it declines is about its texts
        self._callers = self._nodes = 0
        self._since = 0.0
        name = settings.tokenizer_name or ""
        self._folder = None if name in ENCODINGS else find_tokenizer(name, "embedder.tokenizer")
        self.max_tokens = settings.max_tokens or self._read_limit()
        self.work = Work()

    def _read_limit(self) -> int:
        if self._folder is not None:
            return read_limit(self._folder)
        if is_openai(self._settings.base_url):
            return OPENAI_MAX_TOKENS
        raise EmbedderError(
            f"embedder.max_tokens: give how many tokens {self._settings.model} reads: the tokenizer"
            f" {self._settings.tokenizer_name} does not say it"
        )

    @property
    def contents(self) -> str:
        """The tokenizer, as all that can be known of what stands behind a name."""
        return tokenizer_of(self._folder) if self._folder is not None else f"{self._settings.tokenizer_name}\n"

    @property
    def precision(self) -> str:
        """What runs at the endpoint decides that."""
        return self._settings.precision

    @property
    def dim(self) -> int:
        """Dimensions that the corpus file asks for, or that the first answer had; 0 before that."""
        return self._dimensions or 0

    def follow(self, precision: str) -> None:
        """Nothing is left open here."""

    @property
    def traits(self) -> Mapping[str, object]:
        """What the model is asked for by, wherever it stands: machines of one pool may ask different addresses."""
        settings = self._settings
        return {"endpoint": [settings.model, settings.revision, settings.dimensions]}

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        name = self._settings.tokenizer_name or ""
        return tokenizer_of_encoding(name) if self._folder is None else tokenizer_in(self._folder, name)

    def tokens(self, text: str) -> Tokens:
        """The tokens of a text, special ones included: as many as there are, read by the model or not."""
        return self._tokenizer.tokens(text)

    def joined_tokens(self, parts: Sequence[Tokens]) -> Tokens | None:
        """The tokens of texts with white space between them; None where they do not follow from those of each."""
        return self._tokenizer.joined(parts)

    def open_soon(self) -> None:
        """Nothing: the model is open already."""

    async def embed(self, texts: Sequence[str], tokens: Sequence[Tokens], *, are_nodes: bool) -> Vectors:
        """Embed texts; of one with more than `max_tokens`, its beginning is sent.

        Args:
            texts: n texts.
            tokens: Of each.
            are_nodes: Whether to count them as work.

        Returns:
            float32, shape (n, dim), in the order of the texts.

        Raises:
            EmbeddingError: The endpoint gave what is no embedding of each text, or takes no text at all.
            TextsDeclined: It takes others than some of these; those are embedded by then, and their vectors lost.
            EndpointUnavailable: No answer, none in time, or "later" for too long.
            EndpointRefused: The key, the model or the address is wrong.
        """
        lengths = [min(len(one), self.max_tokens) for one in tokens]
        wanted = [
            text if len(one) <= self.max_tokens else self._beginning(text)
            for text, one in zip(texts, tokens, strict=True)
        ]
        most = self._settings.batch_tokens or BATCH_TOKENS
        parts = list(batches(lengths, most, BATCH_TEXTS))
        rows: dict[int, Vectors] = {}
        declined: dict[int, str] = {}

        async def ask(part: list[int]) -> None:
            some, count = [wanted[at] for at in part], sum(lengths[at] for at in part)
            try:
                found = await persist(partial(self._attempt, client, some, count))
            except Declined as error:
                if len(part) > 1:  # one of them, or too many at once
                    half = len(part) // 2
                    await ask(part[:half])
                    await ask(part[half:])
                    return
                says = f"{error} (a text of {count} tokens)"
                await self._check_embeds(client, says)
                declined[part[0]] = says
            else:
                rows.update(zip(part, found, strict=True))

        async with self._connected(len(texts) if are_nodes else 0) as client:
            await each(parts, ask, at_once=self._settings.concurrency)
        if declined:
            raise TextsDeclined(declined)
        return np.array([rows[at] for at in range(len(texts))], dtype=np.float32)

    async def _check_embeds(self, client: openai.AsyncOpenAI, says: str) -> None:
        """Find out whether the endpoint takes any text, where it has taken none so far.

        Raises:
            EmbeddingError: It does not.
        """
        if self._embeds:
            return
        try:
            await persist(partial(self._attempt, client, [HARMLESS], len(self.tokens(HARMLESS))))
        except Declined:
            raise EmbeddingError(f"{says}; it declines any other text as well") from None

    def _beginning(self, text: str) -> str:
        """As much of a text as the model reads, or a little less."""
        fits, too_long = 0, len(text)
        while too_long - fits > 1:
            middle = (fits + too_long) // 2
            if len(self.tokens(text[:middle])) <= self.max_tokens:
                fits = middle
            else:
                too_long = middle
        return text[:fits]

    @asynccontextmanager
    async def _connected(self, nodes: int) -> AsyncIterator[openai.AsyncOpenAI]:
        """The client that all callers share; the last of them closes it, and counts what they embedded."""
        if self._client is None:
            self._client, self._since = self._contact.client(), time.monotonic()
        client = self._client
        self._callers += 1
        try:
            yield client
            self._nodes += nodes
        finally:
            self._callers -= 1
            if not self._callers:
                self._client = None
                if self._nodes:
                    self.work.add(f"openai at {urlsplit(self._settings.base_url).netloc}", self._nodes, self._since)
                    self._nodes = 0
                await client.close()

    async def _attempt(self, client: openai.AsyncOpenAI, texts: list[str], tokens: int) -> Vectors:
        async with self._turns:
            await self._pace.turn(tokens)
            if self._shared is not None:
                await self._shared(tokens)
            try:
                with self._contact.translated():
                    async with asyncio.timeout(self._settings.timeout_seconds):
                        reply = await client.embeddings.create(
                            model=self._settings.model,
                            input=texts,
                            dimensions=self._settings.dimensions or openai.omit,
                        )
                    found = {one.index: one.embedding for one in reply.data}
                    count = len(reply.data)
            except BrokeOff as error:  # embedded twice, a text costs little and gets the same vector
                raise EndpointUnavailable(str(error), retry_after_seconds=0) from None
            except EndpointUnavailable as error:
                self._pace.hold(error.retry_after_seconds or 0)
                raise
        return self._vectors(found, count, len(texts))

    def _vectors(self, found: Mapping[Any, Any], count: int, wanted: int) -> Vectors:
        """A reply as rows, in the order of its texts.

        Raises:
            EmbeddingError: It is not one finite vector of the same length for each of them.
        """
        if count != wanted:
            raise EmbeddingError(self._contact.says(f"gave {count} embeddings for {wanted} texts"))
        if found.keys() != set(range(wanted)):
            raise EmbeddingError(self._contact.says(f"does not say which embedding is of which of {wanted} texts"))
        try:
            with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused as that
                vectors = np.array([found[at] for at in range(wanted)], dtype=np.float32)
        except (ValueError, TypeError, OverflowError):
            raise EmbeddingError(self._contact.says("gave embeddings that are no vectors of one length")) from None
        if vectors.ndim != 2 or not vectors.size or not np.isfinite(vectors).all():  # noqa: PLR2004  rows and columns
            raise EmbeddingError(self._contact.says("gave embeddings that are no vectors of finite numbers"))
        self._embeds = True
        self._dimensions = self._dimensions or vectors.shape[1]
        if vectors.shape[1] != self._dimensions:
            asked = self._settings.dimensions
            expected = f"embedder.dimensions = {asked}" if asked else f"the {self._dimensions} that it gave before"
            raise EmbeddingError(
                self._contact.says(f"gave vectors of {vectors.shape[1]} dimensions, and not {expected}")
            )
        return vectors
