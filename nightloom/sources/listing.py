"""What all kinds of sources have in common: how their documents become a listing."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from itertools import chain

from pathspec import GitIgnoreSpec

from nightloom.corpus import SourceSettings
from nightloom.document_table import DocumentTable
from nightloom.documents import DocumentRef, Listing, Quarantined, Scalar
from nightloom.errors import SourceError
from nightloom.left_out import LeftOutCounter, together

LINKS = "the rule that symbolic links are not followed"
MEND = "under [[sources]] in the corpus file, mend its"


def listing_of(entries: Iterable[DocumentRef | Quarantined], left_out: LeftOutCounter | None = None) -> Listing:
    """Documents and those that could not be taken, each in their place.

    Args:
        entries: Either.
        left_out: What counts the rest, read once the entries are.
    """
    documents, quarantined = DocumentTable(), list[Quarantined]()
    for entry in entries:
        if isinstance(entry, Quarantined):
            quarantined.append(entry)
        else:
            documents.add(entry)
    return Listing(documents, tuple(quarantined), left_out.found if left_out else ())


def metadata_of(
    source: SourceSettings, fields: Mapping[str, Scalar] | None = None, modified: date | None = None
) -> tuple[tuple[str, Scalar], ...]:
    """Metadata of a document: its own fields, then `modified` as an ISO date and the tags of its source.

    The tags are one string, joined by spaces; they come over a field of that name.
    """
    found = dict(fields or {})
    if modified:
        found["modified"] = modified.isoformat()
    if source.tags:
        found["tags"] = " ".join(source.tags)
    return tuple(found.items())


class Selection:
    """What `include` and `exclude` of a source leave of its paths.

    Attributes:
        left_out: Counts what they do not, and whatever else the source leaves out.
    """

    def __init__(self, source: SourceSettings) -> None:
        """Read the globs once."""
        self._take = GitIgnoreSpec.from_lines(source.include)
        self._leave = GitIgnoreSpec.from_lines(source.exclude)
        self.left_out = LeftOutCounter()

    def takes(self, path: str) -> bool:
        """Whether a POSIX path, relative to the source, is taken; one that is not is counted."""
        line = path.replace("\n", "?")  # globs end at a line break
        rule = "include" if not self._take.match_file(line) else "exclude" if self._leave.match_file(line) else ""
        if rule:
            self.left_out.file(rule, path)
        return not rule


def not_text(name: str) -> str | None:
    """How to show a name that is no valid Unicode; None for one that is."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return name.encode("utf-8", "backslashreplace").decode()
    return None


def one_listing(listings: list[Listing], sources: Iterable[SourceSettings] = ()) -> Listing:
    """All sources as one listing, in order of URI.

    Args:
        listings: One for each source.
        sources: They, for the message where they hold nothing.

    Raises:
        SourceError: No document at all, or two with the same URI.
    """
    documents = _joined([listing.documents for listing in listings]).by_uri()
    for first, second in documents.twins():
        raise SourceError(_twice(documents[second], documents[first]))
    quarantined = tuple(item for listing in listings for item in listing.quarantined)
    left_out = together(listing.left_out for listing in listings)
    if not documents and not quarantined:
        places = ", ".join(str(source.file or source.label) for source in sources) or "any source"
        raise SourceError(
            f"no document found in {places}{''.join(f'; {part}' for part in left_out)};"
            " check path, include and exclude under [[sources]] in the corpus file"
        )
    return Listing(documents, quarantined, left_out)


def _joined(listed: list[Sequence[DocumentRef]]) -> DocumentTable:
    """The documents of all sources; those of the only one are not written again."""
    if len(listed) == 1 and isinstance(listed[0], DocumentTable):
        return listed[0]
    return DocumentTable(chain.from_iterable(listed))


def _twice(document: DocumentRef, other: DocumentRef) -> str:
    where = " and ".join(
        f"{ref.path}{f' line {ref.span.line}' if ref.span else ''}" for ref in (other, document) if ref.path
    )
    return (
        f"{document.uri}: the same document twice ({where or 'the same URL'});"
        " exclude one, or give one of the sources another name"
    )
