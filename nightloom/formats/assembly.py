"""A text put together piece by piece, which remembers headings, pages, code and tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nightloom.documents import Place, Scalar
from nightloom.errors import DocumentError
from nightloom.formats.parsed import Parsed

TITLE_CHARACTERS = 500
BLOCK_GAP = "\n\n"


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading inside a piece of text.

    Attributes:
        start: Where its section begins in the piece, in characters.
        level: From 1, the outermost.
        title: Its words.
    """

    start: int
    level: int
    title: str


class Assembly:
    """Pieces of one document's text, in order.

    Every method that adds text raises DocumentError where the whole grows over the limit or holds a lone surrogate.
    """

    def __init__(self, max_text_bytes: int) -> None:
        """Begin with no text, outside of any section and page."""
        self._max_text_bytes = max_text_bytes
        self._pieces: list[str] = []
        self._characters = 0
        self._bytes = 0
        self._path: list[Heading] = []
        self._page: int | None = None
        self._places: list[Place] = []
        self._wholes: list[tuple[int, int]] = []
        self._metadata: dict[str, Scalar] = {}
        self._notes: set[str] = set()

    @property
    def has_text(self) -> bool:
        """Whether any piece holds more than white space."""
        return any(piece.strip() for piece in self._pieces)

    def take_metadata(self, fields: Mapping[str, Scalar], note: str = "") -> None:
        """Keep what the document says of itself, and what was done about that, in words for the run report."""
        self._metadata |= fields
        self._notes |= {note} if note else set()

    def page(self, number: int) -> None:
        """What follows stands on this page."""
        self._page = number

    def enter(self, level: int, title: str) -> None:
        """What follows stands under this heading, whose words are not added."""
        title = _on_one_line(title)
        while self._path and self._path[-1].level >= level:
            self._path.pop()
        if title:
            self._path.append(Heading(self._characters, level, title))

    def heading(self, level: int, title: str) -> None:
        """Begin a section with its heading as a block."""
        self.enter(level, title)
        self.block(_on_one_line(title))

    def block(self, text: str, *, whole: bool = False, gap: str = BLOCK_GAP) -> None:
        """Add a paragraph, or code or a table that is to stay whole; white space around it goes."""
        text = text.strip("\n").rstrip() if whole else text.strip()
        if text.strip():
            self.piece(text, wholes=[(0, len(text))] if whole else (), gap=gap)

    def piece(
        self,
        text: str,
        *,
        headings: Sequence[Heading] = (),
        wholes: Sequence[tuple[int, int]] = (),
        gap: str = BLOCK_GAP,
    ) -> None:
        """Add text as it is, without NULs, with headings (in order) and wholes that lie in it.

        Args:
            text: Any; offsets count in it as it is without NULs.
            headings: Where sections begin in it.
            wholes: Pairs of start and end in it.
            gap: What parts it from what comes before it.
        """
        text = text.replace("\x00", "")
        if self._pieces:
            self._append(gap)
        base = self._characters
        self._append(text)
        self._place(base)
        for found in headings:
            self.enter(found.level, found.title)
            self._place(base + found.start)
        self._wholes.extend((base + start, base + end) for start, end in wholes if end > start)

    def parsed(self, title: str) -> Parsed:
        """What has been put together.

        Raises:
            DocumentError: It has no text.
        """
        if not self.has_text:
            raise DocumentError("empty: it has no text")
        title = _on_one_line(title).encode("utf-8", "replace").decode()
        return Parsed(
            title,
            "".join(self._pieces),
            tuple(self._places),
            tuple(self._wholes),
            tuple(self._metadata.items()),
            frozenset(self._notes),
        )

    def _append(self, text: str) -> None:
        try:
            self._bytes += len(text.encode())
        except UnicodeEncodeError:
            raise DocumentError("holds a lone surrogate, which is no text; mend it at the source") from None
        if self._bytes > self._max_text_bytes:
            raise DocumentError(
                f"more than {self._max_text_bytes:,} bytes of text, the limit for one document;"
                " divide it at the source, or raise reading.max_text_bytes"
            )
        self._pieces.append(text)
        self._characters += len(text)

    def _place(self, start: int) -> None:
        place = Place(start, tuple(heading.title for heading in self._path), self._page)
        last = self._places[-1] if self._places else Place(0)
        if (place.headings, place.page) == (last.headings, last.page):
            return
        if self._places and last.start == start:
            self._places.pop()
        self._places.append(place)


def _on_one_line(title: str) -> str:
    return " ".join(title.replace("\x00", "").split())[:TITLE_CHARACTERS]
