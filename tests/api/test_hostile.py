"""What a hostile caller or an odd upstream does to any of the inference routes."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.api.upstreams import one
from tests.fakes.anthropic import FakeAnthropic
from tests.fakes.running import CHAT, Caller, Running, ask, chat, running
from tests.fakes.upstream import CUT, HOLD, Exchange, FakeUpstream, speak_openai

RESPONSES = "/v1/responses"
MESSAGES = "/v1/messages"
HI = [{"role": "user", "content": "hi"}]
CHAT_ONLY = 'routes = ["/v1/chat/completions"]'
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
PIECE = b'data: {"id":"1","model":"m","choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}\n\n'


def chunk(data: bytes) -> bytes:
    """In HTTP's chunked coding."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def counted(gateway: Running) -> dict[str, int]:
    """Tokens by kind."""
    found: dict[str, int] = {}
    for line in gateway.parts.metrics.text().decode().splitlines():
        if line.startswith("roundhouse_tokens_total{"):
            found[line.partition('kind="')[2].partition('"')[0]] = int(float(line.rpartition(" ")[2]))
    return {kind: count for kind, count in found.items() if count}


def messages(*, stream: bool = False, **more: object) -> bytes:
    """Of the Messages API."""
    return json.dumps({"model": "m", "messages": HI, "max_tokens": 9, "stream": stream, **more}).encode()


# ------------------------------------------------------------------ beliefs


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        (
            RESPONSES,
            404,
            {
                "message": "Item with id 'rs_1' not found. Items are not persisted when `store` is set to false.",
                "type": "invalid_request_error",
                "param": "input",
                "code": None,
            },
        ),
        (RESPONSES, 404, {"message": "Response with id 'resp_1' not found.", "type": "invalid_request_error"}),
        (MESSAGES, 404, {"message": "No endpoints found that support tool use.", "code": 404}),
    ],
    ids=["openai item", "vllm response", "openrouter tools"],
)
async def test_one_callers_404_says_nothing_of_the_route(
    tmp_path: Path, path: str, status: int, said: dict[str, Any]
) -> None:
    """The route works for everybody else, so the next caller is served by it."""

    async def native(exchange: Exchange) -> None:
        body = json.loads(await exchange.body())
        if body.get("metadata"):
            await exchange.answer(status, {"error": said})
        else:
            await exchange.answer(200, {"native": exchange.request.path})

    toml = """
        [models.gpt-zz9]
        targets = ["up/gpt-zz9"]
    """
    async with one(tmp_path, toml) as (gateway, upstream):
        upstream.script(native)
        body = {"model": "gpt-zz9", "input": "hi"} if path == RESPONSES else json.loads(messages(model="gpt-zz9"))
        assert (await ask(gateway.port, "POST", path, body)).json() == {"native": path}
        await ask(gateway.port, "POST", path, {**body, "metadata": {"bad": "1"}})
        answer = await ask(gateway.port, "POST", path, body)
        assert (answer.status, answer.json()) == (200, {"native": path})


@pytest.mark.parametrize("bad", ["string", "echo"])
async def test_one_callers_400_does_not_switch_metering_off(tmp_path: Path, bad: str) -> None:
    """Its own `stream_options` is wrong; or the upstream repeats the body it refuses, as FastAPI's validation does."""

    async def picky(exchange: Exchange) -> None:
        body = json.loads(await exchange.body())
        options = body.get("stream_options")
        if options is not None and not isinstance(options, dict):
            await exchange.answer(400, {"error": {"message": "stream_options must be an object"}})
        elif "messages" not in body:
            await exchange.answer(422, {"detail": [{"type": "missing", "loc": ["body", "messages"], "input": body}]})
        else:
            await speak_openai(exchange)

    async with one(tmp_path) as (gateway, upstream):
        upstream.script(picky)
        if bad == "string":
            answer = await ask(gateway.port, "POST", CHAT, chat("m", stream=True, stream_options="x"))
        else:
            answer = await ask(gateway.port, "POST", CHAT, {"model": "m", "stream": True})
        assert answer.status in (400, 422)
        await ask(gateway.port, "POST", CHAT, chat("m", stream=True))
        assert counted(gateway) == {"prompt": 7, "completion": 3}


# ------------------------------------------------------------------ translated answers that are none


@pytest.mark.parametrize("status", [204, 304])
async def test_a_status_without_a_body_gets_none(tmp_path: Path, status: int) -> None:
    """Else the next answer on the connection begins in the middle of this one."""
    async with one(tmp_path, CHAT_ONLY) as (gateway, upstream):
        upstream.queue(b"HTTP/1.1 %d X\r\n\r\n" % status)
        async with Caller(gateway.port) as caller:
            await caller.ask("POST", MESSAGES, messages())
            status_, _ = await caller.head()
            await caller.rest()
            assert status_ == 502


