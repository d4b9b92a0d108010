"""Downloads from a real server on loopback: whole or not at all, conditional, bounded."""

import asyncio
import gzip
import hashlib
import itertools
import json
import re
import socket
import threading
import time
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nightloom.corpus import SourceSettings
from nightloom.documents import DocumentRef, document_id
from nightloom.errors import DocumentError, SourceError, SourceUnavailable, TransientError
from nightloom.sources import addresses, http, take
from nightloom.sources.addresses import is_public
from nightloom.sources.http import LIMITS, DownloadLimits, Web, fetch, open_web
from nightloom.sources.inflate import PIECE_BYTES, Inflater
from nightloom.sources.urls import take_urls
from tests.certificates import serving_with, write_certificate
from tests.website import (
    BODY,
    ETAG,
    MODIFIED,
    Answer,
    Website,
    answer,
    chunked,
    conditional,
    endless,
    in_turn,
    redirect,
    reset,
    serving,
)

QUICK = DownloadLimits(pause_seconds=0.01, retry_after_seconds=0.2)


@pytest.fixture
def website() -> Iterator[Website]:
    with serving() as site:
        yield site


@pytest.fixture
async def web() -> AsyncIterator[Web]:
    async with open_web(SourceSettings(name="site", url="http://127.0.0.1/")) as opened:
        yield opened


async def fetched(
    web: Web, url: str, *, folder: Path, validator: str = "", limits: DownloadLimits = LIMITS
) -> DocumentRef:
    web.limits = limits
    ref = await fetch(web, url, folder=folder, validator=validator)
    assert ref is not None
    return ref


