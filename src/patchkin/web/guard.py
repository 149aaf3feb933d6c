"""Who may ask what: only this machine, or who has the token, and never another page.

A page that anybody opens can send requests to 127.0.0.1, and a name that its owner points there
can read the answers; hence names of hosts are checked, and the origin of what changes something.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import ipaddress
import secrets
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import SplitResult, parse_qs, quote, urlsplit

COOKIE = "patchkin-token"
_POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; font-src 'self' data:;"
    " style-src 'self' 'unsafe-inline'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:;"
    " worker-src 'self' blob:; connect-src 'self'; frame-src 'self'; object-src 'none';"
    " base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)
"""No browser fetches anything from another host, whatever the page says."""
_HEADERS = (
    (b"content-security-policy", _POLICY.encode()),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)
_REPEATABLE = ("GET", "HEAD", "OPTIONS")


def is_this_machine(host: str) -> bool:
    """Whether a name or an address means the machine itself.

    >>> [is_this_machine(h) for h in ("127.0.0.1", "localhost", "::1", "0.0.0.0", "example.org")]
    [True, True, True, False, False]
    """
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def new_token() -> str:
    """One that nobody guesses."""
    return secrets.token_urlsafe(24)


class Guard:
    """An ASGI application in front of another.

    Without a token it answers only who calls it by a name of this machine. With one, it wants the
    token: once in the address (`?token=`, after which a cookie has it), or in the header
    `Authorization: Bearer TOKEN`.
    """

    def __init__(self, inner: Any, *, token: str | None) -> None:
        self._inner, self._token = inner, token

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer, or let the other answer."""
        if scope["type"] == "lifespan":
            await self._inner(scope, receive, send)
            return
        headers = {name.decode("latin1"): text.decode("latin1") for name, text in scope["headers"]}
        refused = self._refused(scope, headers)
        if scope["type"] != "http":
            if not refused:
                await self._inner(scope, receive, send)
            return
        asked = parse_qs(scope.get("query_string", b"").decode("latin1"))
        if not refused and self._token and "token" in asked and scope["method"] == "GET":
            here = "/" + quote(scope["path"].lstrip("/"))
            await answer(send, 303, "", ("location", here), ("set-cookie", self._cookie))
        elif refused:
            await answer(send, refused[0], refused[1])
        else:
            with contextlib.suppress(asyncio.CancelledError):  # at the end of the server
                await self._inner(scope, receive, _with_headers(send))

    @property
    def _cookie(self) -> str:
        return f"{COOKIE}={self._token}; Path=/; HttpOnly; SameSite=Strict"

    def _refused(self, scope: Any, headers: dict[str, str]) -> tuple[int, str] | None:
        host = headers.get("host", "")
        if self._token is None:
            if not is_this_machine(_parts(f"//{host}").hostname or ""):
                return 403, "This page answers on 127.0.0.1 only."
        elif not self._has_token(scope, headers):
            return 401, "This page needs its token: open the address that `patchkin demo` printed."
        origin = headers.get("origin")
        changes = scope.get("method") not in _REPEATABLE
        if origin is not None and changes and _parts(origin).netloc != host:
            return 403, "Another page may not ask this one."
        return None

    def _has_token(self, scope: Any, headers: dict[str, str]) -> bool:
        given = parse_qs(scope.get("query_string", b"").decode("latin1")).get("token", [])
        bearer = headers.get("authorization", "").removeprefix("Bearer ")
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            cookie = None
        told = [*given, bearer, *([cookie.value] if cookie else [])]
        wanted = str(self._token).encode()
        return any(hmac.compare_digest(one.encode(), wanted) for one in told)


def _parts(address: str) -> SplitResult:
    """Of an address; empty ones of what is none, such as `//[`."""
    try:
        return urlsplit(address)
    except ValueError:
        return urlsplit("")


def _with_headers(send: Any) -> Any:
    async def sending(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", []), *_HEADERS]}
        await send(message)

    return sending


async def answer(send: Any, status: int, text: str, *headers: tuple[str, str]) -> None:
    """A few words instead of what was asked for."""
    told = [(name.encode(), value.encode()) for name, value in headers]
    body = text.encode()
    start = [(b"content-type", b"text/plain; charset=utf-8"), (b"cache-control", b"no-store")]
    start += [(b"content-length", str(len(body)).encode()), *_HEADERS, *told]
    await send({"type": "http.response.start", "status": status, "headers": start})
    await send({"type": "http.response.body", "body": body})