@pytest.mark.parametrize("status", [201, 202, 206, 302])
async def test_a_translated_answer_with_another_status_is_no_success(tmp_path: Path, status: int) -> None:
    """An error envelope must not come with 2xx, nor a redirect to who knows where."""
    async with one(tmp_path, CHAT_ONLY) as (gateway, upstream):
        said = b'{"id":"1"}'
        upstream.queue(b"HTTP/1.1 %d X\r\nlocation: http://inner/\r\ncontent-length: 10\r\n\r\n" % status + said)
        answer = await ask(gateway.port, "POST", MESSAGES, messages())
        assert answer.status >= 400, (answer.status, answer.body, answer.fields)


# ------------------------------------------------------------------ header fields


async def test_translated_is_told_once(tmp_path: Path) -> None:
    """Of the way that answered, not of those that were tried before."""

    async def picky(exchange: Exchange) -> None:
        await exchange.body()
        if "stream_options" in exchange.request.json():
            await exchange.answer(422, {"detail": "stream_options: Extra inputs are not permitted"})
        else:
            await speak_openai(exchange)

    async with one(tmp_path, CHAT_ONLY) as (gateway, upstream):
        upstream.script(picky)
        answer = await ask(gateway.port, "POST", MESSAGES, messages(stream=True))
        assert answer.status == 200
        assert answer.field("x-roundhouse-translated") == "messages>chat"


async def test_translated_is_not_told_of_a_native_answer(tmp_path: Path) -> None:
    """The first target would have been translated for, the second was not."""
    async with FakeUpstream() as upstream:

        async def native(exchange: Exchange) -> None:
            await exchange.body()
            await exchange.answer(200, {"native": True})

        upstream.script(native)
        toml = f"""
        [providers.a]
        kind = "openai"
        base_url = "http://127.0.0.1:9"
        models = ["m"]
        routes = ["/v1/chat/completions"]
        [providers.b]
        kind = "openai"
        base_url = "{upstream.base_url}"
        models = ["m"]
        routes = ["/v1/messages"]
        [models.x]
        targets = ["a/m", "b/m"]
        """
        async with running(tmp_path, toml) as gateway:
            answer = await ask(gateway.port, "POST", MESSAGES, messages(model="x"))
            assert answer.json() == {"native": True}
            assert answer.field("x-roundhouse-translated") is None


async def test_a_translated_body_is_announced_as_json(tmp_path: Path) -> None:
    """`curl -d` announces a form, which Ollama does not mind; FastAPI's servers refuse it. The body is ours by then."""
    async with one(tmp_path, CHAT_ONLY) as (gateway, upstream), Caller(gateway.port) as caller:
        body = json.dumps({"model": "m", "messages": HI, "stream": False}).encode()
        await caller.send(
            b"POST /api/chat HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-www-form-urlencoded\r\n"
            b"accept: application/x-ndjson\r\ncontent-length: %d\r\n\r\n" % len(body) + body
        )
        assert (await caller.answer()).status == 200
        assert upstream.requests[-1].header("content-type") == "application/json"
        assert upstream.requests[-1].header("accept") in (None, "application/json", "*/*")


# ------------------------------------------------------------------ targets


async def test_what_the_first_target_has_no_words_for_the_second_may_serve(tmp_path: Path) -> None:
    """Nothing was sent to the first."""
    async with FakeAnthropic() as claude, FakeUpstream() as upstream:
        toml = f"""
        [providers.claude]
        kind = "anthropic"
        base_url = "{claude.base_url}"
        api_key = "{claude.key}"
        [providers.up]
        kind = "openai"
        base_url = "{upstream.base_url}"
        models = ["m"]
        [models.x]
        targets = ["claude/claude-plain", "up/m"]
        """
        async with running(tmp_path, toml) as gateway:
            answer = await ask(gateway.port, "POST", CHAT, chat("x", n=2))
            assert answer.status == 200, answer.body


# ------------------------------------------------------------------ streams


@pytest.mark.parametrize(
    ("begun", "cut"),
    [(False, True), (False, False), (True, True)],
    ids=["nothing came, cut", "nothing came, ended", "cut between two events"],
)
async def test_a_plain_stream_that_breaks_off_is_no_finished_one(tmp_path: Path, *, begun: bool, cut: bool) -> None:
    """The chunked coding says that it was not complete."""
    async with one(tmp_path) as (gateway, upstream):
        steps = [chunk(b'data: {"b64_json":"a"}\n\n')] if begun else []
        upstream.queue(CHUNKED, *steps, CUT if cut else b"0\r\n\r\n")
        answer = await ask(
            gateway.port, "POST", "/v1/images/generations", {"model": "m", "prompt": "x", "stream": True}
        )
        if begun:
            assert b"error" in answer.body, answer.body
        elif cut:
            assert answer.status == 502, (answer.status, answer.body)
        else:
            assert answer.status in (200, 502), (answer.status, answer.body)


