"""Histograms whose buckets add up, and loads whose reloads are told from first ones."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.metering import genai
from gateway.metering.counts import (
    FIRST_S,
    LOAD_S,
    OVERHEAD_S,
    QUEUE_S,
    THRASH_OVER_S,
    THRASH_WITHIN_S,
    TOKENS,
    TOTAL_S,
    US,
    Histogram,
    Loads,
    Requests,
)

from .entries import entry


@pytest.mark.parametrize("bounds", [TOTAL_S, FIRST_S, QUEUE_S, OVERHEAD_S, LOAD_S, TOKENS], ids=len)
def test_histogram_is_cumulative_and_counts_a_bound_as_within(bounds: tuple[float, ...]) -> None:
    """Prometheus' `le`: less or equal; the last bucket holds everything."""
    histogram = Histogram(bounds)
    values = [0.0, *bounds, bounds[-1] * 10]
    for value in values:
        histogram.add(value)
    rows = histogram.buckets()
    assert [row[0] for row in rows] == [*map(str, bounds), "+Inf"]
    for label, count in rows:
        limit = math.inf if label == "+Inf" else float(label)
        assert count == sum(value <= limit for value in values)
    assert histogram.sum == pytest.approx(sum(values))


@pytest.mark.parametrize("bounds", [TOTAL_S, FIRST_S, QUEUE_S, OVERHEAD_S], ids=len)
def test_microseconds_fall_where_their_seconds_would(bounds: tuple[float, ...]) -> None:
    """A bound is a whole number of them, so that none of it is lost."""
    whole, told = Histogram(bounds, US), Histogram(bounds)
    assert all(limit == pytest.approx(bound * US) for limit, bound in zip(whole.limits, bounds, strict=True))
    for limit in whole.limits:
        for value in (limit - 1, limit, limit + 1):
            whole.add(value)
            told.add(value / US)
    assert whole.counts == told.counts
    assert whole.sum == pytest.approx(told.sum)


@pytest.mark.parametrize(
    ("ours", "theirs"), [(TOTAL_S, genai.DURATION_S), (FIRST_S, genai.FIRST_TOKEN_S)], ids=["total", "first"]
)
@given(values=st.lists(st.integers(0, 2_000_000_000)))
def test_fewer_bounds_hold_the_same_counts(
    ours: tuple[float, ...], theirs: tuple[float, ...], values: list[int]
) -> None:
    """OpenTelemetry's bounds are among ours: merging ours is as if theirs had counted."""
    histogram, wanted = Histogram(ours, US), Histogram(theirs, US)
    for value in values:
        histogram.add(value)
        wanted.add(value)
    assert histogram.within(theirs) == wanted.counts


def test_requests_are_kept_by_kind() -> None:
    """Two of a kind share a row; a caller's own words make none."""
    requests = Requests()
    for asked in ("m", "alias of m", "m"):
        requests.count(entry(asked=asked, id=asked, user_agent=asked), 10)
    requests.count(entry(status=0, left="first_byte"), 10)
    first, left = requests.rows()
    assert (first.requests, left.requests) == (3, 1)
    assert left.kind.fault == "caller_left"
    assert (requests.disconnects, dict(requests.left)) == (1, {"first_byte": 1})


# ---------------------------------------------------------------- loads


def test_a_model_that_comes_back_soon_after_its_eviction_is_a_reload() -> None:
    """Its load began within the time, however long it took; each eviction counts once."""
    loads = Loads()
    loads.loaded("a", 1000.0, 1.0)
    loads.leaves("a", 1100.0, "evicted")
    loads.loaded("a", 1100.0 + THRASH_WITHIN_S + 60.0, 61.0)
    assert loads.again == 1
    loads.loaded("a", 1200.0 + THRASH_WITHIN_S, 1.0)
    assert (loads.again, loads.results["ok"]) == (1, 3)


@pytest.mark.parametrize(
    ("why", "later_s"),
    [("idle", 10.0), ("admin", 10.0), ("died", 10.0), ("evicted", THRASH_WITHIN_S + 10.0)],
    ids=["idle", "admin", "died", "late"],
)
def test_others_are_no_reloads(why: str, later_s: float) -> None:
    """Nobody was pushed out, or so long ago that its memory was well used meanwhile."""
    loads = Loads()
    loads.leaves("a", 1000.0, why)
    loads.loaded("a", 1000.0 + later_s, 0.5)
    assert loads.again == 0


def test_the_thrash_ratio_is_that_of_the_last_hour() -> None:
    """Nothing, a half, and nothing again when it is long past."""
    loads = Loads()
    assert loads.thrash(0.0) == 0.0
    loads.loaded("a", 1000.0, 1.0)
    loads.leaves("a", 1010.0, "over_budget")
    loads.loaded("a", 1020.0, 1.0)
    assert loads.thrash(1030.0) == 0.5
    assert loads.thrash(1021.0 + THRASH_OVER_S) == 0.0


def test_what_was_believed_of_a_load_is_forgotten_with_it() -> None:
    """So that nothing is kept of what is not in memory."""
    loads = Loads()
    loads.started("a", {"ram": 5}, "estimated")
    assert loads.believed == {"a": ({"ram": 5}, "estimated")}
    loads.gone("a")
    loads.gone("a")
    assert loads.believed == {}
