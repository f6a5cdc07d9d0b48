"""Who asks is remembered with the header fields that come again over a connection: never longer than it is true."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Iterable

import pytest
import pytest_asyncio

from tests.fakes.running import CHAT, Answer, Caller, Running, ask, running
from tests.fakes.upstream import FakeUpstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

ADMIN = [("authorization", "Bearer boss-key")]
BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]}).encode()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house(upstream: FakeUpstream, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Running, None]:
    """Keys of its own and of its database, and a tenant."""
    toml = f"""
    [server]
    port = 0
    admin_keys = ["boss-key"]
    [tenants.red]
    [keys.many]
    key = "many-key"
    tenants = ["*"]
    [providers.up]
    kind = "openai"
    base_url = "{upstream.base_url}"
    [models.m]
    targets = ["up/echo"]
    """
    async with running(tmp_path_factory.mktemp("remembered"), toml) as found:
        yield found


async def told(caller: Caller, fields: Iterable[tuple[str, str]]) -> Answer:
    await caller.ask("POST", CHAT, BODY, fields)
    async with asyncio.timeout(5):
        return await caller.answer()


async def made(house: Running, **wanted: object) -> tuple[str, str]:
    """A key's id and text."""
    answer = await ask(house.port, "POST", "/admin/keys", {"name": "n", **wanted}, ADMIN)
    assert answer.status == 201, answer.body
    return answer.json()["id"], answer.json()["key"]


async def test_a_revoked_key_is_refused_at_once(house: Running) -> None:
    """On the connection that has asked with it all the time."""
    number, key = await made(house, name="revoked")
    fields = [("authorization", f"Bearer {key}")]
    async with Caller(house.port) as caller:
        for _ in range(5):
            assert (await told(caller, fields)).status == 200
        assert (await ask(house.port, "DELETE", f"/admin/keys/{number}", None, ADMIN)).status < 300
        answer = await told(caller, fields)
        assert (answer.status, answer.error["code"]) == (401, "invalid_api_key")
        assert (await told(caller, ADMIN)).status == 200


async def test_a_tenant_that_is_gone_is_unknown_at_once(house: Running) -> None:
    """And one that comes is known."""
    fields = [("authorization", "Bearer many-key"), ("x-tenant-id", "blue")]
    async with Caller(house.port) as caller:
        for _ in range(4):
            assert (await told(caller, fields)).status == 403
        assert (await ask(house.port, "POST", "/admin/tenants", {"id": "blue"}, ADMIN)).status == 201
        for _ in range(4):
            assert (await told(caller, fields)).status == 200
        assert (await ask(house.port, "DELETE", "/admin/tenants/blue", None, ADMIN)).status < 300
        assert (await told(caller, fields)).status == 403


async def test_two_keys_on_one_connection_are_two(house: Running) -> None:
    """By turns, as a proxy sends them; one in a header field that is a byte longer."""
    async with Caller(house.port) as caller:
        for _ in range(6):
            assert (await told(caller, [*ADMIN])).status == 200
            assert (await told(caller, [("authorization", "Bearer boss-kez")])).status == 401
            assert (await told(caller, [("authorization", "Bearer boss-keys")])).status == 401
            assert (await told(caller, [])).status == 401


async def test_a_session_is_asked_for_each_time(house: Running) -> None:
    """What a cookie opens ends with the session, on the same connection."""
    login = await ask(house.port, "POST", "/admin/login", {"key": "boss-key"}, [("origin", "http://127.0.0.1")])
    assert login.status < 300, login.body
    cookie = (login.field("set-cookie") or "").partition(";")[0]
    origin = ("origin", "http://127.0.0.1")
    fields = [("cookie", cookie), ("x-roundhouse", "dashboard"), origin]
    async with Caller(house.port) as caller:
        for _ in range(5):
            assert (await told(caller, fields)).status == 200
        assert (await ask(house.port, "POST", "/admin/logout", None, fields)).status < 300
        assert (await told(caller, fields)).status == 401
