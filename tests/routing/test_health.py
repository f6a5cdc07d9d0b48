"""When a provider is sent to, and what operators see of it."""

from __future__ import annotations

import pytest

from gateway.routing.health import (
    ASKED_MAX_S,
    OPEN_MAX_S,
    TARGETS_MAX,
    TRIAL_MAX_S,
    TRIAL_WAIT_S,
    WINDOW,
    Health,
    Outcome,
    State,
    percentile,
)

EVEN = 0.5  # this jitter multiplies by 1
GOOD, REFUSED, FAILED, LEFT = Outcome.GOOD, Outcome.REFUSED, Outcome.FAILED, Outcome.LEFT


class Provider:
    """One with a clock: `request` is one exchange from end to end."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.health = Health(self.now_s)

    def request(self, outcome: Outcome, seconds: float | None = None, reason: str = "", jitter: float = EVEN) -> None:
        trial = self.health.begin(self.now_s)
        self.health.ended(outcome, self.now_s, seconds, jitter, trial=trial, reason=reason)

    def requests(self, *outcomes: Outcome) -> None:
        for outcome in outcomes:
            self.request(outcome)

    def look(self, error: str | None, *, lives: bool = False) -> None:
        self.health.probed(error, self.now_s, 0.2, EVEN, lives=lives)

    def wait_s(self, target: str = "") -> float:
        return self.health.wait_s(self.now_s, target)

    @property
    def state(self) -> State:
        return self.health.view(self.now_s).state

    def sleep_out(self) -> float:
        """Let the time pass for which it is open; returns how long that was."""
        wait_s = self.wait_s()
        self.now_s += wait_s
        return wait_s


@pytest.fixture
def provider() -> Provider:
    return Provider()


def test_nobody_waits_before_the_third_failure_in_a_row(provider: Provider) -> None:
    """Any answer between begins the count anew; a caller who leaves does not."""
    provider.requests(FAILED, FAILED, GOOD, FAILED, FAILED, REFUSED, FAILED, LEFT, FAILED)
    assert provider.wait_s() == 0
    provider.requests(LEFT, FAILED)
    assert provider.wait_s() == 1


def test_open_time_doubles_with_each_failed_trial_up_to_a_minute(provider: Provider) -> None:
    """And begins with a second again after an answer."""
    provider.requests(FAILED, FAILED, FAILED)
    times: list[float] = []
    for _ in range(8):
        times.append(provider.sleep_out())
        provider.request(FAILED)
    assert times == [1, 2, 4, 8, 16, 32, 60, 60]
    provider.sleep_out()
    provider.requests(GOOD, FAILED, FAILED, FAILED)
    assert provider.wait_s() == 1


@pytest.mark.parametrize(("jitter", "expected"), [(0.0, 0.75), (0.5, 1.0), (1.0, 1.25)])
def test_open_time_is_spread_by_chance(provider: Provider, jitter: float, expected: float) -> None:
    """By a quarter to both sides."""
    provider.requests(FAILED, FAILED)
    provider.request(FAILED, jitter=jitter)
    assert provider.wait_s() == pytest.approx(expected)


@pytest.mark.parametrize("outcome", [GOOD, REFUSED])
def test_a_trials_answer_closes_it(provider: Provider, outcome: Outcome) -> None:
    """Also an answer that is an error of the upstream's own: it lives."""
    provider.requests(FAILED, FAILED, FAILED)
    provider.sleep_out()
    provider.request(outcome)
    assert (provider.wait_s(), provider.state) == (0, State.UP)
    provider.requests(FAILED, FAILED)
    assert provider.wait_s() == 0


def test_one_trial_goes_at_a_time(provider: Provider) -> None:
    """The others wait a moment; who goes anyway is no trial, and his end does not end it."""
    provider.requests(FAILED, FAILED, FAILED)
    provider.sleep_out()
    trial = provider.health.begin(provider.now_s)
    assert trial
    assert provider.wait_s() == TRIAL_WAIT_S
    for outcome in (LEFT, FAILED):
        other = provider.health.begin(provider.now_s)
        assert other == 0
        provider.health.ended(outcome, provider.now_s, None, EVEN, trial=other)
        assert provider.wait_s() == TRIAL_WAIT_S
    provider.health.ended(FAILED, provider.now_s, None, EVEN, trial=trial)
    assert provider.wait_s() == 2


def test_a_trial_whose_caller_left_frees_its_place(provider: Provider) -> None:
    """It said nothing: the next may go at once, and the open time is as it was."""
    provider.requests(FAILED, FAILED, FAILED)
    provider.sleep_out()
    provider.request(LEFT)
    assert provider.wait_s() == 0
    provider.request(FAILED)
    assert provider.wait_s() == 2


