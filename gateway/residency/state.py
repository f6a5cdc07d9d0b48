"""What the residency core remembers. Only `core.py` changes it; `planning.py` and the views read it. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from .events import Acquire, Describe, Footprint, Phase, Why
from .policy import Candidate
from .room import Room, total

# The first cool-down after a failed load, doubled with each further failure: long enough that a retrying SDK meets it,
# short enough for somebody who mends a path; the ceiling keeps an unattended gateway trying a few times an hour.
COOL_DOWN_FIRST_S = 5.0
COOL_DOWN_MAX_S = 300.0
# With min_residency_s left to us, a model stays at least as long as its own load took, so that at most half of the time goes
# into loading; never longer than this.
PROTECTION_MAX_S = 30.0


class Known:
    """What is remembered of a target, in memory or not."""

    __slots__ = (
        "deaths",
        "epoch",
        "evictable",
        "failures",
        "footprint",
        "idle_s",
        "keeps_room",
        "pinned",
        "reason",
        "retry_at_s",
        "source",
        "victims",
    )

    def __init__(self, event: Describe) -> None:
        self.footprint: Footprint = event.footprint
        self.source = event.source
        self.idle_s = event.idle_s
        self.keep(pinned=event.pinned, evictable=event.evictable)
        self.epoch = 0
        self.failures = 0  # failed loads in a row; above 0 it is on probation
        self.deaths = 0  # deaths in a row, each soon after its load
        self.retry_at_s = 0.0
        self.reason = ""
        self.victims: tuple[str, ...] = ()  # who left for the load that is waited for or under way

    def keep(self, *, pinned: bool, evictable: bool) -> None:
        """Whether, once in memory, it is asked to leave for somebody else."""
        self.pinned, self.evictable = pinned, evictable
        self.keeps_room = pinned or not evictable  # kept, not worked out each time: it is asked for at every step

    def forgive(self) -> None:
        self.failures = self.deaths = 0
        self.retry_at_s = 0.0
        self.reason = ""

    def cool_down(self, now_s: float, times: int, reason: str) -> None:
        self.retry_at_s = now_s + min(COOL_DOWN_FIRST_S * 2 ** min(times - 1, 10), COOL_DOWN_MAX_S)
        self.reason = reason


class Resident:
    """One target in memory, on its way in, or on its way out."""

    __slots__ = (
        "epoch",
        "footprint",
        "last_used_s",
        "leases",
        "phase",
        "ready_s",
        "since_s",
        "source",
        "target",
        "why",
    )

    def __init__(self, target: str, epoch: int, footprint: Footprint, source: str, why: Why, now_s: float) -> None:
        self.target = target
        self.epoch = epoch
        self.footprint = footprint
        self.source = source
        self.why = why
        self.phase = Phase.LOADING
        self.leases = 0
        self.since_s = now_s
        self.ready_s: float | None = None
        self.last_used_s = now_s

    @property
    def leaving(self) -> bool:
        return self.phase is Phase.DRAINING or self.phase is Phase.UNLOADING

    def idle_for_s(self, now_s: float) -> float:
        return 0.0 if self.leases else now_s - self.last_used_s


class Ticket:
    """One request's place in the queue."""

    __slots__ = ("deadline_s", "order", "since_s", "target", "ticket")

    def __init__(self, event: Acquire, order: int, now_s: float) -> None:
        self.ticket = event.ticket
        self.target = event.target
        self.deadline_s = event.deadline_s
        self.order = order
        self.since_s = now_s


