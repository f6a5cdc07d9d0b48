"""Every test runs on both loops: transports differ in when they write, pause and tell of an end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping

import pytest_asyncio
import uvloop

from .served import Served, served


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """uvloop is what serves; asyncio's own loop is what serves on Windows."""
    return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}


@pytest_asyncio.fixture
async def server() -> AsyncGenerator[Served, None]:
    """With the usual limits."""
    async with served() as found:
        yield found