def files_in(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


# --- what comes


async def test_a_document_is_saved_whole_under_a_name_of_ours(website: Website, web: Web, tmp_path: Path) -> None:
    url = website.url(
        "/..%2Fevil/page.md?x=1",
        answer(Content_Type="Text/Markdown; charset=utf-8", Content_Disposition='attachment; filename="../../x"'),
    )
    ref = await fetched(web, url, folder=tmp_path)
    assert (ref.uri, ref.item, ref.source, ref.media_type) == (url, url, "site", "text/markdown")
    assert (ref.content, ref.size_bytes) == (hashlib.sha256(BODY).hexdigest(), len(BODY))
    assert ref.path == tmp_path / document_id(url)
    assert ref.path.read_bytes() == BODY
    assert files_in(tmp_path) == [ref.path]


async def test_a_second_night_asks_whether_it_changed(website: Website, web: Web, tmp_path: Path) -> None:
    url = website.url("/page", conditional)
    first = await fetched(web, url, folder=tmp_path)
    assert json.loads(first.validator) == {"etag": ETAG, "last-modified": MODIFIED}
    second = await fetched(web, url, folder=tmp_path, validator=first.validator)
    assert (second.content, second.path, second.validator) == (None, None, first.validator)
    assert second.id == first.id
    assert "if-none-match" not in website.asked[0][1]

    changed = await fetched(web, url, folder=tmp_path, validator='{"etag": "\\"v0\\""}')
    assert changed.content == first.content
    assert website.asked[2][1]["if-none-match"] == '"v0"'
    assert "if-modified-since" not in website.asked[2][1]


async def test_without_validators_the_document_is_read_every_night(website: Website, web: Web, tmp_path: Path) -> None:
    url = website.url("/page", answer())
    for _ in range(2):
        ref = await fetched(web, url, folder=tmp_path, validator="")
        assert (ref.validator, ref.media_type) == ("", "")
        assert ref.content is not None


async def test_an_etag_of_any_bytes_can_be_given_back(website: Website, web: Web, tmp_path: Path) -> None:
    url = website.url("/page", answer(ETag='"caf\xe9"'))
    first = await fetched(web, url, folder=tmp_path)
    again = await fetched(web, url, folder=tmp_path, validator=first.validator)
    assert again.content == first.content


async def test_not_modified_without_a_question_is_an_error(website: Website, web: Web, tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match="304"):
        await fetched(web, website.url("/page", answer(304)), folder=tmp_path)


async def test_several_documents_at_once_do_not_mix(website: Website, web: Web, tmp_path: Path) -> None:
    urls = [website.url(f"/{number}", answer(body=b"%d " % number * 50_000)) for number in range(12)]
    refs = await asyncio.gather(*(fetched(web, url, folder=tmp_path) for url in urls))
    for number, ref in enumerate(refs):
        assert ref.path is not None
        assert ref.path.read_bytes() == b"%d " % number * 50_000


# --- what does not come


@pytest.mark.parametrize("status", [404, 401, 403, 400, 418])
async def test_what_is_gone_or_refused_is_not_tried_again(
    website: Website, web: Web, tmp_path: Path, status: int
) -> None:
    url = website.url("/page", answer(status))
    with pytest.raises(DocumentError, match=f"HTTP {status}") as refused:
        await fetched(web, url, folder=tmp_path)
    assert url in str(refused.value)
    assert not isinstance(refused.value, TransientError)
    assert ("remove the URL" in str(refused.value)) == (status == 404)
    assert files_in(tmp_path) == []


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
async def test_what_is_only_down_may_be_tried_again(website: Website, web: Web, tmp_path: Path, status: int) -> None:
    url = website.url("/page", answer(status, Retry_After="0"))
    with pytest.raises(SourceUnavailable, match=f"HTTP {status}") as later:
        await fetched(web, url, folder=tmp_path)
    assert isinstance(later.value, TransientError)
    website.url("/page", answer())
    assert (await fetched(web, url, folder=tmp_path)).content


@pytest.mark.parametrize(
    ("pause", "seconds"),
    [("3", 3), ("86400", 60), ("", 0), ("soon", 0), ("-1", 0), ("Sun, 22 Nov 2020 22:00:00 GMT", 0), ("DATE", 20)],
)
async def test_a_retry_after_in_seconds_or_as_a_date_is_understood_and_capped(
    website: Website, web: Web, tmp_path: Path, pause: str, seconds: float
) -> None:
    pause = pause.replace("DATE", format_datetime(datetime.now(UTC) + timedelta(seconds=20), usegmt=True))
    with pytest.raises(SourceUnavailable) as later:
        await fetched(web, website.url("/page", answer(503, Retry_After=pause)), folder=tmp_path)
    assert later.value.retry_after_seconds == pytest.approx(seconds, abs=2 if seconds == 20 else 0)


async def test_a_retry_after_of_odd_bytes_is_no_crash(website: Website, web: Web, tmp_path: Path) -> None:
    with pytest.raises(SourceUnavailable):
        await fetched(web, website.url("/page", answer(503, Retry_After="\xb2")), folder=tmp_path)


async def test_a_cut_body_is_never_read(website: Website, web: Web, tmp_path: Path) -> None:
    url = website.url("/page", answer(body=BODY, length=len(BODY) + 1))
    with pytest.raises(SourceUnavailable, match="/page"):
        await fetched(web, url, folder=tmp_path)
    assert not (tmp_path / document_id(url)).exists()
    website.url("/page", answer())
    ref = await fetched(web, url, folder=tmp_path)
    assert ref.path is not None
    assert ref.path.read_bytes() == BODY


async def test_a_cut_body_does_not_touch_what_is_there(website: Website, web: Web, tmp_path: Path) -> None:
    url = website.url("/page", answer())
    ref = await fetched(web, url, folder=tmp_path)
    assert ref.path is not None
    website.url("/page", answer(body=b"another", length=10_000))
    with pytest.raises(SourceUnavailable):
        await fetched(web, url, folder=tmp_path)
    assert ref.path.read_bytes() == BODY


async def test_broken_compression_is_an_error(website: Website, web: Web, tmp_path: Path) -> None:
    url = website.url("/page", answer(body=b"not gzip", Content_Encoding="gzip"))
    with pytest.raises(SourceUnavailable):
        await fetched(web, url, folder=tmp_path)
    assert not (tmp_path / document_id(url)).exists()


async def test_nobody_there_may_be_tried_again(website: Website, web: Web, tmp_path: Path) -> None:
    closed = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    port = closed.server_address[1]
    closed.server_close()
    with pytest.raises(SourceUnavailable, match=str(port)):
        await fetched(web, f"http://127.0.0.1:{port}/", folder=tmp_path)


@pytest.mark.parametrize(
    ("name", "trusted", "reason"),
    [("localhost", False, "self-signed"), ("elsewhere.example", True, "Hostname mismatch")],
)
async def test_a_certificate_that_is_not_trusted_is_refused_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, trusted: bool, reason: str
) -> None:
    file = write_certificate(tmp_path / "site.pem", name)
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(file))
    with serving(context=serving_with(file)) as site:
        url = site.url("/doc", answer()).replace("127.0.0.1", "localhost")
        async with open_web(SourceSettings(url=url)) as web:
            with pytest.raises(DocumentError, match=rf"localhost:\d+/doc: its certificate.*{reason}.*SSL_CERT_FILE"):
                await fetched(web, url, folder=tmp_path)
    assert not site.asked


