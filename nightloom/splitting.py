"""From documents to nodes: pieces that the embedder reads whole, in order, covering every word of the text."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from nightloom.corpus import SplittingSettings
from nightloom.documents import Document, node_id
from nightloom.embedding import Embedder
from nightloom.errors import EmbedderError

SPLITTER_VERSION = 1
"""Part of the fingerprint: raise it whenever the nodes that come of the same text change."""

BYTES_PER_TOKEN = 32
"""A node's bound in bytes for each token: WordPiece makes one token of any word of more than 100 characters, and a page
of such words would else be one node of megabytes."""
MAX_NODE_BYTES = 60_000
"""Milvus holds 65,535 bytes in a text field."""


@dataclass(frozen=True, slots=True)
class Node:
    """A piece of a document, without its embedding.

    Attributes:
        id: Primary key, `<document id>-<position>`.
        position: From 0, in the order of the text.
        total: Nodes of its document.
        version: Of its document.
        text: What is embedded and stored, prefix not included.
    """

    id: str
    document: Document
    version: str
    position: int
    total: int
    text: str


class Splitter:
    """Splits by sentences, measured with the embedder's own tokenizer."""

    def __init__(self, settings: SplittingSettings, embedder: Embedder) -> None:
        """Check that the nodes fit the embedder.

        Raises:
            EmbedderError: `max_tokens` is above what the embedder reads, or the prefix leaves no room.
        """
        if settings.max_tokens > embedder.max_tokens:
            raise EmbedderError(
                f"splitting.max_tokens = {settings.max_tokens} is above the {embedder.max_tokens} tokens that"
                f" {embedder.settings.model} reads; lower it, or the rest of each node would not be embedded"
            )
        # Measured here only where there is a prefix: the tokenizer takes its time, and most nights split nothing.
        prefix = embedder.settings.text_prefix
        reserved = embedder.count_tokens(prefix) if prefix else 0
        if reserved and settings.max_tokens - reserved <= settings.overlap_tokens:
            raise EmbedderError(
                f"embedder.text_prefix takes {reserved} of splitting.max_tokens = {settings.max_tokens} tokens;"
                " shorten it, or raise max_tokens"
            )
        self._settings = settings
        self._embedder = embedder
        self._max_bytes = min(MAX_NODE_BYTES, BYTES_PER_TOKEN * settings.max_tokens)
        self._library_splitter: Any = None

    def split(self, document: Document, version: str) -> list[Node]:
        """The nodes of a document, at least one.

        Every character of its text that is not white space is in a node, and no node is cut off by the embedder.
        """
        texts = [piece for text in self._sentences(document.text) for piece in self._fitting(text)]
        key, total = document.ref.id, len(texts)
        return [Node(node_id(key, at), document, version, at, total, text) for at, text in enumerate(texts)]

    def _sentences(self, text: str) -> list[str]:
        if self._library_splitter is None:
            self._library_splitter = self._open()
        try:
            pieces: list[str] = self._library_splitter.split_text(text)
        except RecursionError:
            # It goes one call deeper for every sentence of a text without spaces; halves need a few calls.
            return [text]
        return pieces

    def _open(self) -> Any:
        from llama_index.core.node_parser import SentenceSplitter  # noqa: PLC0415  a second, and only work needs it

        embedder, special = self._embedder, self._embedder.count_tokens("")
        return SentenceSplitter(
            chunk_size=self._settings.max_tokens - embedder.count_tokens(embedder.settings.text_prefix),
            chunk_overlap=self._settings.overlap_tokens,
            tokenizer=lambda text: range(embedder.count_tokens(text) - special),
        )

    def _fitting(self, text: str) -> Iterator[str]:
        """The text, or halves of it until each fits.

        Tokens of a whole can be more than the sum of its parts' tokens, and few tokens can be many bytes.
        """
        if self._fits(text):
            yield text
            return
        middle = len(text) // 2
        gap = text.rfind(" ", middle // 2, middle)
        cut = gap if gap > 0 else middle
        for half in (text[:cut].strip(), text[cut:].strip()):
            if half:
                yield from self._fitting(half)

    def _fits(self, text: str) -> bool:
        if len(text.encode()) > self._max_bytes:
            return False
        tokens = self._embedder.count_tokens(self._embedder.settings.text_prefix + text)
        return tokens <= self._settings.max_tokens or len(text) == 1
