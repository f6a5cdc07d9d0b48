"""What can be done for those who wait: read from the state, decided by arithmetic, changing nothing. Pure.

The same survey serves the queue (`core.py` carries it out) and the dry run (`plan`), so that a plan shown is the plan taken.
"""

from __future__ import annotations

from collections.abc import Iterable

from .events import Footprint, Phase, Plan, Refusal
from .policy import Candidate, choose_victims, lru_order
from .room import Room, room_text
from .state import State


def survey(state: State, targets: Iterable[str], now_s: float) -> list[Plan]:
    """What can be done for each of these models, in this order.

    For each there are five cases: 1 in memory or on the way: nothing to do; 2 it can never fit: refused; 3 it fits beside what
    the ones before it still need: started now, or as soon as the room that is on its way has come; 4 a victim set makes room;
    5 something protects every set: it waits, and its claim keeps others out.
    """
    room = state.room()
    ordered: list[Candidate] | None = None
    plans: list[Plan] = []
    for place, target in enumerate(targets):
        known = state.known[target]
        resident = state.residents.get(target)
        need = known.footprint
        if resident is not None and not resident.leaving:  # 1
            outcome = "ready" if resident.phase is Phase.READY else "loading"
            plans.append(_plan(state, target, outcome, room, place))
            continue
        refusal, detail = never(state, target, need)
        if refusal is not None:  # 2
            plans.append(_plan(state, target, "refused", room, place, refusal=refusal, detail=detail))
            continue
        if room.will_fit(need):  # 3
            if resident is None and room.fits_now(need):
                plans.append(_plan(state, target, "fits", room, place))
                room.take(need)
                continue
            plans.append(_plan(state, target, "waits", room, place, detail="its room is on the way"))
        elif known.failures:
            detail = f"{known.reason} (tried again only in room that is free; an admin's load forgives)"
            plans.append(_plan(state, target, "refused", room, place, refusal=Refusal.COOLING_DOWN, detail=detail))
            continue
        else:
            if ordered is None:
                ordered = lru_order(state.candidates(now_s))
            victims = _victims(ordered, room.short_of(need), head=place == 0)
            if victims is None:  # 5
                plans.append(_plan(state, target, "waits", room, place, detail="nobody may be evicted for it yet"))
            else:  # 4
                detail = f"{room_text(need)} needed, {room_text(room.now)} free"
                plans.append(_plan(state, target, "evicts", room, place, victims=victims, detail=detail))
                ordered = [c for c in ordered if c.target not in victims]
                for victim in victims:
                    room.leaves(state.residents[victim].footprint)
        room.claim(need)
    return plans


def plan_for(state: State, target: str, now_s: float) -> Plan:
    """What one more request for `target` would meet. Raises: KeyError: never described."""
    known = state.known[target]
    queue = list(state.waiting) if target in state.waiting else [*state.waiting, target]
    if target not in state.residents and now_s < known.retry_at_s:
        return _plan(state, target, "refused", state.room(), 0, refusal=Refusal.COOLING_DOWN, detail=known.reason)
    return next(plan for plan in survey(state, queue, now_s) if plan.target == target)


def _victims(ordered: list[Candidate], short: Footprint, *, head: bool) -> tuple[str, ...] | None:
    """Only the head of the queue drains busy residents; those behind it are content with idle ones."""
    pool = ordered if head else [c for c in ordered if c.leases == 0]
    victims = choose_victims(pool, short)
    return None if victims is None else tuple(v.target for v in victims)


def never(state: State, target: str, need: Footprint) -> tuple[Refusal | None, str]:
    """Whether no eviction at all could make room."""
    for device, size in need.items():
        budget = state.budget.get(device, 0)
        if size > budget:
            return Refusal.LARGER_THAN_BUDGET, f"{device}: needs {size} bytes, the budget is {budget} bytes"
        pinned = sum(
            r.footprint.get(device, 0)
            for r in state.residents.values()
            if r.target != target and not r.leaving and state.known[r.target].pinned
        )
        if pinned and size > budget - pinned:
            return (
                Refusal.NO_ROOM_BESIDE_PINS,
                f"{device}: needs {size} bytes, pinned models leave {budget - pinned} bytes",
            )
    return None, ""


def _plan(
    state: State,
    target: str,
    outcome: str,
    room: Room,
    place: int,
    *,
    victims: tuple[str, ...] = (),
    refusal: Refusal | None = None,
    detail: str = "",
) -> Plan:
    known = state.known[target]
    return Plan(target, outcome, known.footprint, known.source, dict(room.now), victims, refusal, detail, place)
