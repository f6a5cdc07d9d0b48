"""The tasks that exchanges run in.

The law: one exchange at a time in a task, and a task that was cancelled runs no other. To make a task costs as much as half of all
else that the server does for a request (Python enters each into a weak set, in Python), so a few that are done wait for more work.
"""

from __future__ import annotations

import asyncio
from typing import Any

from .exchange import App, Exchange

# More than this many wait only as long as it takes to end.
IDLE_MAX = 64

Work = tuple[Exchange, dict[str, Any]]


class Workers:
    """Runs exchanges.

    Args:
        busy: gets the tasks that have an exchange, as long as they have.
    """

    def __init__(self, app: App, loop: asyncio.AbstractEventLoop, busy: set[asyncio.Task[None]]) -> None:
        self._app = app
        self._loop = loop
        self._busy = busy
        self._idle: list[asyncio.Future[Work]] = []  # who waits for work, the last one first

    def give(self, exchange: Exchange, scope: dict[str, Any]) -> None:
        """Have it run, soon."""
        idle = self._idle
        while idle:
            asked = idle.pop()
            if not asked.done():  # else its task was cancelled
                asked.set_result((exchange, scope))
                return
        self._loop.create_task(self._work((exchange, scope)))

    def dismiss(self) -> None:
        """Nobody is to wait any longer."""
        while self._idle:
            self._idle.pop().cancel()

    async def _work(self, work: Work) -> None:
        task = asyncio.current_task(self._loop)
        assert task is not None
        idle, app, busy, create_future = self._idle, self._app, self._busy, self._loop.create_future
        while True:
            exchange, scope = work
            busy.add(task)
            try:
                await exchange.run(app, scope)
            finally:
                busy.discard(task)
            del exchange, scope, work
            if len(idle) >= IDLE_MAX or task.cancelling():
                return
            asked: asyncio.Future[Work] = create_future()
            idle.append(asked)
            try:
                work = await asked
            except asyncio.CancelledError:
                if asked.done() and not asked.cancelled():  # too late: what was given is not lost
                    self.give(*asked.result())
                raise
