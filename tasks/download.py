"""Download: list every source, and fetch what does not lie on this disk."""

from prefect.logging import get_run_logger

from nightloom.corpus import SourceSettings
from nightloom.documents import Listing
from nightloom.night import Night
from nightloom.sources import one_listing, take
from tasks.policy import step

SOURCE_SECONDS = 6 * 3600
"""Limit for one attempt at a source; each of its documents has limits of its own."""


async def download_all(night: Night) -> Listing:
    """List and fetch every source.

    A document that cannot be fetched tonight is quarantined, which is not the same as gone.

    Raises:
        SourceUnavailable: A source could not be listed, however often it was asked.
        SourceError: A source is not as the corpus file describes it, a document is listed twice, or there is none.
    """
    with night.progress.stage("download"):
        listings = [await download(night, source) for source in night.corpus.sources]
        return one_listing(listings, night.corpus.sources)


@step("download", run_name="download {source.label}", timeout_seconds=SOURCE_SECONDS)
async def download(night: Night, source: SourceSettings) -> Listing:
    """List one source and fetch its documents, or learn that they are as they were."""
    listing = await take(source, night.folder, night.validators())
    get_run_logger().info(
        "%s: %d documents, %d of them not fetched as they are unchanged, %d quarantined",
        source.label,
        len(listing.documents),
        sum(ref.content is None for ref in listing.documents),
        len(listing.quarantined),
    )
    return listing
