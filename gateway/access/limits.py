"""How much may be used: requests and tokens in any minute, requests at once, USD per day and month. Pure: time is an argument.

The law: in no span of 60 s more than the limit is let in, and a limit of 100 lets 100 in. What is reserved is settled with what was
really used, or released. One request may need room at several subjects (its key, its tenant): it gets it at all, or takes nothing.

    a request      counts from the moment it was let in, for 60 s
    tokens         the estimate counts from that moment; what came on top of it from the moment when it was known; what was too much
                   is given back where it was taken
    money          counts in the day and the month in which the request was let in

Moments of the past are held singly up to a bound, then in grains that leave when their last one would have. A clock that is set
back forgets nothing: the windows go on from where they were, and sums of money stay.

Codes and header fields are OpenAI's own, since its clients know them: `rate_limit_exceeded`, `insufficient_quota`, and "try again
in 1.5s" in the message. Source: https://platform.openai.com/docs/guides/rate-limits and /docs/guides/error-codes.
"""

from __future__ import annotations

import calendar
import math
from collections import deque
from collections.abc import Sequence
from decimal import Decimal

import msgspec

from gateway.errors import RateLimited

from .principal import Limits

WINDOW_S = 60
RATE_CODE = "rate_limit_exceeded"
CONCURRENCY_CODE = "concurrency_limit_exceeded"
BUDGET_CODE = "insufficient_quota"
# When a place will be free nobody knows: as long as a client's own first pause, and the header field has whole seconds.
CONCURRENCY_RETRY_S = 1.0
EXACT_MAX = 1024  # moments that are held each by itself
_WINDOW_US = WINDOW_S * 1_000_000
_GRAIN_US = 100_000  # beyond that; with them a window holds at most EXACT_MAX + 601 marks, some 200 kB
_DAY_S = 86_400
_NOTHING = Decimal(0)
_LIMITS_TOLD = 4096  # header fields that are kept ready

_Field = tuple[bytes, bytes]

Subjects = Sequence[tuple[str, Limits]]  # who: "key:ID" or "tenant:NAME"; each once


# So much was taken: [the last of it at µs, how much, the first of it at µs]. A list, because every request makes two.
_Mark = list[int]
_NO_MARK: _Mark = [0, 0, 0]  # of nothing, of which nothing is given back


class _Window:
    """What was taken in the last 60 s."""

    __slots__ = ("marks", "used")

    def __init__(self) -> None:
        self.marks: deque[_Mark] = deque()
        self.used = 0

    def now(self, now_us: int) -> int:
        """What is taken now."""
        marks = self.marks
        if marks and marks[0][0] <= now_us - _WINDOW_US:
            while marks and marks[0][0] <= now_us - _WINDOW_US:
                self.used -= marks.popleft()[1]
        return self.used

    def take(self, amount: int, now_us: int) -> _Mark:
        self.used += amount
        marks = self.marks
        if len(marks) >= EXACT_MAX and now_us - (last := marks[-1])[2] < _GRAIN_US:
            last[0] = now_us
            last[1] += amount
            return last
        mark = [now_us, amount, now_us]
        marks.append(mark)
        return mark

    def give_back(self, mark: _Mark, amount: int, now_us: int) -> None:
        """Nothing, where it has left the window by itself."""
        self.now(now_us)
        if mark[0] > now_us - _WINDOW_US:
            mark[1] -= amount
            self.used -= amount

    def wait_us(self, amount: int, limit: int, now_us: int) -> int:
        """Until when there would be room, if nobody else took it. `amount` is at most the limit."""
        missing = self.now(now_us) + amount - limit
        if missing <= 0:
            return 0
        for mark in self.marks:
            missing -= mark[1]
            if missing <= 0:
                return mark[0] + _WINDOW_US - now_us
        return _WINDOW_US

    def insert(self, amount: int, at_us: int) -> None:
        """Something of the past, at its place."""
        self.used += amount
        self.marks = deque(sorted((*self.marks, [at_us, amount, at_us])))


class _Sum:
    """Money spent in one day, or one month."""

    __slots__ = ("period", "usd")

    def __init__(self) -> None:
        self.period = 0
        self.usd = _NOTHING

    def turn(self, period: int) -> None:
        """Where the clock was set back, the sum stays."""
        if period > self.period:
            self.usd = _NOTHING
        self.period = period


