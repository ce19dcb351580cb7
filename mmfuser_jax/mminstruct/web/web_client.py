"""One request for a file of the web: its content, where it leads on to, or why there is neither."""

from __future__ import annotations

import asyncio
from importlib import metadata

import httpcore2
import httpx2

from mmfuser_jax.mminstruct.config import Collect
from mmfuser_jax.mminstruct.retry_after import seconds_of
from mmfuser_jax.mminstruct.web.addresses import CheckedNetwork, FetchError, parsed
from mmfuser_jax.mminstruct.web.robots import AGENT, opted_out

LEADING_ON = (301, 302, 303, 307, 308)

BUSY = (408, 425, 429)
"""Of the statuses that pass, those below 500."""

KINDS = ("image/", "application/octet-stream", "binary/octet-stream")
"""What pictures are sent as."""


class WebClient:
    """Connections to hosts, which are used again."""

    def __init__(self, settings: Collect) -> None:
        self._settings = settings
        self._pool = httpcore2.AsyncConnectionPool(
            httpx2.create_ssl_context(),
            max_connections=None,
            keepalive_expiry=5.0,
            network_backend=CheckedNetwork(settings.private_addresses),
        )
        about = "; ".join(filter(None, ("collects pictures", settings.contact)))
        # Not compressed, so that what comes is what is counted.
        self._headers = [
            ("User-Agent", f"{AGENT}/{metadata.version('mmfuser-jax')} ({about})"),
            ("Accept", "*/*"),
            ("Accept-Encoding", "identity"),
        ]

    async def get(self, address: httpx2.URL, limit: int, *, picture: bool) -> bytes | httpx2.URL:
        """Asks once.

        Args:
          address: of a host that may be asked.
          limit: bytes of the file, at most; no more is read.
          picture: whether it must be one, that its host does not want to be left out.

        Returns:
          The content; or the address that it leads on to.

        Raises:
          FetchError: there is neither.
        """
        seconds = self._settings.timeout_seconds
        target = httpcore2.URL(
            scheme=address.raw_scheme, host=address.raw_host, port=address.port, target=address.raw_path
        )
        headers = [("Host", address.netloc.decode("ascii")), *self._headers]
        try:
            async with asyncio.timeout(seconds), self._pool.stream("GET", target, headers=headers) as response:
                head = httpx2.Headers(response.headers)
                if response.status in LEADING_ON and "location" in head:
                    return _joined(address, head["location"])
                _check_status(response.status, head)
                _check_encoding(head)
                if picture:
                    self._check_picture(head)
                return await _content(response, head, limit)
        except (TimeoutError, httpcore2.TimeoutException):
            raise FetchError("timeout", f"it is not there after {seconds:g} seconds", passing=True) from None
        except (httpcore2.NetworkError, httpcore2.ProtocolError) as error:
            detail = " ".join(str(error).split()) or type(error).__name__
            raise FetchError("unreachable", detail[:300], passing=True) from None

    def _check_picture(self, head: httpx2.Headers) -> None:
        word = opted_out(head.get_list("x-robots-tag")) if self._settings.heed_robots else ""
        if word:
            raise FetchError("opted_out", f"X-Robots-Tag: {word}")
        kind = head.get("content-type", KINDS[0]).strip().lower()
        if not kind.startswith(KINDS):
            raise FetchError("not_a_picture", f"it is sent as {kind[:100]}")

    async def close(self) -> None:
        """Ends its connections."""
        await self._pool.aclose()


def _joined(address: httpx2.URL, location: str) -> httpx2.URL:
    try:
        return parsed(str(address.join(location)))
    except (httpx2.InvalidURL, ValueError) as error:
        raise FetchError("bad_address", f"it leads on to {location[:200]!r} ({error})") from None


def _check_status(status: int, head: httpx2.Headers) -> None:
    if status == 200:
        return
    passing = status in BUSY or status >= 500
    wait = seconds_of(head.get("retry-after", "")) if passing else 0.0
    asked = f", to be asked again in {wait:,.0f} s" if wait else ""
    raise FetchError("http_status", f"HTTP {status}{asked}", passing=passing, wait=wait)


def _check_encoding(head: httpx2.Headers) -> None:
    encoding = head.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise FetchError("not_a_picture", f"it is sent as {encoding[:100]}, which was not asked for")


async def _content(response: httpcore2.Response, head: httpx2.Headers, limit: int) -> bytes:
    content = bytearray()
    said = head.get("content-length", "0")
    async for part in response.aiter_stream():
        content += part
        if max(len(content), int(said)) > limit:
            raise FetchError("too_many_bytes", f"more than {limit:,} bytes")
    return bytes(content)
