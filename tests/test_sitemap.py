"""Sitemaps of a real server on loopback: every page once, unchanged ones for a 304, and nothing that is not allowed."""

import gzip
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nightloom.corpus import SourceSettings
from nightloom.documents import Listing
from nightloom.errors import SourceError, SourceUnavailable
from nightloom.sources import sitemap
from nightloom.sources.http import DownloadLimits
from nightloom.sources.sitemap import count_pages, take_sitemap
from tests.website import Website, answer, conditional, in_turn, redirect, serving

QUICK = DownloadLimits(pause_seconds=0.01, retry_after_seconds=0.1)
SPACE = 'xmlns="http://www.sitemaps.org/schemas/sitemap/0.9"'


@pytest.fixture
def website() -> Iterator[Website]:
    with serving() as site:
        yield site


def urlset(*pages: str) -> bytes:
    inner = "".join(f"<url><loc>{page}</loc></url>" for page in pages)
    return f'<?xml version="1.0"?>\n<urlset {SPACE}>{inner}</urlset>'.encode()


def index(*sitemaps: str) -> bytes:
    inner = "".join(f"<sitemap><loc>{one}</loc></sitemap>" for one in sitemaps)
    return f"<sitemapindex {SPACE}>{inner}</sitemapindex>".encode()


def with_sitemap(website: Website, body: bytes) -> str:
    return website.url("/sitemap.xml", answer(body=body))


async def taken(url: str, folder: Path, validators: dict[str, str] | None = None, **keys: Any) -> Listing:
    source = SourceSettings.model_validate({"sitemap": url, **keys})
    return await take_sitemap(source, folder, validators or {}, QUICK)


def paths(website: Website, listing: Listing) -> list[str]:
    return sorted(ref.uri.removeprefix(website.address) for ref in listing.documents)


async def test_an_unchanged_site_of_a_thousand_pages_costs_a_thousand_answers_of_304(
    website: Website, tmp_path: Path
) -> None:
    pages = [website.url(f"/page/{number}", conditional) for number in range(1_000)]
    url = with_sitemap(website, urlset(*pages))
    first = await taken(url, tmp_path)
    assert len(first.documents) == 1_000
    assert all(ref.content for ref in first.documents)
    website.asked.clear()
    website.statuses.clear()
    tonight = tmp_path / "tonight"
    tonight.mkdir()
    second = await taken(url, tonight, {ref.id: ref.validator for ref in first.documents})
    assert [ref.uri for ref in second.documents] == pages
    assert {ref.content for ref in second.documents} == {None}
    asked = Counter(path for path, _ in website.asked)
    assert asked == {"/sitemap.xml": 1, "/robots.txt": 1} | {f"/page/{number}": 1 for number in range(1_000)}
    assert Counter(website.statuses) == {200: 1, 304: 1_000, 404: 1}
    assert list(tonight.iterdir()) == []


async def test_an_index_of_sitemaps_compressed_or_not_is_followed_once(website: Website, tmp_path: Path) -> None:
    one, two, three = (website.url(f"/{name}", answer()) for name in ("one", "two", "three"))
    plain = website.url("/a.xml", answer(body=urlset(one, two)))
    squeezed = website.url("/b.xml.gz", answer(body=gzip.compress(urlset(two, three, f"{three}#part"))))
    url = website.url("/sitemap.xml", answer())
    website.url("/sitemap.xml", answer(body=index(plain, squeezed, plain, url)))
    assert paths(website, await taken(url, tmp_path)) == ["/one", "/three", "/two"]
    assert max(Counter(path for path, _ in website.asked).values()) == 1


async def test_include_and_exclude_go_by_the_path(website: Website, tmp_path: Path) -> None:
    names = ["/", "/guide/", "/guide/first", "/guide/old/second", "/blog/1?page=2", "/%C3%BCber"]
    url = with_sitemap(website, urlset(*(website.url(name, answer()) for name in names)))
    assert paths(website, await taken(url, tmp_path)) == sorted(names)
    found = await taken(url, tmp_path, include=["guide/**", "über", "index.html"], exclude=["old/"])
    assert paths(website, found) == ["/", "/%C3%BCber", "/guide/first"]
    assert [(left.rule, left.kinds.total()) for left in found.left_out] == [("exclude", 1), ("include", 2)]


async def test_lastmod_and_tags_are_metadata(website: Website, tmp_path: Path) -> None:
    dates = ["2026-11-22T22:00:00+01:00", "2026-11-23", "2026", "yesterday", "2026-13-45"]
    entries = [
        f"<url><loc>{website.url(f'/{n}', answer())}</loc><lastmod>{d}</lastmod></url>" for n, d in enumerate(dates)
    ]
    url = with_sitemap(website, f"<urlset {SPACE}>{''.join(entries)}</urlset>".encode())
    found = await taken(url, tmp_path, tags=["site"])
    assert [dict(ref.metadata).get("modified") for ref in found.documents] == [
        "2026-11-22",
        "2026-11-23",
        None,
        None,
        None,
    ]
    assert {dict(ref.metadata)["tags"] for ref in found.documents} == {"site"}


async def test_the_address_of_a_picture_is_no_page(website: Website, tmp_path: Path) -> None:
    page = website.url("/page", answer())
    space = 'xmlns:image="http://www.google.com/schemas/sitemap-image/1.1"'
    picture = f"<image:image><image:loc>{website.address}/picture.png</image:loc></image:image>"
    body = f"<urlset {SPACE} {space}><url>{picture}<loc>\n {page} </loc>{picture}</url></urlset>"
    assert paths(website, await taken(with_sitemap(website, body.encode()), tmp_path)) == ["/page"]


# --- what may not be fetched


