"""Whole gateways with real engine processes under a budget: who is loaded, who has to go, who stays, and what is told about it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families

from tests.fakes.processes import ENGINE, alive
from tests.fakes.running import CHAT, Answer, Caller, Running, ask, chat, running

MIB = 1 << 20

TOML = f"""
[server]
port = 0
[memory.devices]
ram = "220MiB"
[residency]
min_residency_s = 0
keepalive_s = 0.2
[providers.rig]
kind = "process"
command = {json.dumps([*ENGINE, "--port", "${port}", "--model", "${alias}"])}
[models.a]
targets = ["rig/a"]
memory = "100MiB"
[models.b]
targets = ["rig/b"]
memory = "100MiB"
[models.c]
targets = ["rig/c"]
memory = "100MiB"
[models.dripping]
targets = ["rig/dripping"]
memory = "200MiB"
args = ["--gap-s", "0.02"]
[models.broken]
targets = ["rig/broken"]
memory = "150MiB"
args = ["--say", "no such file: weights.gguf", "--fail-code", "3"]
[models.huge]
targets = ["rig/huge"]
memory = "1GiB"
[models.grown]
targets = ["rig/grown"]
memory = "1MiB"
args = ["--ballast-mb", "30"]
"""


@pytest_asyncio.fixture
async def gateway(tmp_path: Path) -> AsyncGenerator[Running, None]:
    """Fresh for each journey; afterwards none of its engines lives."""
    async with running(tmp_path, TOML) as found:
        yield found
        pids = [engine.pid for engine in found.parts.residency.engines.values()]
    assert not [pid for pid in pids if alive(pid)]


async def use(gateway: Running, model: str, **more: object) -> Answer:
    """One answer that must come, from the right engine."""
    answer = await ask(gateway.port, "POST", CHAT, chat(model, **more))
    assert answer.status == 200, answer.body
    if not more:
        assert answer.json()["model"] == model
    return answer


async def events(gateway: Running) -> list[dict[str, Any]]:
    """Everything that has happened, as an operator reads it."""
    seen: list[dict[str, Any]] = []
    last = gateway.parts.residency.journal.since(0)[-1].seq
    async with Caller(gateway.port) as caller:
        await caller.ask("GET", "/admin/events")
        await caller.head()
        while not seen or seen[-1]["seq"] < last:
            for line in (await caller.piece()).decode().splitlines():
                if line.startswith("data: "):
                    seen.append(json.loads(line[6:]))
    return seen


async def samples(gateway: Running) -> Mapping[tuple[str, ...], float]:
    """The metrics, by name and label values."""
    text = (await ask(gateway.port, "GET", "/metrics")).body.decode()
    families = text_string_to_metric_families(text)
    return {(s.name, *s.labels.values()): s.value for family in families for s in family.samples}


async def residents(gateway: Running) -> dict[str, dict[str, Any]]:
    """By model."""
    shown = (await ask(gateway.port, "GET", "/admin/residency")).json()
    return {resident["model"]: resident for resident in shown["residents"]}


async def test_least_recently_used_goes_when_a_third_is_asked_for(gateway: Running) -> None:
    """A, B, C, A under a budget for two: C takes A's place, then A takes B's; events and metrics say exactly that."""
    for model in ("a", "b", "c", "a"):
        await use(gateway, model)
    told = await events(gateway)
    drained = [(e["target"], e["why"], e["for_target"]) for e in told if e["what"] == "draining"]
    assert drained == [("rig/a", "evicted", "rig/c"), ("rig/b", "evicted", "rig/a")]
    order = [(e["what"], e["target"]) for e in told if e["what"] in ("load_started", "loaded", "gone")]
    assert order == [
        *((what, target) for target in ("rig/a", "rig/b") for what in ("load_started", "loaded")),
        ("gone", "rig/a"),
        ("load_started", "rig/c"),
        ("loaded", "rig/c"),
        ("gone", "rig/b"),
        ("load_started", "rig/a"),
        ("loaded", "rig/a"),
    ]
    assert [e["seq"] for e in told] == list(range(1, len(told) + 1))
    counted = await samples(gateway)
    assert counted["roundhouse_evictions_total", "evicted"] == 2
    assert counted["roundhouse_loads_total", "ok"] == 4
    assert counted["roundhouse_requests_total", CHAT, "200"] == 4
    assert counted["roundhouse_resident_bytes", "rig/c", "ram"] == 100 * MIB
    assert set(await residents(gateway)) == {"a", "c"}


async def test_pinned_model_survives_whatever_is_asked_for(gateway: Running) -> None:
    """The other one goes, though it was used last; what cannot fit beside the pin is told so."""
    await use(gateway, "a")
    await ask(gateway.port, "POST", "/admin/models/a/pin", b"")
    for model in ("b", "c", "b"):
        await use(gateway, model)
    assert gateway.happened("draining") == ["rig/b", "rig/c"]
    answer = await ask(gateway.port, "POST", CHAT, chat("dripping"))
    assert (answer.status, answer.error["code"]) == (503, "no_room_beside_pins")
    assert (await residents(gateway))["a"]["pinned"] is True


async def test_busy_model_is_never_stopped(gateway: Running) -> None:
    """A long stream completes to its `[DONE]` while another asks for its room; that one is served right after it."""
    async with Caller(gateway.port) as streaming:
        await streaming.ask("POST", CHAT, chat("dripping", stream=True, max_tokens=40))
        await streaming.head()
        await streaming.piece()
        other = asyncio.ensure_future(use(gateway, "a"))
        await gateway.until(lambda: gateway.phases().get("rig/dripping") == "draining")
        body = await streaming.rest()
    assert body.endswith(b"data: [DONE]\n\n")
    assert body.count(b'"finish_reason": "stop"') == 1
    assert b"token39" in body
    await other
    assert gateway.happened("gone") == ["rig/dripping"]
    assert gateway.happened("died") == []


async def test_fifty_requests_for_a_cold_model_start_one_engine(gateway: Running) -> None:
    """All of them are answered by it."""
    await asyncio.gather(*(use(gateway, "a") for _ in range(50)))
    assert gateway.happened("load_started") == ["rig/a"]
    assert (await samples(gateway))["roundhouse_requests_total", CHAT, "200"] == 50


async def test_measured_bytes_are_shown_and_learned(gateway: Running) -> None:
    """Declared 1 MiB, holding 30 and more: committed as soon as it is measured, and known at the next load."""
    await use(gateway, "grown")
    await gateway.parts.sampler.sample()
    shown = (await ask(gateway.port, "GET", "/admin/residency")).json()
    held = shown["devices"]["ram"]["measured_bytes"]
    assert 30 * MIB < held < 100 * MIB
    assert shown["devices"]["ram"]["committed_bytes"] == held
    (resident,) = shown["residents"]
    assert (resident["footprint"]["ram"], resident["footprint_source"]) == (held, "declared")
    await ask(gateway.port, "POST", "/admin/models/grown/unload", b"")
    await gateway.until(lambda: gateway.phases() == {})
    await use(gateway, "grown")
    (resident,) = (await residents(gateway)).values()
    assert resident["footprint_source"] == "learned"
    assert resident["footprint"]["ram"] == pytest.approx(held, rel=0.3)


@pytest.mark.parametrize("stream", [False, True])
async def test_killed_engine_is_told_and_loaded_again(gateway: Running, *, stream: bool) -> None:
    """kill -9 in the middle of an answer: an error event, or a 502; the next request has a new engine."""
    async with Caller(gateway.port) as caller:
        await caller.ask("POST", CHAT, chat("dripping", stream=stream, max_tokens=400))
        if stream:
            await caller.head()
            await caller.piece()
        else:
            await gateway.until(lambda: gateway.leases() == 1)
        pid = gateway.parts.residency.engines["rig/dripping"].pid
        os.kill(pid, signal.SIGKILL)
        if stream:
            body = await caller.rest()
            last = json.loads(body.rstrip().rpartition(b"data: ")[2])
            assert last["error"]["code"] == "upstream_broke"
            assert b"[DONE]" not in body
            assert b'"finish_reason": "stop"' not in body
        else:
            answer = await caller.answer()
            assert (answer.status, answer.error["code"]) == (502, "upstream_broke")
    await gateway.until(lambda: gateway.happened("died") == ["rig/dripping"])
    await use(gateway, "dripping", max_tokens=1)
    assert gateway.parts.residency.engines["rig/dripping"].pid != pid
    assert gateway.leases() == 0


@pytest.mark.parametrize("stream", [False, True])
async def test_engine_that_does_not_start_evicts_nobody_twice(gateway: Running, *, stream: bool) -> None:
    """Code and last line reach the caller; the victims come back, and stay while it is asked for again and again."""
    await use(gateway, "a")
    await use(gateway, "b")
    answer = await ask(gateway.port, "POST", CHAT, chat("broken", stream=stream))
    assert (answer.status, answer.error["code"], answer.error["exit_code"]) == (503, "load_failed", 3)
    assert answer.error["log_lines"][-1] == "no such file: weights.gguf"
    assert answer.field("x-should-retry") == "false"
    await gateway.until(lambda: gateway.phases() == {"rig/a": "ready", "rig/b": "ready"})
    drained = gateway.happened("draining")
    for _ in range(5):
        again = await ask(gateway.port, "POST", CHAT, chat("broken", stream=stream))
        assert (again.status, again.error["exit_code"]) == (503, 3)
    assert gateway.happened("draining") == drained == ["rig/a", "rig/b"]
    assert gateway.happened("load_started").count("rig/broken") == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_model_larger_than_the_budget_is_400_with_both_numbers(gateway: Running, *, stream: bool) -> None:
    """And nobody is touched for it."""
    await use(gateway, "a")
    answer = await ask(gateway.port, "POST", CHAT, chat("huge", stream=stream))
    assert (answer.status, answer.error["code"]) == (400, "larger_than_budget")
    assert str(1024 * MIB) in answer.error["message"]
    assert str(220 * MIB) in answer.error["message"]
    assert gateway.phases() == {"rig/a": "ready"}
