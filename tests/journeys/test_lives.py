"""How a gateway's process ends while somebody streams and somebody watches, and what its log has told by then."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
from pathlib import Path

import pytest

from tests.cli.gateways import Served, served
from tests.fakes.processes import ENGINE, alive, pids
from tests.fakes.running import CHAT, Caller, ask, chat, running

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


async def test_events_end_when_the_gateway_is_asked_to_stop(tmp_path: Path) -> None:
    """A dashboard that follows them, or a client that keeps its connection, does not hold up the end; an answer does."""
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
    """The engines are stopped under it, which it is told as far as there is time; nobody takes it for finished."""
    with served(tmp_path, TOML) as gateway:
        port = port_of(gateway)
        engines = await family(port, "dripping")
        async with Caller(port) as streaming:
            await streaming.ask("POST", CHAT, chat("dripping", stream=True, max_tokens=5000))
            await streaming.head()
            await streaming.piece()
            gateway.process.send_signal(signal.SIGTERM)
            await until_closed(port)
            gateway.process.send_signal(signal.SIGTERM)
            body = b""
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while piece := await streaming.piece():
                    body += piece
            assert await asyncio.to_thread(gateway.process.wait, 10) == 0
            assert b"token4999" not in body
            assert b"[DONE]" not in body
        assert not [pid for pid in engines if alive(pid)]


async def until_closed(port: int) -> None:
    """Until it takes no connections any more."""
    async with asyncio.timeout(5.0):
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                await ask(port, "GET", "/health/live")
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("stream", [False, True])
async def test_engine_killed_while_idle_is_loaded_anew_for_the_next_request(tmp_path: Path, *, stream: bool) -> None:
    """Asked before anybody has noticed its death: nothing was sent to it, so the caller need not know."""
    async with running(tmp_path, TOML) as gateway:
        assert (await ask(gateway.port, "POST", CHAT, chat("dripping", max_tokens=1))).status == 200
        os.kill(gateway.pid("rig/dripping"), signal.SIGKILL)
        answer = await ask(gateway.port, "POST", CHAT, chat("dripping", stream=stream, max_tokens=1))
        assert answer.status == 200
        assert b'"finish_reason": "stop"' in answer.body
        assert gateway.happened("loaded") == ["rig/dripping"] * 2
        await gateway.until(lambda: gateway.leases() == 0)


@pytest.mark.parametrize("stream", [False, True])
async def test_request_that_loses_two_engines_is_told_so(tmp_path: Path, *, stream: bool) -> None:
    """Asked anew once, with comments meanwhile for a stream; not for ever, since it may be what kills them."""
    toml = TOML.replace('"--gap-s", "0.02"', '"--first-s", "20"')
    async with running(tmp_path, toml) as gateway, Caller(gateway.port) as caller:
        await caller.ask("POST", CHAT, chat("dripping", stream=stream))
        for loads in (1, 2):
            await gateway.until(lambda loads=loads: len(gateway.happened("loaded")) == loads and gateway.leases() == 1)
            os.kill(gateway.pid("rig/dripping"), signal.SIGKILL)
            await gateway.until(lambda loads=loads: len(gateway.happened("died")) == loads)
        answer = await caller.answer()
        assert (answer.status, answer.error["code"]) == (502, "upstream_broke")
        assert gateway.happened("loaded") == ["rig/dripping"] * 2
        assert gateway.leases() == 0


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
