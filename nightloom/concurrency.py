"""Bounded concurrency in one event loop."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


async def each(items: Iterable[Item], do: Callable[[Item], Awaitable[Result]], *, at_once: int) -> list[Result]:
    """Do something for every item, at most `at_once` at a time; items are taken up only when there is room.

    Returns:
        The results, in the order of the items.

    Raises:
        Exception: The first error; what else was under way has been cancelled and awaited by then.
    """
    waiting = iter(enumerate(items))
    results: dict[int, Result] = {}

    async def work() -> None:
        for at, item in waiting:
            results[at] = await do(item)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(work())
    except ExceptionGroup as failures:
        raise _first(failures) from None
    return [results[at] for at in sorted(results)]


@asynccontextmanager
async def alongside(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Do something while the block runs; both have ended when it does.

    Raises:
        Exception: The first error; the other has been cancelled and awaited by then.
    """
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(work)
            yield
    except ExceptionGroup as failures:
        raise _first(failures) from None


def _first(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    first = failures.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