class _Account:
    """What one subject has taken."""

    __slots__ = ("day", "month", "requests", "running", "tokens")

    def __init__(self) -> None:
        self.requests = _Window()
        self.tokens = _Window()
        self.running = 0
        self.day = _Sum()
        self.month = _Sum()

    def has_room(self, limits: Limits, tokens: int, cost_usd: Decimal | None, now_us: int) -> bool:
        """The way of every request: `_refusals` says the same at length."""
        if limits.rpm and self.requests.now(now_us) >= limits.rpm:
            return False
        if limits.tpm and self.tokens.now(now_us) + tokens > limits.tpm:
            return False
        if limits.concurrent and self.running >= limits.concurrent:
            return False
        if limits.budget_usd_day is not None and _spent(limits.budget_usd_day, self.day, cost_usd):
            return False
        return limits.budget_usd_month is None or not _spent(limits.budget_usd_month, self.month, cost_usd)

    def take(self, tokens: int, cost_usd: Decimal | None, now_us: int) -> _Hold:
        self.running += 1
        if cost_usd:
            self.day.usd += cost_usd
            self.month.usd += cost_usd
        mark = self.tokens.take(tokens, now_us) if tokens else _NO_MARK
        return self, tokens, self.requests.take(1, now_us), mark, self.day.period, self.month.period


# What one reservation has taken at one account: tokens, the marks of the request and of them, day, month.
_Hold = tuple[_Account, int, _Mark, _Mark, int, int]


class Reservation(msgspec.Struct, eq=False):
    """What one request has taken. To be settled or released; only the first of these counts."""

    holds: list[_Hold]
    cost_usd: Decimal
    over: bool = False


class Used(msgspec.Struct, frozen=True):
    """How much of everything is taken now."""

    requests_minute: int = 0
    tokens_minute: int = 0
    concurrent: int = 0
    usd_day: Decimal = _NOTHING
    usd_month: Decimal = _NOTHING


class _Refusal(msgspec.Struct, frozen=True):
    """`wait_s` None: waiting does not help."""

    message: str
    code: str
    wait_s: float | None


