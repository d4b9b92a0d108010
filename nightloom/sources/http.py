"""Documents by HTTP: one conditional request each, bounded in time, bytes and redirects."""

import asyncio
import hashlib
import json
import os
import ssl
import zlib
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import httpcore
import httpx

from nightloom.corpus import SourceSettings
from nightloom.documents import DocumentRef, Scalar, document_id
from nightloom.errors import DocumentError, SourceError, SourceUnavailable
from nightloom.sources.addresses import PrivateAddress, PublicOnly, is_public
from nightloom.sources.inflate import Inflater

try:
    USER_AGENT = f"nightloom/{version('nightloom')}"
except PackageNotFoundError:
    USER_AGENT = "nightloom"

RETRY_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
HOST_STATUSES = frozenset({429, 503})
"""What a server says when it has enough of us, or of everybody."""


@dataclass(frozen=True, slots=True)
class DownloadLimits:
    """Bounds of one document by HTTP.

    Attributes:
        total_seconds: For one attempt, redirects included.
        size_bytes: Of the body as it comes, and of what comes out of its compression.
        retry_after_seconds: How long a server can make us wait between attempts.
        pause_seconds: Before the second attempt, about; twice as long before each further one.
        silent_documents: In a row that a host may leave without an answer; then it is not asked again.
    """

    connect_seconds: float = 10
    read_seconds: float = 30
    total_seconds: float = 300
    size_bytes: int = 100_000_000
    redirects: int = 5
    retry_after_seconds: float = 60
    attempts: int = 4
    pause_seconds: float = 1
    silent_documents: int = 3


LIMITS = DownloadLimits()


class Web:
    """HTTP for one source: what it lists may lie anywhere, what it is redirected to only where it should."""

    def __init__(
        self,
        source: SourceSettings,
        clients: tuple[httpx.AsyncClient, httpx.AsyncClient],
        limits: DownloadLimits,
        environ: Mapping[str, str],
    ) -> None:
        """Take the secrets from the environment.

        Args:
            source: By HTTP.
            clients: One that goes anywhere, one that goes to public addresses only.
            limits: Bounds of each request.
            environ: Where `header_env` finds its values.

        Raises:
            SourceError: A variable that `header_env` names is not set, or holds what no header can.
        """
        self.source = source
        self.limits = limits
        self._anywhere, self._public_only = clients
        self._secrets = dict(_secret_headers(source, environ))
        self._listed = [httpx.URL(url) for url in source.addresses or (source.sitemap or "",)]

    @asynccontextmanager
    async def get(self, url: str, headers: Mapping[str, str]) -> AsyncIterator[httpx.Response]:
        """The answer to a request after its redirects, with its body still to come.

        Raises:
            DocumentError: Too many redirects, or one to where none may lead.
            httpx.HTTPError: No answer.
        """
        target, came_from_public = httpx.URL(url), False
        for _ in range(self.limits.redirects + 1):
            client = self._public_only if came_from_public else self._anywhere
            sent = {**headers, **(self._secrets if self._is_listed(target) else {})}
            async with client.stream("GET", target, headers=sent) as answer:
                if answer.next_request is None:
                    yield answer
                    return
                target = _checked(url, answer.next_request.url)
                came_from_public |= not self.source.allow_private and _is_from_public(answer)
        raise DocumentError(f"{url}: more than {self.limits.redirects} redirects")

    def _is_listed(self, target: httpx.URL) -> bool:
        """Whether a request goes to where the user said, so that it may carry secrets: scheme, host and port."""
        upgraded = target.copy_with(scheme="http") if target.scheme == "https" and target.port is None else target
        return any(_origin(listed) in {_origin(target), _origin(upgraded)} for listed in self._listed)


@asynccontextmanager
async def open_web(
    source: SourceSettings, limits: DownloadLimits = LIMITS, environ: Mapping[str, str] | None = None
) -> AsyncIterator[Web]:
    """HTTP for a source, in the running event loop; it retries nothing by itself.

    Raises:
        SourceError: A variable that `header_env` names is not set, or holds what no header can.
    """
    settings: dict[str, Any] = {
        "timeout": httpx.Timeout(limits.read_seconds, connect=limits.connect_seconds),
        # Other encodings have no bound on what a few bytes of them become.
        "headers": {"User-Agent": USER_AGENT, "Accept-Encoding": "gzip"},
    }
    async with AsyncExitStack() as stack:
        anywhere = await stack.enter_async_context(httpx.AsyncClient(**settings))
        public_only = await stack.enter_async_context(httpx.AsyncClient(**settings, transport=_PublicTransport()))
        yield Web(source, (anywhere, public_only), limits, os.environ if environ is None else environ)


