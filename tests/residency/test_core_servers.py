"""The residency core where models live in a server that others load into and unload from, too. Told as in `test_core.py`."""

from __future__ import annotations

import pytest

from gateway.residency.events import Acquire, Phase, Refusal, Reject, Seen, Shutdown, Vanished, Why

from .driver import Driver

THREE = {"a": 1, "b": 1, "c": 1}


def why(it: Driver, target: str) -> Why:
    return next(view.why for view in it.core.residents(it.now_s) if view.target == target)


# ---------------------------------------------------------------- found


def test_a_model_is_ready_when_its_server_was_seen_to_hold_it() -> None:
    """With the server's size and a new epoch; a request is granted at once; and it shows who loaded it."""
    it = Driver(4, THREE)
    assert it.core.standing("a") == (None, 0)
    assert it.seen("a", 3) == []
    [view] = it.core.residents(0.0)
    assert (view.phase, view.epoch, view.why, view.load_s) == (Phase.READY, 1, Why.FOUND, 0.0)
    assert (view.footprint, view.footprint_source) == ({"ram": 3}, "reported")
    assert it.core.committed_bytes() == {"ram": 3}
    assert it.core.standing("a") == (Phase.READY, 1)
    assert it.ask("a") == ["grant 1 a"]


def test_waiting_ends_when_somebody_else_has_loaded_it() -> None:
    """All who wait are granted; who left for it goes on leaving, and the next in the queue gets what is there."""
    it = Driver(2, {"a": 2, "b": 1, "c": 1})
    it.serve("c", keep=True)
    it.ask("a")
    it.ask("a")
    assert it.phases() == {"c": "draining"}
    assert it.seen("a", 1) == ["grant 2 a", "grant 3 a"]
    assert it.core.waiting(0.0) == []
    assert it.release(1) == ["stop c"]
    assert it.ask("b") == []
    assert it.gone("c") == ["load b"]


def test_cool_down_and_probation_end_when_somebody_else_has_loaded_it() -> None:
    """It loads, so it is not broken."""
    it = Driver(2, THREE)
    it.ask("a")
    it.fails("a")
    assert it.seen("a", 1) == []
    assert it.core.retry_at_s("a") <= it.now_s
    assert it.vanished("a") == []
    assert it.ask("a") == ["load a"]


def test_a_sighting_changes_nothing_when_it_is_late_or_the_target_unknown() -> None:
    """Of another epoch, while it comes or goes, never described, at the end."""
    it = Driver(4, THREE)
    it.ask("a")
    assert it.seen("a", 3) == []
    it.up("a")
    assert it.feed(Seen("a", 0, {"ram": 3}, used=True)) == []
    it.release(1)
    it.unload("a")
    assert it.phases() == {"a": "unloading"}
    assert it.seen("a", 3) == []
    assert it.core.committed_bytes() == {"ram": 1}
    it.gone("a")
    assert it.feed(Seen("a", 0, {"ram": 3}, used=True)) == []
    assert it.feed(Seen("nobody", 0, {"ram": 3}, used=True)) == []
    it.feed(Shutdown())
    assert it.seen("a", 3) == []
    assert it.phases() == {}


def test_the_servers_word_on_a_size_is_exact() -> None:
    """It may fall, and then who waits for room gets it; a model on its way out is told of, too."""
    it = Driver(6, {"a": 5, "b": 3, "c": 2})
    it.serve("a", keep=True)
    it.ask("b")
    assert it.phases() == {"a": "draining"}
    assert it.seen("a", 3) == ["load b"]
    assert it.core.committed_bytes() == {"ram": 6}
    [view, _] = it.core.residents(0.0)
    assert view.footprint_source == "reported"
    it.up("b")
    assert it.seen("b", 2) == []
    assert it.measured("b", 1) == []
    assert it.core.committed_bytes() == {"ram": 5}


def test_somebody_elses_use_counts_when_victims_are_chosen() -> None:
    """And for idleness; the size being what it was, nothing else follows."""
    it = Driver(2, THREE, idle_s=10.0)
    it.serve("a", at_s=1)
    it.serve("b", at_s=2)
    it.now_s = 5.0
    assert it.seen("a", 1, used=True) == []
    assert it.seen("b", 1) == []
    assert it.core.wake_s(5.0) == 12.0
    assert it.ask("c") == ["drain b evicted for c", "stop b"]


