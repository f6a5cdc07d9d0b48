"""The residency core told as stories: what is asked, and word for word what is decided."""

from __future__ import annotations

import math

import pytest

from gateway.residency.events import Acquire, Drain, Phase, Refusal, Reject, StartUnload, Why

from .driver import Driver
from .dump import dump

THREE = {"a": 1, "b": 1, "c": 1}


def room_for_two() -> Driver:
    return Driver(2, THREE)


# ---------------------------------------------------------------- the everyday way


def test_a_model_is_loaded_and_granted_when_it_is_asked_for() -> None:
    """Cold, loading, ready; and the next request for it passes in the same moment."""
    it = room_for_two()
    assert it.ask("a") == ["load a"]
    assert repr(it.core) == "<Residency ram 1 B of ram 2 B | a LOADING e1 0 | a(1)>"
    assert it.up("a") == ["grant 1 a"]
    assert it.ask("a") == ["grant 2 a"]
    assert repr(it.core) == "<Residency ram 1 B of ram 2 B | a READY e1 2 | >"


def test_least_recently_used_leaves_when_there_is_room_for_two() -> None:
    """A, B, then A again: C takes B's place, and later A takes nobody's."""
    it = room_for_two()
    it.serve("a", at_s=1)
    it.serve("b", at_s=2)
    it.serve("a", at_s=3)
    it.now_s = 4.0
    decisions = it.apply(Acquire(9, "c", math.inf))
    assert decisions == [
        Drain("b", 1, Why.EVICTED, "ram 1 B needed, ram 0 B free, b idle 2 s", 0, 2.0, "c"),
        StartUnload("b", 1, Why.EVICTED),
    ]
    assert it.gone("b") == ["load c"]
    assert it.up("c") == ["grant 9 c"]
    assert it.ask("a") == ["grant 4 a"]
    assert repr(it.core) == "<Residency ram 2 B of ram 2 B | a READY e1 1, c READY e1 1 | >"


def test_one_load_serves_all_when_fifty_ask() -> None:
    """One StartLoad, fifty grants in the order of arrival."""
    it = room_for_two()
    assert it.ask("a") == ["load a"]
    assert [it.ask("a") for _ in range(49)] == [[]] * 49
    assert it.up("a") == [f"grant {ticket} a" for ticket in range(1, 51)]


def test_a_load_goes_on_when_all_who_waited_have_left() -> None:
    """It is ready, in use by nobody, for whoever comes next."""
    it = room_for_two()
    it.ask("a")
    it.ask("a")
    assert it.release(1) == []
    assert it.release(2) == []
    assert it.up("a") == []
    assert repr(it.core) == "<Residency ram 1 B of ram 2 B | a READY e1 0 | >"


def test_a_busy_victim_is_stopped_when_its_last_lease_ends() -> None:
    """Drained at once, granted to nobody any more, stopped under no lease."""
    it = Driver(1, THREE)
    it.serve("a", keep=True)
    it.serve("a", keep=True)
    assert it.ask("b") == ["drain a evicted for b"]
    assert it.ask("a") == []  # behind b
    assert it.release(1) == []
    assert it.release(2) == ["stop a"]
    assert it.gone("a") == ["load b"]
    assert it.up("b") == ["grant 3 b", "drain b evicted for a"]
    assert it.release(3) == ["stop b"]
    assert it.gone("b") == ["load a"]
    assert it.up("a") == ["grant 4 a"]


def test_a_release_changes_nothing_when_its_ticket_is_unknown_or_done() -> None:
    """Twice the same, and one that never was."""
    it = room_for_two()
    ticket = it.serve("a")
    before = dump(it.core)
    assert it.release(ticket) == []
    assert it.release(999) == []
    assert dump(it.core) == before


# ---------------------------------------------------------------- the queue


def test_ready_models_are_granted_when_the_head_waits() -> None:
    """Whoever wants what is there does not stand in the queue."""
    it = room_for_two()
    it.serve("a", keep=True)
    it.serve("b", keep=True)
    assert it.ask("c") == ["drain a evicted for c"]
    assert it.ask("b") == ["grant 4 b"]


