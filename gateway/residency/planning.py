"""What can be done for those who wait: read from the state, decided by arithmetic, changing nothing. Pure.

The same survey serves the queue (`core.py` carries it out) and the dry run (`plan`), so that a plan shown is the plan taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice

import msgspec

from .events import Footprint, Phase, Plan, Refusal
from .policy import Candidate, choose_victims, lru_order
from .room import Room, covers, room_text, size_text, total
from .state import State

# How many waiting models are planned for at once. Bounds the cost of one decision; those behind wait their turn.
LOOKAHEAD = 8


class Finding(msgspec.Struct, frozen=True, gc=False):
    """What can be done for one model that waits."""

    target: str
    outcome: str  # fits | evicts | waits | refused
    victims: tuple[str, ...] = ()
    refusal: Refusal | None = None
    detail: str = ""
    starts: bool = False  # now, in room that is free


def survey(state: State, room: Room, queue: Iterable[str], now_s: float) -> list[Finding]:
    """What can be done for each of these models, in this order, until `LOOKAHEAD` of them must wait.

    For each there are four cases: 1 it can never fit, or is on probation and does not fit: refused; 2 it fits beside what the
    ones before it still need: started now, or as soon as the room that is on its way has come; 3 a victim set makes room;
    4 something protects every set: it waits, and its claim keeps others out.

    Args:
        room: as it is now; used up by what is found, and afterwards as it will be when all of it has been carried out.
        queue: models that are neither ready nor loading, first come first.
    """
    findings: list[Finding] = []
    kept = state.kept_bytes()
    pools = _Pools(state, now_s)
    waiting = 0
    for target in queue:
        known = state.known[target]
        need = known.footprint
        short = room.short_of(need)
        victims: Sequence[Candidate] = ()
        if short:
            refusal, detail = never(state, kept, need)
            if refusal is None and known.failures:
                refusal = Refusal.COOLING_DOWN
                detail = f"{known.reason} (tried again only in room that is free; an admin's load forgives)"
            if refusal is not None:  # 1
                findings.append(Finding(target, "refused", refusal=refusal, detail=detail))
                continue
            victims = pools.take(short, head=not waiting)
            for victim in victims:
                room.leaves(victim.footprint)
        # Victims leave for those before it, too: it may start in what is free, and they get what the victims leave.
        starts = bool(victims or not short) and target not in state.residents and room.fits_now(need)
        if victims:  # 3
            detail = f"{room_text(need)} needed, {room_text(room.now)} free"
            names = tuple(victim.target for victim in victims)
            findings.append(Finding(target, "evicts", names, detail=detail, starts=starts))
        elif starts:  # 2
            findings.append(Finding(target, "fits", starts=True))
        else:  # 4
            detail = "nobody may be evicted for it yet" if short else "its room is on the way"
            findings.append(Finding(target, "waits", detail=detail))
        if starts:
            room.take(need)
            kept = total((kept, need)) if known.keeps_room else kept
            continue
        room.claim(need)
        waiting += 1
        if waiting == LOOKAHEAD:
            break
    return findings


class _Pools:
    """Who may be evicted during one survey, looked up when first asked for."""

    __slots__ = ("_idle", "_idle_bytes", "_now_s", "_state")

    def __init__(self, state: State, now_s: float) -> None:
        self._state = state
        self._now_s = now_s
        self._idle: list[Candidate] | None = None
        self._idle_bytes: Footprint = {}

    def take(self, short: Footprint, *, head: bool) -> Sequence[Candidate]:
        """Chooses victims, who are then no longer to be had; nobody where no set of them would do.

        Only the head of the queue drains busy residents; those behind it are content with idle ones.
        """
        if head:
            pool = lru_order(self._state.candidates(self._now_s))
        else:
            pool = self._idle
            if pool is None:
                pool = self._keep(lru_order(self._state.candidates(self._now_s, idle=True)))
            if not pool or not covers(self._idle_bytes, short):
                return ()
        victims = choose_victims(pool, short) or ()
        if victims or head:
            self._keep([candidate for candidate in pool if not candidate.leases and candidate not in victims])
        return victims

    def _keep(self, idle: list[Candidate]) -> list[Candidate]:
        self._idle = idle
        self._idle_bytes = total([candidate.footprint for candidate in idle])
        return idle


def never(state: State, kept: Footprint, need: Footprint) -> tuple[Refusal | None, str]:
    """Whether no eviction at all could make room beside what is `kept`."""
    for device, size in need.items():
        budget = state.budget.get(device, 0)
        if size > budget and size > 0:
            return (
                Refusal.LARGER_THAN_BUDGET,
                f"{device}: needs {size_text(size)} ({size} bytes), the budget is {size_text(budget)} ({budget} bytes)",
            )
    for device, held in kept.items():  # most often empty
        size = need.get(device, 0)
        left = state.budget.get(device, 0) - held
        if size > left and size > 0:
            return (
                Refusal.NO_ROOM_BESIDE_PINS,
                f"{device}: needs {size_text(size)} ({size} bytes), models that are pinned or cannot be unloaded leave "
                f"{size_text(left)} ({left} bytes)",
            )
    return None, ""


def at_the_door(state: State, target: str, now_s: float) -> tuple[Refusal | None, str]:
    """Why a request for a model that is neither ready nor loading is not even let into the queue."""
    known = state.known[target]
    if state.closing:
        return Refusal.SHUTTING_DOWN, "the gateway is shutting down"
    if now_s < known.retry_at_s:
        return Refusal.COOLING_DOWN, known.reason
    return never(state, state.kept_bytes(), known.footprint)


def plan_for(state: State, target: str, now_s: float) -> Plan:
    """What one more request for `target` would meet, a full queue apart. Raises: KeyError: never described."""
    known = state.known[target]
    room = state.room()
    free = dict(room.now)
    resident = state.residents.get(target)
    if resident is not None and not resident.leaving:
        outcome = "ready" if resident.phase is Phase.READY else "loading"
        return Plan(target, outcome, known.footprint, known.source, free)
    refusal, detail = at_the_door(state, target, now_s)
    if refusal is not None:
        return Plan(target, "refused", known.footprint, known.source, free, refusal=refusal, detail=detail)
    queue = list(state.cold())
    ahead = queue.index(target) if target in state.waiting else len(queue)
    found = survey(state, room, (*islice(queue, ahead), target), now_s)[-1]
    if found.target != target:
        found = Finding(target, "waits", detail=f"{ahead} models wait before it")
    return Plan(
        target,
        found.outcome,
        known.footprint,
        known.source,
        free,
        found.victims,
        found.refusal,
        found.detail,
        ahead,
    )
