"""A caller that leaves, in each phase: nothing of its request is left."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
from pathlib import Path

import pytest

from gateway.routing.health import Outcome
from tests.api.test_hostile import CHAT_ONLY, CHUNKED, PIECE, chunk, messages
from tests.api.test_translation import only
from tests.api.upstreams import one
from tests.fakes.processes import ENGINE
from tests.fakes.running import CHAT, Caller, ask, chat, running
from tests.fakes.upstream import HOLD, Exchange, speak_openai

MESSAGES = "/v1/messages"


def rig(more: str = "") -> str:
    """An engine of ours that takes long to boot, and one that is quick, in memory for one."""
    command = json.dumps([*ENGINE, "--port", "${port}", "--boot-s", "30"])
    quick = json.dumps([*ENGINE, "--port", "${port}"])
    return f"""
    [memory.devices]
    ram = "100MiB"
    [residency]
    keepalive_s = 0.05
    {more}
    [providers.slow]
    kind = "process"
    command = {command}
    [providers.quick]
    kind = "process"
    command = {quick}
    [models.slow]
    targets = ["slow/slow"]
    memory = "60MiB"
    [models.other]
    targets = ["slow/other"]
    memory = "60MiB"
    [models.quick]
    targets = ["quick/quick"]
    memory = "30MiB"
    """


@pytest.mark.parametrize("path", [CHAT, MESSAGES, "/api/chat", "/api/generate"])
@pytest.mark.parametrize("stream", [False, True])
async def test_while_it_loads(tmp_path: Path, path: str, *, stream: bool) -> None:
    """Also where Ollama's client asks for the load only, and where comments have begun."""
    async with running(tmp_path, rig()) as gateway:
        body: dict[str, object] = {"model": "slow", "stream": stream}
        if path != "/api/generate":
            body["messages"] = [{"role": "user", "content": "x"}]
            body["max_tokens"] = 5
        async with Caller(gateway.port) as caller:
            await caller.ask("POST", path, json.dumps(body).encode(), [("x-roundhouse-progress", "comments")])
            await gateway.until(lambda: len(gateway.parts.residency.waiting()) == 1)
            if stream and not path.startswith("/api"):
                await caller.head()
                assert (await caller.piece()).startswith(b": ")
            caller.leave()
        await gateway.until(lambda: not gateway.parts.residency.waiting() and gateway.parts.metrics.in_flight == 0)
        assert gateway.leases() == 0


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("begun", [False, True])
async def test_while_it_is_translated(tmp_path: Path, *, stream: bool, begun: bool) -> None:
    """Before the first byte, and between comments; a place under max_concurrent is free again."""
    more = CHAT_ONLY + "\nmax_concurrent = 1"
    async with one(tmp_path, more, "[residency]\nkeepalive_s = 0.05") as (gateway, upstream):
        if stream:
            upstream.queue(*([CHUNKED, chunk(PIECE)] if begun else []), HOLD)
        else:
            head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n"
            upstream.queue(*([head, b"{"] if begun else []), HOLD)
        async with Caller(gateway.port) as caller:
            await caller.ask("POST", MESSAGES, messages(stream=stream))
            await upstream.until(lambda: upstream.in_flight == 1)
            if stream:
                await caller.head()
                said = b""
                while b": keep-alive" not in said:
                    said += await caller.piece()
            caller.reset()
        await upstream.until(lambda: upstream.aborted == 1 and upstream.open_connections == 0)
        await gateway.until(lambda: gateway.parts.metrics.in_flight == 0)
        assert (await ask(gateway.port, "POST", MESSAGES, messages())).status == 200
        guard = gateway.parts.upstreams["up"].guard
        assert guard is not None
        assert guard.waiting == 0


