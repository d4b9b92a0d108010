"""Load: read and split the documents of a shard."""

import asyncio

from prefect.logging import get_run_logger

from nightloom.night import Night, ShardNodes
from nightloom.planning import Shard
from nightloom.tasks.policy import step


@step("load", run_name="load {shard.label}", timeout_seconds=1800)
async def load(night: Night, shard: Shard) -> ShardNodes:
    """Read and split a shard; documents that cannot be taken are quarantined, and the others go on."""
    with night.progress.stage("load"):
        work = await asyncio.to_thread(night.load, shard)
    first, last = (shard.documents[at].ref.uri for at in (0, -1))
    get_run_logger().debug("%r to %r: %d nodes", first, last, len(work.nodes))  # a night may have thousands
    for entry in work.quarantined:
        get_run_logger().warning("quarantined %r: %s", entry.uri, entry.reason)
    return work
