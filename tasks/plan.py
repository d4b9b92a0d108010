"""Plan: what is live, and what tonight has to do."""

from nightloom.documents import Listing
from nightloom.night import Night
from nightloom.planning import Shard
from nightloom.tasks.policy import step


@step("read", run_name="read the index {night.corpus.name}", timeout_seconds=3600)
async def read_state(night: Night) -> None:
    """Read what is live, and what an earlier night left half-built."""
    with night.progress.stage("plan"):
        await night.read_state()


@step("plan", run_name="plan {night.corpus.name}", timeout_seconds=3600)
async def plan(night: Night, listing: Listing) -> tuple[Shard, ...]:
    """Compare the listing with the index, and deal the work out into shards.

    Args:
        night: The night.
        listing: Given quoted, as Prefect would walk through every document of it.
    """
    with night.progress.stage("plan"):
        return await night.make_plan(listing)
