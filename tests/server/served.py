"""A server of ours before a small application of the tests', which does what the path says and notes what it saw.

The law: callers speak raw bytes over real sockets; what stands in for uvicorn's shell keeps the same three things of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

from gateway.server.service import Limits, Service

WITHIN_S = 10.0  # a bound on every wait of a test

Message = dict[str, Any]
Handler = Callable[[Message, Any, Any], Any]


class State:
    """What uvicorn keeps of its connections."""

    def __init__(self) -> None:
        self.connections: set[Any] = set()
        self.tasks: set[asyncio.Task[None]] = set()
        self.default_headers = [(b"date", b"Sun, 22 Nov 2026 12:00:00 GMT")]


class Served:
    """The application and its server.

    Handlers are put into `handlers` by path; every other path answers with what was asked: method, path and body.
    """

    def __init__(self, limits: Limits) -> None:
        self.handlers: dict[str, Handler] = {}
        self.scopes: list[Message] = []
        self.bodies: list[bytes] = []
        self.running = 0
        self.cancelled = 0
        self.state = State()
        self.service = Service(self.app, limits)
        self.port = 0

    async def app(self, scope: Message, receive: Any, send: Any) -> None:
        """What every request is given to."""
        self.scopes.append(scope)
        self.running += 1
        try:
            await self.handlers.get(scope["path"], self._echo)(scope, receive, send)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1

    async def _echo(self, scope: Message, receive: Any, send: Any) -> None:
        body = await read(receive)
        assert body is not None
        self.bodies.append(body)
        await answer(send, f"{scope['method']} {scope['path']} ".encode() + body)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for it. Raises: AssertionError: it did not come true in time."""
        deadline_s = asyncio.get_running_loop().time() + WITHIN_S
        while not condition():
            assert asyncio.get_running_loop().time() < deadline_s
            await asyncio.sleep(0.002)


async def read(receive: Any) -> bytes | None:
    """The whole body, None when the caller left."""
    pieces: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        pieces.append(message["body"])
        if not message["more_body"]:
            return b"".join(pieces)


async def answer(send: Any, body: bytes, status: int = 200, headers: Any = None, *, more: bool = False) -> None:
    """A whole answer, or its beginning."""
    if headers is None:
        headers = [(b"content-length", b"%d" % len(body))] if not more else []
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": more})


async def piece(send: Any, body: bytes, *, more: bool = True) -> None:
    """The next piece of an answer's body."""
    await send({"type": "http.response.body", "body": body, "more_body": more})


@asynccontextmanager
async def served(limits: Limits | None = None) -> AsyncGenerator[Served, None]:
    """Up while the block runs; afterwards every connection is closed and every exchange has ended."""
    found = Served(limits or Limits())
    state, loop = found.state, asyncio.get_running_loop()
    listener = await loop.create_server(lambda: found.service(None, state, {}, loop), "127.0.0.1", 0)
    found.port = listener.sockets[0].getsockname()[1]
    try:
        yield found
    finally:
        listener.close()
        for connection in list(state.connections):
            connection.shutdown()
        for task in list(state.tasks):
            task.cancel()
        await found.until(lambda: not state.connections and not state.tasks)
        found.service.workers.dismiss()
