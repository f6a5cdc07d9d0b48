"""The way to an upstream through an HTTP proxy: a tunnel for https, the whole address in the request line for http.

Law: the proxy's user and password stand in the bytes sent to it and nowhere else; and what goes wrong at the proxy is told as
the proxy's doing, so that nobody looks for the fault at the upstream.

Source: RFC 9110, 9.3.6 (CONNECT) and 11.7.2 (Proxy-Authorization); RFC 9112, 3.2.2 (absolute-form); RFC 7617 (Basic).
"""

from __future__ import annotations

import asyncio
import re
import ssl
from base64 import b64encode
from typing import cast
from urllib.parse import unquote_to_bytes, urlsplit

from config.forms import Secret
from providers.errors import UpstreamUnreachable
from providers.transport_answer import Answer
from providers.transport_connection import Connection, Pool

_DEFAULT_PORT = 80
# An answer to CONNECT is a few lines; a page that explains a refusal may follow and is not read.
_HEAD_MAX_BYTES = 16 * 1024
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] (\d{3})(?: [^\r\n]*)?\r\n")
_NEEDS_PASSWORD = 407


class ProxyFailed(OSError):
    """No connection, for a reason that lies at the proxy.

    Args:
        reason: for people; holds neither user nor password.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Proxy:
    """A proxy's address and how we show ourselves there. Its repr shows the address only.

    Args:
        url: "http://host:port" or "http://user:password@host:port", both percent-encoded.
    Raises:
        ValueError: it is none; says what is expected and nothing of what was written.
    """

    __slots__ = ("address", "authorization", "name")

    def __init__(self, url: Secret) -> None:
        try:
            parts = urlsplit(url.reveal())
            host, port = parts.hostname or "", parts.port
        except ValueError:
            raise ValueError("the proxy's address cannot be read: expected http://host:port") from None
        if parts.scheme != "http":
            raise ValueError(
                "the proxy's address must begin with http:// (https upstreams are tunnelled through it; socks and https "
                'proxies are not supported), or set proxy = "none"'
            )
        if not host.isascii() or not host or parts.path not in ("", "/") or parts.query or parts.fragment:
            raise ValueError(
                "the proxy's address is not usable: expected http://host:port or http://user:password@host:port"
            )
        self.address = (host, port or _DEFAULT_PORT)
        self.name = f"{_bracketed(host)}:{self.address[1]}"
        self.authorization = b""
        if parts.username is not None:
            pair = unquote_to_bytes(parts.username) + b":" + unquote_to_bytes(parts.password or "")
            self.authorization = b"Basic " + b64encode(pair)

    def __repr__(self) -> str:
        return f"<Proxy {self.name}>"

    def fields(self) -> list[tuple[bytes, bytes]]:
        """The header fields that are meant for it."""
        return [(b"proxy-authorization", self.authorization)] if self.authorization else []

    def locked_out(self) -> str:
        """Why it answers 407."""
        if self.authorization:
            return f"{_NEEDS_PASSWORD} (it does not take the user and password in its address)"
        return f"{_NEEDS_PASSWORD} (it wants a user and a password: http://user:password@{self.name})"

    async def tunnel(self, connection: Connection, host: str, port: int, context: ssl.SSLContext) -> None:
        """Connect `connection` with the upstream, by TLS, through this proxy. Cancelled or failing, it leaves no socket open.

        Raises: ProxyFailed; OSError (ssl.SSLError too): TLS with the upstream failed.
        """
        loop = asyncio.get_running_loop()
        target = f"{_bracketed(host)}:{port}"
        handshake = _Handshake(self._ask(target), loop.create_future())
        try:
            try:
                await loop.create_connection(lambda: handshake, *self.address)
            except (OSError, UnicodeError) as error:
                raise ProxyFailed(f"the proxy at {self.name} cannot be reached") from error
            self._check(await handshake.head, target)
            secured = await loop.start_tls(handshake.transport, connection, context, server_hostname=host)
            if secured is None:
                raise ConnectionResetError("closed during the TLS handshake")
        except BaseException:
            handshake.abort()
            raise
        connection.connection_made(secured)

    def _ask(self, target: str) -> bytes:
        lines = [f"CONNECT {target} HTTP/1.1".encode(), f"host: {target}".encode()]
        lines += [b": ".join(field) for field in self.fields()]
        return b"\r\n".join(lines) + b"\r\n\r\n"

    def _check(self, head: bytes, target: str) -> None:
        """Raises: ProxyFailed: there is no tunnel."""
        begin, end, rest = head.partition(b"\r\n\r\n")
        if not head:
            raise ProxyFailed(f"the proxy at {self.name} closed the connection without an answer")
        line = _STATUS_LINE.match(begin + b"\r\n")
        if line is None:
            raise ProxyFailed(f"the proxy at {self.name} answered with something that is not HTTP/1.1")
        status = int(line[1])
        if not 200 <= status < 300:
            why = self.locked_out() if status == _NEEDS_PASSWORD else str(status)
            raise ProxyFailed(f"the proxy at {self.name} refused to connect to {target}: {why}")
        if not end or rest:  # in a tunnel the client speaks first
            raise ProxyFailed(
                f"the proxy at {self.name} did not open a tunnel to {target}: its answer is not a whole one"
            )


class Forwarded(Connection):
    """A connection to a proxy that passes plain http requests on."""

    __slots__ = ("_proxy",)

    def __init__(self, pool: Pool, loop: asyncio.AbstractEventLoop, proxy: Proxy) -> None:
        super().__init__(pool, loop)
        self._proxy = proxy

    def begun(self, answer: Answer) -> Answer:
        """As `Connection.begun`. Raises: UpstreamUnreachable, too: the proxy wants a password (no upstream answers 407)."""
        super().begun(answer)
        if answer.status == _NEEDS_PASSWORD:
            self.cut()
            raise UpstreamUnreachable(
                f"provider {self.source!r} cannot be reached: the proxy at {self._proxy.name} refused: "
                f"{self._proxy.locked_out()}",
                source=self.source,
            )
        return answer


class _Handshake(asyncio.Protocol):
    """Asks for a tunnel and keeps what is said to that, up to the end of its head."""

    def __init__(self, ask: bytes, head: asyncio.Future[bytes]) -> None:
        self.head = head
        self.transport: asyncio.Transport
        self._ask = ask
        self._heard = bytearray()
        self._given_up = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        if self._given_up:
            self.transport.abort()
        else:
            self.transport.write(self._ask)

    def data_received(self, data: bytes) -> None:
        self._heard += data
        if b"\r\n\r\n" in self._heard or len(self._heard) > _HEAD_MAX_BYTES:
            self._tell()

    def connection_lost(self, exc: Exception | None) -> None:
        self._tell()

    def abort(self) -> None:
        """Close the socket at once, also while it is still being connected. Idempotent."""
        self._given_up = True
        if hasattr(self, "transport"):
            self.transport.abort()

    def _tell(self) -> None:
        if not self.head.done():
            self.head.set_result(bytes(self._heard))


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
