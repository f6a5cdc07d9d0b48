"""A caller that leaves, at each of five moments, streamed or not: no lease, nothing in flight, and the engine is free at once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator

import pytest
import pytest_asyncio

from tests.fakes.processes import ENGINE
from tests.fakes.running import CHAT, Caller, Running, ask, chat, running
from tests.fakes.upstream import FakeUpstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

FREE_WITHIN_S = 1.0
BOOT_S = 0.5

STREAMED = pytest.mark.parametrize("stream", [False, True])
GOING = pytest.mark.parametrize("goes", ["leaves", "resets"])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Running, None]:
    """Room for one engine at a time: one that answers slowly, and one that boots slowly."""
    engine = [*ENGINE, "--port", "${port}"]
    toml = f"""
    [server]
    port = 0
    [memory.devices]
    ram = "100MiB"
    [residency]
    min_residency_s = 0
    keepalive_s = 0.1
    [providers.rig]
    kind = "process"
    command = {json.dumps(engine)}
    [models.slow]
    targets = ["rig/slow"]
    memory = "60MiB"
    args = ["--first-s", "20"]
    [models.dripping]
    targets = ["rig/dripping"]
    memory = "60MiB"
    args = ["--gap-s", "0.05"]
    [models.booting]
    targets = ["rig/booting"]
    memory = "60MiB"
    args = ["--boot-s", "{BOOT_S}"]
    """
    async with running(tmp_path_factory.mktemp("gateway"), toml) as found:
        yield found


async def leave(caller: Caller, goes: str) -> None:
    """Politely or not."""
    caller.leave() if goes == "leaves" else caller.reset()


async def load(gateway: Running, model: str) -> int:
    """Bring it into memory; the engine's own port."""
    assert (await ask(gateway.port, "POST", f"/admin/models/{model}/load", b"")).status == 200
    lines = (await ask(gateway.port, "GET", f"/admin/logs?model={model}")).json()["lines"]
    return next(int(line.split("port=")[1].split()[0]) for line in lines if line.startswith("engine ready"))


async def stats(port: int) -> dict[str, int]:
    """What the engine says of itself."""
    return (await ask(port, "GET", "/stats")).json()


async def assert_free(gateway: Running, engine_port: int | None = None) -> None:
    """Nobody holds, waits or is in flight, in the books and at the engine itself, within the bound."""
    async with asyncio.timeout(FREE_WITHIN_S):
        await gateway.until(lambda: gateway.parts.metrics.in_flight == 0)
        shown = (await ask(gateway.port, "GET", "/admin/residency")).json()
        assert shown["queue"] == []
        assert sum(resident["leases"] for resident in shown["residents"]) == 0
        if engine_port is not None:
            await until_in_flight(engine_port, 0)


@STREAMED
@GOING
async def test_leaving_while_queued_frees_everything(gateway: Running, goes: str, *, stream: bool) -> None:
    """Another holds the room; who left is not loaded for afterwards."""
    port = await load(gateway, "slow")
    async with Caller(gateway.port) as holder, Caller(gateway.port) as caller:
        await holder.ask("POST", CHAT, chat("slow"))
        await gateway.until(lambda: gateway.leases() == 1)
        await caller.ask("POST", CHAT, chat("booting", stream=stream))
        await gateway.until(lambda: len(gateway.parts.residency.waiting()) == 1)
        await leave(caller, goes)
        await gateway.until(lambda: not gateway.parts.residency.waiting(), FREE_WITHIN_S)
        assert gateway.parts.metrics.in_flight == 1
        before = gateway.happened("load_started")
        await leave(holder, goes)
        await assert_free(gateway)
    await gateway.until(lambda: gateway.phases() == {})
    assert gateway.happened("load_started") == before
    with pytest.raises(ConnectionRefusedError):
        await stats(port)


@STREAMED
@GOING
async def test_leaving_while_loading_frees_everything(gateway: Running, goes: str, *, stream: bool) -> None:
    """The load goes on, for whoever comes next; the one who left holds nothing of it."""
    await ask(gateway.port, "POST", "/admin/models/booting/unload", b"")
    await gateway.until(lambda: "rig/booting" not in gateway.phases())
    async with Caller(gateway.port) as caller:
        await caller.ask("POST", CHAT, chat("booting", stream=stream))
        await gateway.until(lambda: gateway.phases().get("rig/booting") == "loading")
        await leave(caller, goes)
        await assert_free(gateway)
    await gateway.until(lambda: gateway.phases() == {"rig/booting": "ready"})
    assert gateway.leases() == 0
    assert (await stats(await load(gateway, "booting")))["requests"] == 0


