"""What all connections of one server share: the application, the limits, the clock's coarse reading, and who is told to go.

The law: no timer per connection and none per request; one sweep looks at all of them, and only while there are any.
"""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from contextlib import nullcontext
from typing import Any, NamedTuple, Protocol

from . import refusals
from .exchange import App, Fields, written
from .memory import Packed, give_back
from .protocol import Connection
from .workers import Workers

_TICKS_PER_LIMIT = 4  # a limit is kept to a quarter of it, or to a second
_TICK_MAX_S = 1.0
# Memory is given back after a crowd of this size has left, all but a part of it.
CROWD = 200
_CROWD_LEFT = 8
# Until the first time what it used has been closed too: connections to upstreams are kept for four seconds. What is kept longer,
# and what the first time has loosened, is given back later.
SETTLED_S = (5.0, 7.0, 30.0)
_MANY_STATUSES = 100
_MANY_HEADS = 100


class Limits(NamedTuple):
    """In seconds.

    `keep_alive_s`: silence between two requests; `head_s`: from a head's first byte to its last; `linger_s`: how long a refused
    caller that is still sending is read on.
    """

    keep_alive_s: float = 75.0
    head_s: float = 30.0
    linger_s: float = 2.0


class ServerState(Protocol):
    """What uvicorn's server keeps of its connections; it waits for the two sets to be empty when it ends."""

    connections: set[Any]
    tasks: set[asyncio.Task[None]]
    default_headers: list[tuple[bytes, bytes]]  # made anew each second, for the Date


class Service:
    """Makes the connections of one server. Belongs to the loop it is first called on.

    Args:
        packed: see `give_back`.
    """

    def __init__(self, app: App, limits: Limits | None = None, packed: Packed = nullcontext) -> None:
        self.app = app
        self._packed = packed
        self.limits = limits or Limits()
        self.workers: Workers
        self.now_s = 0.0  # the loop's clock at the last sweep
        self.addresses: dict[Any, Any] = {}  # our own, each once
        self._state: ServerState | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tick_s = min(_TICK_MAX_S, *(limit_s / _TICKS_PER_LIMIT for limit_s in self.limits))
        self._armed = False
        self._crowd = 0
        self._fields: object = None
        self._date = b""
        self._openings: dict[int, bytes] = {}
        self._written: dict[int, tuple[object, bytes | None]] = {}

    def __call__(
        self,
        config: object,
        server_state: ServerState,
        app_state: MutableMapping[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> Connection:
        """A connection's protocol, as uvicorn asks for it."""
        if self._state is not server_state:
            self._state = server_state
            self._loop = _loop or asyncio.get_running_loop()
            self.workers = Workers(self.app, self._loop, server_state.tasks)
        assert self._loop is not None
        return Connection(self, self._loop)

    # ------------------------------------------------------------ what connections tell and ask

    def begun(self, connection: Connection) -> None:
        """It is open."""
        state, loop = self._state, self._loop
        assert state is not None
        assert loop is not None
        state.connections.add(connection)
        self._crowd = max(self._crowd, len(state.connections))
        if not self._armed:
            self._armed = True
            self.now_s = loop.time()
            loop.call_later(self._tick_s, self._sweep)

    def over(self, connection: Connection) -> None:
        """It is closed."""
        assert self._state is not None
        self._state.connections.discard(connection)

    def opening(self, status: int) -> bytes:
        """An answer's first lines, status and date, without the last one's end. Raises: ValueError."""
        state = self._state
        assert state is not None
        if state.default_headers is not self._fields:
            self._fields = state.default_headers
            self._date = b"".join(b"%b: %b\r\n" % field for field in state.default_headers)
            self._openings.clear()
        known = self._openings.get(status)
        if known is None:
            known = (refusals.status_line(status) + self._date)[:-2]
            if len(self._openings) < _MANY_STATUSES:
                self._openings[status] = known
        return known

    def written(self, headers: Fields) -> bytes | None:
        """As `exchange.written`; once only for what comes again as the same tuple."""
        if not isinstance(headers, tuple):
            return written(headers)
        known = self._written.get(id(headers))
        if known is None:  # what is known is held, so that its id is nobody else's
            if len(self._written) >= _MANY_HEADS:
                self._written.clear()
            known = self._written[id(headers)] = (headers, written(headers))
        return known[1]

    def refusal(self, status: int, message: str) -> bytes:
        """A whole answer of the server's own."""
        self.opening(status)  # brings the date up to date
        return refusals.whole(status, message, self._date)

    # ------------------------------------------------------------ the sweep

    def _sweep(self) -> None:
        state, loop = self._state, self._loop
        assert state is not None
        assert loop is not None
        now_s = self.now_s = loop.time()
        for connection in [each for each in state.connections if each.due_s <= now_s]:
            connection.overdue()
        if self._crowd >= CROWD and self._has_left(self._crowd):
            for settled_s in SETTLED_S:
                loop.call_later(settled_s, self._settle, self._crowd)
            self._crowd = len(state.connections)
        self._armed = bool(state.connections)
        if self._armed:
            loop.call_later(self._tick_s, self._sweep)
        else:
            self.workers.dismiss()

    def _has_left(self, crowd: int) -> bool:
        assert self._state is not None
        return len(self._state.connections) * _CROWD_LEFT <= crowd

    def _settle(self, crowd: int) -> None:
        if self._has_left(crowd):  # else another one has come, and will leave
            assert self._state is not None
            self.workers.dismiss()
            for known in (self._state.connections, self._state.tasks):
                if not known:
                    known.clear()  # a set that was large keeps its table until it is cleared
            give_back(self._packed)
