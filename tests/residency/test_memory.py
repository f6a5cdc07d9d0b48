"""Budgets, the measuring thread, waiting for memory to come back; and one real process with a known ballast."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from collections.abc import AsyncGenerator, Collection

import msgspec
import pytest

from config.schema import Memory
from gateway.residency.machine import (
    DeviceReading,
    EngineReading,
    Gauge,
    Look,
    Machine,
)
from gateway.residency.memory import MIB, DeviceBudget, Freed, Measurer, Reading, budgets, headroom_bytes

GIB = 1024 * MIB


@contextlib.asynccontextmanager
async def measuring(gauge: Gauge) -> AsyncGenerator[Measurer, None]:
    """A measurer that is closed afterwards."""
    measurer = Measurer(gauge)
    try:
        yield measurer
    finally:
        await measurer.aclose()


# budgets


def reading(
    *, free: int = 12 * GIB, held: int = 0, gpu_free: int = 20 * GIB, gpu_held: int = 0, blind: bool = False
) -> Reading:
    """16 GiB of RAM and a GPU of 24 GiB."""
    return Reading(
        devices={
            "ram": DeviceReading(total_bytes=16 * GIB, free_bytes=free),
            "gpu0": DeviceReading(total_bytes=24 * GIB, free_bytes=gpu_free),
        },
        held={"ram": held, "gpu0": gpu_held},
        measured={"ram": 5 * GIB},
        blind=frozenset({"gpu0"} if blind else ()),
    )


def test_budget_is_what_strangers_leave_when_auto() -> None:
    """total - strangers - headroom; what our engines hold is not strangers'."""
    assert budgets(reading(held=GIB, gpu_held=3 * GIB), Memory()) == {
        "ram": DeviceBudget(
            budget_bytes=13 * GIB - headroom_bytes("ram", 16 * GIB),
            total_bytes=16 * GIB,
            strangers_bytes=3 * GIB,
            measured_bytes=5 * GIB,
        ),
        "gpu0": DeviceBudget(
            budget_bytes=23 * GIB - headroom_bytes("gpu0", 24 * GIB), total_bytes=24 * GIB, strangers_bytes=GIB
        ),
    }


def test_budget_stays_when_an_engine_of_ours_grows() -> None:
    """The same strangers, another GiB of ours: nothing changes."""
    before = budgets(reading(free=12 * GIB, held=GIB), Memory())
    assert budgets(reading(free=11 * GIB, held=2 * GIB), Memory()) == before


def test_budget_is_the_operators_when_fixed() -> None:
    """A fixed size is taken as it is, on a full machine and for a device nobody can measure; [memory.devices] first."""
    fixed = Memory(budget=8 * GIB, devices={"gpu0": 0, "gpu7": 9 * GIB})
    assert {name: budget.budget_bytes for name, budget in budgets(reading(free=0), fixed).items()} == {
        "ram": 8 * GIB,
        "gpu0": 0,
        "gpu7": 9 * GIB,
    }
    both = Memory(budget=8 * GIB, devices={"ram": GIB})
    assert budgets(reading(), both)["ram"].budget_bytes == GIB


def test_budget_is_never_negative_when_strangers_hold_everything() -> None:
    """Nor are strangers, when our engines seem to hold more than is used."""
    assert budgets(reading(free=0), Memory())["ram"].budget_bytes == 0
    assert budgets(reading(free=16 * GIB, held=GIB), Memory())["ram"].strangers_bytes == 0


def test_budget_counts_commitments_as_ours_when_a_gpu_is_blind() -> None:
    """In a container the driver names nobody; without this our own engines would shrink their own budget."""
    committed = {"gpu0": 3 * GIB}
    assert budgets(reading(), Memory(), committed)["gpu0"].strangers_bytes == 4 * GIB
    assert budgets(reading(blind=True), Memory(), committed)["gpu0"].strangers_bytes == GIB
    assert budgets(reading(blind=True), Memory(), {"gpu0": 30 * GIB})["gpu0"].strangers_bytes == 0


@pytest.mark.parametrize(
    ("device", "total", "expected"),
    [
        ("ram", 4 * GIB, 512 * MIB),
        ("ram", 100 * GIB, 5 * GIB),
        ("gpu0", 4 * GIB, 256 * MIB),
        ("gpu1", 100 * GIB, 3 * GIB),
    ],
)
def test_headroom_is_a_share_with_a_floor_when_auto(device: str, total: int, expected: int) -> None:
    """5 % of RAM, 3 % of a GPU, and never less than the floor; a written headroom replaces both."""
    assert headroom_bytes(device, total) == expected
    free = Reading(devices={device: DeviceReading(total_bytes=total, free_bytes=total)})
    assert budgets(free, Memory(headroom=7))[device].budget_bytes == total - 7


# the thread