async def test_a_beginning_of_a_line_only_is_a_502(tmp_path: Path) -> None:
    """It was held back since it might have been the usage."""
    async with one(tmp_path) as (gateway, upstream):
        upstream.queue(HEAD, b'data: {"id":"1"', CUT)
        answer = await ask(gateway.port, "POST", CHAT, chat("m", stream=True))
        assert answer.status == 502, answer.body


async def test_ollamas_generate_ends_with_its_context(tmp_path: Path) -> None:
    """The last line of a native answer holds the prompt's tokens: thousands of them, behind `done`."""
    last = {
        "model": "m",
        "created_at": "2024-01-01T00:00:00Z",
        "response": "",
        "done": True,
        "done_reason": "stop",
        "context": list(range(1000, 1500)),
        "total_duration": 5,
        "load_duration": 1,
        "prompt_eval_count": 7,
        "prompt_eval_duration": 1,
        "eval_count": 3,
        "eval_duration": 1,
    }
    said = b'{"model":"m","response":"a","done":false}\n' + json.dumps(last, separators=(",", ":")).encode() + b"\n"
    async with one(tmp_path, 'routes = ["/api/generate"]') as (gateway, upstream):
        upstream.queue(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n",
            chunk(said),
            b"0\r\n\r\n",
        )
        answer = await ask(gateway.port, "POST", "/api/generate", {"model": "m", "prompt": "hi"})
        assert answer.body == said
        assert counted(gateway) == {"prompt": 7, "completion": 3}


async def test_an_error_in_a_translated_stream_is_told_when_it_comes(tmp_path: Path) -> None:
    """Not when the upstream ends its body, which it may never do."""
    async with one(tmp_path, CHAT_ONLY) as (gateway, upstream):
        gate = asyncio.Event()
        error = b'data: {"error":{"message":"out of memory","code":503}}\n\n'
        upstream.queue(CHUNKED, chunk(PIECE), gate, chunk(error), chunk(b"data: [DONE]\n\n"), HOLD)
        async with Caller(gateway.port) as caller:
            await caller.ask("POST", MESSAGES, messages(stream=True))
            await caller.head()
            said = await caller.piece()
            gate.set()
            async with asyncio.timeout(3):
                while b"out of memory" not in said:
                    piece = await caller.piece()
                    assert piece, said
                    said += piece


async def test_an_upstreams_own_error_is_not_lost_when_it_then_breaks_off(tmp_path: Path) -> None:
    """Its words tell more than that it broke off."""
    async with one(tmp_path, CHAT_ONLY) as (gateway, upstream):
        error = b'data: {"error":{"message":"out of memory","code":503}}\n\n'
        gate = asyncio.Event()
        upstream.queue(CHUNKED, chunk(PIECE), gate, chunk(error), CUT)
        async with Caller(gateway.port) as caller:
            await caller.ask("POST", MESSAGES, messages(stream=True))
            await caller.head()
            said = await caller.piece()
            gate.set()
            said += await caller.rest()
        assert b"out of memory" in said, said


async def test_speech_that_is_waited_for_is_not_turned_into_events(tmp_path: Path) -> None:
    """Servers of speech stream bare sound where `stream` is true."""
    async with one(tmp_path, before="[residency]\nkeepalive_s = 0.05") as (gateway, upstream):
        gate = asyncio.Event()
        upstream.queue(gate, b"HTTP/1.1 200 OK\r\ncontent-type: audio/mpeg\r\ncontent-length: 3\r\n\r\nabc")
        async with Caller(gateway.port) as caller:
            await caller.ask("POST", "/v1/audio/speech", b'{"model":"m","input":"hi","stream":true}')
            assert await caller.silent(0.3)
            gate.set()


# ------------------------------------------------------------------ uploads


async def test_an_upload_that_turns_out_too_large_after_a_comment_is_answered_once(tmp_path: Path) -> None:
    """A comment has begun the stream: what follows is an event, not a second head."""
    before = "[server]\nmax_upload_bytes = 3000\n[residency]\nkeepalive_s = 0.05"
    boundary = "b0"
    form = "".join(
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in (("model", "m"), ("stream", "true"))
    )
    form += f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    async with one(tmp_path, before=before) as (gateway, upstream):
        upstream.queue(HOLD, early=True)
        async with Caller(gateway.port) as caller:
            await caller.send(
                b"POST /v1/audio/transcriptions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n"
                b"content-type: multipart/form-data; boundary=b0\r\n\r\n" + chunk(form.encode())
            )
            status, _ = await caller.head()
            assert status == 200
            said = await caller.piece()
            assert said.startswith(b":")
            await caller.send(chunk(b"x" * 4000))
            said += await caller.rest()
            assert b"max_upload_bytes" in said
        await upstream.until(lambda: upstream.open_connections == 0 or upstream.in_flight == 0)