# ---------------------------------------------------------------- whose it is to unload


def test_what_was_found_is_left_to_its_servers_own_idle_time() -> None:
    """What we load ourselves afterwards has ours again."""
    it = Driver(2, THREE, idle_s=10.0)
    it.seen("a", 1)
    it.serve("a")
    assert it.core.wake_s(0.0) is None
    assert it.tick(1000.0) == []
    it.vanished("a")
    it.serve("a")
    assert it.tick(1010.0) == ["drain a idle", "stop a"]


def test_what_was_found_leaves_for_room_when_its_turn_has_come() -> None:
    """In LRU order with ours, after its protection."""
    it = Driver(2, THREE, min_residency_s=None)
    it.seen("a", 1)
    it.serve("b", at_s=1)
    it.now_s = 2.0
    assert it.ask("c") == ["drain b evicted for c", "stop b"]
    it.gone("b")
    it.up("c")
    it.now_s = 29.0
    it.release(2)
    assert it.ask("b") == ["drain c evicted for b", "stop c"]
    it.gone("c")
    it.up("b")
    it.now_s = 30.0
    assert it.ask("c") == ["drain a evicted for c", "stop a"]


def test_idle_ones_leave_when_what_was_found_is_over_budget() -> None:
    """Those we loaded first, for it is protected; its bytes are taken all the same."""
    it = Driver(3, THREE, min_residency_s=None)
    it.serve("b")
    it.serve("c", at_s=1, keep=True)
    assert it.seen("a", 3) == []
    assert it.core.committed_bytes() == {"ram": 5}
    assert it.core.wake_s(1.0) == 31.0
    it.release(2)
    assert it.phases() == {"b": "unloading", "c": "unloading", "a": "ready"}


@pytest.mark.parametrize(("min_residency_s", "protected_s"), [(None, 30.0), (5.0, 5.0)])
def test_what_was_found_over_budget_leaves_when_its_protection_is_over(
    min_residency_s: float | None, protected_s: float
) -> None:
    """A tick is due then, even if it is busy at that moment: a lease that ends later finds nobody who sets an alarm."""
    it = Driver(2, THREE, min_residency_s=min_residency_s)
    it.now_s = 10.0
    assert it.seen("a", 3) == []
    assert it.core.wake_s(10.0) == 10.0 + protected_s
    assert it.ask("a") == ["grant 1 a"]
    assert it.release(1) == []
    assert it.tick(9.0 + protected_s) == []
    assert it.tick(10.0 + protected_s) == ["drain a over_budget", "stop a"]
    assert it.core.wake_s(it.now_s) is None


def test_what_was_found_leaves_at_once_when_no_minimum_residency_is_wanted() -> None:
    """0 is the operator's word: the budget before everything."""
    it = Driver(2, THREE)
    assert it.seen("a", 3) == ["drain a over_budget", "stop a"]


def test_a_model_is_never_a_victim_when_its_server_cannot_unload_it() -> None:
    """Not for room, not for idleness, not over budget, not for an admin; and it is not shown as pinned."""
    it = Driver(2, THREE, idle_s=10.0)
    it.describe("a", 1, 10.0, evictable=False)
    it.serve("a")
    it.serve("b", at_s=1)
    assert it.ask("c") == ["drain b evicted for c", "stop b"]
    it.gone("b")
    assert it.unload("a") == []
    it.up("c")
    it.release(3)
    assert it.budget(1) == ["drain c over_budget", "stop c"]
    it.gone("c")
    assert it.tick(1000.0) == []
    assert it.phases() == {"a": "ready"}
    assert not it.core.is_pinned("a")
    assert it.feed(Shutdown()) == ["drain a shutdown", "stop a"]


