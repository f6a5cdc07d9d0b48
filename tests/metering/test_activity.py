"""The last requests: bounded, numbered, filtered, and paged without one twice or missing."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.metering.activity import (
    Activity,
    Begun,
    Wanted,
    cursor_of,
    outcome_of,
    page_of,
    place_of,
    read_cursor,
    row_of,
)
from gateway.metering.entry import Entry

from .entries import entry


class Waiting:
    """A request that has not ended."""

    def begun(self) -> Begun:
        return Begun(
            id="req-9",
            at_us=9,
            principal="",
            key_id="",
            tenant="",
            asked="m",
            model="m",
            target="",
            route="/v1/chat/completions",
            streamed=False,
            phase="queued",
        )


def filled(count: int, kept: int = 1000) -> Activity:
    """With so many ended, of which so many are kept."""
    activity = Activity(kept)
    for number in range(1, count + 1):
        activity.end(activity.begin(Waiting()), entry(f"req-{number}", number))
    return activity


def test_it_keeps_the_last_ones_and_counts_all() -> None:
    """What is older is forgotten; numbers tell how much was missed."""
    activity = filled(25, kept=10)
    assert (activity.began, activity.ended, activity.oldest, activity.running) == (25, 25, 16, {})
    assert [each.id for each in activity.since(22)] == ["req-23", "req-24", "req-25"]
    assert [each.id for each in activity.since(3)] == [f"req-{number}" for number in range(16, 26)]
    assert activity.since(25) == []
    assert activity.since(99) == []


def test_what_is_packed_comes_back_as_it_was() -> None:
    """Every entry in its order, money and all; nothing is kept meanwhile, and what comes later comes after."""
    activity = Activity(kept=3)
    entries = [entry(id=f"req-{number}", cost_usd=Decimal("0.1") / 3, asked="ü€\0") for number in range(4)]
    for each in entries:
        activity.end(activity.begin(Waiting()), each)
    with activity.packed():
        assert activity.since(0) == []
    assert activity.since(0) == entries[1:]
    activity.end(activity.begin(Waiting()), entries[0])
    assert activity.since(0) == [*entries[2:], entries[0]]


def test_what_is_packed_lies_there_once() -> None:
    """Words and costs that several entries have; a cost is written as it was."""
    activity = Activity()
    for cost in ("0", "0.1", "0.10", "0", "0.1"):
        activity.end(activity.begin(Waiting()), entry(cost_usd=Decimal(cost)))
    with activity.packed():
        pass
    kept = activity.since(0)
    assert [str(each.cost_usd) for each in kept] == ["0", "0.1", "0.10", "0", "0.1"]
    assert kept[0].cost_usd is kept[3].cost_usd
    assert kept[0].model is kept[1].model


def test_what_cannot_be_packed_stays() -> None:
    """Half a surrogate pair in somebody's name for a model."""
    activity = Activity()
    activity.end(activity.begin(Waiting()), entry(asked="\ud800"))
    with activity.packed():
        assert len(activity.since(0)) == 1
    assert activity.since(0) == [entry(asked="\ud800")]


def test_those_in_progress_are_told_until_they_end() -> None:
    """Oldest first, each with its number."""
    activity = Activity()
    first, second = activity.begin(Waiting()), activity.begin(Waiting())
    assert [number for number, _ in activity.in_progress()] == [first, second]
    activity.end(first, entry())
    activity.end(first, entry())  # said twice: it does no harm
    assert [(number, begun.phase) for number, begun in activity.in_progress()] == [(second, "queued")]


