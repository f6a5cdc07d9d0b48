"""A key → a principal: who may ask, who may administrate, for each of the four ways to configure keys."""

from __future__ import annotations

import pytest

from config.forms import Secret
from config.schema import Config, Server
from gateway.access.door import Access
from gateway.errors import CallerError, Forbidden, Unauthenticated

ASK, ADMIN, WRONG = "ask-1234", "admin-1234", "wrong"


def held_by(api: list[str], admin: list[str]) -> Access:
    """Of a configuration with these keys."""
    server = Server(api_keys=tuple(map(Secret, api)), admin_keys=tuple(map(Secret, admin)))
    return Access(Config(server=server))


def keys(*, api: bool, admin: bool) -> Access:
    """With one key of each sort that is wanted."""
    return held_by([ASK] if api else [], [ADMIN] if admin else [])


@pytest.mark.parametrize(
    ("api", "admin", "key", "data", "administrate"),
    [
        # nothing configured: the local operator may everything
        (False, False, None, None, None),
        (False, False, WRONG, None, None),
        # api_keys only: whoever may ask may administrate
        (True, False, None, Unauthenticated, Unauthenticated),
        (True, False, WRONG, Unauthenticated, Unauthenticated),
        (True, False, ASK, None, None),
        # admin_keys only: anybody may ask
        (False, True, None, None, Unauthenticated),
        (False, True, WRONG, None, Unauthenticated),
        (False, True, ADMIN, None, None),
        # both
        (True, True, None, Unauthenticated, Unauthenticated),
        (True, True, WRONG, Unauthenticated, Unauthenticated),
        (True, True, ASK, None, Forbidden),
        (True, True, ADMIN, None, None),
    ],
)
def test_keys_let_in_whom_the_configuration_lets_in(
    api: bool,
    admin: bool,
    key: str | None,
    data: type[CallerError] | None,
    administrate: type[CallerError] | None,
) -> None:
    """The data routes and the admin routes, with no key, a wrong one and each right one."""
    held = keys(api=api, admin=admin)
    assert held.needed is (api or admin)
    for ask, refusal in ((held.principal, data), (held.admin, administrate)):
        if refusal is None:
            assert ask(key).name
        else:
            with pytest.raises(refusal) as caught:
                ask(key)
            assert type(caught.value) is refusal


def test_keys_keep_an_admin_an_admin_when_the_same_key_is_in_both_lists() -> None:
    """The wider right wins."""
    assert held_by(["k"], ["k"]).admin("k").admin


@pytest.mark.parametrize("key", ["", " ", "\0", "é", "\udcff", "x" * 100_000])
def test_keys_refuse_when_a_key_is_hostile(key: str) -> None:
    """Any text is a wrong key, never a crash."""
    with pytest.raises(Unauthenticated):
        keys(api=True, admin=True).principal(key)


def test_keys_know_a_key_that_is_not_ascii() -> None:
    """It is compared as UTF-8."""
    assert held_by(["schlüssel"], []).principal("schlüssel").name == "key-1"


def test_keys_hold_digests_only() -> None:
    """The text of a key is nowhere in what is kept, nor in what is said."""
    held = keys(api=True, admin=True)
    assert ASK not in repr(vars(held))
    assert ADMIN not in repr(vars(held))
    for key in (WRONG, ASK):
        with pytest.raises(CallerError) as caught:
            held.admin(key)
        assert key not in caught.value.message