# ------------------------------------------------------------------ Ollama's


async def test_unloading_an_unknown_model_is_a_404(tmp_path: Path) -> None:
    """As on every route."""
    async with one(tmp_path) as (gateway, _):
        answer = await ask(gateway.port, "POST", "/api/generate", {"model": "nope", "keep_alive": 0})
        assert answer.status == 404, answer.body


async def test_an_error_without_a_message_is_still_one_for_ollamas_clients(tmp_path: Path) -> None:
    """They look for a text in `error`."""
    async with one(tmp_path, CHAT_ONLY) as (gateway, upstream):
        upstream.queue(b'HTTP/1.1 400 X\r\ncontent-length: 20\r\n\r\n{"error":{"code":5}}')
        answer = await ask(gateway.port, "POST", "/api/chat", {"model": "m", "messages": HI, "stream": False})
        assert answer.status == 400
        assert isinstance(answer.json()["error"], str), answer.body
        assert answer.json()["error"]


@pytest.mark.parametrize("path", [CHAT, MESSAGES, RESPONSES, "/api/chat"])
async def test_half_a_character_is_the_callers_mistake(tmp_path: Path, path: str) -> None:
    """A lone surrogate."""
    body = b'{"model":"m","max_tokens":9,"input":"\\ud800","messages":[{"role":"user","content":"\\ud800"}]}'
    route = "/v1/chat/completions" if path != CHAT else "/v1/messages"
    async with one(tmp_path, f'routes = ["{route}"]') as (gateway, _):
        answer = await ask(gateway.port, "POST", path, body)
        assert answer.status == 400, answer.body


async def test_a_translated_stream_may_lack_its_last_blank_line(tmp_path: Path) -> None:
    """Natively it is taken for finished."""
    last = b'data: {"id":"1","model":"m","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n'
    async with one(tmp_path, CHAT_ONLY) as (gateway, upstream):
        upstream.queue(HEAD, PIECE + last, CUT)
        answer = await ask(gateway.port, "POST", MESSAGES, messages(stream=True))
        assert b"message_stop" in answer.body, answer.body


async def test_left_out_names_are_visible_characters(tmp_path: Path) -> None:
    """Clients refuse control characters in a field."""
    async with one(tmp_path, CHAT_ONLY) as (gateway, _):
        answer = await ask(
            gateway.port, "POST", RESPONSES, {"model": "m", "input": "hi", "a\x01\x7f\x0bb\r\nx: y": 1, "ü,": 2}
        )
        assert answer.status == 200
        told = answer.field("x-roundhouse-left-out") or ""
        assert answer.field("x") is None
        assert told.isprintable(), repr(told)


async def test_usage_of_a_native_ollama_stream_is_counted_once(tmp_path: Path) -> None:
    """Keep-alive is forced, the query and the name are as they must be."""
    async with one(tmp_path, 'routes = ["/api/chat"]') as (gateway, upstream):
        said = (
            b'{"model":"m","message":{"role":"assistant","content":"x"},"done":false}\n'
            b'{"model":"m","message":{"role":"assistant","content":""},"done":true,"done_reason":"stop","prompt_eval_count":7,"eval_count":3}\n'
        )
        upstream.queue(b"HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\nconnection: close\r\n\r\n", said, CUT)
        answer = await ask(
            gateway.port,
            "POST",
            "/api/chat",
            {"model": "m", "messages": HI, "stream": True, "keep_alive": "5m"},
            [("x-roundhouse-progress", "events"), ("authorization", "Bearer secret"), ("accept-encoding", "gzip")],
        )
        assert answer.body == said
        asked = upstream.requests[-1]
        assert asked.json()["keep_alive"] == "5m"  # nobody here would unload it otherwise
        assert asked.header("x-roundhouse-progress") is None
        assert asked.header("authorization") is None
        assert asked.header("accept-encoding") is None
        assert counted(gateway) == {"prompt": 7, "completion": 3}


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT"])
@pytest.mark.parametrize("path", ["/api/chat", "/api/generate", "/api/embed", "/responses", "/tokenize", "/v2/rerank"])
async def test_other_methods(tmp_path: Path, path: str, method: str) -> None:
    """405 with what is allowed, an id, no body to HEAD; nothing upstream."""
    async with one(tmp_path) as (gateway, upstream):
        answer = await ask(gateway.port, method, path)
        assert answer.status in (405, 204), (answer.status, answer.body)
        assert answer.field("x-request-id")
        assert answer.field("allow")
        assert not [r for r in upstream.requests if r.method == "POST"]
