"""Errors of Milvus and of pymilvus as ours, by what a retry would do."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import grpc
from pymilvus import MilvusException
from pymilvus import exceptions as milvus_errors

from nightloom.errors import IndexRefused, IndexUnavailable

_OF_SERVERS = (MilvusException, milvus_errors.DescribeCollectionException)
"""Classes in which pymilvus raises what a server answered; the others are its own, about what it was given."""
_OF_ABSENCE = (
    milvus_errors.ConnectError,
    milvus_errors.ConnectionNotExistException,
    milvus_errors.MilvusUnavailableException,
)
"""Errors of pymilvus's own that a retry can mend, as they say that nobody is there at the moment."""
RETRIABLE = "retriable"
"""Attribute of an error whose status the server sent with a flag: that a retry is of use, by the server itself."""
COLLECTION_NOT_EXISTS = 4
"""Code of a collection that is not there, of the older kind that a status has beside the newer one."""
UNEXPECTED = 65_535
"""Code of an error that has none of its own in Milvus: mostly about the request, now and then about the moment."""
_PERMANENT_CODES = frozenset(
    {
        *(6, 10),  # another cluster, not implemented
        *(100, 102, 104, 105, 107, 108, 109),  # collection: absent, too many, schema
        *(200, 250, 300, 301, 302, 303, 304),  # partition, capacity, resource group
        *(700, 701, 702, 703),  # index
        *(800, 801, 802),  # database
        *(1100, 1101, 1102, 1200),  # parameter: invalid, missing, too large; metric
        *(1400, 1401, 1402, 1800, 2500),  # privileges
        *(1600, 1601, 1602, 1603, 1700, 1701),  # alias, field
        *(1801, 1802, 1803, 1804, 1805, 1806),  # what a request holds
        *(2001, 2039, 3000),  # not supported
        UNEXPECTED,
    }
)
"""Codes of errors that no retry mends (Milvus 2.6, pkg/util/merr/errors.go: not retriable). Those that have to do with
memory, disk, quota, nodes, channels and segments are not retriable there either, but pass: a later request fares
better, and no document is to blame."""
_PASSING_WORDS = (
    "fail to query",
    "fail to search",
    "coordinator",
    "lag too large",
    "not healthy",
    "grpc",
    "rpc error",
    "can not find client",
    "delegator",
    "shard",
    "channel",
    "not ready",
    "not available",
    "unavailable",
    "offline",
    "timeout",
    "timed out",
    "context",
    "connect",
    "session",
    "etcd",
)
"""Words of messages about the moment, not the request, among those that come with the code UNEXPECTED: older servers
have no code of their own for them."""
_PERMANENT_WORDS = ("not a number or infinity", "exceeds max length", "exceeds the maximum length")
"""Words of messages that blame the request, whatever code they come with."""
_TOO_LARGE = ("exceed the limit size", "exceed the maxOutputSize", "larger than max")
"""Words of messages that refuse an answer for its bytes: by segment, by query node, by what one message may hold."""
CHECK_TOKEN = "check the user and the password in NIGHTLOOM_MILVUS_TOKEN (user:password), or in milvus.token_block"  # noqa: S105
_NO_ACCESS = {
    grpc.StatusCode.UNAUTHENTICATED: CHECK_TOKEN,
    grpc.StatusCode.PERMISSION_DENIED: "its role may not do this: take a user that may (see docs/security.md)",
}
"""What to do where Milvus lets a user not in, or not do something."""


def is_too_large(error: Exception) -> bool:
    """Whether Milvus refused to answer because the answer would have too many bytes."""
    return any(words in str(error) for words in _TOO_LARGE)


def is_permanent(error: MilvusException) -> bool:
    """Whether the same request would fail again: by the code of a server's answer, or as pymilvus's own complaint."""
    if any(words in str(error) for words in _PERMANENT_WORDS):
        return True
    if type(error) not in _OF_SERVERS:
        return not isinstance(error, _OF_ABSENCE)
    if getattr(error, RETRIABLE, False):
        return False
    if error.code == 0:  # the proxy's cache says so of a collection that is not there, from 2.5.18 on
        return bool(error.compatible_code == COLLECTION_NOT_EXISTS)
    passes = error.code == UNEXPECTED and any(words in str(error).lower() for words in _PASSING_WORDS)
    return error.code in _PERMANENT_CODES and not passes


@contextmanager
def translating() -> Iterator[None]:
    """Raise pymilvus's errors as ours, by what a retry would do."""
    try:
        yield
    except MilvusException as error:
        permanent = is_permanent(error)
        kind, says = (IndexRefused, "refuses") if permanent else (IndexUnavailable, "does not answer as it should")
        raise kind(f"Milvus {says}: {short(error)}") from error
    except grpc.RpcError as error:
        status = error.code() if isinstance(error, grpc.Call) else None
        if status in _NO_ACCESS:
            raise IndexRefused(f"Milvus refuses: {short(error)}; {_NO_ACCESS[status]}") from error
        raise IndexUnavailable(f"Milvus does not answer: {short(error)}") from error
    except ConnectionError as error:
        raise IndexUnavailable(f"Milvus does not answer: {short(error)}") from error


@asynccontextmanager
async def translated(timeout_seconds: float) -> AsyncIterator[None]:
    """Asynchronous calls inside the block end within the limit, and raise errors of ours.

    Raises:
        IndexUnavailable: No answer in time, refused for now; safe to retry.
        IndexRefused: Refused for good.
    """
    try:
        async with asyncio.timeout(timeout_seconds):
            with translating():
                yield
    except TimeoutError:
        raise IndexUnavailable(f"Milvus did not answer within {timeout_seconds:g} s") from None


def short(error: BaseException) -> str:
    """The first line of an error, without the repetition that pymilvus puts around it."""
    details = error.details() if isinstance(error, grpc.Call) else ""
    message = details or getattr(error, "message", "") or str(error) or type(error).__name__
    return str(message).splitlines()[0][:300]