def test_nobody_overtakes_when_the_room_is_the_heads() -> None:
    """One of two places is free, the head needs both: the small one waits behind it, though it would fit now."""
    it = Driver(2, {"busy": 1, "big": 2, "small": 1})
    it.serve("busy", keep=True)
    assert it.ask("big") == ["drain busy evicted for big"]
    assert it.ask("small") == []
    assert [view.position for view in it.core.waiting(0.0)] == [1, 2]
    assert it.release(1) == ["stop busy"]
    assert it.gone("busy") == ["load big"]
    assert it.up("big") == ["grant 2 big", "drain big evicted for small"]


def test_a_small_one_starts_when_the_head_does_not_need_its_room() -> None:
    """The head waits for two of three places; the third is free for whoever is behind it."""
    it = Driver(4, {"busy": 3, "big": 3, "small": 1})
    it.serve("busy", keep=True)
    assert it.ask("big") == ["drain busy evicted for big"]
    assert it.ask("small") == ["load small"]


def test_those_behind_the_head_evict_idle_ones_only_when_they_wait() -> None:
    """Draining busy ones is the head's; else a long queue would end every stream at once."""
    it = Driver({"ram": 2, "gpu0": 2}, {"r1": 2, "g1": {"gpu0": 2}, "r2": 2, "g2": {"gpu0": 2}})
    it.serve("r1", keep=True)
    it.serve("g1", keep=True)
    assert it.ask("r2") == ["drain r1 evicted for r2"]
    assert it.ask("g2") == []
    assert it.release(2) == ["drain g1 evicted for g2", "stop g1"]


def test_place_is_lost_when_the_first_client_of_a_model_leaves() -> None:
    """The model's place becomes that of its next client, who came after somebody else."""
    it = Driver(1, THREE)
    it.serve("a", keep=True)
    it.ask("b")
    it.ask("c")
    it.ask("b")
    assert it.release(2) == []
    assert repr(it.core) == "<Residency ram 1 B of ram 1 B | a DRAINING e1 1 | c(1), b(1)>"
    it.release(1)
    assert it.gone("a") == ["load c"]


def test_a_ticket_is_rejected_when_the_queue_is_full() -> None:
    """With the advice to come back; a place that was left is given away again."""
    it = Driver(1, THREE, queue_max=1)
    it.serve("a", keep=True)
    it.ask("b")
    detail = "1 requests are waiting already (queue_max)"
    assert it.apply(Acquire(9, "c", math.inf)) == [Reject(9, "c", Refusal.QUEUE_FULL, detail, 5.0)]
    it.release(1)
    it.gone("a")
    it.up("b")
    assert it.ask("c") == ["drain b evicted for c"]
    assert it.ask("a") == ["reject 4 queue_full"]


def test_a_ticket_ends_when_its_deadline_is_reached() -> None:
    """Not before; and one that asks with no patience is told in the same moment."""
    it = Driver(1, THREE)
    it.serve("a", keep=True)
    it.ask("b", patience_s=10)
    assert it.core.wake_s(0.0) == 10.0
    assert it.tick(9.9) == []
    assert it.tick(10.0) == ["reject 2 wait_timed_out"]
    assert it.ask("c", patience_s=0) == ["reject 3 wait_timed_out"]
    assert repr(it.core) == "<Residency ram 1 B of ram 1 B | a DRAINING e1 1 | >"


def test_only_so_many_models_are_planned_for_when_the_queue_is_long() -> None:
    """Eight wait for RAM; the ninth would fit beside them, and is looked at when one of them has left."""
    it = Driver({"ram": 1, "gpu0": 1}, {"a": 1, "g": {"gpu0": 1}} | {f"m{n}": 1 for n in range(8)})
    it.serve("a", keep=True)
    for number in range(8):
        it.ask(f"m{number}")
    assert it.core.plan("g", 0.0).outcome == "waits"
    assert it.ask("g") == []
    assert it.release(5) == ["load g"]


# ---------------------------------------------------------------- protection and idleness


@pytest.mark.parametrize(
    ("min_residency_s", "load_s", "protected_s"),
    [(0.0, 7.0, 0.0), (20.0, 7.0, 20.0), (None, 7.0, 7.0), (None, 90.0, 30.0)],
)
def test_a_model_stays_when_its_minimum_residency_has_not_ended(
    min_residency_s: float | None, load_s: float, protected_s: float
) -> None:
    """Given, or as long as its own load took and at most 30 s; a tick is due at the end of it."""
    it = Driver(1, THREE, min_residency_s=min_residency_s)
    it.ask("a")
    it.now_s = load_s
    it.up("a")
    it.release(1)
    said = it.ask("b")
    if protected_s:
        assert said == []
        assert it.core.wake_s(it.now_s) == load_s + protected_s
        assert it.tick(load_s + protected_s - 0.1) == []
        said = it.tick(load_s + protected_s)
    assert said == ["drain a evicted for b", "stop a"]


