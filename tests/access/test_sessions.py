"""Sessions end by themselves, are bounded, and keep no cookie; guessing is slowed down."""

from __future__ import annotations

import pytest

from gateway.access.sessions import (
    ABSOLUTE_S,
    ADDRESSES_MAX,
    FORGIVE_S,
    FREE_FAILURES,
    IDLE_S,
    SESSIONS_MAX,
    SESSIONS_OF_ONE_MAX,
    Sessions,
    Throttle,
)
from gateway.errors import RateLimited
from tests.access.doors import Clock

ADDRESS = "192.0.2.7"


def test_session_is_found_until_it_is_closed() -> None:
    """By its cookie only."""
    sessions = Sessions(Clock())
    token = sessions.open(b"digest")
    assert len(token) >= 43
    assert sessions.find(token) == b"digest"
    assert sessions.find(token + "x") is None
    assert sessions.find("\udcff") is None
    assert token not in repr(vars(sessions))
    sessions.close(token)
    sessions.close(token)
    assert sessions.find(token) is None


def test_session_ends_when_it_is_not_used() -> None:
    """Each use begins the time anew."""
    clock = Clock()
    sessions = Sessions(clock)
    token = sessions.open(b"d")
    clock.now_s += IDLE_S - 1
    assert sessions.find(token)
    clock.now_s += IDLE_S - 1
    assert sessions.find(token)
    clock.now_s += IDLE_S
    assert sessions.find(token) is None
    assert len(sessions) == 0


def test_session_ends_even_when_it_is_used_all_the_time() -> None:
    """After a week."""
    clock = Clock()
    sessions = Sessions(clock)
    token = sessions.open(b"d")
    for _ in range(int(ABSOLUTE_S // (IDLE_S - 1))):
        clock.now_s += IDLE_S - 1
        assert sessions.find(token)
    clock.now_s += IDLE_S - 1
    assert sessions.find(token) is None


def test_sessions_are_bounded() -> None:
    """The one that was not used for longest goes."""
    clock = Clock()
    sessions = Sessions(clock)
    tokens: list[str] = []
    for number in range(SESSIONS_MAX):
        clock.now_s += 1
        tokens.append(sessions.open(b"%d" % number))
    clock.now_s += 1
    assert sessions.find(tokens[0])
    sessions.open(b"another")
    assert len(sessions) == SESSIONS_MAX
    assert sessions.find(tokens[0])
    assert sessions.find(tokens[1]) is None


def test_one_key_ends_only_its_own_sessions() -> None:
    """Whoever logs in again and again puts nobody else out."""
    clock = Clock()
    sessions = Sessions(clock)
    boss = sessions.open(b"boss")
    tokens: list[str] = []
    for _ in range(SESSIONS_OF_ONE_MAX + 1):
        clock.now_s += 1
        tokens.append(sessions.open(b"guest"))
    assert len(sessions) == SESSIONS_OF_ONE_MAX + 1
    assert sessions.find(boss) == b"boss"
    assert sessions.find(tokens[0]) is None
    assert sessions.find(tokens[1]) == b"guest"


def fail(throttle: Throttle, times: int, address: str = ADDRESS) -> None:
    """So many wrong keys."""
    for _ in range(times):
        throttle.enter(address)
        throttle.failed(address)


def test_after_five_failures_one_try_a_second() -> None:
    """A second try in the same second is refused, also when it would be right; another address is not."""
    clock = Clock()
    throttle = Throttle(clock)
    fail(throttle, FREE_FAILURES)
    with pytest.raises(RateLimited) as caught:
        throttle.enter(ADDRESS)
    assert (caught.value.code, caught.value.retry_after_s) == ("login_throttled", 1.0)
    throttle.enter("192.0.2.8")
    clock.now_s += 1
    throttle.enter(ADDRESS)
    with pytest.raises(RateLimited):
        throttle.enter(ADDRESS)


def test_success_or_time_forgives() -> None:
    """The count begins anew."""
    clock = Clock()
    throttle = Throttle(clock)
    fail(throttle, FREE_FAILURES - 1)
    throttle.succeeded(ADDRESS)
    fail(throttle, FREE_FAILURES)
    clock.now_s += FORGIVE_S
    fail(throttle, FREE_FAILURES)
    with pytest.raises(RateLimited):
        throttle.enter(ADDRESS)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.7", "192.0.2.7", True),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("", "nonsense", False),
    ],
)
def test_addresses_that_are_one_callers_count_as_one(one: str, other: str, same: bool) -> None:
    """Half of an IPv6 address is the caller's own to choose."""
    throttle = Throttle(Clock())
    fail(throttle, FREE_FAILURES, one)
    if same:
        with pytest.raises(RateLimited):
            throttle.enter(other)
    else:
        throttle.enter(other)


def test_addresses_are_bounded() -> None:
    """The oldest failure is forgotten first."""
    clock = Clock()
    throttle = Throttle(clock)
    for number in range(ADDRESSES_MAX + 5):
        clock.now_s += 0.001
        throttle.failed(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    assert len(throttle._table) == ADDRESSES_MAX  # pyright: ignore[reportPrivateUsage] - it is seen nowhere else
