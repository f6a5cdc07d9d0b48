"""From a reading of the machine to what residency knows: learned sizes, larger footprints, a budget that follows strangers."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping

from config.schema import Memory
from gateway.residency.machine import DeviceReading, EngineReading, Look
from gateway.residency.memory import Measurer
from gateway.residency.sampling import BUDGET_STEP_BYTES, Sampler
from providers.contract import Footprint

from .shell import World, on_virtual_time

GIB = 1 << 30


class FakeGauge:
    """A machine of 16 GiB with as much free as it is told, and engines of the size they are told."""

    def __init__(self) -> None:
        self.free_bytes = 12 * GIB
        self.engines: dict[int, int] = {}
        self.weighed: list[int] = []
        self.error: OSError | None = None
        self.looks = 0

    def look(self, roots: Collection[int]) -> Look:
        self.looks += 1
        if self.error is not None:
            raise self.error
        private: Mapping[int, Footprint] = {pid: {"ram": self.engines[pid]} for pid in roots if pid in self.engines}
        ram = DeviceReading(total_bytes=16 * GIB, free_bytes=self.free_bytes)
        return Look(devices={"ram": ram}, held={"ram": sum(self.engines.values())}, private=private)

    def weigh(self, pid: int) -> EngineReading | None:
        self.weighed.append(pid)
        size = self.engines.get(pid)
        return None if size is None else EngineReading(footprint={"ram": size}, private={"ram": size})

    def close(self) -> None: ...


class Sampled(World):
    """A world whose manager measures by the gauge; loads take no time."""

    def __init__(self, budget: int = 20) -> None:
        super().__init__(budget=budget)
        self.gauge = FakeGauge()
        self.manager.measurer = Measurer(self.gauge)
        self.loader.bringing_up = self.loader.after(0.0)
        self.now_s = 0.0
        self.sampler = Sampler(self.manager, Memory(headroom=0), lambda: self.now_s)

    async def load(self, target: str) -> int:
        """Its pid."""
        return (await self.use(target)).pid

    async def shut(self) -> None:
        """End."""
        self.gauge.error = None
        measurer = self.manager.measurer
        await self.close()
        await measurer.aclose()


async def test_sample_raises_what_is_committed_and_is_learned_for_the_next_load() -> None:
    """Declared 10, measured 15: committed at once, and called learned when it is loaded the next time."""
    world = Sampled(budget=100)
    world.gauge.engines[await world.load("a")] = 15
    await world.sampler.sample()
    (resident,) = world.manager.residents()
    assert (resident.footprint, resident.footprint_source) == ({"ram": 15}, "declared")
    world.manager.unload("a")
    await world.until(lambda: not world.manager.residents(), 5.0)
    world.gauge.engines.clear()
    await world.load("a")
    (resident,) = world.manager.residents()
    assert (resident.footprint, resident.footprint_source) == ({"ram": 15}, "learned")
    await world.shut()


async def test_sample_unloads_idle_models_when_strangers_take_the_memory() -> None:
    """An automatic budget falls with what is free; who is idle makes up for it."""
    world = Sampled(budget=16 * GIB)
    await world.load("a")
    world.gauge.free_bytes = 0
    await world.sampler.sample()
    assert world.manager.budgets["ram"].budget_bytes == 0
    assert world.happened("draining") == ["a"]
    await world.shut()


async def test_sample_keeps_the_budget_when_the_machine_only_breathes() -> None:
    """Less than a step is no news; the measured figures follow all the same."""
    world = Sampled(budget=12 * GIB)
    world.gauge.free_bytes = 12 * GIB - BUDGET_STEP_BYTES + 1
    await world.sampler.sample()
    assert world.manager.budgets["ram"].budget_bytes == 12 * GIB
    assert world.manager.budgets["ram"].strangers_bytes == 4 * GIB + BUDGET_STEP_BYTES - 1
    world.gauge.free_bytes -= 1
    await world.sampler.sample()
    assert world.manager.budgets["ram"].budget_bytes == 12 * GIB - BUDGET_STEP_BYTES
    await world.shut()


async def test_sample_weighs_an_engine_ever_more_rarely() -> None:
    """Reading a big process's memory map is dear: at once, after 1, 2, 4 … seconds, then once a minute."""
    world = Sampled(budget=100)
    pid = await world.load("a")
    world.gauge.engines[pid] = 12
    weighed_at_s: list[float] = []
    for second in range(200):
        world.now_s = float(second)
        before = len(world.gauge.weighed)
        await world.sampler.sample()
        weighed_at_s += [world.now_s] * (len(world.gauge.weighed) - before)
    assert weighed_at_s[:6] == [0, 1, 3, 7, 15, 31]
    assert weighed_at_s[-1] - weighed_at_s[-2] == 60
    await world.shut()


@on_virtual_time
async def test_run_goes_on_when_a_reading_fails() -> None:
    """One bad reading is logged, and the next one tried."""
    world = Sampled(budget=16 * GIB)
    world.gauge.error = OSError("no /proc/meminfo")
    task = asyncio.ensure_future(world.sampler.run())
    await world.until(lambda: world.gauge.looks == 3)
    world.gauge.error = None
    world.gauge.free_bytes = 0
    await world.until(lambda: world.manager.budgets["ram"].budget_bytes == 0)
    task.cancel()
    await asyncio.wait([task])
    await world.shut()
