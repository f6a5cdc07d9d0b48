"""The door: configured keys, keys made at run time, tenants, expiry, revocation, limits; and what happens without a database."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from gateway.access.door import Access, Spent, access_of
from gateway.access.limits import BUDGET_CODE
from gateway.access.terms import Terms
from gateway.errors import CallerError, Forbidden, InvalidRequest, RateLimited, Unauthenticated, UnknownModel
from gateway.storage.database import Database, DatabaseUnavailable
from tests.access.doors import NOON_S, TENANT, Clock, config_of, door, make

KEYS = (
    TENANT
    + """
[keys.plain]
key = "k-plain"
models = ["gpt-*", "smollm2"]
[keys.boss]
key = "k-boss"
admin = true
[keys.red]
key = "k-red"
tenant = "red-team"
rpm = 3
[keys.blue]
key = "k-blue"
tenant = "blue-team"
[keys.many]
key = "k-many"
tenants = ["red-team", "blue-team"]
[keys.any]
key = "k-any"
tenants = ["*"]
[keys.old]
key = "k-old"
expires = 2026-01-01T12:00:00Z
"""
)


def refused(access: Access, key: str | None, tenant: str | None = None) -> CallerError:
    """How it is refused."""
    with pytest.raises(CallerError) as caught:
        access.principal(key, tenant)
    return caught.value


# configured keys


def test_named_keys_close_the_door(tmp_path: Path) -> None:
    """Nobody without one; only the one that says so may administrate."""
    access = Access(config_of(tmp_path, KEYS), clock=Clock())
    assert access.needed
    for key in (None, "wrong", "", "rh-whatever", "é\udcff"):
        assert type(refused(access, key)) is Unauthenticated
    plain = access.principal("k-plain")
    assert (plain.name, plain.key_id, plain.admin, plain.tenant) == ("plain", "config:plain", False, "")
    assert access.admin("k-boss").name == "boss"
    with pytest.raises(Forbidden, match="admin = true"):
        access.admin("k-plain")
    with pytest.raises(Unauthenticated):
        access.admin(None)


def test_named_admin_takes_the_right_from_plain_lists(tmp_path: Path) -> None:
    """As server.admin_keys does; without either whoever may ask may administrate."""
    lists = '[server]\napi_keys = ["k-api"]\n'
    assert Access(config_of(tmp_path, lists)).admin("k-api").admin
    mixed = Access(config_of(tmp_path, lists + '[keys.boss]\nkey = "k-boss"\nadmin = true'))
    assert not mixed.principal("k-api").admin
    assert mixed.admin("k-boss").admin


@pytest.mark.parametrize(
    ("model", "may"), [("gpt-4o", True), ("smollm2", True), ("SMOLLM2", False), ("smollm2x", False), ("other", False)]
)
def test_key_may_ask_for_what_its_patterns_match(tmp_path: Path, model: str, may: bool) -> None:
    """Whole names, with their case; a key without patterns may ask for all."""
    access = Access(config_of(tmp_path, KEYS), clock=Clock())
    assert access.principal("k-plain").may(model) is may
    assert access.principal("k-boss").may(model)


def test_key_that_has_run_out_is_refused_from_that_moment(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is said at the start, and to the caller in words of its own."""
    clock = Clock()
    clock.now_s = NOON_S - 1
    access = Access(config_of(tmp_path, KEYS), clock=clock)
    assert "expired" not in caplog.text
    assert access.principal("k-old").name == "old"
    clock.now_s = NOON_S
    assert "expired" in refused(access, "k-old").message
    Access(config_of(tmp_path, KEYS), clock=clock)
    assert "[keys] old has expired" in caplog.text


# tenants