class Limiter:
    """Holds the accounts of all subjects."""

    def __init__(self) -> None:
        self._accounts: dict[str, _Account] = {}
        self._last_s = 0.0
        self._last_us = 0
        self._shift_us = 0
        self._calendar = _Calendar(0)

    def reserve(self, who: str, limits: Limits, *, tokens: int, cost_usd: Decimal | None, now_s: float) -> Reservation:
        """As `reserve_all`, for one subject."""
        return self.reserve_all(((who, limits),), tokens=tokens, cost_usd=cost_usd, now_s=now_s)

    def reserve_all(self, subjects: Subjects, *, tokens: int, cost_usd: Decimal | None, now_s: float) -> Reservation:
        """Room for one request at all of them.

        Args:
            tokens: an estimate. One above a whole limit takes the whole limit: estimates are coarse, and it could never pass.
            cost_usd: an estimate; 0: it costs nothing and passes also where a budget is spent; None: nobody knows.
            now_s: UTC, seconds since the epoch.
        Raises: RateLimited: with the longest of all waits, after which this request would pass if no other came.
        """
        now_us = self._now_us(now_s)
        taken: list[tuple[_Account, int]] = []
        for who, limits in subjects:
            account = self._account(who, now_s)
            capped = limits.tpm if 0 < limits.tpm < tokens else tokens
            if not account.has_room(limits, capped, cost_usd, now_us):
                raise self._refused(subjects, tokens, cost_usd, now_us, now_s)
            taken.append((account, capped))
        return Reservation([account.take(capped, cost_usd, now_us) for account, capped in taken], cost_usd or _NOTHING)

    def settle(self, reservation: Reservation, *, tokens: int | None, cost_usd: Decimal | None, now_s: float) -> None:
        """What was really used. None: nobody said, and what was reserved stands."""
        if reservation.over:
            return
        reservation.over = True
        now_us = self._now_us(now_s)
        dearer = _NOTHING if cost_usd is None else cost_usd - reservation.cost_usd
        for account, held, _, mark, day, month in reservation.holds:
            account.running -= 1
            if tokens is not None and tokens != held:
                if tokens > held:
                    account.tokens.now(now_us)
                    account.tokens.take(tokens - held, now_us)
                else:
                    account.tokens.give_back(mark, held - tokens, now_us)
            if dearer:
                if account.day.period == day:
                    account.day.usd += dearer
                if account.month.period == month:
                    account.month.usd += dearer

    def release(self, reservation: Reservation, now_s: float) -> None:
        """Nothing was used, and the request does not count."""
        if reservation.over:
            return
        now_us = self._now_us(now_s)
        for account, _, mark, *_ in reservation.holds:
            account.requests.give_back(mark, 1, now_us)
        self.settle(reservation, tokens=0, cost_usd=_NOTHING, now_s=now_s)

    def headers(self, who: str, limits: Limits, now_s: float) -> list[_Field]:
        """As `headers_all`, for one subject."""
        return self.headers_all(((who, limits),), now_s)

    def headers_all(self, subjects: Subjects, now_s: float) -> list[_Field]:
        """OpenAI's fields, of the subject that has the least left. Reset: until all of it is free again."""
        now_us = self._now_us(now_s)
        requests: _Left | None = None
        tokens: _Left | None = None
        for who, limits in subjects:
            account = self._accounts.get(who) or self._account(who, now_s)
            if limits.rpm:
                left = limits.rpm - account.requests.now(now_us)
                if requests is None or left < requests[0]:
                    requests = left, limits.rpm, account.requests
            if limits.tpm:
                left = limits.tpm - account.tokens.now(now_us)
                if tokens is None or left < tokens[0]:
                    tokens = left, limits.tpm, account.tokens
        fields: list[_Field] = []
        if requests is not None:
            fields += _REQUESTS.fields(requests, now_us)
        if tokens is not None:
            fields += _TOKENS.fields(tokens, now_us)
        return fields

    def used(self, who: str, now_s: float) -> Used:
        """How much is taken now, whether there is a limit or not."""
        account = self._accounts.get(who)
        if account is None:
            return Used()
        now_us = self._now_us(now_s)
        self._account(who, now_s)
        return Used(
            account.requests.now(now_us),
            account.tokens.now(now_us),
            account.running,
            account.day.usd,
            account.month.usd,
        )

    def restore(
        self,
        who: str,
        *,
        at_s: float,
        now_s: float,
        requests: int = 0,
        tokens: int = 0,
        usd_day: Decimal = _NOTHING,
        usd_month: Decimal = _NOTHING,
    ) -> None:
        """What a former run let in, at `at_s` (where only sums are known: now_s, which is never too little)."""
        now_us = self._now_us(now_s)
        account = self._account(who, now_s)
        account.day.usd += usd_day
        account.month.usd += usd_month
        at_us = min(now_us, now_us - round((now_s - at_s) * 1e6))
        if requests:
            account.requests.insert(requests, at_us)
        if tokens:
            account.tokens.insert(tokens, at_us)

    def forget(self, who: str) -> None:
        """It is gone for ever. What it still has under way may be settled all the same."""
        self._accounts.pop(who, None)

    def _account(self, who: str, now_s: float) -> _Account:
        """In the present day and month."""
        account = self._accounts.get(who)
        if account is None:
            account = self._accounts[who] = _Account()
        present = self._calendar
        if not present.from_s <= now_s < present.day_end_s:
            present = self._calendar = _Calendar(now_s)
        if account.day.period != present.day:
            account.day.turn(present.day)
            account.month.turn(present.month)
        return account

    def _now_us(self, now_s: float) -> int:
        """Never less than before."""
        if now_s == self._last_s:  # a request asks twice
            return self._last_us + self._shift_us
        now_us = round(now_s * 1e6)
        if now_us < self._last_us:
            self._shift_us += self._last_us - now_us
        self._last_s, self._last_us = now_s, now_us
        return now_us + self._shift_us

    def _refused(
        self, subjects: Subjects, tokens: int, cost_usd: Decimal | None, now_us: int, now_s: float
    ) -> RateLimited:
        """The longest of all waits."""
        refusals: list[_Refusal] = []
        for who, limits in subjects:
            account = self._account(who, now_s)
            refusals += _refusals(account, who, limits, min(tokens, limits.tpm), now_us)
            ends = ((limits.budget_usd_day, account.day, "day", self._calendar.day_end_s),)
            ends += ((limits.budget_usd_month, account.month, "month", self._calendar.month_end_s),)
            for budget, spent, period, end_s in ends:
                if budget is not None and _spent(budget, spent, cost_usd):
                    refusals.append(_too_dear(who, budget, spent.usd, cost_usd or _NOTHING, period, end_s - now_s))
        worst = max(refusals, key=lambda refusal: math.inf if refusal.wait_s is None else refusal.wait_s)
        return RateLimited(worst.message, retry_after_s=worst.wait_s, code=worst.code)


