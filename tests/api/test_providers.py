"""`/admin/providers`: whom we can reach and how they are; the filter, refreshing, fetching and deleting at run time."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.lies import server_error
from tests.fakes.ollama import FakeModel, FakeOllama
from tests.fakes.openrouter import KEY, FakeOpenRouter, entry
from tests.fakes.running import CHAT, Running, ask, chat, running
from tests.fakes.upstream import FakeUpstream


@asynccontextmanager
async def market(folder: Path, more: str = "") -> AsyncGenerator[tuple[Running, FakeOpenRouter]]:
    """A gateway with OpenRouter behind it."""
    entries = [entry("lab/paid", "0.000001", "0.000002"), entry("lab/gift:free", "0", "0")]
    async with FakeOpenRouter(entries) as upstream:
        toml = f"""
        [server]
        port = 0
        [providers.market]
        kind = "openrouter"
        base_url = "{upstream.base_url}"
        api_key = "{KEY}"
        {more}
        """
        async with running(folder, toml) as gateway:
            yield gateway, upstream


async def get(gateway: Running, path: str) -> dict[str, Any]:
    answer = await ask(gateway.port, "GET", path)
    assert answer.status == 200, answer.body
    return answer.json()


async def ids(gateway: Running) -> list[str]:
    return [model["id"] for model in (await get(gateway, "/v1/models"))["data"]]


async def test_every_provider_is_shown_with_its_health(tmp_path: Path, dead_port: int) -> None:
    """One that is dead does not hide the others; no key is shown."""
    more = f'[providers.dead]\nkind = "openai"\nbase_url = "http://127.0.0.1:{dead_port}"\napi_key = "{KEY}"'
    async with market(tmp_path, more) as (gateway, _):
        await gateway.until(lambda: bool(gateway.parts.listings.shelves["dead"].error))
        answer = await ask(gateway.port, "GET", "/admin/providers")
        market_view, dead = answer.json()["providers"]
        assert (market_view["name"], market_view["kind"], market_view["error"]) == ("market", "openrouter", "")
        assert market_view["models"] > 0
        assert market_view["health"]["state"] == "up"
        assert (dead["name"], dead["models"], dead["health"]["state"]) == ("dead", 0, "down")
        assert "dead" in dead["error"]
        assert KEY.encode() not in answer.body


async def test_detail_tells_how_our_key_stands(tmp_path: Path) -> None:
    """Asked of the upstream now; exact amounts; the key itself is not told."""
    async with market(tmp_path) as (gateway, _):
        answer = await ask(gateway.port, "GET", "/admin/providers/market")
        account = answer.json()["account"]
        assert set(account) == {"label", "usage_usd", "limit_usd", "remaining_usd", "free_tier"}
        assert KEY.encode() not in answer.body


async def test_unknown_provider_is_404(tmp_path: Path) -> None:
    """And says who there is."""
    async with market(tmp_path) as (gateway, _):
        for method, path in (
            ("GET", ""),
            ("POST", "/refresh"),
            ("GET", "/filter"),
            ("POST", "/filter"),
            ("POST", "/pull"),
        ):
            answer = await ask(
                gateway.port, method, f"/admin/providers/nix{path}", {"model": "x"} if method == "POST" else None
            )
            assert (answer.status, answer.error["code"]) == (404, "provider_not_found"), path
            assert "market" in answer.error["message"]


# ---------------------------------------------------------------- the filter


async def test_filter_is_read_and_changed_at_run_time(tmp_path: Path) -> None:
    """By JSON or by query, in the words of older clients too; the list follows at once, without another download."""
    async with market(tmp_path) as (gateway, upstream):
        told = await get(gateway, "/admin/providers/market/filter")
        assert told == {
            "provider": "market",
            "settings": {"show_free_only": False, "prefer_free_models": True, "max_cost_per_token": "0.001"},
        }
        before = await ids(gateway)
        answer = await ask(gateway.port, "POST", "/admin/providers/market/filter", {"show_free_only": True})
        assert answer.json()["settings"]["show_free_only"] is True
        free = await ids(gateway)
        assert set(free) < set(before)
        answer = await ask(gateway.port, "POST", "/admin/providers/market/filter?show_free_only=false&prefer_free=off")
        assert answer.json()["settings"] == {
            "show_free_only": False,
            "prefer_free_models": False,
            "max_cost_per_token": "0.001",
        }
        assert set(await ids(gateway)) >= set(before)
        assert upstream.asked("/api/v1/models") == 1


async def test_limit_is_exact_whatever_way_it_is_written(tmp_path: Path) -> None:
    """A JSON number does not pass through a float on its way."""
    async with market(tmp_path) as (gateway, _):
        for body in (b'{"max_cost_per_token": 0.0000001}', b'{"max_cost_per_token": "0.0000001"}'):
            answer = await ask(gateway.port, "POST", "/admin/providers/market/filter", body)
            assert answer.json()["settings"]["max_cost_per_token"] == "0.0000001"


@pytest.mark.parametrize(
    "body",
    [
        b'{"max_cost_per_token": -1}',
        b'{"max_cost_per_token": "NaN"}',
        b'{"max_cost_per_token": true}',
        b'{"show_free_only": "maybe"}',
        b'{"cheap": true}',
        b"[1]",
        b"{",
        b"\xff",
    ],
)
async def test_wrong_setting_changes_nothing(tmp_path: Path, body: bytes) -> None:
    """400, and the former settings hold."""
    async with market(tmp_path) as (gateway, _):
        answer = await ask(gateway.port, "POST", "/admin/providers/market/filter", body)
        assert (answer.status, answer.error["code"]) == (400, "invalid_request")
        settings = (await get(gateway, "/admin/providers/market/filter"))["settings"]
        assert settings == {"show_free_only": False, "prefer_free_models": True, "max_cost_per_token": "0.001"}


async def test_provider_without_prices_has_no_filter(tmp_path: Path) -> None:
    """It says so."""
    async with FakeUpstream() as upstream:
        toml = f'[providers.up]\nkind = "openai"\nbase_url = "{upstream.base_url}"\nmodels = ["m"]'
        async with running(tmp_path, toml) as gateway:
            answer = await ask(gateway.port, "GET", "/admin/providers/up/filter")
            assert (answer.status, answer.error["code"]) == (400, "invalid_request")
            answer = await ask(gateway.port, "POST", "/admin/providers/up/pull", {"model": "x"})
            assert (answer.status, answer.error["code"]) == (400, "invalid_request")


# ---------------------------------------------------------------- refresh, fetch, delete


async def test_refresh_forgives_and_asks_now(tmp_path: Path) -> None:
    """Who was out of order a moment ago is sent to again."""
    async with FakeUpstream(model="m") as upstream:
        toml = f'[providers.up]\nkind = "openai"\nbase_url = "{upstream.base_url}"\nrefresh_s = 1000\n'
        async with running(tmp_path, toml + '[models.m]\ntargets = ["up/m"]') as gateway:
            for _ in range(3):
                upstream.queue(b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n")
                await ask(gateway.port, "POST", CHAT, chat("m"))
            assert (await ask(gateway.port, "POST", CHAT, chat("m"))).error["code"] == "upstream_cooling_down"
            upstream.model = "m2"
            answer = await ask(gateway.port, "POST", "/admin/providers/up/refresh", b"")
            assert (answer.status, answer.json()["health"]["state"]) == (200, "up")
            assert await ids(gateway) == ["m", "up/m2"]
            assert (await ask(gateway.port, "POST", CHAT, chat("m"))).status == 200


@asynccontextmanager
async def ollama(folder: Path, more: str = "") -> AsyncGenerator[tuple[Running, FakeOllama]]:
    """A gateway with an Ollama behind it, which has one model and can fetch another."""
    async with FakeOllama(FakeModel("old:latest"), registry=[FakeModel("new:1b")]) as upstream:
        toml = f'[providers.box]\nkind = "ollama"\nbase_url = "{upstream.base_url}"\n{more}'
        async with running(folder, toml) as gateway:
            yield gateway, upstream


async def test_model_is_fetched_with_progress_and_is_there(tmp_path: Path) -> None:
    """Server-sent events to the end; then it can be asked for."""
    async with ollama(tmp_path) as (gateway, _):
        answer = await ask(gateway.port, "POST", "/admin/providers/box/pull", {"model": "new:1b"})
        events = answer.events()
        assert events[-1] == "[DONE]"
        steps = [json.loads(event) for event in events[:-1]]
        assert steps[-1]["stage"] == "success"
        assert max(step["done_bytes"] for step in steps) > 0
        assert await ids(gateway) == ["box/old:latest", "box/new:1b"]
        assert (await ask(gateway.port, "POST", CHAT, chat("new:1b"))).status == 200


async def test_detail_tells_the_upstreams_version(tmp_path: Path) -> None:
    """Where it has one to tell."""
    async with ollama(tmp_path) as (gateway, upstream):
        assert (await get(gateway, "/admin/providers/box"))["version"]
        upstream.lies["/api/version"] = server_error
        assert "version" not in await get(gateway, "/admin/providers/box")


async def test_fetch_that_fails_says_why_in_its_stream(tmp_path: Path) -> None:
    """In the upstream's words, as the last event."""
    async with ollama(tmp_path) as (gateway, _):
        answer = await ask(gateway.port, "POST", "/admin/providers/box/pull", {"model": "nothing:1b"})
        error = json.loads(answer.events()[-1])["error"]
        assert (error["code"], error["source"]) == ("pull_failed", "box")


