"""What can be read of the residency core: residents, queue, dry run, and what its shell asks for. Pure; changes nothing."""

from __future__ import annotations

from .events import Footprint, Phase, Plan, ResidentView, WaitingView
from .planning import plan_for
from .room import room_text
from .state import State


class Views:
    """The reading half of the core; `core.py` is the half that changes the state."""

    def __init__(self, state: State) -> None:
        self._state = state

    def plan(self, target: str, now_s: float) -> Plan:
        """What one more request for `target` would meet; changes nothing. Raises: KeyError: never described."""
        return plan_for(self._state, target, now_s)

    def standing(self, target: str) -> tuple[Phase | None, int]:
        """Its phase (None: cold) and epoch, for whoever asks its server and must know on return whether it is the same still."""
        known = self._state.known.get(target)
        resident = self._state.residents.get(target)
        return None if resident is None else resident.phase, 0 if known is None else known.epoch

    def retry_at_s(self, target: str) -> float:
        """Until when a broken model is not tried again; in the past for a sound one."""
        return self._state.known[target].retry_at_s

    def knows(self, target: str) -> bool:
        """Whether it has been described."""
        return target in self._state.known

    def is_ready(self, target: str) -> bool:
        """Whether an Acquire would be granted at once."""
        resident = self._state.residents.get(target)
        return resident is not None and resident.phase is Phase.READY

    def is_closing(self) -> bool:
        return self._state.closing

    def held(self) -> list[int]:
        """The tickets that hold a lease."""
        return list(self._state.leases)

    def is_pinned(self, target: str) -> bool:
        return self._state.known[target].pinned

    def budget_bytes(self) -> Footprint:
        return self._state.budget

    def committed_bytes(self) -> Footprint:
        return self._state.committed_bytes()

    def residents(self, now_s: float) -> list[ResidentView]:
        """Everything in memory, on its way in or out, oldest first."""
        return [
            ResidentView(
                r.target,
                r.phase,
                r.epoch,
                r.leases,
                self._state.known[r.target].pinned,
                r.footprint,
                r.source,
                r.idle_for_s(now_s),
                now_s - r.since_s,
                None if r.ready_s is None else r.ready_s - r.since_s,
                r.why,
            )
            for r in self._state.residents.values()
        ]

    def waiting(self, now_s: float) -> list[WaitingView]:
        """The queue, first come first; those who wait for the same load share their model's place."""
        places = {target: place for place, target in enumerate(self._state.waiting, 1)}
        tickets = sorted(self._state.tickets.values(), key=lambda t: t.order)
        return [WaitingView(t.ticket, t.target, now_s - t.since_s, places[t.target]) for t in tickets]

    def __repr__(self) -> str:
        held = ", ".join(f"{r.target} {r.phase.name} e{r.epoch} {r.leases}" for r in self._state.residents.values())
        queue = ", ".join(f"{target}({len(tickets)})" for target, tickets in self._state.waiting.items())
        return f"<Residency {room_text(self.committed_bytes())} of {room_text(self._state.budget)} | {held} | {queue}>"
