"""Upstreams and callers at their worst, once more: what a translation meets."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from tests.api.test_hostile import CHAT_ONLY, HEAD, HI, MESSAGES, PIECE, messages
from tests.api.upstreams import one
from tests.fakes.running import Caller, ask
from tests.fakes.upstream import CUT


async def test_half_an_event_at_the_end_is_an_error_once(tmp_path: Path) -> None:
    """Translated."""
    async with one(tmp_path, CHAT_ONLY) as (gateway, upstream):
        for start, status in ((PIECE, 200), (b"", 502)):
            upstream.queue(HEAD, start + b'data: {"id"', CUT)
            answer = await ask(gateway.port, "POST", MESSAGES, messages(stream=True))
            assert answer.status == status
            assert answer.body.count(b'"type":"error"') == 1, answer.body


async def test_an_answer_in_events_where_none_were_asked_for(tmp_path: Path) -> None:
    """The caller wanted one JSON object."""
    last = b'data: {"id":"1","model":"m","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
    async with one(tmp_path, CHAT_ONLY) as (gateway, upstream):
        upstream.queue(HEAD, PIECE + last, CUT)
        answer = await ask(gateway.port, "POST", MESSAGES, messages(stream=False))
        assert answer.status == 502 or answer.json()["content"], answer.body


async def test_others_are_served_while_a_large_body_is_translated(tmp_path: Path) -> None:
    """In a thread of its own: the loop is held up by its longest single step only, not by all of it."""
    async with one(tmp_path, CHAT_ONLY) as (gateway, upstream):
        turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}] * 200_000
        big = json.dumps({"model": "m", "max_tokens": 5, "messages": turns}).encode()
        async with Caller(gateway.port) as caller:
            await caller.ask("POST", MESSAGES, big)
            loop = asyncio.get_running_loop()
            worst, begun_s = 0.0, loop.time()
            before = begun_s
            while not upstream.in_flight and not upstream.requests:
                await asyncio.sleep(0.005)
                worst, before = max(worst, loop.time() - before), loop.time()
        assert worst < (before - begun_s) / 2, (worst, before - begun_s)


KEYED = [
    "/api/chat",
    "//api/chat",
    "/api/chat/",
    "/api//chat",
    "/%61pi/chat",
    "/api%2fchat",
    "/v1/../api/chat",
    "/API/chat",
    "/responses",
    "/v1/responses",
    "/messages",
    "/messages/count_tokens",
    "/chat/completions",
    "/completions",
    "/embeddings",
    "/rerank",
    "/v2/rerank",
    "/audio/transcriptions",
    "/v1/audio/transcriptions",
    "/audio/speech",
    "/images/edits",
    "/images/generations",
    "/moderations",
    "/tokenize",
    "/detokenize",
    "/v1/tokenize",
    "/api/generate",
    "/api/embed",
    "/api/embeddings",
    "/api/show",
    "/api/pull",
    "/api/create",
    "/api/copy",
    "/api/push",
    "/api/blobs/sha256:1",
    "/;/api/show",
    "/api/chat;x",
    "/api/tags",
    "/metrics/../api/tags",
    "/health/live/../../api/tags",
]


async def test_every_new_path_needs_a_key(tmp_path: Path) -> None:
    """However it is written."""
    async with one(tmp_path, before='[server]\napi_keys = ["sk-good-key"]') as (gateway, upstream):
        for path in KEYED:
            for method in ("POST", "GET"):
                if path in ("/api/tags",) and method == "POST":
                    continue
                answer = await ask(
                    gateway.port, method, path, {"model": "m", "messages": HI, "input": "x", "prompt": "x"}
                )
                assert answer.status in (401, 405), (method, path, answer.status, answer.body)
                if answer.status == 405:
                    assert b'"models"' not in answer.body
        for path in ("/api/tags", "/api/ps", "/api/version"):
            assert (await ask(gateway.port, "GET", path)).status == 401
        assert not [r for r in upstream.requests if r.method == "POST"]
        routes = {
            line.partition('route="')[2].partition('"')[0]
            for line in gateway.parts.metrics.text().decode().splitlines()
            if "roundhouse_requests_total{" in line
        }
        assert all(route in KEYED for route in routes), routes
