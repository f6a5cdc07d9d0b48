"""A real HTTP proxy for tests: tunnels (CONNECT) and passes plain requests on, or refuses in the words a test gives it.

Law: it hands on bytes as they are; what its peers see is what was sent. It waits for nothing but its peers.

    async with FakeProxy(credentials="user:secret") as proxy:
        endpoint = Endpoint(upstream.base_url, source="fake", proxy=Secret(proxy.url("user:secret")))
"""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import Callable
from typing import Self
from urllib.parse import urlsplit

_LOOK_AGAIN_S = 0.002


class FakeProxy:
    """On a free port of the loopback.

    Args:
        credentials: "user:password" it wants to see, else it answers 407; "": none.
        says: in place of serving: exactly these bytes, then it closes; None: it serves.
        holds: after `says` it does not close but waits for the peer to leave.
    """

    def __init__(self, *, credentials: str = "", says: bytes | None = None, holds: bool = False) -> None:
        self.heads: list[str] = []  # of every first request on a connection
        self.open_connections = 0
        self.port = 0
        self._wanted = f"proxy-authorization: Basic {b64encode(credentials.encode()).decode()}" if credentials else ""
        self._says = says
        self._holds = holds
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def name(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.port}"

    def url(self, user: str = "") -> str:
        """Its address. Args: user: "user:password", percent-encoded."""
        return f"http://{user}@{self.name}" if user else f"http://{self.name}"

    async def until(self, condition: Callable[[], bool], within_s: float = 5.0) -> None:
        """Wait for it. Raises: AssertionError: it did not come true in time."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + within_s
        while not condition():
            assert loop.time() < deadline_s, (
                f"not within {within_s} s: {self.open_connections} connections, {self.heads}"
            )
            await asyncio.sleep(_LOOK_AGAIN_S)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._connection(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open_connections += 1
        try:
            await self._serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # a peer left
        finally:
            self.open_connections -= 1
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.heads.append(head.decode())
        if self._says is not None:
            writer.write(self._says)
            if self._holds:
                await reader.read()
            writer.close()  # sends what is written, unlike `abort`
            await writer.wait_closed()
        elif self._wanted and self._wanted not in self.heads[-1]:
            writer.write(b'HTTP/1.1 407 No\r\nproxy-authenticate: Basic realm="x"\r\ncontent-length: 0\r\n\r\n')
            await reader.read()
        else:
            await self._carry(head, reader, writer)

    async def _carry(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
        parts = urlsplit(f"//{target}" if method == "CONNECT" else target)
        far_reader, far_writer = await asyncio.open_connection(parts.hostname, parts.port)
        try:
            if method == "CONNECT":
                writer.write(b"HTTP/1.1 200 Connection established\r\nvia: fake\r\n\r\n")
            else:
                far_writer.write(head)
            ways = (_pipe(reader, far_writer), _pipe(far_reader, writer))
            tasks = [asyncio.get_running_loop().create_task(way) for way in ways]
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            far_writer.transport.abort()


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(64 * 1024):
        writer.write(data)
        await writer.drain()
