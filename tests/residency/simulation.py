"""The residency core driven through whole histories: engines, clients, admins, servers, strangers, time, in any order there is.

The law: a rule only does what the world could do at that moment (an engine that is not starting cannot finish starting); what it
may lead to is held against the promises in `world.py`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from random import Random
from typing import ClassVar, TypeVar

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from gateway.residency import events
from gateway.residency.core import Residency
from gateway.residency.events import Died, Gone, Loaded, LoadFailed, Measured, Release, Seen, Vanished

from .books import Engine
from .servers import ServedWorld

T = TypeVar("T")
LOADING, READY, DRAINING, UNLOADING = events.Phase

# Small numbers, so that models collide: a budget holds two or three of them. Zero and nothing at all are sizes, too.
BUDGET: Mapping[str, int] = {"ram": 10, "gpu0": 6}
BUDGETS: Sequence[Mapping[str, int]] = (BUDGET, BUDGET, BUDGET, {"ram": 14, "gpu0": 6}, {"ram": 10})
FOOTPRINTS: Sequence[Mapping[str, int]] = (
    {"ram": 3},
    {"ram": 3},
    {"ram": 3, "gpu0": 0},
    {"ram": 5},
    {"ram": 5},
    {"ram": 2, "gpu0": 3},
    {"ram": 2, "gpu0": 3},
    {"gpu0": 3},
    {"ram": 4, "gpu0": 2},
    {"ram": 6, "gpu0": 0},
    {"ram": 1, "gpu0": 6},
    {"ram": 1},
    {"ram": 10},
)
NEW_FOOTPRINTS: Sequence[Mapping[str, int]] = (*FOOTPRINTS, {"ram": 11}, {})
IDLE_S: Sequence[float | None] = (None, None, None, 0.0, 4.0, 40.0)
ENDS = ("stays", "stays", "leaves", "leaves", "gives up", "its load fails")
# Where a model lives: in an engine of ours, in a server, or in one that cannot be told to unload.
HOMES = ("ours", "ours", "ours", "server", "server", "server", "stubborn")
OTHERS_ACTS = ("load", "load", "unload", "use", "use")
ADMIN_ACTS = ("load", "unload", "pin", "unpin", "describe", "mend")
COMMON = ("ask", "ask", "serve", "plan", "release", "move", "move", "course")
RARE = ("leave", "leave", "fail", "measure", "admin", "admin", "take", "give", "give", "time", "time", "alarm", "late")
OTHERS = ("others", "others", "poll", "poll", "quiet")
OTHERS_SHARE = 0.15
SERVED_HISTORIES = 0.5
PATIENCE_S = (math.inf, math.inf, math.inf, 15.0, 2.0, 0.0)
MOMENT_S = 0.25  # what the ends of loads and leases take, so that one of two was always used less recently
TIMES_S = (0.5, 1.0, 3.0, 10.0, 40.0)
SHUTDOWN_AFTER_EVENTS = 90

model = st.tuples(st.sampled_from(FOOTPRINTS), st.sampled_from(IDLE_S), st.integers(0, 9), st.sampled_from(HOMES))
pick = st.integers(0, 59)  # an index into whatever there is to choose from at that moment


def chosen(index: int, things: Sequence[T]) -> T:
    return things[index % len(things)]


class ResidencyMachine(RuleBasedStateMachine):
    """Any history. `core_class` is the core under test, `world_class` holds the shell; mutants put theirs in their place."""

    core_class: ClassVar[type[Residency]] = Residency
    world_class: ClassVar[type[ServedWorld]] = ServedWorld

    def __init__(self) -> None:
        super().__init__()
        self.world = self._world(50, None)
        self.ends_by_shutdown = False
        self.index = 0

    def _world(self, queue_max: int, min_residency_s: float | None) -> ServedWorld:
        core = self.core_class(BUDGET, queue_max=queue_max, min_residency_s=min_residency_s)
        return self.world_class(core, BUDGET, queue_max=queue_max, min_residency_s=min_residency_s)

    @initialize(
        models=st.one_of(st.lists(model, min_size=3, max_size=6), st.lists(model, min_size=10, max_size=10)),
        queue_max=st.sampled_from((50, 50, 3)),
        min_residency_s=st.sampled_from((0.0, 5.0, None)),
        ends_by_shutdown=st.booleans(),
    )
    def begin(
        self,
        models: list[tuple[Mapping[str, int], float | None, int, str]],
        queue_max: int,
        min_residency_s: float | None,
        ends_by_shutdown: bool,
    ) -> None:
        self.world = self._world(queue_max, min_residency_s)
        self.ends_by_shutdown = ends_by_shutdown
        for number, (footprint, idle_s, pin, home) in enumerate(models):
            target = f"m{number}"
            self.world.feed(events.Describe(target, footprint, "declared", idle_s, pin == 9, home != "stubborn"))
            if home != "ours":
                self.world.served.append(target)

    # ------------------------------------------------------------ what there is

    def _targets(self) -> list[str]:
        return list(self.world.models)

    def _in(self, *phases: events.Phase) -> list[Engine]:
        return [engine for engine in self.world.engines.values() if engine.phase in phases]

    # ------------------------------------------------------------ clients

    @rule(target_=pick, patience=st.sampled_from(PATIENCE_S))
    def a_client_asks(self, target_: int, patience: float) -> None:
        self.world.ask(chosen(target_, self._targets()), patience)

    @rule(target_=pick, end=st.sampled_from(ENDS))
    def a_client_is_served(self, target_: int, end: str) -> None:
        """The everyday way: the client leaves when it has its answer, stays for longer, gives up, or is told of a failure.

        Before that failure somebody may have made room by hand, for nothing. Who gave up may come back to meet one.
        """
        target = chosen(target_, self._targets())
        self.world.ask(target, math.inf)
        ticket = self.world.last_ticket
        if end == "gives up":
            self.world.feed(Release(ticket))
        for _ in range(6):
            engine = self.world.engines.get(target)
            draining = [engine.target for engine in self._in(DRAINING) if engine.target in self.world.memory]
            if end == "its load fails" and engine is not None and engine.phase is LOADING:
                self.world.feed(LoadFailed(target, engine.epoch, "exit code 1"))
            elif end == "its load fails" and draining:
                self.world.others_unload(draining[0])
                self.world.poll_in_quiet()
            else:
                self._take_course()
        if end == "gives up" and target_ % 3 == 0:
            self.a_client_is_served(target_, "its load fails")
        if ticket in self.world.held and end == "leaves":
            self.world.now_s += MOMENT_S
            self.world.feed(Release(ticket))

    @rule(numbers=st.lists(pick, min_size=2, max_size=5))
    def clients_are_served_in_turn(self, numbers: list[int]) -> None:
        for number in numbers:
            self.a_client_is_served(number, "leaves")

    @rule(target_=pick, count=st.integers(2, 3))
    def several_clients_ask(self, target_: int, count: int) -> None:
        for number in range(count):
            self.world.ask(chosen(target_ + number * (target_ % 2), self._targets()), math.inf)

    @rule(target_=pick)
    def a_plan_is_asked_for_and_taken(self, target_: int) -> None:
        self.world.ask_as_planned(chosen(target_, self._targets()))

    @precondition(lambda self: self.world.held)
    @rule(index=pick)
    def a_lease_ends(self, index: int) -> None:
        self.world.now_s += MOMENT_S
        self.world.feed(Release(chosen(index, list(self.world.held))))

    @precondition(lambda self: self.world.pending)
    @rule(index=pick)
    def clients_leave_the_queue(self, index: int) -> None:
        """One of them, or all who wait for the same model."""
        ticket = chosen(index, list(self.world.pending))
        target = self.world.pending[ticket].target
        everybody = [other for other, asked in self.world.pending.items() if asked.target == target]
        for leaving in everybody if index % 2 else [ticket]:
            self.world.feed(Release(leaving))

    # ------------------------------------------------------------ engines

    @precondition(lambda self: self._in(LOADING, UNLOADING))
    @rule(index=pick)
    def an_engine_comes_up_or_is_gone(self, index: int) -> None:
        self.world.now_s += MOMENT_S
        self._move(chosen(index, self._in(LOADING, UNLOADING)))

    @rule(steps=st.integers(1, 6))
    def everything_takes_its_course(self, steps: int) -> None:
        for _ in range(steps):
            self._take_course()

    def _take_course(self) -> None:
        """The oldest load or stop ends; where none is under way and somebody waits, the oldest lease does."""
        if moving := self._in(LOADING, UNLOADING):
            self.world.now_s += MOMENT_S
            self._move(moving[0])
        elif self.world.held and self.world.pending:
            self.world.feed(Release(next(iter(self.world.held))))

    def _move(self, engine: Engine) -> None:
        ended = Loaded if engine.phase is LOADING else Gone
        self.world.feed(ended(engine.target, engine.epoch))

    @precondition(lambda self: self._in(LOADING, READY, DRAINING))
    @rule(index=pick)
    def an_engine_fails(self, index: int) -> None:
        """It does not come up, or it dies in service."""
        engine = chosen(index, self._in(LOADING, READY, DRAINING))
        failure = LoadFailed if engine.phase is LOADING else Died
        self.world.feed(failure(engine.target, engine.epoch, "exit code 1"))

    @precondition(lambda self: self._in(LOADING, READY, DRAINING))
    @rule(index=pick, device=st.sampled_from(("ram", "ram", "gpu0")), more=st.integers(-1, 3))
    def an_engine_is_measured(self, index: int, device: str, more: int) -> None:
        engine = chosen(index, self._in(LOADING, READY, DRAINING))
        held = {**engine.footprint, device: max(0, engine.footprint.get(device, 0) + more)}
        self.world.feed(Measured(engine.target, engine.epoch, held))

    @rule(index=pick, kind=st.integers(0, 7))
    def a_late_report_comes(self, index: int, kind: int) -> None:
        """Of an earlier load of the same model, or one that does not suit its phase, or for a ticket that is done with."""
        target = chosen(index, self._targets())
        engine = self.world.engines.get(target)
        epoch = self.world.models[target].epoch
        stale = epoch - 1 if engine is not None else epoch
        unloading = engine is not None and engine.phase is UNLOADING
        ready = engine is not None and engine.phase is READY
        moving = engine is not None and engine.phase in (LOADING, UNLOADING)
        reports = (
            Loaded(target, epoch if ready or unloading else stale),
            LoadFailed(target, epoch if ready or unloading else stale, "late"),
            Died(target, epoch if unloading else stale, "late"),
            Gone(target, epoch if ready else stale),
            Measured(target, epoch if unloading else stale, {"ram": 9}),
            Seen(target, epoch if moving else epoch - 1, {"ram": 9}, used=True),
            Vanished(target, epoch if moving else epoch - 1),
            Release(chosen(index, sorted(self.world.done()) or [10**9])),
        )
        self.world.feed_late(reports[kind])

    # ------------------------------------------------------------ admins and strangers

    @rule(index=pick, kind=st.sampled_from(ADMIN_ACTS))
    def an_admin_acts(self, index: int, kind: str) -> None:
        waiting = [asked.target for asked in self.world.pending.values()]
        target = chosen(index, waiting if waiting and index % 3 else self._targets())
        match kind:
            case "unload":
                self.world.feed(events.Unload(target))
            case "load":
                self.world.ask(target, math.inf, explicit=True)
            case "mend":
                broken = [name for name, model in self.world.models.items() if model.failures or model.deaths]
                self.world.feed(events.Mended(chosen(index, broken or [target])))
            case "describe":
                size, evictable = chosen(index // 2, NEW_FOOTPRINTS), self.world.models[target].evictable
                described = events.Describe(target, size, "learned", chosen(index, IDLE_S), evictable=evictable)
                self.world.feed(described)
            case _:
                self.world.feed(events.Pin(target, kind == "pin"))

    @precondition(lambda self: self.world.served)
    @rule(index=pick, kind=st.sampled_from(OTHERS_ACTS), footprint=st.sampled_from(FOOTPRINTS))
    def others_act_on_a_server(self, index: int, kind: str, footprint: Mapping[str, int]) -> None:
        """Behind our back, and within nobody's budget but that server's; most often where it matters to somebody who waits."""
        served, memory = self.world.served, self.world.memory
        waiting = [asked.target for asked in self.world.pending.values() if asked.target in served]
        match kind:
            case "load":
                cold = [target for target in waiting or served if target not in memory]
                self.world.others_load(chosen(index, cold if cold and index % 4 else served), footprint)
            case "unload":
                draining = [engine.target for engine in self._in(DRAINING) if engine.target in memory]
                self.world.others_unload(chosen(index, draining or list(memory) or served))
            case _:
                self.world.now_s += MOMENT_S
                self.world.others_use(chosen(index, list(memory) or served))

    @precondition(lambda self: self.world.served)
    @rule()
    def a_poll_begins_or_ends(self) -> None:
        if self.world.poll is None:
            self.world.begin_poll()
        else:
            self.world.end_poll()

    @precondition(lambda self: self.world.served)
    @rule()
    def a_poll_meets_no_other_event(self) -> None:
        self.world.poll_in_quiet()

    @rule(device=st.sampled_from(("ram", "ram", "gpu0")), size=st.integers(0, 5))
    def strangers_take_memory(self, device: str, size: int) -> None:
        """So much; or, for 0, just so much that somebody has to leave."""
        left = BUDGET[device] - size if size else max(self.world.staying(device) - 1, 0)
        self.world.feed(events.Budget({**self.world.budget, device: left}))

    @rule(budget=st.sampled_from(BUDGETS))
    def strangers_give_memory_back(self, budget: Mapping[str, int]) -> None:
        self.world.feed(events.Budget(budget))

    @precondition(lambda self: self.ends_by_shutdown and len(self.world.history) >= SHUTDOWN_AFTER_EVENTS)
    @rule()
    def it_shuts_down(self) -> None:
        self.world.feed(events.Shutdown())

    # ------------------------------------------------------------ time

    @rule(seconds=st.sampled_from(TIMES_S), late=st.booleans())
    def time_passes(self, seconds: float, late: bool) -> None:
        """For a shell that ticks when it said it would, or for one that misses that moment."""
        if not late:
            self.world.pass_time(seconds)
        elif self.world.alarm_s < math.inf:
            self.world.now_s = max(self.world.now_s, self.world.alarm_s) + MOMENT_S
        else:
            self.world.now_s += seconds

    @rule()
    def the_alarm_rings(self) -> None:
        """And after a tick everything has been decided: the same moment again brings nothing."""
        if self.world.alarm_s < math.inf:
            self.world.now_s = max(self.world.now_s, self.world.alarm_s)
        self.world.feed(events.Tick())
        again = self.world.feed(events.Tick())
        assert again == [], f"decided only when asked again: {again}"

    # ------------------------------------------------------------ many things at once

    @rule(dice=st.integers(0, 10**6), count=st.integers(5, 30))
    def an_ordinary_while(self, dice: int, count: int) -> None:
        """Many steps for the price of two draws, so that histories grow long; a failure names the events it took."""
        self.live(Random(dice), count, rare=0.1)

    @rule(dice=st.integers(0, 10**6), count=st.integers(5, 30))
    def a_wild_while(self, dice: int, count: int) -> None:
        self.live(Random(dice), count, rare=0.4)

    def live(self, random: Random, count: int, *, rare: float) -> None:
        """So many things happen; a part of them are `rare` ones."""
        for _ in range(count):
            if self.world.served and random.random() < OTHERS_SHARE:
                self._others(random.choice(OTHERS), random)
            else:
                self._anything(random.choice(RARE if random.random() < rare else COMMON), random)

    def _others(self, kind: str, random: Random) -> None:
        match kind:
            case "others":
                self.others_act_on_a_server(random.randrange(60), random.choice(OTHERS_ACTS), random.choice(FOOTPRINTS))
            case "quiet":
                self.a_poll_meets_no_other_event()
            case _:
                self.a_poll_begins_or_ends()

    def _anything(self, kind: str, random: Random) -> None:
        if random.random() < 0.7:  # else what was chosen last: clients come back to the same model
            self.index = random.randrange(60)
        index = self.index
        match kind:
            case "ask":
                self.a_client_asks(index, random.choice(PATIENCE_S))
            case "serve":
                self.a_client_is_served(index, random.choice(ENDS))
            case "plan":
                self.a_plan_is_asked_for_and_taken(index)
            case "release" if self.world.held:
                self.a_lease_ends(index)
            case "leave" if self.world.pending:
                self.clients_leave_the_queue(index)
            case "move" if self._in(LOADING, UNLOADING):
                self.an_engine_comes_up_or_is_gone(index)
            case "fail" if self._in(LOADING, READY, DRAINING):
                self.an_engine_fails(index)
            case "measure" if self._in(LOADING, READY, DRAINING):
                self.an_engine_is_measured(index, random.choice(("ram", "gpu0")), random.randint(-1, 3))
            case "admin":
                self.an_admin_acts(index, random.choice(ADMIN_ACTS))
            case "take":
                self.strangers_take_memory(random.choice(("ram", "gpu0")), max(0, random.randint(-2, 5)))
            case "give":
                self.strangers_give_memory_back(random.choice(BUDGETS))
            case "time":
                self.time_passes(random.choice(TIMES_S), random.random() < 0.5)
            case "alarm":
                self.the_alarm_rings()
            case "late":
                self.a_late_report_comes(index, random.randrange(8))
            case _:
                self._take_course()

    def teardown(self) -> None:
        """L3: clients go, engines do as they are told, time passes: it comes to rest, and nobody waits."""
        if not self.world.sound:
            return
        if self.ends_by_shutdown:
            self.world.feed(events.Shutdown())
        self.world.come_to_rest()


def simulate(machine: type[ResidencyMachine], *, runs: int, steps: int, seed_: int, phases: Sequence[Phase]) -> None:
    """Drives `machine` through that many histories. Raises: AssertionError: a promise was broken."""
    run_state_machine_as_test(
        seed(seed_)(machine),
        settings=settings(
            max_examples=runs,
            stateful_step_count=steps,
            deadline=None,  # the machine that tests run on may be busy
            database=None,
            print_blob=True,
            report_multiple_bugs=False,
            phases=phases,
            suppress_health_check=[HealthCheck.too_slow],  # likewise
        ),
    )


def roam(machine: type[ResidencyMachine], *, histories: int, seed_: int) -> None:
    """Drives `machine` through histories drawn by plain dice: less clever than Hypothesis and with nothing to shorten what it
    finds, but several times as fast, and the same everywhere (Hypothesis also draws from constants in whatever is imported).

    Raises: AssertionError: a promise was broken.
    """
    random = Random(seed_)
    for _ in range(histories):
        history = machine()
        homes = HOMES if random.random() < SERVED_HISTORIES else HOMES[:1]
        footprints = [random.choice(FOOTPRINTS) for _ in range(random.choice((3, 4, 5, 6, 10)))]
        history.begin(
            [
                (footprint, random.choice(IDLE_S), random.randrange(10), random.choice(homes))
                for footprint in footprints
            ],
            queue_max=random.choice((50, 50, 3)),
            min_residency_s=random.choice((0.0, 5.0, None)),
            ends_by_shutdown=random.random() < 0.5,
        )
        history.live(random, random.randrange(10, 100), rare=random.choice((0.1, 0.4)))
        if history.ends_by_shutdown:
            history.it_shuts_down()
            history.live(random, random.randrange(10), rare=0.1)
        history.teardown()


def from_environment(name: str, default: int) -> int:
    """A number `make simulate` may set."""
    return int(os.environ.get(name, default))
