"""Three models, room for two: who leaves, who stays, who waits, as an operator would see it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import msgspec

from gateway.residency.journal import Happening
from tests.fakes.running import CHAT, Caller, Running, ask, chat, running
from tests.journeys.models import fakes

SIZES = {"a": "300MiB", "b": "300MiB", "c": "300MiB"}


async def one(gateway: Running, model: str) -> None:
    """A plain answer, which must be a good one."""
    answer = await ask(gateway.port, "POST", CHAT, chat(model))
    assert answer.status == 200, answer.body
    assert answer.json()["model"] == model


async def happenings(gateway: Running) -> list[Happening]:
    """What `/admin/events` has told so far, read over the wire."""
    last = gateway.parts.residency.journal.since(0)[-1].seq
    told: list[Happening] = []
    async with Caller(gateway.port) as caller:
        await caller.ask("GET", "/admin/events")
        await caller.head()
        text = b""
        while not told or told[-1].seq < last:
            text += await caller.piece()
            lines = [line for line in text.split(b"\n") if line.startswith(b"data: ") and line.endswith(b"}")]
            told = [msgspec.json.decode(line.removeprefix(b"data: "), type=Happening) for line in lines]
    return told


async def metric(gateway: Running, line: str) -> float:
    """The value of one series in `/metrics`, 0 where it is not there yet."""
    text = (await ask(gateway.port, "GET", "/metrics")).body.decode()
    return next((float(row.rpartition(" ")[2]) for row in text.splitlines() if row.startswith(line)), 0.0)


async def test_the_least_recently_used_leaves_when_a_third_comes(tmp_path: Path) -> None:
    """A, B, C, A: C puts A out, then A puts B out; events and metrics tell exactly that."""
    async with running(tmp_path, fakes("700MiB", SIZES)) as gateway:
        for model in ("a", "b", "c", "a"):
            await one(gateway, model)

        told = await happenings(gateway)
        evictions = [(h.target, h.for_target, h.why) for h in told if h.what == "draining"]
        loads = [h.target for h in told if h.what == "loaded"]
        assert evictions == [("fake/a", "fake/c", "evicted"), ("fake/b", "fake/a", "evicted")]
        assert loads == ["fake/a", "fake/b", "fake/c", "fake/a"]
        assert await metric(gateway, 'roundhouse_evictions_total{reason="evicted"}') == 2
        assert await metric(gateway, 'roundhouse_loads_total{result="ok"}') == 4
        assert gateway.phases() == {"fake/c": "ready", "fake/a": "ready"}


async def test_a_pinned_model_survives_when_it_is_the_least_recently_used(tmp_path: Path) -> None:
    """With A pinned over the admin route, C puts B out."""
    async with running(tmp_path, fakes("700MiB", SIZES)) as gateway:
        await one(gateway, "a")
        assert (await ask(gateway.port, "POST", "/admin/models/a/pin")).json()["pinned"] is True
        await one(gateway, "b")
        await one(gateway, "c")

        assert gateway.phases() == {"fake/a": "ready", "fake/c": "ready"}
        residents = (await ask(gateway.port, "GET", "/admin/residency")).json()["residents"]
        assert {r["model"]: r["pinned"] for r in residents} == {"a": True, "c": False}


async def test_a_configured_pin_is_loaded_at_the_start(tmp_path: Path) -> None:
    """Nobody has to ask for it first."""
    toml = fakes("700MiB", SIZES, keys={"b": "pinned = true\n"})
    async with running(tmp_path, toml) as gateway:
        await gateway.until(lambda: gateway.phases() == {"fake/b": "ready"})


async def test_a_busy_model_is_never_stopped_when_another_asks_for_its_room(tmp_path: Path) -> None:
    """A long stream completes while B waits for its room; then B is served, and A is gone."""
    flags = {"a": ("--gap-s", "0.05", "--tokens", "20")}
    async with running(tmp_path, fakes("500MiB", {"a": "300MiB", "b": "300MiB"}, flags=flags)) as gateway:
        async with Caller(gateway.port) as caller:
            await caller.ask("POST", CHAT, chat("a", stream=True))
            await caller.head()
            first = await caller.piece()
            other = asyncio.create_task(one(gateway, "b"))
            await gateway.until(lambda: gateway.phases().get("fake/a") == "draining")
            queue = (await ask(gateway.port, "GET", "/admin/residency")).json()["queue"]
            assert [(place["target"], place["position"]) for place in queue] == [("fake/b", 1)]

            stream = first + await caller.rest()

        assert stream.endswith(b"data: [DONE]\n\n")
        assert stream.count(b'"content"') >= 20
        await other
        assert gateway.phases() == {"fake/b": "ready"}


async def test_fifty_requests_for_a_cold_model_start_one_engine(tmp_path: Path) -> None:
    """They share one load, and all are answered."""
    async with running(tmp_path, fakes("1GiB", {"a": "300MiB"}, flags={"a": ("--boot-s", "0.3")})) as gateway:
        await asyncio.gather(*(one(gateway, "a") for _ in range(50)))

        assert gateway.happened("load_started") == ["fake/a"]
        assert gateway.leases() == 0


async def test_measured_bytes_replace_the_estimate_when_it_is_loaded_again(tmp_path: Path) -> None:
    """The first load goes by the estimate, the second by what the first was seen to take."""
    toml = fakes("4GiB", {"a": "1MiB"}, flags={"a": ("--ballast-mb", "200")}).replace('memory = "1MiB"\n', "")
    async with running(tmp_path, toml) as gateway:
        await one(gateway, "a")
        first = (await ask(gateway.port, "GET", "/admin/residency")).json()["residents"][0]
        await gateway.parts.sampler.sample()
        measured = (await ask(gateway.port, "GET", "/admin/residency")).json()["devices"]["ram"]["measured_bytes"]
        await ask(gateway.port, "POST", "/admin/models/a/unload")
        await gateway.until(lambda: gateway.phases() == {})
        await one(gateway, "a")
        second = (await ask(gateway.port, "GET", "/admin/residency")).json()["residents"][0]

        assert first["footprint_source"] == "estimated"
        assert measured > 200 << 20
        assert second["footprint_source"] == "learned"
        assert abs(second["footprint"]["ram"] - measured) < measured * 0.1


async def test_a_plan_says_what_then_happens(tmp_path: Path) -> None:
    """The dry run names the victim, the bytes and the seconds, and changes nothing."""
    async with running(tmp_path, fakes("700MiB", SIZES)) as gateway:
        for model in ("c", "a", "b"):
            await one(gateway, model)
        plan = (await ask(gateway.port, "GET", "/admin/plan?model=c")).json()
        assert gateway.phases() == {"fake/a": "ready", "fake/b": "ready"}
        await one(gateway, "c")

        assert (plan["outcome"], plan["victims"]) == ("evicts", ["fake/a"])
        assert plan["needed"] == {"ram": 300 << 20}
        assert 0 < plan["expected_load_s"] < 10
        assert gateway.phases() == {"fake/b": "ready", "fake/c": "ready"}


async def test_a_model_larger_than_its_budget_is_refused_with_both_numbers(tmp_path: Path) -> None:
    """400, and nobody is evicted for it."""
    async with running(tmp_path, fakes("500MiB", {"a": "300MiB", "big": "2GiB"})) as gateway:
        await one(gateway, "a")
        for stream in (False, True):
            answer = await ask(gateway.port, "POST", CHAT, chat("big", stream=stream))

            assert answer.status == 400
            assert answer.error["code"] == "larger_than_budget"
            assert str(2 << 30) in answer.error["message"]
            assert str(500 << 20) in answer.error["message"]
        assert gateway.phases() == {"fake/a": "ready"}


async def test_nobody_is_evicted_twice_for_an_engine_that_will_not_start(tmp_path: Path) -> None:
    """503 with exit code and last lines; the victim is brought back; asked again, nothing is evicted."""
    flags = {"bad": ("--fail-code", "7", "--say", "no such tensor")}
    async with running(tmp_path, fakes("500MiB", {"a": "300MiB", "bad": "300MiB"}, flags=flags)) as gateway:
        await one(gateway, "a")
        for _ in range(2):
            answer = await ask(gateway.port, "POST", CHAT, chat("bad", stream=True))
            assert (answer.status, answer.error["code"]) == (503, "load_failed")
            assert answer.error["exit_code"] == 7
            assert "no such tensor" in answer.error["log_lines"]
            assert answer.field("x-should-retry") == "false"
            assert int(answer.field("retry-after") or 0) >= 1
        await gateway.until(lambda: gateway.phases() == {"fake/a": "ready"})

        assert gateway.happened("draining") == ["fake/a"]
        assert gateway.happened("load_started") == ["fake/a", "fake/bad", "fake/a"]
        cooling = (await ask(gateway.port, "GET", "/admin/residency")).json()["cooling_down"]
        assert "code 7" in cooling["fake/bad"]


async def test_an_idle_model_is_unloaded_when_its_time_is_over(tmp_path: Path) -> None:
    """`idle_s` counts from its last answer."""
    async with running(tmp_path, fakes("1GiB", {"a": "300MiB"}, keys={"a": "idle_s = 0.2\n"})) as gateway:
        await one(gateway, "a")
        await gateway.until(lambda: gateway.phases() == {})

        assert json.loads(json.dumps([h.why for h in await happenings(gateway) if h.what == "draining"])) == ["idle"]