@STREAMED
@GOING
async def test_leaving_before_the_first_token_frees_the_engine(gateway: Running, goes: str, *, stream: bool) -> None:
    """The engine is still thinking."""
    port = await load(gateway, "slow")
    before = await stats(port)
    async with Caller(gateway.port) as caller:
        await caller.ask("POST", CHAT, chat("slow", stream=stream))
        await gateway.until(lambda: gateway.leases() == 1)
        await until_in_flight(port, 1)
        await leave(caller, goes)
        await assert_free(gateway, port)
    after = await stats(port)
    assert (after["aborted"], after["finished"]) == (before["aborted"] + 1, before["finished"])


async def until_in_flight(port: int, count: int) -> None:
    """So many requests are at the engine, by its own word."""
    async with asyncio.timeout(5.0):
        while (seen := await stats(port))["in_flight"] != count:
            assert seen["in_flight"] >= 0
            await asyncio.sleep(0.005)


@STREAMED
@GOING
async def test_leaving_while_it_answers_frees_the_engine(gateway: Running, goes: str, *, stream: bool) -> None:
    """Mid-stream after some events; or while a plain answer is being made, token by token."""
    port = await load(gateway, "dripping")
    before = await stats(port)
    async with Caller(gateway.port) as caller:
        await caller.ask("POST", CHAT, chat("dripping", stream=stream, max_tokens=400))
        if stream:
            await caller.head()
            for _ in range(3):
                assert (await caller.piece()).startswith(b"data: ")
        else:
            await until_in_flight(port, 1)
        await leave(caller, goes)
        await assert_free(gateway, port)
    after = await stats(port)
    assert (after["aborted"], after["finished"]) == (before["aborted"] + 1, before["finished"])


@GOING
async def test_leaving_mid_upload_frees_everything(gateway: Running, goes: str) -> None:
    """Nothing had been begun for it."""
    port = await load(gateway, "dripping")
    before = await stats(port)
    async with Caller(gateway.port) as caller:
        await caller.send(f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: 90000\r\n\r\n".encode() + b"{" * 70_000)
        await gateway.until(lambda: gateway.parts.metrics.in_flight == 1)
        await leave(caller, goes)
        await assert_free(gateway, port)
    assert (await stats(port))["requests"] == before["requests"]


async def test_leaving_before_anybody_looks_frees_everything(gateway: Running) -> None:
    """Gone with the last byte of the request, before the watch for its leaving has begun."""
    port = await load(gateway, "slow")
    for _ in range(5):
        async with Caller(gateway.port) as caller:
            left = gateway.parts.metrics.disconnects
            await caller.ask("POST", CHAT, chat("slow", stream=True))
            caller.leave()
        await gateway.until(lambda before=left: gateway.parts.metrics.disconnects == before + 1, FREE_WITHIN_S)
        await assert_free(gateway, port)


@STREAMED
async def test_fifty_leaving_at_once_free_everything(gateway: Running, *, stream: bool) -> None:
    """All of them wait for the same answer."""
    port = await load(gateway, "slow")
    callers = [Caller(gateway.port) for _ in range(50)]
    async with asyncio.TaskGroup() as group:
        for caller in callers:
            group.create_task(begin(caller, stream=stream))
    await gateway.until(lambda: gateway.leases() == 50)
    for caller in callers:
        caller.reset()
    await assert_free(gateway, port)


async def begin(caller: Caller, *, stream: bool) -> None:
    """Connect and ask."""
    await caller.__aenter__()
    await caller.ask("POST", CHAT, chat("slow", stream=stream))


@STREAMED
async def test_leaving_frees_a_remote_upstream(tmp_path_factory: pytest.TempPathFactory, *, stream: bool) -> None:
    """Where there is no engine of ours, the connection is cut, so that the upstream can stop."""
    async with FakeUpstream(events=1000, interval_s=0.02) as upstream:
        gate = asyncio.Event()
        if not stream:
            upstream.queue(gate)
        toml = f'[providers.up]\nkind = "openai"\nbase_url = "{upstream.base_url}"\nmodels = ["m"]\n'
        toml += '[models.m]\ntargets = ["up/m"]\n'
        async with running(tmp_path_factory.mktemp("remote"), toml) as gateway, Caller(gateway.port) as caller:
            await caller.ask("POST", CHAT, chat("m", stream=stream))
            await upstream.until(lambda: upstream.in_flight == 1)
            if stream:
                await caller.head()
                await caller.piece()
            caller.leave()
            await upstream.until(lambda: upstream.in_flight == 0 and upstream.aborted == 1, FREE_WITHIN_S)
            await gateway.until(lambda: gateway.parts.metrics.in_flight == 0, FREE_WITHIN_S)
            assert gateway.parts.metrics.disconnects == 1