class State:
    """Every fact, once; what residents hold is also kept as a sum, so these four write it: `enter`, `leave`, `gone`, `resize`."""

    def __init__(self, budget_bytes: Footprint, min_residency_s: float | None) -> None:
        self.budget: Footprint = dict(budget_bytes)
        self.min_residency_s = min_residency_s
        self.known: dict[str, Known] = {}
        self.residents: dict[str, Resident] = {}
        self.waiting: dict[str, dict[int, Ticket]] = {}  # target → its tickets; both in order of arrival
        self.tickets: dict[int, Ticket] = {}  # all that wait
        self.leases: dict[int, Resident] = {}  # all that hold
        self.closing = False
        self._committed: dict[str, int] = {}  # device → bytes of all residents
        self._leaving: dict[str, int] = {}  # of those that are on their way out

    def enter(self, resident: Resident) -> None:
        """From the decision to load on, its bytes are committed."""
        self.residents[resident.target] = resident
        _add(self._committed, resident.footprint)

    def leave(self, resident: Resident, phase: Phase, why: Why) -> None:
        """It is on its way out, or one step further; its bytes stay committed."""
        if not resident.leaving:
            _add(self._leaving, resident.footprint)
        resident.phase, resident.why = phase, why

    def gone(self, resident: Resident) -> None:
        """It is no more, and its bytes are free."""
        del self.residents[resident.target]
        _subtract(self._committed, resident.footprint)
        if resident.leaving:
            _subtract(self._leaving, resident.footprint)

    def resize(self, resident: Resident, footprint: Footprint) -> None:
        """It holds this now."""
        for held in (self._committed, self._leaving) if resident.leaving else (self._committed,):
            _subtract(held, resident.footprint)
            _add(held, footprint)
        resident.footprint = footprint

    def room(self) -> Room:
        return Room(self.budget, self._committed, self._leaving)

    def committed_bytes(self) -> dict[str, int]:
        """Device → bytes, from the decision to load until the report of being gone; every device of the budget is named."""
        return {**dict.fromkeys(self.budget, 0), **self._committed}

    def kept_bytes(self) -> dict[str, int]:
        """Device → bytes of those who are not asked to leave for anybody."""
        return total(r.footprint for r in self.residents.values() if self.known[r.target].keeps_room and not r.leaving)

    def holds_unevictable(self) -> bool:
        """Whether somebody is in memory whose server cannot be told to unload."""
        return any(not self.known[target].evictable for target in self.residents)

    def cold(self) -> Iterator[str]:
        """The queue of models, first come first, without those whose load is under way. The first is the head."""
        for target in self.waiting:
            resident = self.residents.get(target)
            if resident is None or resident.phase is not Phase.LOADING:
                yield target

    def give_up_restoring(self, target: str) -> None:
        """Whatever it left for: should that fail to load, this one is not wanted back."""
        for known in self.known.values():
            if target in known.victims:
                known.victims = tuple(victim for victim in known.victims if victim != target)

    def protected_until_s(self, resident: Resident) -> float:
        """When a ready model's minimum residency ends. What was found has cost somebody a load, nobody knows how long a one."""
        assert resident.ready_s is not None
        if self.min_residency_s is not None:
            return resident.ready_s + self.min_residency_s
        if resident.why is Why.FOUND:
            return resident.ready_s + PROTECTION_MAX_S
        return resident.ready_s + min(resident.ready_s - resident.since_s, PROTECTION_MAX_S)

    def candidates(self, now_s: float, *, idle: bool = False, shrinking: bool = False) -> Iterator[Candidate]:
        """Who may be evicted: nobody within its minimum residency; with `idle`, nobody who is in use.

        With `shrinking`, only what was found is protected: somebody may be using it whose requests we do not see.
        """
        known = self.known
        for resident in self.residents.values():
            if resident.phase is not Phase.READY or (idle and resident.leases) or known[resident.target].keeps_room:
                continue
            protected = not shrinking or resident.why is Why.FOUND
            if not protected or self.protected_until_s(resident) <= now_s:
                yield Candidate(resident.target, resident.footprint, resident.leases, resident.last_used_s)

    def idle_expiry_s(self, resident: Resident) -> float | None:
        """When it is to be unloaded for idleness, were its last lease over; None: never, or not by us."""
        known = self.known[resident.target]
        if resident.phase is not Phase.READY or known.keeps_room or known.idle_s is None or resident.why is Why.FOUND:
            return None
        return resident.last_used_s + known.idle_s


def _add(held: dict[str, int], footprint: Footprint) -> None:
    for device, size in footprint.items():
        held[device] = held.get(device, 0) + size


def _subtract(held: dict[str, int], footprint: Footprint) -> None:
    for device, size in footprint.items():
        held[device] -= size
