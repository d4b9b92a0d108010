"""Sources that are a sitemap: its pages are documents, each asked for only with a conditional request."""

import asyncio
import gzip
import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import BinaryIO, cast
from xml.etree.ElementTree import Element, ParseError

import httpx
from defusedxml import DefusedXmlException  # type: ignore[import-untyped]
from defusedxml.ElementTree import iterparse  # type: ignore[import-untyped]
from protego import Protego

from nightloom.corpus import SourceSettings
from nightloom.documents import Listing, Quarantined, document_id
from nightloom.errors import DocumentError, SourceError
from nightloom.left_out import LeftOut, together
from nightloom.sources.http import LIMITS, DownloadLimits, Web, asking, check_status, open_web, save
from nightloom.sources.inflate import GZIP_MAGIC
from nightloom.sources.listing import MEND, Selection, metadata_of
from nightloom.sources.urls import Fetcher

ROBOT = "nightloom"
SITEMAP_BYTES = 52_428_800
"""Of one sitemap, uncompressed, as the protocol allows."""
SITEMAPS = 1_000
PAGES = 200_000
ROBOTS_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Page:
    """A page as a sitemap lists it."""

    url: str
    modified: date | None


async def take_sitemap(
    source: SourceSettings, folder: Path, validators: Mapping[str, str], limits: DownloadLimits = LIMITS
) -> Listing:
    """Fetch every page that a sitemap lists and robots.txt allows, or learn that it is as it was.

    Raises:
        SourceUnavailable: A sitemap or robots.txt cannot be had now.
        SourceError: A sitemap is none, is too large, or lists nothing that may be fetched.
    """
    async with open_web(source, limits) as web:
        fetcher = Fetcher(web, folder, validators)
        site = _Site(source, fetcher, folder)
        pages, refused = await site.pages()
        fetched = await fetcher.fetch_all((page.url, metadata_of(source, modified=page.modified)) for page in pages)
    left_out = together((site.chosen.left_out.found, fetched.left_out))
    return Listing(fetched.documents, (*refused, *fetched.quarantined), left_out)


async def count_pages(
    source: SourceSettings, folder: Path, limits: DownloadLimits = LIMITS
) -> tuple[int, tuple[LeftOut, ...]]:
    """How many pages a sitemap lists that would be fetched, and what is left out; none is fetched.

    Raises:
        SourceUnavailable: As `take_sitemap`.
        SourceError: As `take_sitemap`.
    """
    async with open_web(source, limits) as web:
        site = _Site(source, Fetcher(web, folder, {}), folder)
        pages, _ = await site.pages()
    return len(pages), site.chosen.left_out.found


