"""The outermost layer, pure ASGI: a request id for every exchange, keys for the rooms that need them, one form for every error.

The data routes do the rest themselves and are handed straight through; for all others it is done here.
"""

from __future__ import annotations

import itertools
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from litestar.utils.path import normalize_path

from gateway.access.door import Access
from gateway.errors import Forbidden
from gateway.metering import request_id
from gateway.proxy.client import Receive, Send
from gateway.proxy.headers import first

from .errors import spoken_at, tell
from .session import SESSION_PATHS, admin_comer, comer

App = Callable[[Any, Any, Any], Awaitable[None]]

# What a caller may choose as its request's id: it is written into logs and header fields.
_ID = re.compile(rb"[A-Za-z0-9._:\-]{1,128}")
# They tell nothing about requests or models, so that load balancers and scrapers need no key.
_OPEN_PATHS = frozenset(("/", "/health/live", "/health/ready", "/metrics"))
_OPEN_FOLDER = "/dashboard/"  # the same files for everybody, the login among them
_LOOPBACK_NAMES = frozenset(("localhost", "127.0.0.1", "::1"))


class Edge:
    """Wraps the Litestar application.

    Args:
        inner: the application; it answers everything, the data routes too.
        data: what `inner` calls for the data routes. They check keys and count for themselves, so a POST goes there straight:
            the framework's router would cost an eighth of the whole request.
    """

    def __init__(self, inner: App, access: Access, data: App, data_paths: frozenset[str]) -> None:
        self._inner = inner
        self._access = access
        self._data = data
        self._data_paths = data_paths
        # unique across restarts by its random part, within one by counting: cheaper than a UUID for each request
        self._prefix = f"req-{secrets.token_hex(6)}-".encode()
        self._numbers = itertools.count(1)

    def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> Awaitable[None]:
        """Not a coroutine of its own: every one that a request goes through costs it a third of a microsecond."""
        if scope["type"] != "http":
            return self._inner(scope, receive, send)
        state = scope.setdefault("state", {})
        learned: dict[str, Any] | None = state.get("learned")
        if learned is None or (asked := learned.get("id", learned)) is learned:
            asked = _asked_id(scope["headers"])
            if learned is not None:
                learned["id"] = asked
        number = asked or b"%b%x" % (self._prefix, next(self._numbers))
        state["fields"] = [(b"x-request-id", number)]
        request_id.begin(state)  # the data routes say when it is over
        # as the router will read it: what is checked here must be what is served there, also for //admin and /admin/
        path = scope["path"]
        if path not in self._data_paths:
            path = scope["path"] = normalize_path(path)
        if path in self._data_paths:
            return (self._data if scope["method"] == "POST" else self._inner)(scope, receive, send)
        return self._to_inner(path, scope, receive, send)

    async def _to_inner(self, path: str, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """What the framework answers, behind the checks."""
        state = scope["state"]
        fields = state["fields"]

        async def send_with_id(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *fields]
            await send(message)

        try:
            self._check(path, scope)
        except Exception as error:  # noqa: BLE001 - named boundary: refusals before Litestar, told in the same form
            told = tell(error, spoken_at(path))
            length = (b"content-length", b"%d" % len(told.body()))
            await send_with_id(
                {"type": "http.response.start", "status": told.status, "headers": [*told.headers, length]}
            )
            await send_with_id({"type": "http.response.body", "body": told.body()})
            return
        try:
            await self._inner(scope, receive, send_with_id)
        finally:
            request_id.end(state)

    def _check(self, path: str, scope: Mapping[str, Any]) -> None:
        """Raises: Unauthenticated, Forbidden."""
        headers = scope["headers"]
        if path.startswith("/admin"):
            if path not in SESSION_PATHS:  # these look for themselves
                admin_comer(self._access, scope["method"], headers)
            if not self._access.needed:
                _refuse_other_sites(headers)
        elif path not in _OPEN_PATHS and not path.startswith(_OPEN_FOLDER):
            scope["state"]["principal"] = comer(self._access, scope["method"], headers)


def _asked_id(headers: list[tuple[bytes, bytes]]) -> bytes | None:
    """What the caller wants its request to be called, where it may choose that."""
    asked = first(headers, b"x-request-id")
    return asked if asked is not None and _ID.fullmatch(asked) else None


def _refuse_other_sites(headers: list[tuple[bytes, bytes]]) -> None:
    """Without keys the admin routes are for this machine only: not for a page of some other site open in its browser.

    Such a page is told by its Origin, and one that has its own name resolve to loopback by the Host field.
    Raises: Forbidden.
    """
    host = first(headers, b"host") or b""
    origin = first(headers, b"origin")
    names = [_hostname(b"//" + host)]
    if origin is not None:
        names.append(_hostname(origin))
    if any(name not in _LOOPBACK_NAMES for name in names):
        raise Forbidden("Without admin_keys the admin routes answer only this machine's own programs")


def _hostname(url: bytes) -> str | None:
    try:
        return urlsplit(url.decode("latin-1")).hostname
    except ValueError:  # a bracket that is not closed
        return None
