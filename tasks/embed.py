"""Embed: the nodes of a shard to vectors."""

from nightloom.night import Night, ShardNodes
from nightloom.tasks.policy import step


@step("embed", run_name="embed {work.label}", timeout_seconds=3600)
async def embed(night: Night, work: ShardNodes) -> ShardNodes:
    """Embed the nodes of a shard, and count the tokens that the model would not read.

    Returns:
        The shard, which holds its vectors now: the graph of the run leads on from here.
    """
    with night.progress.stage("embed"):
        work.vectors = await night.embed(work)
    return work
