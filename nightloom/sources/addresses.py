"""Which addresses are public, and connections that go to no others."""

import asyncio
import ipaddress
import socket
from collections.abc import Iterable

import httpcore

NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class PrivateAddress(Exception):
    """A host has an address that is not public; nothing was sent to it."""


def is_public(address: str) -> bool:
    """Whether an IP address can be reached from everywhere; IPv6 addresses that stand for IPv4 ones count as these."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour
        if inner is None and found in NAT64:
            inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return found.is_global and not found.is_multicast


class PublicOnly(httpcore.AsyncNetworkBackend):
    """Connects to the very addresses that it has checked, so that a name cannot mean another one a moment later."""

    def __init__(self) -> None:
        """Stand before the backend that connects."""
        self._backend = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  as httpcore calls it
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to a host all of whose addresses are public.

        Raises:
            PrivateAddress: One is not.
            httpcore.ConnectError: It has no address, or none of them answers.
        """
        failed: Exception = httpcore.ConnectError(f"{host} has no address")
        for address in await _addresses(host, port):
            try:
                return await self._backend.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failed = error
        raise failed

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)


async def _addresses(host: str, port: int) -> list[str]:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise httpcore.ConnectError(f"{host}: {error}") from error
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    for address in addresses:
        if not is_public(address):
            raise PrivateAddress(f"{host} ({address})" if host != address else address)
    return addresses
