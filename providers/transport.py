"""The data path's HTTP/1.1 client: one upstream's connections, kept alive and handed out.

Law: no task, one future and one write per request (a body that is still coming in has a task, see `transport_upload`);
whatever ends a call (an error, a timeout, cancellation), its connection is cut and the counters are right. Control calls
(discovery, health) use it too.

A request is sent a second time in one case only: a kept connection that the upstream closed before a single byte of
the answer came. Servers close idle connections whenever they like, so that this happens to every client; the request
had then nobody to serve it (RFC 9112, 9.3.1 and 9.6). A fresh connection that fails is an error at once. A body in pieces
begins again then, from its first byte.
"""

from __future__ import annotations

import asyncio
import functools
import math
import socket
import ssl
from collections import deque
from collections.abc import Sequence
from urllib.parse import urlsplit

from config.forms import Secret
from providers.contract import Request, Response
from providers.errors import ProviderError, UpstreamBroke, UpstreamUnreachable
from providers.transport_answer import Answer, Known
from providers.transport_connection import Connection
from providers.transport_heads import cut
from providers.transport_proxy import Forwarded, Proxy, ProxyFailed
from providers.transport_upload import framing

_DEFAULT_PORTS = {"http": 80, "https": 443}
# Fields this client sets itself, or that are between two hops only (RFC 9110, 7.6.1): taking a caller's
# Content-Length or Transfer-Encoding along would let it smuggle a second request. And what would tell the upstream who the caller
# is: only the endpoint's own key goes there, also where it has none.
_OWN_FIELDS = frozenset(
    (
        b"authorization",
        b"connection",
        b"content-length",
        b"cookie",
        b"expect",  # the body goes out with the head, so there is nothing to wait for
        b"host",
        b"keep-alive",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"x-api-key",
    )
)
_MADE_MAX = 8  # heads kept for one caller's header fields: it talks to a model or two
_NO_BODY = frozenset((204, 304))
# Most answers of an engine have the same head, but for the second in their Date; those of others may all differ.
_STUDY_EVERY_S = 0.25
_CLOSE_LIMIT_S = 5.0  # aborted sockets close within one turn of the loop; a limit on everything
# X509_V_ERR_… of OpenSSL's x509_vfy.h: self-signed, self-signed in the chain, issuer not found (locally, at the first).
_UNKNOWN_ISSUER = frozenset((18, 19, 20, 21))
_BODYLESS_METHODS = frozenset((b"GET", b"HEAD", b"DELETE", b"OPTIONS"))


