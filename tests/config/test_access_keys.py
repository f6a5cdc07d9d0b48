"""[keys], [tenants] and [ledger]: what is accepted, what it becomes, and what is refused in which words."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from config.forms import Mismatch, Secret, read_moment
from config.load import ConfigError, load
from config.schema import Config, KeyConfig, LedgerConfig, TenantConfig

ENVIRON = {"HOME": "/home/someone"}
PASSWORD = "pass-word-1234"


def read(folder: Path, text: str, **environ: str) -> Config:
    """`text` as roundhouse.toml, loaded."""
    path = folder / "roundhouse.toml"
    path.write_text(text)
    return load(path, ENVIRON | environ)


def refusal(folder: Path, text: str, **environ: str) -> str:
    """The line an operator gets for `text`, without the folder."""
    with pytest.raises(ConfigError) as caught:
        read(folder, text, **environ)
    return str(caught.value).removeprefix(f"{folder}/roundhouse.toml: ")


def test_key_and_tenant_become_what_they_say(tmp_path: Path) -> None:
    """Every key of both tables, money exact, the date its end."""
    text = """
    [tenants.red-team]
    display_name = "Red"
    budget_usd_month = "0.1"
    [keys."My notebook"]
    key = "${K}"
    admin = true
    tenant = "red-team"
    models = ["gpt-*"]
    rpm = 3
    tpm = 4
    concurrent = 5
    budget_usd_day = 0.3
    expires = 2026-01-31
    capture = true
    [keys.all]
    key = "other"
    tenants = ["*"]
    """
    config = read(tmp_path, text, K="sk-1")
    assert config.tenants == {"red-team": TenantConfig(display_name="Red", budget_usd_month=Decimal("0.1"))}
    assert config.keys["My notebook"] == KeyConfig(
        key=Secret("sk-1"),
        admin=True,
        tenant="red-team",
        models=("gpt-*",),
        rpm=3,
        tpm=4,
        concurrent=5,
        budget_usd_day=Decimal("0.3"),
        expires=1769904000.0,  # 2026-02-01T00:00:00Z
        capture=True,
    )
    assert config.keys["all"] == KeyConfig(key=Secret("other"), tenants=("*",))
    assert "K" in config.secret_env  # kept from the engines


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("1970-01-01", 86_400.0),
        ("2024-02-29", 1709251200.0),
        ("1970-01-02T00:00:00Z", 86_400.0),
        ("1970-01-01t01:02:03.5z", 3723.5),
        ("1970-01-01 12:00", 43_200.0),
        ("1970-01-01T12:00:00+02:00", 36_000.0),
        ("1970-01-01T12:00:00-00:30", 45_000.0),
    ],
)
def test_moment_is_read(written: str, seconds: float) -> None:
    """Dates, date-times, zones; UTC where none is named."""
    assert read_moment(written) == seconds


@pytest.mark.parametrize(
    "written",
    [
        *("", "soon", "2026-02-29", "2026-13-01", "0000-01-01", "2026-01-00", "2026-01-01T24:00", "2026-01-01T00:60"),
        *("2026-01-01T00:00:60", "2026-01-01T00:00+24:00", "2026-01-01T", "2026-01-01T00:00:00Zz", "٢٠٢٦-01-01"),
        *(5, True, None, [], 1.5),
    ],
)
def test_moment_is_refused_when_it_is_none(written: object) -> None:
    """Neither words, nor days that do not exist, nor other types."""
    with pytest.raises(Mismatch):
        read_moment(written)


@pytest.mark.parametrize("toml", ["2026-01-31T12:00:00Z", "2026-01-31T13:00:00+01:00", '"2026-01-31T12:00Z"'])
def test_expires_may_be_a_date_time_of_toml(tmp_path: Path, toml: str) -> None:
    """As TOML's own type, or as text."""
    assert read(tmp_path, f'[keys.a]\nkey = "k"\nexpires = {toml}').keys["a"].expires == 1769860800.0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[keys.a]", "keys.a.key: expected a non-empty string, got nothing"),
        ('[keys.a]\nkey = ""', "keys.a.key: expected a non-empty string, got a string"),
        ('[keys." a"]\nkey = "k"', 'keys." a": expected a name of 1 to 256'),
        ('[keys.a]\nkey = "k"\nrpm = -1', "keys.a.rpm: expected a whole number ≥ 0, got -1"),
        ('[keys.a]\nkey = "k"\nrpm = 1.5', "keys.a.rpm: expected a whole number ≥ 0, got 1.5"),
        ('[keys.a]\nkey = "k"\nbudget_usd_day = -1', 'budget_usd_day: expected USD ≥ 0, exact: "12.50", got -1'),
        ('[keys.a]\nkey = "k"\nbudget_usd_month = nan', "keys.a.budget_usd_month: expected USD"),
        ('[keys.a]\nkey = "k"\nexpires = "tomorrow"', 'keys.a.expires: expected a date "2027-01-31"'),
        ('[keys.a]\nkey = "k"\nexpires = 12:00:00', 'keys.a.expires: expected a date "2027-01-31"'),
        ('[keys.a]\nkey = "k"\ntenant = "X"', "keys.a.tenant: expected a tenant's id: 3 to 50 of a-z"),
        ('[keys.a]\nkey = "k"\ntenant = "red"', "keys.a.tenant: expected a tenant that is configured: [tenants.red]"),
        ('[keys.a]\nkey = "k"\ntenants = ["red"]', "keys.a.tenants: expected a tenant that is configured"),
        ('[keys.a]\nkey = "k"\ntenants = ["Red"]', "keys.a.tenants[0]: expected a tenant's id: 3 to 50"),
        ('[tenants.red]\n[keys.a]\nkey = "k"\ntenant = "red"\ntenants = ["*"]', "not both"),
        ("[tenants.Red]", 'tenants.Red: expected a tenant\'s id: 3 to 50 of a-z, 0-9 and -, got "Red"'),
        ("[tenants.ab]", "tenants.ab: expected a tenant's id"),
        ("[tenants.red]\nrpn = 1", "tenants.red.rpn: expected a key of [tenants.red] (did you mean 'rpm'?)"),
        ("[ledger]\nurl = 'mysql://u:p@h/d'", "ledger.url: expected postgresql://… or sqlite:///PATH, got a string"),
        ("[ledger]\nbuffer_rows = 0", "ledger.buffer_rows: expected a whole number ≥ 1, got 0"),
        ("[ledger]\nretention_days = -1", "ledger.retention_days: expected a whole number ≥ 0, got -1"),
        ("[ledger]\nenabled = 1", "ledger.enabled: expected true or false, got 1"),
    ],
)
def test_wrong_value_is_refused_when_read(tmp_path: Path, text: str, said: str) -> None:
    """Place, what was expected, what is there."""
    assert said in refusal(tmp_path, text)