@pytest.mark.parametrize("idle_s", [0.0, 30.0])
def test_a_model_is_unloaded_when_it_was_idle_long_enough(idle_s: float) -> None:
    """Counted from the end of its last lease; while it is in use it is only looked at now and then."""
    it = Driver(2, THREE, idle_s=idle_s)
    it.serve("a", keep=True)
    assert it.core.wake_s(0.0) == max(idle_s, 1.0)
    it.now_s = 5.0
    assert it.release(1) == []
    assert it.core.wake_s(5.0) == 5.0 + idle_s
    assert it.tick(5.0 + idle_s) == ["drain a idle", "stop a"]
    assert it.core.wake_s(it.now_s) is None


def test_a_model_stays_when_it_has_no_idle_limit_or_is_pinned() -> None:
    """No tick is due for it either. Unpinned after a long while, it leaves at once."""
    it = Driver(2, {"a": 1}, idle_s=None)
    it.serve("a")
    assert it.tick(1e9) == []
    it.describe("a", 1, idle_s=10.0)
    assert it.pin("a") == []
    assert it.core.wake_s(it.now_s) is None
    assert it.tick() == []
    assert it.pin("a", pinned=False) == ["drain a idle", "stop a"]


# ---------------------------------------------------------------- pins and sizes


def test_a_pinned_model_is_passed_over_when_victims_are_chosen() -> None:
    """Though it is the least recently used; and a pin taken off at any time counts at once."""
    it = room_for_two()
    it.serve("a", at_s=1)
    it.serve("b", at_s=2)
    it.pin("a")
    assert it.core.is_pinned("a")
    assert it.ask("c") == ["drain b evicted for c", "stop b"]
    assert it.pin("a", pinned=False) == []


def test_waiting_ends_when_a_pin_takes_the_last_way() -> None:
    """The head waited for a protection to end; now that model stays for good, and the head is told. The next one is served."""
    it = Driver({"ram": 1, "gpu0": 1}, {"a": 1, "b": 1, "c": {"gpu0": 1}}, min_residency_s=60.0)
    it.serve("a")
    it.serve("c")
    assert it.ask("b") == []
    assert it.pin("a") == ["reject 3 no_room_beside_pins"]
    [refused] = it.apply(Acquire(9, "b", math.inf))
    assert isinstance(refused, Reject)
    assert (refused.refusal, refused.retry_after_s) == (Refusal.NO_ROOM_BESIDE_PINS, None)
    assert "1 bytes" in refused.detail
    assert "0 bytes" in refused.detail


def test_both_numbers_are_named_when_a_model_is_larger_than_the_budget() -> None:
    """Repeating cannot help, so no time is named."""
    it = Driver({"ram": 10, "gpu0": 4}, {"big": {"ram": 1, "gpu0": 5}, "elsewhere": {"gpu7": 1}})
    [refused] = it.apply(Acquire(1, "big", math.inf))
    assert isinstance(refused, Reject)
    assert (refused.refusal, refused.retry_after_s) == (Refusal.LARGER_THAN_BUDGET, None)
    assert refused.detail.startswith("gpu0: ")
    assert "5 bytes" in refused.detail
    assert "4 bytes" in refused.detail
    assert it.ask("elsewhere") == ["reject 1 larger_than_budget"]


def test_every_device_counts_when_a_model_is_to_fit() -> None:
    """RAM would be free at once; the GPU is held by another, who has to go, and the one that only holds RAM stays."""
    it = Driver({"ram": 10, "gpu0": 4}, {"r": 4, "g": {"ram": 1, "gpu0": 3}, "both": {"ram": 2, "gpu0": 2}})
    it.serve("r", at_s=1)
    it.serve("g", at_s=2)
    assert it.ask("both") == ["drain g evicted for both", "stop g"]
    assert it.core.committed_bytes() == {"ram": 5, "gpu0": 3}
    assert it.gone("g") == ["load both"]
    assert it.core.committed_bytes() == {"ram": 6, "gpu0": 2}


