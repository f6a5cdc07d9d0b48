"""What tests of the shell need: a clock that jumps, a loader whose engines do as they are told, a gauge that says what it is told.

The law: no test waits. `on_virtual_time` runs a test on a loop whose time is a number; whenever everything waits for a timer, the
number jumps there. What is real (a worker thread) is really waited for.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import itertools
import selectors
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, ParamSpec

from gateway.residency.footprints import Footprints
from gateway.residency.lease import Managed
from gateway.residency.manager import ResidencyManager
from gateway.residency.memory import DeviceBudget, Freed, Measurer
from providers.contract import EngineSpec, Footprint, ProcessExit, Request, Response
from providers.errors import LoadFailed

P = ParamSpec("P")

STUCK_S = 5.0  # of real time without anything to do: the test hangs


class _Jumping(selectors.DefaultSelector):
    """A selector that never sleeps for a timer."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            ready = super().select(STUCK_S)
            assert ready, "nothing is under way and no timer is set: the test would hang for ever"
            return ready
        ready = super().select(0)
        if not ready and timeout > 0:
            self.now_s += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in which waiting costs nothing."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now_s

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """Without a limit: it would be over at once, since its clock jumps. (Python 3.12 gives one.)"""
        await super().shutdown_default_executor()


def on_virtual_time(test: Callable[P, Awaitable[None]]) -> Callable[P, None]:
    """The test on a VirtualLoop; afterwards no task is left and the loop has had nothing to complain about."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        complaints: list[dict[str, Any]] = []

        async def whole() -> None:
            asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
            await test(*args, **kwargs)
            await turns(2)  # what was just cancelled ends in its next turn
            left = asyncio.all_tasks() - {asyncio.current_task()}
            assert not left, f"still running: {left}"
            gc.collect()

        gc.freeze()  # what is older than the test need not be looked through for what it has left
        try:
            with asyncio.Runner(loop_factory=VirtualLoop) as runner:
                runner.run(whole())
        finally:
            gc.unfreeze()
        assert not complaints, complaints

    return run


async def turns(count: int) -> None:
    """Let the loop go round so many times."""
    for _ in range(count):
        await asyncio.sleep(0)


class Engine:
    """An engine in name only."""

    def __init__(self, loader: FakeLoader, spec: EngineSpec, on_exit: Callable[[ProcessExit], None]) -> None:
        self.spec = spec
        self.stops = 0
        self.alive = True
        self.on_exit = on_exit
        self._loader = loader
        self._pid = next(loader.pids)

    @property
    def pid(self) -> int:
        return self._pid

    def log_lines(self) -> tuple[str, ...]:
        return ("a line",)

    async def send(self, request: Request) -> Response:
        raise AssertionError("no test of the shell sends")

    async def stop(self) -> None:
        self.stops += 1
        await self._loader.stopping(self)
        if self.alive:
            self.alive = False
            self.on_exit(ProcessExit(exit_code=0, log_lines=(), asked=True))

    def die(self, exit_code: int = -9) -> None:
        """End by itself."""
        self.alive = False
        self.on_exit(ProcessExit(exit_code=exit_code, log_lines=("last words",), asked=False))


async def promptly(_: Engine) -> None:
    """How an engine stops that behaves."""
    await asyncio.sleep(0.01)


class FakeLoader:
    """Loads what `bringing_up` lets come up; counts everything.

    Attributes (change them at any time):
        bringing_up: awaited by each load; raises what the load shall raise.
        stopping: awaited by each engine's stop.
    """

    def __init__(self, specs: Mapping[str, EngineSpec]) -> None:
        self._specs = specs
        self.pids = itertools.count(100)
        self.loads: list[str] = []  # targets, in order
        self.cancelled = self.failed = 0
        self.engines: list[Engine] = []
        self.bringing_up: Callable[[EngineSpec], Awaitable[None]] = self.after(1.0)
        self.stopping: Callable[[Engine], Awaitable[None]] = promptly
        self.sizing: Callable[[EngineSpec], Footprint] = lambda spec: {"ram": 10}
        self.dies_while_loading = False

    @staticmethod
    def after(seconds: float) -> Callable[[EngineSpec], Awaitable[None]]:
        """It comes up after so long."""

        async def bring_up(_: EngineSpec) -> None:
            await asyncio.sleep(seconds)

        return bring_up

    @staticmethod
    def on(gate: asyncio.Event) -> Callable[[EngineSpec], Awaitable[None]]:
        """It comes up when the gate opens."""

        async def bring_up(_: EngineSpec) -> None:
            await gate.wait()

        return bring_up

    @staticmethod
    def failing(exit_code: int = 7) -> Callable[[EngineSpec], Awaitable[None]]:
        """It does not come up."""

        async def bring_up(spec: EngineSpec) -> None:
            await asyncio.sleep(0.1)
            raise LoadFailed(
                f"engine for '{spec.alias}' exited", source="fake", exit_code=exit_code, log_lines=("no such file",)
            )

        return bring_up

    def specs(self) -> Mapping[str, EngineSpec]:
        return self._specs

    def estimate(self, spec: EngineSpec) -> Footprint:
        return self.sizing(spec)

    async def load(self, spec: EngineSpec, on_exit: Callable[[ProcessExit], None]) -> Engine:
        self.loads.append(spec.target)
        try:
            await self.bringing_up(spec)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        except Exception:
            self.failed += 1
            raise
        engine = Engine(self, spec, on_exit)
        self.engines.append(engine)
        if self.dies_while_loading:
            engine.die()
        return engine

    def alive(self) -> list[str]:
        """The targets whose engines run."""
        return [engine.spec.target for engine in self.engines if engine.alive]


class FakeMeasurer(Measurer):
    """Says that the memory is back, or what it is told to say."""

    def __init__(self) -> None:
        super().__init__()
        self.back = True
        self.error: OSError | None = None
        self.waits: list[float] = []  # the bounds it was given
        self.private: Footprint = {"ram": 10}

    async def before_stop(self, pid: int) -> Freed:
        if self.error is not None:
            raise self.error
        return Freed(pid=pid, private=self.private, unclaimed={})

    async def wait_back(self, freed: Freed, bound_s: float) -> bool:
        self.waits.append(bound_s)
        if not self.back:
            await asyncio.sleep(bound_s)
        return self.back


class World:
    """A manager of models a, b, c…, each of 10 bytes of RAM, and what stands around it."""

    def __init__(
        self,
        *,
        budget: int = 20,
        names: str = "abc",
        sized: bool = True,
        pinned: Iterable[str] = (),
        queue_max: int = 100,
        idle_s: float = float("inf"),
        min_residency_s: float | None = 0.0,
    ) -> None:
        declared = {"ram": 10} if sized else None
        specs = {name: EngineSpec(target=name, alias=name, declared=declared, stop_timeout_s=10.0) for name in names}
        self.loader = FakeLoader(specs)
        self.measurer = FakeMeasurer()
        self.manager = ResidencyManager(
            {
                name: Managed(self.loader, spec, name, idle_s=idle_s, pinned=name in pinned)
                for name, spec in specs.items()
            },
            {"ram": DeviceBudget(budget_bytes=budget)},
            measurer=self.measurer,
            footprints=Footprints(Path("never-opened")),
            queue_max=queue_max,
            min_residency_s=min_residency_s,
            clock=asyncio.get_running_loop().time,
        )
        self.held = 0
        self.used: list[Engine] = []

    async def use(self, target: str, hold: asyncio.Event | float = 0.0, patience_s: float = 60.0) -> Engine:
        """One caller: lease, hold, leave."""
        async with self.manager.lease(target, patience_s) as lease:
            engine = lease.engine
            assert isinstance(engine, Engine)
            self.used.append(engine)
            self.held += 1
            try:
                if isinstance(hold, asyncio.Event):
                    await hold.wait()
                else:
                    await asyncio.sleep(hold)
            finally:
                self.held -= 1
        return engine

    def start(self, target: str, hold: asyncio.Event | float = 0.0, patience_s: float = 60.0) -> asyncio.Task[Engine]:
        """The same as a task."""
        return asyncio.ensure_future(self.use(target, hold, patience_s))

    def phases(self) -> dict[str, tuple[str, int]]:
        """Target → phase and leases."""
        return {resident.target: (str(resident.phase), resident.leases) for resident in self.manager.residents()}

    def happened(self, what: str) -> list[str]:
        """The targets to which it happened, in order."""
        return [entry.target for entry in self.manager.journal.since(0) if entry.what == what]

    async def until(self, condition: Callable[[], bool], bound_s: float = 1000.0) -> None:
        """Wait for it on the virtual clock."""
        deadline_s = self.manager.clock() + bound_s
        while not condition():
            assert self.manager.clock() < deadline_s, "the condition did not come true"
            await asyncio.sleep(0.001)

    async def close(self) -> None:
        """End, and see that nothing is left: every engine that came up was stopped once, every load has ended."""
        await self.manager.aclose(0.0)
        assert self.phases() == {}
        assert self.manager.waiting() == []
        assert not any(self.manager.committed_bytes().values())
        assert self.manager.engines == {}
        assert self.loader.alive() == []
        assert [engine.stops for engine in self.loader.engines] == [1] * len(self.loader.engines)
        assert len(self.loader.loads) == self.loader.cancelled + self.loader.failed + len(self.loader.engines)
        assert self.held == 0
        await self.measurer.aclose()
