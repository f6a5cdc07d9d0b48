"""Which failures of one target move a request on to the next, which do not, and what each provider's door lets through."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.proxy.guard import MOVE_ON
from tests.fakes.running import CHAT, Answer, Caller, Running, ask, chat, running
from tests.fakes.upstream import CUT, HOLD, FakeUpstream

STREAMED = pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])


@asynccontextmanager
async def two(
    folder: Path, *, first: str = "", second: str = ""
) -> AsyncGenerator[tuple[Running, FakeUpstream, FakeUpstream]]:
    """A gateway whose model `m` is at one upstream, else at the other; `only` is at the first alone."""
    async with FakeUpstream() as one, FakeUpstream() as other:
        toml = f"""
        [server]
        port = 0
        [providers.one]
        kind = "openai"
        base_url = "{one.base_url}"
        models = ["m", "n"]
        {first}
        [providers.other]
        kind = "openai"
        base_url = "{other.base_url}"
        models = ["m2"]
        {second}
        [models.m]
        targets = ["one/m", "other/m2"]
        [models.only]
        targets = ["one/m"]
        """
        async with running(folder, toml) as gateway:
            yield gateway, one, other


def refusal(status: int, fields: str = "", body: bytes = b'{"error":{"message":"no"}}') -> bytes:
    """An error as an upstream sends it."""
    head = f"HTTP/1.1 {status} No\r\ncontent-type: application/json\r\n{fields}content-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def event_stream(*events: bytes) -> bytes:
    """A whole stream, ended by closing."""
    return b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n" + b"".join(events)


async def send(gateway: Running, *, stream: bool = False, model: str = "m") -> Answer:
    return await ask(gateway.port, "POST", CHAT, chat(model, stream=stream))


def forgive(gateway: Running) -> None:
    """What was done wrong before does not count."""
    for upstream in gateway.parts.upstreams.values():
        if upstream.guard is not None:
            upstream.guard.health.forgive()


@STREAMED
async def test_refusal_that_another_may_mend_moves_on(tmp_path: Path, *, stream: bool) -> None:
    """Nothing was done there, and nothing was said to the caller: the next target answers, under its own name."""
    async with two(tmp_path) as (gateway, one, other):
        for count, status in enumerate(sorted(MOVE_ON), 1):
            forgive(gateway)
            one.queue(refusal(status))
            answer = await send(gateway, stream=stream)
            assert answer.status == 200, status
            assert (len(one.requests), len(other.requests)) == (count, count), status
            assert other.requests[-1].json()["model"] == "m2"


async def test_refusal_of_the_request_itself_is_the_answer(tmp_path: Path) -> None:
    """It would be refused elsewhere, too."""
    async with two(tmp_path) as (gateway, one, other):
        for status in (400, 413, 415, 422):
            one.queue(refusal(status))
            answer = await send(gateway)
            assert (answer.status, answer.body) == (status, b'{"error":{"message":"no"}}')
        assert other.requests == []


async def test_last_refusal_passes_unchanged(tmp_path: Path) -> None:
    """When all refuse, the caller gets the last one's own words."""
    async with two(tmp_path) as (gateway, one, other):
        one.queue(refusal(500))
        other.queue(refusal(429, "retry-after: 7\r\n", b'{"error":{"message":"too many","mine":1}}'))
        answer = await send(gateway)
        assert (answer.status, answer.field("retry-after")) == (429, "7")
        assert answer.body == b'{"error":{"message":"too many","mine":1}}'


@STREAMED
async def test_silence_is_not_repeated_elsewhere(tmp_path: Path, *, stream: bool) -> None:
    """It may be at work, at a price: 504, and the other one is not asked."""
    async with two(tmp_path, first="first_byte_s = 0.2") as (gateway, one, other):
        one.queue(HOLD)
        answer = await send(gateway, stream=stream)
        assert (answer.status, answer.error["code"]) == (504, "upstream_timeout")
        assert other.requests == []


