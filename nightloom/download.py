"""Documents by HTTP: one request each, conditional where the last night left a validator."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from nightloom.documents import DocumentRef, document_id
from nightloom.errors import DocumentError, SourceUnavailable

USER_AGENT = "nightloom"
RETRY_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
GONE_STATUSES = frozenset({404, 410})


@dataclass(frozen=True, slots=True)
class DownloadLimits:
    """Bounds of one download."""

    connect_seconds: float = 10
    read_seconds: float = 30
    total_seconds: float = 300
    size_bytes: int = 100_000_000
    redirects: int = 5
    retry_after_seconds: float = 60


LIMITS = DownloadLimits()


@asynccontextmanager
async def http_client(limits: DownloadLimits = LIMITS) -> AsyncIterator[httpx.AsyncClient]:
    """A client for the running event loop; it retries nothing by itself."""
    timeout = httpx.Timeout(limits.read_seconds, connect=limits.connect_seconds)
    async with httpx.AsyncClient(
        timeout=timeout,
        follow_redirects=True,
        max_redirects=limits.redirects,
        headers={"User-Agent": USER_AGENT},
    ) as client:
        yield client


async def fetch(
    client: httpx.AsyncClient,
    url: str,
    *,
    source: str,
    folder: Path,
    validator: str = "",
    limits: DownloadLimits = LIMITS,
) -> DocumentRef:
    """Fetch one document into a file of the folder, or learn that it is as it was.

    Args:
        client: Of the running event loop; the caller closes it.
        url: http or https.
        source: Label of the source, for messages.
        folder: Where the file goes; its name is made of the URL's hash, never of anything the server says.
        validator: What an earlier fetch of the same URL returned; "" asks for the whole document.
        limits: Bounds; the size holds for the decoded bytes.

    Returns:
        The document; its content is None when the server answers 304.

    Raises:
        SourceUnavailable: No answer, a cut answer, or an answer that says "later"; safe to retry.
        DocumentError: Refused, gone or too large; retrying cannot help tonight.
    """
    try:
        async with (
            asyncio.timeout(limits.total_seconds),
            client.stream("GET", url, headers=_conditions(validator)) as answer,
        ):
            if answer.status_code == httpx.codes.NOT_MODIFIED and validator:
                return DocumentRef(url, url, source, None, None, 0, validator=validator)
            await _check_status(url, answer, limits)
            file = folder / document_id(url)
            content, size_bytes = await _save(url, answer, file, limits)
    except TimeoutError:
        raise SourceUnavailable(f"{url}: not complete after {limits.total_seconds:g} s") from None
    except (httpx.TooManyRedirects, httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
        raise DocumentError(f"{url}: {error}") from error
    except httpx.HTTPError as error:
        raise SourceUnavailable(f"{url}: {type(error).__name__}: {error}") from error
    return DocumentRef(
        url,
        url,
        source,
        content,
        file,
        size_bytes,
        media_type=answer.headers.get("content-type", "").partition(";")[0].strip().lower(),
        validator=_validator(answer.headers),
    )


async def _check_status(url: str, answer: httpx.Response, limits: DownloadLimits) -> None:
    status = answer.status_code
    if status in RETRY_STATUSES:
        pause = answer.headers.get("retry-after", "")
        if pause.isascii() and pause.isdigit():
            await asyncio.sleep(min(int(pause), limits.retry_after_seconds))
        raise SourceUnavailable(f"{url}: HTTP {status} {answer.reason_phrase}")
    if status in GONE_STATUSES:
        raise DocumentError(f"{url}: HTTP {status} {answer.reason_phrase}: remove the URL from the corpus file")
    if not answer.is_success:
        raise DocumentError(f"{url}: HTTP {status} {answer.reason_phrase}")


async def _save(url: str, answer: httpx.Response, file: Path, limits: DownloadLimits) -> tuple[str, int]:
    """Stream the body to a file that bears its name only once it is complete."""
    digest, size_bytes = hashlib.sha256(), 0
    unfinished = file.with_suffix(".part")
    with unfinished.open("wb") as stream:
        async for piece in answer.aiter_bytes():
            size_bytes += len(piece)
            if size_bytes > limits.size_bytes:
                raise DocumentError(f"{url}: larger than {limits.size_bytes} bytes")
            digest.update(piece)
            stream.write(piece)
    unfinished.replace(file)
    return digest.hexdigest(), size_bytes


def _validator(headers: Mapping[str, str]) -> str:
    # What is not ASCII cannot be sent back; such a document is read every night.
    given = {name: headers.get(name, "") for name in ("etag", "last-modified")}
    kept = {name: value for name, value in given.items() if value and value.isascii()}
    return json.dumps(kept) if kept else ""


def _conditions(validator: str) -> dict[str, str]:
    if not validator:
        return {}
    kept = json.loads(validator)
    names = {"etag": "If-None-Match", "last-modified": "If-Modified-Since"}
    return {names[name]: value for name, value in kept.items() if name in names}