def test_tenant_is_the_keys_own_or_the_one_it_names(tmp_path: Path) -> None:
    """Each row of the table in `tenants`."""
    access = Access(config_of(tmp_path, KEYS), clock=Clock())
    for key, header, tenant in (
        ("k-red", None, "red-team"),
        ("k-red", "red-team", "red-team"),
        ("k-many", "blue-team", "blue-team"),
        ("k-any", "red-team", "red-team"),
        ("k-plain", None, ""),
    ):
        assert access.principal(key, header).tenant == tenant
    for key, header in (
        ("k-red", "blue-team"),
        ("k-many", "nobody"),
        ("k-any", "nobody"),
        ("k-any", "*"),
        ("k-any", "RED-TEAM"),
        ("k-any", "red-team\0"),
        ("k-plain", "red-team"),
    ):
        error = refused(access, key, header)
        assert (type(error), error.code, error.message) == (Forbidden, "invalid_tenant", "Invalid tenant ID")
    for header in (None, ""):
        error = refused(access, "k-many", header)
        assert (type(error), error.code) == (InvalidRequest, "tenant_required")
        assert error.message == "X-Tenant-ID header is required"


def test_tenant_narrows_what_its_keys_may_ask_for(tmp_path: Path) -> None:
    """Both its patterns and the key's have to match."""
    access = Access(config_of(tmp_path, KEYS), clock=Clock())
    assert not access.principal("k-blue").may("smollm2")
    assert access.principal("k-many", "blue-team").may("gpt-4")
    assert access.principal("k-many", "red-team").may("smollm2")


def test_local_operator_has_no_tenant(tmp_path: Path) -> None:
    """Without keys everybody is the operator, whatever header is sent."""
    assert Access(config_of(tmp_path, TENANT)).principal(None, "red-team").tenant == ""


# limits


def test_limits_of_key_and_tenant_hold_together(tmp_path: Path) -> None:
    """The tenant's for all its keys, the key's for it alone; who has none reserves nothing."""
    access = Access(config_of(tmp_path, KEYS), clock=Clock())
    red, blue = access.principal("k-red"), access.principal("k-blue")
    named = access.principal("k-any", "blue-team")
    assert access.reserve(access.principal("k-plain"), tokens=1, cost_usd=None) is None
    for _ in range(3):
        assert access.reserve(red, tokens=1, cost_usd=Decimal(0)) is not None
    with pytest.raises(RateLimited, match="This key's limit of 3"):
        access.reserve(red, tokens=1, cost_usd=Decimal(0))
    first = access.reserve(blue, tokens=1, cost_usd=Decimal(0))
    access.reserve(named, tokens=1, cost_usd=Decimal(0))
    with pytest.raises(RateLimited, match="This tenant's limit of 2"):
        access.reserve(named, tokens=1, cost_usd=Decimal(0))
    assert first is not None
    access.release(first)
    assert access.reserve(named, tokens=1, cost_usd=Decimal(0)) is not None
    assert (b"x-ratelimit-remaining-requests", b"0") in access.limit_fields(named)
    assert access.limit_fields(access.principal("k-plain")) == []


async def test_limits_outlive_a_restart(tmp_path: Path) -> None:
    """Of key and tenant, for each span that is limited; before that a key made at run time is not let in."""
    asked: list[tuple[str, float, float]] = []

    async def past(who: str, since_s: float, until_s: float) -> Spent:
        asked.append((who, since_s, until_s))
        return Spent(2, 50, Decimal("0.5"))

    clock = Clock()
    async with door(tmp_path, TENANT, clock) as access:
        _, key = await make(access, tenant="blue-team", rpm=5, budget_usd_day=Decimal("0.6"))
    async with door(tmp_path, TENANT, clock, past) as access:
        assert access.used("tenant:blue-team").requests_minute == 2
        with pytest.raises(RateLimited) as caught:
            access.reserve(access.principal(key), tokens=1, cost_usd=Decimal("0.2"))
        assert caught.value.code == BUDGET_CODE
    (record,) = [record for record in access.all_keys() if record.source == "database"]
    assert sorted(asked) == [
        (f"key:{record.id}", NOON_S - 43_200, NOON_S),
        (f"key:{record.id}", NOON_S - 60, NOON_S),
        ("tenant:blue-team", NOON_S - 60, NOON_S),
    ]


