"""Who is at the address of Milvus: asked before its client, which needs long to find out and does not say what."""

import socket
import ssl
from contextlib import suppress
from urllib.parse import urlsplit

from nightloom.corpus import MilvusSettings
from nightloom.errors import IndexInputError, IndexUnreachable

CONNECT_SECONDS = 5
DEFAULT_PORTS = {"http": 19_530, "https": 443}
"""Where an address names none, as pymilvus takes them; addresses of Zilliz Cloud name none."""


def check_address(settings: MilvusSettings) -> None:
    """Connect once; over TLS, look at the certificate as the client will.

    Raises:
        IndexInputError: Nobody is there, it speaks no TLS, or its certificate is not to be trusted.
    """
    host, port = place_of(settings.uri)
    try:
        with socket.create_connection((host, port), timeout=CONNECT_SECONDS) as connection:
            if settings.uri.startswith("https"):
                with _context(settings).wrap_socket(connection, server_hostname=host):
                    pass
    except ssl.SSLCertVerificationError as error:
        raise IndexInputError(
            f"milvus.uri: {settings.uri}: its certificate is not trusted: {error.verify_message.rstrip('.')}; name the"
            " authority that signed it in milvus.ca_file, and the server as the certificate does in milvus.uri"
        ) from None
    except ssl.SSLError as error:
        raise IndexInputError(
            f"milvus.uri: {settings.uri}: it speaks no TLS ({error.reason}); switch it on there, or write http://"
        ) from None
    except (OSError, ValueError) as error:
        raise IndexUnreachable(
            f"milvus.uri: {settings.uri}: Milvus cannot be reached: {error}; start it (`make milvus` starts one here),"
            " or mend the address"
        ) from None


def speaks_tls(settings: MilvusSettings) -> bool:
    """Whether a server that does not understand us would like to be spoken to over TLS."""
    if settings.uri.startswith("https"):
        return False
    with suppress(OSError, ValueError):
        return bool(ssl.get_server_certificate(place_of(settings.uri), timeout=CONNECT_SECONDS))
    return False


def place_of(uri: str) -> tuple[str, int]:
    """Host and port of an address."""
    parts = urlsplit(uri)
    return parts.hostname or "", parts.port or DEFAULT_PORTS[parts.scheme]


def _context(settings: MilvusSettings) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=settings.ca_file)
    except OSError as error:  # one of SSL's own where the file is no certificate
        raise IndexInputError(
            f"milvus.ca_file: {settings.ca_file}: cannot be read as certificates: {error}; give a PEM file"
        ) from None
