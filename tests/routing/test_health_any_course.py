"""A provider's health under any course of events: nobody is blocked for ever, one trial at a time, closed after an answer."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gateway.routing.health import ASKED_MAX_S, TRIAL_MAX_S, Health, Outcome, State

TIMES = st.sampled_from([0.0, 0.1, 0.75, 1.0, 2.5, 30.0, 61.0, 119.0])
TARGETS = st.sampled_from(["", "p/a", "p/b"])
JITTER = st.floats(0, 1, exclude_max=True)


class AnyCourse(RuleBasedStateMachine):
    """Requests, looks and waits in any order, forgotten ones among them."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.health = Health(0.0)
        self.under_way: list[int] = []
        self.trials: dict[int, float] = {}  # → when begun
        self.all_s = 0.0  # until then everybody was asked to wait

    @rule(seconds=TIMES)
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds

    @rule(asked=st.booleans())
    def begins(self, asked: bool) -> None:
        if asked and self.health.wait_s(self.now_s):
            return
        trial = self.health.begin(self.now_s)
        self.under_way.append(trial)
        if trial:
            young = [each for each, begun_s in self.trials.items() if self.now_s - begun_s < TRIAL_MAX_S]
            assert not young, "one trial at a time"
            self.trials[trial] = self.now_s

    @rule(outcome=st.sampled_from(Outcome), which=st.integers(0, 50), jitter=JITTER)
    def ends(self, outcome: Outcome, which: int, jitter: float) -> None:
        if not self.under_way:
            return
        trial = self.under_way.pop(which % len(self.under_way))
        self.trials.pop(trial, None)
        self.health.ended(outcome, self.now_s, 0.1, jitter, trial=trial)
        if outcome in (Outcome.GOOD, Outcome.REFUSED):
            self.trials.clear()
            assert self.health.view(self.now_s).state is State.UP
            assert self.all_s <= self.now_s or self.health.wait_s(self.now_s) > 0
            assert self.all_s > self.now_s or self.health.wait_s(self.now_s) == 0, "closed after an answer"

    @rule(error=st.sampled_from([None, "dead"]), lives=st.booleans(), jitter=JITTER)
    def looked(self, error: str | None, lives: bool, jitter: float) -> None:
        self.health.probed(error, self.now_s, 0.1, jitter, lives=lives)
        if error is None:
            self.trials.clear()

    @rule(jitter=JITTER)
    def first_byte(self, jitter: float) -> None:
        self.health.answered(self.now_s)
        self.trials.clear()

    @rule(who=TARGETS, seconds=st.floats())
    def is_asked_to_wait(self, who: str, seconds: float) -> None:
        self.health.asked_to_wait(who, self.now_s, seconds)
        if who == "" and seconds > 0:
            self.all_s = max(self.all_s, self.now_s + min(seconds, ASKED_MAX_S))

    @invariant()
    def nobody_is_blocked_for_ever(self) -> None:
        for target in ("", "p/a", "p/c"):
            wait_s = self.health.wait_s(self.now_s, target)
            assert 0 <= wait_s <= ASKED_MAX_S
            assert self.health.wait_s(self.now_s + ASKED_MAX_S, target) == 0

    @invariant()
    def what_is_shown_makes_sense(self) -> None:
        view = self.health.view(self.now_s)
        assert view.availability is None or 0 <= view.availability <= 1.000001
        assert view.error_rate is None or 0 <= view.error_rate <= 1
        assert view.since_s >= 0


TestAnyCourse = AnyCourse.TestCase
TestAnyCourse.settings = settings(deadline=None)  # a busy machine is no fault


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["look", "request"]), TIMES), max_size=60))
def test_looks_that_fail_for_ever_do_not_keep_requests_out(course: list[tuple[str, float]]) -> None:
    """A provider whose catalogue cannot be had, but whose requests are answered, is never closed for long."""
    now_s, health = 0.0, Health(0.0)
    for what, seconds in course:
        now_s += seconds
        if what == "look":
            health.probed("no catalogue", now_s, 0.1, 0.5)
        elif health.wait_s(now_s) == 0:
            health.ended(Outcome.GOOD, now_s, 0.1, 0.5, trial=health.begin(now_s))
            assert health.wait_s(now_s) == 0
        else:
            assert health.wait_s(now_s) <= 2 * 2
