"""The embedder: which model, how much it reads, what identifies it, and texts to vectors."""

import asyncio
import hashlib
import json
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from nightloom.backends import Backend, open_backend
from nightloom.corpus import EmbedderSettings
from nightloom.errors import EmbedderError, EmbeddingError
from nightloom.models import Model, contents_of, find_model, pad_token, read_limit

Vectors = npt.NDArray[np.float32]
Tokens = npt.NDArray[np.int64]
"""Of one text, special ones included: shape (n,)."""


class Embedder:
    """A model on disk; its weights are loaded at the first text, so that a night without work never loads them.

    Attributes:
        folder: The model's files.
        max_tokens: Tokens that it reads of a text, special tokens included.
        work: What embedding nodes took so far.
    """

    def __init__(self, settings: EmbedderSettings) -> None:
        """Find the model and read its limits.

        Raises:
            EmbedderError: Unknown model, no network for it, or weights that are not safetensors.
        """
        self.settings = settings
        self.folder = find_model(settings.model, settings.revision)
        self.max_tokens = read_limit(self.folder)
        self.work = Work()
        # One caller has all the cores; what waits meanwhile is embedded together.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="embedder")
        self._lock = threading.Lock()
        self._waiting: list[_Request] = []

    @cached_property
    def _contents(self) -> str:
        return contents_of(self.folder)

    @cached_property
    def model(self) -> Model:
        """Its files, and what identifies them alone."""
        return Model(self.folder, hashlib.sha256(self._contents.encode()).hexdigest())

    @cached_property
    def _padding(self) -> int:
        return pad_token(self.folder)

    @cached_property
    def identity(self) -> str:
        """sha256 over the model's files, the prefix of its texts and the precision: equal means comparable vectors."""
        given = {"text_prefix": self.settings.text_prefix}
        if self.settings.precision != "fp32":
            given["precision"] = self.settings.precision
        return hashlib.sha256((json.dumps(given) + self._contents).encode()).hexdigest()

    @property
    def description(self) -> str:
        """What `described` opens again: identity and settings as JSON; it is kept with a generation."""
        return json.dumps({"identity": self.identity, "settings": self.settings.model_dump()}, sort_keys=True)

    @cached_property
    def _tokenizer(self) -> Any:
        from tokenizers import Tokenizer  # noqa: PLC0415  a night without work needs no tokenizer

        file = self.folder / "tokenizer.json"
        tokenizer: Any
        if file.exists():
            tokenizer = Tokenizer.from_file(str(file))
        else:
            from transformers import AutoTokenizer  # noqa: PLC0415  seconds to import, and few models need it

            tokenizer = getattr(AutoTokenizer.from_pretrained(str(self.folder)), "backend_tokenizer", None)
            if tokenizer is None:
                raise EmbedderError(f"{self.settings.model}: has no fast tokenizer; nodes cannot be measured with it")
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer

    def tokens(self, text: str) -> Tokens:
        """The tokens of a text, special ones included, prefix not: as many as there are, read by the model or not."""
        return np.array(self._tokenizer.encode(text).ids, dtype=np.int64)

    def count_tokens(self, text: str) -> int:
        """How many `tokens` a text has."""
        return len(self.tokens(text))

    @cached_property
    def special_tokens(self) -> int:
        """Tokens that the model puts around every text."""
        return self.count_tokens("")

    def truncated_tokens(self, tokens: Sequence[Tokens]) -> int:
        """Tokens of texts that lie beyond what the model reads."""
        return sum(max(0, len(one) - self.max_tokens) for one in tokens)

    @cached_property
    def backend(self) -> Backend:
        """What runs the model, opened at first use; a process opens it once."""
        return open_backend(self.model, self.settings.backend, self.settings.precision)

    async def embed_texts(self, texts: list[str], tokens: Sequence[Tokens] | None = None) -> Vectors:
        """Embed the texts of nodes.

        Args:
            texts: n texts; of one with more than `max_tokens` with the prefix, the model reads so many.
            tokens: Of the n texts with the prefix, where they are known already.

        Returns:
            float32, shape (n, dim), in the order of the texts: rows of unit L2 norm, but for `unusable` ones.

        Raises:
            EmbeddingError: The model gave a wrong count.
        """
        if tokens is None:
            tokens = [self.tokens(self.settings.text_prefix + text) for text in texts]
        return await self._embed(tokens, are_nodes=True)

    def open_soon(self) -> None:
        """Begin to open the model, while whoever needs it has something else to do."""
        self._thread.submit(lambda: self.backend)  # where that fails, the first text says why

    async def embed_queries(self, queries: list[str]) -> Vectors:
        """Embed queries; the same as `embed_texts`, with the query prefix.

        Raises:
            EmbeddingError: The model gave a wrong count, or a vector that is zero or not finite.
        """
        vectors = await self._embed([self.tokens(self.settings.query_prefix + query) for query in queries])
        if (bad := int(unusable(vectors).sum())) > 0:
            raise EmbeddingError(
                f"{self.settings.model}: {bad} of {len(queries)} queries have embeddings that are zero or not finite"
            )
        return vectors

    async def _embed(self, tokens: Sequence[Tokens], *, are_nodes: bool = False) -> Vectors:
        request = _Request([self._read(one) for one in tokens], are_nodes=are_nodes)
        with self._lock:
            self._waiting.append(request)
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._serve, request)
        finally:
            request.is_abandoned = True  # cancelled or timed out: the thread ends with its batch
        if request.error:
            raise request.error
        return checked(request.vectors, len(tokens), self.settings.model)

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
        for batch in batches([len(one) for one in tokens], self.settings.batch_tokens or backend.batch_tokens):
            if all(request.is_abandoned for request in requests):
                break
            vectors = backend.encode(*_padded([tokens[at] for at in batch], self._padding))
            rows |= dict(zip(batch, vectors, strict=False))  # a wrong count is seen below
        found, start = [], 0
        for request in requests:
            mine = [rows[at] for at in range(start, start + len(request.tokens)) if at in rows]
            found.append(np.array(mine, dtype=np.float32))
            start += len(request.tokens)
        return found


