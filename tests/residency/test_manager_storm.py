"""Everything at once: two hundred callers come and go, loads fail, engines die. By seeds, so that it can be had again."""

from __future__ import annotations

import asyncio
import random

import pytest

from gateway.errors import GatewayError
from providers.contract import EngineSpec
from providers.errors import LoadFailed

from .shell import Engine, World, on_virtual_time

CLIENTS = 200


@pytest.mark.parametrize("seed", range(12))
def test_storm_leaves_nothing_behind(seed: int) -> None:
    """Afterwards the core is at rest, every engine was stopped once, and everybody had exactly one answer."""

    @on_virtual_time
    async def scenario() -> None:
        dice = random.Random(seed)
        world = World(budget=30, names="abcdef", queue_max=60, idle_s=dice.choice([0.5, 5.0, float("inf")]))

        async def bring_up(spec: EngineSpec) -> None:
            await asyncio.sleep(dice.random() * 3)
            if dice.random() < 0.15:
                raise dice.choice([LoadFailed("it failed", exit_code=1), RuntimeError("a bug")])

        async def stopping(engine: Engine) -> None:
            await asyncio.sleep(dice.random())
            if dice.random() < 0.1:
                engine.alive = False
                raise OSError("stop failed")

        world.loader.bringing_up, world.loader.stopping = bring_up, stopping
        tasks = [asyncio.ensure_future(client(world, dice)) for _ in range(CLIENTS)]
        trouble = asyncio.ensure_future(make_trouble(world, dice, tasks))
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        trouble.cancel()
        await asyncio.wait([trouble])
        for answer in answers:
            assert answer is None or isinstance(answer, GatewayError | LoadFailed | asyncio.CancelledError), answer
        assert sum(answer is None for answer in answers) > CLIENTS / 10
        assert world.held == 0
        assert all(leases == 0 for _, leases in world.phases().values())
        world.loader.bringing_up = world.loader.after(0.1)
        await world.close()

    scenario()


async def client(world: World, dice: random.Random) -> None:
    """One request at some time, for some model, with some patience."""
    await asyncio.sleep(dice.random() * 60)
    await world.use(
        dice.choice(list(world.manager.managed)), dice.random() * 4, patience_s=dice.choice([0.5, 5.0, 60.0])
    )


async def make_trouble(world: World, dice: random.Random, tasks: list[asyncio.Task[None]]) -> None:
    """Callers leave, engines die, admins unload, pin and unpin."""
    names = list(world.manager.managed)
    while True:
        await asyncio.sleep(dice.random() * 0.4)
        match dice.randrange(6):
            case 0 | 1 | 2:
                dice.choice(tasks).cancel()
            case 3:
                alive = [engine for engine in world.loader.engines if engine.alive and not engine.stops]
                if alive:
                    dice.choice(alive).die()
            case 4:
                world.manager.unload(dice.choice(names))
            case _:
                await world.manager.pin(dice.choice(names), pinned=dice.random() < 0.3)
