"""The shell around the core: whatever a caller, a loader or an engine does, at whatever moment, nothing stays behind."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable

import pytest

from gateway.errors import LoadStopped
from gateway.residency.manager import DEATH_NOTICE_S
from providers.contract import EngineSpec, Footprint, ProcessExit
from providers.errors import LoadFailed

from .shell import Engine, FakeLoader, World, on_virtual_time, turns

# More turns of the loop than anything here needs: every moment in between is tried.
MOMENTS = range(14)


# ---------------------------------------------------------------- leases


@on_virtual_time
async def test_lease_loads_once_when_fifty_ask_at_once() -> None:
    """One load serves all who wait for it."""
    world = World()
    engines = await asyncio.gather(*(world.use("a", 1.0) for _ in range(50)))
    assert world.loader.loads == ["a"]
    assert len(set(engines)) == 1
    assert world.phases() == {"a": ("ready", 0)}
    await world.close()


@on_virtual_time
async def test_lease_waits_for_nothing_when_the_model_is_ready() -> None:
    """No turn of the loop, no entry in the journal."""
    world = World()
    await world.use("a")
    before = len(world.manager.journal.since(0))
    asked_s = world.manager.clock()
    async with world.manager.lease("a", 60.0) as lease:
        assert world.manager.clock() == asked_s
        assert lease.engine is world.manager.engines["a"]
        assert world.phases() == {"a": ("ready", 1)}
    assert len(world.manager.journal.since(0)) == before
    await world.close()


@on_virtual_time
async def test_lease_is_nothing_when_the_target_needs_no_memory() -> None:
    """Remote targets pass without being known here."""
    world = World()
    async with world.manager.lease("cloud/x", 0.0) as lease:
        assert lease.engine is None
    assert world.manager.journal.since(0) == []
    await world.close()


@on_virtual_time
async def test_lease_evicts_the_least_recently_used_when_room_is_short() -> None:
    """A and B fill the budget, A is used again: C takes B's place."""
    world = World()
    for target in ("a", "b", "a", "c"):
        await world.use(target)
        await asyncio.sleep(1.0)
    assert world.happened("draining") == ["b"]
    assert set(world.phases()) == {"a", "c"}
    await world.close()


@on_virtual_time
async def test_lease_waits_for_the_end_of_a_busy_victims_lease() -> None:
    """Who holds a lease is never stopped; the one who asked is served as soon as it ends."""
    world = World(budget=10)
    hold = asyncio.Event()
    first = world.start("a", hold)
    await world.until(lambda: world.held == 1)
    second = world.start("b")
    await world.until(lambda: world.phases().get("a") == ("draining", 1))
    await asyncio.sleep(30.0)
    assert world.loader.alive() == ["a"]
    hold.set()
    assert (await first).spec.target == "a"
    assert (await second).spec.target == "b"
    await world.close()


# ---------------------------------------------------------------- cancellation


