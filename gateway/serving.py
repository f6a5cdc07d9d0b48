"""The server around the application: the socket, the signals, and the order of ending.

First signal: no new connections, waiting requests are refused, running ones may end within the grace; then the engines stop.
Second signal: at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import socket
import sys
from collections.abc import Callable, Generator
from typing import cast

import uvicorn

from config.schema import Config

from .app import Gateway, gateway
from .server.service import Limits, Service

log = logging.getLogger("roundhouse")

# Under the 30 s that container runtimes commonly wait between TERM and KILL.
GRACE_S = 20
# Clients keep connections for a while; ours must not close first under a request just being sent. nginx's default.
KEEP_ALIVE_S = 75
BACKLOG = 4096


class PortTaken(Exception):
    """The address cannot be listened on; str() says what to do."""


class _Server(uvicorn.Server):
    """uvicorn without its own signal handling, which would end the process before the engines are stopped."""

    def __init__(self, config: uvicorn.Config, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._tell_started = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        _settle_garbage()
        self._tell_started()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


def _settle_garbage() -> None:
    """What the start has built stays: it need not be looked at in each collection. Later ones may come more rarely, since an
    exchange leaves no cycles behind; together a twelfth of a request's time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)


def listen(host: str, port: int) -> socket.socket:
    """A bound socket. Raises: PortTaken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # named, since asyncio switches Nagle off only where the protocol is: header fields and body are two small writes
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        raise PortTaken(f"cannot listen on {host}:{port}: {error.strerror}; choose another with --port") from None
    return sock


def server_config(parts: Gateway, grace_s: int) -> uvicorn.Config:
    """How it is served, wherever that is done: our own protocol in uvicorn's shell.

    Args:
        grace_s: how long running requests may end after it is asked to stop.
    """
    service = Service(parts.app, Limits(keep_alive_s=KEEP_ALIVE_S), parts.packed)
    return uvicorn.Config(
        parts.app,
        http=cast("type[asyncio.Protocol]", service),  # its maker will do
        interface="asgi3",  # the edge is no coroutine function, which is how uvicorn would know
        ws="none",
        lifespan="off",
        access_log=False,
        proxy_headers=False,  # nobody reads the caller's address
        log_config=None,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=grace_s,
    )


async def serve(config: Config, announce: Callable[[Gateway, str], None]) -> None:
    """Until a signal comes. Raises: PortTaken, ConfigError.

    Args:
        announce: called once with the parts and the base address when requests are taken.
    """
    sock = listen(config.server.host, config.server.port)
    host = f"[{config.server.host}]" if ":" in config.server.host else config.server.host
    address = f"http://{host}:{sock.getsockname()[1]}"
    with contextlib.closing(sock):
        async with gateway(config) as parts:
            server = _Server(server_config(parts, GRACE_S), lambda: announce(parts, address))
            _on_signals(server, parts)
            await server.serve(sockets=[sock])


def _on_signals(server: uvicorn.Server, parts: Gateway) -> None:
    loop = asyncio.get_running_loop()

    def stop() -> None:
        if server.should_exit:
            server.force_exit = True
        server.should_exit = True
        parts.residency.begin_shutdown()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)


def run(config: Config, announce: Callable[[Gateway, str], None]) -> None:
    """Blocking, on uvloop where there is one. Raises: PortTaken, ConfigError."""
    factory = None
    if sys.platform != "win32":
        import uvloop  # noqa: PLC0415 - there is none on Windows

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(serve(config, announce))
