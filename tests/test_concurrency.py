"""Things done at the same time: what they give, and that nothing is left under way where one fails."""

import asyncio

import pytest

from nightloom.concurrency import alongside, each


class Steps:
    """What was begun, and what came of it."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.cancelled: list[int] = []

    async def last(self, seconds: float) -> None:
        """Take some time."""
        self.begun.append(len(self.begun))
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            await asyncio.sleep(0)  # as one that has something to close
            self.cancelled.append(len(self.cancelled))
            raise


async def fail(_item: object = None) -> None:
    raise ValueError("failed")


async def test_results_are_in_order_and_few_are_under_way_at_once() -> None:
    under_way, most = 0, 0

    async def double(number: int) -> int:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.001 * (7 - number))
        under_way -= 1
        return 2 * number

    assert await each(range(7), double, at_once=3) == [0, 2, 4, 6, 8, 10, 12]
    assert most == 3


async def test_the_first_error_is_raised_when_all_others_have_ended() -> None:
    steps = Steps()
    with pytest.raises(ValueError, match="failed"):
        await each([steps.last(60), steps.last(60), fail()], lambda step: step, at_once=3)
    assert (len(steps.begun), len(steps.cancelled)) == (2, 2)


async def test_what_goes_alongside_has_ended_when_the_block_does() -> None:
    done: list[str] = []

    async def slow() -> None:
        await asyncio.sleep(0.05)
        done.append("slow")

    async with alongside(slow()):
        await asyncio.sleep(0)
        done.append("block")
    assert done == ["block", "slow"]


async def test_a_block_that_fails_takes_along_what_goes_alongside() -> None:
    steps = Steps()

    async def failing() -> None:
        async with alongside(steps.last(60)):
            await asyncio.sleep(0)
            await fail()

    with pytest.raises(ValueError, match="failed"):
        await failing()
    assert steps.cancelled == [0]


async def test_what_fails_alongside_ends_the_block() -> None:
    with pytest.raises(ValueError, match="failed"):
        async with alongside(fail()):
            await asyncio.sleep(60)
