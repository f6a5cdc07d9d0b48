"""The simulation catches every seeded bug; a simulation that cannot fail proves nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import pytest
from hypothesis import Phase

from gateway.residency.core import Residency

from .mutants import MUTANTS, Mutant, load_core
from .simulation import ResidencyMachine, simulate

RUNS = 600
STEPS = 50
SEED = 4


class CountingMachine(ResidencyMachine):
    """Counts its histories."""

    histories: ClassVar[int] = 0

    def __init__(self) -> None:
        super().__init__()
        type(self).histories += 1


def machine_for(core: type[Residency]) -> type[CountingMachine]:
    return type("MachineUnderTest", (CountingMachine,), {"core_class": core, "histories": 0})


@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.name for mutant in MUTANTS])
def test_simulation_fails_when_a_bug_is_seeded(mutant: Mutant, record_property: Callable[[str, object], None]) -> None:
    """Within the same bounds as the run that the real core passes."""
    machine = machine_for(load_core(mutant))
    with pytest.raises((AssertionError, LookupError)):
        simulate(machine, runs=RUNS, steps=STEPS, seed_=SEED, phases=[Phase.generate])
    record_property("histories", machine.histories)


def test_simulation_passes_when_no_bug_is_seeded() -> None:
    """The control: the same mechanism, no replacement."""
    simulate(machine_for(load_core(None)), runs=100, steps=STEPS, seed_=SEED, phases=[Phase.generate])
