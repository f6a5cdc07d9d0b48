"""In which order targets are tried."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn

import pytest

from gateway.routing.catalog import Model, Target
from gateway.routing.select import order

from .listed import target


def ordered(
    keys: str, *, found: bool, warm: str = "", local: str = "", resting: Mapping[str, float] | None = None
) -> str:
    """The route's letters in the order they are tried."""
    rests = resting or {}
    model = Model("m", tuple(target(key) for key in keys), found=found)
    chosen = order(
        model, warm=warm.__contains__, local=local.__contains__, resting_s=lambda each: rests.get(each.key, 0.0)
    )
    return "".join(each.key for each in chosen)


@pytest.mark.parametrize(
    ("warm", "local", "expected"),
    [
        ("", "", "abcd"),
        ("c", "", "cabd"),
        ("", "bd", "bdac"),
        ("d", "bd", "dbac"),
        ("ac", "abcd", "acbd"),
    ],
)
def test_found_route_begins_with_what_is_warm_then_local(warm: str, local: str, expected: str) -> None:
    """Equals stay in configured order."""
    assert ordered("abcd", found=True, warm=warm, local=local) == expected


def test_operators_route_keeps_its_order() -> None:
    """Whatever is in memory."""
    assert ordered("abcd", found=False, warm="d", local="cd") == "abcd"


@pytest.mark.parametrize(
    ("found", "resting", "expected"),
    [
        (False, {"a": 5.0}, "bcda"),
        (False, {"a": 5.0, "c": 0.5, "b": 5.0}, "dcab"),
        (True, {"d": 1.0}, "bacd"),
        (True, {"d": 1.0, "b": 1.0, "a": 0.2}, "cadb"),
        (True, dict.fromkeys("abcd", 3.0), "dbac"),
    ],
)
def test_resting_targets_come_last_the_soonest_first(found: bool, resting: Mapping[str, float], expected: str) -> None:
    """In both kinds of route; they are put off, not left out."""
    assert ordered("abcd", found=found, warm="d", local="b", resting=resting) == expected


def test_one_target_is_returned_without_asking_anybody() -> None:
    """The usual request pays nothing."""

    def never(_: str | Target) -> NoReturn:
        raise AssertionError("asked")

    model = Model("m", (target("p/x"),), found=True)
    assert order(model, warm=never, local=never, resting_s=never) is model.targets