async def test_a_certificate_of_a_named_authority_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_certificate(tmp_path / "site.pem", "localhost")
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    with serving(context=serving_with(file)) as site:
        url = site.url("/doc", answer()).replace("127.0.0.1", "localhost")
        async with open_web(SourceSettings(url=url)) as web:
            assert (await fetched(web, url, folder=tmp_path)).size_bytes == len(BODY)


async def test_the_whole_of_a_download_has_a_limit(website: Website, web: Web, tmp_path: Path) -> None:
    ended = threading.Event()

    def half(handler: BaseHTTPRequestHandler) -> None:
        answer(body=BODY[:5], length=len(BODY))(handler)
        handler.wfile.flush()
        ended.wait(60)

    url = website.url("/page", half)
    try:
        with pytest.raises(SourceUnavailable, match=r"not complete after 0\.3 s"):
            await fetched(web, url, folder=tmp_path, limits=DownloadLimits(total_seconds=0.3))
    finally:
        ended.set()
    assert not (tmp_path / document_id(url)).exists()


# --- bounds


async def test_a_document_above_the_size_limit_is_refused(website: Website, web: Web, tmp_path: Path) -> None:
    limits = DownloadLimits(size_bytes=1_000)
    url = website.url("/page", answer(body=b"x" * 1_001))
    with pytest.raises(DocumentError, match="larger than 1000 bytes"):
        await fetched(web, url, folder=tmp_path, limits=limits)
    assert not (tmp_path / document_id(url)).exists()
    website.url("/page", answer(body=b"x" * 1_000))
    assert (await fetched(web, url, folder=tmp_path, limits=limits)).size_bytes == 1_000


async def test_the_size_limit_holds_for_what_comes_out_of_compression(
    website: Website, web: Web, tmp_path: Path
) -> None:
    bomb = gzip.compress(b"\x00" * 20_000_000)
    url = website.url("/page", answer(body=bomb, Content_Encoding="gzip"))
    with pytest.raises(DocumentError, match="larger than 100000 bytes"):
        await fetched(web, url, folder=tmp_path, limits=DownloadLimits(size_bytes=100_000))
    assert sum(file.stat().st_size for file in files_in(tmp_path)) <= 100_000


# --- redirects


async def test_a_redirect_is_followed_and_the_document_keeps_its_name(
    website: Website, web: Web, tmp_path: Path
) -> None:
    website.url("/new", answer(Content_Type="text/plain"))
    url = website.url("/old", redirect("/new"))
    ref = await fetched(web, url, folder=tmp_path)
    assert (ref.uri, ref.media_type) == (url, "text/plain")
    assert ref.path == tmp_path / document_id(url)


@pytest.mark.parametrize("target", ["file:///etc/hostname", "ftp://127.0.0.1/a", "gopher://127.0.0.1/", "data:,x"])
async def test_a_redirect_away_from_http_is_refused(website: Website, web: Web, tmp_path: Path, target: str) -> None:
    url = website.url("/page", redirect(target))
    with pytest.raises(DocumentError) as refused:
        await fetched(web, url, folder=tmp_path)
    assert url in str(refused.value)
    assert files_in(tmp_path) == []


async def test_redirects_in_a_circle_end(website: Website, web: Web, tmp_path: Path) -> None:
    website.url("/b", redirect("/a"))
    with pytest.raises(DocumentError, match="redirects"):
        await fetched(web, website.url("/a", redirect("/b")), folder=tmp_path)
    assert len(website.asked) <= 6, "five redirects at most"


async def test_a_redirect_to_nowhere_is_an_error(website: Website, web: Web, tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match="302"):
        await fetched(web, website.url("/page", answer(302, b"")), folder=tmp_path)
    for target in ("http://[::1", "http://", "//"):
        with pytest.raises((DocumentError, SourceUnavailable)):
            await fetched(web, website.url("/page", redirect(target)), folder=tmp_path)


