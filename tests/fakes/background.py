"""Runs a fake server in a thread with an event loop of its own, for tests of code that has its own loop (the command line)."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Generator
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import TypeVar

_T = TypeVar("_T")


@contextmanager
def in_background(server: AbstractAsyncContextManager[_T]) -> Generator[_T]:
    """The server while the block runs; its own failures are raised at the end."""
    started: Future[tuple[_T, asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def serve() -> None:
        async with server as entered:
            end = asyncio.Event()
            started.set_result((entered, asyncio.get_running_loop(), end))
            await end.wait()

    ended: Future[None] = Future()

    def run() -> None:
        try:
            asyncio.run(serve())
            ended.set_result(None)
        except BaseException as error:  # noqa: BLE001 - carried to the test, which raises it
            ended.set_exception(error)
            if not started.done():
                started.set_exception(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        entered, loop, end = started.result(10)
        try:
            yield entered
        finally:
            loop.call_soon_threadsafe(end.set)
            ended.result(10)
    finally:
        thread.join(10)