async def test_while_it_uploads(tmp_path: Path) -> None:
    """The temporary file and the connection are gone."""

    def files() -> int:
        found = 0
        for name in os.listdir("/proc/self/fd"):
            try:
                found += "(deleted)" in os.readlink(f"/proc/self/fd/{name}")
            except OSError:
                continue
        return found

    before = files()
    form = (
        '--b0\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n'
        '--b0\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    )
    async with one(tmp_path) as (gateway, upstream):
        upstream.queue(HOLD, early=True)
        async with Caller(gateway.port) as caller:
            await caller.send(
                b"POST /v1/audio/transcriptions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n"
                b"content-type: multipart/form-data; boundary=b0\r\n\r\n"
                + chunk(form.encode())
                + chunk(b"x" * 3_000_000)
            )
            await upstream.until(lambda: upstream.in_flight == 1 and files() == before + 1)
            caller.reset()
        await upstream.until(lambda: upstream.open_connections == 0 and files() == before)
        await gateway.until(lambda: gateway.parts.metrics.in_flight == 0)
        names = {repr(task.get_coro()) for task in asyncio.all_tasks()}
        assert not {name for name in names if "Upload" in name or "Feeder" in name or "leaving" in name}, names


async def test_an_upstream_that_knows_nothing_is_asked_a_few_times_only(tmp_path: Path) -> None:
    """Each way once, and no more."""

    async def deny(exchange: Exchange) -> None:
        body = await exchange.body()
        if b"stream_options" in body:
            await exchange.answer(400, b"stream_options? include_usage?")
        else:
            await exchange.answer(404, b"404 page not found")

    routes = (
        'routes = ["/v1/chat/completions", "/v1/messages", "/v1/responses"]\n[models.gpt-zz9]\ntargets = ["up/gpt-zz9"]'
    )
    async with one(tmp_path, routes) as (gateway, upstream):
        upstream.script(deny)
        for path in (CHAT, MESSAGES, "/api/chat"):
            answer = await ask(gateway.port, "POST", path, messages(model="gpt-zz9", stream=True))
            assert answer.status >= 400
        posts = [r.path for r in upstream.requests if r.method == "POST"]
        assert len(posts) <= 8, posts


@pytest.mark.parametrize("path", [MESSAGES, "/api/chat", "/api/embed"])
@pytest.mark.parametrize(
    "said", [b'{"error":{"message":"boom","code":400}}', b'{"error":"boom"}', b"", b"null", b"[1]"]
)
async def test_an_error_with_status_200_is_none_of_ours(tmp_path: Path, path: str, said: bytes) -> None:
    """Translated, it is an error of the upstream's."""
    async with one(tmp_path, 'routes = ["/v1/chat/completions", "/v1/embeddings"]') as (gateway, upstream):
        for stream in (False, True):
            if stream and path == "/api/embed":
                continue
            upstream.queue(
                b"HTTP/1.1 200 X\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(said) + said
            )
            body = json.loads(messages(stream=stream)) if path != "/api/embed" else {"model": "m", "input": "x"}
            answer = await ask(gateway.port, "POST", path, body)
            assert 400 <= answer.status < 600, (answer.status, answer.body)
            assert answer.status != 500, answer.body
            if b"boom" in said:
                assert b"boom" in answer.body, answer.body


async def test_a_path_denied_with_status_200_is_a_missing_route(tmp_path: Path) -> None:
    """LM Studio: "Unexpected endpoint or method. (POST /v1/messages). Returning 200 anyway"."""

    async def studio(exchange: Exchange) -> None:
        await exchange.body()
        if exchange.request.path == MESSAGES:
            await exchange.answer(200, {"error": "Unexpected endpoint or method. (POST /v1/messages)"})
        else:
            await speak_openai(exchange)

    async with one(tmp_path) as (gateway, upstream):
        upstream.script(studio)
        answer = await ask(gateway.port, "POST", MESSAGES, messages())
        assert answer.json().get("content"), answer.body


async def test_gzip_that_nobody_asked_for(tmp_path: Path) -> None:
    """Translated it is a 502, natively it passes."""
    body = gzip.compress(b'{"choices":[]}')
    head = b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n"
    async with one(tmp_path, CHAT_ONLY) as (gateway, upstream):
        for status in (200, 429):
            upstream.queue(head % (status, len(body)) + body)
            answer = await ask(gateway.port, "POST", MESSAGES, messages(), [("accept-encoding", "gzip")])
            assert answer.field("content-encoding") is None
            assert answer.status in (502, 429)
            answer.json()
        upstream.queue(head % (200, len(body)) + body)
        answer = await ask(gateway.port, "POST", CHAT, chat("m"))
        assert (answer.status, answer.body, answer.field("content-encoding")) == (200, body, "gzip")


async def test_a_broken_trial_is_given_back(tmp_path: Path) -> None:
    """An upstream that rested and then refuses the way it is asked is asked the other way."""
    async with one(tmp_path) as (gateway, upstream):
        guard = gateway.parts.upstreams["up"].guard
        assert guard is not None
        for _ in range(3):
            trial = guard.health.begin(0.0)
            guard.health.ended(Outcome.FAILED, 0.0, None, 0.0, trial=trial, reason="x")
        upstream.script(only(CHAT))
        assert guard.health.wait_s(0.1) > 0
        answer = await ask(gateway.port, "POST", MESSAGES, messages())
        assert answer.status == 200, answer.body


async def test_nothing_is_loaded_for_what_cannot_be_said(tmp_path: Path) -> None:
    """It is known from the body and the route alone."""
    toml = rig().replace("[providers.quick]", '[providers.quick]\n    routes = ["/v1/chat/completions"]')
    async with running(tmp_path, toml) as gateway:
        body = {"model": "quick", "prompt": "x", "raw": True}
        answer = await ask(gateway.port, "POST", "/api/generate", body)
        assert answer.status == 501
        assert gateway.happened("loaded") == []