async def test_robots_txt_is_honoured(website: Website, tmp_path: Path) -> None:
    website.url(
        "/robots.txt", answer(body=b"User-agent: *\nDisallow: /private/\n\nUser-agent: nightloom\nDisallow: /ours/")
    )
    urls = [website.url(name, answer()) for name in ("/page", "/private/page", "/ours/page")]
    found = await taken(with_sitemap(website, urlset(*urls)), tmp_path)
    assert paths(website, found) == ["/page", "/private/page"], "our own section comes before that for all"
    assert found.quarantined == ()
    assert [str(left) for left in found.left_out] == ["1 page left out by robots.txt"]
    assert "/ours/page" not in {path for path, _ in website.asked}


async def test_a_site_that_forbids_everything_is_refused(website: Website, tmp_path: Path) -> None:
    website.url("/robots.txt", answer(body=b"User-agent: *\nDisallow: /"))
    url = with_sitemap(website, urlset(website.url("/page", answer())))
    with pytest.raises(SourceError, match=r"robots\.txt forbids all 1 pages"):
        await taken(url, tmp_path)


async def test_a_robots_txt_that_cannot_be_had_is_no_permission(website: Website, tmp_path: Path) -> None:
    website.url("/robots.txt", answer(503))
    url = with_sitemap(website, urlset(website.url("/page", answer())))
    with pytest.raises(SourceUnavailable, match=r"robots\.txt: HTTP 503"):
        await taken(url, tmp_path)
    assert "/page" not in {path for path, _ in website.asked}


async def test_pages_elsewhere_are_quarantined_and_never_asked_for(website: Website, tmp_path: Path) -> None:
    with serving() as other:
        elsewhere = other.url("/page", answer()).replace("127.0.0.1", "localhost")
        page = website.url("/page", answer())
        bad = [elsewhere, "file:///etc/hostname", "http://root:correct-horse@127.0.0.1/", "/relative", "http://[::1"]
        found = await taken(with_sitemap(website, urlset(page, *bad)), tmp_path)
        assert paths(website, found) == ["/page"]
        assert len(found.quarantined) == len(bad)
        assert "correct-horse" not in repr(found)
        assert other.asked == []


async def test_a_site_that_moved_is_still_one_site(website: Website, tmp_path: Path) -> None:
    moved = website.address.replace("127.0.0.1", "localhost")
    website.url("/new.xml", answer(body=urlset(f"{moved}/page")))
    website.url("/page", answer())
    found = await taken(website.url("/sitemap.xml", redirect(f"{moved}/new.xml")), tmp_path)
    assert [ref.uri for ref in found.documents] == [f"{moved}/page"]


# --- what is no sitemap

BOMB = (
    b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
    b"<urlset><url><loc>&b;</loc></url></urlset>"
)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "is no sitemap"),
        (b"<urlset><url><loc>http://x/</loc>", "is no sitemap"),
        (b"not XML", "is no sitemap"),
        (b"<html><body>Please log in</body></html>", "it begins with <html>"),
        (b"<!DOCTYPE html><html></html>", "declares entities or a document type"),
        (BOMB, "declares entities or a document type"),
        (gzip.compress(urlset("http://x/"), mtime=0)[:-9], "is no sitemap"),
        (index("http://elsewhere.test/sitemap.xml"), "lists a sitemap of another host"),
        (index("http://root:correct-horse@elsewhere.test/s.xml"), "lists a sitemap of another host"),
    ],
)
async def test_what_is_no_sitemap_is_refused_by_address(
    website: Website, tmp_path: Path, body: bytes, says: str
) -> None:
    url = with_sitemap(website, body)
    with pytest.raises(SourceError, match=says) as refused:
        await taken(url, tmp_path)
    assert url in str(refused.value)
    assert "mend its sitemap" in str(refused.value)
    assert "correct-horse" not in str(refused.value)


async def test_a_sitemap_bomb_is_refused(website: Website, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sitemap, "SITEMAP_BYTES", 100_000)
    blank = b"<urlset>" + b" " * 200_000 + b"</urlset>"
    for body in (gzip.compress(blank), blank):
        with pytest.raises(SourceError, match="larger than 100000 bytes"):
            await taken(with_sitemap(website, body), tmp_path)


async def test_too_many_pages_or_sitemaps_are_refused(
    website: Website, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sitemap, "PAGES", 10)
    monkeypatch.setattr(sitemap, "SITEMAPS", 5)
    with pytest.raises(SourceError, match="more than 10 pages"):
        await taken(with_sitemap(website, urlset(*(f"{website.address}/{n}" for n in range(11)))), tmp_path)
    with pytest.raises(SourceError, match="more than 5 sitemaps"):
        await taken(with_sitemap(website, index(*(f"{website.address}/{n}.xml" for n in range(6)))), tmp_path)


async def test_a_sitemap_that_is_down_may_come_back(website: Website, tmp_path: Path) -> None:
    body = urlset(website.url("/page", answer()))
    url = website.url("/sitemap.xml", in_turn(answer(500), answer(body=body)))
    assert len((await taken(url, tmp_path)).documents) == 1
    with pytest.raises(SourceUnavailable, match="HTTP 502"):
        await taken(website.url("/sitemap.xml", answer(502)), tmp_path)
    with pytest.raises(SourceError, match="HTTP 404"):
        await taken(website.url("/sitemap.xml", answer(404)), tmp_path)


async def test_pages_can_be_counted_without_fetching_them(website: Website, tmp_path: Path) -> None:
    url = with_sitemap(website, urlset(*(website.url(f"/{number}", answer()) for number in range(3))))
    assert await count_pages(SourceSettings(sitemap=url), tmp_path, QUICK) == (3, ())
    assert {path for path, _ in website.asked} == {"/sitemap.xml", "/robots.txt"}