@pytest.mark.parametrize("body", [b"", b"{}", b'{"model": ""}', b"[]"])
async def test_fetch_of_nothing_is_400(tmp_path: Path, body: bytes) -> None:
    """It says what to write."""
    async with ollama(tmp_path) as (gateway, _):
        answer = await ask(gateway.port, "POST", "/admin/providers/box/pull", body)
        assert (answer.status, answer.error["code"]) == (400, "invalid_request")


async def test_model_is_deleted(tmp_path: Path) -> None:
    """And no longer listed; what is not there is the upstream's own refusal."""
    async with ollama(tmp_path) as (gateway, upstream):
        answer = await ask(gateway.port, "DELETE", "/admin/providers/box/models/old:latest")
        assert answer.status == 204
        assert upstream.models == {}
        assert await ids(gateway) == []
        assert (await ask(gateway.port, "DELETE", "/admin/providers/box/models/old:latest")).status == 404


async def test_wanted_models_are_fetched_at_the_start(tmp_path: Path) -> None:
    """Those that are missing, and only those."""
    async with ollama(tmp_path, 'pull = ["old", "new:1b"]') as (gateway, upstream):
        await gateway.until(lambda: "new:1b" in upstream.models)
        await gateway.until(lambda: len(gateway.parts.listings.shelves["box"].offers) == 2)
        assert [r.json()["model"] for r in upstream.requests if r.path == "/api/pull"] == ["new:1b"]


