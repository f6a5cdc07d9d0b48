"""Kind `anthropic`: its version, its key, its list page by page, its messages passed through as they are."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from config.forms import Secret
from config.schema import ProviderConfig
from providers.anthropic import AnthropicProvider
from providers.contract import Offer, Request
from providers.errors import UpstreamBroke, UpstreamKeyRefused, UpstreamRefused
from providers.pricing import Price
from providers.remote import Site
from tests.fakes.anthropic import VERSION, FakeAnthropic, model, refuse
from tests.fakes.upstream import Exchange

SITE = Site(state_dir=Path("/nowhere"))
JSON = (b"content-type", b"application/json")


@asynccontextmanager
async def provider(upstream: FakeAnthropic, path: str = "", **options: Any) -> AsyncGenerator[AnthropicProvider]:
    options.setdefault("api_key", Secret(upstream.key))
    config = ProviderConfig(kind="anthropic", base_url=upstream.base_url + path, **options)
    built = AnthropicProvider("claude", config, SITE)
    try:
        yield built
    finally:
        await built.aclose()
        assert built.endpoint.in_flight == 0


def message(*headers: tuple[bytes, bytes], path: bytes = b"/v1/messages", **fields: object) -> Request:
    body = {"model": "claude-plain", "max_tokens": 16, "messages": [{"role": "user", "content": "hi"}], **fields}
    return Request(method=b"POST", path=path, headers=(JSON, *headers), body=json.dumps(body).encode())


async def exchanged(it: AnthropicProvider, request: Request) -> tuple[int, bytes]:
    response = await it.send(request)
    try:
        return response.status, await response.read(1 << 20)
    finally:
        response.close()


def test_address_is_anthropics_own_when_none_is_given() -> None:
    """`load` puts it, too; here for whoever builds the provider by hand."""
    built = AnthropicProvider("claude", ProviderConfig(kind="anthropic"), SITE)
    assert "https://api.anthropic.com " in repr(built.endpoint)


def test_only_its_own_routes_are_offered() -> None:
    """It does not speak /v1/chat/completions here."""
    assert AnthropicProvider.routes == {b"/v1/messages", b"/v1/messages/count_tokens"}


@pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/", "/anthropic", "/anthropic/v1"])
async def test_paths_are_not_doubled_when_base_url_ends_with_v1(path: str) -> None:
    """A host, or where an imitator keeps its copy of the API."""
    async with FakeAnthropic() as upstream, provider(upstream, path) as it:
        upstream.queue(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
        await exchanged(it, message())
        assert upstream.requests[0].path == ("/anthropic/v1/messages" if "anthropic" in path else "/v1/messages")


# --- messages


async def test_message_passes_untouched_when_it_is_plain() -> None:
    """Body, query, beta fields and answer; with our key in place of any other."""
    async with FakeAnthropic() as upstream, provider(upstream) as it:
        asked = message((b"anthropic-beta", b"b1"), (b"x-api-key", b"the caller's"), path=b"/v1/messages?beta=true")
        status, body = await exchanged(it, asked)
        assert (status, json.loads(body)["usage"]) == (200, {"input_tokens": 7, "output_tokens": 3})
        [seen] = upstream.requests
        assert (seen.path, seen.body, seen.header("anthropic-beta")) == ("/v1/messages?beta=true", asked.body, "b1")
        assert [value for name, value in seen.headers if name == "x-api-key"] == [upstream.key]
        assert seen.header("authorization") is None


async def test_stream_passes_untouched_when_it_is_asked_for() -> None:
    """Its events keep their names, the last is message_stop, there is no [DONE]."""
    async with FakeAnthropic() as upstream, provider(upstream) as it:
        _, body = await exchanged(it, message(stream=True))
        names = [line.removeprefix(b"event: ").decode() for line in body.split(b"\n") if line.startswith(b"event: ")]
        assert names[:3] == ["message_start", "content_block_start", "ping"]
        assert names[-3:] == ["content_block_stop", "message_delta", "message_stop"]
        assert names.count("content_block_delta") == 3
        assert b"[DONE]" not in body


async def test_tokens_are_counted_when_asked() -> None:
    """The second of its routes."""
    async with FakeAnthropic() as upstream, provider(upstream) as it:
        assert await exchanged(it, message(path=b"/v1/messages/count_tokens")) == (200, b'{"input_tokens": 7}')


@pytest.mark.parametrize(
    ("sent", "configured", "expected"),
    [(None, None, VERSION), ("2024-01-01", None, "2024-01-01"), ("2024-01-01", "2025-01-01", "2025-01-01")],
    ids=["ours", "the caller's", "the operator's"],
)
async def test_version_is_ours_only_when_nobody_names_one(
    sent: str | None, configured: str | None, expected: str
) -> None:
    """The operator's wins over the caller's, the caller's over ours; it is sent once."""
    headers = {"Anthropic-Version": Secret(configured)} if configured else {}
    fields = ((b"anthropic-version", sent.encode()),) if sent else ()
    async with FakeAnthropic() as upstream, provider(upstream, headers=headers) as it:
        status, _ = await exchanged(it, message(*fields))
        assert status == 200
        assert [value for name, value in upstream.requests[0].headers if name == "anthropic-version"] == [expected]


