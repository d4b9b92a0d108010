"""Embed: the nodes of a shard to vectors."""

from nightloom.night import Night, ShardNodes
from nightloom.vectors import Vectors
from tasks.policy import step


@step("embed", run_name="embed {work.label}", timeout_seconds=3600)
async def embed(night: Night, work: ShardNodes) -> Vectors:
    """Embed the nodes of a shard, and count the tokens that the model would not read.

    Returns:
        float32, shape (nodes, dim), in the order of the nodes.
    """
    with night.progress.stage("embed"):
        return await night.embed(work)
