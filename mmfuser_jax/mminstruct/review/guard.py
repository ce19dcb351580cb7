"""Who may ask the server: those who know its token, under a name that is its own."""

from __future__ import annotations

import functools
import hashlib
import hmac
import ipaddress
import socket
from collections.abc import Iterable
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER = "x-review-token"
"""In which whatever changes something carries the token, as no other site's page can."""

HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
"""Of every answer."""

REFUSED = "403: open the address that the program has printed, with its token"


class Guard:
    """Lets a request through that carries the token: in the address, in the cookie that this sets, or in a header."""

    def __init__(self, app: ASGIApp, token: str, host: str) -> None:
        """Arguments:
        app: what is guarded.
        token: the secret.
        host: name or address that the server listens at.
        """
        self._app = app
        self._token = token
        self._host = host
        # Cookies do not know ports: servers of several projects need names of their own.
        self._cookie = f"review-{hashlib.sha256(token.encode()).hexdigest()[:12]}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] != "http":
            return
        headers = Headers(scope=scope)
        in_address = parse_qs(scope["query_string"].decode("latin-1")).get("token", [])
        in_cookie = [cookie_parser(headers.get("cookie", "")).get(self._cookie, "")]
        in_header = [headers.get(HEADER, "")]
        given = [*in_address, *in_cookie, *in_header] if scope["method"] in ("GET", "HEAD") else in_header
        allowed = self._is_own(headers.get("host", "")) and self._knows(given)

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer = MutableHeaders(scope=message)
                answer.update(HEADERS)
                if allowed and in_address:
                    cookie = f"{self._cookie}={self._token}; Path=/; HttpOnly; SameSite=Strict"
                    answer.append("set-cookie", cookie)
            await send(message)

        app = self._app if allowed else PlainTextResponse(REFUSED, 403)
        await app(scope, receive, send_guarded)

    def _knows(self, given: Iterable[str]) -> bool:
        return any(hmac.compare_digest(token.encode(), self._token.encode()) for token in given)

    def _is_own(self, header: str) -> bool:
        """Whether a Host header names this server: a name of somebody else's may be made to lead here (DNS rebinding)."""
        name = header.rpartition("]")[0].lstrip("[") if header.startswith("[") else header.partition(":")[0]
        if name.lower() in ("localhost", self._host.lower()):
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name.lower() in _names()
        return True


@functools.cache  # asking for the second one may take seconds
def _names() -> frozenset[str]:
    """Of this machine."""
    return frozenset((socket.gethostname().lower(), socket.getfqdn().lower()))