class _Site:
    """One site: the sitemaps that it has, and what its robots.txt says."""

    def __init__(self, source: SourceSettings, fetcher: Fetcher, folder: Path) -> None:
        self._source = source
        self._address = source.sitemap or ""
        self._fetcher = fetcher
        self._folder = folder
        self.chosen = Selection(source)
        self._hosts = {_host(self._address)}

    async def pages(self) -> tuple[list[Page], list[Quarantined]]:
        """Pages to fetch, and those that cannot be."""
        found: dict[str, Page] = {}
        refused: dict[str, Quarantined] = {}
        for page in await self._listed():
            reason = self._reason(page.url)
            if reason is not None:
                shown = _without_credentials(page.url)
                refused[shown] = Quarantined(shown, shown, reason, self._source.label)
            elif page.url not in found and self.chosen.takes(_path(page.url)):
                found[page.url] = page
        allowed = await self._allowed(list(found.values()))
        if len(found) > len(allowed):
            self.chosen.left_out.add("robots.txt", "pages", count=len(found) - len(allowed))
        if found and not allowed:
            raise self._error(f"robots.txt forbids all {len(found)} pages; ask the site's owner")
        return allowed, list(refused.values())

    async def _listed(self) -> list[Page]:
        """Everything that the sitemap lists, and the sitemaps that it lists."""
        pages: list[Page] = []
        waiting, seen = [self._address], {self._address}
        while waiting:
            url = waiting.pop()
            file = await self._sitemap(url)
            is_index, entries = await asyncio.to_thread(self._read, url, file, PAGES - len(pages))
            file.unlink()
            if not is_index:
                pages += entries
                continue
            for entry in entries:
                if _host(entry.url) not in self._hosts:
                    shown = _without_credentials(entry.url)
                    raise self._error(f"{url} lists a sitemap of another host, {shown}; make it a source of its own")
                if entry.url not in seen:
                    seen.add(entry.url)
                    waiting.append(entry.url)
            if len(seen) > SITEMAPS:
                raise self._error(f"more than {SITEMAPS} sitemaps; list some of them as sources of their own")
        return pages

    async def _sitemap(self, url: str) -> Path:
        async def ask() -> Path:
            file, final = await _saved(self._fetcher.web, url, self._folder, SITEMAP_BYTES)
            if url == self._address:
                self._hosts.add(final.host)  # where the site moved to is the same site
            return file

        try:
            return await self._fetcher.patiently(url, ask)
        except DocumentError as error:
            raise self._error(str(error)) from None

    def _read(self, url: str, file: Path, room: int) -> tuple[bool, list[Page]]:
        """What one sitemap lists, and whether that is sitemaps."""
        pages: list[Page] = []
        try:
            with _opened(file) as stream:
                root, entries = _entries(stream)
                if root not in {"urlset", "sitemapindex"}:
                    raise self._error(f"{url} is no sitemap: it begins with <{root}>")
                for entry in entries:
                    pages.append(entry)
                    if len(pages) > room:
                        raise self._error(f"more than {PAGES} pages; list some of the sitemaps as sources of their own")
        except _TooLarge:
            raise self._error(f"{url} is larger than {SITEMAP_BYTES} bytes, which no sitemap may be") from None
        except DefusedXmlException:
            raise self._error(f"{url} is no sitemap: it declares entities or a document type") from None
        except (ParseError, EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise self._error(f"{url} is no sitemap: {error}") from None
        return root == "sitemapindex", pages

    def _reason(self, url: str) -> str | None:
        """Why a page cannot be fetched."""
        try:
            target = httpx.URL(url)
        except httpx.InvalidURL as error:
            return f"no address: {error}; mend the sitemap"
        if target.scheme not in {"http", "https"} or not target.host:
            return "not an http:// or https:// address; mend the sitemap"
        if target.userinfo:
            return "the sitemap gives credentials with it; mend the sitemap"
        if target.host not in self._hosts:
            return f"on another host than the sitemap of {self._source.label}; list it under urls"
        return None

    async def _allowed(self, pages: list[Page]) -> list[Page]:
        robots = {origin: await self._robots(origin) for origin in sorted({_origin(page.url) for page in pages})}
        return [page for page in pages if robots[_origin(page.url)].can_fetch(page.url, ROBOT)]

    async def _robots(self, origin: str) -> Protego:
        """What a host says to robots; where it answers that there is nothing, everything is allowed."""
        url = f"{origin}/robots.txt"
        try:
            file, _ = await self._fetcher.patiently(
                url, lambda: _saved(self._fetcher.web, url, self._folder, ROBOTS_BYTES)
            )
        except DocumentError:
            return Protego.parse("")
        text = file.read_text("utf-8-sig", "replace")
        file.unlink()
        return Protego.parse(text)

    def _error(self, says: str) -> SourceError:
        return SourceError(f"source {self._source.label!r}: {says}; {MEND} sitemap")


async def _saved(web: Web, url: str, folder: Path, size_bytes: int) -> tuple[Path, httpx.URL]:
    """A file of the site, and the address that it came from in the end."""
    file = folder / document_id(url)
    limits = replace(web.limits, size_bytes=size_bytes)
    async with asking(url, limits), web.get(url, {}) as answer:
        check_status(url, answer, limits)
        await save(url, answer, file, limits)
        return file, answer.url


class _TooLarge(Exception):
    """More came out of a sitemap's compression than a sitemap may hold."""


class _Bounded:
    """A stream that ends in an error where it is too long."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._left = SITEMAP_BYTES

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise _TooLarge
        return data


@contextmanager
def _opened(file: Path) -> Iterator[_Bounded]:
    with file.open("rb") as raw:
        is_gzip = raw.read(len(GZIP_MAGIC)) == GZIP_MAGIC
        raw.seek(0)
        yield _Bounded(cast("BinaryIO", gzip.GzipFile(fileobj=raw)) if is_gzip else raw)


def _entries(stream: _Bounded) -> tuple[str, Iterator[Page]]:
    """Name of the outermost element, and what its children list; each is forgotten once it is read."""
    events: Iterator[tuple[str, Element]] = iterparse(stream, events=("start", "end"), forbid_dtd=True)
    _, root = next(events)
    return root.tag.rpartition("}")[2], _children(root, events)


def _children(root: Element, events: Iterator[tuple[str, Element]]) -> Iterator[Page]:
    depth = 1
    for event, element in events:
        depth += 1 if event == "start" else -1
        if event == "end" and depth == 1:
            fields = {child.tag: (child.text or "").strip() for child in element}
            space = element.tag.rpartition("}")[0]
            prefix = f"{space}}}" if space else ""
            url = fields.get(f"{prefix}loc", "").partition("#")[0]
            if url:
                yield Page(url, _day(fields.get(f"{prefix}lastmod", "")))
            root.clear()


def _day(text: str) -> date | None:
    """The day of a date in W3C form; None for what is none."""
    if not re.match(r"\d{4}-\d\d-\d\d", text):
        return None
    try:
        return date.fromisoformat(text[:10])
    except ValueError:
        return None


def _path(url: str) -> str:
    """The path of a page as globs see it; the front page is index.html."""
    return httpx.URL(url).path.strip("/") or "index.html"


def _origin(url: str) -> str:
    target = httpx.URL(url)
    return f"{target.scheme}://{target.netloc.decode('ascii')}"


def _host(url: str) -> str:
    """The host of an address; "" where it is none."""
    try:
        return httpx.URL(url).host
    except httpx.InvalidURL:
        return ""


def _without_credentials(url: str) -> str:
    return re.sub(r"//[^/]*@", "//", url)
