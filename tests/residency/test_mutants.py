"""The simulation catches every seeded bug; a simulation that cannot fail proves nothing.

Where a mutant is no longer caught after the machine has changed: make the machine meet it; leave the mutant as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import pytest

from gateway.residency.core import Residency

from .mutants import MUTANTS, Mutant, load_core
from .simulation import ResidencyMachine, roam

HISTORIES = 1_500
SEED = 3


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
    """Within the same histories that the real core passes."""
    machine = machine_for(load_core(mutant))
    with pytest.raises((AssertionError, LookupError)):
        roam(machine, histories=HISTORIES, seed_=SEED)
    record_property("histories", machine.histories)


def test_simulation_passes_when_no_bug_is_seeded() -> None:
    """The control: the same mechanism, no replacement, all histories."""
    machine = machine_for(load_core(None))
    roam(machine, histories=HISTORIES, seed_=SEED)
    assert machine.histories == HISTORIES


def test_a_mutant_is_refused_when_its_fragment_has_gone() -> None:
    """A seeded bug that is no longer seeded must not look like one that was caught."""
    mutant = MUTANTS[0]._replace(old="this is not in the source")
    with pytest.raises(AssertionError, match="occurs 0 times"):
        load_core(mutant)
