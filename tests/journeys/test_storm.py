"""Everything at once: callers who come and go, others who load and unload behind our back, servers that vanish and come back.

Whatever happened, afterwards everybody agrees on what is in memory, nothing is held by anybody, and nothing of ours is left.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections import Counter
from pathlib import Path

from tests.fakes.lmstudio import FakeLmStudio
from tests.fakes.ollama import FakeModel, FakeOllama
from tests.fakes.running import CHAT, Caller, Running, ask, chat, running

MIB = 1 << 20
CALLERS, REQUESTS = 12, 80
LEAVE_SHARE = 0.3
# What a caller may be told meanwhile; everything else is a fault of ours.
FAIR = {
    "model_not_found",  # asked for on purpose
    "load_failed",  # its server was down, or is cooling down
    "load_stopped",
    "no_room_beside_pins",
    "queue_full",
    "wait_timed_out",
    "upstream_unreachable",
    "upstream_cooling_down",
    "upstream_broke",
    "upstream_busy",
}


class Town:
    """Two Ollamas, one of which evicts by itself, an LM Studio, and a gateway with room for some of their models."""

    def __init__(self) -> None:
        self.small = FakeOllama(*(FakeModel(f"m{n}:latest", size_bytes=100 * MIB) for n in range(5)), max_loaded=3)
        self.large = FakeOllama(*(FakeModel(f"n{n}:latest", size_bytes=150 * MIB) for n in range(3)))
        self.studio = FakeLmStudio()
        for n in range(4):
            self.studio.add(f"q{n}", size_bytes=100 * MIB)
        self.names = [
            *(f"small/m{n}" for n in range(5)),
            *(f"n{n}" for n in range(3)),
            *(f"studio/q{n}" for n in range(4)),
        ]
        self.told: Counter[str] = Counter()
        self.down: list[FakeOllama] = []

    def toml(self) -> str:
        return f"""
        [server]
        port = 0
        [memory]
        budget = "600MiB"
        [residency]
        min_residency_s = 0
        idle_s = 2
        patience_s = 5
        [providers.small]
        kind = "ollama"
        base_url = "{self.small.base_url}"
        [providers.large]
        kind = "ollama"
        base_url = "{self.large.base_url}"
        max_concurrent = 2
        queue_s = 2
        [providers.studio]
        kind = "lmstudio"
        base_url = "{self.studio.base_url}"
        """

    def in_memory(self) -> set[str]:
        """By the servers' word."""
        studio = {f"studio/q{n}" for n in range(4) if self.studio.loaded(f"q{n}")}
        return (
            {f"small/{name}" for name in self.small.loaded} | {f"large/{name}" for name in self.large.loaded} | studio
        )

    async def caller(self, gateway: Running, chance: random.Random) -> None:
        """Asks for one model after the other; sometimes goes away before the answer, or in the middle of it."""
        for _ in range(REQUESTS):
            name = chance.choice([*self.names, "nobody"])
            async with Caller(gateway.port) as caller:
                await caller.ask("POST", CHAT, chat(name, stream=chance.random() < 0.5))
                if chance.random() < LEAVE_SHARE:
                    if chance.random() < 0.5:
                        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                            await caller.head()
                    (caller.leave if chance.random() < 0.5 else caller.reset)()
                    continue
                answer = await caller.answer()
                self.told["good" if answer.status == 200 else json.loads(answer.body)["error"]["code"]] += 1

    async def others(self, gateway: Running, chance: random.Random) -> None:
        """One thing after the other behind the gateway's back, and its admin's hand between."""
        while True:
            match chance.randrange(6):
                case 0:
                    self.small.load_behind(f"m{chance.randrange(5)}")
                case 1 if self.small.loaded:
                    self.small.unload_behind(chance.choice(list(self.small.loaded)))
                case 2:
                    self.studio.load_behind(f"q{chance.randrange(4)}")
                case 3 if chance.random() < 0.5:
                    await self.crash(chance.choice([self.small, self.large]), chance)
                case 4:
                    verb = chance.choice(["load", "unload", "pin", "unpin"])
                    await ask(gateway.port, "POST", f"/admin/models/{chance.choice(self.names)}/{verb}", b"")
                case _:
                    await ask(gateway.port, "GET", "/v1/models")
            await asyncio.sleep(chance.random() * 0.1)

    async def crash(self, server: FakeOllama, chance: random.Random) -> None:
        """It loses its memory and its port, and comes back."""
        server.loaded.clear()
        self.down.append(server)
        await server.stop()
        await asyncio.sleep(chance.random())
        await self.repair()

    async def repair(self) -> None:
        """Everybody is up."""
        while self.down:
            await self.down.pop().__aenter__()


async def test_after_the_storm_everybody_agrees(tmp_path: Path) -> None:
    """And nothing is left anywhere."""
    town = Town()
    async with town.small, town.large, town.studio, running(tmp_path, town.toml()) as gateway:
        others = asyncio.ensure_future(town.others(gateway, random.Random(7)))
        await asyncio.gather(*(town.caller(gateway, random.Random(seed)) for seed in range(CALLERS)))
        others.cancel()
        await asyncio.gather(others, return_exceptions=True)
        await town.repair()

        assert set(town.told) <= FAIR | {"good"}, town.told
        assert town.told["good"] > CALLERS
        await gateway.until(lambda: gateway.phases() == dict.fromkeys(town.in_memory(), "ready"))
        assert gateway.leases() == 0
        assert gateway.parts.residency.waiting() == []
        assert gateway.parts.metrics.in_flight == 0
        doors = [upstream.guard for upstream in gateway.parts.upstreams.values() if upstream.guard is not None]
        assert [door.waiting for door in doors] == [0, 0, 0]
        held = sum(gateway.parts.residency.committed_bytes().values())
        assert held == sum(sum(r.footprint.values()) for r in gateway.parts.residency.residents())
