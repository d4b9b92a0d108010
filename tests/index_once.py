"""A night without Prefect around it: seconds less, for tests that need an index and no flow."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from nightloom.corpus import Corpus
from nightloom.night import Night, open_night
from nightloom.sources import one_listing, take


async def index_once(corpus: Corpus) -> None:
    """Index a corpus, and let readers see it."""
    async with indexed(corpus) as night:
        await night.promote()


@asynccontextmanager
async def indexed(corpus: Corpus) -> AsyncIterator[Night]:
    """A night that has indexed its corpus, and has still to promote it."""
    async with open_night(corpus, None) as night:
        await night.read_state()
        listings = [await take(source, night.folder, night.validators()) for source in corpus.sources]
        for shard in await night.make_plan(one_listing(listings, corpus.sources)):
            work = night.load(shard)
            night.count_shard(work, await night.insert(work, await night.embed(work)))
        await night.settle()
        await night.verify()
        yield night