@pytest.mark.parametrize(("outcome", "wait_s"), [(LEFT, 0), (FAILED, 2), (GOOD, 0)])
def test_an_end_without_its_number_is_taken_for_the_trials(provider: Provider, outcome: Outcome, wait_s: float) -> None:
    """For callers that do not keep what `begin` gave."""
    provider.requests(FAILED, FAILED, FAILED)
    provider.sleep_out()
    provider.health.begin(provider.now_s)
    provider.health.ended(outcome, provider.now_s, None, EVEN)
    assert provider.wait_s() == wait_s


def test_a_forgotten_trial_is_replaced_after_a_minute(provider: Provider) -> None:
    """And its late end, without an answer, changes nothing for the next one."""
    provider.requests(FAILED, FAILED, FAILED)
    provider.sleep_out()
    forgotten = provider.health.begin(provider.now_s)
    provider.now_s += TRIAL_MAX_S - 0.001
    assert provider.wait_s() > 0
    provider.now_s += 0.001
    assert provider.wait_s() == 0
    assert provider.health.begin(provider.now_s)
    for outcome in (LEFT, FAILED):
        provider.health.ended(outcome, provider.now_s, None, EVEN, trial=forgotten)
        assert provider.wait_s() == TRIAL_WAIT_S


def test_what_was_sent_before_it_opened_does_not_prolong_it(provider: Provider) -> None:
    """A hundred that break off together are one failure; one of them that is answered closes it."""
    trials = [provider.health.begin(provider.now_s) for _ in range(100)]
    for trial in trials[:-1]:
        provider.health.ended(FAILED, provider.now_s, None, EVEN, trial=trial)
    assert provider.wait_s() == 1
    provider.health.ended(GOOD, provider.now_s, 0.1, EVEN, trial=trials[-1])
    assert provider.wait_s() == 0


def test_the_first_byte_of_a_trial_lets_the_others_go(provider: Provider) -> None:
    """A long answer holds up nobody; if it breaks off, it opens again for longer, and once it has ended well all is forgotten."""
    provider.requests(FAILED, FAILED, FAILED)
    provider.sleep_out()
    trial = provider.health.begin(provider.now_s)
    provider.health.answered(provider.now_s)
    assert (provider.wait_s(), provider.state) == (0, State.UP)
    provider.health.ended(FAILED, provider.now_s, 0.1, EVEN, trial=trial)
    assert provider.sleep_out() == 2
    trial = provider.health.begin(provider.now_s)
    provider.health.answered(provider.now_s)
    provider.health.ended(GOOD, provider.now_s, 0.1, EVEN, trial=trial)
    provider.requests(FAILED, FAILED)
    assert provider.wait_s() == 0


def test_a_first_byte_while_closed_is_no_end(provider: Provider) -> None:
    """An upstream that always breaks off after it is found out."""
    for _ in range(3):
        trial = provider.health.begin(provider.now_s)
        provider.health.answered(provider.now_s)
        provider.health.ended(FAILED, provider.now_s, 0.1, EVEN, trial=trial)
    assert provider.wait_s() == 1


# ------------------------------------------------------------ looks at the catalogue


def test_a_provider_that_never_answered_is_down_at_the_first_failed_look_but_blocked_after_the_third(
    provider: Provider,
) -> None:
    """What is shown and who is blocked are two things."""
    provider.look("nobody listens")
    assert (provider.state, provider.wait_s()) == (State.DOWN, 0)
    provider.look("nobody listens")
    assert provider.wait_s() == 0
    provider.look("nobody listens")
    assert (provider.wait_s(), provider.health.reason) == (1, "nobody listens")


def test_failed_looks_and_failed_requests_count_together(provider: Provider) -> None:
    """A provider that has answered before is only "failing" until the third."""
    provider.request(GOOD)
    provider.look("timed out")
    assert provider.state is State.FAILING
    provider.requests(FAILED, FAILED)
    assert (provider.state, provider.wait_s()) == (State.DOWN, 1)


def test_a_good_look_closes_it_until_the_next_failure(provider: Provider) -> None:
    """It can be reached, but may still fail all requests: no three more of them are spent on finding out."""
    provider.requests(FAILED, FAILED, FAILED)
    provider.look(None)
    assert (provider.wait_s(), provider.state) == (0, State.UP)
    provider.request(FAILED)
    assert (provider.wait_s(), provider.state) == (2, State.DOWN)
    provider.look(None)
    provider.requests(GOOD, FAILED, FAILED)
    assert provider.wait_s() == 0


