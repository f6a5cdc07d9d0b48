"""`/admin/keys` and `/admin/tenants`: what is told, what is taken, what is refused; a key is told once."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from gateway.access.door import Access
from gateway.api.keys import key_routes
from gateway.api.tenants import tenant_routes
from gateway.api.terms import when
from gateway.errors import Unauthenticated
from tests.access.doors import TENANT, Clock, door
from tests.api.small import small
from tests.fakes.running import Answer, ask

pytestmark = pytest.mark.asyncio(loop_scope="module")

CONFIG = (
    TENANT
    + '[keys.written]\nkey = "k-written"\nrpm = 3\nexpires = 2027-01-31\n[keys.boss]\nkey = "k-boss"\nadmin = true\n'
)


class Desk:
    """The routes on a port, and the door behind them."""

    def __init__(self, access: Access, port: int, clock: Clock) -> None:
        self.access = access
        self.port = port
        self.clock = clock

    async def ask(self, method: str, path: str, body: object = None) -> Answer:
        return await ask(self.port, method, f"/admin/{path}", body)

    async def make(self, **wanted: object) -> dict[str, Any]:
        """A key."""
        answer = await self.ask("POST", "keys", {"name": "n", **wanted})
        assert answer.status == 201, answer.body
        assert answer.field("cache-control") == "no-store"
        return answer.json()


@pytest_asyncio.fixture(loop_scope="module")
async def desk(tmp_path: Path) -> AsyncGenerator[Desk, None]:
    """Over a database of its own."""
    async with _open(tmp_path) as found:
        yield found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Desk, None]:
    """One for all that is refused."""
    async with _open(tmp_path_factory.mktemp("keys")) as found:
        yield found


@asynccontextmanager
async def _open(tmp_path: Path) -> AsyncGenerator[Desk, None]:
    clock = Clock()
    async with door(tmp_path, CONFIG, clock) as access, small([*key_routes(access), *tenant_routes(access)]) as port:
        yield Desk(access, port, clock)


async def test_key_is_told_once_and_works_as_said(desk: Desk) -> None:
    """Money as it was written; null is as good as nothing."""
    wanted = {
        "name": "my notebook",
        "tenant": "red-team",
        "models": ["gpt-*"],
        "rpm": 5,
        "tpm": None,
        "concurrent": 2,
        "budget_usd_day": "0.10",
        "budget_usd_month": 0.3,
        "expires": "2026-02-01",
        "capture": True,
    }
    made = await desk.make(**wanted)
    key = made.pop("key")
    assert made.pop("id").startswith("key_")
    assert made == {
        "name": "my notebook",
        "prefix": f"{key[:7]}…",
        "tenant": "red-team",
        "tenants": [],
        "models": ["gpt-*"],
        "rpm": 5,
        "tpm": 0,
        "concurrent": 2,
        "budget_usd_day": "0.10",
        "budget_usd_month": "0.3",
        "expires": "2026-02-02T00:00:00Z",
        "admin": False,
        "capture": True,
        "source": "database",
        "created": "2026-01-01T12:00:00Z",
        "revoked": None,
        "used": {"requests_minute": 0, "tokens_minute": 0, "concurrent": 0, "usd_day": "0", "usd_month": "0"},
    }
    principal = desk.access.principal(key)
    assert principal.capture
    assert principal.tenant == "red-team"
    listed = (await desk.ask("GET", "keys")).body.decode()
    assert key not in listed
    assert "k-written" not in listed


async def test_list_has_configured_and_made_and_revoked_ones(desk: Desk) -> None:
    """With what is used of limits; where nothing is limited nothing is counted."""
    made = await desk.make(name="a")
    gone = await desk.make(name="b")
    assert (await desk.ask("DELETE", f"keys/{gone['id']}")).status == 204
    desk.access.reserve(desk.access.principal("k-written"), tokens=9, cost_usd=None)
    keys = (await desk.ask("GET", "keys")).json()["keys"]
    assert [(key["name"], key["source"], key["revoked"]) for key in keys] == [
        ("written", "config", None),
        ("boss", "config", None),
        ("a", "database", None),
        ("b", "database", "2026-01-01T12:00:00Z"),
    ]
    assert keys[0]["used"] == {
        "requests_minute": 1,
        "tokens_minute": 9,
        "concurrent": 1,
        "usd_day": "0",
        "usd_month": "0",
    }
    assert keys[0]["expires"] == "2027-02-01T00:00:00Z"
    assert keys[2]["id"] == made["id"]
    assert keys[2]["used"] is None


async def test_rotated_and_revoked_keys_are_refused_at_once(desk: Desk) -> None:
    """Twice revoked is not there."""
    made = await desk.make()
    answer = await desk.ask("POST", f"keys/{made['id']}/rotate")
    assert answer.status == 200
    again = answer.json()
    assert again["key"] != made["key"]
    assert again["id"] == made["id"]
    with pytest.raises(Unauthenticated):
        desk.access.principal(made["key"])
    assert desk.access.principal(again["key"]).name == "n"
    assert (await desk.ask("DELETE", f"keys/{made['id']}")).status == 204
    with pytest.raises(Unauthenticated):
        desk.access.principal(again["key"])
    answer = await desk.ask("DELETE", f"keys/{made['id']}")
    assert (answer.status, answer.error["code"]) == (404, "key_not_found")


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({}, "name", "1 to 256 printable characters"),
        ({"name": " n"}, "name", "no blanks"),
        ({"name": "n\n"}, "name", "printable"),
        ({"name": 5}, "name", "printable"),
        ({"name": "x" * 257}, "name", "1 to 256"),
        ({"name": "n", "rpm": -1}, "rpm", "rpm: expected a whole number ≥ 0"),
        ({"name": "n", "rpm": 1.5}, "rpm", "whole number"),
        ({"name": "n", "budget_usd_day": "much"}, "budget_usd_day", 'exact: "12.50"'),
        ({"name": "n", "budget_usd_day": -0.1}, "budget_usd_day", "USD ≥ 0"),
        ({"name": "n", "expires": "soon"}, "expires", "a date"),
        ({"name": "n", "expires": "2020-01-01"}, "expires", "past"),
        ({"name": "n", "models": "gpt"}, "models", "a list of strings"),
        ({"name": "n", "tenant": "A"}, "tenant", "3 to 50"),
        ({"name": "n", "tenant": "nobody"}, "tenant", "There is no tenant 'nobody'"),
        ({"name": "n", "tenant": "red-team", "tenants": ["*"]}, "tenants", "not both"),
        ({"name": "n", "key": "mine"}, "key", "'key' is not known here"),
        ({"name": "n", "limit": 1}, "limit", "there are name, models"),
        ({"name": "written"}, "name", "already"),
        (b"[]", None, "JSON object"),
        (b"{", None, "JSON object"),
        (b'{"name": "\xff"}', None, "JSON object"),
    ],
)
async def test_wrong_key_is_refused(shared: Desk, body: object, param: str | None, words: str) -> None:
    """Which field, and what it should be; nothing is made."""
    answer = await shared.ask("POST", "keys", body)
    assert answer.status == 400
    assert answer.error["param"] == param
    assert words in answer.error["message"]
    assert len((await shared.ask("GET", "keys")).json()["keys"]) == 2


@pytest.mark.parametrize(("method", "path"), [("DELETE", "keys/config:written"), ("POST", "keys/config:boss/rotate")])
async def test_configured_key_is_changed_in_the_configuration(shared: Desk, method: str, path: str) -> None:
    """It is said so."""
    answer = await shared.ask(method, path)
    assert (answer.status, answer.error["code"]) == (400, "set_in_configuration")


async def test_tenants_are_made_read_and_deleted(desk: Desk) -> None:
    """A duplicate is 400, a missing one 404, one with keys stays unless forced."""
    wanted = {"id": "green-team", "display_name": "Green", "rpm": 7, "models": ["a*"], "budget_usd_month": "1.50"}
    answer = await desk.ask("POST", "tenants", wanted)
    assert answer.status == 201
    made = answer.json()
    assert (made["id"], made["rpm"], made["budget_usd_month"], made["keys"]) == ("green-team", 7, "1.50", 0)
    assert (await desk.ask("GET", "tenants/green-team")).json() == made
    again = await desk.ask("POST", "tenants", wanted)
    assert (again.status, again.error["code"]) == (400, "name_taken")
    listed = (await desk.ask("GET", "tenants")).json()["tenants"]
    assert [(tenant["id"], tenant["source"]) for tenant in listed] == [
        ("green-team", "database"),
        ("red-team", "config"),
        ("blue-team", "config"),
    ]
    await desk.make(tenant="green-team")
    refused = await desk.ask("DELETE", "tenants/green-team")
    assert (refused.status, refused.error["code"]) == (400, "tenant_has_keys")
    assert (await desk.ask("DELETE", "tenants/green-team?force=true")).status == 204
    for method in ("GET", "DELETE"):
        gone = await desk.ask(method, "tenants/green-team")
        assert (gone.status, gone.error["code"]) == (404, "tenant_not_found")
    assert (await desk.ask("DELETE", "tenants/red-team")).error["code"] == "set_in_configuration"


async def test_tenant_is_changed_where_it_is_said(desk: Desk) -> None:
    """What is not said stays, null takes a limit away, and the limits hold from now on."""
    await desk.ask("POST", "tenants", {"id": "green-team", "rpm": 7, "models": ["a*"], "budget_usd_day": "1"})
    key = desk.access.principal((await desk.make(tenant="green-team"))["key"])
    answer = await desk.ask("PATCH", "tenants/green-team", {"rpm": 9, "budget_usd_day": None, "display_name": "Green"})
    assert answer.status == 200
    said = answer.json()
    assert (said["rpm"], said["models"], said["budget_usd_day"], said["display_name"]) == (9, ["a*"], None, "Green")
    assert (await desk.ask("GET", "tenants/green-team")).json() == said
    ((_, limits),) = desk.access.subjects(key)
    assert limits.rpm == 9
    for path, code in (("red-team", "set_in_configuration"), ("nobody", "tenant_not_found")):
        assert (await desk.ask("PATCH", f"tenants/{path}", {"rpm": 1})).error["code"] == code
    for body in ({"id": "other-team"}, {"rpm": -1}, {"key": "x"}):
        assert (await desk.ask("PATCH", "tenants/green-team", body)).status == 400
    assert (await desk.ask("GET", "tenants/green-team")).json() == said


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "id"),
        ({"id": "ab"}, "id"),
        ({"id": "x" * 51}, "id"),
        ({"id": "Abc"}, "id"),
        ({"id": "a_c"}, "id"),
        ({"id": "../.."}, "id"),
        ({"id": "abc", "display_name": "x" * 101}, "display_name"),
        ({"id": "abc", "display_name": "a\x1b[0m"}, "display_name"),
        ({"id": "abc", "display_name": 5}, "display_name"),
        ({"id": "abc", "rpm": "5"}, "rpm"),
        ({"id": "abc", "expires": "2027-01-01"}, "expires"),
    ],
)
async def test_wrong_tenant_is_refused(shared: Desk, body: object, param: str) -> None:
    """Which field is said."""
    answer = await shared.ask("POST", "tenants", body)
    assert (answer.status, answer.error["param"]) == (400, param)


async def test_moments_beyond_the_calendar_are_shown_as_its_end() -> None:
    """A key may be good until the year 9999."""
    assert when(None) is None
    assert when(0.0) == "1970-01-01T00:00:00Z"
    assert when(1e18) == "9999-12-31T23:59:59Z"


async def test_numbers_are_taken_as_they_are_written(desk: Desk) -> None:
    """0.1 is no binary fraction."""
    body = json.dumps({"name": "n", "budget_usd_day": 0.1, "budget_usd_month": 3}).encode()
    made = (await desk.ask("POST", "keys", body)).json()
    assert (made["budget_usd_day"], made["budget_usd_month"]) == ("0.1", "3")
