"""What is told of a model that somebody waits for, at every stage, on the virtual clock."""

from __future__ import annotations

import asyncio

import pytest

from gateway.residency.journal import Journal
from gateway.residency.progress import FRACTION_MAX, FRESH_S, NEWS_S, Board, Progress, Stage, progress_of
from providers.errors import LoadFailed

from .shell import FakeLoader, World, on_virtual_time
from .town import Town, in_town


def seen(world: World, target: str) -> Progress:
    """Its progress, which there must be."""
    progress = progress_of(world.manager, target)
    assert progress is not None
    return progress


def is_like(progress: Progress | None, stage: Stage, elapsed_s: float, place: int | None = None) -> bool:
    """Whether it says this and no more: there is nothing to measure it by."""
    assert progress is not None
    assert progress.elapsed_s == pytest.approx(elapsed_s)
    return progress == Progress(stage=stage, elapsed_s=progress.elapsed_s, place=place)


@on_virtual_time
async def test_progress_is_none_when_nothing_is_waited_for() -> None:
    """Cold, ready, of a target that needs no memory of ours, and of one that nobody knows."""
    world = World()
    assert progress_of(world.manager, "a") is None
    await world.use("a")
    assert progress_of(world.manager, "a") is None
    assert progress_of(world.manager, "cloud/x") is None
    await world.close()


@on_virtual_time
async def test_progress_of_a_first_load_has_no_fraction() -> None:
    """Nobody knows how long it will take; how long it has taken is known."""
    world = World()
    task = world.start("a")
    await asyncio.sleep(0.5)
    assert is_like(progress_of(world.manager, "a"), Stage.LOADING, 0.5)
    await task
    await world.close()


@on_virtual_time
async def test_progress_of_a_later_load_is_measured_by_the_earlier_one() -> None:
    """A load of one second was learned: halfway, then overdue, never done before it is."""
    world = World()
    await world.use("a")
    world.manager.unload("a")
    await world.until(lambda: world.phases() == {})
    gate = asyncio.Event()
    world.loader.bringing_up = FakeLoader.on(gate)
    task = world.start("a")
    await asyncio.sleep(0.5)
    progress = seen(world, "a")
    assert progress.stage is Stage.LOADING
    assert progress.place is None
    assert progress.fraction == pytest.approx(0.5)
    assert progress.eta_s == pytest.approx(0.5)
    last = 0.0
    for _ in range(20):
        await asyncio.sleep(0.1)
        progress = seen(world, "a")
        assert progress.fraction is not None
        assert last <= progress.fraction <= FRACTION_MAX
        last = progress.fraction
    assert progress.fraction == FRACTION_MAX
    assert progress.eta_s is None
    assert progress.elapsed_s == pytest.approx(2.5)
    gate.set()
    await task
    assert progress_of(world.manager, "a") is None
    await world.close()


@on_virtual_time
async def test_progress_in_the_queue_tells_the_place() -> None:
    """A is in use and fills the budget: B waits for it, C behind B, and each for as long as its first waiter does."""
    world = World(budget=10)
    hold = asyncio.Event()
    first = world.start("a", hold)
    await world.until(lambda: world.held == 1)
    second = world.start("b")
    await asyncio.sleep(1.0)
    third, fourth = world.start("c"), world.start("b")
    await asyncio.sleep(2.0)
    assert is_like(progress_of(world.manager, "b"), Stage.WAITING, 3.0, 1)
    assert is_like(progress_of(world.manager, "c"), Stage.WAITING, 2.0, 2)
    assert progress_of(world.manager, "a") is None
    hold.set()
    await world.until(lambda: world.phases().get("b") == ("loading", 0))
    assert seen(world, "b").stage is Stage.LOADING
    assert seen(world, "b").place is None
    assert seen(world, "c").place == 2
    await asyncio.gather(first, second, third, fourth)
    await world.close()


@on_virtual_time
async def test_progress_is_waiting_when_its_own_engine_is_still_leaving() -> None:
    """It was told to unload while in use: whoever asks now waits for its end."""
    world = World()
    hold = asyncio.Event()
    first = world.start("a", hold)
    await world.until(lambda: world.held == 1)
    world.manager.unload("a")
    second = world.start("a")
    await asyncio.sleep(1.0)
    assert is_like(progress_of(world.manager, "a"), Stage.WAITING, 1.0, 1)
    hold.set()
    await asyncio.gather(first, second)
    await world.close()


@on_virtual_time
async def test_progress_starts_over_when_the_engine_has_died() -> None:
    """And not any more once it has been up again."""
    world = World()
    engine = await world.use("a")
    engine.die()
    task = world.start("a")
    await world.until(lambda: world.phases().get("a") == ("loading", 0))
    assert seen(world, "a").stage is Stage.STARTING_OVER
    await task
    world.manager.unload("a")
    await world.until(lambda: world.phases() == {})
    task = world.start("a")
    await world.until(lambda: world.phases().get("a") == ("loading", 0))
    assert seen(world, "a").stage is Stage.LOADING
    await task
    await world.close()


@on_virtual_time
async def test_progress_starts_over_when_the_last_load_has_failed() -> None:
    """An admin's load tries again at once. Long after, it is a load like any other."""
    world = World()
    world.manager.journal = Journal(world.manager.clock)  # on the virtual clock, too
    for pause_s, stage in ((1.0, Stage.STARTING_OVER), (2 * NEWS_S, Stage.LOADING)):
        world.loader.bringing_up = FakeLoader.failing()
        with pytest.raises(LoadFailed):
            await world.manager.load("a", 60.0)
        await asyncio.sleep(pause_s)
        world.loader.bringing_up = FakeLoader.after(1.0)
        task = asyncio.ensure_future(world.manager.load("a", 60.0))
        await world.until(lambda: world.phases().get("a") == ("loading", 0))
        assert seen(world, "a").stage is stage
        await task
        world.manager.unload("a")
        await world.until(lambda: world.phases() == {})
    await world.close()


def test_progress_of_a_model_in_a_server_is_told_as_well() -> None:
    """Loaded by us there; what others load is simply there."""

    async def scenario(town: Town) -> None:
        task = asyncio.ensure_future(town.use("a"))
        await asyncio.sleep(0.2)
        assert is_like(progress_of(town.manager, "srv/a"), Stage.LOADING, 0.2)
        await task
        assert progress_of(town.manager, "srv/a") is None

    in_town(scenario)


@on_virtual_time
async def test_board_reads_the_queue_once_for_all_who_ask() -> None:
    """What it says is a moment old at most, and it changes nothing."""
    world = World()
    board = Board(world.manager)
    assert board.progress("a") is None
    task = world.start("a")
    await asyncio.sleep(FRESH_S + 0.1)
    first = board.progress("a")
    assert first is not None
    assert first.elapsed_s == pytest.approx(FRESH_S + 0.1)
    await asyncio.sleep(FRESH_S / 2)
    assert board.progress("a") is first
    await asyncio.sleep(FRESH_S)
    assert board.progress("a") != first
    entries = len(world.manager.journal.since(0))
    assert board.progress("b") is None
    assert len(world.manager.journal.since(0)) == entries
    await task
    await world.close()
