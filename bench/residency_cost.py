"""What one decision of the residency core costs, with 200 models, 20 residents and 1,000 waiting tickets.

    python -m bench.residency_cost [--json] [--rounds N]

The law: each figure is the median over many single decisions of one kind, with the core brought back to the same state before each,
in the quietest of three passes, since the machine is shared. The goal is 50 µs; compare ratios within one run.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable

from gateway.residency.core import Residency
from gateway.residency.events import Acquire, Describe, Event, Gone, Loaded, Release, StartLoad, StartUnload, Tick

MODELS = 200
RESIDENTS = 20
WAITING = 1_000
GOAL_US = 50.0
PASSES = 3
SIZE_BYTES = 1_000
BUDGET = {"ram": RESIDENTS * SIZE_BYTES, "gpu0": RESIDENTS * SIZE_BYTES}
FOOTPRINT = {"ram": SIZE_BYTES, "gpu0": SIZE_BYTES}


def model(number: int) -> str:
    return f"local/model-{number:03}"


class Crowd:
    """A core at the size of the goal: every resident in use, and a long queue for models that are not in memory.

    Args:
        idle: how many residents are in use by nobody, but protected, so that they are looked at and may not leave.
    """

    def __init__(self, idle: int) -> None:
        self.core = Residency(BUDGET, queue_max=10 * WAITING, min_residency_s=1e6)
        self.now_s = 0.0
        self.ticket = 0
        for number in range(MODELS):
            self.core.apply(Describe(model(number), FOOTPRINT, "declared", 300.0), self.now_s)
        for number in range(RESIDENTS):
            ticket = self.ask(model(number))
            self.core.apply(Loaded(model(number), 1), self.now_s)
            if number < idle:
                self.core.apply(Release(ticket), self.now_s)
        self.now_s = 1.0
        for number in range(WAITING):
            self.ask(model(RESIDENTS + number % (MODELS - RESIDENTS - 10)))  # ten are left that nobody waits for

    def ask(self, target: str) -> int:
        self.ticket += 1
        self.core.apply(Acquire(self.ticket, target, math.inf), self.now_s)
        return self.ticket

    def timed(self, event: Event) -> float:
        """Microseconds of one decision."""
        started_ns = time.perf_counter_ns()
        self.core.apply(event, self.now_s)
        return (time.perf_counter_ns() - started_ns) / 1_000


def acquire_ready(crowd: Crowd) -> float:
    crowd.ticket += 1
    cost_us = crowd.timed(Acquire(crowd.ticket, model(RESIDENTS - 1), math.inf))
    crowd.core.apply(Release(crowd.ticket), crowd.now_s)
    return cost_us


def release(crowd: Crowd) -> float:
    return crowd.timed(Release(crowd.ask(model(RESIDENTS - 1))))


def release_the_last(crowd: Crowd) -> float:
    """From now on it is idle: somebody in the queue may want its room."""
    busy = crowd.core.held()[-1]
    cost_us = crowd.timed(Release(busy))
    crowd.ask(model(RESIDENTS - 1))
    return cost_us


def acquire_queued_behind_its_own(crowd: Crowd) -> float:
    crowd.ticket += 1
    cost_us = crowd.timed(Acquire(crowd.ticket, model(RESIDENTS + 50), math.inf))
    crowd.core.apply(Release(crowd.ticket), crowd.now_s)
    return cost_us


def acquire_queued_as_first_of_its_model(crowd: Crowd) -> float:
    crowd.ticket += 1
    cost_us = crowd.timed(Acquire(crowd.ticket, model(MODELS - 1), math.inf))
    crowd.core.apply(Release(crowd.ticket), crowd.now_s)
    return cost_us


def a_waiting_client_leaves(crowd: Crowd) -> float:
    """The first of its model: that model's place in the queue moves."""
    waiting = crowd.core.waiting(crowd.now_s)
    target = waiting[0].target
    crowd.ask(target)
    return crowd.timed(Release(waiting[0].ticket))


def tick(crowd: Crowd) -> float:
    return crowd.timed(Tick())


def wake(crowd: Crowd) -> float:
    """Not a decision: asked by the shell after each of them, except on the way of requests for ready models."""
    started_ns = time.perf_counter_ns()
    crowd.core.wake_s(crowd.now_s)
    return (time.perf_counter_ns() - started_ns) / 1_000


class Swaps(Crowd):
    """The same, where residents do leave: each round one is evicted, gone, and the head of the queue is loaded."""

    def __init__(self) -> None:
        super().__init__(0)
        self.leaving: list[StartUnload] = []
        self.now_s = 2e6  # every protection has ended

    def swap(self) -> float:
        ready = [view for view in self.core.residents(self.now_s) if view.leases == 0]
        held = self.core.held()
        unloads: list[StartUnload] = []
        for ticket in held:
            decisions = self.core.apply(Release(ticket), self.now_s)
            unloads = [d for d in decisions if isinstance(d, StartUnload)]
            if unloads:
                break
        assert unloads, f"nobody left: {ready}"
        event = Gone(unloads[0].target, unloads[0].epoch)
        started_ns = time.perf_counter_ns()
        decisions = self.core.apply(event, self.now_s)
        cost_us = (time.perf_counter_ns() - started_ns) / 1_000
        loads = [d for d in decisions if isinstance(d, StartLoad)]
        assert loads, f"nobody starts: {decisions}"
        self.now_s += 2e6
        self.core.apply(Loaded(loads[0].target, loads[0].epoch), self.now_s)
        self.now_s += 2e6
        for _ in range(WAITING - len(self.core.waiting(self.now_s))):
            self.ask(unloads[0].target)
        return cost_us


def measure(rounds: int) -> dict[str, float]:
    """Kind of decision → median µs."""
    figures: dict[str, float] = {}
    kinds: dict[str, Callable[[Crowd], float]] = {
        "Acquire, ready": acquire_ready,
        "Release of a lease": release,
        "Release of a resident's last lease": release_the_last,
        "Acquire, queued behind others for the same model": acquire_queued_behind_its_own,
        "Acquire, queued as first of its model": acquire_queued_as_first_of_its_model,
        "Release of a place in the queue": a_waiting_client_leaves,
        "Tick": tick,
        "wake_s": wake,
    }
    for name, kind in kinds.items():
        for idle in (0, RESIDENTS // 2):
            crowd = Crowd(idle)
            label = f"{name}{f', {idle} residents idle' if idle else ''}"
            figures[label] = statistics.median(kind(crowd) for _ in range(rounds))
    swaps = Swaps()
    figures["Gone, starts a load and picks the next victim"] = statistics.median(
        swaps.swap() for _ in range(max(20, rounds // 4))
    )
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--rounds", type=int, default=500, help="decisions of each kind")
    arguments = parser.parse_args()
    passes = [measure(arguments.rounds) for _ in range(PASSES)]
    figures = {name: min(each[name] for each in passes) for name in passes[0]}
    if arguments.json:
        print(json.dumps({"goal_us": GOAL_US, "median_us": {name: round(us, 2) for name, us in figures.items()}}))
        return
    print(f"{MODELS} models, {RESIDENTS} residents, {WAITING} waiting; goal {GOAL_US:.0f} µs")
    for name, us in figures.items():
        print(f"{name:<70} {us:8.1f} µs{'' if us <= GOAL_US else '  (over the goal)'}")


if __name__ == "__main__":
    main()