def test_a_good_look_does_not_forgive_requests_that_fail(provider: Provider) -> None:
    """With a look between each two failures it opens all the same."""
    for _ in range(3):
        provider.look(None)
        provider.request(FAILED)
    assert provider.wait_s() == 1


def test_a_failed_look_prolongs_it_once_between_two_trials(provider: Provider) -> None:
    """Not before the time is out, not beside a trial, and never twice: requests get their turn."""
    provider.requests(FAILED, FAILED, FAILED)
    provider.look("dead")
    assert provider.sleep_out() == 1
    provider.look("dead")
    assert provider.sleep_out() == 2
    provider.look("dead")
    assert provider.wait_s() == 0
    trial = provider.health.begin(provider.now_s)
    provider.look("dead")
    assert provider.wait_s() == TRIAL_WAIT_S
    provider.health.ended(FAILED, provider.now_s, None, EVEN, trial=trial)
    assert provider.sleep_out() == 4
    provider.look("dead")
    assert provider.wait_s() == 8


def test_a_look_that_was_answered_with_an_error_blocks_nobody(provider: Provider) -> None:
    """A provider without a catalogue, or with a wrong key: shown, with its words."""
    for _ in range(10):
        provider.look("it does not take our key", lives=True)
    view = provider.health.view(provider.now_s)
    assert (view.state, view.reason, provider.wait_s()) == (State.FAILING, "it does not take our key", 0)
    provider.requests(FAILED, FAILED, FAILED)
    provider.look("it does not take our key", lives=True)
    assert (provider.state, provider.wait_s()) == (State.DOWN, 1)


# ------------------------------------------------------------ Retry-After


def test_a_target_that_asked_to_wait_waits_and_no_other(provider: Provider) -> None:
    """As long as it said; a shorter word does not take that back, an answer neither."""
    provider.health.asked_to_wait("p/a", provider.now_s, 30.0)
    provider.health.asked_to_wait("p/a", provider.now_s, 5.0)
    provider.request(GOOD)
    assert (provider.wait_s("p/a"), provider.wait_s("p/b"), provider.wait_s()) == (30, 0, 0)
    provider.now_s += 30
    assert provider.wait_s("p/a") == 0


def test_a_wait_for_all_holds_for_every_target(provider: Provider) -> None:
    """The longer one counts, of those and of the breaker's."""
    provider.health.asked_to_wait("", provider.now_s, 10.0)
    provider.health.asked_to_wait("p/a", provider.now_s, 20.0)
    assert (provider.wait_s("p/a"), provider.wait_s("p/b"), provider.wait_s()) == (20, 10, 10)
    assert provider.health.view(provider.now_s).retry_in_s == 10
    provider.requests(FAILED, FAILED, FAILED)
    assert (provider.wait_s("p/a"), provider.wait_s("p/b")) == (20, 10)
    provider.now_s += 100
    for _ in range(10):
        provider.sleep_out()
        provider.request(FAILED)
    provider.health.asked_to_wait("p/a", provider.now_s, 20.0)
    assert provider.wait_s("p/a") == OPEN_MAX_S


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(3600.0, ASKED_MAX_S), (float("inf"), ASKED_MAX_S), (0.0, 0), (-5.0, 0), (float("nan"), 0)],
)
def test_an_odd_wait_is_kept_in_bounds(provider: Provider, seconds: float, expected: float) -> None:
    """An hour, for ever, not at all."""
    provider.health.asked_to_wait("p/a", provider.now_s, seconds)
    assert provider.wait_s("p/a") == expected


def test_targets_that_wait_are_bounded(provider: Provider) -> None:
    """Those whose time is over make room, else the one that is back soonest."""
    for n in range(TARGETS_MAX):
        provider.health.asked_to_wait(f"p/{n}", provider.now_s, 10.0 if n else 5.0)
    provider.health.asked_to_wait("p/new", provider.now_s, 10.0)
    assert (provider.wait_s("p/0"), provider.wait_s("p/1"), provider.wait_s("p/new")) == (0, 10, 10)
    provider.now_s += 9
    provider.health.asked_to_wait("p/kept", provider.now_s, 10.0)
    provider.now_s += 2
    for n in range(TARGETS_MAX - 1):
        provider.health.asked_to_wait(f"p/{n}", provider.now_s, 20.0)
    assert provider.wait_s("p/kept") == 8


