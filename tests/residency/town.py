"""A server in memory in which others load, use and unload, and a manager with its watch, on the virtual clock."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from gateway.residency.footprints import Footprints
from gateway.residency.lease import Managed
from gateway.residency.manager import ResidencyManager
from gateway.residency.memory import DeviceBudget
from gateway.residency.watch import EVERY_S, Watch
from providers.contract import Engine, EngineSpec, Footprint, Held, ProcessExit, Request, Response
from providers.errors import LoadFailed, ProviderError, UpstreamTimeout

from .shell import FakeMeasurer, on_virtual_time


class Ward:
    """An engine in a server."""

    pid: int | None = None

    def __init__(self, server: FakeServer, spec: EngineSpec) -> None:
        self.spec = spec
        self._server = server

    def log_lines(self) -> tuple[str, ...]:
        return ()

    async def send(self, request: Request) -> Response:
        raise AssertionError("no test of the watch sends")

    async def stop(self) -> None:
        self._server.stops.append(self.spec.alias)
        await asyncio.sleep(0.01)
        if self.spec.alias in self._server.busy:
            raise UpstreamTimeout("somebody still uses it", source="srv")
        self._server.memory.pop(self.spec.alias, None)


class FakeServer:
    """Holds models by name; others may change `memory` at any time."""

    def __init__(self) -> None:
        self.memory: dict[str, int] = {}  # name → bytes
        self.used: dict[str, int] = {}
        self.busy: set[str] = set()
        self.loads: list[str] = []
        self.stops: list[str] = []
        self.error: ProviderError | None = None
        self.answering: Callable[[], asyncio.Future[None]] | None = None
        self.unloads = True
        self.asked = 0

    def specs(self) -> Mapping[str, EngineSpec]:
        return {}

    def estimate(self, spec: EngineSpec) -> Footprint:
        if spec.alias == "unknown":
            raise LoadFailed("no such model", source="srv")
        return {"ram": 10}

    async def load(self, spec: EngineSpec, on_exit: Callable[[ProcessExit], None]) -> Engine:
        self.loads.append(spec.alias)
        if self.error is not None:
            raise LoadFailed("it cannot be reached", source="srv")
        await asyncio.sleep(0.5)
        self.memory[spec.alias] = 10
        return Ward(self, spec)

    async def held(self) -> Sequence[Held]:
        self.asked += 1
        if self.error is not None:
            raise self.error
        held = [
            Held(name=name, footprint={"ram": size}, exact=True, used=str(self.used.get(name, 0)))
            for name, size in self.memory.items()
        ]
        if self.answering is not None:  # the answer is on its way for a while
            await self.answering()
        return held

    def adopt(self, spec: EngineSpec) -> Engine:
        return Ward(self, spec)

    def place(self, size_bytes: int) -> Footprint:
        return {"ram": size_bytes}

    def root_pid(self) -> int | None:
        return 4711


class Town:
    """A manager whose models a, b, c live in one server, each of 10 bytes, and the watch that asks it."""

    def __init__(self, *, budget: int = 20, idle_s: float = float("inf"), names: str = "abc") -> None:
        self.server = FakeServer()
        self.measurer = FakeMeasurer()
        managed = {
            f"srv/{name}": Managed(
                self.server,
                EngineSpec(target=f"srv/{name}", alias=name, stop_timeout_s=1.0),
                name,
                idle_s=idle_s,
                pinned=False,
                server=self.server,
            )
            for name in (*names, "unknown")
        }
        self.manager = ResidencyManager(
            managed,
            {"ram": DeviceBudget(budget_bytes=budget)},
            measurer=self.measurer,
            footprints=Footprints(Path("never-opened")),
            queue_max=10,
            min_residency_s=0.0,
            clock=asyncio.get_running_loop().time,
        )
        self.nudged: list[str] = []
        self.watch = Watch(self.manager, {"srv": self.server}, self.nudged.append)
        self.watching = asyncio.ensure_future(self.watch.run())

    async def use(self, name: str, hold_s: float = 0.0) -> None:
        """One caller: lease, hold, leave."""
        async with self.manager.lease(f"srv/{name}", 60.0):
            await asyncio.sleep(hold_s)

    def phases(self) -> dict[str, str]:
        return {resident.target.removeprefix("srv/"): str(resident.phase) for resident in self.manager.residents()}

    def happened(self, what: str) -> list[str]:
        return [entry.target for entry in self.manager.journal.since(0) if entry.what == what]

    async def look(self) -> None:
        """Until what is so now has been seen."""
        await asyncio.sleep(2 * EVERY_S)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for it on the virtual clock."""
        deadline_s = self.manager.clock() + 1000.0
        while not condition():
            assert self.manager.clock() < deadline_s, "the condition did not come true"
            await asyncio.sleep(0.001)

    async def close(self) -> None:
        self.watching.cancel()
        await asyncio.gather(self.watching, return_exceptions=True)
        self.server.busy.clear()
        await self.manager.aclose(0.0)
        assert self.phases() == {}
        assert self.manager.engines == {}
        assert not any(self.manager.committed_bytes().values())
        await self.measurer.aclose()


def in_town(test: Callable[[Town], object], **kinds: object) -> None:
    """Run it on virtual time with a town of its own."""

    @on_virtual_time
    async def scenario() -> None:
        town = Town(**kinds)  # type: ignore[arg-type]
        result = test(town)
        assert asyncio.iscoroutine(result)
        await result
        await town.close()

    scenario()
