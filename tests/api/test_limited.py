"""Keys and limits on the wire: a whole gateway, real connections, an upstream that tells what it took."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest
import pytest_asyncio

from tests.fakes.running import CHAT, Answer, Running, ask, chat, running
from tests.fakes.upstream import FakeUpstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

BOSS = [("authorization", "Bearer k-boss")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def limited(upstream: FakeUpstream, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Running, None]:
    """With an admin's key, and one model that has a price."""
    toml = f"""
    [keys.boss]
    key = "k-boss"
    admin = true
    [providers.up]
    kind = "openai"
    base_url = "{upstream.base_url}"
    models = ["echo", "other"]
    prices = {{ echo = {{ prompt = "0.001", completion = "0.001" }} }}
    [models.echo]
    targets = ["up/echo"]
    [models.other]
    targets = ["up/other"]
    """
    async with running(tmp_path_factory.mktemp("limited"), toml) as found:
        yield found


async def made(gateway: Running, name: str, **wanted: object) -> list[tuple[str, str]]:
    """A key, in the field that carries it."""
    answer = await ask(gateway.port, "POST", "/admin/keys", {"name": name, **wanted}, BOSS)
    assert answer.status == 201, answer.body
    return [("authorization", f"Bearer {answer.json()['key']}")]


async def storm(gateway: Running, key: list[tuple[str, str]], each: int = 3) -> list[Answer]:
    """64 callers at once, each several times."""

    async def caller() -> list[Answer]:
        return [await ask(gateway.port, "POST", CHAT, chat("echo", max_tokens=1), key) for _ in range(each)]

    return [answer for some in await asyncio.gather(*(caller() for _ in range(64))) for answer in some]


async def test_exactly_a_hundred_pass(limited: Running) -> None:
    """The others hear when to come again."""
    answers = await storm(limited, await made(limited, "rpm", rpm=100))
    assert sorted(answer.status for answer in answers) == [200] * 100 + [429] * 92
    refused = next(answer for answer in answers if answer.status == 429)
    assert refused.error["code"] == "rate_limit_exceeded"
    assert 55 <= int(refused.field("retry-after") or 0) <= 60
    assert refused.field("x-ratelimit-limit-requests") == "100"
    assert refused.field("x-ratelimit-remaining-requests") == "0"
    left = sorted(
        int(answer.field("x-ratelimit-remaining-requests") or -1) for answer in answers if answer.status == 200
    )
    assert left == list(range(100))


async def test_budget_is_never_exceeded(limited: Running) -> None:
    """Nothing is let in that the budget could not pay."""
    key = await made(limited, "budget", budget_usd_day="0.5")
    answers = await storm(limited, key, 2)
    assert {answer.status for answer in answers} == {200, 429}
    refused = next(answer for answer in answers if answer.status == 429)
    assert (refused.error["code"], refused.error["type"]) == ("insufficient_quota", "insufficient_quota")
    assert refused.field("x-should-retry") == "false"
    keys = (await ask(limited.port, "GET", "/admin/keys", None, BOSS)).json()["keys"]
    used = next(found["used"] for found in keys if found["name"] == "budget")
    assert 0 < float(used["usd_day"]) <= 0.5
    assert used["concurrent"] == 0


async def test_key_may_not_ask_for_another_model(limited: Running, upstream: FakeUpstream) -> None:
    """403, and absent from its lists."""
    key = await made(limited, "narrow", models=["oth*"])
    before = len(upstream.requests)
    for method, path, body in (
        ("POST", CHAT, chat("echo")),
        ("GET", "/v1/models/echo", None),
        ("POST", "/api/show", {"model": "echo"}),
        ("POST", "/api/generate", {"model": "echo"}),
    ):
        answer = await ask(limited.port, method, path, body, key)
        assert answer.status == 403, (path, answer.body)
    assert len(upstream.requests) == before
    listed = (await ask(limited.port, "GET", "/v1/models", None, key)).json()["data"]
    assert [model["id"] for model in listed] == ["other"]
    tags = (await ask(limited.port, "GET", "/api/tags", None, key)).json()["models"]
    assert [model["name"] for model in tags] == ["other"]
    assert (await ask(limited.port, "POST", CHAT, chat("other"), key)).status == 200


async def test_revoked_key_is_401_at_once(limited: Running) -> None:
    """On every route."""
    key = await made(limited, "gone")
    assert (await ask(limited.port, "POST", CHAT, chat("other"), key)).status == 200
    keys = (await ask(limited.port, "GET", "/admin/keys", None, BOSS)).json()["keys"]
    gone = next(found["id"] for found in keys if found["name"] == "gone")
    assert (await ask(limited.port, "DELETE", f"/admin/keys/{gone}", None, BOSS)).status == 204
    for method, path, body in (
        ("POST", CHAT, chat("other")),
        ("GET", "/v1/models", None),
        ("GET", "/admin/keys", None),
    ):
        answer = await ask(limited.port, method, path, body, key)
        assert (answer.status, answer.error["code"]) == (401, "invalid_api_key")


async def test_failed_request_gives_back_what_it_took(limited: Running, upstream: FakeUpstream) -> None:
    """A model that is not there takes nothing; one at a time, the next comes in after it."""
    key = await made(limited, "one", concurrent=1, rpm=2)
    for _ in range(4):
        assert (await ask(limited.port, "POST", CHAT, chat("nothing"), key)).status == 404
    for _ in range(2):
        assert (await ask(limited.port, "POST", CHAT, chat("other", stream=True), key)).status == 200
    assert (await ask(limited.port, "POST", CHAT, chat("other"), key)).status == 429


async def test_tenant_header_is_needed_and_checked(limited: Running) -> None:
    """400 without, 403 for one that is not there; the others' limits are their own."""
    for tenant in ("abc", "def"):
        wanted = {"id": tenant, "rpm": 1}
        assert (await ask(limited.port, "POST", "/admin/tenants", wanted, BOSS)).status == 201
    key = await made(limited, "platform", tenants=["*"])
    for path in (CHAT, "/v1/models"):
        method, body = ("POST", chat("other")) if path == CHAT else ("GET", None)
        answer = await ask(limited.port, method, path, body, key)
        assert (answer.status, answer.error["code"]) == (400, "tenant_required")
        answer = await ask(limited.port, method, path, body, [*key, ("x-tenant-id", "nobody")])
        assert (answer.status, answer.error["code"]) == (403, "invalid_tenant")
    for tenant in ("abc", "def"):
        named = [*key, ("x-tenant-id", tenant)]
        assert (await ask(limited.port, "POST", CHAT, chat("other"), named)).status == 200
        assert (await ask(limited.port, "POST", CHAT, chat("other"), named)).status == 429


async def test_session_opens_admin_and_playground(limited: Running) -> None:
    """Under the rule against other sites."""
    answer = await ask(limited.port, "POST", "/admin/login", {"key": "k-boss"})
    cookie = ("cookie", (answer.field("set-cookie") or "").partition(";")[0])
    ours = [cookie, ("x-roundhouse", "dashboard"), ("origin", "http://127.0.0.1")]
    assert (await ask(limited.port, "GET", "/admin/residency", None, [cookie])).status == 200
    for method, path, body in (("POST", CHAT, chat("other")), ("POST", "/admin/tenants", {"id": "xyz"})):
        assert (await ask(limited.port, method, path, body, [cookie])).status == 403
        assert (await ask(limited.port, method, path, body, ours)).status in (200, 201)
    assert (await ask(limited.port, "GET", "/admin/session")).json()["needed"] is True