def test_bytes_stay_committed_when_an_engine_is_being_stopped() -> None:
    """From the decision to load until it is seen to be gone; a tick in between starts nobody."""
    it = Driver(1, THREE)
    it.serve("a")
    assert it.ask("b") == ["drain a evicted for b", "stop a"]
    assert it.core.committed_bytes() == {"ram": 1}
    assert it.tick(100.0) == []
    assert it.gone("a") == ["load b"]
    assert it.core.committed_bytes() == {"ram": 1}


def test_idle_ones_leave_when_the_budget_falls() -> None:
    """The least recently used first, as many as it takes; busy ones stay, and go once they are idle."""
    it = Driver(4, {"a": 1, "b": 1, "c": 1, "d": 1})
    for at_s, name in enumerate("abcd"):
        it.serve(name, at_s=at_s, keep=name == "a")
    assert it.budget(2) == ["drain b over_budget", "drain c over_budget", "stop b", "stop c"]
    assert it.gone("b") == []
    assert it.gone("c") == []
    assert it.budget(0) == []  # d alone would not be enough
    it.now_s = 9.0
    assert it.release(1) == ["drain d over_budget", "drain a over_budget", "stop a", "stop d"]


def test_committed_bytes_only_rise_when_an_engine_is_measured() -> None:
    """Less than was thought is not believed, more is; who no longer fits beside it leaves."""
    it = Driver(4, {"a": 2, "b": 2})
    it.serve("a", keep=True)
    it.serve("b")
    assert it.measured("a", 1) == []
    assert it.core.committed_bytes() == {"ram": 4}
    assert it.measured("a", 3) == ["drain b over_budget", "stop b"]
    assert it.core.committed_bytes() == {"ram": 5}


# ---------------------------------------------------------------- found by the simulation


def test_a_protection_that_ended_is_still_due_when_another_event_came_first() -> None:
    """The tick is late, a rejected request comes in between, and the alarm is set anew: it must ring at once, not never."""
    it = Driver(1, {"a": 1, "b": 1, "huge": 9}, min_residency_s=10.0)
    it.serve("a")
    assert it.ask("b") == []
    assert it.core.wake_s(0.0) == 10.0
    it.now_s = 10.5
    assert it.ask("huge") == ["reject 3 larger_than_budget"]
    assert it.core.wake_s(10.5) == 10.0
    assert it.tick() == ["drain a evicted for b", "stop a"]
    assert it.core.wake_s(10.5) is None


def test_the_next_head_drains_busy_ones_when_the_head_starts() -> None:
    """In the same decision: nothing else need happen before it is served as the head that it is now."""
    it = Driver({"ram": 2, "gpu0": 1}, {"a": 1, "g": {"gpu0": 1}, "b": 2, "h": {"gpu0": 1}})
    it.serve("a", keep=True)
    it.serve("g", keep=True)
    assert it.ask("b") == ["drain a evicted for b"]
    assert it.ask("h") == []
    assert it.release(1) == ["stop a"]
    assert it.gone("a") == ["load b", "drain g evicted for h"]


def test_victims_of_long_ago_stay_away_when_a_later_load_fails() -> None:
    """They left for clients who gave up; the load that fails now took free room."""
    it = Driver(1, THREE)
    it.serve("a")
    it.ask("b")
    it.release(2)
    it.gone("a")
    it.now_s = 9999.0
    assert it.ask("b") == ["load b"]
    assert it.fails("b") == ["reject 3 load_failed"]


def test_all_victims_come_back_when_they_left_in_two_steps() -> None:
    """A second one had to leave because the model was described anew; the first is not forgotten."""
    it = Driver(2, THREE)
    it.serve("a", at_s=1)
    it.serve("b", at_s=2)
    assert it.ask("c") == ["drain a evicted for c", "stop a"]
    assert it.describe("c", 2) == ["drain b evicted for c", "stop b"]
    it.gone("a")
    assert it.gone("b") == ["load c"]
    assert it.fails("c") == ["reject 3 load_failed", "load b restored", "load a restored"]


def test_idle_ones_leave_when_another_device_cannot_be_helped() -> None:
    """The GPU is over its budget because of one that is busy; RAM can be brought back, and is."""
    it = Driver({"ram": 4, "gpu0": 2}, {"busy": {"gpu0": 2}, "idle": 3})
    it.serve("busy", keep=True)
    it.serve("idle")
    assert it.budget({"ram": 2, "gpu0": 1}) == ["drain idle over_budget", "stop idle"]