async def test_error_passes_untouched_when_the_upstream_refuses() -> None:
    """Its status and its own envelope."""
    async with FakeAnthropic() as upstream, provider(upstream) as it:
        body = json.dumps({"model": "m", "messages": []}).encode()
        request = Request(method=b"POST", path=b"/v1/messages", headers=(JSON,), body=body)
        status, answer = await exchanged(it, request)
        told = json.loads(answer)
        assert (status, told["type"], told["error"]["type"]) == (400, "error", "invalid_request_error")


# --- catalogue


async def test_offers_say_what_the_list_says_when_it_is_read() -> None:
    """Name, day, context and abilities; thinking has more beside `supported`, and what is not supported is not told."""
    async with FakeAnthropic() as upstream, provider(upstream) as it:
        seeing, plain = await it.catalogue()
        assert seeing == Offer(
            name="claude-seeing",
            description="Claude-Seeing",
            created=1_739_923_200,
            context_length=200_000,
            capabilities=("chat", "vision", "reasoning"),
        )
        assert (plain.capabilities, plain.context_length) == (("chat",), None)
        assert upstream.requests[0].path == "/v1/models?limit=1000"


async def test_every_page_is_read_when_there_are_several() -> None:
    """In order, each from where the last ended; a name with odd characters cannot break the query."""
    models = [model(name) for name in ("a", "b&limit=1", "c", "d", "e")]
    async with FakeAnthropic(models=models, page_max=2) as upstream, provider(upstream) as it:
        assert [offer.name for offer in await it.catalogue()] == ["a", "b&limit=1", "c", "d", "e"]
        assert upstream.requests[1].path == "/v1/models?limit=1000&after_id=b%26limit%3D1"
        assert len(upstream.requests) == 3


async def test_catalogue_fails_when_its_pages_have_no_end() -> None:
    """After a few, instead of asking for ever."""

    async def again(exchange: Exchange) -> None:
        await exchange.answer(200, {"data": [model("a")], "has_more": True, "last_id": "a"})

    async with FakeAnthropic() as upstream, provider(upstream) as it:
        upstream.script(again)
        with pytest.raises(UpstreamBroke, match="lists models without end"):
            await it.catalogue()
        assert len(upstream.requests) == 5


@pytest.mark.parametrize("date", ["1970-01-01T00:00:00Z", "soon", "", "2025-02-19", "0001-01-01T00:00:00Z"])
async def test_day_is_unknown_when_there_is_none(date: str) -> None:
    """The documentation has the epoch stand for unknown; a day without a time zone is no moment."""
    async with FakeAnthropic(models=[model("a", created_at=date)]) as upstream, provider(upstream) as it:
        assert [offer.created for offer in await it.catalogue()] == [0]


@pytest.mark.parametrize("told", [None, [], "all", {"image_input": True}, {"image_input": {"supported": "yes"}}])
async def test_abilities_are_unknown_when_they_are_told_otherwise(told: object) -> None:
    """APIs that imitate this one."""
    async with FakeAnthropic(models=[model("a", capabilities=told)]) as upstream, provider(upstream) as it:
        assert [offer.capabilities for offer in await it.catalogue()] == [("chat",)]


async def test_configured_names_are_the_catalogue_when_there_are_some() -> None:
    """With the operator's prices, and without asking."""
    prices = {"b": {"prompt": Decimal("3e-6"), "completion": Decimal("15e-6")}}
    async with FakeAnthropic() as upstream, provider(upstream, models=("a", "b"), prices=prices) as it:
        a, b = await it.catalogue()
        assert (a.name, a.price, a.capabilities) == ("a", None, ("chat",))
        assert b.price == Price(prompt=Decimal("0.000003"), completion=Decimal("0.000015"))
        assert upstream.requests == []


async def test_prices_are_the_operators_when_the_model_is_listed() -> None:
    """Anthropic's list has none."""
    prices = {"claude-plain": {"prompt": Decimal("1e-6"), "completion": Decimal("5e-6")}}
    async with FakeAnthropic() as upstream, provider(upstream, prices=prices) as it:
        assert [offer.price is None for offer in await it.catalogue()] == [True, False]


async def test_key_is_refused_clearly_when_it_is_wrong() -> None:
    """With Anthropic's words, and without the key."""
    async with FakeAnthropic() as upstream, provider(upstream, api_key=Secret("sk-ant-wrong")) as it:
        with pytest.raises(UpstreamKeyRefused, match=r"set providers\.claude\.api_key: invalid x-api-key") as caught:
            await it.catalogue()
        assert "sk-ant-wrong" not in str(caught.value) + repr(it.endpoint)


async def test_catalogue_fails_when_the_upstream_is_overloaded() -> None:
    """529 is Anthropic's own status."""

    async def overloaded(exchange: Exchange) -> None:
        await refuse(exchange, 529, "Overloaded")

    async with FakeAnthropic() as upstream, provider(upstream) as it:
        upstream.script(overloaded)
        with pytest.raises(UpstreamRefused, match="status 529: Overloaded"):
            await it.catalogue()


async def test_catalogue_fails_when_the_list_is_none() -> None:
    """Another API answers there."""

    async def other(exchange: Exchange) -> None:
        await exchange.answer(200, {"models": []})

    async with FakeAnthropic() as upstream, provider(upstream) as it:
        upstream.script(other)
        with pytest.raises(UpstreamBroke, match="something else than its API's JSON"):
            await it.catalogue()
