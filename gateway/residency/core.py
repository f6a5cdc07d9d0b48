"""Which models are in memory, and who may use them: events in, decisions out. Pure; the only owner of residency state.

    cold ──StartLoad──▶ LOADING ──Loaded──▶ READY ──evict/idle/unload──▶ DRAINING ──no leases──▶ UNLOADING ──Gone──▶ cold

The law
1. It never asks in order to decide; what it must know arrives as an event, time included.
2. Bytes are committed at the decision to load and freed at the report of being gone, per device.
3. A victim set provably makes room, or nobody is evicted. Pins never leave; leases end by themselves; DRAINING is one-way.
4. The queue is served in order of arrival. The head gets its room: victims are drained even while busy, and nobody takes that
   room before it. Others may start in room that the ones before them do not need. Requests for READY models pass at once.
5. The bound: the head waits at most for the protection of its victims (`min_residency_s`), their longest lease, one stop and its
   own load; place k waits at most k times that; every ticket ends at its deadline.
6. A report of an earlier load (epoch) changes nothing. One `Release` serves waiting, held and unknown tickets.
7. A model whose load failed cools down, and then takes only room that is free: nobody is evicted for it until it has loaded
   once, or an admin asks for it (`Acquire.explicit`).
8. What lives in somebody else's server is as that server says: `Seen` adopts what others loaded and sets its size, be it over
   budget; `Vanished` ends it at once. What was found is left to its server's own idle time; what cannot be unloaded is no victim.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left
from collections.abc import Iterable

from .events import (
    Acquire,
    Budget,
    Decision,
    Describe,
    Died,
    Drain,
    Event,
    Footprint,
    Gone,
    Grant,
    Loaded,
    LoadFailed,
    Measured,
    Mended,
    Phase,
    Pin,
    Refusal,
    Reject,
    Release,
    Seen,
    Shutdown,
    StartLoad,
    StartUnload,
    Tick,
    Unload,
    Vanished,
    Why,
)
from .planning import Finding, at_the_door, survey
from .policy import choose_victims, lru_order
from .room import Room, covers, larger, room_text, total
from .state import Known, Resident, State, Ticket
from .views import Views

_READY, _DRAINING = Phase.READY, Phase.DRAINING  # an enumeration looks its own names up slowly
RETRY_AFTER_S = 5.0  # told to clients whose wait was cut short by a limit of ours: when it is worth coming back
# Where the size of a model in a server is from: that server's own word.
REPORTED = "reported"
# An engine that has been up for so long was sound: its death begins a new count.
STEADY_S = 60.0


class Residency(Views):
    """`apply(event, now_s)` changes the state and returns what must be done, in that order.

    Args:
        budget_bytes: device → bytes we may commit.
        queue_max: how many tickets may wait.
        min_residency_s: how long a ready model is safe from eviction; None: as long as its own load took, at most 30 s.
    """

    def __init__(self, budget_bytes: Footprint, *, queue_max: int, min_residency_s: float | None) -> None:
        super().__init__(State(budget_bytes, min_residency_s))
        self._queue_max = queue_max
        self._deadlines: list[tuple[float, int]] = []  # heap; entries of tickets that left are dropped when met
        self._order = 0
        # More is committed than the budget holds, and only those could make up for it who are busy, just found, or kept.
        self._tight = False
        self._settled_s = -math.inf  # when all that follows was last worked out

    # ------------------------------------------------------------ events

    def apply(self, event: Event, now_s: float) -> list[Decision]:
        """One fact in, all that follows from it out. Asserts only what our own code must hold."""
        out: list[Decision] = []
        match event:
            case Acquire():
                self._acquire(event, now_s, out)
            case Release():
                self.release(event.ticket, now_s, out)
            case Loaded():
                self._loaded(event, now_s, out)
            case LoadFailed():
                self._load_failed(event, now_s, out)
            case Died():
                self._died(event, now_s, out)
            case Gone():
                self._gone(event, now_s, out)
            case Describe():
                self._describe(event, now_s, out)
            case Measured():
                self._measured(event, now_s, out)
            case Seen():
                self._seen(event, now_s, out)
            case Vanished():
                self._vanished(event, now_s, out)
            case Budget():
                self._state.budget = dict(event.budget_bytes)
                self._settle(now_s, out)
            case Pin():
                known = self._state.known[event.target]
                known.keep(pinned=event.pinned, evictable=known.evictable)
                self._settle(now_s, out)
            case Mended():
                self._state.known[event.target].forgive()  # who waits already would have been refused otherwise
            case Unload():
                self._unload(event.target, now_s, out)
            case Tick():
                self._settle(now_s, out)
            case Shutdown():
                self._shutdown(now_s, out)
            case _:
                raise AssertionError(f"no such event: {event!r}")
        return out

    def _describe(self, event: Describe, now_s: float, out: list[Decision]) -> None:
        known = self._state.known.get(event.target)
        if known is None:
            self._state.known[event.target] = Known(event)
        else:
            known.footprint, known.source, known.idle_s = event.footprint, event.source, event.idle_s
            kept = known.keeps_room
            known.keep(pinned=known.pinned, evictable=event.evictable)
            if event.target in self._state.waiting or kept is not known.keeps_room:
                self._settle(now_s, out)

    def _acquire(self, event: Acquire, now_s: float, out: list[Decision]) -> None:
        """Four cases: 1 ready: granted at once, 2 no use in waiting, 3 too many wait already, 4 it waits."""
        resident = self._state.residents.get(event.target)
        if resident is not None and resident.phase is Phase.READY:  # 1
            self._grant(event.ticket, resident, now_s, out)
            return
        if event.explicit:
            self._state.known[event.target].forgive()
        refusal, detail = None, ""
        if resident is None or resident.leaving:
            refusal, detail = at_the_door(self._state, event.target, now_s)  # 2
        if refusal is None and len(self._state.tickets) >= self._queue_max:  # 3
            refusal = Refusal.QUEUE_FULL
            detail = f"{len(self._state.tickets)} requests are waiting already (queue_max)"
        if refusal is not None:
            retry_after_s = self._retry_after_s(event.target, refusal, now_s)
            out.append(Reject(event.ticket, event.target, refusal, detail, retry_after_s))
            return
        first = event.target not in self._state.waiting  # 4
        self._order += 1
        ticket = Ticket(event, self._order, now_s)
        self._state.tickets[event.ticket] = ticket
        self._state.waiting.setdefault(event.target, {})[event.ticket] = ticket
        if event.deadline_s < math.inf:
            heapq.heappush(self._deadlines, (event.deadline_s, event.ticket))
        if first or event.explicit or event.deadline_s <= now_s:  # else nothing follows from one more of them
            self._settle(now_s, out)

    def grant_ready(self, ticket: int, target: str, now_s: float) -> bool:
        """As an Acquire of a READY target, which nearly every request is; without making an event. False: it is not READY."""
        resident = self._state.residents.get(target)
        if resident is None or resident.phase is not _READY:
            return False
        resident.leases += 1
        resident.last_used_s = now_s
        self._state.leases[ticket] = resident
        return True

    def release(self, ticket: int, now_s: float, out: list[Decision]) -> None:
        """As a Release. Three cases: 1 it held a lease, 2 it waited, 3 nobody knows it (any more)."""
        resident = self._state.leases.pop(ticket, None)
        if resident is not None:
            resident.leases -= 1
            resident.last_used_s = now_s
            matters = self._tight or self._state.waiting or resident.phase is _DRAINING
            if matters and not resident.leases:
                self._settle(now_s, out)
        elif ticket in self._state.tickets:
            self._drop(self._state.tickets[ticket])
            self._settle(now_s, out)

    def _loaded(self, event: Loaded, now_s: float, out: list[Decision]) -> None:
        resident = self._current(event.target, event.epoch, Phase.LOADING)
        if resident is not None:
            self._ready(resident, now_s, out)

    def _ready(self, resident: Resident, now_s: float, out: list[Decision]) -> None:
        resident.phase = Phase.READY
        resident.ready_s = resident.last_used_s = now_s
        known = self._state.known[resident.target]
        known.failures, known.retry_at_s, known.reason, known.victims = 0, 0.0, "", ()
        for ticket in self._dismiss(resident.target):
            self._grant(ticket.ticket, resident, now_s, out)
        self._settle(now_s, out)

    def _load_failed(self, event: LoadFailed, now_s: float, out: list[Decision]) -> None:
        resident = self._current(event.target, event.epoch, Phase.LOADING)
        if resident is None:
            return
        self._state.gone(resident)
        known = self._state.known[event.target]
        known.failures += 1
        known.cool_down(now_s, known.failures, event.reason)
        victims, known.victims = known.victims, ()
        self._reject_all(event.target, Refusal.LOAD_FAILED, event.reason, known.retry_at_s - now_s, out)
        self._settle(now_s, out)
        self._restore(victims, now_s, out)

    def _died(self, event: Died, now_s: float, out: list[Decision]) -> None:
        """Its leases are void; what is left of it is swept up like any unload, and its bytes stay committed until Gone.

        A first death is forgiven (the next request loads it again); deaths in a row, each soon after its load, cool down.
        """
        resident = self._current(event.target, event.epoch, Phase.READY, Phase.DRAINING)
        if resident is None:
            return
        self._void_leases(resident)
        known = self._state.known[event.target]
        assert resident.ready_s is not None
        known.deaths = 1 if now_s - resident.ready_s >= STEADY_S else known.deaths + 1
        if known.deaths > 1:
            known.cool_down(now_s, known.deaths - 1, event.reason)
            self._reject_all(event.target, Refusal.COOLING_DOWN, event.reason, known.retry_at_s - now_s, out)
        self._start_unload(resident, Why.DIED, out)
        self._settle(now_s, out)

    def _void_leases(self, resident: Resident) -> None:
        for ticket in [t for t, held in self._state.leases.items() if held is resident]:
            del self._state.leases[ticket]
        resident.leases = 0

    def _gone(self, event: Gone, now_s: float, out: list[Decision]) -> None:
        resident = self._current(event.target, event.epoch, Phase.UNLOADING)
        if resident is not None:
            self._state.gone(resident)
            self._settle(now_s, out)

    def _measured(self, event: Measured, now_s: float, out: list[Decision]) -> None:
        """A sample only ever raises what is committed: a fresh engine has not touched all of its memory yet."""
        resident = self._state.residents.get(event.target)
        if resident is None or resident.epoch != event.epoch or resident.phase is Phase.UNLOADING:
            return
        raised = larger(resident.footprint, event.footprint)
        if raised != resident.footprint:
            self._state.resize(resident, raised)
            self._settle(now_s, out)

    def _seen(self, event: Seen, now_s: float, out: list[Decision]) -> None:
        """Three cases: 1 cold, so somebody else has loaded it: it is taken over as it is, those who wait for it have it;
        2 its server's word on a resident, exact; 3 it is on its way in or out, or we are: that is said by other reports.
        """
        known = self._state.known.get(event.target)
        if known is None or known.epoch != event.epoch or self._state.closing:  # 3
            return
        resident = self._state.residents.get(event.target)
        if resident is None:  # 1
            known.epoch += 1
            resident = Resident(event.target, known.epoch, event.footprint, REPORTED, Why.FOUND, now_s)
            self._state.enter(resident)
            self._ready(resident, now_s, out)
        elif resident.phase is Phase.READY or resident.phase is Phase.DRAINING:  # 2
            if event.used:
                resident.last_used_s = now_s
            resident.source = REPORTED
            if event.footprint != resident.footprint:
                self._state.resize(resident, event.footprint)
                self._settle(now_s, out)

    def _vanished(self, event: Vanished, now_s: float, out: list[Decision]) -> None:
        """Somebody else has unloaded it: its bytes are back, its leases void. No failure; and it is not restored either."""
        resident = self._current(event.target, event.epoch, Phase.READY, Phase.DRAINING)
        if resident is not None:
            self._void_leases(resident)
            self._state.give_up_restoring(event.target)
            self._state.gone(resident)
            self._settle(now_s, out)

    def _unload(self, target: str, now_s: float, out: list[Decision]) -> None:
        """Two cases: 1 ready: drained; 2 loading: the load is stopped, those who wait are told. It is not restored either."""
        self._state.give_up_restoring(target)
        resident = self._state.residents.get(target)
        if resident is None or not self._state.known[target].evictable:
            return
        if resident.phase is Phase.READY:
            self._drain(resident, Why.ADMIN, "asked for by an admin", now_s, out)
        elif resident.phase is Phase.LOADING:
            self._state.known[target].victims = ()
            self._reject_all(target, Refusal.UNLOADED, "an admin stopped the load", None, out)
            self._start_unload(resident, Why.ADMIN, out)
        self._settle(now_s, out)

    def _shutdown(self, now_s: float, out: list[Decision]) -> None:
        self._state.closing = True
        for target in list(self._state.waiting):
            self._reject_all(target, Refusal.SHUTTING_DOWN, "the gateway is shutting down", RETRY_AFTER_S, out)
        for resident in list(self._state.residents.values()):
            if resident.phase is Phase.READY:
                self._drain(resident, Why.SHUTDOWN, "the gateway is shutting down", now_s, out)
            elif resident.phase is Phase.LOADING:
                self._start_unload(resident, Why.SHUTDOWN, out)
        self._settle(now_s, out)

    # ------------------------------------------------------------ what follows

    def _settle(self, now_s: float, out: list[Decision]) -> None:
        """The one place that works out all that follows from a changed fact: asked again at once, it finds nothing more."""
        self._settled_s = now_s
        self._expire(now_s, out)
        self._drain_idle(now_s, out)
        shrunk = True
        while shrunk:  # who leaves because the budget fell may be what somebody in the queue was short of
            room = self._state.room()
            if self._state.waiting:
                self._serve_queue(room, now_s, out)
            shrunk = self._shrink(room, now_s, out)
        for resident in self._state.residents.values():
            if resident.phase is Phase.DRAINING and resident.leases == 0:
                self._start_unload(resident, resident.why, out)

    def _expire(self, now_s: float, out: list[Decision]) -> None:
        while self._deadlines and self._deadlines[0][0] <= now_s:
            ticket = self._state.tickets.get(heapq.heappop(self._deadlines)[1])
            if ticket is not None and ticket.deadline_s <= now_s:
                self._drop(ticket)
                detail = f"waited {now_s - ticket.since_s:.1f} s for a place in memory"
                out.append(Reject(ticket.ticket, ticket.target, Refusal.WAIT_TIMED_OUT, detail, RETRY_AFTER_S))

    def _drain_idle(self, now_s: float, out: list[Decision]) -> None:
        for resident in self._state.residents.values():
            if resident.leases:
                continue
            expiry_s = self._state.idle_expiry_s(resident)
            if expiry_s is not None and expiry_s <= now_s:
                self._drain(resident, Why.IDLE, f"idle {now_s - resident.last_used_s:.0f} s", now_s, out)

    def _serve_queue(self, room: Room, now_s: float, out: list[Decision]) -> None:
        """Carries out what the survey finds; `room` is then what will be left."""
        for found in survey(self._state, room, self._state.cold(), now_s):
            if found.refusal is not None:
                retry_after_s = self._retry_after_s(found.target, found.refusal, now_s)
                self._reject_all(found.target, found.refusal, found.detail, retry_after_s, out)
            if found.victims:
                self._evict(found, now_s, out)
            if found.starts:
                self._start_load(found.target, Why.REQUESTED, now_s, out)

    def _evict(self, found: Finding, now_s: float, out: list[Decision]) -> None:
        known = self._state.known[found.target]
        known.victims = tuple(dict.fromkeys((*known.victims, *found.victims)))
        for victim in found.victims:
            resident = self._state.residents[victim]
            detail = f"{found.detail}, {victim} idle {resident.idle_for_s(now_s):.0f} s"
            self._drain(resident, Why.EVICTED, detail, now_s, out, found.target)

    def _retry_after_s(self, target: str, refusal: Refusal, now_s: float) -> float | None:
        """None where repeating cannot help."""
        if refusal is Refusal.LARGER_THAN_BUDGET:
            return None
        if refusal is Refusal.NO_ROOM_BESIDE_PINS:  # pins stay, but a server may let go what we cannot unload
            return RETRY_AFTER_S if self._state.holds_unevictable() else None
        cool_down_s = self._state.known[target].retry_at_s - now_s
        return cool_down_s if refusal is Refusal.COOLING_DOWN and cool_down_s > 0 else RETRY_AFTER_S

    def _restore(self, victims: tuple[str, ...], now_s: float, out: list[Decision]) -> None:
        """Brings back who left for a load that failed, where their room is still free and nobody waits for it."""
        for target in reversed(victims):
            known = self._state.known[target]
            broken = known.failures > 0 or now_s < known.retry_at_s
            wanted = not (self._state.waiting or self._state.closing or target in self._state.residents)
            if wanted and not broken and self._state.room().fits_now(known.footprint):
                self._start_load(target, Why.RESTORED, now_s, out)

    def _shrink(self, room: Room, now_s: float, out: list[Decision]) -> bool:
        """Where more is committed than the budget holds (it fell, a model grew or was found), idle residents make up for it.

        A device that they cannot bring back within its budget does not keep them from doing so for another.
        """
        over = room.over_budget()
        self._tight = bool(over)
        if not over:
            return False
        idle = lru_order(self._state.candidates(now_s, idle=True, shrinking=True))
        held = total(candidate.footprint for candidate in idle)
        short = {device: size for device, size in over.items() if covers(held, {device: size})}
        victims = choose_victims(idle, short) or ()
        for victim in victims:
            resident = self._state.residents[victim.target]
            self._drain(resident, Why.OVER_BUDGET, f"{room_text(short)} over budget", now_s, out)
        return bool(victims)

    # ------------------------------------------------------------ single steps

    def _grant(self, ticket: int, resident: Resident, now_s: float, out: list[Decision]) -> None:
        resident.leases += 1
        resident.last_used_s = now_s
        self._state.leases[ticket] = resident
        out.append(Grant(ticket, resident.target, resident.epoch))

    def _start_load(self, target: str, why: Why, now_s: float, out: list[Decision]) -> None:
        known = self._state.known[target]
        known.epoch += 1
        self._state.enter(Resident(target, known.epoch, known.footprint, known.source, why, now_s))
        out.append(StartLoad(target, known.epoch, known.footprint, known.source, why))

    def _drain(
        self,
        resident: Resident,
        why: Why,
        detail: str,
        now_s: float,
        out: list[Decision],
        for_target: str | None = None,
    ) -> None:
        self._state.leave(resident, Phase.DRAINING, why)
        idle_s = resident.idle_for_s(now_s)
        out.append(Drain(resident.target, resident.epoch, why, detail, resident.leases, idle_s, for_target))

    def _start_unload(self, resident: Resident, why: Why, out: list[Decision]) -> None:
        self._state.leave(resident, Phase.UNLOADING, why)
        out.append(StartUnload(resident.target, resident.epoch, why))

    def _drop(self, ticket: Ticket) -> None:
        """Out of the queue. When the first of a model leaves, the model's place becomes that of its next ticket."""
        tickets = self._state.waiting[ticket.target]
        if len(tickets) == 1:
            self._dismiss(ticket.target)
            return
        first = next(iter(tickets))
        del tickets[ticket.ticket], self._state.tickets[ticket.ticket]
        if first == ticket.ticket:
            del self._state.waiting[ticket.target]
            others = list(self._state.waiting.items())
            place = bisect_left(others, _arrived(tickets), key=lambda item: _arrived(item[1]))
            self._state.waiting = dict([*others[:place], (ticket.target, tickets), *others[place:]])

    def _dismiss(self, target: str) -> Iterable[Ticket]:
        """All who wait for it, out of the queue. Unless its load is under way, nobody is brought back for it any more."""
        tickets = self._state.waiting.pop(target, {})
        for ticket in tickets:
            del self._state.tickets[ticket]
        if target not in self._state.residents or self._state.residents[target].leaving:
            self._state.known[target].victims = ()
        return tickets.values()

    def _reject_all(
        self, target: str, refusal: Refusal, detail: str, retry_after_s: float | None, out: list[Decision]
    ) -> None:
        for ticket in self._dismiss(target):
            out.append(Reject(ticket.ticket, target, refusal, detail, retry_after_s))

    # ------------------------------------------------------------ reading

    def _current(self, target: str, epoch: int, *phases: Phase) -> Resident | None:
        """The resident this report is about, unless it is late."""
        resident = self._state.residents.get(target)
        return resident if resident is not None and resident.epoch == epoch and resident.phase in phases else None

    def wake_s(self, now_s: float) -> float | None:
        """The clock reading at which a Tick is due, None when nothing waits for time to pass.

        A busy resident counts as if its lease ended now, so that whoever ticks need not ask again at each release.
        """
        due: list[float] = []
        waiting = bool(self._state.waiting)
        while self._deadlines and self._deadlines[0][1] not in self._state.tickets:
            heapq.heappop(self._deadlines)
        if self._deadlines:
            due.append(self._deadlines[0][0])
        for resident in self._state.residents.values():
            if resident.phase is not Phase.READY:
                continue
            expiry_s = self._state.idle_expiry_s(resident)
            if expiry_s is not None:
                due.append(self._busy_expiry_s(resident, now_s) if resident.leases else expiry_s)
            if waiting or (self._tight and resident.why is Why.FOUND):
                protected_until_s = self._state.protected_until_s(resident)
                if protected_until_s > self._settled_s:  # still so if it has ended since: that has not been acted upon
                    due.append(protected_until_s)
        return min(due, default=None)

    def _busy_expiry_s(self, resident: Resident, now_s: float) -> float:
        """When to look again at a busy one: no sooner than it could have been idle long enough, and not in a tight loop."""
        return now_s + max(self._state.known[resident.target].idle_s or 0.0, 1.0)


def _arrived(tickets: dict[int, Ticket]) -> int:
    return next(iter(tickets.values())).order
