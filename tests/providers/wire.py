"""What the transport's tests share: a request, an upstream with an endpoint to it, ways to take an answer."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from providers.contract import Request
from providers.transport import Endpoint
from tests.fakes.upstream import Exchange, FakeUpstream

OK = b"HTTP/1.1 200 OK\r\n"
SHORT = OK + b"content-length: 5\r\n\r\nhello"
MIB = 1 << 20
# One read event's worth and the few bytes at which an unread answer stops reading.
UNREAD_MAX_BYTES = 256 * 1024 + 4 * 1024


def request(
    body: bytes = b"{}",
    *,
    method: bytes = b"POST",
    path: bytes = b"/v1/x",
    headers: Sequence[tuple[bytes, bytes]] = ((b"content-type", b"application/json"),),
    first_byte_s: float | None = 10.0,
    idle_s: float | None = 10.0,
) -> Request:
    return Request(method=method, path=path, headers=headers, body=body, first_byte_s=first_byte_s, idle_s=idle_s)


class Setup:
    """An upstream and an endpoint to it."""

    def __init__(self, upstream: FakeUpstream, endpoint: Endpoint) -> None:
        self.upstream = upstream
        self.endpoint = endpoint

    async def settled(self) -> None:
        """Nothing is in flight on either side."""
        await self.upstream.until(lambda: self.endpoint.in_flight == 0 and self.upstream.in_flight == 0)

    async def works(self) -> None:
        """A plain request is served as ever."""
        self.upstream.queue(SHORT)
        assert await fetch(self.endpoint) == b"hello"


@asynccontextmanager
async def connected(**options: Any) -> AsyncGenerator[Setup]:
    async with FakeUpstream() as upstream:
        endpoint = Endpoint(upstream.base_url, source="fake", **options)
        try:
            yield Setup(upstream, endpoint)
        finally:
            await endpoint.aclose()
            assert endpoint.in_flight == 0
            assert endpoint.idle == 0


async def fetch(endpoint: Endpoint, asked: Request | None = None, max_bytes: int = 16 * MIB) -> bytes:
    response = await endpoint.send(asked or request())
    try:
        return await response.read(max_bytes)
    finally:
        response.close()


async def collect(endpoint: Endpoint, asked: Request | None = None) -> list[bytes]:
    pieces: list[bytes] = []

    async def sink(piece: bytes) -> None:
        pieces.append(piece)

    response = await endpoint.send(asked or request())
    try:
        await response.pump(sink)
    finally:
        response.close()
    return pieces


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


class Flood:
    """An answer far larger than all buffers between; knows when nobody takes any more of it."""

    def __init__(self, total_bytes: int = 64 * MIB) -> None:
        self.total_bytes = total_bytes
        self.written_bytes = 0
        self._seen_bytes = 0
        self._still = 0

    async def __call__(self, exchange: Exchange) -> None:
        await exchange.body()
        await exchange.write(OK + b"content-length: %d\r\n\r\n" % self.total_bytes)
        while self.written_bytes < self.total_bytes:
            self.written_bytes += 64 * 1024
            await exchange.write(bytes(64 * 1024))

    def stalled(self) -> bool:
        """For `until`: between many looks, each at least a turn of the loop, nothing went out any more."""
        self._still = self._still + 1 if 0 < self.written_bytes == self._seen_bytes else 0
        self._seen_bytes = self.written_bytes
        return self._still >= 20 and self.written_bytes < self.total_bytes


async def nowhere(piece: bytes) -> None:
    """A sink for bytes that do not matter."""
