"""`/admin/login`, `/admin/logout`, `/admin/session`: a browser's way in, and what keeps other sites from using it.

The law: the cookie alone moves nothing. SameSite=Strict keeps other sites' requests without it; what changes something needs a
header field that no other site can set without being allowed to, and an Origin that is our own. CORS fields are never given. Where
no key is asked for, a page of another site could ask for models at somebody else's cost without reading the answer: it is refused,
as Ollama refuses it (envconfig/config.go, AllowedOrigins: loopback, and programs with a scheme of their own).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any
from urllib.parse import urlsplit

from litestar import Request, Response, get, post
from litestar.handlers import HTTPRouteHandler

from config.load import is_loopback
from gateway import __version__
from gateway.access.door import Access
from gateway.access.principal import Principal
from gateway.access.sessions import ABSOLUTE_S
from gateway.access.tenants import HEADER
from gateway.errors import Forbidden, GatewayError, InvalidRequest, Unauthenticated
from gateway.proxy.headers import Headers, bearer, first

from .terms import said

COOKIE = "rh_session"
# These the edge lets through without a key: they are about getting one, or tell only who one is.
SESSION_PATHS = frozenset(("/admin/session", "/admin/login", "/admin/logout"))
_SAFE = frozenset(("GET", "HEAD", "OPTIONS"))
_MARK = b"x-roundhouse"
_TAKEN_UP = b"last-event-id"
_KEY_MAX = 4096
_LOGIN_MAX_BYTES = 64 << 10  # nobody has shown a key yet
_ANYBODY = Principal("", admin=False)


def cookie_of(headers: Headers) -> str | None:
    """The session's token; None without one."""
    for name, value in headers:
        if name == b"cookie" and b"rh_session=" in value:
            for part in value.split(b";"):
                key, _, token = part.strip().partition(b"=")
                if key == b"rh_session" and token:
                    return token.strip(b'"').decode("latin-1")
    return None


def refuse_forged(method: str, headers: Headers) -> None:
    """For a request that comes with the cookie and no key. Raises: Forbidden: another site may have made a browser send it."""
    if method in _SAFE:
        return
    if first(headers, _MARK) != b"dashboard":
        raise Forbidden("With a session this needs the header 'x-roundhouse: dashboard'; programs send a key instead")
    if not _is_ours(headers, first(headers, b"origin")):
        raise Forbidden("With a session this needs an Origin that is this gateway's own")


def _is_ours(headers: Headers, origin: bytes | None) -> bool:
    place = None if origin is None else _place(origin)
    # behind a proxy Host may be the proxy's word for us; another site can set neither of the two
    ours = [value for name in (b"host", b"x-forwarded-host") if (value := first(headers, name))]
    return place is not None and place in [_place(b"//" + value) for value in ours]


def _place(url: bytes) -> tuple[str, int | None] | None:
    """Host and port, without those that go without saying. None: nobody's."""
    try:
        parts = urlsplit(url.decode("latin-1"))
        port = parts.port
    except ValueError:
        return None
    return (parts.hostname, None if port in (80, 443) else port) if parts.hostname else None


def comer(access: Access, method: str, headers: Headers) -> Principal:
    """Who asks, by key or by session. Raises: as `Access.principal`; Forbidden: see `refuse_forged`."""
    tenant = _tenant_in(headers)
    key = bearer(headers)
    if key is None and (token := cookie_of(headers)) is not None:
        principal = _by_cookie(access, method, headers, token)
        if principal is not None:
            return access.in_name_of(principal, tenant)
    principal = access.principal(key, tenant)
    if not principal.key_id:  # anybody
        _refuse_foreign_page(headers)
    return principal


def _tenant_in(headers: Headers) -> str | None:
    """What X-Tenant-ID says. Raises: InvalidRequest: it is there twice, and whoever stands between us may have read the other."""
    named = first(headers, HEADER)
    if named is None:
        return None
    if sum(name == HEADER for name, _ in headers) > 1:
        raise InvalidRequest("X-Tenant-ID is there twice: send it once", param="X-Tenant-ID", code="tenant_required")
    return named.strip().decode("latin-1")


def _refuse_foreign_page(headers: Headers) -> None:
    """Raises: Forbidden."""
    origin = first(headers, b"origin")
    if origin is None or not (origin == b"null" or origin.startswith((b"http://", b"https://"))):
        return
    place = _place(origin)
    if (place is None or not is_loopback(place[0])) and not _is_ours(headers, origin):
        raise Forbidden(
            "Without keys no page of another site may ask here: set [server] api_keys, and send one of them"
        )


