"""Downloads from a real server on loopback: whole or not at all, conditional, bounded."""

import asyncio
import contextlib
import gzip
import hashlib
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from nightloom.documents import document_id
from nightloom.download import DownloadLimits, fetch, http_client
from nightloom.errors import DocumentError, SourceUnavailable, TransientError

Answer = Callable[[BaseHTTPRequestHandler], None]
BODY = b"The moon pulls the tides."
ETAG = '"v1"'
MODIFIED = "Sun, 22 Nov 2026 22:00:00 GMT"


@dataclass
class Website:
    """A server that answers each path as a test says, and remembers what it was asked."""

    address: str
    answers: dict[str, Answer] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    def url(self, path: str, answer: Answer) -> str:
        self.answers[path] = answer
        return self.address + path


@pytest.fixture
def website() -> Iterator[Website]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            site.asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
            site.answers[self.path](self)

        def log_message(self, *_arguments: object) -> None:
            """Say nothing."""

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_arguments: object) -> None:
            """Clients hang up on purpose here."""

    server = Server(("127.0.0.1", 0), Handler)
    site = Website(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield site
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with http_client() as opened:
        yield opened


def answer(status: int = 200, body: bytes = BODY, *, length: int | None = None, **headers: str) -> Answer:
    """An answer with these headers (underscores are dashes); `length` lies about the body."""

    def give(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        if status != httpx.codes.NOT_MODIFIED:
            handler.send_header("Content-Length", str(len(body) if length is None else length))
        handler.end_headers()
        if status != httpx.codes.NOT_MODIFIED:
            handler.wfile.write(body)
        if length is not None:
            handler.close_connection = True

    return give


def conditional(handler: BaseHTTPRequestHandler) -> None:
    """200 with validators, 304 to who has them."""
    unchanged = handler.headers["If-None-Match"] == ETAG and handler.headers["If-Modified-Since"] == MODIFIED
    answer(304 if unchanged else 200, Content_Type="text/plain", ETag=ETAG, Last_Modified=MODIFIED)(handler)


def files_in(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


# --- what comes


async def test_a_document_is_saved_whole_under_a_name_of_ours(
    website: Website, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    url = website.url(
        "/..%2Fevil/page.md?x=1",
        answer(Content_Type="Text/Markdown; charset=utf-8", Content_Disposition='attachment; filename="../../x"'),
    )
    ref = await fetch(client, url, source="site", folder=tmp_path)
    assert (ref.uri, ref.item, ref.source, ref.media_type) == (url, url, "site", "text/markdown")
    assert (ref.content, ref.size_bytes) == (hashlib.sha256(BODY).hexdigest(), len(BODY))
    assert ref.path == tmp_path / document_id(url)
    assert ref.path.read_bytes() == BODY
    assert files_in(tmp_path) == [ref.path]


async def test_a_second_night_asks_whether_it_changed(
    website: Website, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    url = website.url("/page", conditional)
    first = await fetch(client, url, source="site", folder=tmp_path)
    assert json.loads(first.validator) == {"etag": ETAG, "last-modified": MODIFIED}
    second = await fetch(client, url, source="site", folder=tmp_path, validator=first.validator)
    assert (second.content, second.path, second.validator) == (None, None, first.validator)
    assert second.id == first.id
    assert "if-none-match" not in website.asked[0][1]

    changed = await fetch(client, url, source="site", folder=tmp_path, validator='{"etag": "\\"v0\\""}')
    assert changed.content == first.content
    assert website.asked[2][1]["if-none-match"] == '"v0"'
    assert "if-modified-since" not in website.asked[2][1]


async def test_without_validators_the_document_is_read_every_night(
    website: Website, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    url = website.url("/page", answer())
    for _ in range(2):
        ref = await fetch(client, url, source="site", folder=tmp_path, validator="")
        assert (ref.validator, ref.media_type) == ("", "")
        assert ref.content is not None


async def test_an_etag_of_any_bytes_can_be_given_back(
    website: Website, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    url = website.url("/page", answer(ETag='"caf\xe9"'))
    first = await fetch(client, url, source="site", folder=tmp_path)
    again = await fetch(client, url, source="site", folder=tmp_path, validator=first.validator)
    assert again.content == first.content


async def test_not_modified_without_a_question_is_an_error(
    website: Website, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    with pytest.raises(DocumentError, match="304"):
        await fetch(client, website.url("/page", answer(304)), source="site", folder=tmp_path)


async def test_several_documents_at_once_do_not_mix(
    website: Website, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    urls = [website.url(f"/{number}", answer(body=b"%d " % number * 50_000)) for number in range(12)]
    refs = await asyncio.gather(*(fetch(client, url, source="site", folder=tmp_path) for url in urls))
    for number, ref in enumerate(refs):
        assert ref.path is not None
        assert ref.path.read_bytes() == b"%d " % number * 50_000


# --- what does not come


@pytest.mark.parametrize("status", [404, 410, 401, 403, 400, 418])
async def test_what_is_gone_or_refused_is_not_tried_again(
    website: Website, client: httpx.AsyncClient, tmp_path: Path, status: int
) -> None:
    url = website.url("/page", answer(status))
    with pytest.raises(DocumentError, match=f"HTTP {status}") as refused:
        await fetch(client, url, source="site", folder=tmp_path)
    assert url in str(refused.value)
    assert not isinstance(refused.value, TransientError)
    assert ("remove the URL" in str(refused.value)) == (status in {404, 410})
    assert files_in(tmp_path) == []


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
async def test_what_is_only_down_may_be_tried_again(
    website: Website, client: httpx.AsyncClient, tmp_path: Path, status: int
) -> None:
    url = website.url("/page", answer(status, Retry_After="0"))
    with pytest.raises(SourceUnavailable, match=f"HTTP {status}") as later:
        await fetch(client, url, source="site", folder=tmp_path)
    assert isinstance(later.value, TransientError)
    website.url("/page", answer())
    assert (await fetch(client, url, source="site", folder=tmp_path)).content


async def test_retry_after_is_honoured_up_to_a_cap(website: Website, client: httpx.AsyncClient, tmp_path: Path) -> None:
    url = website.url("/page", answer(503, Retry_After="86400"))
    waiting = asyncio.create_task(fetch(client, url, source="site", folder=tmp_path))
    done, _ = await asyncio.wait({waiting}, timeout=0.5)
    assert not done, "it waits before it lets anybody try again"
    waiting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await waiting
    capped = DownloadLimits(retry_after_seconds=0)
    with pytest.raises(SourceUnavailable):
        await fetch(client, url, source="site", folder=tmp_path, limits=capped)


@pytest.mark.parametrize("pause", ["soon", "-1", "Sun, 22 Nov 2026 22:00:00 GMT", ""])
async def test_a_retry_after_that_is_no_number_of_seconds_is_no_crash(
    website: Website, client: httpx.AsyncClient, tmp_path: Path, pause: str
) -> None:
    with pytest.raises(SourceUnavailable):
        await fetch(client, website.url("/page", answer(503, Retry_After=pause)), source="site", folder=tmp_path)


async def test_a_retry_after_of_odd_bytes_is_no_crash(
    website: Website, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    with pytest.raises(SourceUnavailable):
        await fetch(client, website.url("/page", answer(503, Retry_After="\xb2")), source="site", folder=tmp_path)


async def test_a_cut_body_is_never_read(website: Website, client: httpx.AsyncClient, tmp_path: Path) -> None:
    url = website.url("/page", answer(body=BODY, length=len(BODY) + 1))
    with pytest.raises(SourceUnavailable, match="/page"):
        await fetch(client, url, source="site", folder=tmp_path)
    assert not (tmp_path / document_id(url)).exists()
    website.url("/page", answer())
    ref = await fetch(client, url, source="site", folder=tmp_path)
    assert ref.path is not None
    assert ref.path.read_bytes() == BODY


async def test_a_cut_body_does_not_touch_what_is_there(
    website: Website, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    url = website.url("/page", answer())
    ref = await fetch(client, url, source="site", folder=tmp_path)
    assert ref.path is not None
    website.url("/page", answer(body=b"another", length=10_000))
    with pytest.raises(SourceUnavailable):
        await fetch(client, url, source="site", folder=tmp_path)
    assert ref.path.read_bytes() == BODY


async def test_broken_compression_is_an_error(website: Website, client: httpx.AsyncClient, tmp_path: Path) -> None:
    url = website.url("/page", answer(body=b"not gzip", Content_Encoding="gzip"))
    with pytest.raises(SourceUnavailable):
        await fetch(client, url, source="site", folder=tmp_path)
    assert not (tmp_path / document_id(url)).exists()


async def test_nobody_there_may_be_tried_again(website: Website, client: httpx.AsyncClient, tmp_path: Path) -> None:
    closed = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    port = closed.server_address[1]
    closed.server_close()
    with pytest.raises(SourceUnavailable, match=str(port)):
        await fetch(client, f"http://127.0.0.1:{port}/", source="site", folder=tmp_path)


async def test_the_whole_of_a_download_has_a_limit(website: Website, client: httpx.AsyncClient, tmp_path: Path) -> None:
    ended = threading.Event()

    def half(handler: BaseHTTPRequestHandler) -> None:
        answer(body=BODY[:5], length=len(BODY))(handler)
        handler.wfile.flush()
        ended.wait(60)

    url = website.url("/page", half)
    try:
        with pytest.raises(SourceUnavailable, match=r"not complete after 0\.3 s"):
            await fetch(client, url, source="site", folder=tmp_path, limits=DownloadLimits(total_seconds=0.3))
    finally:
        ended.set()
    assert not (tmp_path / document_id(url)).exists()


# --- bounds


async def test_a_document_above_the_size_limit_is_refused(
    website: Website, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    limits = DownloadLimits(size_bytes=1_000)
    url = website.url("/page", answer(body=b"x" * 1_001))
    with pytest.raises(DocumentError, match="larger than 1000 bytes"):
        await fetch(client, url, source="site", folder=tmp_path, limits=limits)
    assert not (tmp_path / document_id(url)).exists()
    website.url("/page", answer(body=b"x" * 1_000))
    assert (await fetch(client, url, source="site", folder=tmp_path, limits=limits)).size_bytes == 1_000


async def test_the_size_limit_holds_for_what_comes_out_of_compression(
    website: Website, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    bomb = gzip.compress(b"\x00" * 20_000_000)
    url = website.url("/page", answer(body=bomb, Content_Encoding="gzip"))
    with pytest.raises(DocumentError, match="larger than 100000 bytes"):
        await fetch(client, url, source="site", folder=tmp_path, limits=DownloadLimits(size_bytes=100_000))
    assert sum(file.stat().st_size for file in files_in(tmp_path)) <= 100_000


# --- redirects


def redirect(to: str) -> Answer:
    return answer(302, b"", Location=to)


async def test_a_redirect_is_followed_and_the_document_keeps_its_name(
    website: Website, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    website.url("/new", answer(Content_Type="text/plain"))
    url = website.url("/old", redirect("/new"))
    ref = await fetch(client, url, source="site", folder=tmp_path)
    assert (ref.uri, ref.media_type) == (url, "text/plain")
    assert ref.path == tmp_path / document_id(url)


@pytest.mark.parametrize("target", ["file:///etc/hostname", "ftp://127.0.0.1/a", "gopher://127.0.0.1/", "data:,x"])
async def test_a_redirect_away_from_http_is_refused(
    website: Website, client: httpx.AsyncClient, tmp_path: Path, target: str
) -> None:
    url = website.url("/page", redirect(target))
    with pytest.raises(DocumentError) as refused:
        await fetch(client, url, source="site", folder=tmp_path)
    assert url in str(refused.value)
    assert files_in(tmp_path) == []


async def test_redirects_in_a_circle_end(website: Website, client: httpx.AsyncClient, tmp_path: Path) -> None:
    website.url("/b", redirect("/a"))
    with pytest.raises(DocumentError, match="redirects"):
        await fetch(client, website.url("/a", redirect("/b")), source="site", folder=tmp_path)
    assert len(website.asked) <= 6, "five redirects at most"


async def test_a_redirect_to_nowhere_is_an_error(website: Website, client: httpx.AsyncClient, tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match="302"):
        await fetch(client, website.url("/page", answer(302, b"")), source="site", folder=tmp_path)
    for target in ("http://[::1", "http://", "//"):
        with pytest.raises((DocumentError, SourceUnavailable)):
            await fetch(client, website.url("/page", redirect(target)), source="site", folder=tmp_path)


@pytest.mark.parametrize("url", ["http://", "http://[::1", "http://a b/", "http://\x00/", "http://" + "a" * 300 + "/"])
async def test_an_address_that_is_none_is_an_error_of_the_document(
    client: httpx.AsyncClient, tmp_path: Path, url: str
) -> None:
    with pytest.raises((DocumentError, SourceUnavailable)):
        await fetch(client, url, source="site", folder=tmp_path)
