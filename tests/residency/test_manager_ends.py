"""How the shell ends things: stops that fail or hang, memory that does not come back, refusals, and the end of all."""

from __future__ import annotations

import asyncio

import pytest

from gateway.errors import LargerThanBudget, NoRoomBesidePins, QueueFull, ShuttingDown, WaitTimedOut
from gateway.residency.stopping import MEMORY_BACK_S, RAM_BACK_S, STOP_GRACE_S

from .shell import Engine, FakeLoader, World, on_virtual_time

# ---------------------------------------------------------------- stops


@on_virtual_time
async def test_unload_reports_gone_when_the_stop_raises() -> None:
    """Its bytes are not committed for ever."""
    world = World(budget=10)

    async def stopping(engine: Engine) -> None:
        engine.alive = False
        raise OSError("no such process")

    await world.use("a")
    world.loader.stopping = stopping
    await world.use("b")
    assert world.happened("gone") == ["a"]
    await world.close()


@on_virtual_time
async def test_unload_gives_up_waiting_when_the_stop_hangs() -> None:
    """Bounded by the engine's own limit and a grace, also where the stop does not heed cancellation."""
    world = World(budget=10)
    free = asyncio.Event()

    async def stopping(engine: Engine) -> None:
        while not free.is_set():
            try:
                await free.wait()
            except asyncio.CancelledError:
                continue
        engine.alive = False

    await world.use("a")
    world.loader.stopping = stopping
    started_s = world.manager.clock()
    await world.use("b")
    assert world.manager.clock() - started_s == pytest.approx(10.0 + STOP_GRACE_S + 1.0, abs=0.5)
    free.set()
    await world.close()


@on_virtual_time
async def test_unload_stops_the_engine_when_the_machine_cannot_be_measured() -> None:
    """What cannot be read must not keep an engine alive that nobody counts any more."""
    world = World(budget=10)
    await world.use("a")
    world.measurer.error = OSError("no /proc")
    await world.use("b")
    assert world.loader.alive() == ["b"]
    await world.close()


@pytest.mark.parametrize(("device", "bound_s"), [("ram", RAM_BACK_S), ("gpu0", MEMORY_BACK_S)])
def test_unload_goes_on_when_the_memory_does_not_come_back(device: str, bound_s: float) -> None:
    """The next start waits so long for it, and not longer."""

    @on_virtual_time
    async def scenario() -> None:
        world = World(budget=10)
        await world.use("a")
        world.measurer.back, world.measurer.private = False, {device: 10}
        started_s = world.manager.clock()
        await world.use("b")
        assert world.measurer.waits == [bound_s]
        assert world.manager.clock() - started_s == pytest.approx(bound_s + 1.0, abs=0.1)
        await world.close()

    scenario()


@on_virtual_time
async def test_idle_models_are_unloaded_when_their_time_is_over() -> None:
    """Time alone does it: one timer, no polling."""
    world = World(idle_s=60.0)
    await world.use("a")
    await asyncio.sleep(59.0)
    assert world.phases() == {"a": ("ready", 0)}
    await asyncio.sleep(2.0)
    assert world.phases() == {}
    await world.close()


# ---------------------------------------------------------------- refusals


@on_virtual_time
async def test_lease_is_refused_when_patience_or_queue_or_budget_ends() -> None:
    """Each with its own class, and what to do in its words."""
    world = World(budget=10, queue_max=2)
    hold = asyncio.Event()
    first = world.start("a", hold)
    await world.until(lambda: world.held == 1)
    waiting = [world.start("b", patience_s=5.0) for _ in range(2)]
    await world.until(lambda: len(world.manager.waiting()) == 2)
    with pytest.raises(QueueFull, match="queue_max") as full:
        await world.use("c")
    assert full.value.retry_after_s
    for error in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(error, WaitTimedOut)
        assert "patience_s" in error.message
    hold.set()
    await first
    await world.close()
    small = World(budget=5)
    with pytest.raises(LargerThanBudget, match=r"10 bytes.*5 bytes"):
        await small.use("a")
    await small.close()


@on_virtual_time
async def test_lease_is_refused_when_pinned_models_leave_no_room() -> None:
    """A pin is never evicted; unpinned, it is."""
    world = World(budget=10, pinned="a")
    await world.use("a")
    with pytest.raises(NoRoomBesidePins, match="unpin"):
        await world.use("b")
    await world.manager.pin("a", pinned=False)
    await world.use("b")
    await world.close()


# ---------------------------------------------------------------- the end


@on_virtual_time
async def test_aclose_refuses_those_who_wait_and_cancels_loads() -> None:
    """Waiting, loading and idle at once; new ones are refused too."""
    world = World(budget=30)
    await world.use("c")
    gate = asyncio.Event()
    world.loader.bringing_up = FakeLoader.on(gate)
    tasks = [world.start("a"), world.start("a"), world.start("b")]
    await world.until(lambda: len(world.loader.loads) == 3)
    await world.close()
    for error in await asyncio.gather(*tasks, return_exceptions=True):
        assert isinstance(error, ShuttingDown)
    with pytest.raises(ShuttingDown):
        await world.use("a")
    assert world.loader.cancelled == 2


@on_virtual_time
async def test_aclose_lets_leases_end_within_the_grace() -> None:
    """A lease that ends in time keeps its engine until then."""
    world = World()
    task = world.start("a", 5.0)
    await world.until(lambda: world.held == 1)
    await world.manager.aclose(30.0)
    assert world.manager.clock() < 1000.0 + 10.0
    assert (await task).stops == 1
    await world.close()


@on_virtual_time
async def test_aclose_takes_the_engine_when_a_lease_does_not_end() -> None:
    """After the grace it belongs to nobody; its late release changes nothing."""
    world = World()
    hold = asyncio.Event()
    task = world.start("a", hold)
    await world.until(lambda: world.held == 1)
    await world.manager.aclose(2.0)
    assert world.loader.alive() == []
    hold.set()
    await task
    await world.close()
