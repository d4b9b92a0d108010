"""A model on this machine: its weights are loaded at the first text, and one caller at a time has all the cores."""

import asyncio
import hashlib
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from functools import cached_property

import numpy as np

from nightloom.backends import Backend, check_ways, fastest_precision, open_backend
from nightloom.corpus import EmbedderSettings
from nightloom.engines import Work, batches
from nightloom.models import Model, contents_of, find_model, pad_token, read_limit
from nightloom.tokenizing import Tokenizer, tokenizer_in
from nightloom.vectors import Tokens, Vectors, checked


class LocalModel:
    """A model on disk; a night without work never loads its weights.

    Attributes:
        folder: The model's files.
        max_tokens: Tokens that it reads of a text, special tokens included.
        work: What embedding nodes took so far.
    """

    def __init__(self, settings: EmbedderSettings) -> None:
        """Find the model and read its limits.

        Raises:
            EmbedderError: Unknown model, no network for it, weights that are not safetensors, or a backend that has
                not the precision.
        """
        self.settings = settings
        if settings.precision != "auto":
            check_ways(settings.backend, settings.precision)
        self.folder = find_model(settings.model, settings.revision)
        self.max_tokens = read_limit(self.folder)
        self.work = Work()
        # One caller has all the cores; what waits meanwhile is embedded together.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="embedder")
        self._lock = threading.Lock()
        self._waiting: list[_Request] = []

    @cached_property
    def contents(self) -> str:
        """Its files, by name and hash."""
        return contents_of(self.folder)

    @property
    def traits(self) -> Mapping[str, object]:
        """Its precision, where it is not as the model was published."""
        return {} if self.precision == "fp32" else {"precision": self.precision}

    @cached_property
    def precision(self) -> str:
        """As the corpus file says; where it leaves that open and nothing is to be followed, what is fastest here."""
        given = self.settings.precision
        return fastest_precision(self.model, self.settings.backend) if given == "auto" else given

    def follow(self, precision: str) -> None:
        """Give vectors of a precision, where the corpus file leaves it open.

        Raises:
            EmbedderError: The backend that the corpus file names has no such precision.
        """
        if self.settings.precision == "auto":
            check_ways(self.settings.backend, precision)
            self.precision = precision

    @cached_property
    def model(self) -> Model:
        """Its files, and what identifies them alone."""
        return Model(self.folder, hashlib.sha256(self.contents.encode()).hexdigest())

    @cached_property
    def _padding(self) -> int:
        return pad_token(self.folder)

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        return tokenizer_in(self.folder, self.settings.model)

    def tokens(self, text: str) -> Tokens:
        """The tokens of a text, special ones included: as many as there are, read by the model or not."""
        return self._tokenizer.tokens(text)

    def joined_tokens(self, parts: Sequence[Tokens]) -> Tokens | None:
        """The tokens of texts with white space between them; None where they do not follow from those of each."""
        return self._tokenizer.joined(parts)

    @cached_property
    def backend(self) -> Backend:
        """What runs the model, opened at first use; a process opens it once."""
        return open_backend(self.model, self.settings.backend, self.precision)

    @cached_property
    def _encoders(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self.backend.at_once, thread_name_prefix="encoder")

    def open_soon(self) -> None:
        """Begin to open the model, while whoever needs it has something else to do."""
        _ = self._dim  # where that fails, the first text says why

    @property
    def dim(self) -> int:
        """Dimensions of its vectors; waits until the model is open.

        Raises:
            EmbedderError: It cannot be opened.
        """
        return self._dim.result()

    @cached_property
    def _dim(self) -> Future[int]:
        return self._thread.submit(copy_context().run, self._measure_dim)  # it logs for the run that wants it open

    def _measure_dim(self) -> int:
        ids, mask = _padded([self._read(self.tokens("dimensions"))], self._padding)
        return int(self.backend.encode(ids, mask).shape[1])

    async def embed(self, texts: Sequence[str], tokens: Sequence[Tokens], *, are_nodes: bool) -> Vectors:
        """Embed texts; of one with more than `max_tokens`, the model reads so many.

        Args:
            texts: n texts.
            tokens: Of each; these are what is read.
            are_nodes: Whether to count them as work.

        Returns:
            float32, shape (n, dim), in the order of the texts.

        Raises:
            EmbeddingError: The model gave a wrong count.
        """
        request = _Request([self._read(one) for one in tokens], are_nodes=are_nodes)
        with self._lock:
            self._waiting.append(request)
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, copy_context().run, self._serve, request)
        finally:
            request.is_abandoned = True  # cancelled or timed out: the thread ends with its batch
        if request.error:
            raise request.error
        return checked(request.vectors, len(texts), self.settings.model)

    def _read(self, tokens: Tokens) -> Tokens:
        """What the model reads of a text: its last token, which is a special one, stays the last."""
        if len(tokens) <= self.max_tokens:
            return tokens
        return np.concatenate((tokens[: self.max_tokens - 1], tokens[-1:]))

    def _serve(self, request: "_Request") -> None:
        """In the one thread: embed whatever waits, unless it was embedded with what came before."""
        with self._lock:
            if request not in self._waiting:
                return
            taken, self._waiting = [one for one in self._waiting if not one.is_abandoned], []
        try:
            backend = self.backend
            started = time.monotonic()
            found = self._vectors(taken, backend)
            if nodes := sum(len(one.tokens) for one in taken if one.are_nodes):
                self.work.add(backend.name, nodes, started)
            for one, vectors in zip(taken, found, strict=True):
                one.vectors = vectors
        except Exception as error:  # noqa: BLE001  raised again for each of them
            for one in taken:
                one.error = error

    def _vectors(self, requests: Sequence["_Request"], backend: Backend) -> list[Vectors]:
        """The vectors of each request; fewer than texts where nobody waits for them any more."""
        tokens = [one for request in requests for one in request.tokens]
        rows: dict[int, Vectors] = {}

        def encode(batch: list[int]) -> None:
            if not all(request.is_abandoned for request in requests):
                vectors = backend.encode(*_padded([tokens[at] for at in batch], self._padding))
                rows.update(zip(batch, vectors, strict=False))  # a wrong count is seen below

        # The longest first: at the end the cores wait for each other for as long as a batch of short ones takes.
        some = batches([len(one) for one in tokens], self.settings.batch_tokens or backend.batch_tokens)
        list(self._encoders.map(encode, reversed(list(some))))
        found, start = [], 0
        for request in requests:
            mine = [rows[at] for at in range(start, start + len(request.tokens)) if at in rows]
            found.append(np.array(mine, dtype=np.float32))
            start += len(request.tokens)
        return found


class _Request:
    """Texts that somebody waits for."""

    def __init__(self, tokens: list[Tokens], *, are_nodes: bool) -> None:
        self.tokens = tokens
        self.are_nodes = are_nodes
        self.is_abandoned = False
        self.vectors: Vectors = np.empty((0, 0), dtype=np.float32)
        self.error: Exception | None = None


def _padded(tokens: Sequence[Tokens], padding: int) -> tuple[Tokens, Tokens]:
    """Tokens of texts, and which of them are no padding: each of shape (texts, tokens of the longest)."""
    longest = max(map(len, tokens))
    ids = np.full((len(tokens), longest), padding, dtype=np.int64)
    mask = np.zeros_like(ids)
    for at, one in enumerate(tokens):
        ids[at, : len(one)] = one
        mask[at, : len(one)] = 1
    return ids, mask