@dataclass
class Work:
    """What embedding took.

    Attributes:
        backend: What ran the model; "" where nothing was embedded.
        busy_seconds: With a batch under way.
        whole_seconds: From the first batch to the end of the last.
    """

    backend: str = ""
    texts: int = 0
    busy_seconds: float = 0.0
    whole_seconds: float = 0.0
    _began: float = 0.0

    def add(self, backend: str, texts: int, started: float) -> None:
        """Count texts that were embedded from a moment until now."""
        now = time.monotonic()
        self._began = self._began or started
        self.backend = backend
        self.texts += texts
        self.busy_seconds += now - started
        self.whole_seconds = now - self._began


class _Request:
    """Texts that somebody waits for."""

    def __init__(self, tokens: list[Tokens], *, are_nodes: bool) -> None:
        self.tokens = tokens
        self.are_nodes = are_nodes
        self.is_abandoned = False
        self.vectors: Vectors = np.empty((0, 0), dtype=np.float32)
        self.error: Exception | None = None


def batches(lengths: Sequence[int], most_tokens: int) -> Iterator[list[int]]:
    """Positions of texts in batches of like length, the shortest first: padding is what a batch wastes.

    Args:
        lengths: Tokens of each text.
        most_tokens: Of a batch, padding included; a longer text goes alone.
    """
    batch: list[int] = []
    for at in sorted(range(len(lengths)), key=lambda one: lengths[one]):
        if batch and (len(batch) + 1) * lengths[at] > most_tokens:
            yield batch
            batch = []
        batch.append(at)
    if batch:
        yield batch


def _padded(tokens: Sequence[Tokens], padding: int) -> tuple[Tokens, Tokens]:
    """Tokens of texts, and which of them are no padding: each of shape (texts, tokens of the longest)."""
    longest = max(map(len, tokens))
    ids = np.full((len(tokens), longest), padding, dtype=np.int64)
    mask = np.zeros_like(ids)
    for at, one in enumerate(tokens):
        ids[at, : len(one)] = one
        mask[at, : len(one)] = 1
    return ids, mask


def described(description: str, tonight: Embedder) -> Embedder | None:
    """The embedder that a generation was made with; None where its model cannot be had any more, or has changed.

    Args:
        description: That the generation keeps.
        tonight: Is given back where it is that very one.
    """
    try:
        kept = json.loads(description)
        if kept["identity"] == tonight.identity:
            return tonight
        embedder = Embedder(EmbedderSettings.model_validate(kept["settings"]))
        return embedder if embedder.identity == kept["identity"] else None
    except (EmbedderError, ValueError, KeyError, TypeError):
        return None


def checked(vectors: Vectors, count: int, model: str) -> Vectors:
    """The vectors, if there are as many as texts.

    Raises:
        EmbeddingError: Not of shape (count, dim).
    """
    if vectors.ndim != 2 or len(vectors) != count:  # noqa: PLR2004  rows and columns
        raise EmbeddingError(f"{model}: {count} texts gave embeddings of shape {vectors.shape}")
    return vectors


def unusable(vectors: Vectors) -> npt.NDArray[np.bool_]:
    """Which vectors are zero or not finite: no metric compares them with anything.

    Args:
        vectors: Shape (n, dim).

    Returns:
        Shape (n,).
    """
    return np.asarray(~np.isfinite(vectors).all(axis=1) | ~vectors.any(axis=1))
