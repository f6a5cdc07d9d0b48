"""The dry run: what one more request would meet, for each outcome, and that asking changes nothing."""

from __future__ import annotations

import pytest

from gateway.residency.events import Plan, Refusal, Shutdown

from .driver import Driver
from .dump import dump

THREE = {"a": 1, "b": 1, "c": 1}


def planned(it: Driver, target: str) -> Plan:
    """Asks for the plan, and holds it to changing nothing."""
    before, said = dump(it.core), repr(it.core)
    plan = it.core.plan(target, it.now_s)
    assert dump(it.core) == before
    assert repr(it.core) == said
    return plan


def test_plan_is_ready_or_loading_when_the_model_is_there_or_on_its_way() -> None:
    """Nobody is ahead, whatever the queue."""
    it = Driver(2, THREE)
    it.serve("a")
    it.ask("b")
    assert [planned(it, target).outcome for target in ("a", "b")] == ["ready", "loading"]
    assert planned(it, "a").queue_ahead == 0


def test_plan_fits_when_there_is_room() -> None:
    """With what it needs, where that number is from, and what is free."""
    it = Driver(2, THREE)
    it.serve("a")
    assert planned(it, "b") == Plan("b", "fits", {"ram": 1}, "declared", {"ram": 1})
    assert it.ask("b") == ["load b"]


def test_plan_names_the_victims_when_somebody_must_leave() -> None:
    """The same who then leave."""
    it = Driver(2, THREE)
    it.serve("a", at_s=2)
    it.serve("b", at_s=1)
    plan = planned(it, "c")
    assert (plan.outcome, plan.victims, plan.free) == ("evicts", ("b",), {"ram": 0})
    assert plan.detail == "ram 1 B needed, ram 0 B free"
    assert it.ask("c") == ["drain b evicted for c", "stop b"]


@pytest.mark.parametrize(
    ("min_residency_s", "detail"), [(0.0, "its room is on the way"), (9.0, "nobody may be evicted for it yet")]
)
def test_plan_waits_when_its_room_is_on_the_way_or_protected(min_residency_s: float, detail: str) -> None:
    """The same word, the reason beside it."""
    it = Driver(1, THREE, min_residency_s=min_residency_s)
    it.serve("a", keep=True)
    it.ask("b")
    plan = planned(it, "b")
    assert (plan.outcome, plan.detail, plan.queue_ahead) == ("waits", detail, 0)
    assert (planned(it, "c").outcome, planned(it, "c").queue_ahead) == ("waits", 1)


def test_plan_is_that_of_the_head_when_those_before_it_are_loading() -> None:
    """Who waits for a load that is under way stands before nobody."""
    it = Driver(2, THREE)
    it.serve("a", keep=True)
    it.ask("b")
    plan = planned(it, "c")
    assert (plan.outcome, plan.victims, plan.queue_ahead) == ("evicts", ("a",), 0)
    assert it.ask("c") == ["drain a evicted for c"]


def test_plan_is_refused_when_it_can_never_fit_or_is_broken() -> None:
    """Larger than the budget; beside a pin; cooling down, also while its last process is leaving; on probation; at the end."""
    it = Driver(2, {"a": 1, "b": 2, "huge": 3})
    assert planned(it, "huge").refusal is Refusal.LARGER_THAN_BUDGET
    it.serve("a", keep=True)
    it.pin("a")
    assert planned(it, "b").refusal is Refusal.NO_ROOM_BESIDE_PINS
    it.pin("a", pinned=False)
    it.dies("a")
    assert planned(it, "a").outcome == "waits"
    it.gone("a")
    it.serve("a")
    it.dies("a")
    assert planned(it, "a").refusal is Refusal.COOLING_DOWN
    it.gone("a")
    it.ask("b")
    it.fails("b")
    it.now_s = 100.0
    it.serve("a")
    plan = planned(it, "b")
    assert plan.refusal is Refusal.COOLING_DOWN
    assert "an admin's load forgives" in plan.detail
    it.feed(Shutdown())
    assert planned(it, "a").refusal is Refusal.SHUTTING_DOWN


def test_plan_raises_when_nobody_has_described_the_model() -> None:
    """A name that residency does not know."""
    with pytest.raises(KeyError):
        Driver(2, THREE).core.plan("d", 0.0)
