"""Logs: what a night's own modules say, and what Prefect writes about tasks of which a night has hundreds."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

TASKS = "prefect.task_runs"
"""Prefect's logger of task runs."""
ENDED_WELL = "Finished in state Completed"
OWN = "nightloom"
"""The logger of the modules that know nothing of Prefect."""


def show_own_logs() -> None:
    """Have Prefect show what those modules log as it shows what a flow run logs."""
    shown, own = logging.getLogger("prefect.flow_runs"), logging.getLogger(OWN)
    own.setLevel(shown.getEffectiveLevel())
    for handler in shown.handlers:
        own.addHandler(handler)  # once, however often it is called


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
