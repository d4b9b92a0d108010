"""From documents to nodes: pieces that the embedder reads whole, in order, covering every word of the text."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

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
        self._room = 0
        self._to_sentences: Callable[[str], list[str]] | None = None

    def split(self, document: Document, version: str) -> list[Node]:
        """The nodes of a document, at least one.

        Every character of its text that is not white space is in a node, and no node is cut off by the embedder.
        """
        texts = [piece for text in self._pack(self._pieces(document.text)) for piece in self._fitting(text)]
        key, total = document.ref.id, len(texts)
        return [Node(node_id(key, at), document, version, at, total, text) for at, text in enumerate(texts)]

    def _pieces(self, text: str) -> Iterator[tuple[str, int]]:
        """Sentences, and lines or halves of those that are too long, with their tokens; joined, they are the text.

        LlamaIndex's own SentenceSplitter goes one call deeper, and measures all the rest again, for every sentence
        that has no space behind it: 16 kB of JSON took it 30 s.
        """
        for sentence in self._sentences(text):
            yield from self._shortened(sentence)

    def _sentences(self, text: str) -> list[str]:
        if self._to_sentences is None:
            from llama_index.core.node_parser.text.utils import split_by_sentence_tokenizer  # noqa: PLC0415  seconds

            self._to_sentences = split_by_sentence_tokenizer()
            self._room = self._settings.max_tokens - self._embedder.count_tokens(self._embedder.settings.text_prefix)
        return self._to_sentences(text)

    def _shortened(self, text: str) -> Iterator[tuple[str, int]]:
        tokens = self._embedder.count_tokens(text) - self._embedder.special_tokens
        if (tokens <= self._room and len(text.encode()) <= self._max_bytes) or len(text) == 1:
            yield text, tokens
            return
        lines = text.splitlines(keepends=True)
        cut = _middle(text)
        for part in lines if len(lines) > 1 else (text[:cut], text[cut:]):
            yield from self._shortened(part)

    def _pack(self, pieces: Iterable[tuple[str, int]]) -> Iterator[str]:
        """Pieces together for as long as they fit; each node begins with the last of the one before, within overlap."""
        node: list[tuple[str, int]] = []
        held = 0
        for piece, tokens in pieces:
            if node and held + tokens > self._room:
                yield "".join(text for text, _ in node)
                allowed = min(self._settings.overlap_tokens, self._room - tokens)
                node = _tail(node, allowed)
                held = sum(count for _, count in node)
            node.append((piece, tokens))
            held += tokens
        yield "".join(text for text, _ in node)

    def _fitting(self, text: str) -> Iterator[str]:
        """The text without white space around it, or halves of it until each fits.

        Tokens of a whole can be more than the sum of its parts' tokens.
        """
        text = text.strip()
        if not text:
            return
        if self._fits(text):
            yield text
            return
        cut = _middle(text)
        yield from self._fitting(text[:cut])
        yield from self._fitting(text[cut:])

    def _fits(self, text: str) -> bool:
        if len(text.encode()) > self._max_bytes:
            return False
        tokens = self._embedder.count_tokens(self._embedder.settings.text_prefix + text)
        return tokens <= self._settings.max_tokens or len(text) == 1


def _middle(text: str) -> int:
    """Where to cut a text in two: after the last space before its middle, if there is one in the quarter before."""
    middle = len(text) // 2
    space = text.rfind(" ", middle // 2, middle)
    return space + 1 if space > 0 else middle


def _tail(pieces: list[tuple[str, int]], allowed: int) -> list[tuple[str, int]]:
    """The last pieces that are together within the allowed tokens; never all of them."""
    start, total = len(pieces), 0
    while start > 1 and total + pieces[start - 1][1] <= allowed:
        start -= 1
        total += pieces[start][1]
    return pieces[start:]
