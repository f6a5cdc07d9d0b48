"""Servers that others use, too: what is really in their memory, and the shell that asks them now and then.

The law: others load, unload and use whenever they like, nobody tells us; an answer shows the moment of its question, and anything
may happen before it arrives. The guard of the real shell is stated here once more: see `end_poll`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from gateway.residency.core import Residency
from gateway.residency.events import Died, Event, Footprint, Gone, Loaded, Phase, Seen, Vanished

from .dump import dump
from .world import World

# How many models a server holds; where one more is loaded, it lets its oldest go, whoever is using that.
SLOTS = 3


class Poll(NamedTuple):
    """One question to all servers, still without an answer."""

    standing: Mapping[str, tuple[Phase | None, int]]  # target → as the core had it
    held: Mapping[str, Footprint]  # target → what the server says
    used: frozenset[str]  # since the last question
    at_fact: int


class ServedWorld(World):
    """A world in which some models live in servers. `memory` is the truth about those, which only a poll tells the core.

    Args: as `World`.
    """

    def __init__(
        self, core: Residency, budget_bytes: Footprint, *, queue_max: int, min_residency_s: float | None
    ) -> None:
        super().__init__(core, budget_bytes, queue_max=queue_max, min_residency_s=min_residency_s)
        self.served: list[str] = []
        self.memory: dict[str, dict[str, int]] = {}  # oldest first; one process per model
        self.used: set[str] = set()
        self.poll: Poll | None = None
        self.vanished = self.adopted = 0

    # ------------------------------------------------------------ what happens in the servers

    def enter(self, event: Event) -> set[str] | None:
        """What we do there is seen there."""
        verdict = super().enter(event)
        match event:
            case Loaded() if event.target in self.served and event.target not in self.memory:
                self.others_load(event.target, self.engines[event.target].footprint)
            case Gone() | Died():
                self.memory.pop(event.target, None)
            case _:
                pass
        return verdict

    def others_load(self, target: str, footprint: Footprint) -> None:
        """Somebody loads it, or loads it again with another size; the core is not told."""
        self.history.append((self.now_s, f"in its server: {target} {footprint}"))
        self.memory[target] = dict(footprint)
        for oldest in list(self.memory)[:-SLOTS]:
            del self.memory[oldest]

    def others_unload(self, target: str) -> None:
        self.history.append((self.now_s, f"in its server: no {target}"))
        self.memory.pop(target, None)

    def others_use(self, target: str) -> None:
        if target in self.memory:
            self.used.add(target)

    # ------------------------------------------------------------ the shell

    def begin_poll(self) -> None:
        """Ask; one at a time."""
        self.history.append((self.now_s, "a poll begins"))
        standing = {target: self.core.standing(target) for target in self.served}
        self.poll = Poll(standing, {t: dict(size) for t, size in self.memory.items()}, frozenset(self.used), self.facts)
        self.used.clear()

    def end_poll(self) -> None:
        """The answer arrives. What was cold must still be so, in the same epoch, or it is not told; the rest is for the core."""
        poll, self.poll = self.poll, None
        assert poll is not None
        for target, (phase, epoch) in poll.standing.items():
            footprint = poll.held.get(target)
            served = phase in (Phase.READY, Phase.DRAINING)
            if footprint is not None:
                if (served or phase is None) and self.is_the_same(target, phase, epoch):
                    self._tell(Seen(target, epoch, footprint, target in poll.used), poll.at_fact)
            elif served:
                self._tell(Vanished(target, epoch), poll.at_fact)

    def is_the_same(self, target: str, phase: Phase | None, epoch: int) -> bool:
        """The guard: cold at the question and cold now, with no load of ours in between; or in memory both times."""
        now_phase, now_epoch = self.core.standing(target)
        return (now_phase, now_epoch) == (None, epoch) if phase is None else now_phase is not None

    def _tell(self, event: Seen | Vanished, at_fact: int) -> None:
        """What the books say must change nothing, may change nothing."""
        engine = self.engines.get(event.target)
        if engine is None:
            effective = isinstance(event, Seen) and not self.closing
            self.adopted += effective
            with self.evidence():
                left = self.models[event.target].left_fact > at_fact
                assert not (effective and left), f"{event}: we have stopped it since its server was asked"
        else:
            effective = engine.epoch == event.epoch and engine.phase in (Phase.READY, Phase.DRAINING)
            effective = effective and not (isinstance(event, Seen) and self.closing)
            if effective and isinstance(event, Vanished):
                self.vanished += 1
                with self.evidence():
                    assert engine.ready_fact <= at_fact, f"{event}: it came up after its server had been asked"
        if effective:
            self.feed(event)
        else:
            self.feed_late(event)

    def poll_in_quiet(self) -> None:
        """Asked and answered in one moment: then what the core shows is what the servers hold."""
        if self.poll is not None:
            self.end_poll()
        self.begin_poll()
        self.end_poll()
        with self.evidence():
            self._check_agreement()

    def _check_agreement(self) -> None:
        shown = {view.target: view for view in self.core.residents(self.now_s)}
        for target in self.served:
            view = shown.get(target)
            if view is not None and view.phase in (Phase.READY, Phase.DRAINING):
                assert target in self.memory, f"{target} is {view.phase}, and not in its server's memory"
                assert self.closing or dump(view.footprint) == dump(self.memory[target]), f"{target}: another size"
            elif view is None and not self.closing:
                assert target not in self.memory, f"{target} is in its server's memory, and the core does not know"

    def come_to_rest(self) -> None:
        """Others rest, too; what their last deeds were is noticed, and leads to rest again."""
        for _ in range(3):
            super().come_to_rest()
            self.poll_in_quiet()
        super().come_to_rest()
        at_rest = dump(self.core)
        self.poll_in_quiet()
        assert dump(self.core) == at_rest, "at rest, and a poll finds something new"
