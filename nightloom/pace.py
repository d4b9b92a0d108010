"""How fast requests to an endpoint may follow each other."""

import asyncio
import time
from collections.abc import Awaitable, Callable

Pace = Callable[[int], Awaitable[None]]
"""Waits until one more request may be sent, of so many tokens."""


class LocalPace:
    """Of the requests of this process: evenly spaced, so that no minute holds more than allowed."""

    def __init__(self, requests_per_minute: int | None = None, tokens_per_minute: int | None = None) -> None:
        """Nothing has been sent yet; None is no limit."""
        self._seconds_per_request = 60 / requests_per_minute if requests_per_minute else 0.0
        self._seconds_per_token = 60 / tokens_per_minute if tokens_per_minute else 0.0
        self._next = 0.0

    async def turn(self, tokens: int = 0) -> None:
        """Wait until one more request may be sent, of so many tokens, and count it as sent."""
        while (wait := self._next - time.monotonic()) > 0:  # noqa: ASYNC110  the moment can move meanwhile
            await asyncio.sleep(wait)
        self._next = time.monotonic() + max(self._seconds_per_request, tokens * self._seconds_per_token)

    def hold(self, seconds: float) -> None:
        """Send nothing for so long, as the endpoint asks."""
        self._next = max(self._next, time.monotonic() + seconds)