class Endpoint:
    """One upstream's address and its pool of connections. Belongs to the event loop it is first used on.

    Args:
        base_url: "http://127.0.0.1:9001" or "https://host/api"; its path goes before every request's path.
        source: the provider's name, for errors.
        headers: added to every request, in place of the request's own of the same name (the upstream's own
            Authorization). Never shown.
        connect_timeout_s: for name, connection, the proxy's answer and TLS together.
        idle_keep_s: how long an unused connection is kept. Below 5 s, when llama.cpp's server closes it.
        idle_max: unused connections kept at most.
        ssl_context: for https; None: the system's certificates, verified.
        proxy: "http://user:password@host:port" of a proxy to go through; None: none. Its user and password are never shown.
    Raises:
        ValueError: base_url, the proxy's address or a header cannot be used; says what is expected.
    """

    __slots__ = (
        "_address",
        "_closed",
        "_common",
        "_common_lines",
        "_connect_timeout_s",
        "_emptied",
        "_forwarded",
        "_idle",
        "_idle_keep_s",
        "_idle_max",
        "_in_flight",
        "_loop",
        "_mark",
        "_open",
        "_prefix",
        "_proxy",
        "_replaced",
        "_ssl",
        "_studied_s",
        "_sweeper",
        "_url",
        "known",
        "source",
    )

    def __init__(
        self,
        base_url: str,
        *,
        source: str,
        headers: Sequence[tuple[bytes, bytes]] = (),
        connect_timeout_s: float = 5.0,
        idle_keep_s: float = 4.0,
        idle_max: int = 256,
        ssl_context: ssl.SSLContext | None = None,
        proxy: Secret | None = None,
    ) -> None:
        self.source = source
        scheme, host, port, authority, path = _split(base_url)
        self._url = f"{scheme}://{authority}{path}"
        self._address = (host, port)
        self._prefix = path.encode()
        self._ssl = (ssl_context or _verifying_context()) if scheme == "https" else None
        self._proxy = None if proxy is None else Proxy(proxy)
        self._forwarded = self._proxy is not None and self._ssl is None
        own = [(name.lower(), value) for name, value in headers]
        if self._proxy is not None and self._forwarded:  # it reads our requests; of a tunnel it reads CONNECT only
            self._address = self._proxy.address
            self._prefix = self._url.encode()
            own += self._proxy.fields()
        self._replaced = _OWN_FIELDS.union(name for name, _ in own)
        lines = [b" HTTP/1.1", b"host: " + authority.encode(), *(name + b": " + value for name, value in own)]
        self._common = b"\r\n".join(lines)  # what stands between every request's path and its own fields
        self._common_lines = len(lines) - 1
        if not _is_clean(self._common, self._common_lines):
            raise ValueError(f"a header configured for provider {source!r} holds a line break or a NUL: remove it")
        self._connect_timeout_s = connect_timeout_s
        self._idle_keep_s = idle_keep_s
        self._idle_max = idle_max
        self._idle: deque[Connection] = deque()  # the longest unused first
        self._open: set[Connection] = set()
        self._in_flight = 0
        self.known: Known | None = None
        self._studied_s = -math.inf
        self._mark = object()
        self._closed = False
        self._emptied: asyncio.Future[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sweeper: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<Endpoint {self.source!r} {self._url} in_flight={self._in_flight} idle={len(self._idle)}>"

    @property
    def in_flight(self) -> int:
        """Requests begun whose answers are not closed yet."""
        return self._in_flight

    @property
    def idle(self) -> int:
        """Connections kept for the next request."""
        return len(self._idle)

    async def send(self, request: Request) -> Response:
        """Send; return as soon as the answer's headers are in. Cancelled, it leaves no connection behind.

        Raises:
            ValueError: a header or the path holds a line break: nothing was sent.
            UpstreamUnreachable: no connection: nothing was sent.
            UpstreamTimeout: no headers within `first_byte_s`.
            UpstreamBroke: the upstream closed, or did not speak HTTP.
            What the request's `Body` raises.
        """
        head = self._head(request)
        self._in_flight += 1
        try:
            kept = self._take_idle()
            while True:
                connection = kept or await self._connect()
                answer, waiter = connection.begin(head, request)
                try:
                    await waiter
                except BaseException:
                    connection.cut()
                    raise
                try:
                    return connection.begun(answer)
                except UpstreamBroke as broke:
                    if kept is None or not broke.nothing_received or self._closed:
                        raise
                    kept = None
        except BaseException:
            self._in_flight -= 1
            raise

    async def aclose(self) -> None:
        """Close idle connections, cut busy ones, and wait until their sockets are closed. Idempotent."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        for connection in list(self._open):
            connection.fail(UpstreamBroke(f"provider {self.source!r} is being shut down", source=self.source))
        if self._open:
            if self._emptied is None:
                self._emptied = asyncio.get_running_loop().create_future()
            await asyncio.wait((self._emptied,), timeout=_CLOSE_LIMIT_S)

    # what a connection tells (transport_connection.Pool)

    def study(self, data: bytes, answer: Answer) -> None:
        """See `Pool`."""
        loop = self._loop
        if loop is None or answer.status in _NO_BODY or loop.time() - self._studied_s < _STUDY_EVERY_S:
            return
        self._studied_s = loop.time()
        found = cut(data, answer.headers)
        if found is not None:
            self.known = Known(found, answer.status, answer.headers, {})

    def unusable(self, connection: Connection) -> None:
        """See `Pool`."""
        if connection.idle_since >= 0.0:
            self._idle.remove(connection)
            connection.idle_since = -1.0

    def gone(self, connection: Connection) -> None:
        """See `Pool`."""
        self._open.discard(connection)
        if not self._open:
            self._open.clear()  # a set that was large keeps its table until it is cleared
            if self._emptied is not None:
                self._emptied.set_result(None)
                self._emptied = None

    def released(self, connection: Connection, *, reusable: bool) -> None:
        """See `Pool`."""
        self._in_flight -= 1
        if not reusable:
            return
        loop = self._loop
        if self._closed or loop is None or len(self._idle) >= self._idle_max:
            connection.abort()
            return
        connection.idle_since = loop.time()
        self._idle.append(connection)
        if self._sweeper is None:
            self._sweeper = loop.call_later(self._idle_keep_s, self._sweep)

    # the rest

    def _head(self, request: Request) -> bytes:
        """Request line and header fields; one that would smuggle a line in is refused."""
        made, body = request.made, request.body
        if made is None or not body or not isinstance(body, bytes):
            return self._built(request)
        known = made.get(self._mark)
        if known is None or known[0] is not request.headers or known[1] != request.path or known[2] != request.method:
            head = self._built(request)
            if len(made) >= _MADE_MAX:
                made.clear()
            before = head[: head.rindex(b" ") + 1]  # the length comes last
            made[self._mark] = (request.headers, request.path, request.method, before)
            return head
        return b"%b%d\r\n\r\n" % (known[3], len(body))

    def _built(self, request: Request) -> bytes:
        method, path, replaced = request.method, request.path, self._replaced
        lines = [method + b" " + self._prefix + path + self._common]
        lines += [b": ".join(field) for field in request.headers if field[0] not in replaced]
        body = request.body
        if not isinstance(body, bytes):
            lines.append(framing(body))
        elif body or method not in _BODYLESS_METHODS:
            lines.append(b"content-length: %d" % len(body))
        head = b"\r\n".join(lines) + b"\r\n\r\n"
        if not _is_clean(head, self._common_lines + len(lines) + 1):
            raise ValueError("a header or the path holds a line break or a NUL; nothing was sent")
        if path[:1] != b"/" or b" " in path or not method.isalpha():
            raise ValueError("the method or the path cannot stand in a request line; nothing was sent")
        return head

    def _take_idle(self) -> Connection | None:
        """The most recently used one, if it was not unused for too long; then all others were too."""
        idle = self._idle
        if not idle:
            return None
        assert self._loop is not None
        connection = idle[-1]
        if self._loop.time() - connection.idle_since > self._idle_keep_s:
            self._sweep()
            return None
        idle.pop()
        connection.idle_since = -1.0
        return connection

    def _sweep(self) -> None:
        """Close what was unused for too long; come again when the next one is due."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        assert self._loop is not None
        kept_since = self._loop.time() - self._idle_keep_s
        while self._idle and self._idle[0].idle_since <= kept_since:
            self._idle[0].abort()  # takes itself out, see `unusable`
        if self._idle:
            self._sweeper = self._loop.call_later(self._idle[0].idle_since - kept_since, self._sweep)

    async def _connect(self) -> Connection:
        if self._closed:
            raise self._unreachable("it is being shut down", "closed")
        loop = self._loop = asyncio.get_running_loop()
        proxy, forwarded = self._proxy, self._forwarded
        connection = Forwarded(self, loop, proxy) if proxy is not None and forwarded else Connection(self, loop)
        host, port = self._address
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                if proxy is None or self._ssl is None:
                    await loop.create_connection(lambda: connection, host, port, ssl=self._ssl)
                else:
                    await proxy.tunnel(connection, host, port, self._ssl)
        except BaseException as error:
            connection.abort()  # a socket that was just opened must not outlive this call
            if isinstance(error, OSError | UnicodeError):
                raise self._unreachable(self._why(error), f"{host}:{port}: {error!r}") from error
            raise
        if self._closed or connection.lost:
            connection.abort()
            reason = "it is being shut down" if self._closed else "it closes new connections at once"
            raise self._unreachable(reason, f"{host}:{port}: closed while connecting")
        # Not before: uvloop, cancelled between connection_made and here, closes without calling connection_lost.
        self._open.add(connection)
        return connection

    def _why(self, error: OSError | UnicodeError) -> str:
        """Why there is no connection, with the proxy's part in it."""
        if isinstance(error, ProxyFailed):
            return error.reason if error.__cause__ is None else f"{error.reason}: {_reason(error.__cause__)}"
        if self._proxy is None:
            return _reason(error)
        if isinstance(error, TimeoutError):
            return f"no connection in time through the proxy at {self._proxy.name}"
        return (
            f"the proxy at {self._proxy.name} cannot be reached: {_reason(error)}"
            if self._forwarded
            else _reason(error)
        )

    def _unreachable(self, reason: str, detail: str) -> ProviderError:
        return UpstreamUnreachable(
            f"provider {self.source!r} cannot be reached: {reason}", source=self.source, detail=detail
        )


def _split(base_url: str) -> tuple[str, str, int, str, str]:
    """Scheme, host, port, authority as the Host field has it, path without a slash at its end."""
    expected = 'expected "http://host:port/path" or "https://…", without user, query or fragment'
    try:
        parts = urlsplit(base_url)
        port = parts.port
        host = (parts.hostname or "").encode("ascii" if (parts.hostname or "").isascii() else "idna").decode()
    except ValueError as error:  # UnicodeError is one
        raise ValueError(f"base_url cannot be read: {expected}") from error
    path = parts.path.rstrip("/")
    usable = (
        parts.scheme in _DEFAULT_PORTS and host and path.isascii() and base_url.isprintable() and " " not in base_url
    )
    if not usable or parts.query or parts.fragment or parts.username is not None or parts.password is not None:
        raise ValueError(f"base_url is not usable: {expected}")
    authority = f"[{host}]" if ":" in host else host
    if port is None:
        port = _DEFAULT_PORTS[parts.scheme]
    elif port != _DEFAULT_PORTS[parts.scheme]:
        authority += f":{port}"
    return parts.scheme, host, port, authority, path


def _is_clean(head: bytes, line_ends: int) -> bool:
    """No more line ends than were put in: none came in with a value. Cheaper than looking at each value."""
    return head.count(b"\n") == line_ends and head.count(b"\r") == line_ends and 0 not in head


@functools.cache
def _verifying_context() -> ssl.SSLContext:
    """Reading the system's certificates takes tens of milliseconds: once."""
    return ssl.create_default_context()


def _reason(error: BaseException) -> str:
    match error:
        case TimeoutError():
            return "no connection in time"
        case ssl.SSLCertVerificationError():
            advice = "; if it is right, set ca_file" if error.verify_code in _UNKNOWN_ISSUER else ""
            return f"its certificate is not accepted ({error.verify_message}){advice}"
        case ssl.SSLError():
            return "TLS failed"
        case socket.gaierror() | UnicodeError():
            return "its host name is not known"
        case ConnectionRefusedError():
            return "nothing listens at its address"
        case _:
            return "no connection"
