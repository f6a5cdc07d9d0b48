"""A few routes on a real port, behind our own server, with errors told as the gateway tells them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import msgspec
import uvicorn
from litestar import Litestar, Request, Response
from litestar.exceptions import HTTPException
from litestar.handlers import HTTPRouteHandler

from gateway.api.errors import tell, tell_http
from gateway.server.service import Limits, Service


class _Server(uvicorn.Server):
    """Leaves the signals to pytest, and says when it takes requests."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self.up.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


@asynccontextmanager
async def small(handlers: Sequence[HTTPRouteHandler]) -> AsyncGenerator[int, None]:
    """Their port on loopback; on leaving, whatever is still connected is cut."""
    app = Litestar(
        list(handlers),
        exception_handlers={HTTPException: _http_error, Exception: _error},
        openapi_config=None,
        logging_config=None,
    )
    config = uvicorn.Config(
        app,
        http=cast("type[asyncio.Protocol]", Service(app, Limits(keep_alive_s=5))),
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        timeout_graceful_shutdown=1,
    )
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.bind(("127.0.0.1", 0))
    with contextlib.closing(sock):
        server = _Server(config)
        serving = asyncio.ensure_future(server.serve(sockets=[sock]))
        await server.up.wait()
        try:
            yield sock.getsockname()[1]
        finally:
            server.should_exit = server.force_exit = True
            await serving


def _error(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    told = tell(error)
    return Response(told.body(), status_code=told.status, media_type="application/json")


def _http_error(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    body = msgspec.json.encode(tell_http(error.status_code, error.detail))
    return Response(body, status_code=error.status_code, media_type="application/json")
