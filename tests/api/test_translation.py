"""A route that the target lacks: what it has stands in, both ways, plain and streamed; what cannot be said is refused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.anthropic import FakeAnthropic
from tests.fakes.running import CHAT, Answer, Caller, Running, ask, chat, running
from tests.fakes.upstream import CUT, Exchange, FakeUpstream, Handler, speak_openai

RESPONSES = "/v1/responses"
MESSAGES = "/v1/messages"
STREAMED = pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
HI = [{"role": "user", "content": "hi"}]
WORDS = ["w0", "w1", "w2"]


def only(*paths: str) -> Handler:
    """An upstream that knows these, and of others says what Go's servers say."""

    async def answer(exchange: Exchange) -> None:
        await exchange.body()
        if exchange.request.path.partition("?")[0] in paths:
            await speak_openai(exchange)
        else:
            await exchange.answer(404, b"404 page not found", {"content-type": "text/plain"})

    return answer


@asynccontextmanager
async def chatty(folder: Path, more: str = "") -> AsyncGenerator[tuple[Running, FakeUpstream]]:
    """A gateway before an upstream that knows chat completions and embeddings only."""
    async with FakeUpstream() as upstream:
        upstream.script(only(CHAT, "/v1/embeddings"))
        toml = f"""
        [providers.up]
        kind = "openai"
        base_url = "{upstream.base_url}"
        models = ["m"]
        {more}
        """
        async with running(folder, toml) as gateway:
            yield gateway, upstream


@asynccontextmanager
async def claude(folder: Path) -> AsyncGenerator[tuple[Running, FakeAnthropic]]:
    """A gateway before an Anthropic."""
    async with FakeAnthropic() as upstream:
        toml = f"""
        [providers.claude]
        kind = "anthropic"
        base_url = "{upstream.base_url}"
        api_key = "{upstream.key}"
        """
        async with running(folder, toml) as gateway:
            yield gateway, upstream


def body_for(path: str, model: str = "m", *, stream: bool = False) -> dict[str, object]:
    """The smallest that each API takes."""
    if path == RESPONSES:
        return {"model": model, "input": "hi", "stream": stream}
    return {"model": model, "messages": HI, "max_tokens": 9, "stream": stream}


