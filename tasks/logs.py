"""Logs: what Prefect itself writes about tasks of which a night has hundreds."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

TASKS = "prefect.task_runs"
"""Prefect's logger of task runs."""
ENDED_WELL = "Finished in state Completed"


@contextmanager
def quiet_tasks() -> Iterator[None]:
    """Leave out, inside the block, one line for each task that ended well: the UI shows those, and steps say what they
    did. A log is a page that somebody reads."""
    logger = logging.getLogger(TASKS)
    logger.addFilter(_has_news)
    try:
        yield
    finally:
        logger.removeFilter(_has_news)


def _has_news(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(ENDED_WELL)
