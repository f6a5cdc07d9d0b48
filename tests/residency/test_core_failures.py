"""The residency core when things go wrong or somebody steps in: failures, deaths, admins, the end. Told as in `test_core.py`."""

from __future__ import annotations

import math

from gateway.residency.events import (
    Acquire,
    Died,
    Gone,
    Loaded,
    LoadFailed,
    Measured,
    Mended,
    Refusal,
    Reject,
    Shutdown,
)

from .driver import Driver
from .dump import dump

THREE = {"a": 1, "b": 1, "c": 1}


# ---------------------------------------------------------------- failures


def test_all_who_wait_are_told_when_a_load_fails() -> None:
    """With the reason, and when it will be tried again; until then nobody need wait for the same answer."""
    it = Driver(2, THREE)
    it.ask("a")
    it.ask("a")
    assert it.apply(LoadFailed("a", 1, "exit code 1")) == [
        Reject(1, "a", Refusal.LOAD_FAILED, "exit code 1", 5.0),
        Reject(2, "a", Refusal.LOAD_FAILED, "exit code 1", 5.0),
    ]
    it.now_s = 2.0
    assert it.apply(Acquire(9, "a", math.inf)) == [Reject(9, "a", Refusal.COOLING_DOWN, "exit code 1", 3.0)]
    assert it.core.retry_at_s("a") == 5.0
    it.now_s = 5.0
    assert it.ask("a") == ["load a"]


def test_cool_down_doubles_when_loads_fail_in_a_row() -> None:
    """Up to five minutes, and from the beginning again once it has loaded."""
    it = Driver(2, THREE)
    waits: list[float] = []
    for _ in range(9):
        it.now_s = it.core.retry_at_s("a")
        it.ask("a")
        it.fails("a")
        waits.append(it.core.retry_at_s("a") - it.now_s)
    assert waits == [5, 10, 20, 40, 80, 160, 300, 300, 300]
    it.now_s = it.core.retry_at_s("a")
    it.ask("a")
    it.up("a")
    it.unload("a")
    it.release(it.tickets)
    it.gone("a")
    it.ask("a")
    it.fails("a")
    assert it.core.retry_at_s("a") - it.now_s == 5


def test_nobody_is_evicted_when_a_model_is_on_probation() -> None:
    """It takes room that is free or on its way; for more it is refused until it has loaded once, or an admin asks for it."""
    it = Driver(2, THREE)
    it.ask("a")
    it.fails("a")
    it.serve("b")
    it.serve("c")
    it.now_s = 60.0
    assert it.ask("a") == ["reject 4 cooling_down"]
    assert it.unload("b") == ["drain b admin", "stop b"]
    assert it.ask("a") == []
    assert it.gone("b") == ["load a"]
    assert it.fails("a") == ["reject 5 load_failed"]
    it.serve("b")
    assert it.ask("a", explicit=True) == ["drain c evicted for a", "stop c"]


def test_an_admins_load_forgives_when_a_model_cools_down() -> None:
    """At once, in the middle of it."""
    it = Driver(2, THREE)
    it.ask("a")
    it.fails("a")
    assert it.ask("a") == ["reject 2 cooling_down"]
    assert it.ask("a", explicit=True) == ["load a"]


def test_what_was_mended_is_tried_again_at_once() -> None:
    """Its cool-down is over, and it may evict again."""
    it = Driver(1, THREE)
    it.ask("a")
    it.fails("a")
    assert it.ask("a") == ["reject 2 cooling_down"]
    assert it.feed(Mended("a")) == []
    it.serve("b")
    assert it.ask("a") == ["drain b evicted for a", "stop b"]


def test_a_victim_stays_out_when_an_admin_has_unloaded_it_meanwhile() -> None:
    """Also one that is gone already: what an admin wants out of memory is not restored."""
    it = Driver(2, {"a": 1, "b": 1, "big": 2})
    it.serve("a", at_s=1)
    it.serve("b", at_s=2)
    it.ask("big")
    it.gone("a")
    assert it.unload("a") == []
    assert it.gone("b") == ["load big"]
    assert it.fails("big") == ["reject 3 load_failed", "load b restored"]


def test_victims_come_back_when_the_load_they_left_for_fails() -> None:
    """Last used first, while there is room."""
    it = Driver(2, {"a": 1, "b": 1, "big": 2})
    it.serve("a", at_s=1)
    it.serve("b", at_s=2)
    it.ask("big")
    assert it.gone("a") == []
    assert it.gone("b") == ["load big"]
    assert it.fails("big") == ["reject 3 load_failed", "load b restored", "load a restored"]
    assert it.up("b") == []
    assert it.fails("a") == []


def test_nobody_comes_back_when_somebody_waits_for_that_room() -> None:
    """The queue goes first."""
    it = Driver(1, THREE)
    it.serve("a")
    it.ask("b")
    it.gone("a")
    it.ask("c")
    assert it.fails("b") == ["reject 2 load_failed", "load c"]


