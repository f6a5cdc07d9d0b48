"""How a gateway's process ends: politely while it streams, or not at all politely; no engine survives it either way."""

from __future__ import annotations

import asyncio
import json
import re
import signal
from pathlib import Path

import pytest

from tests.cli.gateways import Served, served
from tests.fakes.processes import ENGINE, alive, pids, until
from tests.fakes.running import CHAT, Caller, ask, chat

TOML = f"""
[server]
port = 0
[memory]
budget = "500MiB"
[providers.rig]
kind = "process"
command = {json.dumps([*ENGINE, "--port", "${port}", "--grandchild", "setsid"])}
[models.dripping]
targets = ["rig/dripping"]
memory = "100MiB"
args = ["--gap-s", "0.02"]
[models.second]
targets = ["rig/second"]
memory = "100MiB"
args = ["--ignore-term"]
"""


def port_of(gateway: Served) -> int:
    """Where it takes requests."""
    return int(gateway.url.rpartition(":")[2])


async def family(port: int, *models: str) -> list[int]:
    """Load these; every process that belongs to them."""
    found: list[int] = []
    for model in models:
        assert (await ask(port, "POST", f"/admin/models/{model}/load", b"")).status == 200
        lines = (await ask(port, "GET", f"/admin/logs?model={model}")).json()["lines"]
        found += pids(lines)
    assert len(found) == 2 * len(models)
    return found


async def test_stream_may_end_when_the_gateway_is_asked_to(tmp_path: Path) -> None:
    """SIGTERM: the running answer comes to its `[DONE]`, new ones are refused, then all is gone and the exit code is 0."""
    with served(tmp_path, TOML) as gateway:
        port = port_of(gateway)
        engines = await family(port, "dripping")
        async with Caller(port) as streaming, Caller(port) as kept, Caller(port) as watching:
            await kept.ask("GET", "/health/live")
            await kept.answer()
            await watching.ask("GET", "/admin/events")
            await watching.head()
            await streaming.ask("POST", CHAT, chat("dripping", stream=True, max_tokens=60))
            await streaming.head()
            await streaming.piece()
            gateway.process.send_signal(signal.SIGTERM)
            body = await streaming.rest()
            assert body.endswith(b"data: [DONE]\n\n")
            assert b"token59" in body
            assert b'"what":"draining"' in await watching.rest()
            code = await asyncio.to_thread(gateway.process.wait, 10)
        assert code == 0
        assert not [pid for pid in engines if alive(pid)]


async def test_second_signal_does_not_wait_for_the_stream(tmp_path: Path) -> None:
    """The answer is cut, the engines are stopped all the same."""
    with served(tmp_path, TOML) as gateway:
        port = port_of(gateway)
        engines = await family(port, "dripping")
        async with Caller(port) as streaming:
            await streaming.ask("POST", CHAT, chat("dripping", stream=True, max_tokens=5000))
            await streaming.head()
            await streaming.piece()
            gateway.process.send_signal(signal.SIGTERM)
            while (await ask_or_none(port)) is not None:
                await asyncio.sleep(0.01)
            gateway.process.send_signal(signal.SIGTERM)
            await asyncio.to_thread(gateway.process.wait, 10)
            with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                await streaming.rest()
        assert not [pid for pid in engines if alive(pid)]


async def ask_or_none(port: int) -> int | None:
    """The status of its health; None once it takes no connections any more."""
    try:
        return (await ask(port, "GET", "/health/live")).status
    except (OSError, asyncio.IncompleteReadError):
        return None


async def test_no_child_survives_when_the_gateway_is_killed(tmp_path: Path) -> None:
    """kill -9: engines, one that ignores TERM, and their daemonised children; nobody is there to tell them."""
    with served(tmp_path, TOML) as gateway:
        engines = await family(port_of(gateway), "dripping", "second")
        assert all(alive(pid) for pid in engines)
        gateway.process.kill()
        gateway.process.wait(10)
        await until(lambda: not any(alive(pid) for pid in engines))


async def test_log_tells_what_happened_and_no_secret(tmp_path: Path) -> None:
    """One line each for a load and an eviction; keys of neither side."""
    keyed = TOML.replace("[server]", '[server]\napi_keys = ["ask-key-1234"]\nadmin_keys = ["admin-key-1234"]')
    with served(tmp_path, keyed) as gateway:
        fields = [("authorization", "Bearer admin-key-1234")]
        port = port_of(gateway)
        assert (await ask(port, "POST", CHAT, chat("dripping", max_tokens=1), fields)).status == 200
        assert (await ask(port, "POST", CHAT, chat("dripping"), [("x-api-key", "wrong-key-1234")])).status == 401
        assert await asyncio.to_thread(gateway.stop) == 0
    log = gateway.log.read_text()
    assert re.search(r"\bloaded rig/dripping\b", log)
    assert re.search(r"\bgone rig/dripping shutdown\b", log)
    assert "Traceback" not in log
    assert not re.search(r"(ask|admin|wrong)-key-1234", log + "".join(gateway.hint))