@pytest.mark.parametrize("url", ["http://", "http://[::1", "http://a b/", "http://\x00/", "http://" + "a" * 300 + "/"])
async def test_an_address_that_is_none_is_an_error_of_the_document(web: Web, tmp_path: Path, url: str) -> None:
    with pytest.raises((DocumentError, SourceUnavailable)):
        await fetched(web, url, folder=tmp_path)


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.215.14", True),
        ("2606:4700::1111", True),
        ("10.0.0.1", False),
        ("127.0.0.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("::ffff:10.0.0.1", False),
        ("::ffff:93.184.215.14", True),
        ("2002:7f00:1::", False),
        ("64:ff9b::a9fe:a9fe", False),
        ("64:ff9b::5db8:d70e", True),
    ],
)
def test_an_address_is_public_or_not(address: str, public: bool) -> None:
    assert is_public(address) == public


@pytest.fixture
def public_website(website: Website, monkeypatch: pytest.MonkeyPatch) -> Website:
    """The website, with 127.0.0.1 counting as a public address; 127.0.0.2 does not."""
    for module in (addresses, http):
        monkeypatch.setattr(module, "is_public", lambda address: address == "127.0.0.1")
    return website


async def test_a_public_host_cannot_redirect_to_a_private_address(public_website: Website, tmp_path: Path) -> None:
    private = public_website.address.replace("127.0.0.1", "127.0.0.2")
    public_website.url("/hop", redirect(f"{private}/secret"))
    url = public_website.url("/page", redirect("/hop"))
    with serving("127.0.0.2", int(private.rpartition(":")[2])) as inside:
        inside.url("/secret", answer())
        listing = await take_urls(SourceSettings(url=url), tmp_path, {}, QUICK)
        assert "private address 127.0.0.2" in listing.quarantined[0].reason
        assert "allow_private = true" in listing.quarantined[0].reason
        assert inside.asked == [], "it must not even be asked"
        allowed = await take_urls(SourceSettings(url=url, allow_private=True), tmp_path, {}, QUICK)
        assert len(allowed.documents) == 1
        listed = await take_urls(SourceSettings(url=f"{private}/secret"), tmp_path, {}, QUICK)
        assert len(listed.documents) == 1, "what the user lists is theirs to choose"


async def test_a_public_host_can_redirect_to_a_public_one(public_website: Website, tmp_path: Path) -> None:
    port = public_website.address.rpartition(":")[2]
    public_website.url("/new", answer())
    url = public_website.url("/page", redirect(f"http://127.0.0.1:{port}/new"))
    assert len((await take_urls(SourceSettings(url=url), tmp_path, {}, QUICK)).documents) == 1


# --- secrets


async def test_a_header_from_the_environment_goes_to_the_listed_host_and_to_no_other(
    website: Website, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SITE_TOKEN", "Bearer correct-horse")
    caplog.set_level("DEBUG")
    with serving() as other:
        other.url("/page", answer(body=b"elsewhere"))
        away = website.url("/away", redirect(f"{other.address}/page"))
        website.url("/here", answer())
        near = website.url("/near", redirect("/here"))
        source = SourceSettings(urls=(away, near), header_env={"Authorization": "SITE_TOKEN"})
        listing = await take_urls(source, tmp_path, {}, QUICK)
    assert len(listing.documents) == 2
    assert {headers.get("authorization") for _, headers in website.asked} == {"Bearer correct-horse"}
    assert [headers.get("authorization") for _, headers in other.asked] == [None]
    assert "correct-horse" not in f"{caplog.text} {listing!r} {source!r}"


@pytest.mark.parametrize(("value", "says"), [("", "is not set"), ("correct-horse\nX: 1", "no header")])
async def test_a_header_that_cannot_be_sent_is_refused_and_never_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, says: str
) -> None:
    monkeypatch.setenv("SITE_TOKEN", value)
    source = SourceSettings(url="http://127.0.0.1:9/", header_env={"Authorization": "SITE_TOKEN"})
    with pytest.raises(SourceError, match=f"SITE_TOKEN .*{says}") as refused:
        await take_urls(source, tmp_path, {}, QUICK)
    assert "correct-horse" not in str(refused.value)


async def test_a_redirect_with_credentials_is_refused(website: Website, web: Web, tmp_path: Path) -> None:
    url = website.url("/page", redirect("http://root:correct-horse@127.0.0.1:9/"))
    with pytest.raises(DocumentError, match="credentials") as refused:
        await fetched(web, url, folder=tmp_path)
    assert "correct-horse" not in str(refused.value)


# --- a whole source


