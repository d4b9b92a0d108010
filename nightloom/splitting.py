"""From documents to nodes: pieces that the embedder reads whole, in order, covering every word of the text."""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

from nightloom.corpus import SplittingSettings
from nightloom.documents import Document, Place, node_id
from nightloom.embedding import Embedder
from nightloom.errors import DocumentError, EmbedderError
from nightloom.sentences import sentence_splitter
from nightloom.tokenizing import SPACES
from nightloom.vectors import Tokens

SPLITTER_VERSION = 3
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
        place: Where in its document it begins: offset, headings, page.
        tokens: Of its text with the prefix, as the embedder reads them; None where nobody has measured it.
    """

    id: str
    document: Document
    version: str
    position: int
    total: int
    text: str
    place: Place
    tokens: Tokens | None = field(default=None, compare=False, repr=False)


class Section(NamedTuple):
    """A piece of a text between two headings, in characters."""

    start: int
    end: int
    headings: tuple[str, ...]


class Piece(NamedTuple):
    """A piece of a text, and where it begins in it.

    Attributes:
        tokens: How many there are, without special ones.
        parts: The tokens of its sentences, as far as there is white space between them; else none.
    """

    at: int
    text: str
    tokens: int
    parts: tuple[Tokens, ...] = ()


class Splitter:
    """Splits by headings, then by sentences, measured with the embedder's own tokenizer."""

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
        self._to_sentences: Callable[[str], list[str]] | None = None

    def split(self, document: Document, version: str) -> list[Node]:
        """The nodes of a document, at least one.

        Every character of its text that is not white space is in a node, and no node is cut off by the embedder. A node
        lies in one section, and holds code blocks and tables whole where they fit.

        Raises:
            DocumentError: More nodes than a document may have.
        """
        found: list[tuple[str, Place, Tokens]] = []
        for section in sections(document):
            for piece in self._pack(self._pieces(document, section)):
                found += [
                    (part.text, place_of(document, part, section), tokens) for part, tokens in self._fitting(piece)
                ]
            if len(found) > self._settings.max_nodes_per_document:
                raise DocumentError(
                    f"gives more nodes than splitting.max_nodes_per_document = {self._settings.max_nodes_per_document};"
                    " raise it, or store the document in parts"
                )
        key, total = document.ref.id, len(found)
        return [
            Node(node_id(key, at), document, version, at, total, text, place, tokens)
            for at, (text, place, tokens) in enumerate(found)
        ]

    def _pieces(self, document: Document, section: Section) -> Iterator[Piece]:
        """Sentences and wholes of a section, and lines or halves of those that are too long; joined, they are its text.

        LlamaIndex's own SentenceSplitter goes one call deeper, and measures all the rest again, for every sentence
        that has no space behind it: 16 kB of JSON took it 30 s.
        """
        at = section.start
        first = bisect_right(document.wholes, at, key=lambda whole: whole[1])
        for start, end in document.wholes[first:]:
            if start >= section.end:
                break
            begins, ends = max(start, at), min(end, section.end)
            if begins < ends:
                yield from self._sentences(at, document.text[at:begins])
                yield from self._shortened(begins, document.text[begins:ends])
                at = ends
        yield from self._sentences(at, document.text[at : section.end])

    def _sentences(self, at: int, text: str) -> Iterator[Piece]:
        if not text:
            return
        if self._to_sentences is None:
            self._to_sentences = sentence_splitter()
        for sentence in self._to_sentences(text) or [text]:  # of nothing but white space it makes nothing
            yield from self._shortened(at, sentence)
            at += len(sentence)

    def _shortened(self, at: int, text: str) -> Iterator[Piece]:
        tokens = self._embedder.tokens(text)
        count = len(tokens) - self._embedder.special_tokens
        if (count <= self._room and len(text.encode()) <= self._max_bytes) or len(text) == 1:
            yield Piece(at, text, count, (tokens,))
            return
        lines = text.splitlines(keepends=True)
        cut = _middle(text)
        for part in lines if len(lines) > 1 else (text[:cut], text[cut:]):
            yield from self._shortened(at, part)
            at += len(part)

    @cached_property
    def _room(self) -> int:
        """Tokens of a node for its own text and the special tokens."""
        return self._settings.max_tokens - self._embedder.count_tokens(self._embedder.settings.text_prefix)

    def _pack(self, pieces: Iterable[Piece]) -> Iterator[Piece]:
        """Pieces together for as long as they fit; each node begins with the last of the one before, within overlap."""
        node: list[Piece] = []
        held = 0
        for piece in pieces:
            if node and held + piece.tokens > self._room:
                yield _joined(node)
                node = _tail(node, min(self._settings.overlap_tokens, self._room - piece.tokens))
                held = sum(part.tokens for part in node)
            node.append(piece)
            held += piece.tokens
        if node:
            yield _joined(node)

    def _fitting(self, piece: Piece) -> Iterator[tuple[Piece, Tokens]]:
        """A piece without white space around it, or halves of it until each fits; each with the tokens to embed.

        Tokens of a whole can be more than the sum of its parts' tokens.
        """
        text = piece.text.strip()
        if not text:
            return
        at = piece.at + len(piece.text) - len(piece.text.lstrip())
        tokens = self._tokens(text, piece.parts)
        fits = len(text.encode()) <= self._max_bytes and len(tokens) <= self._settings.max_tokens
        if fits or len(text) == 1:
            yield Piece(at, text, piece.tokens), tokens
            return
        cut = _middle(text)
        yield from self._fitting(Piece(at, text[:cut], piece.tokens))
        yield from self._fitting(Piece(at + cut, text[cut:], piece.tokens))

    def _tokens(self, text: str, parts: Sequence[Tokens]) -> Tokens:
        """Of a node with the prefix: those of its sentences, where that is the same, so that nothing is read twice."""
        prefix = self._embedder.settings.text_prefix
        joined = self._embedder.joined_tokens(parts) if parts and not prefix else None
        return self._embedder.tokens(prefix + text) if joined is None else joined


