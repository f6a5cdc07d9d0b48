"""Limits: never more than the limit in any window, never less; all or nothing; settled exactly; waits that are true."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.access.limits import BUDGET_CODE, CONCURRENCY_CODE, EXACT_MAX, RATE_CODE, Limiter, Reservation, Used
from gateway.access.principal import Limits
from gateway.errors import RateLimited

NOON_S = 1_767_268_800.0  # 2026-01-01T12:00:00Z
DAY_S = 86_400
FREE = Decimal(0)
CENT = Decimal("0.01")


def let_in(limiter: Limiter, limits: Limits, now_s: float, tokens: int = 0, cost_usd: Decimal | None = FREE) -> bool:
    """One request of one key; it stays open."""
    try:
        limiter.reserve("key:a", limits, tokens=tokens, cost_usd=cost_usd, now_s=now_s)
    except RateLimited:
        return False
    return True


def refusal(
    limiter: Limiter, limits: Limits, now_s: float, tokens: int = 0, cost: Decimal | None = FREE
) -> RateLimited:
    """That there is no room is what a test wants."""
    with pytest.raises(RateLimited) as caught:
        limiter.reserve("key:a", limits, tokens=tokens, cost_usd=cost, now_s=now_s)
    return caught.value


# a reference that keeps everything and adds it up each time


class Reference:
    """The law, written down as slowly as can be. Times are whole microseconds."""

    def __init__(self) -> None:
        self.requests: dict[str, list[list[int]]] = {}
        self.tokens: dict[str, list[list[int]]] = {}
        self.running: dict[str, int] = {}
        self.spent: dict[tuple[str, str, object], Decimal] = {}

    def fits(
        self, subjects: Sequence[tuple[str, Limits]], tokens: int, cost: Decimal | None, now: int, *, places: bool
    ) -> bool:
        for who, limits in subjects:
            if limits.rpm and in_window(self.requests.get(who, []), now) + 1 > limits.rpm:
                return False
            if limits.tpm and in_window(self.tokens.get(who, []), now) + min(tokens, limits.tpm) > limits.tpm:
                return False
            if places and limits.concurrent and self.running.get(who, 0) + 1 > limits.concurrent:
                return False
            for budget, period in ((limits.budget_usd_day, "day"), (limits.budget_usd_month, "month")):
                spent = self.spent.get((who, period, period_of(period, now)), FREE)
                if budget is not None and cost != 0 and (spent >= budget or spent + (cost or FREE) > budget):
                    return False
        return True

    def take(self, subjects: Sequence[tuple[str, Limits]], tokens: int, cost: Decimal | None, now: int) -> list[Any]:
        holds: list[Any] = []
        for who, limits in subjects:
            held = min(tokens, limits.tpm) if limits.tpm else tokens
            request, mark = [now, 1], [now, held]
            self.requests.setdefault(who, []).append(request)
            self.tokens.setdefault(who, []).append(mark)
            self.running[who] = self.running.get(who, 0) + 1
            self._spend(who, cost or FREE, now)
            holds.append((who, request, mark, now, cost or FREE))
        return holds

    def settle(self, holds: list[Any], tokens: int | None, cost: Decimal | None, now: int) -> None:
        for who, _, mark, began, reserved in holds:
            self.running[who] -= 1
            if tokens is not None:
                if tokens > mark[1]:
                    self.tokens[who].append([now, tokens - mark[1]])
                else:
                    mark[1] = tokens
            if cost is not None and period_of("day", began) == period_of("day", now):
                self._spend(who, cost - reserved, began)
            elif cost is not None:
                for period in ("day", "month"):
                    if period_of(period, began) == period_of(period, now):
                        self._add(who, period, cost - reserved, began)

    def release(self, holds: list[Any], now: int) -> None:
        for _, request, *_ in holds:
            request[1] = 0
        self.settle(holds, 0, FREE, now)

    def _spend(self, who: str, usd: Decimal, now: int) -> None:
        self._add(who, "day", usd, now)
        self._add(who, "month", usd, now)

    def _add(self, who: str, period: str, usd: Decimal, now: int) -> None:
        key = (who, period, period_of(period, now))
        self.spent[key] = self.spent.get(key, FREE) + usd


def in_window(marks: list[list[int]], now: int) -> int:
    """What is taken in the 60 s that end now."""
    return sum(amount for at, amount in marks if now - 60_000_000 < at <= now)


def period_of(period: str, now: int) -> object:
    """By the standard library's calendar, which the limiter does not use."""
    from datetime import UTC, datetime  # noqa: PLC0415 - the only one

    moment = datetime.fromtimestamp(now // 1_000_000, UTC)
    return moment.date() if period == "day" else (moment.year, moment.month)


LIMITS = st.builds(
    Limits,
    rpm=st.integers(0, 4),
    tpm=st.sampled_from([0, 0, 10, 25]),
    concurrent=st.sampled_from([0, 0, 2, 3]),
    budget_usd_day=st.sampled_from([None, None, Decimal("0.05"), FREE]),
    budget_usd_month=st.sampled_from([None, None, Decimal("0.12")]),
)
COSTS = st.sampled_from([FREE, CENT, Decimal("0.023"), Decimal("0.1"), None])
WAITS = st.sampled_from([0, 1, 1_000, 29_999_999, 30_000_000, 59_999_999, 60_000_000, 3_600_000_000, DAY_S * 1_000_000])
STEPS = st.one_of(
    st.tuples(st.just("ask"), st.sampled_from(["a", "b", "ab"]), st.integers(0, 30), COSTS),
    st.tuples(st.just("ask"), st.sampled_from(["a", "b", "ab"]), st.integers(0, 30), COSTS),
    st.tuples(st.just("settle"), st.integers(0, 9), st.one_of(st.none(), st.integers(0, 40)), COSTS),
    st.tuples(st.just("release"), st.integers(0, 9)),
    st.tuples(st.just("wait"), WAITS),
)


@settings(max_examples=150, deadline=None)
@given(st.tuples(LIMITS, LIMITS), st.lists(STEPS, max_size=60), st.integers(0, 40 * DAY_S))
def test_limiter_decides_as_the_reference_does(of: tuple[Limits, Limits], steps: list[Any], begin_s: int) -> None:
    """Whatever comes in whatever order: the same yes and no, the same sums, and waits that are true to the microsecond."""
    limiter, reference = Limiter(), Reference()
    limited = {"a": ("key:a", of[0]), "b": ("tenant:b", of[1])}
    now = (round(NOON_S) + begin_s) * 1_000_000
    open_: list[tuple[Reservation, list[Any]]] = []
    for step in steps:
        if step[0] == "wait":
            now += step[1]
        elif step[0] == "ask":
            subjects = [limited[name] for name in step[1]]
            _, _, tokens, cost = step
            fits = reference.fits(subjects, tokens, cost, now, places=True)
            try:
                reservation = limiter.reserve_all(subjects, tokens=tokens, cost_usd=cost, now_s=now / 1e6)
            except RateLimited as error:
                assert not fits
                _check_wait(reference, subjects, tokens, cost, now, error)
            else:
                assert fits
                open_.append((reservation, reference.take(subjects, tokens, cost, now)))
        elif open_:
            reservation, holds = open_.pop(step[1] % len(open_))
            if step[0] == "settle":
                limiter.settle(reservation, tokens=step[2], cost_usd=step[3], now_s=now / 1e6)
                reference.settle(holds, step[2], step[3], now)
            else:
                limiter.release(reservation, now / 1e6)
                reference.release(holds, now)
            limiter.settle(reservation, tokens=1000, cost_usd=Decimal(9), now_s=now / 1e6)  # a second time: nothing
        for who, _ in limited.values():
            assert limiter.used(who, now / 1e6) == _used(reference, who, now)


def _check_wait(
    reference: Reference,
    subjects: Sequence[tuple[str, Limits]],
    tokens: int,
    cost: Decimal | None,
    now: int,
    error: RateLimited,
) -> None:
    if error.code == CONCURRENCY_CODE:
        assert not reference.fits(subjects, tokens, cost, now, places=True)
    elif error.retry_after_s is None:
        assert cost is not None
        assert any(
            cost > budget
            for _, it in subjects
            for budget in (it.budget_usd_day, it.budget_usd_month)
            if budget is not None
        )
    else:
        then = now + round(error.retry_after_s * 1e6)
        assert not reference.fits(subjects, tokens, cost, then - 1, places=False)
        # a budget of nothing is spent again at once
        if all(FREE not in (it.budget_usd_day, it.budget_usd_month) for _, it in subjects):
            assert reference.fits(subjects, tokens, cost, then, places=False)


def _used(reference: Reference, who: str, now: int) -> Used:
    return Used(
        in_window(reference.requests.get(who, []), now),
        in_window(reference.tokens.get(who, []), now),
        reference.running.get(who, 0),
        reference.spent.get((who, "day", period_of("day", now)), FREE),
        reference.spent.get((who, "month", period_of("month", now)), FREE),
    )


# exactness, by hand


def test_hundred_and_first_waits_until_the_first_leaves() -> None:
    """100 pass whenever they come; the next one when the oldest is 60 s old, and not a microsecond before."""
    limiter, limits = Limiter(), Limits(rpm=100)
    assert all(let_in(limiter, limits, NOON_S + number / 10) for number in range(100))
    error = refusal(limiter, limits, NOON_S + 30)
    assert (error.code, error.retry_after_s) == (RATE_CODE, 30.0)
    assert "try again in 30.000s" in error.message
    assert not let_in(limiter, limits, NOON_S + 59.999999)
    assert let_in(limiter, limits, NOON_S + 60)
    assert not let_in(limiter, limits, NOON_S + 60)


async def _storm(limits: Limits, tokens: int, cost_usd: Decimal) -> int:
    """64 callers that ask again and again, at once; how many requests pass."""
    limiter, passed = Limiter(), 0

    async def caller() -> None:
        nonlocal passed
        for _ in range(20):
            await asyncio.sleep(0)
            try:
                held = limiter.reserve_all(
                    [("key:a", limits), ("tenant:t", Limits(rpm=1000))], tokens=tokens, cost_usd=cost_usd, now_s=NOON_S
                )
            except RateLimited:
                continue
            passed += 1
            await asyncio.sleep(0)
            limiter.settle(held, tokens=tokens, cost_usd=cost_usd, now_s=NOON_S + 1)

    await asyncio.gather(*(caller() for _ in range(64)))
    assert limiter.used("tenant:t", NOON_S + 1).requests_minute == passed  # a refusal takes nothing anywhere
    return passed


@pytest.mark.parametrize(
    "limits",
    [Limits(rpm=100), Limits(tpm=700), Limits(budget_usd_day=Decimal("0.1")), Limits(budget_usd_month=Decimal("0.1"))],
)
async def test_exactly_a_hundred_pass_of_many_at_once(limits: Limits) -> None:
    """Requests, tokens and money alike."""
    assert await _storm(limits, 7, Decimal("0.001")) == 100


async def test_at_most_so_many_run_at_once() -> None:
    """A place that is free is taken at once."""
    limiter, limits = Limiter(), Limits(concurrent=3)
    held = [limiter.reserve("key:a", limits, tokens=0, cost_usd=FREE, now_s=NOON_S) for _ in range(3)]
    error = refusal(limiter, limits, NOON_S)
    assert (error.code, error.retry_after_s) == (CONCURRENCY_CODE, 1.0)
    limiter.settle(held[0], tokens=0, cost_usd=FREE, now_s=NOON_S)
    assert let_in(limiter, limits, NOON_S)
    assert not let_in(limiter, limits, NOON_S)


def test_window_of_thousands_is_bounded_and_never_exceeded() -> None:
    """Where moments are put together none of 60 s holds more than the limit, and not many fewer get in."""
    random.seed(5)
    limiter, limits, passed = Limiter(), Limits(rpm=3000), list[float]()
    for number in range(14_000):
        now_s = NOON_S + number / 100 + random.random() / 200
        if let_in(limiter, limits, now_s):
            passed.append(now_s)
    first = 0
    for last, at_s in enumerate(passed):
        while passed[first] <= at_s - 60:
            first += 1
        assert last - first + 1 <= 3000
    assert len(passed) >= 3000 * 2  # 140 s hold at least two whole windows
    assert len(limiter._accounts["key:a"].requests.marks) <= EXACT_MAX + 601  # pyright: ignore[reportPrivateUsage] - what it bounds is seen nowhere else


def test_estimate_above_the_whole_limit_takes_all_of_it() -> None:
    """It waits for an empty window, and what it did not need is given back."""
    limiter, limits = Limiter(), Limits(tpm=1000)
    held = limiter.reserve("key:a", limits, tokens=1_000_000, cost_usd=FREE, now_s=NOON_S)
    assert refusal(limiter, limits, NOON_S + 1, tokens=1).retry_after_s == 59.0
    limiter.settle(held, tokens=10, cost_usd=FREE, now_s=NOON_S + 1)
    assert let_in(limiter, limits, NOON_S + 1, tokens=990)
    assert not let_in(limiter, limits, NOON_S + 59, tokens=1)


def test_tokens_beyond_the_estimate_count_when_they_are_known() -> None:
    """An answer of ten minutes does not slip out of every window."""
    limiter, limits = Limiter(), Limits(tpm=1000)
    held = limiter.reserve("key:a", limits, tokens=10, cost_usd=FREE, now_s=NOON_S)
    limiter.settle(held, tokens=5000, cost_usd=FREE, now_s=NOON_S + 600)
    assert refusal(limiter, limits, NOON_S + 601, tokens=1).retry_after_s == 59.0


def test_what_nobody_told_stays_reserved() -> None:
    """An upstream that says nothing of usage is counted as estimated."""
    limiter, limits = Limiter(), Limits(tpm=100, budget_usd_day=Decimal(1))
    held = limiter.reserve("key:a", limits, tokens=60, cost_usd=CENT, now_s=NOON_S)
    limiter.settle(held, tokens=None, cost_usd=None, now_s=NOON_S)
    assert limiter.used("key:a", NOON_S) == Used(1, 60, 0, CENT, CENT)


# money


def test_budget_is_exact_and_begins_anew_at_midnight() -> None:
    """Ten times 0.1 is 1; the wait is until 00:00 UTC; the month goes on."""
    limiter, limits = Limiter(), Limits(budget_usd_day=Decimal(1), budget_usd_month=Decimal("1.2"))
    assert [let_in(limiter, limits, NOON_S, cost_usd=Decimal("0.1")) for _ in range(11)] == [True] * 10 + [False]
    error = refusal(limiter, limits, NOON_S, cost=Decimal("0.1"))
    assert (error.code, error.retry_after_s) == (BUDGET_CODE, DAY_S / 2)
    assert "1 USD per day is spent" in error.message
    assert let_in(limiter, limits, NOON_S + DAY_S / 2, cost_usd=Decimal("0.2"))
    error = refusal(limiter, limits, NOON_S + DAY_S, cost=Decimal("0.1"))
    assert "per month" in error.message
    assert error.retry_after_s == 30 * DAY_S - DAY_S / 2  # 1 February


def test_what_costs_nothing_passes_when_the_budget_is_spent() -> None:
    """Models of our own go on; what nobody knows the price of does not."""
    limiter, limits = Limiter(), Limits(budget_usd_day=CENT)
    assert let_in(limiter, limits, NOON_S, cost_usd=None)
    assert let_in(limiter, limits, NOON_S, cost_usd=CENT)
    assert let_in(limiter, limits, NOON_S, cost_usd=FREE)
    assert not let_in(limiter, limits, NOON_S, cost_usd=None)


def test_request_that_can_never_be_paid_is_told_so() -> None:
    """No wait is named, since none helps."""
    error = refusal(Limiter(), Limits(budget_usd_month=CENT), NOON_S, cost=Decimal("0.5"))
    assert (error.code, error.retry_after_s) == (BUDGET_CODE, None)
    assert "may cost (0.5 USD)" in error.message


def test_settling_after_midnight_leaves_the_new_day_alone() -> None:
    """Money belongs to the day in which the request was let in."""
    limiter, limits = Limiter(), Limits(budget_usd_day=Decimal(1), budget_usd_month=Decimal(9))
    held = limiter.reserve("key:a", limits, tokens=0, cost_usd=CENT, now_s=NOON_S)
    assert limiter.used("key:a", NOON_S + DAY_S).usd_day == 0
    limiter.settle(held, tokens=0, cost_usd=Decimal("0.5"), now_s=NOON_S + DAY_S)
    used = limiter.used("key:a", NOON_S + DAY_S)
    assert (used.usd_day, used.usd_month) == (FREE, Decimal("0.5"))


@pytest.mark.parametrize(
    ("now_s", "left_s"),
    [
        (951_825_600.0, DAY_S / 2),  # 29 February 2000, noon
        (4_107_499_200.0, DAY_S / 2),  # 28 February 2100, noon: no leap year
        (1_798_761_599.0, 1.0),  # the last second of 2026
    ],
)
def test_month_ends_where_the_calendar_says(now_s: float, left_s: float) -> None:
    """Leap years, centuries, the end of a year."""
    limiter, limits = Limiter(), Limits(budget_usd_month=CENT)
    assert let_in(limiter, limits, now_s, cost_usd=CENT)
    assert refusal(limiter, limits, now_s, cost=CENT).retry_after_s == left_s


# restarts and clocks


def test_former_run_counts_on() -> None:
    """At its time, and the money at its day and month."""
    limiter, limits = Limiter(), Limits(rpm=10, tpm=100, budget_usd_day=Decimal(1))
    assert let_in(limiter, limits, NOON_S)
    limiter.restore("key:a", at_s=NOON_S - 20, now_s=NOON_S, requests=9, tokens=70, usd_day=CENT, usd_month=CENT)
    assert limiter.used("key:a", NOON_S) == Used(10, 70, 1, CENT, CENT)
    assert refusal(limiter, limits, NOON_S + 1).retry_after_s == 39.0
    assert limiter.used("key:a", NOON_S + 40) == Used(1, 0, 1, CENT, CENT)


def test_clock_set_back_forgets_nothing_and_keeps_nobody_out() -> None:
    """An hour back: the window goes on for its 60 s, and the day's sum stays."""
    limiter, limits = Limiter(), Limits(rpm=1, budget_usd_day=Decimal(1))
    assert let_in(limiter, limits, NOON_S, cost_usd=CENT)
    assert not let_in(limiter, limits, NOON_S - 3600, cost_usd=CENT)
    assert not let_in(limiter, limits, NOON_S - 3600 + 59, cost_usd=CENT)
    assert let_in(limiter, limits, NOON_S - 3600 + 60, cost_usd=CENT)
    assert limiter.used("key:a", NOON_S - DAY_S).usd_day == 2 * CENT


def test_forgotten_subject_may_still_be_settled() -> None:
    """Its tenant was deleted while it was answering."""
    limiter, limits = Limiter(), Limits(rpm=1)
    held = limiter.reserve("key:a", limits, tokens=5, cost_usd=FREE, now_s=NOON_S)
    limiter.forget("key:a")
    limiter.settle(held, tokens=9, cost_usd=FREE, now_s=NOON_S)
    assert limiter.used("key:a", NOON_S) == Used()


# what is told


def test_headers_tell_of_the_tighter_of_two() -> None:
    """Limit, what remains, when all of it is free again; nothing of what is not limited."""
    limiter = Limiter()
    key, tenant = ("key:a", Limits(rpm=10, tpm=1000)), ("tenant:t", Limits(rpm=3))
    limiter.reserve_all([key, tenant], tokens=400, cost_usd=FREE, now_s=NOON_S)
    assert dict(limiter.headers_all([key, tenant], NOON_S + 10.5)) == {
        b"x-ratelimit-limit-requests": b"3",
        b"x-ratelimit-remaining-requests": b"2",
        b"x-ratelimit-reset-requests": b"50s",
        b"x-ratelimit-limit-tokens": b"1000",
        b"x-ratelimit-remaining-tokens": b"600",
        b"x-ratelimit-reset-tokens": b"50s",
    }
    assert limiter.headers("key:b", Limits(concurrent=1), NOON_S + 11) == []
    assert dict(limiter.headers("key:c", Limits(rpm=2), NOON_S + 11))[b"x-ratelimit-reset-requests"] == b"0s"


def test_the_longest_wait_is_told() -> None:
    """After the shorter one the request would be refused again."""
    limiter = Limiter()
    of = [("key:a", Limits(rpm=1)), ("tenant:t", Limits(budget_usd_day=CENT))]
    limiter.reserve_all(of, tokens=0, cost_usd=CENT, now_s=NOON_S)
    with pytest.raises(RateLimited) as caught:
        limiter.reserve_all(of, tokens=0, cost_usd=CENT, now_s=NOON_S)
    assert caught.value.code == BUDGET_CODE
    assert "This tenant's budget" in caught.value.message


@pytest.mark.parametrize("limit", [1, 7, 10**15])
def test_fields_count_down_to_nothing(limit: int) -> None:
    """Never below it, though more was used than was thought; and they are ready for any limit."""
    limiter, limits = Limiter(), Limits(tpm=limit)
    for many in range(10_000):
        limiter.headers("key:b", Limits(tpm=many + 1), NOON_S)
    held = limiter.reserve("key:a", limits, tokens=1, cost_usd=FREE, now_s=NOON_S)
    limiter.settle(held, tokens=limit + 3, cost_usd=FREE, now_s=NOON_S + 0.5)
    assert limiter.headers("key:a", limits, NOON_S + 1) == [
        (b"x-ratelimit-limit-tokens", str(limit).encode()),
        (b"x-ratelimit-remaining-tokens", b"0"),
        (b"x-ratelimit-reset-tokens", b"60s"),
    ]
