"""What a crowd of open streams leaves behind in a real `roundhouse serve`: next to nothing."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.cli.gateways import API_KEY, Served, served
from tests.fakes.upstream import Exchange, FakeUpstream

GLIBC = pytest.mark.skipif(
    sys.platform != "linux" or not (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc"),
    reason="only glibc gives single pages back",
)
CROWD = 2000
FEW = 100
KEPT = 1000  # the last requests that stay in memory: they are there before it is measured
STREAM_KB = 40
LEFT = 1.15
WITHIN_S = 30.0
_BODY = json.dumps({"model": "m", "stream": True, "messages": [{"role": "user", "content": "Hello!"}]}).encode()
_REQUEST = (
    b"POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer %b\r\n"
    b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (API_KEY.encode(), len(_BODY), _BODY)
)


@GLIBC
def test_a_crowd_leaves_next_to_nothing(tmp_path: Path) -> None:
    """As much as before it within some seconds, keys, ledger and metrics on; and no stream is dear while it is open."""
    most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files[1], most_files[1]))
    try:
        asyncio.run(_measure(tmp_path))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, most_files)


async def _measure(folder: Path) -> None:
    async with FakeUpstream() as upstream:
        streams = _Streams()
        upstream.script(streams.answer)
        toml = f"""
[server]
port = 0
api_keys = ["{API_KEY}"]
state_dir = "{folder}"
[providers.up]
kind = "openai"
base_url = "{upstream.base_url}/v1"
models = ["m"]
max_concurrent = 100000
[models.m]
targets = ["up/m"]
"""
        with served(folder, toml) as gateway:
            process = psutil.Process(gateway.process.pid)
            for _ in range(KEPT // FEW):
                await streams.open(gateway, FEW)
                await streams.close()
            await _until(lambda: (folder / "ledger.sqlite3").exists())
            before = process.memory_info().rss
            await streams.open(gateway, CROWD)
            opened = process.memory_info().rss
            await streams.close()
            assert before * LEFT < opened < before + CROWD * STREAM_KB * 1024
            await _until(lambda: process.memory_info().rss < before * LEFT)


class _Streams:
    """Callers, each with the first event of an answer, and the upstream that does not say more before they are closed."""

    def __init__(self) -> None:
        self._enough = asyncio.Event()
        self._callers: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def answer(self, exchange: Exchange) -> None:
        await exchange.body()
        await exchange.start_stream()
        await exchange.event({"choices": [{"index": 0, "delta": {"content": "Hello"}}]})
        await self._enough.wait()
        await exchange.event("[DONE]")
        await exchange.end()

    async def open(self, gateway: Served, count: int) -> None:
        """Returns when each has its first event."""
        self._enough.clear()
        port = int(gateway.url.rpartition(":")[2])
        for _ in range(count // FEW):
            self._callers += await asyncio.gather(*(self._open_one(port) for _ in range(FEW)))

    async def _open_one(self, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(_REQUEST)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 "), head
        await reader.readuntil(b"Hello")
        return reader, writer

    async def close(self) -> None:
        """Returns when each has all of it."""
        self._enough.set()
        for reader, writer in self._callers:
            await reader.readuntil(b"0\r\n\r\n")
            writer.close()
            await writer.wait_closed()
        self._callers.clear()


async def _until(condition: Callable[[], bool]) -> None:
    """Wait for it. Raises: AssertionError: it did not come true in time."""
    deadline_s = time.monotonic() + WITHIN_S
    while not condition():
        assert time.monotonic() < deadline_s
        await asyncio.sleep(0.05)