async def test_metrics_tell_of_every_provider(tmp_path: Path, dead_port: int) -> None:
    """Who is up, what it offers, how its requests ended."""
    more = f'[providers.dead]\nkind = "openai"\nbase_url = "http://127.0.0.1:{dead_port}"'
    async with market(tmp_path, more) as (gateway, _):
        await gateway.until(lambda: bool(gateway.parts.listings.shelves["dead"].error))
        assert (await ask(gateway.port, "POST", CHAT, chat("lab/paid"))).status == 200
        text = (await ask(gateway.port, "GET", "/metrics")).body.decode()
        assert 'roundhouse_provider_up{provider="market"} 1.0' in text
        assert 'roundhouse_provider_up{provider="dead"} 0.0' in text
        assert 'roundhouse_provider_models{provider="market"} 2.0' in text
        assert 'roundhouse_provider_requests_total{outcome="all",provider="market"} 1.0' in text


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("", ["lab/paid", "lab/gift:free", "lab/dear"]),
        ("free_only=true", ["lab/gift:free"]),
        ("max_cost_per_token=0.000002", ["lab/paid", "lab/gift:free"]),
        ("max_cost_per_token=0.0000019", ["lab/gift:free"]),
        ("min_context_length=8193", []),
        ("min_context_length=8192", ["lab/paid", "lab/gift:free", "lab/dear"]),
        ("capabilities=chat,tools", ["lab/dear"]),
        ("capabilities=flying", []),
        ("provider=market", ["lab/paid", "lab/gift:free", "lab/dear"]),
        ("provider=nobody", []),
    ],
)
async def test_list_of_models_can_be_narrowed(tmp_path: Path, query: str, names: list[str]) -> None:
    """By what they cost, hold, can do, and by whom they are served; prices as exact decimals."""
    async with market(tmp_path, "max_cost_per_token = 0") as (gateway, upstream):
        upstream.entries.append(entry("lab/dear", "0.001", "0.05", parameters=("tools",)))
        upstream.entries.sort(key=lambda each: ["lab/paid", "lab/gift:free", "lab/dear"].index(each["id"]))
        await ask(gateway.port, "POST", "/admin/providers/market/filter", {"prefer_free_models": False})
        await ask(gateway.port, "POST", "/admin/providers/market/refresh", b"")
        answer = await ask(gateway.port, "GET", f"/v1/models?{query}")
        assert [model["id"].removeprefix("market/") for model in answer.json()["data"]] == names


async def test_price_is_told_digit_for_digit(tmp_path: Path) -> None:
    """In USD per token, as OpenRouter has it: not divided by a million once more."""
    async with market(tmp_path) as (gateway, _):
        told = (await ask(gateway.port, "GET", "/v1/models/lab/paid")).json()["roundhouse"]
        assert (told["price"]["prompt"], told["price"]["completion"]) == ("0.000001", "0.000002")
        assert told["cost"] == "very_cheap"
        assert (await ask(gateway.port, "GET", "/v1/models/lab/gift:free")).json()["roundhouse"]["cost"] == "free"


async def test_limit_that_is_none_is_400(tmp_path: Path) -> None:
    """It says what to write."""
    async with market(tmp_path) as (gateway, _):
        for written in ("-1", "NaN", "cheap", "1e999"):
            answer = await ask(gateway.port, "GET", f"/v1/models?max_cost_per_token={written}")
            assert (answer.status, answer.error["code"]) == (400, "invalid_request"), written


async def test_models_own_context_is_told_and_not_that_of_its_second_target(tmp_path: Path) -> None:
    """What an API lists for a fallback describes the route only where nothing nearer is known."""
    more = """
    [providers.rig]
    kind = "process"
    command = "engine ${port}"
    [models.here]
    targets = ["rig/here", "market/lab/paid"]
    context = 16384
    """
    async with market(tmp_path, more) as (gateway, _):
        assert (await get(gateway, "/v1/models/here"))["roundhouse"]["context_length"] == 16384
        assert (await get(gateway, "/v1/models/lab/paid"))["roundhouse"]["context_length"] == 8192
