"""Any history of the residency core keeps every promise: something is on its way for whoever waits, and nothing unsafe is decided.

Twice: by Hypothesis, which shortens what it finds, and by plain dice, which go further in the same time. Of a failure every event
is printed. Environment: `ROUNDHOUSE_SIMULATION_RUNS` (of Hypothesis; the dice throw ten times as many), `_STEPS`, and `_SEED` for
other histories than these.
"""

from __future__ import annotations

from typing import ClassVar

from hypothesis import Phase

from gateway.residency.events import Decision, Drain, Grant, Refusal, Reject, StartLoad, StartUnload, Why

from .simulation import ResidencyMachine, from_environment, roam, simulate

RUNS = from_environment("ROUNDHOUSE_SIMULATION_RUNS", 300)
STEPS = from_environment("ROUNDHOUSE_SIMULATION_STEPS", 50)
SEED = from_environment("ROUNDHOUSE_SIMULATION_SEED", 20261122)
DICE_PER_RUN = 10


class CuriousMachine(ResidencyMachine):
    """Remembers which kinds of decision its histories met."""

    met: ClassVar[set[tuple[type[Decision], str]]] = set()
    adopted: ClassVar[int] = 0
    vanished: ClassVar[int] = 0

    def teardown(self) -> None:
        super().teardown()
        self.met.update(self.world.met)
        CuriousMachine.adopted += self.world.adopted
        CuriousMachine.vanished += self.world.vanished


def test_every_promise_is_kept_in_any_history() -> None:
    """L1 to L5 and the safety of each decision; see `world.py`."""
    try:
        simulate(ResidencyMachine, runs=RUNS, steps=STEPS, seed_=SEED, phases=[Phase.generate, Phase.shrink])
    except AssertionError as error:
        error.add_note(f"ROUNDHOUSE_SIMULATION_SEED={SEED} ROUNDHOUSE_SIMULATION_RUNS={RUNS}")
        raise


def test_every_promise_is_kept_in_histories_that_meet_everything() -> None:
    """The same by dice; and a machine that only ever met empty queues would prove nothing, so every kind of decision is met."""
    try:
        roam(CuriousMachine, histories=RUNS * DICE_PER_RUN, seed_=SEED)
    except AssertionError as error:
        error.add_note(f"ROUNDHOUSE_SIMULATION_SEED={SEED} ROUNDHOUSE_SIMULATION_RUNS={RUNS}")
        raise
    leaves = {Why.EVICTED, Why.IDLE, Why.ADMIN, Why.OVER_BUDGET, Why.SHUTDOWN}
    expected: set[tuple[type[Decision], str]] = {(Grant, ""), (StartUnload, Why.DIED)}
    expected |= {(StartLoad, why) for why in (Why.REQUESTED, Why.RESTORED)}
    expected |= {(Reject, refusal) for refusal in Refusal}
    expected |= {(kind, why) for kind in (Drain, StartUnload) for why in leaves}
    assert CuriousMachine.met == expected
    assert min(CuriousMachine.adopted, CuriousMachine.vanished) > RUNS
