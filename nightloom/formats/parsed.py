"""What comes of a file, whatever its format."""

from dataclasses import dataclass

from nightloom.documents import Place, Scalar


@dataclass(frozen=True, slots=True)
class Parsed:
    """A file as text.

    Attributes:
        title: On one line, "" where there is none.
        text: All that is to be indexed: never only white space; no NUL, no lone surrogate.
        places: Sections and pages of the text, in order of their starts.
        wholes: Code blocks and tables, as pairs of start and end in the text; none overlaps another.
        metadata: What it says of itself, as names and values to filter on.
        notes: What was done to it so that it could be taken, in words for the run report.
    """

    title: str
    text: str
    places: tuple[Place, ...] = ()
    wholes: tuple[tuple[int, int], ...] = ()
    metadata: tuple[tuple[str, Scalar], ...] = ()
    notes: frozenset[str] = frozenset()