def test_of_two_with_one_id_the_last_is_found() -> None:
    """Callers may choose ids, also twice."""
    activity = Activity()
    for at_us in (1, 2):
        activity.end(activity.begin(Waiting()), entry("mine", at_us))
    found = activity.one("mine")
    assert found is not None
    assert found.at_us == 2
    assert activity.one("other") is None


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({}, "ok"),
        ({"status": 304}, "ok"),
        ({"status": 400}, "error"),
        ({"status": 200, "code": "upstream_broke"}, "error"),
        ({"status": 0}, "error"),
        ({"status": 0, "left": "queued"}, "left"),
        ({"status": 200, "left": "answer"}, "left"),
    ],
)
def test_outcomes(said: dict[str, Any], expected: str) -> None:
    """A stream that broke off has status 200 and a code; whoever left has not failed."""
    assert outcome_of(entry(**said)) == expected


@pytest.mark.parametrize(
    ("wanted", "ids"),
    [
        (Wanted(), ["a", "b", "c"]),
        (Wanted(model="public"), ["b"]),
        (Wanted(model="alias"), ["b"]),
        (Wanted(model="up/x"), ["b"]),
        (Wanted(key="key-7"), ["c"]),
        (Wanted(key="who"), ["c"]),
        (Wanted(tenant="t"), ["c"]),
        (Wanted(outcome="error"), ["a"]),
        (Wanted(outcome="ok", tenant="t"), ["c"]),
        (Wanted(q="TIMED"), ["a"]),
        (Wanted(q="503"), ["a"]),
        (Wanted(q="curl"), ["b"]),
        (Wanted(q="nothing like it"), []),
        (Wanted(before=(2, "b")), ["a"]),
        (Wanted(before=(2, "c")), ["a", "b"]),
    ],
)
def test_what_is_wanted(wanted: Wanted, ids: list[str]) -> None:
    """By model in any of its names, by key, tenant and outcome, by words; and before a place."""
    activity = Activity()
    for each in (
        entry("a", 1, status=503, code="wait_timed_out"),
        entry("b", 2, asked="alias", model="public", target="up/x", user_agent="curl/8"),
        entry("c", 2, key_id="key-7", principal="who", tenant="t"),
    ):
        activity.end(activity.begin(Waiting()), each)
    assert [each.id for each in activity.matching(wanted)] == ids


@given(
    st.lists(st.tuples(st.integers(0, 5), st.text("ab.1", max_size=2)), max_size=30),
    st.integers(1, 7),
    st.integers(0, 30),
)
def test_pages_hold_each_row_once_in_order(places: list[tuple[int, str]], limit: int, split: int) -> None:
    """Also where memory and ledger both hold a row, and where many have the same time."""
    rows = [entry(id, at_us) for at_us, id in places]
    memory, ledger = rows[split:], rows  # the ledger has all, memory the last of them again
    seen: list[tuple[int, str]] = []
    before: tuple[int, str] | None = None
    while True:
        wanted = Wanted(before=before)
        newest = sorted(
            filter(wanted.holds, {place_of(row): row for row in ledger}.values()), key=place_of, reverse=True
        )
        page = page_of([*filter(wanted.holds, memory), *newest[: limit + 1]], limit)
        assert len(page.rows) <= limit
        seen += map(place_of, page.rows)
        if page.next is None:
            break
        before = read_cursor(page.next)
        assert before == seen[-1]
    assert seen == sorted(set(places), reverse=True)


@pytest.mark.parametrize("written", ["", "x", "12", ".id", "-1.a", "1" * 19 + ".a", "²3.a", "1_0.a"])
def test_a_cursor_that_is_none_of_ours_is_seen(written: str) -> None:
    """Never an exception, never another page."""
    assert read_cursor(written) is None


def test_ids_with_dots_come_back_whole() -> None:
    """A caller's id may hold any of them."""
    assert read_cursor(cursor_of(entry("a.b.c", 7))) == (7, "a.b.c")


def test_money_is_written_in_plain_digits() -> None:
    """A tenth of a millionth is no "1E-7" for who reads it as text; unknown is null."""

    def cost(amount: Decimal | None) -> object:
        made: Entry = entry(cost_usd=amount)
        return row_of(made)["cost_usd"]

    assert cost(Decimal("1E-7")) == "0.0000001"
    assert cost(None) is None