async def test_what_a_kill_left_in_the_spool_is_waited_for(tmp_path: Path) -> None:
    """The first start of all may be killed before it has made the database."""
    config, spool = config_of(tmp_path, KEYS), tmp_path / "spool"
    database = Database(f"sqlite:///{tmp_path / 'keys.sqlite3'}")
    assert (await access_of(config, database, spool)).restored
    spool.mkdir()
    (spool / "0.lock").touch()
    assert (await access_of(config, database, spool)).restored
    (spool / "0-1.rows").touch()
    assert not (await access_of(config, database, spool)).restored


# keys made at run time


async def test_made_key_is_known_at_once_and_after_a_restart(tmp_path: Path) -> None:
    """With all that was said of it; an admin key opens /admin."""
    clock = Clock()
    terms = Terms(models=("a*",), rpm=7, budget_usd_month=Decimal("1.10"), capture=True)
    async with door(tmp_path, TENANT, clock) as access:
        record, key = await access.create_key("n", tenant="red-team", admin=True, terms=terms, expires_s=NOON_S + 9)
        assert key.startswith("rh-")
        assert record.prefix == f"{key[:7]}…"
        first = access.principal(key)
    async with door(tmp_path, TENANT, clock) as access:
        again = access.principal(key)
        assert again == first
        assert access.admin(key) == access.holder(key)
        assert (again.key_id, again.tenant, again.models, again.capture) == (record.id, "red-team", ("a*",), True)
        assert again.limits is not None
        assert again.limits.budget_usd_month == Decimal("1.10")
        clock.now_s += 9
        assert "expired" in refused(access, key).message


async def test_door_stays_as_the_configuration_has_it(tmp_path: Path) -> None:
    """A key made at run time neither closes it nor, revoked, opens it; but a key of our form is known or refused."""
    async with door(tmp_path) as access:
        record, key = await make(access)
        assert access.principal(None).name == "local"
        assert access.principal("sk-whatever").name == "local"
        assert access.principal(key).name == "notebook"
        with pytest.raises(Forbidden):
            access.admin(key)
        await access.revoke_key(record.id)
        assert type(refused(access, key)) is Unauthenticated
        assert type(refused(access, "rh-unknown")) is Unauthenticated
        assert access.principal(None).admin


async def test_rotated_key_lives_on_under_a_new_text(tmp_path: Path) -> None:
    """The former is refused at once, its sessions end, its limits go on."""
    async with door(tmp_path, KEYS) as access:
        record, key = await make(access, rpm=1)
        access.reserve(access.principal(key), tokens=0, cost_usd=Decimal(0))
        session = access.login(key, "127.0.0.1")
        assert access.session_holder(session) is not None
        rotated, new = await access.rotate_key(record.id)
        assert new != key
        assert rotated.id == record.id
        assert type(refused(access, key)) is Unauthenticated
        assert access.session_holder(session) is None
        with pytest.raises(RateLimited):
            access.reserve(access.principal(new), tokens=0, cost_usd=Decimal(0))


async def test_what_is_made_twice_or_of_nothing_is_refused(tmp_path: Path) -> None:
    """Names, tenants, moments; nothing of it is kept."""
    async with door(tmp_path, KEYS) as access:
        await make(access)
        kept = len(access.all_keys())
        for name, tenant, terms, expires_s, code in (
            ("notebook", "", Terms(), None, "name_taken"),
            ("plain", "", Terms(), None, "name_taken"),
            ("x", "nobody", Terms(), None, "tenant_not_found"),
            ("x", "", Terms(tenants=("nobody",)), None, "tenant_not_found"),
            ("x", "red-team", Terms(tenants=("*",)), None, "invalid_request"),
            ("x", "", Terms(), NOON_S, "invalid_request"),
        ):
            with pytest.raises(InvalidRequest) as caught:
                await access.create_key(name, tenant=tenant, admin=False, terms=terms, expires_s=expires_s)
            assert caught.value.code == code
        for key_id, error in (("config:plain", InvalidRequest), ("key_0", UnknownModel)):
            with pytest.raises(error):
                await access.revoke_key(key_id)
            with pytest.raises(error):
                await access.rotate_key(key_id)
        assert len(access.all_keys()) == kept