@on_virtual_time
async def test_cancelling_frees_everything_when_it_is_still_being_described() -> None:
    """The thread that sizes the weights ends by itself; nobody waits in the queue for it."""
    world = World(sized=False)
    entered, go = threading.Event(), threading.Event()

    def sizing(_: EngineSpec) -> Footprint:
        entered.set()
        assert go.wait(5.0)
        return {"ram": 10}

    world.loader.sizing = sizing
    task = world.start("a")
    assert await asyncio.to_thread(entered.wait, 5.0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go.set()
    assert world.loader.loads == []
    assert world.phases() == {}
    await world.close()


@on_virtual_time
async def test_cancelling_frees_everything_when_it_is_queued() -> None:
    """It leaves the queue, and the one it waited for is not touched any further than it was."""
    world = World(budget=10)
    hold = asyncio.Event()
    first = world.start("a", hold)
    await world.until(lambda: world.held == 1)
    second = world.start("b")
    await world.until(lambda: len(world.manager.waiting()) == 1)
    second.cancel()
    await asyncio.wait([second])
    assert world.manager.waiting() == []
    hold.set()
    await first
    assert world.loader.loads == ["a"]
    await world.close()


@on_virtual_time
async def test_cancelling_one_waiter_leaves_the_load_to_the_others() -> None:
    """One waiter leaving does not stop what serves all."""
    world = World()
    tasks = [world.start("a") for _ in range(3)]
    await world.until(lambda: world.loader.loads == ["a"])
    tasks[0].cancel()
    assert (await tasks[1]) is (await tasks[2])
    assert world.loader.loads == ["a"]
    assert world.phases() == {"a": ("ready", 0)}
    await world.close()


@pytest.mark.parametrize("moment", MOMENTS)
def test_cancelling_leaves_no_lease_at_any_moment_around_the_grant(moment: int) -> None:
    """Loading, up but not told, granted but not woken, holding: one turn of the loop after the other."""

    @on_virtual_time
    async def scenario() -> None:
        world = World()
        gate, hold = asyncio.Event(), asyncio.Event()
        world.loader.bringing_up = FakeLoader.on(gate)
        task = world.start("a", hold)
        await world.until(lambda: world.loader.loads == ["a"])
        gate.set()
        await turns(moment)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await world.until(lambda: world.phases() == {"a": ("ready", 0)})
        await world.close()

    scenario()


# ---------------------------------------------------------------- loads that do not come up


@on_virtual_time
async def test_load_failing_tells_all_who_wait_why() -> None:
    """Exit code and last lines reach every one of them; then it cools down, and is tried again afterwards."""
    world = World()
    world.loader.bringing_up = FakeLoader.failing(exit_code=7)
    results = await asyncio.gather(*(world.use("a") for _ in range(5)), return_exceptions=True)
    for error in results:
        assert isinstance(error, LoadFailed)
        assert (error.exit_code, error.log_lines) == (7, ("no such file",))
        assert error.retry_after_s
    assert world.loader.loads == ["a"]
    with pytest.raises(LoadFailed, match="exited") as caught:
        await world.use("a")
    assert world.loader.loads == ["a"]
    assert caught.value.exit_code == 7
    world.loader.bringing_up = FakeLoader.after(1.0)
    assert caught.value.retry_after_s is not None
    await asyncio.sleep(caught.value.retry_after_s + 0.1)
    await world.use("a")
    assert world.loader.loads == ["a", "a"]
    await world.close()


@on_virtual_time
async def test_load_failing_evicts_nobody_a_second_time() -> None:
    """The victim comes back, and stays while the broken one is asked for again and again."""
    world = World(budget=10)
    await world.use("a")
    world.loader.bringing_up = _only("b", fails=True)
    with pytest.raises(LoadFailed):
        await world.use("b")
    await world.until(lambda: world.phases() == {"a": ("ready", 0)})
    for _ in range(5):
        with pytest.raises(LoadFailed):
            await world.use("b")
        await asyncio.sleep(100.0)
    assert world.happened("draining") == ["a"]
    await world.close()


def _only(target: str, *, fails: bool) -> Callable[[EngineSpec], Awaitable[None]]:
    async def bring_up(spec: EngineSpec) -> None:
        await (FakeLoader.failing() if fails and spec.target == target else FakeLoader.after(1.0))(spec)

    return bring_up


@pytest.mark.parametrize("error", [RuntimeError("secret"), OSError("secret"), KeyError("secret")])
def test_load_failing_in_an_unforeseen_way_is_a_failure_like_any_other(error: Exception) -> None:
    """A loader's bug does not leave a model loading for ever, nor tell its text to callers."""

    @on_virtual_time
    async def scenario() -> None:
        world = World()

        async def bring_up(_: EngineSpec) -> None:
            raise error

        world.loader.bringing_up = bring_up
        with pytest.raises(LoadFailed) as caught:
            await world.use("a")
        assert "secret" not in caught.value.message
        await world.close()

    scenario()


@on_virtual_time
async def test_load_that_gives_up_by_itself_is_a_failure_like_any_other() -> None:
    """A CancelledError of its own making must not leave those who wait without an answer."""
    world = World()

    async def bring_up(_: EngineSpec) -> None:
        await asyncio.sleep(0.1)
        raise asyncio.CancelledError

    world.loader.bringing_up = bring_up
    with pytest.raises(LoadFailed, match="gave up"):
        await world.use("a")
    await world.close()


@pytest.mark.parametrize("stubborn", [False, True])
@pytest.mark.parametrize("moment", MOMENTS)
def test_unload_stops_the_load_at_any_moment(moment: int, *, stubborn: bool) -> None:
    """Also in the very moment it comes up, and when the loader does not heed that it is cancelled."""

    @on_virtual_time
    async def scenario() -> None:
        world = World()
        gate = asyncio.Event()

        async def bring_up(_: EngineSpec) -> None:
            try:
                await gate.wait()
            except asyncio.CancelledError:
                if not stubborn:
                    raise
                await asyncio.sleep(1.0)

        world.loader.bringing_up = bring_up
        task = world.start("a")
        await world.until(lambda: world.loader.loads == ["a"])
        gate.set()
        await turns(moment)
        world.manager.unload("a")
        (result,) = await asyncio.gather(task, return_exceptions=True)
        assert isinstance(result, Engine | LoadStopped)
        await world.until(lambda: world.phases() == {})
        assert world.loader.alive() == []
        world.loader.bringing_up = FakeLoader.after(0.0)
        await world.use("a")
        await world.close()

    scenario()


# ---------------------------------------------------------------- engines that end


@on_virtual_time
async def test_engine_dying_before_its_load_is_told_is_loaded_again_for_the_next() -> None:
    """Its end is reported before `load` returns: the lease is void, the next request starts a new one."""
    world = World()
    world.loader.dies_while_loading = True
    await world.use("a")
    await world.until(lambda: world.phases() == {})
    assert world.happened("died") == ["a"]
    world.loader.dies_while_loading = False
    await world.use("a")
    assert world.loader.loads == ["a", "a"]
    await world.close()


@on_virtual_time
async def test_engine_dying_mid_lease_voids_the_lease() -> None:
    """What is left is swept up at once; the late release changes nothing; the next request loads anew."""
    world = World()
    hold = asyncio.Event()
    task = world.start("a", hold)
    await world.until(lambda: world.held == 1)
    world.loader.engines[0].die(exit_code=-11)
    await world.until(lambda: world.phases() == {})
    assert (await world.use("a")) is world.loader.engines[1]
    hold.set()
    await task
    assert world.phases() == {"a": ("ready", 0)}
    await world.close()


@on_virtual_time
async def test_engines_late_report_changes_nothing_when_another_has_taken_its_place() -> None:
    """The end of an earlier engine is told when the next one runs already."""
    world = World()
    await world.use("a")
    world.manager.unload("a")
    await world.until(lambda: world.phases() == {})
    await world.use("a")
    world.loader.engines[0].on_exit(ProcessExit(exit_code=1, log_lines=(), asked=False))
    assert world.happened("died") == []
    assert world.phases() == {"a": ("ready", 0)}
    await world.close()


@on_virtual_time
async def test_engine_dying_again_and_again_cools_down() -> None:
    """One death is forgiven; a second without one good lease between is told with code and last words."""
    world = World()
    hold = asyncio.Event()
    callers: list[asyncio.Task[Engine]] = []
    for number in range(2):
        callers.append(world.start("a", hold))
        await world.until(lambda held=number + 1: world.held == held)
        world.loader.engines[-1].die(exit_code=-6)
        await world.until(lambda: world.phases() == {})
    with pytest.raises(LoadFailed, match="code -6: last words") as caught:
        await world.use("a")
    assert (caught.value.exit_code, caught.value.log_lines) == (-6, ("last words",))
    hold.set()
    await asyncio.gather(*callers)
    await world.close()


@on_virtual_time
async def test_has_left_tells_an_engine_that_dies_from_one_that_only_does_not_answer() -> None:
    """At once for one that is gone, as soon as its death is noticed, and no for one that lives on."""
    world = World()
    engine = await world.use("a")
    started_s = world.manager.clock()
    assert not await world.manager.has_left("a", engine)
    assert world.manager.clock() - started_s == pytest.approx(DEATH_NOTICE_S)
    asking = asyncio.ensure_future(world.manager.has_left("a", engine))
    await asyncio.sleep(DEATH_NOTICE_S / 2)
    engine.die()
    assert await asking
    assert await world.manager.has_left("a", engine)
    another = await world.use("a")
    assert await world.manager.has_left("a", engine)
    assert another is not engine
    await world.close()
