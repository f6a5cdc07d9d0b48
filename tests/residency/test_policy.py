"""Victims: in order of least recent use, enough or none, and nobody who need not leave."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from gateway.residency.policy import Candidate, choose_victims, lru_order


def idle(target: str, sizes: Mapping[str, int] | int, last_used_s: float = 0.0) -> Candidate:
    return Candidate(target, {"ram": sizes} if isinstance(sizes, int) else sizes, 0, last_used_s)


def busy(target: str, size: int, last_used_s: float = 0.0) -> Candidate:
    return Candidate(target, {"ram": size}, 1, last_used_s)


def chosen(candidates: list[Candidate], short: Mapping[str, int] | int) -> list[str] | None:
    victims = choose_victims(lru_order(candidates), {"ram": short} if isinstance(short, int) else short)
    return None if victims is None else [victim.target for victim in victims]


def test_order_is_idle_then_least_recent_then_name() -> None:
    """A busy one comes last, however long ago it was asked for; the name settles a tie."""
    candidates = [busy("a", 1, 0.0), idle("d", 1, 5.0), idle("c", 1, 2.0), idle("b", 1, 5.0)]
    assert [c.target for c in lru_order(candidates)] == ["c", "b", "d", "a"]


@pytest.mark.parametrize(
    ("short", "expected"),
    [(1, ["a"]), (3, ["a"]), (4, ["a", "b"]), (9, ["a", "b", "c"]), (10, None)],
)
def test_victims_are_as_many_as_it_takes_when_sizes_are_equal(short: int, expected: list[str] | None) -> None:
    """The least recently used ones, and nobody at all where all of them are not enough."""
    assert chosen([idle("a", 3, 1.0), idle("b", 3, 2.0), idle("c", 3, 3.0)], short) == expected


@pytest.mark.parametrize("short", [{}, {"ram": 0}, {"ram": -5}])
def test_nobody_leaves_when_nothing_is_short(short: Mapping[str, int]) -> None:
    """An empty set is an answer, not a refusal."""
    assert chosen([idle("a", 3)], short) == []


def test_small_ones_are_spared_when_a_later_big_one_makes_room_alone() -> None:
    """Taken first, found to be not needed: they stay."""
    assert chosen([idle("small", 1, 1.0), idle("little", 2, 2.0), idle("big", 8, 3.0)], 8) == ["big"]


def test_idle_ones_are_spared_when_a_busy_one_has_to_go_anyway() -> None:
    """The idle one alone is not enough, the busy one is."""
    assert chosen([idle("idle", 2), busy("busy", 6)], 5) == ["busy"]


def test_the_more_recently_used_is_spared_when_one_of_two_must_go() -> None:
    """Sparing starts with the one taken last, and never leaves too little."""
    assert chosen([idle("a", 2, 1.0), idle("b", 2, 2.0), idle("c", 5, 3.0)], 6) == ["a", "c"]


def test_every_device_is_covered_when_several_are_short() -> None:
    """One victim per device where no single one has both; who has nothing of a short device stays."""
    candidates = [
        idle("elsewhere", {"gpu1": 9}, 1.0),
        idle("ram", {"ram": 4}, 2.0),
        idle("gpu", {"gpu0": 4}, 3.0),
        idle("later", {"ram": 4, "gpu0": 4}, 4.0),
    ]
    assert chosen(candidates, {"ram": 3, "gpu0": 3}) == ["ram", "gpu"]


def test_nobody_leaves_when_one_device_cannot_be_covered() -> None:
    """Enough RAM would come free, but nobody holds the GPU."""
    assert chosen([idle("a", {"ram": 9})], {"ram": 3, "gpu0": 1}) is None


def test_both_devices_count_when_somebody_is_spared() -> None:
    """One is not needed for RAM, and still stays among the victims for the GPU."""
    candidates = [idle("gpu", {"gpu0": 2, "ram": 1}, 1.0), idle("ram", {"ram": 8}, 2.0)]
    assert chosen(candidates, {"ram": 8, "gpu0": 2}) == ["gpu", "ram"]
