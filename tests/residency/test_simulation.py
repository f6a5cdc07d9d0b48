"""Any history of the residency core keeps every promise: something is on its way for whoever waits, and nothing unsafe is decided.

`ROUNDHOUSE_SIMULATION_RUNS`, `_STEPS` and `_SEED` (environment) make the same test longer or different; by default it is the same
every time. Of a failure the seed, the shortest history found and every event in it are printed.
"""

from __future__ import annotations

from typing import ClassVar

from hypothesis import Phase

from gateway.residency.events import Decision, Drain, Grant, Refusal, Reject, StartLoad, StartUnload, Why

from .simulation import ResidencyMachine, from_environment, simulate

RUNS = from_environment("ROUNDHOUSE_SIMULATION_RUNS", 300)
STEPS = from_environment("ROUNDHOUSE_SIMULATION_STEPS", 50)
SEED = from_environment("ROUNDHOUSE_SIMULATION_SEED", 20261122)


def test_every_promise_is_kept_in_any_history() -> None:
    """L1 to L5 and the safety of each decision; see `world.py`."""
    try:
        simulate(ResidencyMachine, runs=RUNS, steps=STEPS, seed_=SEED, phases=[Phase.generate, Phase.shrink])
    except AssertionError as error:
        error.add_note(f"ROUNDHOUSE_SIMULATION_SEED={SEED} ROUNDHOUSE_SIMULATION_RUNS={RUNS}")
        raise


class CuriousMachine(ResidencyMachine):
    """Remembers which kinds of decision its histories met."""

    met: ClassVar[set[tuple[type[Decision], str]]] = set()

    def teardown(self) -> None:
        super().teardown()
        self.met.update(self.world.met)


def test_histories_meet_every_kind_of_decision_when_they_run() -> None:
    """A machine that only ever met empty queues would prove nothing."""
    simulate(CuriousMachine, runs=100, steps=STEPS, seed_=1, phases=[Phase.generate])
    loads = {(StartLoad, why) for why in (Why.REQUESTED, Why.RESTORED)}
    leaves = {Why.EVICTED, Why.IDLE, Why.ADMIN, Why.OVER_BUDGET, Why.SHUTDOWN}
    expected = loads | {(Reject, refusal) for refusal in Refusal} | {(Grant, "")}
    expected |= {(Drain, why) for why in leaves} | {(StartUnload, why) for why in leaves | {Why.DIED}}
    assert CuriousMachine.met == expected