def test_a_request_is_refused_when_it_cannot_fit_beside_what_cannot_be_unloaded() -> None:
    """At the door, in the queue and in the plan; with a time, for its server may let it go; until it has."""
    it = Driver(2, {"a": 1, "b": 2, "c": 1}, min_residency_s=60.0)
    it.describe("a", 1, evictable=False)
    it.serve("c")
    it.ask("b")
    assert it.seen("a", 1) == ["reject 2 no_room_beside_pins"]
    [refused] = it.apply(Acquire(9, "b", 100.0))
    assert isinstance(refused, Reject)
    assert (refused.refusal, refused.retry_after_s) == (Refusal.NO_ROOM_BESIDE_PINS, 5.0)
    assert "cannot be unloaded leave 1 B" in refused.detail
    assert it.core.plan("b", 0.0).refusal is Refusal.NO_ROOM_BESIDE_PINS
    it.vanished("a")
    assert it.core.plan("b", 0.0).outcome == "waits"


def test_waiting_ends_when_a_description_says_that_the_last_way_is_barred() -> None:
    """The server turns out to be one that cannot unload."""
    it = Driver(1, THREE, min_residency_s=60.0)
    it.serve("a")
    assert it.ask("b") == []
    assert it.describe("a", 1, evictable=False) == ["reject 2 no_room_beside_pins"]


# ---------------------------------------------------------------- vanished


def test_a_model_is_cold_at_once_when_its_server_has_let_it_go() -> None:
    """Its bytes are free, its leases void, their release harmless; no death is counted, the next request loads it anew."""
    it = Driver(2, {"a": 2, "b": 2})
    for _ in range(3):
        it.serve("a", keep=True)
        assert it.vanished("a") == []
        assert it.core.committed_bytes() == {"ram": 0}
        assert it.core.held() == []
        assert it.release(it.tickets) == []
    assert it.core.retry_at_s("a") <= it.now_s
    it.serve("b")
    assert it.ask("a") == ["drain b evicted for a", "stop b"]


def test_those_who_wait_are_served_when_a_model_has_vanished() -> None:
    """The head gets its room; so does who waited for the same model, which was on its way out under a lease."""
    it = Driver(1, THREE)
    it.serve("a", keep=True)
    it.ask("b")
    it.ask("a")
    assert it.vanished("a") == ["load b"]
    assert it.up("b") == ["grant 2 b", "drain b evicted for a"]
    assert it.vanished("b") == ["load a"]
    assert it.up("a") == ["grant 3 a"]


def test_vanishing_changes_nothing_when_it_is_late() -> None:
    """Of another epoch, while it loads, while it is stopped anyway, or unknown."""
    it = Driver(2, THREE)
    it.ask("a")
    assert it.vanished("a") == []
    it.up("a")
    assert it.feed(Vanished("a", 0)) == []
    it.release(1)
    it.unload("a")
    assert it.vanished("a") == []
    assert it.phases() == {"a": "unloading"}
    it.gone("a")
    assert it.feed(Vanished("a", 1)) == []
    assert it.feed(Vanished("nobody", 1)) == []


def test_what_others_have_unloaded_is_not_restored() -> None:
    """It left for a load that then fails, and was let go by its server meanwhile; likewise the end while shutting down."""
    it = Driver(1, THREE)
    it.serve("a", keep=True)
    it.ask("b")
    assert it.vanished("a") == ["load b"]
    assert it.fails("b") == ["reject 2 load_failed"]
    it.now_s = 100.0
    it.serve("a", keep=True)
    assert it.feed(Shutdown()) == ["drain a shutdown"]
    assert it.vanished("a") == []
    assert it.phases() == {}


def test_who_left_for_a_load_that_fails_is_not_restored_when_somebody_else_has_loaded_it() -> None:
    """It is there already."""
    it = Driver(2, {"a": 1, "b": 2}, min_residency_s=None)
    it.serve("a")
    assert it.ask("b") == ["drain a evicted for b", "stop a"]
    assert it.gone("a") == ["load b"]
    assert it.seen("a", 1) == []
    assert it.fails("b") == ["reject 2 load_failed"]
    assert why(it, "a") is Why.FOUND


def test_what_was_found_and_evicted_is_brought_back_as_ours() -> None:
    """With our idle time from then on."""
    it = Driver(2, {"a": 1, "b": 2}, idle_s=10.0)
    it.seen("a", 1)
    assert it.ask("b") == ["drain a evicted for b", "stop a"]
    it.gone("a")
    assert it.fails("b") == ["reject 1 load_failed", "load a restored"]
    it.up("a")
    assert (why(it, "a"), it.core.wake_s(0.0)) == (Why.RESTORED, 10.0)