def datas(answer: Answer) -> list[dict[str, Any]]:
    """The events' data, parsed, without `[DONE]`."""
    lines = [line.removeprefix("data: ") for line in answer.body.decode().split("\n") if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def text_of(path: str, answer: Answer, *, stream: bool) -> str:
    """What the model said."""
    if path == RESPONSES:
        response = datas(answer)[-1]["response"] if stream else answer.json()
        return response["output"][0]["content"][0]["text"]
    if path == MESSAGES:
        if not stream:
            return answer.json()["content"][0]["text"]
        return "".join(
            event["delta"].get("text", "") for event in datas(answer) if event["type"] == "content_block_delta"
        )
    if path == "/api/chat":
        lines = [json.loads(line) for line in answer.body.splitlines()]
        return "".join(line["message"]["content"] for line in lines)
    if not stream:
        return answer.json()["choices"][0]["message"]["content"]
    choices = [event["choices"][0]["delta"] for event in datas(answer) if event["choices"]]
    return "".join(delta.get("content") or "" for delta in choices)


@STREAMED
@pytest.mark.parametrize("path", [RESPONSES, MESSAGES, "/api/chat"])
async def test_chat_stands_in_for_what_the_upstream_lacks(tmp_path: Path, path: str, *, stream: bool) -> None:
    """Found out once; the answer is in the words of the caller's route, under the name the caller asked for."""
    async with chatty(tmp_path) as (gateway, upstream):
        for _ in range(2):
            answer = await ask(gateway.port, "POST", path, body_for(path, stream=stream))
            assert answer.status == 200, answer.body
            assert text_of(path, answer, stream=stream).split() == WORDS
            assert (answer.field("x-roundhouse-translated") or "").endswith(">chat")
        asked = [request.path for request in upstream.requests]
        assert asked == ([CHAT] * 2 if path == "/api/chat" else [path, CHAT, CHAT])
        assert upstream.requests[-1].json()["model"] == "m"


@STREAMED
@pytest.mark.parametrize("path", [CHAT, RESPONSES, "/api/chat"])
async def test_anthropics_messages_stand_in(tmp_path: Path, path: str, *, stream: bool) -> None:
    """For everything that is asked of a Claude in other words."""
    async with claude(tmp_path) as (gateway, upstream):
        answer = await ask(gateway.port, "POST", path, body_for(path, "claude-plain", stream=stream))
        assert answer.status == 200, answer.body
        assert text_of(path, answer, stream=stream).split() == WORDS
        assert upstream.requests[-1].path == MESSAGES
        if path == CHAT and stream:
            assert answer.body.endswith(b"data: [DONE]\n\n")


async def test_what_the_upstream_has_no_words_for_is_refused(tmp_path: Path) -> None:
    """501, with the parameter; nothing was sent."""
    async with claude(tmp_path) as (gateway, upstream):
        before = len(upstream.requests)
        answer = await ask(gateway.port, "POST", CHAT, chat("claude-plain", n=2))
        assert (answer.status, answer.error["code"], answer.error["param"]) == (501, "not_translatable", "n")
        assert answer.field("x-should-retry") == "false"
        answer = await ask(gateway.port, "POST", "/v1/embeddings", {"model": "claude-plain", "input": "x"})
        assert (answer.status, answer.error["code"]) == (501, "route_not_served")
        assert "claude" in answer.error["message"]
        assert "/v1/embeddings" in answer.error["message"]
        assert len(upstream.requests) == before


async def test_what_was_left_out_is_told(tmp_path: Path) -> None:
    """In a header field."""
    async with chatty(tmp_path) as (gateway, _):
        answer = await ask(
            gateway.port, "POST", RESPONSES, {**body_for(RESPONSES), "store": True, "metadata": {"a": "b"}}
        )
        assert {"store", "metadata"} <= set((answer.field("x-roundhouse-left-out") or "").split(", "))


@STREAMED
async def test_refusals_are_said_in_the_callers_words(tmp_path: Path, *, stream: bool) -> None:
    """Status and advice of the upstream, envelope of the caller's API."""
    refusal = {"error": {"message": "too much", "type": "rate_limit_error", "code": "slow_down"}}

    async def refuse(exchange: Exchange) -> None:
        await exchange.body()
        await exchange.answer(429, refusal, {"retry-after": "7"})

    async with chatty(tmp_path, 'routes = ["/v1/chat/completions"]') as (gateway, upstream):
        upstream.script(refuse)
        answer = await ask(gateway.port, "POST", MESSAGES, body_for(MESSAGES, stream=stream))
        assert (answer.status, answer.field("retry-after")) == (429, "7")
        assert answer.json() == {"type": "error", "error": refusal["error"]}


async def test_a_missing_model_is_no_missing_route(tmp_path: Path) -> None:
    """Its 404 passes; the route is asked for natively the next time, too."""
    missing = {"error": {"message": "The model 'm' does not exist", "code": "model_not_found"}}

    async def refuse(exchange: Exchange) -> None:
        await exchange.body()
        await exchange.answer(404, missing)

    async with chatty(tmp_path) as (gateway, upstream):
        upstream.script(refuse)
        for _ in range(2):
            answer = await ask(gateway.port, "POST", RESPONSES, body_for(RESPONSES))
            assert (answer.status, answer.json()) == (404, missing)
        assert [request.path for request in upstream.requests] == [RESPONSES] * 2


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
PIECE = b'data: {"id":"1","model":"m","choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}\n\n'


@pytest.mark.parametrize("path", [RESPONSES, MESSAGES, "/api/chat"])
async def test_a_stream_that_breaks_off_ends_with_an_error(tmp_path: Path, path: str) -> None:
    """After the first piece an event in the caller's words; no last word is invented. Before it a real 502."""
    async with chatty(tmp_path, 'routes = ["/v1/chat/completions"]') as (gateway, upstream):
        upstream.queue(HEAD, PIECE, CUT)
        answer = await ask(gateway.port, "POST", path, body_for(path, stream=True))
        assert answer.status == 200
        last = answer.body.strip().split(b"\n")[-1]
        assert b"error" in last
        assert b"broke off" in last or b"ended before" in last
        for word in (b"message_stop", b"response.completed", b'"done":true', b"[DONE]"):
            assert word not in answer.body
        upstream.queue(HEAD, CUT)
        answer = await ask(gateway.port, "POST", path, body_for(path, stream=True))
        assert answer.status == 502


@pytest.mark.parametrize("path", [RESPONSES, MESSAGES])
async def test_an_error_in_the_stream_is_the_upstreams(tmp_path: Path, path: str) -> None:
    """As the first thing said it is a refusal with its own status; later an event."""
    error = b'data: {"error":{"message":"out of memory","code":503}}\n\n'
    async with chatty(tmp_path, 'routes = ["/v1/chat/completions"]') as (gateway, upstream):
        upstream.queue(HEAD, error, CUT)
        answer = await ask(gateway.port, "POST", path, body_for(path, stream=True))
        assert (answer.status, answer.json()["error"]["message"]) == (503, "out of memory")
        gate = asyncio.Event()
        upstream.queue(HEAD, PIECE, gate, PIECE + error, CUT)
        async with Caller(gateway.port) as caller:
            await caller.ask("POST", path, json.dumps(body_for(path, stream=True)).encode())
            assert (await caller.head())[0] == 200
            first = await caller.piece()
            gate.set()
            body = first + await caller.rest()
        assert body.count(b'"a"') >= 2, "what came with the error was lost"
        assert b"event: error\n" in body
        assert b"out of memory" in body


@STREAMED
async def test_what_is_no_answer_is_a_broken_upstream(tmp_path: Path, *, stream: bool) -> None:
    """502, with who said it; the words themselves stay in the log."""
    async with chatty(tmp_path, 'routes = ["/v1/chat/completions"]') as (gateway, upstream):
        said = b'{"nonsense": 1}'
        if stream:
            upstream.queue(HEAD, b"data: [1,2,3]\n\n", CUT)
        else:
            upstream.queue(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 15\r\n\r\n" + said)
        answer = await ask(gateway.port, "POST", MESSAGES, body_for(MESSAGES, stream=stream))
        assert answer.status == 502
        assert (answer.json()["error"]["code"], answer.json()["error"]["source"]) == ("upstream_broke", "up")
        assert b"nonsense" not in answer.body


async def test_a_whole_answer_where_a_stream_was_asked_for_becomes_one(tmp_path: Path) -> None:
    """Some upstreams do not stream."""

    async def whole(exchange: Exchange) -> None:
        await exchange.body()
        choice = {"index": 0, "message": {"role": "assistant", "content": "w0 w1 w2"}, "finish_reason": "stop"}
        await exchange.answer(
            200, {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
        )

    async with chatty(tmp_path, 'routes = ["/v1/chat/completions"]') as (gateway, upstream):
        upstream.script(whole)
        answer = await ask(gateway.port, "POST", MESSAGES, body_for(MESSAGES, stream=True))
        assert text_of(MESSAGES, answer, stream=True).split() == WORDS
        assert b"message_stop" in answer.body


async def test_a_caller_that_leaves_frees_the_upstream(tmp_path: Path) -> None:
    """In the middle of a translated stream."""
    async with chatty(tmp_path, 'routes = ["/v1/chat/completions"]') as (gateway, upstream):
        upstream.events, upstream.interval_s = 100_000, 0.001
        async with Caller(gateway.port) as caller:
            await caller.ask("POST", MESSAGES, json.dumps(body_for(MESSAGES, stream=True)).encode())
            await caller.head()
            await caller.piece()
        await upstream.until(lambda: upstream.aborted == 1)


async def test_embeddings_for_ollamas_clients(tmp_path: Path) -> None:
    """Both of its routes; vectors are the upstream's."""

    async def embed(exchange: Exchange) -> None:
        asked = json.loads(await exchange.body())["input"]
        asked = [asked] if isinstance(asked, str) else asked
        data = [{"object": "embedding", "index": n, "embedding": [0.5, n]} for n in range(len(asked))]
        usage = {"prompt_tokens": 3, "total_tokens": 3}
        await exchange.answer(200, {"object": "list", "data": data, "model": "m", "usage": usage})

    async with chatty(tmp_path) as (gateway, upstream):
        upstream.script(embed)
        answer = await ask(gateway.port, "POST", "/api/embed", {"model": "m", "input": ["a", "b"]})
        assert answer.json()["embeddings"] == [[0.5, 0], [0.5, 1]]
        assert answer.json()["prompt_eval_count"] == 3
        answer = await ask(gateway.port, "POST", "/api/embeddings", {"model": "m", "prompt": "a"})
        assert answer.json()["embedding"] == [0.5, 0]
        assert [request.path for request in upstream.requests] == ["/v1/embeddings"] * 2


async def test_ollamas_clients_are_told_counts_and_times(tmp_path: Path) -> None:
    """Also in a stream that they did not even have to ask for; from them they reckon tokens per second."""
    async with chatty(tmp_path) as (gateway, upstream):
        body = {"model": "m", "messages": HI}
        answer = await ask(gateway.port, "POST", "/api/chat", body)
        last = json.loads(answer.body.splitlines()[-1])
        assert (last["done"], last["prompt_eval_count"], last["eval_count"]) == (True, 7, 3)
        assert last["total_duration"] >= last["eval_duration"] > 0
        assert upstream.requests[-1].json()["stream"] is True
        whole = (await ask(gateway.port, "POST", "/api/chat", {**body, "stream": False})).json()
        assert (whole["eval_count"], whole["total_duration"] > 0) == (3, True)


async def test_a_query_is_for_the_route_it_was_written_for(tmp_path: Path) -> None:
    """`?beta=true` means nothing to a chat completion."""
    async with chatty(tmp_path) as (gateway, upstream):
        await ask(gateway.port, "POST", f"{MESSAGES}?beta=true", body_for(MESSAGES))
        assert [request.path for request in upstream.requests] == [f"{MESSAGES}?beta=true", CHAT]


async def test_a_route_without_a_relative_is_refused_by_us(tmp_path: Path) -> None:
    """The upstream's own "not found" would leave the caller guessing; another target that has it is asked."""
    async with FakeUpstream() as other:
        more = f"""
        [providers.all]
        kind = "openai"
        base_url = "{other.base_url}"
        models = ["m2"]
        [models.both]
        targets = ["up/m", "all/m2"]
        """
        other.script(only("/v1/moderations"))
        async with chatty(tmp_path, more) as (gateway, upstream):
            for _ in range(2):
                answer = await ask(gateway.port, "POST", "/v1/moderations", {"model": "up/m", "input": "x"})
                assert (answer.status, answer.error["code"]) == (501, "route_not_served")
                assert "/v1/moderations" in answer.error["message"]
            assert len(upstream.requests) == 1
            await ask(gateway.port, "POST", "/v1/rerank", {"model": "both", "query": "x"})
            answer = await ask(gateway.port, "POST", "/v1/moderations", {"model": "both", "input": "x"})
            assert [request.path for request in other.requests] == ["/v1/rerank", "/v1/moderations"]