def asker_of(scope: Mapping[str, Any]) -> Principal:
    """Whom the edge has let in; where there is no edge, in a test, anybody."""
    return scope.get("state", {}).get("principal", _ANYBODY)


def admin_comer(access: Access, method: str, headers: Headers) -> Principal:
    """As `comer`, of an admin. Raises: as `Access.admin`; Forbidden."""
    key = bearer(headers)
    if key is None and (token := cookie_of(headers)) is not None:
        principal = _by_cookie(access, method, headers, token)
        if principal is not None:
            return access.as_admin(principal)
    return access.admin(key)


async def while_admin(
    access: Access, headers: Headers, pieces: AsyncGenerator[bytes, None]
) -> AsyncGenerator[bytes, None]:
    """A stream for an admin, as long as it is one: with its key revoked, or logged out, nothing more is told."""
    async with aclosing(pieces):
        async for piece in pieces:
            if not _is_still_admin(access, headers):
                return
            yield piece


def _is_still_admin(access: Access, headers: Headers) -> bool:
    """To be seen is no use of a session: an open page must not keep it alive for ever."""
    key = bearer(headers)
    token = cookie_of(headers) if key is None else None
    principal = None if token is None else access.session_holder(token, used=False)
    try:
        return (access.admin(key) if principal is None else principal).admin
    except GatewayError:
        return False


def _by_cookie(access: Access, method: str, headers: Headers, token: str) -> Principal | None:
    """None: the session is over, and the cookie counts for nothing."""
    # a stream that is taken up again is nobody's doing: a page that was left open lets its session end
    principal = access.session_holder(token, used=not first(headers, _TAKEN_UP))
    if principal is not None:
        refuse_forged(method, headers)
    return principal


def session_routes(access: Access) -> list[HTTPRouteHandler]:
    """They check for themselves."""

    @get("/admin/session", sync_to_thread=False)
    def read_session(request: Request[Any, Any, Any]) -> Response[Mapping[str, Any]]:
        who = _holder(access, request.scope["headers"])
        body = {
            "needed": access.needed,
            "name": "" if who is None else who.name,
            "admin": who is not None and who.admin,
            "version": __version__,
        }
        return Response(body, headers={"cache-control": "no-store"})

    @post("/admin/login", status_code=204)
    async def log_in(request: Request[Any, Any, Any]) -> Response[None]:
        origin = first(request.scope["headers"], b"origin")
        if origin is not None and not _is_ours(request.scope["headers"], origin):
            raise Forbidden("Another site cannot log in here")
        key = (await said(request, _LOGIN_MAX_BYTES)).get("key")
        if not isinstance(key, str) or not 0 < len(key.strip()) <= _KEY_MAX:
            raise InvalidRequest('Say which key you have: {"key": "…"}', param="key")
        token = access.login(key.strip(), request.client.host if request.client else "")
        return _with_cookie(request, f"{token}; Max-Age={int(ABSOLUTE_S)}")

    @post("/admin/logout", status_code=204, sync_to_thread=False)
    def log_out(request: Request[Any, Any, Any]) -> Response[None]:
        token = cookie_of(request.scope["headers"])
        if token is not None:
            refuse_forged("POST", request.scope["headers"])
            access.sessions.close(token)
        return _with_cookie(request, "; Max-Age=0")

    return [read_session, log_in, log_out]


def _holder(access: Access, headers: Headers) -> Principal | None:
    key = bearer(headers)
    token = cookie_of(headers) if key is None else None
    if token is not None and (found := access.session_holder(token)) is not None:
        return found
    try:
        return access.holder(key)
    except Unauthenticated:
        return None


def _with_cookie(request: Request[Any, Any, Any], value: str) -> Response[None]:
    forwarded = first(request.scope["headers"], b"x-forwarded-proto") or b""
    secure = request.scope["scheme"] == "https" or forwarded.split(b",")[0].strip().lower() == b"https"
    cookie = f"{COOKIE}={value}; Path=/; HttpOnly; SameSite=Strict" + ("; Secure" if secure else "")
    return Response(None, status_code=204, headers={"set-cookie": cookie, "cache-control": "no-store"})