def test_the_queue_is_served_again_when_a_smaller_budget_makes_somebody_leave() -> None:
    """Its one unprotected victim was not enough for the head; with what an idle one leaves, it is."""
    it = Driver(10, {"old": 3, "idle": 3, "new": 4, "head": 5}, min_residency_s=10.0)
    it.serve("old", at_s=0, keep=True)
    it.serve("idle", at_s=5)
    it.serve("new", at_s=6, keep=True)
    it.now_s = 11.0
    assert it.ask("head") == []
    assert it.budget(9) == ["drain idle over_budget", "drain old evicted for head", "stop idle"]


def test_waiting_ends_when_a_new_description_lets_it_fit() -> None:
    """Or never fit: the latest word holds at once."""
    it = Driver(3, {"a": 2, "b": 2, "c": 2}, min_residency_s=60.0)
    it.serve("a", keep=True)
    assert it.ask("b") == []
    assert it.ask("c") == []
    assert it.describe("b", 1) == ["load b"]
    assert it.describe("c", 9) == ["reject 3 larger_than_budget"]


def test_nothing_is_needed_of_a_device_when_its_bytes_are_zero() -> None:
    """A GPU over its budget is no reason to keep a model out that only needs RAM."""
    it = Driver({"ram": 4, "gpu0": 2}, {"g": {"gpu0": 2}, "r": {"ram": 1, "gpu0": 0}})
    it.serve("g", keep=True)
    it.pin("g")
    it.budget({"ram": 4, "gpu0": 1})
    assert it.ask("r") == ["load r"]


def test_bytes_are_shown_when_their_device_has_left_the_budget() -> None:
    """They are held all the same."""
    it = Driver({"ram": 4, "gpu0": 2}, {"g": {"gpu0": 2}})
    it.serve("g", keep=True)
    it.budget({"ram": 4})
    assert it.core.committed_bytes() == {"ram": 0, "gpu0": 2}


def test_free_room_is_taken_when_victims_leave_for_those_before() -> None:
    """Idle ones leave so that the head's claim is met; who made them leave starts in what is free, not after they have gone."""
    it = Driver(10, {"busy": 5, "idle": 3, "big": 7, "small": 2})
    it.serve("busy", keep=True)
    it.serve("idle")
    assert it.ask("big") == ["drain busy evicted for big"]
    assert it.ask("small") == ["drain idle evicted for small", "load small", "stop idle"]


def test_a_model_that_can_never_fit_is_refused_when_its_last_process_is_still_stopping() -> None:
    """At the door, not after a wait."""
    it = Driver(4, {"a": 2})
    it.serve("a")
    it.unload("a")
    it.describe("a", 9)
    assert it.ask("a") == ["reject 2 larger_than_budget"]


def test_the_books_do_not_grow_when_clients_without_a_deadline_come_and_go() -> None:
    """Whoever was answered is forgotten."""
    it = Driver(1, THREE)
    sizes: set[int] = set()
    for _ in range(20):
        it.serve("a")
        it.unload("a")
        it.gone("a")
        sizes.add(len(str(dump(it.core)).replace(str(it.tickets), "n")))
    assert max(sizes) - min(sizes) <= 4


# ---------------------------------------------------------------- reading


def test_views_say_what_there_is_when_asked() -> None:
    """Residents oldest first with how long they took; the queue by ticket with each model's place."""
    it = Driver(2, THREE)
    it.ask("a")
    it.now_s = 3.0
    it.up("a")
    it.now_s = 4.0
    it.ask("b")
    [first, second] = it.core.residents(10.0)
    assert (first.target, first.phase, first.leases, first.load_s, first.resident_s, first.idle_s) == (
        "a",
        Phase.READY,
        1,
        3.0,
        10.0,
        0.0,
    )
    assert (second.phase, second.load_s, second.why) == (Phase.LOADING, None, Why.REQUESTED)
    [waiting] = it.core.waiting(10.0)
    assert (waiting.ticket, waiting.target, waiting.waiting_s, waiting.position) == (2, "b", 6.0, 1)
    assert it.core.held() == [1]
    assert (it.core.is_ready("a"), it.core.is_ready("b"), it.core.is_ready("c")) == (True, False, False)
    assert (it.core.knows("c"), it.core.knows("d")) == (True, False)
    assert it.core.budget_bytes() == {"ram": 2}
