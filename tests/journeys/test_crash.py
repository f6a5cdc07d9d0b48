"""Engines and gateways that are killed: what the caller sees, and what is left."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

from providers.sweep import OWNER, find_marked
from tests.cli.gateways import Served, served
from tests.fakes.processes import alive, pids, until
from tests.fakes.running import CHAT, Caller, ask, chat, running
from tests.journeys.models import fakes

SLOW = ("--gap-s", "0.05", "--tokens", "200")


def marked_by(served_by: Served) -> set[int]:
    """Every process that carries the mark of this gateway's warden."""
    environments = [Path(f"/proc/{pid}/environ") for pid in children(served_by.process.pid)]
    owners = {
        entry
        for path in environments
        for entry in path.read_bytes().split(b"\0")
        if entry.startswith(OWNER.encode() + b"=")
    }
    return {pid for owner in owners for pid in find_marked(owner)}


def children(pid: int) -> list[int]:
    """The processes it has started."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]


async def test_an_engine_killed_mid_stream_is_told_and_reloaded(tmp_path: Path) -> None:
    """That caller gets an error event and no `[DONE]`; the next request has a new engine."""
    async with running(tmp_path, fakes("1GiB", {"a": "300MiB"}, flags={"a": SLOW})) as gateway:
        async with Caller(gateway.port) as caller:
            await caller.ask("POST", CHAT, chat("a", stream=True))
            await caller.head()
            stream = await caller.piece() + await caller.piece()
            os.kill(gateway.pid("fake/a"), signal.SIGKILL)
            stream += await caller.rest()

        assert b"[DONE]" not in stream
        assert b'"finish_reason":"stop"' not in stream.replace(b" ", b"")
        assert stream.rpartition(b"data: ")[2].startswith(b'{"error":')
        assert b'"code":"upstream_broke"' in stream
        again = await ask(gateway.port, "POST", CHAT, chat("a", max_tokens=2))
        assert again.status == 200
        assert gateway.happened("died") == ["fake/a"]
        assert gateway.happened("loaded") == ["fake/a", "fake/a"]
        assert gateway.leases() == 0


async def test_an_engine_that_dies_on_every_request_cools_down(tmp_path: Path) -> None:
    """The first deaths are forgiven, then callers are told at once with its exit code."""
    flags = {"a": ("--die-mid-stream", "1", "--die-code", "9"), "b": ()}
    async with running(tmp_path, fakes("1GiB", {"a": "300MiB", "b": "300MiB"}, flags=flags)) as gateway:
        codes: list[str] = []
        for _ in range(3):
            answer = await ask(gateway.port, "POST", CHAT, chat("a", stream=True))
            codes.append("stream" if answer.status == 200 else answer.error["code"])
            await gateway.until(lambda: gateway.phases() == {})

        assert codes == ["stream", "stream", "load_failed"]
        assert (await ask(gateway.port, "POST", CHAT, chat("b"))).status == 200


async def test_no_child_survives_when_the_gateway_is_killed(tmp_path: Path) -> None:
    """SIGKILL: the engine, its grandchildren and those in a session of their own are gone, and so is the warden."""
    flags = {"a": ("--grandchild", "plain"), "b": ("--grandchild", "setsid", "--ignore-term")}
    toml = "[server]\nport = 0\n" + fakes("1GiB", {"a": "300MiB", "b": "300MiB"}, flags=flags)
    with served(tmp_path / "gateway", toml) as gateway:
        port = int(gateway.url.rpartition(":")[2])
        for model in ("a", "b"):
            assert (await ask(port, "POST", CHAT, chat(model))).status == 200
        lines = [
            line for model in "ab" for line in (await ask(port, "GET", f"/admin/logs?model={model}")).json()["lines"]
        ]
        family = {*pids(lines), *marked_by(gateway), *children(gateway.process.pid)}
        assert len(pids(lines)) == 4
        assert all(alive(pid) for pid in family)

        gateway.stop(signal.SIGKILL)

        await until(lambda: not any(alive(pid) for pid in family), 5)


async def test_a_stream_may_end_when_the_gateway_is_asked_to_stop(tmp_path: Path) -> None:
    """SIGTERM: the running answer is finished, new requests are refused, then everything is gone and the exit code is 0."""
    toml = "[server]\nport = 0\n" + fakes("1GiB", {"a": "300MiB"}, flags={"a": ("--gap-s", "0.05", "--tokens", "12")})
    with served(tmp_path / "gateway", toml) as gateway:
        port = int(gateway.url.rpartition(":")[2])
        async with Caller(port) as caller:
            await caller.ask("POST", CHAT, chat("a", stream=True))
            await caller.head()
            stream = await caller.piece()
            family = children(gateway.process.pid)
            gateway.process.send_signal(signal.SIGTERM)
            stream += await caller.rest()

        assert stream.endswith(b"data: [DONE]\n\n")
        assert await asyncio.to_thread(gateway.process.wait, 10) == 0
        assert not any(alive(pid) for pid in family)