class _PublicTransport(httpx.AsyncHTTPTransport):
    """httpx's own, over connections to public addresses only; httpx has no argument for that."""

    def __init__(self) -> None:
        super().__init__()
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=httpx.create_ssl_context(), max_connections=100, network_backend=PublicOnly()
        )


def _secret_headers(source: SourceSettings, environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for header, variable in source.header_env.items():
        where = f"source {source.label!r}: header_env: {header}: the environment variable {variable}"
        value = environ.get(variable, "")
        if not value:
            raise SourceError(f"{where} is not set; set it where the night runs")
        if not (value.isascii() and value.isprintable()):
            raise SourceError(f"{where} holds characters that no header can; set it anew")
        yield header, value


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


def _checked(url: str, target: httpx.URL) -> httpx.URL:
    if target.scheme not in {"http", "https"}:
        raise DocumentError(f"{url}: redirected to {target.scheme}:, and only http and https are followed")
    if target.userinfo:
        raise DocumentError(f"{url}: redirected to an address with credentials in it, which is not followed")
    return target


def _is_from_public(answer: httpx.Response) -> bool:
    """Whether the other end of the connection is public; behind a proxy, that is the proxy."""
    stream = answer.extensions.get("network_stream")
    peer = stream.get_extra_info("server_addr") if stream else None
    return is_public(str(peer[0])) if peer else True


async def fetch(
    web: Web, url: str, *, folder: Path, validator: str = "", metadata: Iterable[tuple[str, Scalar]] = ()
) -> DocumentRef | None:
    """Fetch one document into a file of the folder, or learn that it is as it was.

    Args:
        web: Of the source, in the running event loop.
        url: http or https.
        folder: Where the file goes; its name is made of the URL's hash, never of anything the server says.
        validator: What an earlier fetch of the same URL returned; "" asks for the whole document.
        metadata: Of the document.

    Returns:
        The document; its content is None when the server answers 304. None where it is gone for good (410).

    Raises:
        SourceUnavailable: No answer, a cut answer, or an answer that says "later"; safe to retry.
        DocumentError: Refused or too large; retrying cannot help tonight.
    """
    source, limits, known = web.source.label, web.limits, tuple(metadata)
    async with asking(url, limits), web.get(url, _conditions(validator)) as answer:
        if answer.status_code == httpx.codes.NOT_MODIFIED and validator:
            return DocumentRef(url, url, source, None, None, 0, validator=validator, metadata=known)
        if answer.status_code == httpx.codes.GONE:
            return None
        check_status(url, answer, limits)
        file = folder / document_id(url)
        content, size_bytes = await save(url, answer, file, limits)
        return DocumentRef(
            url,
            url,
            source,
            content,
            file,
            size_bytes,
            media_type=answer.headers.get("content-type", "").partition(";")[0].strip().lower(),
            validator=_validator(answer.headers),
            metadata=known,
        )


@asynccontextmanager
async def asking(url: str, limits: DownloadLimits) -> AsyncIterator[None]:
    """Bound the time of a request, and turn what can go wrong in it into errors of ours.

    Raises:
        SourceUnavailable: No answer or a cut one; safe to retry.
        DocumentError: What no retry mends.
    """
    try:
        async with asyncio.timeout(limits.total_seconds):
            yield
    except TimeoutError:
        raise SourceUnavailable(f"{url}: not complete after {limits.total_seconds:g} s") from None
    except PrivateAddress as error:
        raise DocumentError(
            f"{url}: redirected to the private address {error}; if that is right, set allow_private = true"
        ) from None
    except (httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
        raise DocumentError(f"{url}: {error}") from error
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        if distrust := _distrust(error):
            raise DocumentError(
                f"{url}: its certificate is not trusted: {distrust}; if it should be, name the file of its authority's"
                " certificate in SSL_CERT_FILE"
            ) from None
        raise SourceUnavailable(f"{url}: no connection: {error or type(error).__name__}", whole_host=True) from error
    except httpx.HTTPError as error:
        raise SourceUnavailable(f"{url}: {type(error).__name__}: {error}") from error


def _distrust(error: BaseException) -> str:
    """Why a certificate is not trusted; "" where something else ended the connection."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLCertVerificationError):
        cause = cause.__cause__ or cause.__context__
    return cause.verify_message if isinstance(cause, ssl.SSLCertVerificationError) else ""


def check_status(url: str, answer: httpx.Response, limits: DownloadLimits) -> None:
    """Let a success pass.

    Raises:
        SourceUnavailable: The status says "later".
        DocumentError: It says no.
    """
    says = f"{url}: HTTP {answer.status_code} {answer.reason_phrase}"
    if answer.status_code in RETRY_STATUSES:
        raise SourceUnavailable(
            says,
            retry_after_seconds=min(_retry_after(answer.headers.get("retry-after", "")), limits.retry_after_seconds),
            whole_host=answer.status_code in HOST_STATUSES,
        )
    if answer.status_code == httpx.codes.NOT_FOUND:
        raise DocumentError(f"{says}: what is indexed stays; if it is gone for good, remove the URL")
    if not answer.is_success:
        raise DocumentError(says)


def _retry_after(value: str) -> float:
    """Seconds that a Retry-After header asks for, as a number or as a date; 0 for what is neither."""
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        until = parsedate_to_datetime(value)
    except ValueError:
        return 0
    aware = until if until.tzinfo else until.replace(tzinfo=UTC)
    return max(0, (aware - datetime.now(UTC)).total_seconds())


async def save(url: str, answer: httpx.Response, file: Path, limits: DownloadLimits) -> tuple[str, int]:
    """Stream the body to a file that bears its name only once it is complete.

    Returns:
        sha256, hex, and size of what came out of its compression.

    Raises:
        SourceUnavailable: It is cut, or its compression is broken.
        DocumentError: It is larger than the limit, or in an encoding that nobody asked for.
    """
    digest, size_bytes = hashlib.sha256(), 0
    unfinished = file.with_suffix(".part")
    try:
        with unfinished.open("wb") as stream:
            async for piece in _decoded(url, answer, limits):
                size_bytes += len(piece)
                _check_size(url, size_bytes, limits)
                digest.update(piece)
                stream.write(piece)
        unfinished.replace(file)
    finally:
        unfinished.unlink(missing_ok=True)
    return digest.hexdigest(), size_bytes


async def _decoded(url: str, answer: httpx.Response, limits: DownloadLimits) -> AsyncIterator[bytes]:
    encoding = answer.headers.get("content-encoding", "identity").strip().lower() or "identity"
    if encoding not in {"identity", "gzip", "x-gzip"}:
        raise DocumentError(f"{url}: came with Content-Encoding {encoding!r}, which was not asked for")
    inflater = None if encoding == "identity" else Inflater()
    async for raw in answer.aiter_raw():
        _check_size(url, answer.num_bytes_downloaded, limits)
        if inflater is None:
            yield raw
            continue
        try:
            for piece in inflater.feed(raw):
                yield piece
        except zlib.error as error:
            raise SourceUnavailable(f"{url}: its compression is broken: {error}") from None
    if inflater and answer.num_bytes_downloaded and not inflater.is_complete:
        raise SourceUnavailable(f"{url}: its compression ends too early")


def _check_size(url: str, size_bytes: int, limits: DownloadLimits) -> None:
    if size_bytes > limits.size_bytes:
        raise DocumentError(f"{url}: larger than {limits.size_bytes} bytes")


def _validator(headers: Mapping[str, str]) -> str:
    # What is not ASCII cannot be sent back; such a document is read every night.
    given = {name: headers.get(name, "") for name in ("etag", "last-modified")}
    kept = {name: value for name, value in given.items() if value and value.isascii()}
    return json.dumps(kept) if kept else ""


def _conditions(validator: str) -> dict[str, str]:
    try:
        kept = json.loads(validator)
    except ValueError:  # none, or of another kind of source that had this document
        return {}
    names = {"etag": "If-None-Match", "last-modified": "If-Modified-Since"}
    return {names[name]: value for name, value in kept.items() if name in names} if isinstance(kept, dict) else {}
