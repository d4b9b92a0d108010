"""Sources by HTTP that name their documents themselves, and the patience that every document by HTTP gets."""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from nightloom.concurrency import each
from nightloom.corpus import SourceSettings
from nightloom.documents import DocumentRef, Listing, Quarantined, Scalar, document_id
from nightloom.errors import DocumentError, SourceError, SourceUnavailable
from nightloom.left_out import LeftOutCounter
from nightloom.sources.hosts import Host
from nightloom.sources.http import LIMITS, DownloadLimits, Web, asking, check_status, fetch, open_web
from nightloom.sources.listing import listing_of, metadata_of

Result = TypeVar("Result")


async def take_urls(
    source: SourceSettings, folder: Path, validators: Mapping[str, str], limits: DownloadLimits = LIMITS
) -> Listing:
    """Fetch every URL of a source; what cannot be fetched tonight is quarantined, and what is gone for good left out.

    Raises:
        SourceError: A header's value is not in the environment.
    """
    async with open_web(source, limits) as web:
        pages = [(url, metadata_of(source)) for url in source.addresses]
        return await Fetcher(web, folder, validators).fetch_all(pages)


async def answers(source: SourceSettings, limits: DownloadLimits = LIMITS) -> None:
    """Ask for every URL of a source once, and read no more than the heads of the answers.

    Raises:
        SourceError: One of them will not be had; names it.
        SourceUnavailable: One of them cannot be had now.
    """
    async with open_web(source, limits) as web:

        async def ask(url: str) -> None:
            async with asking(url, limits), web.get(url, {}) as answer:
                check_status(url, answer, limits)

        try:
            await each(source.addresses, ask, at_once=source.concurrency)
        except DocumentError as error:
            raise SourceError(str(error)) from None


class Fetcher:
    """Fetches documents by HTTP with patience: a few attempts for each, and none for a host that is down."""

    def __init__(self, web: Web, folder: Path, validators: Mapping[str, str]) -> None:
        """Keep where documents go, and what is known of them."""
        self.web = web
        self._folder = folder
        self._validators = validators
        self._hosts: dict[str, Host] = {}

    async def fetch_all(self, pages: Iterable[tuple[str, tuple[tuple[str, Scalar], ...]]]) -> Listing:
        """Fetch pages, each a URL and its metadata."""
        entries = await each(pages, lambda page: self._taken(*page), at_once=self.web.source.concurrency)
        there, left_out = [entry for entry in entries if entry is not None], LeftOutCounter()
        if len(entries) > len(there):
            left_out.add("HTTP 410, gone for good", "pages", count=len(entries) - len(there))
        return listing_of(there, left_out)

    async def _taken(self, url: str, metadata: tuple[tuple[str, Scalar], ...]) -> DocumentRef | Quarantined | None:
        validator = self._validators.get(document_id(url), "")
        try:
            return await self.patiently(
                url, lambda: fetch(self.web, url, folder=self._folder, validator=validator, metadata=metadata)
            )
        except (SourceUnavailable, DocumentError) as error:
            return Quarantined(url, url, str(error), self.web.source.label)

    async def patiently(self, url: str, ask: Callable[[], Awaitable[Result]]) -> Result:
        """Ask for a URL until there is an answer, a few times at most.

        Raises:
            SourceUnavailable: The last attempt's.
        """
        limits, host = self.web.limits, self._host(url)
        attempts = AsyncRetrying(
            stop=stop_after_attempt(limits.attempts),
            wait=wait_random_exponential(multiplier=limits.pause_seconds, max=16 * limits.pause_seconds),
            retry=retry_if_exception_type(SourceUnavailable),
            reraise=True,
        )

        async def one() -> Result:
            async with host.turn():
                return await ask()

        try:
            return await attempts(one)
        except SourceUnavailable as error:
            if error.whole_host:
                host.count_silence()
            raise

    def _host(self, url: str) -> Host:
        name = url.partition("://")[2].partition("/")[0]
        return self._hosts.setdefault(name, Host(name, self.web.limits, self.web.source.concurrency_per_host))