class _Calendar:
    """The UTC day and month of a moment, and when they end."""

    __slots__ = ("day", "day_end_s", "from_s", "month", "month_end_s")

    def __init__(self, now_s: float) -> None:
        self.day = int(now_s // _DAY_S)
        self.from_s = self.day * _DAY_S
        self.day_end_s = self.from_s + _DAY_S
        # Source: H. Hinnant, "chrono-compatible low-level date algorithms", civil_from_days
        era, of_era = divmod(self.day + 719_468, 146_097)
        year = (of_era - of_era // 1_460 + of_era // 36_524 - of_era // 146_096) // 365
        of_year = of_era - (365 * year + year // 4 - year // 100)
        from_march = (5 * of_year + 2) // 153
        self.month = (
            (era * 400 + year) * 12 + from_march + 2
        )  # months since the year 0; January is the first of its year
        next_year, next_month = divmod(self.month + 1, 12)
        self.month_end_s = calendar.timegm((next_year, next_month + 1, 1, 0, 0, 0))


# What is left of a limit: how much, of what, in which window.
_Left = tuple[int, int, _Window]


class _Told:
    """The header fields of one kind of limit. All but one of them are kept ready: every request has them."""

    def __init__(self, kind: bytes) -> None:
        self._remaining = b"x-ratelimit-remaining-" + kind
        self._resets = [(b"x-ratelimit-reset-" + kind, b"%ds" % seconds) for seconds in range(WINDOW_S + 1)]
        self._limit = b"x-ratelimit-limit-" + kind
        self._limits: dict[int, _Field] = {}

    def fields(self, least: _Left, now_us: int) -> tuple[_Field, _Field, _Field]:
        left, number, window = least
        limit = self._limits.get(number)
        if limit is None:
            if len(self._limits) >= _LIMITS_TOLD:
                self._limits.clear()
            limit = self._limits[number] = (self._limit, b"%d" % number)
        marks = window.marks
        wait_us = marks[-1][0] + _WINDOW_US - now_us if marks else 0
        return limit, (self._remaining, b"%d" % left if left > 0 else b"0"), self._resets[-(-wait_us // 1_000_000)]


_REQUESTS, _TOKENS = _Told(b"requests"), _Told(b"tokens")


def _spent(budget: Decimal, spent: _Sum, cost_usd: Decimal | None) -> bool:
    """Whether there is none left for a request of this cost. What costs nothing always passes."""
    if cost_usd is None:
        return spent.usd >= budget
    return bool(cost_usd) and (spent.usd >= budget or spent.usd + cost_usd > budget)


def _refusals(account: _Account, who: str, limits: Limits, tokens: int, now_us: int) -> list[_Refusal]:
    """Of requests and tokens."""
    found: list[_Refusal] = []
    if limits.rpm and (wait_us := account.requests.wait_us(1, limits.rpm, now_us)):
        found.append(_too_fast(who, limits.rpm, "requests", wait_us))
    if limits.tpm and (wait_us := account.tokens.wait_us(tokens, limits.tpm, now_us)):
        found.append(_too_fast(who, limits.tpm, "tokens", wait_us))
    if limits.concurrent and account.running >= limits.concurrent:
        message = f"{_whose(who)} limit of {limits.concurrent} requests at once is reached: wait until one has ended"
        found.append(_Refusal(message, CONCURRENCY_CODE, CONCURRENCY_RETRY_S))
    return found


def _whose(who: str) -> str:
    return "This tenant's" if who.startswith("tenant:") else "This key's"


def _too_fast(who: str, limit: int, what: str, wait_us: int) -> _Refusal:
    wait_s = wait_us / 1e6
    message = f"{_whose(who)} limit of {limit} {what} per minute is reached; please try again in {wait_s:.3f}s"
    return _Refusal(message, RATE_CODE, wait_s)


def _too_dear(who: str, budget: Decimal, spent: Decimal, cost: Decimal, period: str, left_s: float) -> _Refusal:
    said = f"{_whose(who)} budget of {budget:f} USD per {period}"
    if cost > budget:
        message = f"{said} is less than this request may cost ({cost:f} USD): ask for fewer tokens (max_tokens)"
        return _Refusal(message, BUDGET_CODE, None)
    need = f", and this request may cost {cost:f} USD" if spent < budget else ""
    message = f"{said} is spent ({spent:f} USD{need}); it begins anew in {_span(left_s)} (00:00 UTC)"
    return _Refusal(message, BUDGET_CODE, left_s)


def _span(seconds: float) -> str:
    minutes = math.ceil(seconds / 60)
    return (
        f"{minutes} min" if minutes < 120 else f"{minutes // 60} h" if minutes < 48 * 60 else f"{minutes // 1440} days"
    )
