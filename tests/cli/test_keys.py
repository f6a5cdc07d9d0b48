"""`keys` and `tenants` against a running gateway."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest
from click.testing import Result

from tests.cli.gateways import ADMIN_KEY, KEYS, MODELS, Served, call, served


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Generator[Served]:
    """One of its own: what is made stays."""
    with served(tmp_path_factory.mktemp("keyed"), KEYS + MODELS) as started:
        yield started


def ask(gateway: Served, *arguments: str, **env: str) -> Result:
    """With the gateway's own configuration, which holds the key."""
    return call(gateway.config.parent, *arguments, "--url", gateway.url, env=env)


def test_made_key_is_alone_on_stdout_and_works(keyed: Served) -> None:
    """So that a script can take it; with what it may in the list, where it is not."""
    options = ["--models", "t*,x", "--rpm", "5", "--budget-day", "0.10", "--expires", "2099-01-31"]
    made = ask(keyed, "keys", "create", "note book", *options)
    assert made.exit_code == 0, made.stderr
    (key,) = made.stdout.splitlines()
    assert key.startswith("rh-")
    assert "note book (key_" in made.stderr
    assert key not in made.stderr
    assert ask(keyed, "models", ROUNDHOUSE_ADMIN_KEY=key).exit_code == 0
    listed = ask(keyed, "keys", "list")
    assert key not in listed.stdout
    row = next(line for line in listed.stdout.splitlines() if "note book" in line)
    for words in (f"{key[:7]}…", "t*, x", "5/min, 0.10 USD/day", "2099-02-01T00:00:00Z", "ok"):
        assert words in row
    assert any(line.split()[1] == "admin-1" for line in listed.stdout.splitlines())
    assert '"prefix"' in ask(keyed, "keys", "list", "--json").stdout


def test_rotated_and_revoked_keys_are_refused(keyed: Served) -> None:
    """At once; a revoked one is listed with --all only."""
    first = ask(keyed, "keys", "create", "turning").stdout.strip()
    row = next(line for line in ask(keyed, "keys", "list").stdout.splitlines() if "turning" in line)
    key_id = row.split()[0]
    second = ask(keyed, "keys", "rotate", key_id).stdout.strip()
    assert ask(keyed, "models", ROUNDHOUSE_ADMIN_KEY=first).exit_code == 1
    assert ask(keyed, "models", ROUNDHOUSE_ADMIN_KEY=second).exit_code == 0
    assert ask(keyed, "keys", "revoke", key_id).stdout == f"{key_id} is revoked\n"
    assert ask(keyed, "models", ROUNDHOUSE_ADMIN_KEY=second).exit_code == 1
    assert "turning" not in ask(keyed, "keys", "list").stdout
    assert "revoked" in ask(keyed, "keys", "list", "--all").stdout
    again = ask(keyed, "keys", "revoke", key_id)
    assert again.exit_code == 1
    assert "There is no key" in again.stderr


def test_tenants_are_made_listed_and_deleted(keyed: Served) -> None:
    """One with keys only by force, which takes them along."""
    assert ask(keyed, "tenants", "create", "team-a", "--rpm", "3").stdout == "tenant team-a is made\n"
    key = ask(keyed, "keys", "create", "of a", "--tenant", "team-a").stdout.strip()
    assert "team-a" in ask(keyed, "tenants", "list").stdout
    refused = ask(keyed, "tenants", "delete", "team-a")
    assert refused.exit_code == 1
    assert "has 1 keys" in refused.stderr
    assert ask(keyed, "tenants", "delete", "team-a", "--force").exit_code == 0
    assert ask(keyed, "models", ROUNDHOUSE_ADMIN_KEY=key).exit_code == 1
    assert "there are no tenants" in ask(keyed, "tenants", "list").stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("keys", "create", ""), "name: expected"),
        (("keys", "create", "x", "--expires", "soon"), "expires: expected a date"),
        (("keys", "create", "x", "--budget-day", "much"), 'exact: "12.50"'),
        (("keys", "create", "x", "--tenant", "nobody"), "There is no tenant 'nobody'"),
        (("keys", "revoke", "config:admin-1"), "stands in the configuration"),
        (("keys", "revoke", "key_0"), "There is no key 'key_0'"),
        (("tenants", "create", "A"), "id: expected"),
    ],
)
def test_refusals_say_what_to_do(keyed: Served, arguments: tuple[str, ...], words: str) -> None:
    """Exit code 1, the gateway's own words."""
    result = ask(keyed, *arguments)
    assert result.exit_code == 1
    assert words in result.stderr


def test_open_gateway_says_that_it_is_open(tmp_path: Path) -> None:
    """A key with limits that nobody has to send is none."""
    with served(tmp_path / "open", "[server]\nport = 0\n") as gateway:
        made = ask(gateway, "keys", "create", "first")
        assert made.exit_code == 0
        assert "asks nobody for a key" in made.stderr


def test_no_key_is_in_the_log(keyed: Served) -> None:
    """Neither those made nor those refused."""
    key = ask(keyed, "keys", "create", "quiet").stdout.strip()
    ask(keyed, "models", ROUNDHOUSE_ADMIN_KEY="rh-wrong-key-1234")
    log = keyed.log.read_text()
    assert key not in log
    assert "rh-wrong-key-1234" not in log
    assert ADMIN_KEY not in log
