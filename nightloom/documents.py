"""Documents: what names one, what it is made of, and when it counts as the same."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from nightloom.left_out import LeftOut
from nightloom.spool import Record

ID_HEX_DIGITS = 32

Scalar = str | int | float | bool


def document_id(uri: str) -> str:
    """The id of the document with this URI: 32 hex digits, so that it never needs quoting in a filter."""
    return hashlib.sha256(uri.encode("utf-8", "surrogateescape")).hexdigest()[:ID_HEX_DIGITS]


def version_of(content: str, fingerprint: str) -> str:
    """The version of a document: 32 hex digits of its content's hash and the fingerprint."""
    return hashlib.sha256(f"{content}\n{fingerprint}".encode()).hexdigest()[:ID_HEX_DIGITS]


def node_id(document: str, position: int) -> str:
    """The primary key of a node."""
    return f"{document}-{position}"


@dataclass(frozen=True, slots=True)
class Span:
    """Where a document lies inside a file that holds many: bytes, and the names of its fields."""

    offset: int
    length: int
    line: int
    title_field: str
    text_field: str


class DocumentRef:
    """A document as a source lists it: enough to fetch, read and compare it, without its text.

    A listing may have millions: what can be told from something else is not held twice.

    Attributes:
        uri: Its name everywhere, the same on every machine.
        source: Label of the source.
        path: The file that holds its bytes; None when there is nothing to read.
        size_bytes: Of its bytes, for dealing out shards.
        media_type: As the source declares it, or "" to go by the file's name.
        validator: What the source gave for a conditional request tomorrow; "" for none.
        span: For one document of many in a file.
        metadata: What users can filter on beside what every document has, such as the other fields of a row; neither
            embedded nor hashed.
    """

    __slots__ = (
        "_content",
        "_item",
        "media_type",
        "metadata",
        "path",
        "size_bytes",
        "source",
        "span",
        "uri",
        "validator",
    )

    def __init__(
        self,
        uri: str,
        item: str,
        source: str,
        content: str | None,
        path: Path | None,
        size_bytes: int,
        media_type: str = "",
        validator: str = "",
        span: Span | None = None,
        metadata: tuple[tuple[str, Scalar], ...] = (),
    ) -> None:
        """Take what a source says: the attributes, and `item` and `content`, which see."""
        self.uri = uri
        self.source = source
        self.path = path
        self.size_bytes = size_bytes
        self.media_type = media_type
        self.validator = validator
        self.span = span
        self.metadata = metadata
        # Mostly the end of the URI, and hex digits: then it is where it begins, and half as many bytes.
        self._item: int | str = len(uri) - len(item) if uri.endswith(item) else item
        self._content: bytes | str | None = _packed(content)

    @property
    def id(self) -> str:
        """The document id."""
        return document_id(self.uri)

    @property
    def item(self) -> str:
        """Its id in the source, as judgements may name it."""
        return self.uri[self._item :] if isinstance(self._item, int) else self._item

    @property
    def content(self) -> str | None:
        """sha256 of what the embedding depends on, hex; None when the source says "as it was" (HTTP 304)."""
        return self._content.hex() if isinstance(self._content, bytes) else self._content

    def record(self) -> Record:
        """All of it, for a spool."""
        span = self.span
        return (
            self.uri,
            self._item,
            self.source,
            self._content,
            None if self.path is None else str(self.path),
            self.size_bytes,
            self.media_type,
            self.validator,
            None if span is None else (span.offset, span.length, span.line, span.title_field, span.text_field),
            self.metadata,
        )

    @classmethod
    def of_record(cls, record: Record) -> "DocumentRef":
        """The document that a record is."""
        made = cls.__new__(cls)
        made.uri, made._item, made.source, made._content, path, *others = record  # noqa: SLF001  its own
        made.size_bytes, made.media_type, made.validator, span, made.metadata = others
        made.path = None if path is None else _path(path)
        made.span = None if span is None else Span(*span)
        return made

    def __eq__(self, other: object) -> bool:
        """Whether it says the same of the same document."""
        if not isinstance(other, DocumentRef):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self.__slots__)

    def __hash__(self) -> int:
        """Of its name."""
        return hash(self.uri)

    def __repr__(self) -> str:
        """Its name, for messages of tests."""
        return f"DocumentRef({self.uri!r})"


@lru_cache(maxsize=1)
def _path(path: str) -> Path:
    """A path; the documents of a file follow one another."""
    return Path(path)


def _packed(digits: str | None) -> bytes | str | None:
    """Hex digits as bytes; anything else as it is."""
    try:
        found = bytes.fromhex(digits or "")
    except ValueError:
        return digits
    return found if digits and found.hex() == digits else digits


@dataclass(frozen=True, slots=True)
class Place:
    """Where a piece of a text comes from; it ends where the next place begins, or with the text.

    Attributes:
        start: Offset in the text, in characters.
        headings: Of the section that it is in, the outermost first.
        page: From 1, where the document has pages.
    """

    start: int
    headings: tuple[str, ...] = ()
    page: int | None = None


@dataclass(frozen=True, slots=True)
class Document:
    """A document that has been read: its text (title first, where it has one) as it will be split.

    Attributes:
        places: In order of their starts; what comes before the first has neither heading nor page.
        wholes: Pieces of the text, as pairs of start and end and in order, that stay in one node where they fit: code
            blocks, tables.
        metadata: Of every node, safe to store: see `nightloom.metadata`.
        notes: What was done to it so that it could be taken, in words for the run report.
    """

    ref: DocumentRef
    title: str
    text: str
    places: tuple[Place, ...] = ()
    wholes: tuple[tuple[int, int], ...] = ()
    metadata: Mapping[str, Scalar] = field(default_factory=dict)
    notes: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A document that could not be taken, with the reason in words."""

    uri: str
    item: str
    reason: str
    source: str = ""

    @property
    def id(self) -> str:
        """The document id."""
        return document_id(self.uri)


@dataclass(frozen=True, slots=True)
class Listing:
    """What a source has tonight.

    Attributes:
        left_out: What its rules leave out, such as `include`.
    """

    documents: Sequence[DocumentRef]
    quarantined: tuple[Quarantined, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
