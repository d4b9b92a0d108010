"""Logs: what a night's own modules say, and what Prefect writes about tasks of which a night has hundreds."""

import copy
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from nightloom.errors import NightloomError

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


def quiet_tasks() -> AbstractContextManager[None]:
    """Leave out, inside the block, one line for each task that ended well: the UI shows those, and steps say what they
    did. A log is a page that somebody reads."""
    return _filtered(_has_news)


def plain_errors() -> AbstractContextManager[None]:
    """Inside the block, what tasks failed with and was foreseen is logged in its own words; its traceback at DEBUG."""
    return _filtered(_in_words)


@contextmanager
def _filtered(through: Callable[[logging.LogRecord], bool]) -> Iterator[None]:
    logger = logging.getLogger(TASKS)
    logger.addFilter(through)
    try:
        yield
    finally:
        logger.removeFilter(through)


def _has_news(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(ENDED_WELL)


def _in_words(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, NightloomError) and record.levelno > logging.DEBUG:
        logger = logging.getLogger(record.name)
        if logger.isEnabledFor(logging.DEBUG):
            whole = copy.copy(record)
            whole.levelno, whole.levelname = logging.DEBUG, "DEBUG"
            logger.handle(whole)
        record.msg, record.args, record.exc_info, record.exc_text = str(error), (), None, None
    return True