def sections(document: Document) -> list[Section]:
    """A document's text in pieces that have one path of headings each; together they are the text.

    A heading that nothing but its own subsections follow begins the first of them.
    """
    starts: list[tuple[int, tuple[str, ...]]] = [(0, ())]
    for place in document.places:
        start, headings = starts[-1]
        if place.headings == headings:
            continue
        alone = "\n" not in document.text[start : place.start].strip()
        if not document.text[start : place.start].strip() or (alone and place.headings[: len(headings)] == headings):
            starts[-1] = (start, place.headings)
        else:
            starts.append((place.start, place.headings))
    ends = [start for start, _ in starts[1:]] + [len(document.text)]
    return [Section(start, end, headings) for (start, headings), end in zip(starts, ends, strict=True)]


def place_of(document: Document, piece: Piece, section: Section) -> Place:
    """Where a piece of a section comes from."""
    before = bisect_right(document.places, piece.at, key=lambda place: place.start)
    page = document.places[before - 1].page if before else None
    return Place(piece.at, section.headings, page)


def _joined(pieces: list[Piece]) -> Piece:
    are_apart = all(one.text[-1] in SPACES or other.text[0] in SPACES for one, other in pairwise(pieces))
    return Piece(
        pieces[0].at,
        "".join(piece.text for piece in pieces),
        sum(piece.tokens for piece in pieces),
        tuple(part for piece in pieces for part in piece.parts) if are_apart else (),
    )


def _middle(text: str) -> int:
    """Where to cut a text in two: after the last space before its middle, if there is one in the quarter before."""
    middle = len(text) // 2
    space = text.rfind(" ", middle // 2, middle)
    return space + 1 if space > 0 else middle


def _tail(pieces: list[Piece], allowed: int) -> list[Piece]:
    """The last pieces that are together within the allowed tokens; never all of them."""
    start, total = len(pieces), 0
    while start > 1 and total + pieces[start - 1].tokens <= allowed:
        start -= 1
        total += pieces[start].tokens
    return pieces[start:]