async def test_a_folder_that_cannot_be_written_to_ends_the_source_and_quarantines_nothing(
    website: Website, tmp_path: Path
) -> None:
    source = SourceSettings(url=website.url("/page", answer()))
    with pytest.raises(SourceUnavailable, match="No such file or directory"):
        await take(source, tmp_path / "nowhere", {})
    (tmp_path / "rows.csv").write_text("_id,text\n1,x\n")
    with pytest.raises(SourceUnavailable, match=re.escape(str(tmp_path / "nowhere"))):
        await take(SourceSettings(name="rows", csv=tmp_path / "rows.csv"), tmp_path / "nowhere", {})


async def test_a_source_gives_what_comes_and_a_reason_for_the_rest(website: Website, tmp_path: Path) -> None:
    good = website.url("/good.pdf", answer(Content_Type="text/html"))
    gone = website.url("/gone", answer(410))
    missing, forbidden = website.url("/missing", answer(404)), website.url("/forbidden", answer(403))
    down = website.url("/down", answer(500))
    source = SourceSettings(name="site", urls=(good, gone, missing, forbidden, down), tags=("a", "b"))
    listing = await take_urls(source, tmp_path, {}, QUICK)
    (ref,) = listing.documents
    assert (ref.uri, ref.media_type, ref.metadata) == (good, "text/html", (("tags", "a b"),))
    reasons = {entry.uri: entry.reason for entry in listing.quarantined}
    assert reasons.keys() == {missing, forbidden, down}, "only what is gone for good is left out"
    assert [str(left) for left in listing.left_out] == ["1 page left out by HTTP 410, gone for good"]
    assert "HTTP 404" in reasons[missing]
    assert "HTTP 403" in reasons[forbidden]
    assert "HTTP 500" in reasons[down]
    asked = Counter(path for path, _ in website.asked)
    assert asked == {"/good.pdf": 1, "/gone": 1, "/missing": 1, "/forbidden": 1, "/down": QUICK.attempts}


@pytest.mark.parametrize(
    "trouble",
    [
        answer(500),
        answer(429, Retry_After="0"),
        reset,
        answer(body=BODY, length=len(BODY) + 1),
        chunked(BODY[:5], ended=False),
        answer(body=gzip.compress(BODY, mtime=0)[:-9], Content_Encoding="gzip"),
    ],
    ids=["500", "429", "reset", "short body", "short chunks", "short gzip"],
)
async def test_trouble_that_passes_is_waited_for(website: Website, tmp_path: Path, trouble: Answer) -> None:
    url = website.url("/page", in_turn(trouble, trouble, answer()))
    (ref,) = (await take_urls(SourceSettings(url=url), tmp_path, {}, QUICK)).documents
    assert ref.path is not None
    assert ref.path.read_bytes() == BODY
    assert len(website.asked) == 3
    assert files_in(tmp_path) == [ref.path]


async def test_a_host_that_asks_for_peace_gets_it_from_all_documents(website: Website, tmp_path: Path) -> None:
    times: list[float] = []

    def noted(handler: BaseHTTPRequestHandler) -> None:
        times.append(time.monotonic())
        (answer(429, Retry_After="1") if len(times) == 1 else answer())(handler)

    urls = tuple(website.url(f"/{number}", noted) for number in range(3))
    limits = DownloadLimits(pause_seconds=0.01, retry_after_seconds=0.4)
    source = SourceSettings(urls=urls, concurrency_per_host=1)
    assert len((await take_urls(source, tmp_path, {}, limits)).documents) == 3
    assert times[1] - times[0] >= 0.4, "the next document waits as well, and no longer than the cap"
    assert times[-1] - times[0] < 5


async def test_a_host_that_is_down_is_given_up_and_the_others_are_not(website: Website, tmp_path: Path) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        dead = [f"http://127.0.0.1:{port}/{number}" for number in range(20)]
        alive = website.url("/page", answer())
        source = SourceSettings(urls=(*dead, alive), concurrency_per_host=1)
        listing = await take_urls(source, tmp_path, {}, QUICK)
    assert [ref.uri for ref in listing.documents] == [alive]
    reasons = [entry.reason for entry in listing.quarantined]
    assert sum("no connection" in reason for reason in reasons) == 3
    assert sum(f"127.0.0.1:{port} gave no answer to 3 documents in a row" in reason for reason in reasons) == 17