class FakeGauge:
    """A gauge whose words the test writes; notes which threads asked."""

    def __init__(self) -> None:
        self.free = 4 * GIB
        self.held: dict[int, int] = {}
        self.looks = 0
        self.threads: set[int] = set()
        self.closed = False
        self.on_look: dict[int, int] = {}  # after so many looks, so much is free

    def look(self, roots: Collection[int]) -> Look:
        """As written."""
        self.looks += 1
        self.free = self.on_look.get(self.looks, self.free)
        self.threads.add(threading.get_ident())
        return Look(
            devices={"ram": DeviceReading(total_bytes=16 * GIB, free_bytes=self.free)},
            held={"ram": sum(self.held.values())},
            private={pid: {"ram": self.held[pid]} for pid in roots if pid in self.held},
        )

    def weigh(self, pid: int) -> EngineReading | None:
        """Twice the private size."""
        if pid not in self.held:
            return None
        return EngineReading(footprint={"ram": 2 * self.held[pid]}, private={"ram": self.held[pid]})

    def close(self) -> None:
        """Noted."""
        self.closed = True


async def test_measure_remembers_engines_when_only_some_are_read_again() -> None:
    """`measured` is the sum of the last sizes of all that still run; `engines` holds only those just read."""
    gauge = FakeGauge()
    gauge.held = {1: 10, 2: 20}
    async with measuring(gauge) as measurer:
        assert (await measurer.measure((1, 2, 3))).measured == {"ram": 60}
        gauge.held = {1: 100, 2: 20}
        again = await measurer.measure((1,))
        assert (set(again.engines), again.measured, again.held) == ({1}, {"ram": 240}, {"ram": 120})
        del gauge.held[2]
        assert (await measurer.measure()).measured == {"ram": 200}


async def test_wait_back_returns_when_most_of_the_memory_is_free_again() -> None:
    """Three quarters are enough; it is seen at the poll after it happened."""
    gauge = FakeGauge()
    gauge.held = {7: GIB}
    async with measuring(gauge) as measurer:
        freed = await measurer.before_stop(7)
        assert freed == Freed(pid=7, private={"ram": GIB}, unclaimed={"ram": 4 * GIB})
        gauge.held = {}
        gauge.on_look = {3: 4 * GIB + GIB // 2, 5: 4 * GIB + 3 * GIB // 4}
        assert await measurer.wait_back(freed, 10)
        assert gauge.looks == 5


async def test_wait_back_is_not_held_up_when_another_engine_takes_the_memory() -> None:
    """What the next engine of ours already took was free before it."""
    gauge = FakeGauge()
    gauge.held = {7: GIB}
    async with measuring(gauge) as measurer:
        freed = await measurer.before_stop(7)
        gauge.held = {8: 3 * GIB}
        gauge.free = 2 * GIB
        assert await measurer.wait_back(freed, 10)


async def test_wait_back_gives_up_when_the_bound_passes() -> None:
    """Memory that stays away does not stop the next start for ever."""
    gauge = FakeGauge()
    gauge.held = {7: GIB}
    async with measuring(gauge) as measurer:
        freed = await measurer.before_stop(7)
        gauge.held = {}
        assert not await measurer.wait_back(freed, 0.05)
        assert gauge.looks >= 2


async def test_wait_back_returns_at_once_when_there_was_little() -> None:
    """A few MiB are lost in the noise of the machine; nobody waits for them."""
    gauge = FakeGauge()
    gauge.held = {7: MIB}
    async with measuring(gauge) as measurer:
        freed = await measurer.before_stop(7)
        assert await measurer.wait_back(freed, 10)
        assert gauge.looks == 1


async def test_measurer_uses_one_thread_and_ends_it_when_closed() -> None:
    """Never the loop's thread, always the same one; closing closes the gauge, twice is harmless."""
    gauge = FakeGauge()
    measurer = Measurer(gauge)
    await asyncio.gather(*(measurer.measure() for _ in range(5)))
    assert len(gauge.threads) == 1
    assert threading.get_ident() not in gauge.threads
    (worker,) = [thread for thread in threading.enumerate() if thread.ident in gauge.threads]
    await measurer.aclose()
    await measurer.aclose()
    assert gauge.closed
    await asyncio.to_thread(worker.join, 5)
    assert not worker.is_alive()


# the real machine

_BALLAST = """
import sys
held = bytearray(96 * 1024 * 1024)
held[::4096] = b"x" * len(held[::4096])
print("ready", flush=True)
sys.stdin.read()
"""


async def test_measure_sees_a_real_process_when_it_holds_a_ballast() -> None:
    """96 MiB of a child are found in its footprint and in what is ours, and are no strangers'."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _BALLAST, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert child.stdout is not None
    try:
        async with asyncio.timeout(20):
            assert await child.stdout.readline() == b"ready\n"
        async with measuring(Machine()) as measurer:
            found = await measurer.measure((child.pid,))
            engine = found.engines[child.pid]
            assert 96 * MIB <= engine.private["ram"] <= engine.footprint["ram"] < 160 * MIB
            assert found.held["ram"] >= 96 * MIB
            assert 0 < found.devices["ram"].free_bytes < found.devices["ram"].total_bytes
            strangers = budgets(found, Memory())["ram"].strangers_bytes
            without = budgets(msgspec.structs.replace(found, held={}), Memory())["ram"].strangers_bytes
            assert strangers <= max(0, without - 96 * MIB)
    finally:
        child.kill()
        await child.wait()
