"""A residency core with a clock and short words, for tests that tell one story."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from gateway.residency.core import Residency
from gateway.residency.events import (
    Acquire,
    Budget,
    Decision,
    Describe,
    Died,
    Drain,
    Event,
    Gone,
    Grant,
    Loaded,
    LoadFailed,
    Measured,
    Pin,
    Reject,
    Release,
    Seen,
    StartLoad,
    StartUnload,
    Tick,
    Unload,
    Vanished,
)

Sizes = Mapping[str, int] | int


def footprint(sizes: Sizes) -> Mapping[str, int]:
    """A plain number is RAM."""
    return {"ram": sizes} if isinstance(sizes, int) else sizes


def words(decisions: Iterable[Decision]) -> list[str]:
    """Each decision in one short line, so that a test reads as a story."""
    return [_word(decision) for decision in decisions]


def _word(decision: Decision) -> str:
    match decision:
        case Grant():
            return f"grant {decision.ticket} {decision.target}"
        case Reject():
            return f"reject {decision.ticket} {decision.refusal}"
        case StartLoad():
            restored = " restored" if decision.why == "restored" else ""
            return f"load {decision.target}{restored}"
        case Drain():
            for_whom = f" for {decision.for_target}" if decision.for_target else ""
            return f"drain {decision.target} {decision.why}{for_whom}"
        case StartUnload():
            return f"stop {decision.target}"
        case _:
            raise AssertionError(decision)


class Driver:
    """Tickets are numbered from 1 in the order of asking; every model is described without idle limit unless told.

    Args:
        models: name → bytes of RAM, or device → bytes.
    """

    def __init__(
        self,
        budget: Sizes,
        models: Mapping[str, Sizes],
        *,
        queue_max: int = 100,
        min_residency_s: float | None = 0.0,
        idle_s: float | None = None,
    ) -> None:
        self.core = Residency(footprint(budget), queue_max=queue_max, min_residency_s=min_residency_s)
        self.now_s = 0.0
        self.tickets = 0
        for name, sizes in models.items():
            self.core.apply(Describe(name, footprint(sizes), "declared", idle_s), self.now_s)

    def apply(self, event: Event) -> list[Decision]:
        return self.core.apply(event, self.now_s)

    def feed(self, event: Event) -> list[str]:
        return words(self.apply(event))

    def ask(self, target: str, patience_s: float = math.inf, *, explicit: bool = False) -> list[str]:
        self.tickets += 1
        return self.feed(Acquire(self.tickets, target, self.now_s + patience_s, explicit))

    def release(self, ticket: int) -> list[str]:
        return self.feed(Release(ticket))

    def epoch(self, target: str) -> int:
        return next(view.epoch for view in self.core.residents(self.now_s) if view.target == target)

    def up(self, target: str) -> list[str]:
        return self.feed(Loaded(target, self.epoch(target)))

    def fails(self, target: str) -> list[str]:
        return self.feed(LoadFailed(target, self.epoch(target), "exit code 1"))

    def dies(self, target: str) -> list[str]:
        return self.feed(Died(target, self.epoch(target), "signal 9"))

    def gone(self, target: str) -> list[str]:
        return self.feed(Gone(target, self.epoch(target)))

    def measured(self, target: str, sizes: Sizes) -> list[str]:
        return self.feed(Measured(target, self.epoch(target), footprint(sizes)))

    def seen(self, target: str, sizes: Sizes, *, used: bool = False) -> list[str]:
        return self.feed(Seen(target, self.core.standing(target)[1], footprint(sizes), used))

    def vanished(self, target: str) -> list[str]:
        return self.feed(Vanished(target, self.epoch(target)))

    def budget(self, sizes: Sizes) -> list[str]:
        return self.feed(Budget(footprint(sizes)))

    def pin(self, target: str, *, pinned: bool = True) -> list[str]:
        return self.feed(Pin(target, pinned))

    def unload(self, target: str) -> list[str]:
        return self.feed(Unload(target))

    def tick(self, at_s: float | None = None) -> list[str]:
        self.now_s = self.now_s if at_s is None else at_s
        return self.feed(Tick())

    def describe(self, target: str, sizes: Sizes, idle_s: float | None = None, *, evictable: bool = True) -> list[str]:
        return self.feed(Describe(target, footprint(sizes), "learned", idle_s, evictable=evictable))

    def serve(self, target: str, *, at_s: float | None = None, keep: bool = False) -> int:
        """Somebody asks, gets it (it must be there or fit at once), and leaves unless `keep`. Returns the ticket."""
        self.now_s = self.now_s if at_s is None else at_s
        said = self.ask(target)
        if said == [f"load {target}"]:
            said = self.up(target)
        assert said == [f"grant {self.tickets} {target}"], said
        ticket = self.tickets
        if not keep:
            self.release(ticket)
        return ticket

    def phases(self) -> dict[str, str]:
        return {view.target: view.phase.value for view in self.core.residents(self.now_s)}