async def test_tenant_with_keys_is_deleted_only_by_force(tmp_path: Path) -> None:
    """Then its keys are revoked, and whoever may name any may not name it any more."""
    async with door(tmp_path, KEYS) as access:
        await access.create_tenant("green-team", "Green", Terms(rpm=1))
        _, key = await make(access, tenant="green-team")
        assert access.principal("k-any", "green-team").tenant == "green-team"
        with pytest.raises(InvalidRequest) as caught:
            await access.delete_tenant("green-team", force=False)
        assert caught.value.code == "tenant_has_keys"
        await access.delete_tenant("green-team", force=True)
        assert type(refused(access, key)) is Unauthenticated
        assert refused(access, "k-any", "green-team").code == "invalid_tenant"
        for name, error in (("red-team", InvalidRequest), ("green-team", UnknownModel)):
            with pytest.raises(error):
                await access.delete_tenant(name, force=True)
        with pytest.raises(InvalidRequest, match="already"):
            await access.create_tenant("red-team", "", Terms())


async def test_key_of_a_tenant_that_is_gone_is_refused(tmp_path: Path) -> None:
    """The configuration lost it: better nobody than everybody."""
    async with door(tmp_path, TENANT) as access:
        _, key = await make(access, tenant="red-team")
    async with door(tmp_path) as access:
        error = refused(access, key)
        assert (type(error), error.code) == (Forbidden, "invalid_tenant")


# without a database


async def test_without_the_database_everything_fails_to_the_safe_side(tmp_path: Path) -> None:
    """Keys of ours are told to come again, tenants of its are not there, configured ones are let in, nothing is made."""
    (tmp_path / "keys.sqlite3").mkdir()  # a folder is no database
    access = await access_of(config_of(tmp_path, KEYS), Database(f"sqlite:///{tmp_path / 'keys.sqlite3'}"))
    with pytest.raises(DatabaseUnavailable):
        access.principal("rh-perhaps-known")
    assert type(refused(access, "another")) is Unauthenticated
    assert access.principal("k-plain").name == "plain"
    assert refused(access, "k-any", "green-team").code == "invalid_tenant"
    with pytest.raises(DatabaseUnavailable):
        await make(access)


async def test_secret_that_cannot_be_read_leaves_configured_keys(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """They need none that lasts; of the others it is said why."""
    config = config_of(tmp_path, KEYS)
    config.server.state_dir.mkdir()
    (config.server.state_dir / "secret.key").write_bytes(b"short")
    access = await access_of(config, Database(f"sqlite:///{tmp_path / 'keys.sqlite3'}"))
    assert access.principal("k-boss").name == "boss"
    assert "should hold 32 bytes" in caplog.text
    with pytest.raises(InvalidRequest, match="no database"):
        await make(access)


def test_no_key_is_in_what_the_door_says_of_itself(tmp_path: Path) -> None:
    """Neither in its parts nor in its refusals."""
    access = Access(config_of(tmp_path, KEYS), clock=Clock())
    said = repr([vars(access), vars(access.store), access.all_keys(), access.principal("k-plain"), access.sessions])
    said += "".join(refused(access, key).message for key in ("k-wrong", "k-old", "k-many"))
    for secret in ("k-plain", "k-boss", "k-red", "k-wrong", "k-old"):
        assert secret not in said
