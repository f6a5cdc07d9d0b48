"""Happenings in words: each kind, with the figures it has, and a real eviction of the real core."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.residency.core import Residency
from gateway.residency.events import Acquire, Describe, Drain, Loaded, Release
from gateway.residency.journal import Happening
from gateway.residency.words import seconds_text, words

GIB = 1 << 30
NAMES = {"local/b": "B", "local/c": "C"}


def said(what: str, target: str = "local/b", **more: Any) -> str:
    """In words, with B's and C's own names."""
    return words(Happening(1, 1.0, what, target, **more), lambda target: NAMES.get(target, target))


def test_an_eviction_as_the_core_decides_it() -> None:
    """What was needed, what was free, and how long the victim had been idle: the figures of the decision itself."""
    core = Residency({"ram": 20 * GIB}, queue_max=10, min_residency_s=0.0)
    core.apply(Describe("local/b", {"ram": 9 * GIB}, "declared", None), 0.0)
    core.apply(Acquire(1, "local/b", 1e9), 0.0)
    core.apply(Loaded("local/b", 1), 1.0)
    core.apply(Release(1), 2.0)
    core.apply(Describe("local/c", {"ram": int(18.2 * GIB)}, "declared", None), 342.0)
    decisions = core.apply(Acquire(2, "local/c", 1e9), 342.0)
    drain = next(decision for decision in decisions if isinstance(decision, Drain))
    text = said(
        "draining",
        drain.target,
        why=drain.why,
        detail=drain.detail,
        for_target=drain.for_target,
        seconds=drain.idle_s,
    )
    assert text == "evicted B for C: ram 18.2 GiB needed, ram 11.0 GiB free, B idle 340 s"


@pytest.mark.parametrize(
    ("text", "what", "more"),
    [
        ("evicted B for C: B was in use", "draining", {"why": "evicted", "for_target": "local/c", "seconds": 0.0}),
        ("B may leave after 15 min idle", "draining", {"why": "idle", "seconds": 900.0, "detail": "idle 900 s"}),
        ("B leaves, as an admin wants", "draining", {"why": "admin"}),
        (
            "B leaves: the budget has become too small (ram 1.0 GiB over budget)",
            "draining",
            {"why": "over_budget", "detail": "ram 1.0 GiB over budget", "seconds": 3.0},
        ),
        ("B leaves: the gateway is shutting down", "draining", {"why": "shutdown"}),
        ("B leaves", "draining", {"why": "of another kind"}),
        ("loading B", "load_started", {"why": "requested"}),
        (
            "loading B (ram 2.0 GiB, estimated)",
            "load_started",
            {"why": "requested", "footprint": {"ram": 2 * GIB}, "footprint_source": "estimated"},
        ),
        ("loading B again: what it had made room for did not load", "load_started", {"why": "restored"}),
        ("loaded B in 0.42 s", "loaded", {"seconds": 0.42}),
        ("B did not load: no such file", "load_failed", {"detail": "no such file"}),
        ("B died: the engine ended with code 9", "died", {"detail": "the engine ended with code 9"}),
        ("unloading B", "unload_started", {"why": "idle"}),
        ("B has left memory, which took 1.2 s", "gone", {"seconds": 1.2}),
        ("a request waits for B", "queued", {"ticket": 4}),
        ("a request for B goes on after 3.0 s", "granted", {"seconds": 3.0}),
        (
            "a request for B was given up: waited 600.0 s for a place in memory",
            "rejected",
            {"why": "wait_timed_out", "detail": "waited 600.0 s for a place in memory"},
        ),
        (
            "refused B: it is larger than the budget (ram: needs 9 GiB)",
            "rejected",
            {"why": "larger_than_budget", "detail": "ram: needs 9 GiB"},
        ),
        ("refused a request for B", "rejected", {"why": "of another kind"}),
        ("pinned B", "pinned", {}),
        ("unpinned B", "unpinned", {}),
        ("B is in memory: somebody else loaded it (gpu0 1.0 GiB)", "found", {"footprint": {"gpu0": GIB}}),
        ("B left its server's memory by itself", "vanished", {}),
        ("something new B", "something_new", {}),
    ],
)
def test_each_kind_has_its_words(text: str, what: str, more: dict[str, Any]) -> None:
    """One line, the model by the name that people ask for, no full stop."""
    assert said(what, **more) == text


def test_a_happening_of_nobody() -> None:
    """The budget's belongs to no target."""
    assert said("budget", "", detail="ram 20.0 GiB") == "the budget changed: ram 20.0 GiB"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.004, "0.00 s"), (9.94, "9.9 s"), (340, "340 s"), (599.4, "599 s"), (1500, "25 min"), (7200, "2 h")],
)
def test_durations(seconds: float, text: str) -> None:
    """As exact as anybody wants to read them."""
    assert seconds_text(seconds) == text
