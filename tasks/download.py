"""Download: list every source; fetch what comes by HTTP."""

import asyncio

import httpx
from prefect.logging import get_run_logger

from nightloom.concurrency import each
from nightloom.corpus import SourceSettings
from nightloom.documents import DocumentRef, Listing, Quarantined, document_id
from nightloom.download import LIMITS, fetch, http_client
from nightloom.errors import DocumentError, SourceUnavailable
from nightloom.night import Night
from nightloom.sources import list_source, listing_of, one_listing
from tasks.policy import step

FETCHES_AT_ONCE = 8


async def download_all(night: Night) -> Listing:
    """List and fetch every source.

    A document that cannot be fetched tonight is quarantined, which is not the same as gone.

    Raises:
        SourceError: A source on disk cannot be listed, lists a document twice, or there is no document at all.
    """
    with night.progress.stage("download"):
        listings = [await download_source(night, source) for source in night.corpus.sources]
        return one_listing(listings, night.corpus.sources)


async def download_source(night: Night, source: SourceSettings) -> Listing:
    """List one source; by HTTP, one task for each URL."""
    if not source.addresses:
        return await list_on_disk(source)
    async with http_client() as client:
        entries = await each(
            source.addresses, lambda url: _fetch_or_quarantine(night, source, client, url), at_once=FETCHES_AT_ONCE
        )
    return listing_of(entries)


async def _fetch_or_quarantine(
    night: Night, source: SourceSettings, client: httpx.AsyncClient, url: str
) -> DocumentRef | Quarantined:
    try:
        return await fetch_document(night, source, client, url)
    except (SourceUnavailable, DocumentError) as error:
        return Quarantined(url, url, str(error), source.label)


@step("download", run_name="download {source.label}", timeout_seconds=3600)
async def list_on_disk(source: SourceSettings) -> Listing:
    """List a source on disk and hash its documents."""
    listing = await asyncio.to_thread(list_source, source)
    get_run_logger().info("%s: %d documents", source.label, len(listing.documents) + len(listing.quarantined))
    return listing


@step("download", run_name="download {url}", timeout_seconds=LIMITS.total_seconds + 60)
async def fetch_document(night: Night, source: SourceSettings, client: httpx.AsyncClient, url: str) -> DocumentRef:
    """Fetch one document by HTTP, or learn that it is as it was."""
    validator = night.validators().get(document_id(url), "")
    ref = await fetch(client, url, source=source.label, folder=night.folder, validator=validator)
    get_run_logger().info("%s: %s", url, "not modified" if ref.content is None else f"{ref.size_bytes} bytes")
    return ref
