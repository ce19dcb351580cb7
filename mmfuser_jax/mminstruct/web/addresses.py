"""Which addresses files may be fetched from: of hosts that the config names, and of none inside a network."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Iterable, Sequence

import httpcore2
import httpx2

CONNECT_SECONDS = 10.0
"""Within which one address of a host must answer, so that there is time for the next one."""

INTERNET_6 = ipaddress.IPv6Network("2000::/3")
TUNNELS = ipaddress.IPv6Network("2002::/16")
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
"""Where a network without IPv4 shows the addresses of IPv4."""

MACHINES_OWN = tuple(map(ipaddress.IPv4Network, ("192.0.0.0/24", "168.63.129.16/32")))
"""Public by number, and yet answered by some clouds' own machines."""


class FetchError(Exception):
    """A file cannot be had.

    Attributes:
      reason: of `reasons.PICTURES`.
      detail: what happened.
      passing: whether it may be another time.
      wait: seconds that the host asks to wait for; infinite where another try now is of no use.
    """

    def __init__(self, reason: str, detail: str, *, passing: bool = False, wait: float = 0.0) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
        self.passing = passing
        self.wait = wait


def parsed(url: str) -> httpx2.URL:
    """An address as it is sent: letters that are not in ASCII, and spaces, are encoded.

    Raises:
      FetchError: it is not one of http or https, or has a password, which would be kept and sent to whoever asks.
    """
    try:
        address = httpx2.URL(url.strip())
    except (httpx2.InvalidURL, ValueError) as error:
        raise FetchError("bad_address", str(error)) from None
    usual = address.scheme in ("http", "https") and address.host and b"%" not in address.raw_host
    if not usual or address.userinfo or (address.port is not None and not 0 < address.port < 65536):
        raise FetchError("bad_address", f"{url[:200]!r} is not as http://host/path or https://host/path")
    return address


def host_of(address: httpx2.URL) -> str:
    """Its host, as hosts are written in the config."""
    return address.raw_host.decode("ascii").rstrip(".")


def is_allowed(host: str, hosts: Iterable[str]) -> bool:
    """Whether a host is one of these, or is below one that is written as `*.example.org`."""
    return any(host == name or (name.startswith("*.") and host.endswith(name[1:])) for name in hosts)


def is_public(address: str) -> bool:
    """Whether an IP address is in the Internet, and not of a network of one's own, this machine or a group of them."""
    found = ipaddress.ip_address(address)
    if isinstance(found, ipaddress.IPv4Address):
        return found.is_global and not found.is_multicast and not any(found in machine for machine in MACHINES_OWN)
    if found in NAT64:
        return is_public(str(ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)))
    return found in INTERNET_6 and found not in TUNNELS and found.is_global


async def resolve(host: str, port: int) -> list[str]:
    """The IP addresses of a host.

    Raises:
      OSError: it has none.
    """
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as error:  # a part of the name is too long
        raise OSError(str(error)) from None
    return list(dict.fromkeys(str(place[0]) for *_, place in found))


class CheckedNetwork(httpcore2.AsyncNetworkBackend):
    """Connects to the very addresses that were checked: what a name stands for a moment later changes nothing.

    The name is still what TLS asks for and what certificates are compared with.
    """

    def __init__(self, private: bool) -> None:
        """`private`: lets addresses be anywhere."""
        self._private = private
        self._network = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Connects to the first address of a host that answers.

        Raises:
          FetchError: one of its addresses is not public.
          httpcore2.NetworkError, httpcore2.TimeoutException: none answers.
        """
        try:
            addresses = await resolve(host, port)
        except OSError as error:
            raise httpcore2.ConnectError(f"no such host ({error})") from None
        if inside := [address for address in addresses if not (self._private or is_public(address))]:
            raise FetchError("private_address", f"{host} is {inside[0]}")
        return await self._first(addresses, port, timeout or CONNECT_SECONDS)

    async def _first(self, addresses: Sequence[str], port: int, timeout: float) -> httpcore2.AsyncNetworkStream:
        failed: Exception = httpcore2.ConnectError("no address")
        for address in addresses:
            try:
                return await self._network.connect_tcp(address, port, timeout)
            except (httpcore2.NetworkError, httpcore2.TimeoutException) as error:
                failed = error
        raise failed
