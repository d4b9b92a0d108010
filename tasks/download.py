"""Download: list every source, and fetch what does not lie on this disk."""

import asyncio
from collections.abc import Sequence

from prefect.logging import get_run_logger

from nightloom.corpus import SourceSettings
from nightloom.documents import Listing
from nightloom.night import Night
from nightloom.sources import one_listing, take
from nightloom.tasks.plan import read_state
from nightloom.tasks.policy import step

SOURCE_SECONDS = 6 * 3600
"""Limit for one attempt at a source; each of its documents has limits of its own."""


async def read_and_download(night: Night) -> Listing:
    """Read the index, and list and fetch every source.

    What lies on this disk is listed while Milvus is read; the other sources are asked for what is not as the index has
    it. A document that cannot be fetched tonight is quarantined, which is not the same as gone.

    Raises:
        SourceUnavailable: A source could not be listed, however often it was asked.
        SourceError: A source is not as the corpus file describes it, a document is listed twice, or there is none.
        NightloomError: The index could not be read; this comes before what may be wrong with a source.
    """
    sources = night.corpus.sources
    on_disk, elsewhere = (tuple(one for one in sources if bool(one.file) is wanted) for wanted in (True, False))
    # Both end, also where one fails: what is listed may be written to a folder that goes with the night.
    both = await asyncio.gather(read_state(night), _download(night, on_disk), return_exceptions=True)
    for ended in both:
        if isinstance(ended, BaseException):
            raise ended
    _, listed = both
    fetched = await _download(night, elsewhere)
    with night.progress.stage("download"):
        return one_listing([*listed, *fetched], sources)


async def _download(night: Night, sources: Sequence[SourceSettings]) -> list[Listing]:
    with night.progress.stage("download"):
        return [await download(night, source) for source in sources]


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
