"""What faults are made of: the nth call of a method, a wrapper around it, and the end of the process."""

import inspect
import itertools
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, NoReturn


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault by its name in one of the tables, at the nth call of its kind."""

    name: str
    nth: int = 1


class Due:
    """Says at which call a fault is due, and writes down that it was; calls come from several threads."""

    def __init__(self, fault: Fault, journal: Path) -> None:
        """Count to the fault's call; the journal is a file that outlives the process."""
        self._fault = fault
        self._journal = journal
        self._calls = itertools.count(1)

    def __call__(self) -> bool:
        """Whether this is the one."""
        if next(self._calls) != self._fault.nth:
            return False
        self.fired()
        return True

    def fired(self) -> None:
        """Write down that the fault came about."""
        with self._journal.open("a", encoding="utf-8") as journal:
            journal.write(f"{self._fault.name}\n")


def die() -> NoReturn:
    """End this process as `kill -9` does."""
    os.kill(os.getpid(), signal.SIGKILL)
    while True:  # the signal is on its way
        time.sleep(1)


def wrap(
    owner: type, method: str, change: Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]
) -> None:
    """Put a function in place of a method: it gets the method, its arguments with self first, and keywords.

    For an async method it may return an awaitable.

    Raises:
        AttributeError: There is no such method any more; the table must follow the product.
    """
    original = getattr(owner, method)

    if inspect.iscoroutinefunction(original):

        @wraps(original)
        async def replaced(*args: Any, **kwargs: Any) -> Any:
            result = change(original, args, kwargs)
            return await result if inspect.isawaitable(result) else result

    else:

        @wraps(original)
        def replaced(*args: Any, **kwargs: Any) -> Any:
            return change(original, args, kwargs)

    setattr(owner, method, replaced)
