"""Whether one provider is to be sent to now, and how it has been. Pure: time and chance are arguments.

A circuit breaker. CLOSED: everybody is let through. After three failures in a row it is OPEN: nobody is, for a second, which
doubles with each trial that fails, up to a minute. After that it is HALF-OPEN: one request at a time goes as a trial; its answer
closes it.

The law:
- Nobody is blocked for ever: whatever is reported, or forgotten, `wait_s` is never more than two minutes and comes down to 0.
- A request's answer always closes it. What the upstream refuses (4xx, 500) is an answer: it lives.
- What was sent before it opened and fails after that changes nothing: a hundred requests that break off together are one failure.
- Looking at the catalogue (`probed`) is evidence, but less than a request's fate. A failed look counts as one failure, so also a
  provider that has never answered, shown as "down" from the first on, is closed to nobody before the third. While it is open,
  only one failed look between two trials prolongs that: a provider whose catalogue cannot be had may well answer requests. A good
  look closes it, but the next failure of a request opens it again, for longer.
- Memory is bounded: the last 1,000 outcomes and measurements, and 256 targets that asked to wait.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from enum import StrEnum

import msgspec

OPENS_AFTER = 3  # failures in a row: one may be chance, two a restart
OPEN_FIRST_S = 1.0  # a server that is being restarted is back in seconds
OPEN_MAX_S = 60.0  # one trial a minute costs a dead upstream nothing, and who comes back is in use within that time
# Chance spreads gateways and providers that failed in the same moment: each open time is multiplied by 0.75 to 1.25.
_JITTER_LOW, _JITTER_SPAN = 0.75, 0.5
TRIAL_MAX_S = 60.0  # a trial not heard of for so long was forgotten; the next may go
TRIAL_WAIT_S = 0.5  # what others are told while a trial is under way: its end is not known, and usually near
# An upstream may say "in an hour" where a daily allowance is used up; asking after two minutes costs one request and notices when
# the operator has mended it.
ASKED_MAX_S = 120.0
TARGETS_MAX = 256  # of one provider that rest at once; OpenRouter has 600 models, but nobody is refused by all of them
WINDOW = 1_000  # outcomes and measurements kept: a p99 of them still stands on ten
_REASON_CHARS = 300


class Outcome(StrEnum):
    """How one exchange ended."""

    GOOD = "good"  # answered
    REFUSED = "refused"  # answered with an error of its own, 4xx or 500: it lives
    FAILED = "failed"  # unreachable, timed out, broke off, or 502, 503, 504, 529: it, or what stands before it, is out of order
    LEFT = "left"  # the caller left: says nothing


class State(StrEnum):
    """As shown to operators."""

    UNKNOWN = "unknown"  # nothing has been heard yet
    UP = "up"
    FAILING = "failing"  # the last word was a failure, but it is sent to
    DOWN = "down"  # not sent to, or it has failed and never answered


class HealthView(msgspec.Struct, frozen=True, kw_only=True):
    """One provider at one moment. Times in seconds; None: no data, nothing is made up."""

    state: State
    reason: str  # what was wrong last, also when it is up again
    since_s: float  # for how long it has been in this state
    retry_in_s: float | None  # None: everybody may send; 0.0: one may, as a trial
    requests: int  # begun, since the start
    refused: int  # … that the upstream answered with an error of its own
    failures: int  # … that failed
    error_rate: float | None  # share of failures among the last 1,000 outcomes
    first_byte_p50_s: float | None  # of the last 1,000 measurements
    first_byte_p95_s: float | None
    first_byte_p99_s: float | None
    first_byte_average_s: float | None
    probe_s: float | None  # how long the last good look at the catalogue took
    availability: float | None  # share of time that it was not down, from its first word on
    last_ok_s: float | None  # how long ago it answered well, a look at its catalogue included


class Health:
    """Of one provider. All calls in one thread; `now_s` never runs backwards.

    Args:
        now_s: a monotonic clock's reading.
    """

    __slots__ = (
        "_answered",
        "_asked",
        "_bad",
        "_begun",
        "_down_s",
        "_failed",
        "_first_bytes",
        "_good_s",
        "_heard_s",
        "_in_a_row",
        "_open",
        "_open_s",
        "_outcomes",
        "_probe_s",
        "_prolonged",
        "_refused",
        "_retry_s",
        "_since_s",
        "_state",
        "_trial",
        "_trial_s",
        "_trials",
        "reason",
    )

    def __init__(self, now_s: float) -> None:
        self.reason = ""  # what was wrong last
        self._open = False
        self._retry_s = 0.0  # clock reading from which a trial may go
        self._open_s = 0.0  # how long it was opened last, before chance; 0.0: not since it answered
        self._in_a_row = 0
        self._prolonged = False  # by a look, since the last trial
        self._trials = 0
        self._trial = 0  # the number of the one under way, 0 for none
        self._trial_s = 0.0
        self._asked: dict[str, float] = {}  # target → clock reading
        # --- what is shown
        self._state = State.UNKNOWN
        self._since_s = now_s
        self._heard_s: float | None = None  # the first word
        self._down_s = 0.0  # in former times of being down
        self._answered = False  # ever
        self._good_s: float | None = None
        self._probe_s: float | None = None
        self._begun = self._refused = self._failed = 0
        self._outcomes: deque[bool] = deque(maxlen=WINDOW)  # True: failed
        self._bad = 0  # of those
        self._first_bytes: deque[float] = deque(maxlen=WINDOW)

    # ------------------------------------------------------------ for who wants to send

    def wait_s(self, now_s: float, target: str = "") -> float:
        """0.0: send now. Else in how many seconds it may be tried, at most 120; changes nothing.

        Args:
            target: with the waits that this one asked for, and those asked for under "", which hold for all.
        """
        wait_s = 0.0
        if self._open:
            if now_s < self._retry_s:
                wait_s = self._retry_s - now_s
            elif self._trial and now_s - self._trial_s < TRIAL_MAX_S:
                wait_s = TRIAL_WAIT_S
        if self._asked:
            until_s = max(self._asked.get(target, 0.0), self._asked.get("", 0.0))
            wait_s = min(max(wait_s, until_s - now_s), ASKED_MAX_S)
        return wait_s

    def begin(self, now_s: float) -> int:
        """One request goes. With `wait_s` before it in the same turn of the loop, only one goes as a trial.

        Returns: the trial's number, 0 where it is none; to be handed to `ended`.
        """
        self._begun += 1
        if not self._open or now_s < self._retry_s or (self._trial and now_s - self._trial_s < TRIAL_MAX_S):
            return 0
        self._trials += 1
        self._trial, self._trial_s = self._trials, now_s
        return self._trial

    def answered(self, now_s: float) -> None:
        """The first byte has come and was no failure: others need not wait for the end of a long answer.

        Optional. Closes it on trust: should the answer break off, it opens again for longer.
        """
        if self._open:
            self._close_on_trust(now_s)

    def ended(
        self,
        outcome: Outcome,
        now_s: float,
        seconds: float | None,
        jitter: float,
        *,
        trial: int | None = None,
        reason: str = "",
    ) -> None:
        """The request that was begun has ended, whichever way.

        Args:
            seconds: from sent to the first byte, None where none came.
            jitter: in [0, 1).
            trial: what `begin` gave. None: not known; then any end while a trial is under way is taken for the trial's.
            reason: what was wrong, in the error's words.
        """
        if seconds is not None:
            self._first_bytes.append(seconds)
        its_trial = self._trial != 0 and (trial is None or trial == self._trial)
        if outcome is Outcome.LEFT:
            if its_trial:
                self._trial = 0
            return
        failed = outcome is Outcome.FAILED
        if len(self._outcomes) == WINDOW:
            self._bad -= self._outcomes[0]
        self._outcomes.append(failed)
        if failed:
            self._bad += 1
            self._failed += 1
            self._hears_failure(now_s, jitter, reason, decides=its_trial)
            return
        if outcome is Outcome.GOOD:
            self._good_s = now_s
        else:
            self._refused += 1
            self.reason = reason[:_REASON_CHARS] or self.reason
        self._hears_answer(now_s)

    def asked_to_wait(self, target: str, now_s: float, seconds: float) -> None:
        """The upstream told (Retry-After) when this target may be asked again, at most two minutes are believed.

        Args:
            target: "" where all of the provider is meant.
            seconds: from now; a shorter word does not take back a longer one.
        """
        if not seconds > 0:  # nothing asked for, or no number
            return
        until_s = max(now_s + min(seconds, ASKED_MAX_S), self._asked.get(target, 0.0))
        if target not in self._asked and len(self._asked) >= TARGETS_MAX:
            self._asked = {key: end_s for key, end_s in self._asked.items() if end_s > now_s}
            if len(self._asked) >= TARGETS_MAX:
                del self._asked[min(self._asked, key=self._asked.__getitem__)]  # it would have been back soonest
        self._asked[target] = until_s

    def probed(
        self, error: str | None, now_s: float, seconds: float | None, jitter: float, *, lives: bool = False
    ) -> None:
        """The catalogue has been looked at.

        Args:
            error: what was wrong, None: nothing.
            seconds: how long it took.
            jitter: in [0, 1).
            lives: with an error: it did answer (our key refused, no such path, no JSON). Shown, but blocks nobody.
        """
        if error is None:
            self._good_s = now_s
            self._probe_s = seconds
            self._answered = True
            self._close_on_trust(now_s)
        elif lives:
            self._answered = True
            self.reason = error[:_REASON_CHARS]
            if not self._open:
                self._show(State.FAILING, now_s)
        else:
            due = self._open and now_s >= self._retry_s and not self._trial and not self._prolonged
            self._hears_failure(now_s, jitter, error, decides=due)
            self._prolonged = due or self._prolonged

    def forgive(self) -> None:
        """An operator has mended it: it is sent to again at once, as if it had never failed. What is shown stays."""
        self._close()
        self._asked.clear()
        self._in_a_row = 0
        self._open_s = 0.0

    # ------------------------------------------------------------ the breaker

    def _hears_answer(self, now_s: float) -> None:
        if self._state is not State.UP or self._in_a_row:
            self._show(State.UP, now_s)
            self._close()
            self._in_a_row = 0
            self._open_s = 0.0
            self._answered = True

    def _hears_failure(self, now_s: float, jitter: float, reason: str, *, decides: bool) -> None:
        """`decides`: where it is open already, this one opens it anew."""
        self.reason = reason[:_REASON_CHARS] or self.reason
        self._in_a_row += 1
        if decides if self._open else self._in_a_row >= OPENS_AFTER:
            self._open_s = min(self._open_s * 2, OPEN_MAX_S) or OPEN_FIRST_S
            self._retry_s = now_s + self._open_s * (_JITTER_LOW + _JITTER_SPAN * jitter)
            self._open = True
            self._trial = 0
            self._prolonged = False
        self._show(State.DOWN if self._open or not self._answered else State.FAILING, now_s)

    def _close_on_trust(self, now_s: float) -> None:
        """It can be reached; whether it answers requests is to be seen: its failures still count, so the next opens it again."""
        self._close()
        self._show(State.UP, now_s)

    def _close(self) -> None:
        self._open = False
        self._trial = 0
        self._prolonged = False

    # ------------------------------------------------------------ for operators

    def _show(self, state: State, now_s: float) -> None:
        if self._heard_s is None:
            self._heard_s = now_s
        if state is self._state:
            return
        if self._state is State.DOWN:
            self._down_s += now_s - self._since_s
        self._state = state
        self._since_s = now_s

    def view(self, now_s: float) -> HealthView:
        """As it stands now."""
        sample = sorted(self._first_bytes)
        wait_s = self.wait_s(now_s)
        return HealthView(
            state=self._state,
            reason=self.reason,
            since_s=now_s - self._since_s,
            retry_in_s=wait_s if self._open or wait_s else None,
            requests=self._begun,
            refused=self._refused,
            failures=self._failed,
            error_rate=self._bad / len(self._outcomes) if self._outcomes else None,
            first_byte_p50_s=percentile(sample, 50),
            first_byte_p95_s=percentile(sample, 95),
            first_byte_p99_s=percentile(sample, 99),
            first_byte_average_s=sum(sample) / len(sample) if sample else None,
            probe_s=self._probe_s,
            availability=self._availability(now_s),
            last_ok_s=None if self._good_s is None else now_s - self._good_s,
        )

    def _availability(self, now_s: float) -> float | None:
        if self._heard_s is None or now_s <= self._heard_s:
            return None
        down_s = self._down_s + (now_s - self._since_s if self._state is State.DOWN else 0.0)
        return 1.0 - down_s / (now_s - self._heard_s)


def percentile(ordered: Sequence[float], percent: int) -> float | None:
    """The value at index int(percent / 100 · n), clamped; None of nothing."""
    if not ordered:
        return None
    return ordered[min(percent * len(ordered) // 100, len(ordered) - 1)]