def test_a_provider_that_is_forgiven_is_sent_to_at_once(provider: Provider) -> None:
    """Neither the breaker nor a wait it asked for is left; it takes three failures and a second again."""
    for _ in range(3):
        provider.requests(FAILED, FAILED, FAILED)
        provider.sleep_out()
    provider.health.asked_to_wait("p/a", provider.now_s, 30.0)
    provider.health.forgive()
    assert provider.wait_s("p/a") == 0
    provider.requests(FAILED, FAILED)
    assert provider.wait_s() == 0
    provider.request(FAILED)
    assert provider.wait_s() == 1


# ------------------------------------------------------------ what is shown


def test_view_says_unknown_and_nothing_before_the_first_word(provider: Provider) -> None:
    """No zero is made up."""
    provider.now_s += 3
    provider.request(LEFT)
    view = provider.health.view(provider.now_s)
    assert (view.state, view.reason, view.since_s, view.retry_in_s) == (State.UNKNOWN, "", 3, None)
    assert (view.requests, view.failures, view.refused, view.error_rate) == (1, 0, 0, None)
    assert (view.first_byte_p50_s, view.first_byte_p95_s, view.first_byte_p99_s, view.first_byte_average_s) == (
        None,
    ) * 4
    assert (view.availability, view.last_ok_s, view.probe_s) == (None, None, None)


def test_view_counts_outcomes(provider: Provider) -> None:
    """A caller who left counts as a request only."""
    provider.requests(GOOD, REFUSED, FAILED, LEFT, GOOD)
    view = provider.health.view(provider.now_s)
    assert (view.requests, view.failures, view.refused, view.error_rate) == (5, 1, 1, 0.25)


def test_view_forgets_old_outcomes_and_measurements(provider: Provider) -> None:
    """The last thousand of each count."""
    for _ in range(WINDOW):
        provider.request(FAILED, 9.0)
    for n in range(1, WINDOW + 1):
        provider.request(GOOD, n / WINDOW)
        if n == WINDOW // 4:
            assert provider.health.view(provider.now_s).error_rate == 0.75
    view = provider.health.view(provider.now_s)
    assert (view.error_rate, view.failures) == (0, WINDOW)
    assert (view.first_byte_p50_s, view.first_byte_p95_s, view.first_byte_p99_s) == (0.501, 0.951, 0.991)
    assert view.first_byte_average_s == pytest.approx(0.5005)


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [
        ([], 50, None),
        ([1.0], 50, 1.0),
        ([1.0], 99, 1.0),
        ([1.0, 2.0], 50, 2.0),
        ([1.0, 2.0, 3.0], 50, 2.0),
        ([1.0, 2.0], 100, 2.0),
    ],
)
def test_percentile_takes_the_clamped_index(values: list[float], percent: int, expected: float | None) -> None:
    """The value at index int(p / 100 · n), clamped."""
    assert percentile(values, percent) == expected


def test_view_tells_state_reason_and_when_it_is_tried_again(provider: Provider) -> None:
    """The last error's words stay when it is up again."""
    provider.request(GOOD)
    provider.now_s += 2
    provider.request(FAILED, reason="reset by peer")
    provider.now_s += 1
    view = provider.health.view(provider.now_s)
    assert (view.state, view.reason, view.since_s, view.retry_in_s, view.last_ok_s) == (
        State.FAILING,
        "reset by peer",
        1,
        None,
        3,
    )
    provider.request(FAILED)
    provider.request(FAILED, reason="x" * 10_000)
    provider.now_s += 0.25
    view = provider.health.view(provider.now_s)
    assert (view.state, view.since_s, view.retry_in_s, len(view.reason)) == (State.DOWN, 0.25, 0.75, 300)
    provider.sleep_out()
    view = provider.health.view(provider.now_s)
    assert (view.state, view.retry_in_s) == (State.DOWN, 0)
    provider.request(REFUSED, reason="no such model")
    view = provider.health.view(provider.now_s)
    assert (view.state, view.reason, view.retry_in_s) == (State.UP, "no such model", None)


def test_view_tells_the_share_of_time_it_was_not_down(provider: Provider) -> None:
    """From its first word on: nobody knows what was before."""
    provider.now_s += 1000
    provider.request(GOOD)
    provider.now_s += 6
    provider.requests(FAILED, FAILED, FAILED)
    provider.now_s += 2
    assert provider.health.view(provider.now_s).availability == pytest.approx(6 / 8)
    provider.look(None)
    provider.now_s += 2
    view = provider.health.view(provider.now_s)
    assert view.availability == pytest.approx(8 / 10)
    assert (view.last_ok_s, view.probe_s) == (2, 0.2)
