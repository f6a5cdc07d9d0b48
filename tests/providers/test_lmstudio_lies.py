"""LM Studio's provider against upstreams that are dead, slow, lying, refuse the key, or are something else."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from config.forms import Secret
from providers.errors import (
    LoadFailed,
    ProviderError,
    UpstreamBroke,
    UpstreamKeyRefused,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from providers.lmstudio import LmStudioProvider
from tests.fakes.lmstudio import FakeLmStudio
from tests.fakes.upstream import CUT, HOLD, Exchange, FakeUpstream
from tests.providers.test_lmstudio import provider_of, spec, studio_with

REST = pytest.mark.parametrize("rest", ["v1", "v0"])
KEY = "sk-lm-secret-1"


async def _html(exchange: Exchange) -> None:
    await exchange.answer(200, b"<!doctype html><title>Router</title>", {"content-type": "text/html"})


async def _truncated(exchange: Exchange) -> None:
    await exchange.write(b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{"models": [')
    exchange.cut()


async def _half_json(exchange: Exchange) -> None:
    await exchange.answer(200, b'{"models": [{"key": "a"}')


async def _wrong_shape(exchange: Exchange) -> None:
    await exchange.answer(200, {"models": [{"key": 7}], "data": [{"id": 7}]})


async def _array(exchange: Exchange) -> None:
    await exchange.answer(200, [1, 2])


async def _deep(exchange: Exchange) -> None:
    await exchange.answer(200, b'{"models": ' + b"[" * 100_000 + b"]" * 100_000 + b"}")


async def _not_utf8(exchange: Exchange) -> None:
    await exchange.answer(200, b'{"models": [{"key": "\xff"}], "data": [{"id": "\xff", "state": "loaded"}]}')


async def _crashed(exchange: Exchange) -> None:
    await exchange.answer(500, {"error": "the server\ncrashed"})


async def _elsewhere(exchange: Exchange) -> None:
    await exchange.answer(302, b"", {"location": "https://login.example"})


LIES: dict[str, tuple[Callable[[Exchange], Awaitable[None]], type[ProviderError], str]] = {
    "html": (_html, UpstreamBroke, "with a web page instead of JSON: is base_url right"),
    "truncated": (_truncated, UpstreamBroke, "studio"),
    "half json": (_half_json, UpstreamBroke, "something else than its API's JSON"),
    "wrong shape": (_wrong_shape, UpstreamBroke, "something else than its API's JSON"),
    "array": (_array, UpstreamBroke, "something else than its API's JSON"),
    "deep": (_deep, UpstreamBroke, "something else than its API's JSON"),
    "not utf-8": (_not_utf8, UpstreamBroke, "something else than its API's JSON"),
    "crashed": (_crashed, UpstreamRefused, "with status 500: the server crashed"),
    "redirect": (_elsewhere, UpstreamBroke, "with status 302: is base_url right"),
}


@REST
@pytest.mark.parametrize("lie", LIES)
async def test_a_lie_is_its_own_error_and_changes_nothing_that_is_known(rest: str, lie: str) -> None:
    """Catalogue, held and load each say what is wrong; one bad answer does not turn its API into the other."""
    handler, error, words = LIES[lie]
    async with studio_with(rest) as (studio, provider):
        await provider.catalogue()
        studio.lies[f"/api/{rest}/models"] = handler
        if rest == "v1":  # what v1 says decides: v0 is not even asked
            studio.lies["/api/v0/models"] = _html
        for call in (provider.catalogue, provider.held):
            with pytest.raises(error, match=words):
                await call()
        with pytest.raises(LoadFailed, match="studio could not load 'qwen/qwen3-4b': "):
            await provider.load(spec(), lambda _: None)
        assert provider.unloads == (rest == "v1")

        studio.lies.clear()
        assert len(await provider.catalogue()) == 2
        assert provider.estimate(spec()) is not None


async def test_an_endless_body_is_cut_off() -> None:
    """A list beyond any real one is given up, not kept in memory."""

    async def endless(exchange: Exchange) -> None:
        await exchange.start_stream({"content-type": "application/json"})
        await exchange.chunk(b'{"models": [')
        while True:
            await exchange.chunk(b" " * (1 << 20))

    async with studio_with() as (studio, provider):
        studio.lies["/api/v1/models"] = endless
        with pytest.raises(UpstreamBroke):
            await provider.catalogue()
        await studio.until(lambda: studio.aborted == 1)


async def test_a_silent_server_is_left_when_the_caller_leaves() -> None:
    """Cancelled while looking, nothing stays open. (That looking is bounded in time is `Remote.ask`'s, and tested there.)"""
    async with studio_with() as (studio, provider):
        studio.queue(HOLD)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await provider.held()
        await studio.until(lambda: studio.aborted == 1 and studio.open_connections == 0)


async def test_a_stop_against_a_silent_server_is_bounded() -> None:
    """By stop_timeout_s."""
    async with studio_with() as (studio, provider):
        engine = await provider.load(spec(stop_timeout_s=0.1), lambda _: None)
        studio.queue(HOLD)
        with pytest.raises(UpstreamTimeout, match="studio still has"):
            await engine.stop()


async def test_a_dead_server_is_unreachable() -> None:
    """Catalogue and held say so."""
    async with FakeLmStudio() as studio:
        url = studio.base_url
    provider = provider_of(url)
    for call in (provider.catalogue, provider.held):
        with pytest.raises(UpstreamUnreachable):
            await call()
    assert provider.unloads
    await provider.aclose()


async def test_a_server_that_hangs_up_is_broken() -> None:
    """No answer at all is no LM Studio without REST."""
    async with studio_with() as (studio, provider):
        studio.queue(CUT)
        with pytest.raises(UpstreamBroke):
            await provider.catalogue()


@pytest.mark.parametrize("key", [None, Secret(KEY)])
async def test_a_refused_key_says_which_key_to_set(key: Secret | None) -> None:
    """LM Studio's words and ours; never the key itself."""
    async with studio_with(api_key="sk-lm-another", config={"api_key": key}) as (_, provider):
        with pytest.raises(
            UpstreamKeyRefused, match=r"set providers\.studio\.api_key: An LM Studio API token"
        ) as raised:
            await provider.catalogue()
        with pytest.raises(LoadFailed, match=r"set providers\.studio\.api_key") as failed:
            await provider.load(spec(), lambda _: None)

        for error in (raised.value, failed.value):
            assert KEY not in repr(error) + error.message + error.detail


@pytest.mark.parametrize("unknown_status", [200, 404])
async def test_a_server_with_neither_api_is_no_lm_studio(unknown_status: int) -> None:
    """An LM Studio before 0.3.6, or another OpenAI-compatible server."""
    async with studio_with("", unknown_status=unknown_status) as (_, provider):
        for call in (provider.catalogue, provider.held):
            with pytest.raises(UpstreamBroke, match=r'studio is no LM Studio: it has neither .*of kind "openai"'):
                await call()


async def test_others_that_answer_the_same_paths_are_no_lm_studio() -> None:
    """OpenRouter has an /api/v1/models, too: its list has another field."""

    async def openrouter(exchange: Exchange) -> None:
        if exchange.request.path == "/api/v1/models":
            await exchange.answer(200, {"data": [{"id": "openai/gpt-oss-20b"}]})
        else:
            await exchange.answer(404, b"not found")

    async with FakeUpstream() as upstream:
        upstream.script(openrouter)
        provider: LmStudioProvider = provider_of(upstream.base_url)
        with pytest.raises(UpstreamBroke, match="studio is no LM Studio"):
            await provider.catalogue()
        await provider.aclose()
