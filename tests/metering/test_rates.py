"""Rates from plain counters, and counts per minute within their bounds."""

from __future__ import annotations

import pytest

from gateway.metering.rates import CELLS_MAX, MINUTES_KEPT, WINDOW_S, Minutes, Rates


def counted(made: Rates, requests: int, tokens: int) -> None:
    """So many requests, with so many tokens each."""
    for _ in range(requests):
        made.count(tokens)


def test_rates_are_those_of_the_window() -> None:
    """Steady use is told as it is, and falls to nothing within the window after it ends."""
    made = Rates()
    made.per_s(0.0)
    for second in range(1, 31):
        counted(made, 4, 25)
        made.per_s(float(second))
    assert made.per_s(30.0) == pytest.approx((4.0, 100.0))
    half = made.per_s(30.0 + WINDOW_S / 2)
    assert half == pytest.approx((2.0, 50.0), rel=0.15)
    for second in range(36, 52, 2):
        made.per_s(float(second))
    assert made.per_s(52.0) == (0.0, 0.0)


def test_the_first_look_and_one_after_a_long_pause_say_nothing() -> None:
    """What happened while nobody looked has no known time: neither a spike nor an average over hours is made of it."""
    made = Rates()
    counted(made, 1000, 1000)
    assert made.per_s(5.0) == (0.0, 0.0)
    counted(made, 1000, 1000)
    assert made.per_s(5000.0) == (0.0, 0.0)
    counted(made, 2, 5)
    assert made.per_s(5002.0) == pytest.approx((1.0, 5.0))
    assert made.per_s(5002.0) == pytest.approx((1.0, 5.0))  # the same moment again


def test_looking_often_keeps_no_more_than_the_window() -> None:
    """Five looks a second for a day are not five looks kept."""
    made = Rates()
    for look in range(1000):
        made.per_s(look / 5)
    assert len(made._seen) <= WINDOW_S * 5 + 2  # pyright: ignore[reportPrivateUsage] - the bound is what is tested


def test_minutes_count_by_model() -> None:
    """Each minute by its beginning; what ends late, or after the clock was set back, is not lost."""
    made = Minutes()
    for at_s, model in ((60, "a"), (119, "a"), (119, "b"), (120, "a"), (61, "b")):
        made.count(at_s * 1_000_000, model)
    assert list(made.since(0)) == [(60, "a", 2), (60, "b", 1), (120, "a", 1), (120, "b", 1)]
    assert list(made.since(121)) == [(120, "a", 1), (120, "b", 1)]


def test_minutes_forget_what_is_old() -> None:
    """After a day, and earlier where very many models are used."""
    made = Minutes()
    for minute in range(MINUTES_KEPT + 50):
        made.count(minute * 60_000_000, "a")
    assert next(made.since(0))[0] == 50 * 60
    assert len(list(made.since(0))) == MINUTES_KEPT
    many = Minutes()
    for minute in range(50):
        for number in range(600):
            many.count(minute * 60_000_000, f"m{number}")
    kept = list(many.since(0))
    assert CELLS_MAX - 600 <= len(kept) <= CELLS_MAX + 600
    assert kept[-1][0] == 49 * 60
