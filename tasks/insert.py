"""Insert: rows into tonight's generation, and the check that all of them are there."""

from prefect.logging import get_run_logger

from nightloom.night import Night, ShardNodes
from nightloom.tasks.policy import step


@step("insert", run_name="insert {work.label}", timeout_seconds=600)
async def insert(night: Night, work: ShardNodes) -> int:
    """Write the nodes of a shard with their vectors; writing them again changes nothing.

    Returns:
        Rows acknowledged.
    """
    with night.progress.stage("insert"):
        return await night.insert(work, work.vectors)


@step("settle", run_name="settle unchanged documents of {night.corpus.name}", timeout_seconds=4 * 3600)
async def settle(night: Night) -> int:
    """Copy what stays as it was from the live generation, vectors and all; in place, delete what is gone.

    Returns:
        Rows copied.
    """
    with night.progress.stage("copy"):
        rows = await night.settle()
    get_run_logger().info("%d rows copied, no embedding computed for them", rows)
    return rows


@step("verify", run_name="verify {night.corpus.name}", timeout_seconds=3600)
async def verify(night: Night) -> int:
    """Check that tonight's generation holds exactly tonight's documents.

    Returns:
        Rows.
    """
    with night.progress.stage("verify"):
        rows = await night.verify()
    get_run_logger().info("%d rows are there, as many as tonight's documents have", rows)
    return rows
