"""What the gateway believes of an upstream's routes, and what one refusal does to others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.api.test_hostile import CHAT_ONLY, MESSAGES, RESPONSES, messages
from tests.api.test_translation import only
from tests.api.upstreams import one
from tests.fakes.running import CHAT, Caller, ask, chat, running
from tests.fakes.upstream import HOLD, Exchange, FakeUpstream, speak_openai

GONE = b"HTTP/1.1 404 X\r\ncontent-type: text/plain\r\ncontent-length: 19\r\n\r\n404 page not found\n"


@pytest.mark.parametrize("path", [CHAT, "/v1/embeddings", MESSAGES])
async def test_a_proxy_without_its_backend_is_no_upstream_without_routes(tmp_path: Path, path: str) -> None:
    """Traefik says this while what is behind it restarts. A moment later all is well."""

    async def well(exchange: Exchange) -> None:
        await exchange.body()
        await exchange.answer(200, {"native": exchange.request.path})

    async with one(tmp_path) as (gateway, upstream):
        upstream.script(well)
        body = {**json.loads(messages()), "input": "x"}
        assert (await ask(gateway.port, "POST", path, body)).json() == {"native": path}
        upstream.queue(GONE)
        upstream.queue(GONE)
        assert (await ask(gateway.port, "POST", path, body)).status >= 400
        upstream.forget()
        answer = await ask(gateway.port, "POST", path, body)
        assert (answer.status, answer.json()) == (200, {"native": path})


async def test_a_caller_cannot_talk_a_route_away(tmp_path: Path) -> None:
    """It names the path in an id, and the upstream repeats the id."""

    async def native(exchange: Exchange) -> None:
        body = json.loads(await exchange.body())
        if item := body.get("metadata", {}).get("item"):
            message = f"Item with id '{item}' not found."
            await exchange.answer(
                404, {"error": {"message": message, "type": "invalid_request_error", "param": "input"}}
            )
        else:
            await exchange.answer(200, {"native": exchange.request.path})

    async with one(tmp_path) as (gateway, upstream):
        upstream.script(native)
        body = {"model": "m", "input": "hi"}
        for item in ("rs_/v1/responses", "rs_ file not found"):
            answer = await ask(gateway.port, "POST", RESPONSES, {**body, "metadata": {"item": item}})
            answer = await ask(gateway.port, "POST", RESPONSES, body)
            assert (answer.status, answer.json()) == (200, {"native": RESPONSES})


async def test_comments_go_on_after_a_target_was_passed_over(tmp_path: Path) -> None:
    """The first says that the model is not there; the second takes its time."""
    async with FakeUpstream() as first, FakeUpstream() as second:
        missing = b'{"error":{"message":"The model m does not exist","code":"model_not_found"}}'
        first.queue(b"HTTP/1.1 404 X\r\ncontent-length: %d\r\n\r\n" % len(missing) + missing)
        second.queue(HOLD)
        toml = f"""
        [residency]
        keepalive_s = 0.1
        [providers.a]
        kind = "openai"
        base_url = "{first.base_url}"
        models = ["m"]
        [providers.b]
        kind = "openai"
        base_url = "{second.base_url}"
        models = ["m"]
        [models.x]
        targets = ["a/m", "b/m"]
        """
        async with running(tmp_path, toml) as gateway, Caller(gateway.port) as caller:
            await caller.ask("POST", CHAT, chat("x", stream=True))
            await second.until(lambda: second.in_flight == 1)
            assert not await caller.silent(1.0)


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_long_refusal_passes(tmp_path: Path, *, chunked: bool) -> None:
    """FastAPI repeats the whole input in it, pictures and all."""

    async def refuse(exchange: Exchange) -> None:
        await exchange.body()
        said = json.dumps({"detail": [{"input": "x" * 2_000_000}]}).encode()
        if not chunked:
            await exchange.answer(422, said)
            return
        await exchange.write(b"HTTP/1.1 422 X\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n")
        await exchange.chunk(said)
        await exchange.end()

    async with one(tmp_path) as (gateway, upstream):
        upstream.script(refuse)
        for stream in (False, True):
            assert (await ask(gateway.port, "POST", CHAT, chat("m", stream=stream))).status == 422


async def test_a_missing_route_is_found_out_once(tmp_path: Path) -> None:
    """So it was before: the second request goes the way that works at once."""
    async with one(tmp_path) as (gateway, upstream):
        upstream.script(only(CHAT))
        for _ in range(2):
            assert (await ask(gateway.port, "POST", MESSAGES, messages())).status == 200
        assert [request.path for request in upstream.requests if request.method == "POST"] == [MESSAGES, CHAT, CHAT]


async def test_an_option_that_is_refused_is_found_out_once(tmp_path: Path) -> None:
    """As before."""

    async def picky(exchange: Exchange) -> None:
        await exchange.body()
        if "stream_options" in exchange.request.json():
            await exchange.answer(422, {"detail": "stream_options: Extra inputs are not permitted"})
        else:
            await speak_openai(exchange)

    async with one(tmp_path, CHAT_ONLY) as (gateway, upstream):
        upstream.script(picky)
        for _ in range(2):
            assert (await ask(gateway.port, "POST", CHAT, chat("m", stream=True))).status == 200
        assert len([request for request in upstream.requests if request.method == "POST"]) == 3
