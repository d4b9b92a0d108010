"""What is known tonight of the hosts that documents come from."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from nightloom.errors import DocumentError, SourceUnavailable
from nightloom.sources.http import DownloadLimits


class Host:
    """What is known tonight of a host: how many requests it gets at once, and since when it should be left alone."""

    def __init__(self, name: str, limits: DownloadLimits, at_once: int) -> None:
        """Know nothing bad of it yet."""
        self.name = name
        self._limits = limits
        self._turns = asyncio.Semaphore(at_once)
        self._not_before = 0.0
        self._silent = 0

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait until the host can be asked, and learn from how it goes.

        Raises:
            DocumentError: It has been given up for tonight.
        """
        async with self._turns:
            await asyncio.sleep(self._not_before - time.monotonic())
            if self._silent >= self._limits.silent_documents:
                raise DocumentError(f"not asked: {self.name} gave no answer to {self._silent} documents in a row")
            try:
                yield
            except SourceUnavailable as error:
                self._not_before = max(self._not_before, time.monotonic() + error.retry_after_seconds)
                if not error.whole_host:
                    self._silent = 0
                raise
            except DocumentError:
                self._silent = 0
                raise
            self._silent = 0

    def count_silence(self) -> None:
        """Note that a document was given up because of its host."""
        self._silent += 1