@pytest.mark.parametrize(
    ("others", "whose"),
    [
        ('[keys.b]\nkey = "the-secret"', "keys.a"),
        ('[server]\napi_keys = ["the-secret"]', "server.api_keys"),
        ('[server]\nadmin_keys = ["the-secret"]', "server.admin_keys"),
    ],
)
def test_one_secret_for_two_keys_is_refused(tmp_path: Path, others: str, whose: str) -> None:
    """The line says whose it is, and not what it is."""
    line = refusal(tmp_path, f'[keys.a]\nkey = "the-secret"\n{others}')
    assert f"got the one of {whose}" in line
    assert "the-secret" not in line


def test_named_keys_open_other_hosts(tmp_path: Path) -> None:
    """They close the door as api_keys do."""
    host = '[server]\nhost = "0.0.0.0"\n'
    assert "or [keys.NAME]" in refusal(tmp_path, host)
    assert read(tmp_path, host + '[keys.a]\nkey = "k"').server.host == "0.0.0.0"


def test_expired_key_is_read(tmp_path: Path) -> None:
    """A key that has run out overnight must not keep the gateway from starting."""
    assert read(tmp_path, '[keys.a]\nkey = "k"\nexpires = 2001-01-01').keys["a"].expires == 978393600.0


def test_ledger_takes_the_usual_variable(tmp_path: Path) -> None:
    """Where it names a database of a kind we know; what is written counts more; engines do not get it."""
    url = f"postgres://me:{PASSWORD}@db/x"
    found = read(tmp_path, "", DATABASE_URL=url)
    assert found.ledger.url == Secret(url)
    assert "DATABASE_URL" in found.secret_env
    assert PASSWORD not in repr(found)
    assert read(tmp_path, "", DATABASE_URL="mysql://u:p@h/d").ledger == LedgerConfig()
    assert read(tmp_path, "[ledger]\nenabled = false", DATABASE_URL=url).ledger.url is None
    written = read(tmp_path, "[ledger]\nurl = 'sqlite:////tmp/x.db'", DATABASE_URL=url)
    assert written.ledger.url == Secret("sqlite:////tmp/x.db")
    assert "DATABASE_URL" not in written.secret_env
