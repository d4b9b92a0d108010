"""Opening a client of Milvus: a server that is there and lets us in, or the file of a Milvus Lite."""

import logging
from collections import Counter
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any

import grpc
from pymilvus import MilvusClient, MilvusException
from pymilvus import exceptions as milvus_errors

from nightloom.corpus import MilvusSettings
from nightloom.errors import IndexInputError
from nightloom.milvus_address import CONNECT_SECONDS, check_address, speaks_tls
from nightloom.milvus_errors import CHECK_TOKEN, short

NO_KEEPALIVE = {"grpc.keepalive_time_ms": 2_147_483_647}
"""Milvus Lite cuts off a client that asks every 10 s whether it is there, as pymilvus does in long pauses."""
DATABASE_NOT_FOUND = 800
"""Code of Milvus's answer to whoever names a database that is not there."""

_users: Counter[str] = Counter()
"""Of Milvus Lite files, by path: a reader may have one open that a night of the same process opens and closes."""
_counting = Lock()

with suppress(ImportError):  # where another version has no such setting, a small night takes a second longer
    from pymilvus.settings import Config

    Config.WaitTimeDurationWhenLoad = 0.05
    """Seconds between two questions whether a collection is loaded: with pymilvus's own 0.2 s, a small night would
    sleep most of its time away."""

# Its error log repeats, with a traceback, what it raises anyway.
logging.getLogger("pymilvus").setLevel(logging.CRITICAL)


def connect(settings: MilvusSettings, token: str) -> MilvusClient:
    """Open a client.

    Args:
        settings: Where Milvus is.
        token: "user:password", or an API key; "" for none.

    Raises:
        IndexInputError: It cannot be reached within seconds, refuses the token, or its file is open elsewhere.
    """
    if settings.file:
        try:
            settings.file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise IndexInputError(
                f"milvus.uri: {settings.uri}: the folder {settings.file.parent} cannot be made: {error.strerror}; make"
                " it, or name another file"
            ) from None
        # It logs, with a traceback, every call of the client that it does not have (AllocTimestamp).
        logging.getLogger("grpc._server").setLevel(logging.CRITICAL)
        logging.getLogger("milvus_lite").setLevel(logging.CRITICAL)  # likewise: a file that does not open
    else:
        check_address(settings)
    try:
        return MilvusClient(timeout=CONNECT_SECONDS, **arguments(settings, token))
    except milvus_errors.ConnectionConfigException as error:
        raise IndexInputError(_lite_refusal(settings.uri, error)) from None
    except (MilvusException, grpc.RpcError, OSError) as error:
        raise IndexInputError(f"milvus.uri: {settings.uri}: {_refusal(settings, error)}") from None


def check_database(settings: MilvusSettings, client: MilvusClient) -> None:
    """Check that the database is there, where one is named: many requests would say that a collection is not.

    Raises:
        IndexInputError: It is not.
    """
    if not settings.database:
        return
    try:
        client.list_collections(timeout=CONNECT_SECONDS)  # which every user may
    except MilvusException as error:
        if error.code != DATABASE_NOT_FOUND:
            raise
        raise IndexInputError(
            f'milvus.database: {settings.uri}: the server has no database "{settings.database}"; create it'
            " (`python deployments/milvus_access.py ADDRESS --database NAME` makes one), or name another one"
        ) from None


def arguments(settings: MilvusSettings, token: str) -> dict[str, Any]:
    """What every client of this Milvus is opened with, LlamaIndex's included."""
    given: dict[str, Any] = {"uri": settings.uri, "token": token}
    if settings.database:
        given["db_name"] = settings.database
    if settings.ca_file:
        given["server_pem_path"] = str(settings.ca_file)
    given["grpc_options"] = NO_KEEPALIVE if settings.file else {}
    return given


def _refusal(settings: MilvusSettings, error: Exception) -> str:
    """Why a server does not let us in: the client's own error has it only as its cause."""
    cause = error.__cause__
    if isinstance(cause, grpc.Call) and cause.code() == grpc.StatusCode.UNAUTHENTICATED:
        return f"Milvus refuses: {cause.details()}; {CHECK_TOKEN}"
    if speaks_tls(settings):
        return "it speaks TLS; write https://, and name the authority that signed its certificate in milvus.ca_file"
    return f"cannot be opened: {short(error)}; check the address, and the token in NIGHTLOOM_MILVUS_TOKEN"


def _lite_refusal(uri: str, error: Exception) -> str:
    """Why a Milvus Lite file does not open: its own error says only that it does not."""
    import fcntl  # noqa: PLC0415  not on every platform

    try:
        with (Path(uri) / "LOCK").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return (
            f"milvus.uri: {uri}: the file is open in another process, and Milvus Lite is for one at a time: wait for it"
            " to end, end it, or close its reader; a Milvus server is for many"
        )
    except OSError as reason:
        return f"milvus.uri: {uri}: is no Milvus Lite file, or cannot be written: {reason.strerror}; name another file"
    return f"milvus.uri: {uri}: cannot be opened: {short(error)}"


def hold_lite(uri: str) -> None:
    """Say that one more connection of this process uses the file of a Milvus Lite."""
    with _counting:
        _users[_file_of(uri)] += 1


def release_lite(uri: str) -> None:
    """Say that one connection less does; after the last one, the file is closed, and another process may open it."""
    from milvus_lite.server_manager import server_manager_instance  # noqa: PLC0415  the only user of a .db file

    file = _file_of(uri)
    with _counting, suppress(Exception):
        _users[file] -= 1
        if _users[file] <= 0:
            del _users[file]
            server_manager_instance.release_server(uri)


def _file_of(uri: str) -> str:
    return str(Path(uri).resolve())
