"""The shell around the residency core: carries its decisions out and reports back what happened.

The law: nothing here decides. `_feed` never awaits, so no lock is needed; whatever ends a lease (done, failed, cancelled, before
or after the grant) goes through one `Release`. A load serves all who wait for it and outlives any of them.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping

from providers.contract import Engine, Held, ProcessExit
from providers.errors import LoadFailed, ProviderError

from . import core, events
from .events import Footprint, Plan, ResidentView, WaitingView
from .footprints import Footprints
from .journal import Journal
from .lease import Lease, Managed
from .memory import DeviceBudget, Measurer
from .refusals import refusal_error
from .stopping import stop_engine

log = logging.getLogger("roundhouse.residency")

# A refused connection and the news of the process's death are two events of the same moment; which comes first is chance.
DEATH_NOTICE_S = 1.0


class ResidencyManager:
    """Leases for callers, engines for the core.

    Args:
        managed: target → how it is loaded; `manage` changes it. Targets not in it need no memory; their leases are no-ops.
        budgets: what may be committed at the start, per device.
        clock: monotonic seconds; `asyncio.get_running_loop().time` of the loop it runs on.
    """

    def __init__(
        self,
        managed: Mapping[str, Managed],
        budgets: Mapping[str, DeviceBudget],
        *,
        measurer: Measurer,
        footprints: Footprints,
        queue_max: int,
        min_residency_s: float | None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.managed: Mapping[str, Managed] = dict(managed)
        self.budgets = dict(budgets)
        self.clock = clock
        self.journal = Journal(wall_clock)
        self.footprints = footprints
        self.measurer = measurer
        self.engines: dict[str, Engine] = {}
        self._core = core.Residency(
            {device: budget.budget_bytes for device, budget in budgets.items()},
            queue_max=queue_max,
            min_residency_s=min_residency_s,
        )
        self._tickets = 0
        self._answers: dict[int, asyncio.Future[Engine]] = {}
        self._estimates: dict[str, Footprint] = {}
        self._failures: dict[str, LoadFailed] = {}
        self._loads: dict[str, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._alarm: asyncio.TimerHandle | None = None
        self._departures: dict[str, asyncio.Event] = {}  # of the engines that are up: set when they leave
        self._found: set[str] = set()  # of those, what somebody else has loaded
        self._given_up: set[str] = (
            set()
        )  # loads in servers that we no longer wait for, and that may come up all the same
        self._rest = asyncio.Event()
        self._rest.set()

    def manage(self, managed: Mapping[str, Managed]) -> None:
        """From now on these are the targets that live in our memory. One that is in it, or waited for, stays until it is gone."""
        kept = {resident.target for resident in self.residents()} | {waiting.target for waiting in self.waiting()}
        self.managed = {**{target: self.managed[target] for target in kept if target not in managed}, **managed}

    # ------------------------------------------------------------ leases

    def lease(self, target: str, patience_s: float) -> Lease:
        """`async with manager.lease(target, patience_s) as lease:` holds the target in memory for the block.

        Raises (on entering): GatewayError (CapacityError's subclasses), LoadFailed. Cancelled while waiting, it leaves the queue.
        """
        return Lease(self, target, patience_s)

    def is_warm(self, target: str) -> bool:
        """Whether a request for it would be served at once."""
        return self._core.is_ready(target)

    def next_ticket(self) -> int:
        self._tickets += 1
        return self._tickets

    def granted_at_once(self, ticket: int, target: str) -> Engine | None:
        """The way of every request for a ready model: no future, no task, no timer."""
        return self.engines[target] if self._core.grant_ready(ticket, target, self.clock()) else None

    async def wait_for(self, ticket: int, target: str, patience_s: float, *, explicit: bool) -> Engine:
        """Queue up, and wait for the answer. Raises: as `lease`."""
        await self.describe(target)
        answer: asyncio.Future[Engine] = asyncio.get_running_loop().create_future()
        self._answers[ticket] = answer
        started_s = self.clock()
        try:
            self._feed(events.Acquire(ticket, target, started_s + patience_s, explicit))
            if not answer.done():
                self.journal.note("queued", target, ticket=ticket)
            engine = await answer
            self.journal.note("granted", target, ticket=ticket, seconds=self.clock() - started_s)
            return engine
        except BaseException:
            self.release(ticket)
            raise
        finally:
            self._answers.pop(ticket, None)

    def release(self, ticket: int) -> None:
        """Waiting, held or unknown: the ticket is done with."""
        decisions: list[events.Decision] = []
        self._core.release(ticket, self.clock(), decisions)
        if decisions:
            self._carry_out(decisions)
            self._arm()

    async def has_left(self, target: str, engine: Engine) -> bool:
        """Whether an engine that could not be reached is on its way out; waits a moment for its death to be noticed."""
        departure = self._departures.get(target)
        if departure is None or self.engines.get(target) is not engine:
            return True
        if engine.pid is None:  # its server is down, or not: no process of ours has died
            return False
        try:
            async with asyncio.timeout(DEATH_NOTICE_S):
                await departure.wait()
        except TimeoutError:
            return False
        return True

    # ------------------------------------------------------------ what admins may do

    async def load(self, target: str, patience_s: float) -> None:
        """Bring it into memory, forgiving earlier failures. Raises: as `lease`."""
        async with Lease(self, target, patience_s, explicit=True):
            pass

    def unload(self, target: str) -> None:
        """Let its leases end, then stop it; a load under way is stopped at once."""
        self._feed(events.Unload(target))

    def in_server(self, target: str) -> bool:
        """Whether it lives in somebody else's server."""
        managed = self.managed.get(target)
        return managed is not None and managed.server is not None

    def can_unload(self, target: str) -> bool:
        """False: it lives in a server that cannot be told to unload."""
        server = self.managed[target].server
        return server is None or server.unloads

    async def pin(self, target: str, *, pinned: bool) -> None:
        """From now on it is never evicted (or may be again). Does not load it. Raises: LoadFailed: weights unreadable."""
        await self.describe(target)
        self._feed(events.Pin(target, pinned))
        self.journal.note("pinned" if pinned else "unpinned", target)

    async def plan(self, target: str) -> Plan:
        """What a request for it would meet now. Raises: LoadFailed: weights unreadable."""
        await self.describe(target)
        return self._core.plan(target, self.clock())

    def load_s(self, target: str) -> float | None:
        """How long its loads have taken; None: never loaded."""
        return self.footprints.load_s(self.managed[target].key)

    def residents(self) -> list[ResidentView]:
        return self._core.residents(self.clock())

    def waiting(self) -> list[WaitingView]:
        return self._core.waiting(self.clock())

    def committed_bytes(self) -> Footprint:
        return self._core.committed_bytes()

    def is_pinned(self, target: str) -> bool:
        return self._core.is_pinned(target) if self._core.knows(target) else self.managed[target].pinned

    def failure(self, target: str) -> LoadFailed | None:
        """Why its last load failed, while it is not tried again."""
        if target in self._failures and self._core.knows(target) and self._core.retry_at_s(target) > self.clock():
            return self._failures[target]
        return None

    # ------------------------------------------------------------ the shell

    def _feed(self, event: events.Event) -> None:
        """One fact in, all decisions out, without a pause."""
        self._carry_out(self._core.apply(event, self.clock()))
        self._arm()

    def _carry_out(self, decisions: Iterable[events.Decision]) -> None:
        for decision in decisions:
            match decision:
                case events.Grant():
                    self._grant(decision)
                case events.Reject():
                    self._reject(decision)
                case events.StartLoad():
                    self._start_load(decision)
                case events.StartUnload():
                    self._start_unload(decision)
                case events.Drain():
                    self.journal.note(
                        "draining",
                        decision.target,
                        decision.epoch,
                        why=decision.why,
                        detail=decision.detail,
                        for_target=decision.for_target or "",
                        seconds=decision.idle_s,
                    )
                case _:
                    raise AssertionError(f"no such decision: {decision!r}")

    def _grant(self, decision: events.Grant) -> None:
        answer = self._answers.get(decision.ticket)
        if answer is not None and not answer.done():
            answer.set_result(self.engines[decision.target])

    def _reject(self, decision: events.Reject) -> None:
        self.journal.note(
            "rejected", decision.target, why=decision.refusal, detail=decision.detail, ticket=decision.ticket
        )
        answer = self._answers.get(decision.ticket)
        if answer is not None and not answer.done():
            answer.set_exception(refusal_error(decision, self._failures.get(decision.target)))

    def _start_load(self, decision: events.StartLoad) -> None:
        self.journal.note(
            "load_started",
            decision.target,
            decision.epoch,
            why=decision.why,
            footprint=decision.footprint,
            footprint_source=decision.source,
        )
        self._rest.clear()
        self._loads[decision.target] = self._spawn(self._load(decision), f"load {decision.target}")

    def _start_unload(self, decision: events.StartUnload) -> None:
        self.journal.note("unload_started", decision.target, decision.epoch, why=decision.why)
        load = self._loads.pop(decision.target, None)
        if load is not None:
            self._give_up(decision.target)
            load.cancel()
        engine = self.engines.get(decision.target)
        if decision.why is events.Why.SHUTDOWN and decision.target in self._found:
            engine = None  # it was there before us, and stays for whoever loaded it
        self._forget_engine(decision.target)
        self._spawn(self._unload(decision, load, engine), f"unload {decision.target}")

    async def _load(self, decision: events.StartLoad) -> None:
        """The boundary for whatever a loader may do: it ends in Loaded, in LoadFailed, or cancelled by `_unload`."""
        target, epoch = decision.target, decision.epoch
        managed = self.managed[target]
        exits: list[ProcessExit] = []
        engine: Engine | None = None

        def ended(report: ProcessExit) -> None:
            exits.append(report)
            if engine is not None and self.engines.get(target) is engine and not report.asked:
                self._died(target, epoch, report)

        started_s = self.clock()
        try:
            engine = await managed.loader.load(managed.spec, ended)
        except LoadFailed as error:
            self._load_failed(target, epoch, error)
        except asyncio.CancelledError:
            if target not in self._loads:  # `_unload` cancelled it and waits for its end
                raise
            self._load_failed(target, epoch, LoadFailed("the loader gave up by itself", source="gateway"))
        except Exception as error:
            log.exception("loading %s failed in an unforeseen way", target)
            self._load_failed(target, epoch, LoadFailed(f"the loader failed: {type(error).__name__}", source="gateway"))
        else:
            seconds = self.clock() - started_s
            self._loads.pop(target, None)
            self._failures.pop(target, None)
            self._given_up.discard(target)
            self.engines[target] = engine
            self._departures[target] = asyncio.Event()
            self.footprints.learn_load_s(managed.key, seconds)
            self.journal.note("loaded", target, epoch, seconds=seconds)
            self._feed(events.Loaded(target, epoch))
            for report in exits:
                self._died(target, epoch, report)

    def _give_up(self, target: str) -> None:
        if self.managed[target].server is not None:
            self._given_up.add(target)

    def _load_failed(self, target: str, epoch: int, error: LoadFailed) -> None:
        self._give_up(target)
        self._loads.pop(target, None)
        self._failures[target] = error
        log.warning("%s did not load: %s", target, error.message)
        self.journal.note("load_failed", target, epoch, detail=error.message)
        self._feed(events.LoadFailed(target, epoch, error.message))
        self._look_for_rest()

    def _died(self, target: str, epoch: int, report: ProcessExit) -> None:
        last = f": {report.log_lines[-1]}" if report.log_lines else ""
        reason = f"the engine ended with code {report.exit_code}{last}"
        self._failures[target] = LoadFailed(
            reason, source=target.partition("/")[0], exit_code=report.exit_code, log_lines=report.log_lines
        )
        log.warning("%s: %s", target, reason)
        self.journal.note("died", target, epoch, detail=reason)
        self._feed(events.Died(target, epoch, reason))

    async def _unload(
        self, decision: events.StartUnload, load: asyncio.Task[None] | None, engine: Engine | None
    ) -> None:
        """Stop what is there, wait until its memory is back, and report Gone, whatever happens."""
        target = decision.target
        started_s = self.clock()
        try:
            if load is not None:
                await asyncio.wait([load])
                engine = self.engines.pop(target, None)  # it may have come up in the moment it was stopped
                self._departures.pop(target, None)
            if engine is not None:
                await stop_engine(target, engine, self.measurer)
        except ProviderError as error:  # its server would not let it go: told again by the watch
            log.warning("%s: %s", target, error.message)
        except Exception:  # named boundary: without Gone, its bytes would stay committed for ever
            log.exception("stopping %s failed", target)
        finally:
            self.journal.note("gone", target, decision.epoch, why=decision.why, seconds=self.clock() - started_s)
            self._feed(events.Gone(target, decision.epoch))
            self._look_for_rest()

    def _spawn(self, work: Coroutine[None, None, None], name: str) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def describe(self, target: str) -> None:
        """Tell the core the best word on the size of a target that is not in memory. Raises: LoadFailed."""
        managed = self.managed[target]
        if target in self.engines or target in self._loads:
            return
        estimate: Footprint = {}
        if managed.spec.declared is None:
            if managed.server is not None:  # known from its catalogue: no file has to be read
                estimate = managed.server.estimate(managed.spec)
            else:
                estimate = await asyncio.to_thread(managed.loader.estimate, managed.spec)
            self._estimates[target] = estimate
        footprint, source = self.footprints.best(managed.key, managed.spec.declared, estimate)
        idle_s = None if math.isinf(managed.idle_s) else managed.idle_s
        self._feed(
            events.Describe(target, footprint, source, idle_s, managed.pinned, evictable=self.can_unload(target))
        )

    def _arm(self) -> None:
        """One timer, for the next moment at which time alone changes something."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        now_s = self.clock()
        wake_s = self._core.wake_s(now_s)
        if wake_s is not None and wake_s < math.inf:
            loop = asyncio.get_running_loop()
            self._alarm = loop.call_later(max(0.0, wake_s - now_s), self._ring)

    def _ring(self) -> None:
        self._alarm = None
        self._feed(events.Tick())

    # ------------------------------------------------------------ what servers say

    def mended(self, target: str) -> None:
        """Its server answers again: that it could not load before says nothing about the model."""
        if self._core.knows(target):
            self._failures.pop(target, None)
            self._feed(events.Mended(target))

    def disown(self, targets: Iterable[str]) -> None:
        """Loads of an earlier run: should they be in their servers' memory still, they are unloaded unless somebody uses them."""
        self._given_up.update(targets)

    def standing(self, target: str) -> tuple[events.Phase | None, int]:
        """Its phase (None: cold) and the epoch of its last load: to be noted before a server is asked what it holds."""
        return self._core.standing(target)

    def seen(self, target: str, epoch: int, held: Held, *, used: bool) -> None:
        """Its server has it in memory, whoever loaded it. `epoch`: as noted before the server was asked."""
        managed = self.managed[target]
        assert managed.server is not None
        if self.closing or not self._core.knows(target) or self._core.standing(target)[1] != epoch:
            return  # what the core would not heed either
        if held.exact and held.footprint:
            self.footprints.learn(managed.key, held.footprint, self._estimates.get(target))
        if target not in self.engines:
            # before the core hears of it: it may grant it, drain it and have it stopped in the same breath
            self.engines[target] = managed.server.adopt(managed.spec)
            self._departures[target] = asyncio.Event()
            self._failures.pop(target, None)
            if target not in self._given_up:
                self._found.add(target)
            self._rest.clear()
            self.journal.note("found", target, epoch + 1, footprint=held.footprint)
        self._feed(events.Seen(target, epoch, held.footprint, used))
        if target in self._given_up:
            self._given_up.discard(target)
            if not self._uses(target):  # it would stay for ever, since our load asked for that
                self.unload(target)

    def _uses(self, target: str) -> bool:
        return any(resident.leases for resident in self.residents() if resident.target == target)

    def vanished(self, target: str, epoch: int) -> None:
        """Its server no longer has it in memory, and we did not ask for that. `epoch`: as noted before the server was asked."""
        if self._core.standing(target) not in ((events.Phase.READY, epoch), (events.Phase.DRAINING, epoch)):
            return
        self._forget_engine(target)
        self.journal.note("vanished", target, epoch)
        self._feed(events.Vanished(target, epoch))
        self._look_for_rest()

    def _forget_engine(self, target: str) -> None:
        self.engines.pop(target, None)
        self._found.discard(target)
        departure = self._departures.pop(target, None)
        if departure is not None:
            departure.set()

    # ------------------------------------------------------------ measures

    def measured(self, target: str, footprint: Footprint) -> None:
        """A sample of what a resident holds: learned for its next load, and committed now if it is more than was thought."""
        managed = self.managed[target]
        self.footprints.learn(managed.key, footprint, self._estimates.get(target))
        for resident in self._core.residents(self.clock()):
            if resident.target == target:
                self._feed(events.Measured(target, resident.epoch, footprint))

    def budgeted(self, budgets: Mapping[str, DeviceBudget]) -> None:
        """What may be committed from now on."""
        self.budgets = dict(budgets)
        budget_bytes = {device: budget.budget_bytes for device, budget in budgets.items()}
        if budget_bytes != self._core.budget_bytes():
            self._feed(events.Budget(budget_bytes))

    # ------------------------------------------------------------ the end

    def _look_for_rest(self) -> None:
        if not self._core.residents(self.clock()):
            self._rest.set()
            if self.closing:
                self.journal.close()

    @property
    def closing(self) -> bool:
        return self._core.is_closing()

    def begin_shutdown(self) -> None:
        """Take nobody in any more; what is idle is stopped now, what is busy when its leases end."""
        if not self.closing:
            self._feed(events.Shutdown())
            self._look_for_rest()

    async def aclose(self, grace_s: float) -> None:
        """Let leases end for `grace_s`, stop every engine; returns when none is left."""
        self.begin_shutdown()
        try:
            async with asyncio.timeout(grace_s):
                await self._rest.wait()
        except TimeoutError:
            for ticket in self._core.held():
                self.release(ticket)
        await self._rest.wait()
        if self._alarm is not None:
            self._alarm.cancel()
        while self._tasks:
            await asyncio.wait(self._tasks)
