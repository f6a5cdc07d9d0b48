"""What must be true of the residency core, whatever happens around it: each decision held against books kept beside it.

The law: liveness first. After every event something is on its way for the head of the queue, and nobody is left without an answer;
then safety, decision by decision, in the order in which they were given.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager

from gateway.residency.core import Residency
from gateway.residency.events import (
    Acquire,
    Decision,
    Died,
    Drain,
    Event,
    Footprint,
    Gone,
    Grant,
    Loaded,
    LoadFailed,
    Phase,
    Refusal,
    Reject,
    Release,
    ResidentView,
    Shutdown,
    StartLoad,
    StartUnload,
    Tick,
    Unload,
    Why,
)

from .books import Books, Engine
from .dump import dump
from .victims import check_over_budget, check_victims

# How many waiting models the core promises to look at in one decision; stated here again, since it is part of the promise.
LOOKAHEAD = 8
# While a resident is busy the shell looks for its idleness at most this often.
BUSY_LOOK_S = 1.0


class World(Books):
    """Feeds one core, and fails with an AssertionError that says which promise was broken.

    Args:
        core: fresh, built with the same budget, queue_max and min_residency_s.
    """

    def __init__(
        self, core: Residency, budget_bytes: Footprint, *, queue_max: int, min_residency_s: float | None
    ) -> None:
        super().__init__(budget_bytes, queue_max=queue_max, min_residency_s=min_residency_s)
        self.core = core
        self.alarm_s = math.inf  # when the shell will tick
        self.history: list[tuple[float, Event | str]] = []
        self.met: set[tuple[type[Decision], str]] = set()  # the kinds of decision there have been
        self.sound = True  # no promise has been broken yet
        self.last_ticket = 0

    # ------------------------------------------------------------ the shell

    def feed(self, event: Event) -> list[Decision]:
        """One true fact; the books change first, then each decision is held against them."""
        self.history.append((self.now_s, event))
        with self.evidence():
            return self._feed(event)

    @contextmanager
    def evidence(self) -> Generator[None]:
        """A promise broken within is told with all that led to it."""
        try:
            yield
        except AssertionError as error:
            if self.sound:
                error.add_note("\n".join(f"{at_s}: {fact}" for at_s, fact in self.history))
            self.sound = False
            raise

    def _feed(self, event: Event) -> list[Decision]:
        verdict = self.enter(event)
        decisions = self.core.apply(event, self.now_s)
        if verdict is not None:
            self._check_immediate(event, verdict, decisions)
        self._carry_out(event, decisions)
        at_once = verdict == {"grant"} or (isinstance(event, Release) and not decisions)
        if not at_once:  # the shell sets its alarm after each event, but not on the way of requests for ready models
            wake_s = self.core.wake_s(self.now_s)
            self.alarm_s = math.inf if wake_s is None else wake_s
        if isinstance(event, Tick):
            self._check_tick()
        if isinstance(event, LoadFailed):
            self._check_restored()
        self.check()
        return decisions

    def feed_late(self, event: Event) -> None:
        """A report of an earlier load, or an unknown ticket: nothing may come of it."""
        before = dump(self.core)
        decisions = self.core.apply(event, self.now_s)
        with self.evidence():
            assert decisions == [], f"a late report is acted upon: {event} → {decisions}"
            assert dump(self.core) == before, f"a late report changes the state: {event}"

    def pass_time(self, seconds: float) -> None:
        """Time as it passes for a shell that ticks when it said it would."""
        until_s = self.now_s + seconds
        while self.alarm_s <= until_s:
            self.now_s = max(self.now_s, self.alarm_s)
            self.feed(Tick())
        self.now_s = until_s

    def come_to_rest(self) -> None:
        """Whoever holds lets go, whatever was begun ends, time passes as far as the shell was told to wait for it."""
        for _ in range(40 + 10 * len(self.models) + len(self.pending)):
            if begun := [engine for engine in self.engines.values() if engine.phase is Phase.LOADING]:
                self.feed(Loaded(begun[0].target, begun[0].epoch))
            elif ending := [engine for engine in self.engines.values() if engine.phase is Phase.UNLOADING]:
                self.feed(Gone(ending[0].target, ending[0].epoch))
            elif self.held:
                self.feed(Release(next(iter(self.held))))
            elif self.alarm_s < math.inf:
                self.now_s = max(self.now_s, self.alarm_s)
                self.feed(Tick())
            else:
                break
        else:
            raise AssertionError("it does not come to rest")
        assert not self.pending, f"at the end, these wait for ever: {self.pending}"
        assert not (self.closing and self.engines), "at the end, engines are left"

    def done(self) -> set[int]:
        """Tickets that were answered or given up, and hold nothing."""
        return set(range(1, self.last_ticket + 1)) - self.pending.keys() - self.held.keys()

    def ask(self, target: str, patience_s: float, *, explicit: bool = False) -> list[Decision]:
        self.last_ticket += 1
        return self.feed(Acquire(self.last_ticket, target, self.now_s + patience_s, explicit))

    def ask_as_planned(self, target: str) -> None:
        """What `plan` says of one more request is what then happens, and saying it changes nothing."""
        self.feed(Tick())
        before = dump(self.core)
        plan = self.core.plan(target, self.now_s)
        assert dump(self.core) == before, "plan changed the state"
        if len(self.pending) >= self.queue_max:
            return
        ticket = self.last_ticket + 1
        decisions = self.ask(target, math.inf)
        match plan.outcome:
            case "ready":
                expected = [Grant]
            case "fits":
                expected = [StartLoad]
            case "refused":
                expected = [Reject]
                assert [d.refusal for d in decisions if isinstance(d, Reject)] == [plan.refusal], (plan, decisions)
            case "evicts":
                drained = [d.target for d in decisions if isinstance(d, Drain) and d.why is Why.EVICTED]
                assert drained == list(plan.victims), (plan, decisions)
                starts = any(
                    isinstance(d, StartLoad) for d in decisions
                )  # in what is free; the victims' room is for others
                expected = [Drain] * len(drained) + [StartLoad] * starts
            case _:
                expected = []
        # With less still staying, what is over some budget may have become little enough for idle ones to make up for.
        aside = [
            d for d in decisions if isinstance(d, StartUnload) or (isinstance(d, Drain) and d.why is Why.OVER_BUDGET)
        ]
        found = [type(d) for d in decisions if d not in aside]
        assert found == expected, f"ticket {ticket}: planned {plan}, got {decisions}"

    def _check_immediate(self, event: Event, verdict: set[str], decisions: list[Decision]) -> None:
        assert len(decisions) == 1, f"{event} must be answered by itself with {verdict}: {decisions}"
        answer = decisions[0]
        found = answer.refusal if isinstance(answer, Reject) else "grant" if isinstance(answer, Grant) else "?"
        assert found in verdict, f"{event} must be answered with {verdict}: {decisions}"
        if isinstance(answer, Reject) and answer.refusal is Refusal.COOLING_DOWN:
            assert answer.retry_after_s == self.models[answer.target].retry_at_s - self.now_s, answer

    # ------------------------------------------------------------ decisions

    def _carry_out(self, event: Event, decisions: Sequence[Decision]) -> None:
        self.met.update(_kind(decision) for decision in decisions)
        place = 0
        while place < len(decisions):
            match decisions[place]:
                case Grant() as grant:
                    self._granted(grant)
                case Reject() as reject:
                    self._rejected(event, reject)
                case StartLoad() as load:
                    self._load_started(event, load)
                case StartUnload() as unload:
                    self._unload_started(event, unload)
                case Drain() as drain:
                    group = self._group(drain, decisions[place:])
                    self._drained(event, group)
                    place += len(group) - 1
                case unknown:
                    raise AssertionError(f"no such decision: {unknown}")
            place += 1

    def _answer(self, ticket: int, target: str) -> Acquire:
        """A ticket is answered once, and only while somebody waits for the answer."""
        assert ticket not in self.answered, f"ticket {ticket} is answered twice"
        asked = self.pending.pop(ticket, None)
        assert asked is not None, f"ticket {ticket} is answered, but nobody waits for it"
        assert asked.target == target
        self.answered.add(ticket)
        return asked

    def _granted(self, grant: Grant) -> None:
        self._answer(grant.ticket, grant.target)
        engine = self.engines.get(grant.target)
        assert engine is not None, f"{grant}: there is no such engine"
        assert engine.epoch == grant.epoch
        assert engine.phase is Phase.READY, f"{grant}: it is {engine.phase}"
        engine.leases += 1
        engine.last_used_s = self.now_s
        self.held[grant.ticket] = engine

    def _rejected(self, event: Event, reject: Reject) -> None:
        asked = self.pending.get(reject.ticket)
        model = self.models[reject.target]
        match reject.refusal:
            case Refusal.WAIT_TIMED_OUT:
                right = asked is not None and asked.deadline_s <= self.now_s
            case Refusal.LARGER_THAN_BUDGET | Refusal.NO_ROOM_BESIDE_PINS:
                right = reject.refusal in self.never(reject.target)
                may_change = reject.refusal is Refusal.NO_ROOM_BESIDE_PINS and not self.all_evictable()
                assert (reject.retry_after_s is not None) == may_change, f"{reject}: whether repeating can help"
            case Refusal.COOLING_DOWN:
                probation = model.failures > 0 and not self.will_fit(reject.target)
                right = self.now_s < model.retry_at_s or probation
            case Refusal.LOAD_FAILED:
                right = isinstance(event, LoadFailed) and event.target == reject.target
            case Refusal.UNLOADED:
                right = isinstance(event, Unload) and event.target == reject.target
            case Refusal.SHUTTING_DOWN:
                right = self.closing
            case Refusal.QUEUE_FULL:
                right = isinstance(event, Acquire)  # the count was held against it in _check_immediate
        assert right, f"refused without reason: {reject} after {event}"
        self._answer(reject.ticket, reject.target)
        self.forget_victims()

    def _load_started(self, event: Event, load: StartLoad) -> None:
        model = self.models[load.target]
        assert load.target not in self.engines, f"{load}: a second process of one model"
        assert not self.closing, f"{load} while shutting down"
        assert load.epoch == model.epoch + 1, f"{load}: the last epoch was {model.epoch}"
        assert load.footprint == model.footprint
        for device, size in model.need.items():
            taken = self.committed(device)
            assert taken + size <= self.budget.get(device, 0), f"{load}: beyond the budget of {device}"
        if load.why is Why.REQUESTED:
            assert load.target in self.cold(), f"{load}: nobody waits for it"
            assert self.will_fit(load.target), f"{load}: overtakes into room that those before it need"
        else:
            assert load.why is Why.RESTORED, load
            assert isinstance(event, LoadFailed), f"{load}: restored after {event}"
            assert load.target in self.restorable, f"{load}: it did not leave for {event.target}"
            assert not self.pending, f"{load}: restored while somebody waits"
            assert model.failures == 0
            assert self.now_s >= model.retry_at_s, f"{load}: restored while it cools down"
        model.epoch = load.epoch
        self.engines[load.target] = Engine(load.target, load.epoch, load.footprint, load.source, self.now_s)

    def _unload_started(self, event: Event, unload: StartUnload) -> None:
        engine = self.engines.get(unload.target)
        assert engine is not None, f"{unload}: there is no such engine"
        assert engine.epoch == unload.epoch
        if engine.phase is Phase.LOADING:
            stopped = isinstance(event, Unload) and event.target == unload.target
            assert stopped or isinstance(event, Shutdown), f"{unload}: a load is stopped by {event}"
            assert self.models[unload.target].evictable or isinstance(event, Shutdown), f"{unload}: it cannot be"
        elif unload.why is Why.DIED:
            assert isinstance(event, Died), f"{unload}: nobody died"
            assert event.target == unload.target
            assert engine.phase is not Phase.UNLOADING
        else:
            assert engine.phase is Phase.DRAINING, f"{unload}: it is {engine.phase}"
            assert engine.leases == 0, f"{unload}: {engine.leases} leases are open"
        engine.phase = Phase.UNLOADING
        self.forget_victims()

    @staticmethod
    def _group(first: Drain, decisions: Sequence[Decision]) -> list[Drain]:
        """Those who leave together, for one reason."""
        group: list[Drain] = []
        for decision in decisions:
            if not isinstance(decision, Drain) or (decision.why, decision.for_target) != (first.why, first.for_target):
                break
            group.append(decision)
        return group

    def _drained(self, event: Event, group: list[Drain]) -> None:
        leaving: list[Engine] = []
        for drain in group:
            engine = self.engines.get(drain.target)
            assert engine is not None, f"{drain}: there is no such engine"
            assert engine.phase is Phase.READY, f"{drain}: it is {engine.phase}"
            assert (engine.epoch, engine.leases) == (drain.epoch, drain.leases)
            leaving.append(engine)
        assert len({engine.target for engine in leaving}) == len(leaving)
        why = group[0].why
        if why in (Why.EVICTED, Why.IDLE, Why.OVER_BUDGET):
            kept = [engine.target for engine in leaving if self.keeps_room(engine)]
            assert not kept, f"{kept} are pinned or cannot be unloaded, and leave: {why}"
        match why:
            case Why.EVICTED:
                check_victims(self, str(group[0].for_target), leaving)
            case Why.OVER_BUDGET:
                check_over_budget(self, leaving)
            case Why.IDLE:
                for engine in leaving:
                    idle_s = self.idle_limit_s(engine)
                    assert engine.leases == 0
                    assert idle_s is not None
                    assert engine.last_used_s + idle_s <= self.now_s, f"{engine.target} leaves before it was idle"
            case Why.ADMIN:
                assert isinstance(event, Unload)
                assert [event.target] == [engine.target for engine in leaving]
                assert self.models[event.target].evictable, f"{event}: it cannot be"
            case _:
                assert why is Why.SHUTDOWN
                assert isinstance(event, Shutdown)
        for engine in leaving:
            engine.phase = Phase.DRAINING

    # ------------------------------------------------------------ liveness

    def check(self) -> None:
        """What holds between events."""
        self._check_queue()
        self._check_alarm()
        for target, engine in self.engines.items():
            assert engine.phase is not Phase.DRAINING or engine.leases, f"{target} drains, is free, and is not stopped"
        if over := self.over_budget():
            self._check_shrunk(over)
        self._check_views()

    def _check_shrunk(self, over: Mapping[str, int]) -> None:
        """Idle ones that could make up for it have left; for those found a moment ago, a tick is due when they may."""
        idle = [
            engine
            for engine in self.engines.values()
            if engine.phase is Phase.READY and not engine.leases and not self.keeps_room(engine)
        ]
        for device, size in over.items():
            ours = [engine for engine in idle if not engine.found]
            assert not self.covers(ours, {device: size}), f"{device}: {size} over budget, and idle ones stay"
            found = sorted((e for e in idle if e.found), key=self.protected_until_s)
            for count, last in enumerate(found, 1):
                if self.covers([*ours, *found[:count]], {device: size}):
                    due_s = self.protected_until_s(last)
                    assert self.alarm_s <= max(due_s, self.now_s), f"{device}: {size} over budget, and no tick is due"
                    break

    def _check_queue(self) -> None:
        """L1 and the promise to those behind the head: nobody waits for nothing."""
        for target in dict.fromkeys(asked.target for asked in self.pending.values()):
            engine = self.engines.get(target)
            assert engine is None or engine.phase is not Phase.READY, f"{target} is ready, and somebody waits for it"
        assert not (self.closing and self.pending), "somebody waits while the gateway shuts down"
        for place, target in enumerate(self.cold()[:LOOKAHEAD]):
            assert not self.never(target), f"{target} waits, and can never fit"
            short = self.short(target)
            if not short:
                there = all(self.committed(d) + size <= self.budget[d] for d, size in self.models[target].need.items())
                assert target in self.engines or not there, f"{target} has room, and is not started"
                if place == 0:
                    assert any(not e.stays for e in self.engines.values()), (
                        f"nothing is on its way for the head {target}"
                    )
            else:
                assert self.models[target].failures == 0, f"{target} is on probation, has no room, and waits"
                if place == 0:
                    self._check_protection(target, short)

    def _check_protection(self, target: str, short: Mapping[str, int]) -> None:
        """The head has no victims: only because of loads under way, or of protections that the shell will see end."""
        if self.covers(self.evictable(), short):
            assert self.alarm_s <= self.now_s, (
                f"there are victims for the head {target}, nobody is drained, no tick is due"
            )
            return
        waited_for = [
            engine
            for engine in self.engines.values()
            if engine.stays and not self.keeps_room(engine) and engine not in self.evictable()
        ]
        helping = [e for e in waited_for if any(e.footprint.get(device, 0) > 0 for device in short)]
        assert helping, f"nothing is on its way for the head {target}"
        ends_s = [self.protected_until_s(engine) for engine in helping if engine.phase is Phase.READY]
        assert self.alarm_s <= min(ends_s, default=math.inf), (
            f"the head {target} waits for a protection, and no tick is due"
        )

    def _check_alarm(self) -> None:
        """Whatever time alone must bring about, the shell has been told."""
        for ticket, asked in self.pending.items():
            assert self.alarm_s <= asked.deadline_s, f"no tick is due at the deadline of ticket {ticket}"
        for engine in self.engines.values():
            idle_s = self.idle_limit_s(engine)
            if engine.phase is Phase.READY and engine.leases == 0 and idle_s is not None:
                limit_s = engine.last_used_s + max(idle_s, BUSY_LOOK_S)
                assert self.alarm_s <= limit_s, f"no tick is due when {engine.target} has been idle"

    def _check_tick(self) -> None:
        assert self.alarm_s > self.now_s, f"a tick at {self.now_s} leaves another due at {self.alarm_s}: a busy loop"
        late = [ticket for ticket, asked in self.pending.items() if asked.deadline_s <= self.now_s]
        assert not late, f"tickets {late} wait beyond their deadline"
        for engine in self.engines.values():
            idle_s = self.idle_limit_s(engine)
            if engine.phase is Phase.READY and not engine.leases:
                assert idle_s is None or engine.last_used_s + idle_s > self.now_s, f"{engine.target} is idle, and stays"

    def _check_restored(self) -> None:
        """Who left for a load that failed is back, unless somebody waits, or its room is gone, or it is broken itself."""
        for target in sorted(self.restorable - self.engines.keys()):
            model = self.models[target]
            room = all(self.committed(d) + size <= self.budget.get(d, 0) for d, size in model.need.items())
            sound = model.failures == 0 and model.retry_at_s <= self.now_s
            assert self.pending or self.closing or not (room and sound), (
                f"{target} left for nothing, and is not brought back"
            )

    def _check_views(self) -> None:
        """What the core shows is what there is: phases, leases, bytes, places."""
        shown = [_as_shown(view) for view in self.core.residents(self.now_s)]
        there = [self._as_it_is(engine) for engine in self.engines.values()]
        assert shown == there, "the core's residents are not the engines that exist"
        assert self.core.held() == list(self.held), "the core's leases are not those that are held"
        places = {t: n for n, t in enumerate(dict.fromkeys(asked.target for asked in self.pending.values()), 1)}
        queue = [(view.ticket, view.target, view.position) for view in self.core.waiting(self.now_s)]
        assert queue == [(t, asked.target, places[asked.target]) for t, asked in self.pending.items()], "the queue"
        committed = self.core.committed_bytes()
        for device in {*self.budget, *(device for engine in self.engines.values() for device in engine.footprint)}:
            assert committed.get(device, 0) == self.committed(device), f"committed bytes of {device}"

    def _as_it_is(self, engine: Engine) -> tuple[object, ...]:
        pinned = self.models[engine.target].pinned
        found = engine.found and engine.phase is Phase.READY
        idle_s = 0.0 if engine.leases else self.now_s - engine.last_used_s
        who = (engine.target, engine.epoch, engine.phase, engine.leases, pinned, found)
        return (*who, engine.footprint, engine.source, idle_s)


def _as_shown(view: ResidentView) -> tuple[object, ...]:
    who = (view.target, view.epoch, view.phase, view.leases, view.pinned, view.why is Why.FOUND)
    return (*who, view.footprint, view.footprint_source, view.idle_s)


def _kind(decision: Decision) -> tuple[type[Decision], str]:
    match decision:
        case StartLoad() | StartUnload() | Drain():
            return type(decision), decision.why
        case Reject():
            return Reject, decision.refusal
        case _:
            return type(decision), ""