async def test_no_more_requests_are_under_way_than_a_source_allows(website: Website, tmp_path: Path) -> None:
    under_way, most, lock = 0, 0, threading.Lock()

    def counted(handler: BaseHTTPRequestHandler) -> None:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        time.sleep(0.02)
        with lock:
            under_way -= 1
        answer()(handler)

    urls = tuple(website.url(f"/{number}", counted) for number in range(30))
    await take_urls(SourceSettings(urls=urls, concurrency=16, concurrency_per_host=3), tmp_path, {}, QUICK)
    assert most == 3


async def test_an_unchanged_source_costs_only_answers_of_304(website: Website, tmp_path: Path) -> None:
    urls = tuple(website.url(f"/{number}", conditional) for number in range(5))
    source = SourceSettings(urls=urls)
    first = await take_urls(source, tmp_path, {}, QUICK)
    website.asked.clear()
    (tmp_path / "second").mkdir()
    second = await take_urls(source, tmp_path / "second", {ref.id: ref.validator for ref in first.documents}, QUICK)
    assert [ref.content for ref in second.documents] == [None] * 5
    assert len(website.asked) == 5
    assert files_in(tmp_path / "second") == []


async def test_a_validator_of_another_kind_of_source_asks_for_the_whole_document(
    website: Website, web: Web, tmp_path: Path
) -> None:
    for validator in ("4b825dc642cb6eb9a060e54bf8d69288fbee4904", "[1]", '"x"'):
        ref = await fetched(web, website.url("/page", conditional), folder=tmp_path, validator=validator)
        assert ref.content is not None


async def test_a_body_that_never_ends_is_cut_off_at_the_size_limit(website: Website, web: Web, tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match="larger than"):
        await fetched(web, website.url("/", endless), folder=tmp_path, limits=DownloadLimits(size_bytes=1_000_000))
    assert files_in(tmp_path) == []


async def test_a_body_that_drips_is_cut_off_at_the_time_limit(website: Website, web: Web, tmp_path: Path) -> None:
    url = website.url("/page", chunked(*[b"x"] * 100, pause_seconds=0.05))
    with pytest.raises(SourceUnavailable, match=r"not complete after 0\.3 s"):
        await fetched(web, url, folder=tmp_path, limits=DownloadLimits(total_seconds=0.3))
    assert files_in(tmp_path) == []


async def test_a_gzip_bomb_never_becomes_a_large_piece_of_memory(website: Website, web: Web, tmp_path: Path) -> None:
    bomb = gzip.compress(bytes(60_000_000))
    url = website.url("/page", answer(body=bomb, Content_Encoding="gzip"))
    tracemalloc.start()
    try:
        with pytest.raises(DocumentError, match="larger than"):
            await fetched(web, url, folder=tmp_path, limits=DownloadLimits(size_bytes=50_000_000))
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


@settings(max_examples=50)
@given(
    members=st.lists(st.binary(max_size=300).map(lambda data: data * 500), min_size=1, max_size=3),
    cuts=st.lists(st.integers(1, 200), min_size=1),
)
def test_gzip_comes_out_the_same_however_it_is_cut(members: list[bytes], cuts: list[int]) -> None:
    packed, inflater, found, at = b"".join(map(gzip.compress, members)), Inflater(), b"", 0
    for cut in itertools.cycle(cuts):
        for piece in inflater.feed(packed[at : at + cut]):
            assert len(piece) <= PIECE_BYTES
            found += piece
        at += cut
        if at >= len(packed):
            break
        assert not inflater.is_complete or found in set(itertools.accumulate(members))
    assert inflater.is_complete
    assert found == b"".join(members)


async def test_several_members_of_gzip_are_one_document(website: Website, web: Web, tmp_path: Path) -> None:
    body = gzip.compress(BODY) + gzip.compress(BODY * 100_000) + b"\x00" * 9
    url = website.url("/page", answer(body=body, Content_Encoding="gzip"))
    assert (await fetched(web, url, folder=tmp_path)).size_bytes == len(BODY) * 100_001


async def test_an_encoding_that_nobody_asked_for_is_refused(website: Website, web: Web, tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match="'br'"):
        await fetched(web, website.url("/page", answer(Content_Encoding="br")), folder=tmp_path)
    assert website.asked[0][1]["accept-encoding"] == "gzip"
    assert re.fullmatch(r"nightloom/\d+\.\d+.*", website.asked[0][1]["user-agent"])
