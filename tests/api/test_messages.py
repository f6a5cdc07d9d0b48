"""Anthropic's messages, passed through: to a provider of that kind, and to anybody who speaks it; errors in that API's form."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.fakes.anthropic import FakeAnthropic
from tests.fakes.running import CHAT, Running, ask, chat, running
from tests.fakes.upstream import CUT, FakeUpstream

MESSAGES = "/v1/messages"
EMBEDDINGS = "/v1/embeddings"
STREAMED = pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])


@asynccontextmanager
async def claude(folder: Path, server: str = "") -> AsyncGenerator[tuple[Running, FakeAnthropic]]:
    """A gateway with an Anthropic behind it."""
    async with FakeAnthropic() as upstream:
        toml = f"""
        [server]
        {server}
        [providers.claude]
        kind = "anthropic"
        base_url = "{upstream.base_url}"
        api_key = "{upstream.key}"
        """
        async with running(folder, toml) as gateway:
            yield gateway, upstream


def body(model: str, *, stream: bool = False, **more: object) -> dict[str, object]:
    return {
        "model": model,
        "max_tokens": 16,
        "messages": [{"role": "user", "content": "hi"}],
        "stream": stream,
        **more,
    }


async def test_model_list_has_its_models(tmp_path: Path) -> None:
    """Under the provider's name, with what is said of them."""
    async with claude(tmp_path) as (gateway, _):
        listed = (await ask(gateway.port, "GET", "/v1/models")).json()["data"]
        assert [model["id"] for model in listed] == ["claude/claude-seeing", "claude/claude-plain"]
        assert "vision" in listed[0]["roundhouse"]["capabilities"]


@STREAMED
async def test_message_passes_through(tmp_path: Path, *, stream: bool) -> None:
    """By the bare name and by the provider's; a stream of that API ends without `[DONE]`, and that is no error."""
    async with claude(tmp_path) as (gateway, upstream):
        for name in ("claude-plain", "claude/claude-plain"):
            answer = await ask(gateway.port, "POST", MESSAGES, body(name, stream=stream))
            assert answer.status == 200
            if stream:
                assert answer.body.endswith(b'data: {"type": "message_stop"}\n\n')
                assert b"upstream_broke" not in answer.body
            else:
                assert answer.json()["type"] == "message"
            assert upstream.requests[-1].json()["model"] == "claude-plain"


async def test_query_and_version_of_the_caller_pass(tmp_path: Path) -> None:
    """Coding agents send `?beta=true` and header fields of that API; the caller's key goes nowhere."""
    async with claude(tmp_path, 'api_keys = ["ours"]') as (gateway, upstream):
        fields = [("x-api-key", "ours"), ("anthropic-version", "2023-01-01"), ("anthropic-beta", "tools-1")]
        answer = await ask(gateway.port, "POST", f"{MESSAGES}?beta=true", body("claude-plain"), fields)
        assert answer.status == 200
        seen = upstream.requests[-1]
        assert seen.path == "/v1/messages?beta=true"
        assert (seen.header("anthropic-version"), seen.header("anthropic-beta")) == ("2023-01-01", "tools-1")
        assert seen.header("x-api-key") == upstream.key


async def test_tokens_are_counted_there(tmp_path: Path) -> None:
    """The other route of the same API."""
    async with claude(tmp_path) as (gateway, _):
        answer = await ask(gateway.port, "POST", f"{MESSAGES}/count_tokens", body("claude-plain"))
        assert (answer.status, answer.json()) == (200, {"input_tokens": 7})


async def test_what_cannot_be_translated_is_refused_with_what_is_served(tmp_path: Path) -> None:
    """501: the model is there, the route is not; SDKs are told not to repeat it."""
    async with claude(tmp_path) as (gateway, upstream):
        asked = len(upstream.requests)
        answer = await ask(gateway.port, "POST", EMBEDDINGS, {"model": "claude-plain", "input": "x"})
        assert (answer.status, answer.error["code"]) == (501, "route_not_served")
        assert "claude" in answer.error["message"]
        assert EMBEDDINGS in answer.error["message"]
        assert answer.field("x-should-retry") == "false"
        assert len(upstream.requests) == asked


async def test_route_goes_to_the_target_that_serves_it(tmp_path: Path) -> None:
    """Of a route over several, those that do not are passed over; those that can be translated for keep their place."""
    async with FakeAnthropic() as upstream, FakeUpstream(model="m") as other:
        toml = f"""
        [providers.claude]
        kind = "anthropic"
        base_url = "{upstream.base_url}"
        api_key = "{upstream.key}"
        [providers.up]
        kind = "openai"
        base_url = "{other.base_url}"
        models = ["m"]
        [models.both]
        targets = ["claude/claude-plain", "up/m"]
        """
        async with running(tmp_path, toml) as gateway:
            await ask(gateway.port, "POST", EMBEDDINGS, {"model": "both", "input": "x"})
            assert [request.path for request in other.requests] == [EMBEDDINGS]
            assert (await ask(gateway.port, "POST", CHAT, chat("both"))).json()["object"] == "chat.completion"
            assert (await ask(gateway.port, "POST", MESSAGES, body("both"))).json()["type"] == "message"
            assert [request.path for request in upstream.requests[-2:]] == [MESSAGES] * 2


@STREAMED
async def test_errors_have_that_apis_form(tmp_path: Path, *, stream: bool) -> None:
    """`type: error` beside the error, whether it is ours or the upstream's own."""
    async with claude(tmp_path) as (gateway, upstream):
        ours = await ask(gateway.port, "POST", MESSAGES, body("nobody", stream=stream))
        assert (ours.status, ours.json()["type"], ours.json()["error"]["code"]) == (404, "error", "model_not_found")
        theirs = await ask(gateway.port, "POST", MESSAGES, {"model": "claude-plain", "stream": stream})
        assert (theirs.status, theirs.json()["type"]) == (400, "error")
        assert upstream.requests[-1].path == MESSAGES


async def test_stream_that_breaks_off_ends_with_that_apis_error_event(tmp_path: Path) -> None:
    """Named, as its clients want it."""
    async with claude(tmp_path) as (gateway, upstream):
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
        upstream.queue(head + b'event: ping\ndata: {"type": "ping"}\n\n', CUT)
        answer = await ask(gateway.port, "POST", MESSAGES, body("claude-plain", stream=True))
        assert answer.status == 200
        name, data = answer.body.split(b"\n\n")[-2].split(b"\n")
        assert name == b"event: error"
        error = json.loads(data.removeprefix(b"data: "))
        assert (error["type"], error["error"]["code"]) == ("error", "upstream_broke")