async def test_broken_answer_is_not_repeated_elsewhere(tmp_path: Path) -> None:
    """It had begun: 502."""
    async with two(tmp_path) as (gateway, one, other):
        one.queue(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{", CUT)
        answer = await send(gateway)
        assert (answer.status, answer.error["code"]) == (502, "upstream_broke")
        assert other.requests == []


@STREAMED
async def test_web_page_is_no_answer(tmp_path: Path, *, stream: bool) -> None:
    """A captive portal's 200: the next target answers; where there is none, the caller is told what came."""
    page = b"<!doctype html><title>Sign in</title>"
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/html; charset=utf-8\r\ncontent-length: %d\r\n\r\n" % len(page)
    async with two(tmp_path) as (gateway, one, other):
        one.queue(head + page)
        assert (await send(gateway, stream=stream)).status == 200
        assert len(other.requests) == 1
        one.queue(head + page)
        answer = await send(gateway, stream=stream, model="only")
        assert (answer.status, answer.error["code"]) == (502, "upstream_refused")
        assert "web page" in answer.error["message"]


# ---------------------------------------------------------------- errors inside of a stream


IN_STREAM = b'data: {"id":"1","error":{"code":429,"message":"rate limited upstream"},"choices":[]}\n\n'


async def test_stream_that_begins_with_an_error_moves_on(tmp_path: Path) -> None:
    """It had sent its 200 before it failed; the caller has seen nothing of it."""
    async with two(tmp_path) as (gateway, one, other):
        one.queue(event_stream(b": OPENROUTER PROCESSING\n\n" + IN_STREAM), CUT)
        answer = await send(gateway, stream=True)
        assert answer.status == 200
        assert answer.events()[-1] == "[DONE]"
        assert len(other.requests) == 1


async def test_stream_that_begins_with_an_error_is_a_real_error(tmp_path: Path) -> None:
    """With the status it names, and its own words."""
    async with two(tmp_path) as (gateway, one, _):
        one.queue(event_stream(IN_STREAM), CUT)
        answer = await send(gateway, stream=True, model="only")
        assert answer.status == 429
        assert answer.json()["error"] == {"code": 429, "message": "rate limited upstream"}


async def test_error_after_the_first_event_is_handed_on(tmp_path: Path) -> None:
    """Once a byte was said no other target is asked, and nothing is put after the upstream's own error."""
    async with two(tmp_path) as (gateway, one, other):
        one.queue(event_stream(b'data: {"choices":[]}\n\n', b'data: {"error":{"code":500,"message":"oh"}}\n\n'), CUT)
        answer = await send(gateway, stream=True)
        assert answer.status == 200
        assert json.loads(answer.events()[-1]) == {"error": {"code": 500, "message": "oh"}}
        assert other.requests == []


# ---------------------------------------------------------------- who is asked to wait, and who rests


async def test_retry_after_is_obeyed(tmp_path: Path) -> None:
    """For so long the target is passed over; where there is no other, it is said at once when it will be asked again."""
    async with two(tmp_path) as (gateway, one, other):
        one.queue(refusal(429, "retry-after: 30\r\n"))
        await send(gateway)
        await send(gateway)
        assert (len(one.requests), len(other.requests)) == (1, 2)
        answer = await send(gateway, model="only")
        assert (answer.status, answer.error["code"]) == (503, "upstream_cooling_down")
        assert 28 <= int(answer.field("retry-after") or 0) <= 30
        assert len(one.requests) == 1


async def test_retry_after_concerns_one_target_only(tmp_path: Path) -> None:
    """The provider's other models are asked as before."""
    async with two(tmp_path) as (gateway, one, _):
        one.queue(refusal(429, "retry-after: 30\r\n"))
        await send(gateway, model="only")
        assert (await send(gateway, model="one/n")).status == 200


async def test_provider_that_fails_in_a_row_rests_and_comes_back_by_itself(tmp_path: Path, dead_port: int) -> None:
    """After three failures it is not asked for a second; the answer says so at once. Then one request tries, and it is back."""
    async with two(tmp_path) as (gateway, one, _):
        for _ in range(3):
            one.queue(refusal(503))
            assert (await send(gateway, model="only")).status == 503
        asked = len(one.requests)
        answer = await send(gateway, model="only")
        assert (answer.status, answer.error["code"]) == (503, "upstream_cooling_down")
        assert answer.field("retry-after") in ("1", "2")
        assert "status 503" in answer.error["message"]
        assert len(one.requests) == asked
        guard = gateway.parts.upstreams["one"].guard
        assert guard is not None
        await gateway.until(lambda: guard.resting_s("one/m") == 0.0)
        assert (await send(gateway, model="only")).status == 200
        assert (await send(gateway, model="only")).status == 200


async def test_caller_that_leaves_says_nothing_about_the_provider(tmp_path: Path) -> None:
    """However many leave, it is asked as before."""
    async with two(tmp_path) as (gateway, one, _):
        for _ in range(5):
            one.queue(asyncio.Event())
            before = one.aborted
            async with Caller(gateway.port) as caller:
                await caller.ask("POST", CHAT, chat("only"))
                await one.until(lambda: one.in_flight == 1)
                caller.leave()
                await one.until(lambda before=before: one.aborted == before + 1)
        assert (await send(gateway, model="only")).status == 200


# ---------------------------------------------------------------- places


async def test_no_more_requests_at_once_than_max_concurrent(tmp_path: Path) -> None:
    """The others wait in order, and one that leaves frees its place in the queue."""
    async with two(tmp_path, first="max_concurrent = 2") as (gateway, one, _):
        gates = [asyncio.Event() for _ in range(2)]
        for gate in gates:
            one.queue(gate, refusal(200, body=b"{}"))
        guard = gateway.parts.upstreams["one"].guard
        assert guard is not None
        first = [asyncio.ensure_future(send(gateway, model="only")) for _ in range(2)]
        await one.until(lambda: one.in_flight == 2)
        async with Caller(gateway.port) as caller:
            await caller.ask("POST", CHAT, chat("only"))
            await gateway.until(lambda: guard.waiting == 1)
            third = asyncio.ensure_future(send(gateway, model="only"))
            await gateway.until(lambda: guard.waiting == 2)
            caller.leave()
            await gateway.until(lambda: guard.waiting == 1)
        assert len(one.requests) == 2
        for gate in gates:
            gate.set()
        assert [answer.status for answer in await asyncio.gather(*first, third)] == [200, 200, 200]
        assert len(one.requests) == 3
        assert guard.waiting == 0


async def test_place_is_waited_for_as_long_as_queue_s(tmp_path: Path) -> None:
    """Then the next target, else 503."""
    async with two(tmp_path, first="max_concurrent = 1\nqueue_s = 0.1") as (gateway, one, other):
        gate = asyncio.Event()
        one.queue(gate, refusal(200, body=b"{}"))
        holding = asyncio.ensure_future(send(gateway, model="only"))
        await one.until(lambda: one.in_flight == 1)
        answer = await send(gateway, model="only")
        assert (answer.status, answer.error["code"]) == (503, "upstream_busy")
        assert answer.field("retry-after") == "1"
        assert (await send(gateway)).status == 200
        assert len(other.requests) == 1
        gate.set()
        assert (await holding).status == 200


@STREAMED
async def test_whole_answer_may_take_as_long_as_total_s(tmp_path: Path, *, stream: bool) -> None:
    """Pieces that keep coming do not prolong it: 504, or an error in a stream that has begun."""
    async with two(tmp_path, first="total_s = 0.3") as (gateway, one, other):
        if stream:
            one.queue(event_stream(b'data: {"choices":[]}\n\n'), HOLD)
        else:
            one.queue(HOLD)
        answer = await send(gateway, stream=stream)
        if stream:
            assert json.loads(answer.events()[-1])["error"]["code"] == "upstream_timeout"
        else:
            assert (answer.status, answer.error["code"]) == (504, "upstream_timeout")
            assert "total_s" in answer.error["message"]
        assert other.requests == []
        await one.until(lambda: one.in_flight == 0)