def test_first_death_is_forgiven_when_an_engine_dies() -> None:
    """Its leases are void, its bytes stay until it is gone, the next request loads it anew; dying again so soon cools it down."""
    it = Driver(1, THREE)
    it.serve("a", keep=True)
    assert it.dies("a") == ["stop a"]
    assert repr(it.core) == "<Residency ram 1 B of ram 1 B | a UNLOADING e1 0 | >"
    assert it.release(1) == []
    assert it.ask("a") == []
    assert it.gone("a") == ["load a"]
    it.up("a")
    assert it.dies("a") == ["stop a"]
    assert it.ask("a") == ["reject 3 cooling_down"]
    it.gone("a")
    it.now_s = 5.0
    assert it.ask("a") == ["load a"]


def test_the_count_begins_anew_when_an_engine_had_been_up_for_long() -> None:
    """A crash a day is not a crash loop."""
    it = Driver(1, THREE)
    for day in range(1, 4):
        it.serve("a")
        it.now_s = day * 86400.0
        assert it.dies("a") == ["stop a"]
        it.gone("a")
        assert it.core.retry_at_s("a") <= it.now_s


def test_waiting_goes_on_when_a_draining_engine_dies() -> None:
    """The head's victim ends early; its own next client waits on."""
    it = Driver(1, THREE)
    it.serve("a", keep=True)
    it.ask("b")
    it.ask("a")
    assert it.dies("a") == ["stop a"]
    assert it.gone("a") == ["load b"]
    assert repr(it.core) == "<Residency ram 1 B of ram 1 B | b LOADING e1 0 | b(1), a(1)>"


def test_late_reports_change_nothing_when_the_epoch_is_an_earlier_one() -> None:
    """Neither of the same model's last load, nor such that do not suit its phase."""
    it = Driver(1, THREE)
    it.serve("a")
    it.unload("a")
    it.gone("a")
    it.ask("a")
    before = dump(it.core)
    for epoch in (0, 1, 3):
        for report in (
            Loaded("a", epoch),
            LoadFailed("a", epoch, "late"),
            Died("a", epoch, "late"),
            Gone("a", epoch),
            Measured("a", epoch, {"ram": 9}),
        ):
            assert it.feed(report) == [], report
    assert it.feed(Died("a", 2, "it is loading")) == []
    assert it.feed(Gone("a", 2)) == []
    assert it.feed(Loaded("b", 1)) == []
    assert dump(it.core) == before


# ---------------------------------------------------------------- admins


def test_a_load_is_stopped_when_an_admin_unloads_it() -> None:
    """Those who wait are told; what then still comes of the load is too late; the next request waits until it is gone."""
    it = Driver(1, THREE)
    it.ask("a")
    assert it.unload("a") == ["reject 1 unloaded", "stop a"]
    assert it.up("a") == []
    assert it.ask("a") == []
    assert it.gone("a") == ["load a"]
    assert it.epoch("a") == 2


def test_an_unload_drains_when_the_model_is_in_use() -> None:
    """Asked for twice, or while it is cold, changes nothing; who asks for it meanwhile waits for the next load."""
    it = Driver(1, THREE)
    assert it.unload("a") == []
    it.serve("a", keep=True)
    assert it.unload("a") == ["drain a admin"]
    assert it.unload("a") == []
    assert it.ask("a") == []
    assert it.phases() == {"a": "draining"}
    assert it.release(1) == ["stop a"]
    assert it.unload("a") == []
    assert it.gone("a") == ["load a"]


def test_pins_do_not_call_anybody_back_when_it_is_draining() -> None:
    """Draining is one-way."""
    it = Driver(1, THREE)
    it.serve("a", keep=True)
    it.ask("b")
    assert it.pin("a") == []
    assert it.release(1) == ["stop a"]
    assert it.gone("a") == ["load b"]


def test_everything_leaves_when_it_shuts_down() -> None:
    """Who waits is told, loads are stopped, leases end by themselves, pins do not count, nobody new is taken in."""
    it = Driver(3, {"a": 1, "b": 1, "c": 1, "d": 1})
    it.serve("a", keep=True)
    it.serve("b")
    it.pin("b")
    it.ask("c")
    assert it.ask("d") == ["drain a evicted for d"]
    assert it.feed(Shutdown()) == [
        "reject 3 shutting_down",
        "reject 4 shutting_down",
        "drain b shutdown",
        "stop c",
        "stop b",
    ]
    assert it.ask("a") == ["reject 5 shutting_down"]
    assert it.ask("d", explicit=True) == ["reject 6 shutting_down"]
    assert it.up("c") == []
    assert it.release(1) == ["stop a"]
    for target in ("a", "b", "c"):
        assert it.gone(target) == []
    assert it.core.residents(it.now_s) == []
    assert it.core.wake_s(it.now_s) is None
