"""The simulation catches every seeded bug; a simulation that cannot fail proves nothing.

Where a mutant is no longer caught after the machine has changed: make the machine meet it; leave the mutant as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import pytest

from gateway.residency.core import Residency
from gateway.residency.events import Phase

from .mutants import MUTANTS, Mutant, load_core
from .mutants_served import SERVED_MUTANTS
from .servers import ServedWorld
from .simulation import ResidencyMachine, roam

HISTORIES = 1_000
SEED = 12
ALL_MUTANTS = (*MUTANTS, *SERVED_MUTANTS)


class CountingMachine(ResidencyMachine):
    """Counts its histories."""

    histories: ClassVar[int] = 0

    def __init__(self) -> None:
        super().__init__()
        type(self).histories += 1


def machine_for(core: type[Residency]) -> type[CountingMachine]:
    return type("MachineUnderTest", (CountingMachine,), {"core_class": core, "histories": 0})


@pytest.mark.parametrize("mutant", ALL_MUTANTS, ids=[mutant.name for mutant in ALL_MUTANTS])
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


class CarelessWorld(ServedWorld):
    """Its shell believes each answer, however late."""

    def is_the_same(self, target: str, phase: Phase | None, epoch: int) -> bool:
        return True


class CarelessMachine(ResidencyMachine):
    world_class = CarelessWorld


def test_simulation_fails_when_the_shell_does_not_heed_that_an_answer_is_late() -> None:
    """What we have stopped since its server was asked would be taken over as somebody else's."""
    with pytest.raises(AssertionError, match="we have stopped it since"):
        roam(CarelessMachine, histories=HISTORIES, seed_=SEED)


def test_a_mutant_is_refused_when_its_fragment_has_gone() -> None:
    """A seeded bug that is no longer seeded must not look like one that was caught."""
    mutant = MUTANTS[0]._replace(old="this is not in the source")
    with pytest.raises(AssertionError, match="occurs 0 times"):
        load_core(mutant)
