"""Listing the sources on disk: folders, files, and JSONL files of many documents."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pathspec import GitIgnoreSpec

from nightloom.corpus import Corpus, SourceSettings
from nightloom.documents import DocumentRef, Listing, Quarantined, Span
from nightloom.errors import SourceError

READ_BYTES = 1 << 20
MEND = "under [[sources]] in the corpus file, mend its"


def list_source(source: SourceSettings) -> Listing:
    """List a source on disk, reading every byte once to hash it.

    Raises:
        SourceError: The file or folder is missing or unreadable, or a JSONL line is malformed (its number is named).
    """
    if source.jsonl is not None:
        return _list_jsonl(source, source.jsonl)
    if source.path is None:
        raise TypeError("a source by HTTP is listed by nightloom.download")
    if source.path.is_dir():
        return _list_folder(source, source.path)
    return _list_file(source, source.path)


def one_listing(listings: list[Listing], sources: Iterable[SourceSettings] = ()) -> Listing:
    """All sources as one listing, in order of URI.

    Args:
        listings: One for each source.
        sources: They, for the message where they hold nothing.

    Raises:
        SourceError: No document at all, or two with the same URI.
    """
    documents: dict[str, DocumentRef] = {}
    for listing in listings:
        for document in listing.documents:
            other = documents.setdefault(document.uri, document)
            if other is not document:
                raise SourceError(_twice(document, other))
    quarantined = tuple(item for listing in listings for item in listing.quarantined)
    if not documents and not quarantined:
        places = ", ".join(str(source.path or source.jsonl or source.label) for source in sources) or "any source"
        raise SourceError(
            f"no document found in {places}; check path, include and exclude under [[sources]] in the corpus file"
        )
    return Listing(tuple(documents[uri] for uri in sorted(documents)), quarantined)


def document_names(corpus: Corpus) -> list[tuple[str, str]]:
    """URI and id in its source of every document that the corpus has, those that cannot be taken included.

    Raises:
        SourceError: As `list_source`.
    """
    listings = [list_source(source) for source in corpus.sources if not source.addresses]
    names = [(ref.uri, ref.item) for listing in listings for ref in listing.documents]
    names += [(entry.uri, entry.item) for listing in listings for entry in listing.quarantined]
    return names + [(url, url) for source in corpus.sources for url in source.addresses]


def _twice(document: DocumentRef, other: DocumentRef) -> str:
    where = " and ".join(
        f"{ref.path}{f' line {ref.span.line}' if ref.span else ''}" for ref in (other, document) if ref.path
    )
    one_file = document.span is not None and document.path == other.path
    cure = "give each line an id of its own" if one_file else "exclude one, or give one of the sources another name"
    return f"{document.uri}: the same document twice ({where or 'the same URL'}); {cure}"


def _list_folder(source: SourceSettings, folder: Path) -> Listing:
    take = GitIgnoreSpec.from_lines(source.include)
    leave = GitIgnoreSpec.from_lines(source.exclude)
    entries = [
        _hashed(source, file, f"{source.name}/{relative}" if source.name else relative, relative)
        for file, relative in _walk(folder)
        if take.match_file(_one_line(relative)) and not leave.match_file(_one_line(relative))
    ]
    return listing_of(entries)


def _one_line(name: str) -> str:
    """A name as globs can match it: their patterns end at a line break."""
    return name.replace("\n", "?")


def _list_file(source: SourceSettings, file: Path) -> Listing:
    if not file.exists():
        raise SourceError(f"source {source.label!r}: {file}: there is no such file or folder; {MEND} path")
    if not file.is_file():
        raise SourceError(f"source {source.label!r}: {file}: is neither a file nor a folder; {MEND} path")
    uri = source.name or file.name
    return listing_of([_hashed(source, file, uri, file.name)])


def listing_of(entries: Iterable[DocumentRef | Quarantined]) -> Listing:
    """Documents and those that could not be taken, each in their place."""
    found = tuple(entries)
    return Listing(
        tuple(entry for entry in found if isinstance(entry, DocumentRef)),
        tuple(entry for entry in found if isinstance(entry, Quarantined)),
    )


def _walk(folder: Path) -> Iterator[tuple[Path, str]]:
    """Every regular file below a folder with its POSIX path relative to it; symbolic links are not followed."""

    def refuse(error: OSError) -> None:
        raise SourceError(f"{error.filename}: cannot be listed: {error.strerror}") from error

    for parent, folders, files in os.walk(folder, onerror=refuse):
        folders.sort()
        for name in sorted(files):
            file = Path(parent, name)
            if file.is_file() and not file.is_symlink():
                yield file, file.relative_to(folder).as_posix()


def _hashed(source: SourceSettings, file: Path, uri: str, item: str) -> DocumentRef | Quarantined:
    try:
        uri.encode()
        content, size_bytes = hash_file(file)
    except UnicodeEncodeError:
        shown = uri.encode("utf-8", "backslashreplace").decode()
        return Quarantined(shown, shown, "its name is not valid UTF-8; rename the file", source.label)
    except OSError as error:
        return Quarantined(uri, item, f"cannot be read: {error.strerror}", source.label)
    return DocumentRef(uri, item, source.label, content, file, size_bytes)


def hash_file(file: Path) -> tuple[str, int]:
    """sha256 of a file, hex, and its size in bytes, read in pieces of 1 MiB."""
    digest, size_bytes = hashlib.sha256(), 0
    with file.open("rb") as stream:
        while piece := stream.read(READ_BYTES):
            digest.update(piece)
            size_bytes += len(piece)
    return digest.hexdigest(), size_bytes


def _list_jsonl(source: SourceSettings, file: Path) -> Listing:
    try:
        stream = file.open("rb")
    except OSError as error:
        raise SourceError(f"source {source.label!r}: {file}: {error.strerror}; {MEND} jsonl") from None
    documents, offset = [], 0
    with stream:
        for number, line in enumerate(stream, 1):
            span = Span(offset, len(line), number, source.title_field, source.text_field)
            offset += len(line)
            if line.strip():
                documents.append(_jsonl_document(source, file, line, span))
    return Listing(tuple(documents))


def _jsonl_document(source: SourceSettings, file: Path, line: bytes, span: Span) -> DocumentRef:
    row = parse_jsonl_row(line, file, span.line)
    item = row.get(source.id_field)
    if isinstance(item, bool) or not isinstance(item, str | int) or item == "":
        raise SourceError(
            f"{file}: line {span.line}: no id in the field {source.id_field!r}; name the right one as id_field"
        )
    if not _is_text(str(item)):
        raise SourceError(
            f"{file}: line {span.line}: the id {item!r} holds a lone surrogate, which is no text; mend it"
        )
    content = jsonl_content(row, span, file)
    return DocumentRef(
        f"{source.name}#{item}", str(item), source.label, content, file, span.length, media_type="text/plain", span=span
    )


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def parse_jsonl_row(line: bytes, file: Path, number: int) -> dict[str, Any]:
    """One line of JSONL as an object.

    Raises:
        SourceError: Names file and line: not UTF-8, not JSON, or not an object.
    """
    try:
        row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
    except (ValueError, RecursionError) as error:
        # Its own text counts lines from this one.
        why = f"{error.msg} at character {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else error
        raise SourceError(f"{file}: line {number}: not a JSON object: {why}; mend or remove the line") from None
    if not isinstance(row, dict):
        raise SourceError(f"{file}: line {number}: not a JSON object but {type(row).__name__}; mend or remove the line")
    return row


def jsonl_content(row: dict[str, Any], span: Span, file: Path) -> str:
    """sha256 over title and text of a row: what the embedding depends on, and nothing else of the line."""
    title, text = (_string(row, field, file, span.line) for field in (span.title_field, span.text_field))
    return hashlib.sha256(json.dumps([title, text]).encode()).hexdigest()


def _string(row: dict[str, Any], field: str, file: Path, number: int) -> str:
    value = row.get(field)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise SourceError(
            f"{file}: line {number}: field {field!r} holds {type(value).__name__}, not a string;"
            " mend the line, or name another field under [[sources]] in the corpus file"
        )
    return value
