"""Sources: where documents come from, and how they get into a listing.

`take` lists a source and fetches what is not on this disk. What cannot be taken tonight is quarantined, which is not
the same as gone; what is as the index has it is not fetched again.
"""

import asyncio
from collections.abc import Mapping
from pathlib import Path

from nightloom.corpus import Corpus, SourceSettings
from nightloom.documents import Listing
from nightloom.errors import SourceUnavailable
from nightloom.sources.folder import hash_file, list_path
from nightloom.sources.jsonl import jsonl_content, parse_jsonl_row
from nightloom.sources.listing import listing_of, one_listing
from nightloom.sources.rows import list_rows
from nightloom.working_folder import working_folder

__all__ = [
    "document_names",
    "hash_file",
    "jsonl_content",
    "list_source",
    "listing_of",
    "one_listing",
    "parse_jsonl_row",
    "reach",
    "take",
    "unknown_before_a_night",
]


async def take(source: SourceSettings, folder: Path, validators: Mapping[str, str]) -> Listing:
    """List a source, and fetch into the folder what does not lie on this disk.

    Args:
        source: It.
        folder: For tonight's files; their names are hashes.
        validators: What sources gave for a conditional request, by document id, for what the index holds already.

    Returns:
        Its documents. Those that are as the index has them have no content, and nothing of them was fetched.

    Raises:
        SourceUnavailable: It cannot be listed now, or the folder cannot be written to; a retry can mend it.
        SourceError: It cannot be listed as the corpus file describes it.
    """
    try:
        if source.file:
            return await asyncio.to_thread(list_source, source, folder)
        if source.sitemap:
            from nightloom.sources.sitemap import take_sitemap  # noqa: PLC0415  only its users pay for its imports

            return await take_sitemap(source, folder, validators)
        if source.store:
            from nightloom.sources.store import take_store  # noqa: PLC0415  likewise

            return await take_store(source, folder, validators)
        if source.git:
            from nightloom.sources.git import take_git  # noqa: PLC0415  likewise

            return await take_git(source, folder, validators)
        from nightloom.sources.urls import take_urls  # noqa: PLC0415  likewise

        return await take_urls(source, folder, validators)
    except OSError as error:
        raise SourceUnavailable(f"source {source.label!r}: {error.filename or folder}: {error.strerror}") from error


def list_source(source: SourceSettings, folder: Path | None = None) -> Listing:
    """List a source on disk, reading every byte once to hash it.

    Args:
        source: A path, or rows.
        folder: For the rows of files that are not plain JSONL.

    Raises:
        SourceError: The file or folder is missing or cannot be read.
    """
    if source.rows_file:
        return list_rows(source, source.rows_file, folder)
    if source.path is None:
        raise TypeError("a source that is not on disk is taken, not listed")
    return list_path(source, source.path)


def document_names(corpus: Corpus) -> list[tuple[str, str]]:
    """URI and id in its source of every document that can be known before a night, quarantined ones included.

    Raises:
        SourceError: As `list_source`.
    """
    with working_folder() as folder:
        listings = [list_source(source, folder) for source in corpus.sources if source.file]
    names = [(ref.uri, ref.item) for listing in listings for ref in listing.documents]
    names += [(entry.uri, entry.item) for listing in listings for entry in listing.quarantined]
    names += [name for source in corpus.sources if source.git_folder for name in _git_names(source)]
    return names + [(url, url) for source in corpus.sources for url in source.addresses]


def _git_names(source: SourceSettings) -> list[tuple[str, str]]:
    from nightloom.sources.git import git_names  # noqa: PLC0415  only its users pay for its imports

    return git_names(source)


def unknown_before_a_night(corpus: Corpus) -> list[str]:
    """Labels of the sources whose documents only a night gets to know."""
    known = [source for source in corpus.sources if source.file or source.addresses or source.git_folder]
    return [source.label for source in corpus.sources if source not in known]


async def reach(source: SourceSettings) -> str:
    """Ask a source that is not on this disk whether it is there, and fetch no document.

    Returns:
        What it has, and what its rules leave out, in words.

    Raises:
        SourceUnavailable: It does not answer now.
        SourceError: It is not as the corpus file describes it.
    """
    if source.sitemap:
        from nightloom.sources.sitemap import count_pages  # noqa: PLC0415  only its users pay for its imports

        with working_folder() as folder:
            count, left_out = await count_pages(source, folder)
        return "; ".join([f"{count} pages in {source.label}", *map(str, left_out)])
    if source.store:
        from nightloom.sources.store import count_objects  # noqa: PLC0415  likewise

        count, left_out = await asyncio.to_thread(count_objects, source)
        return "; ".join([f"{count} objects in {source.label}", *map(str, left_out)])
    if source.git_folder:
        from nightloom.sources.git import git_files  # noqa: PLC0415  likewise

        files, left_out = await asyncio.to_thread(git_files, source)
        return "; ".join([f"{len(files)} files in {source.label}", *map(str, left_out)])
    if source.git:
        from nightloom.sources.git import check_git  # noqa: PLC0415  likewise

        return f"commit {(await asyncio.to_thread(check_git, source))[:12]} of {source.label}"
    from nightloom.sources.urls import answers  # noqa: PLC0415  likewise

    await answers(source)
    return f"{len(source.addresses)} URLs answer"
