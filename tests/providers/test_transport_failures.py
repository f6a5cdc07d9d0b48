"""Upstreams that misbehave, and the limits of time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any

import pytest

from providers.errors import UpstreamBroke, UpstreamTimeout
from tests.fakes.upstream import CUT, HOLD, RESET, Exchange
from tests.providers.wire import CHUNKED, MIB, OK, SHORT, Flood, chunk, collect, connected, fetch, nowhere, request

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])


# --- upstreams that misbehave


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x15\x03\x01\x00\x02\x02\x46",
        b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
        OK + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        OK + b"X-Long: " + b"a" * 70_000 + b"\r\nContent-Length: 2\r\n\r\nhi",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 3000,
    ],
)
async def test_send_raises_broke_when_the_answer_is_no_usable_http(answer: bytes) -> None:
    """Garbage, a protocol switch, two framings, a head too large: one clear error, and the connection is gone."""
    async with connected() as it:
        it.upstream.queue(answer, HOLD)
        with pytest.raises(UpstreamBroke) as caught:
            await it.endpoint.send(request())
        assert caught.value.source == "fake"
        assert not caught.value.nothing_received
        await it.settled()
        assert (it.endpoint.idle, it.upstream.open_connections) == (0, 0)


@pytest.mark.parametrize("start", [OK, CHUNKED + b"0\r\n"])
async def test_header_fields_without_end_are_refused_when_they_pass_the_limit(start: bytes) -> None:
    """In the head and in the trailers."""

    async def endless(exchange: Exchange) -> None:
        await exchange.body()
        await exchange.write(start)
        while True:
            await exchange.write(b"x-a: " + b"a" * 1000 + b"\r\n")
            await asyncio.sleep(0)

    async with connected() as it:
        it.upstream.script(endless)
        with pytest.raises(UpstreamBroke, match="header fields"):
            await fetch(it.endpoint)
        await it.upstream.until(lambda: it.upstream.aborted == 1)


@pytest.mark.parametrize(
    ("first", "rest"),
    [
        (OK + b"Content-Length: 10\r\n\r\nabc", (CUT,)),
        (OK + b"Content-Length: 10\r\n\r\nabc", (RESET,)),
        (CHUNKED + chunk(b"abc"), (CUT,)),
        (CHUNKED + b"5\r\nabc", (CUT,)),
        (CHUNKED + chunk(b"abc"), (b"zz\r\n", HOLD)),
    ],
)
async def test_body_is_broken_when_it_ends_early(first: bytes, rest: Sequence[Any]) -> None:
    """`read` and `pump` both say so, again when asked again."""
    async with connected() as it:
        for pumped in (False, True):
            gate = asyncio.Event()
            it.upstream.queue(first, gate, *rest)
            response = await it.endpoint.send(request())
            gate.set()
            with pytest.raises(UpstreamBroke):
                await (response.pump(nowhere) if pumped else response.read(100))
            with pytest.raises(UpstreamBroke):
                await response.read(100)
            assert response.whole() is None
            response.close()
            assert it.endpoint.idle == 0


async def test_read_refuses_a_body_when_it_is_larger_than_allowed() -> None:
    """Whether it is already there or still comes; the upstream is cut at once."""
    gate = asyncio.Event()
    async with connected() as it:
        it.upstream.queue(SHORT)
        with pytest.raises(UpstreamBroke, match="more than 4 bytes"):
            await fetch(it.endpoint, max_bytes=4)
        it.upstream.queue(OK + b"Content-Length: 100\r\n\r\nabc", gate, b"def", HOLD)
        response = await it.endpoint.send(request())
        gate.set()
        with pytest.raises(UpstreamBroke, match="more than 4 bytes"):
            await response.read(4)
        await it.upstream.until(lambda: it.upstream.aborted == 1)
        response.close()


@pytest.mark.parametrize("surplus", [b"x", b"HTTP/1.1 2", OK + b"Content-Length: 4\r\n\r\nevil", b"\0\0"])
async def test_answer_stays_as_it_is_when_bytes_follow_it(surplus: bytes) -> None:
    """What belongs to no request is dropped and the connection not used again."""
    gate = asyncio.Event()
    async with connected() as it:
        it.upstream.queue(SHORT + surplus)
        assert await fetch(it.endpoint) == b"hello"
        assert it.endpoint.idle == 0
        await it.works()
        it.upstream.queue(SHORT, gate, surplus)
        response = await it.endpoint.send(request())
        gate.set()
        await it.upstream.until(lambda: it.upstream.in_flight == 0 and it.upstream.open_connections == 0)
        assert await response.read(10) == b"hello"
        response.close()
        assert it.endpoint.idle == 0


async def test_kept_connection_is_dropped_when_the_upstream_speaks_unasked() -> None:
    """A byte on an idle connection could be taken for the next request's answer."""
    gate = asyncio.Event()
    async with connected() as it:
        it.upstream.queue(SHORT, gate, SHORT)
        assert await fetch(it.endpoint) == b"hello"
        assert it.endpoint.idle == 1
        gate.set()
        await it.upstream.until(lambda: it.endpoint.idle == 0)
        await it.works()


async def test_early_answer_counts_when_the_upload_is_not_done() -> None:
    """A 413 before the body was read is the answer; the connection with the rest of the body is not used again."""
    gate = asyncio.Event()

    async def refuse(exchange: Exchange) -> None:
        exchange.pause_reading()
        await exchange.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
        await gate.wait()

    async with connected() as it:
        it.upstream.queue_handler(refuse)
        response = await it.endpoint.send(request(bytes(32 * MIB)))
        assert (response.status, await response.read(10)) == (413, b"no")
        response.close()
        assert it.endpoint.idle == 0
        gate.set()
        await it.works()


async def test_early_answer_ends_with_the_connection_when_the_upload_is_not_done() -> None:
    """The end of the upstream's side is seen although ours still has bytes to write."""

    async def refuse(exchange: Exchange) -> None:
        exchange.pause_reading()
        await exchange.write(b"HTTP/1.1 413 Too Large\r\n\r\nno")
        exchange.connection.transport.write_eof()
        await asyncio.Event().wait()

    async with connected() as it:
        it.upstream.queue_handler(refuse)
        response = await it.endpoint.send(request(bytes(32 * MIB), idle_s=2.0))
        assert (response.status, await response.read(10)) == (413, b"no")
        response.close()
        assert (it.endpoint.in_flight, it.endpoint.idle) == (0, 0)


async def test_upload_arrives_whole_when_the_upstream_reads_slowly() -> None:
    """5 MB, taken in steps."""
    body = random.Random(5).randbytes(5 * MIB)

    async def slow(exchange: Exchange) -> None:
        while not exchange.received.is_set():
            exchange.pause_reading()
            await asyncio.sleep(0)
            exchange.resume_reading()
            for _ in range(2):
                await asyncio.sleep(0)
        await exchange.write(SHORT)

    async with connected() as it:
        it.upstream.queue_handler(slow)
        assert await fetch(it.endpoint, request(body)) == b"hello"
        assert it.upstream.requests[0].body == body
        assert it.endpoint.idle == 1


# --- limits of time


async def test_send_times_out_when_no_head_comes() -> None:
    """`first_byte_s` is for the head; part of one does not count."""
    async with connected() as it:
        it.upstream.queue(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200", HOLD)
        with pytest.raises(UpstreamTimeout, match="did not answer"):
            await it.endpoint.send(request(first_byte_s=0.05))
        await it.upstream.until(lambda: it.upstream.aborted == 1)
        assert (it.endpoint.in_flight, it.endpoint.idle) == (0, 0)


@pytest.mark.parametrize("pumped", [False, True])
async def test_body_times_out_when_nothing_more_comes(pumped: bool) -> None:
    """`idle_s` after the last byte."""
    async with connected() as it:
        it.upstream.queue(CHUNKED + chunk(b"a"), HOLD)
        response = await it.endpoint.send(request(idle_s=0.05))
        with pytest.raises(UpstreamTimeout, match="nothing more"):
            await (response.pump(nowhere) if pumped else response.read(100))
        await it.upstream.until(lambda: it.upstream.aborted == 1)
        response.close()


async def test_limit_for_the_head_is_over_when_the_head_is_in() -> None:
    """`first_byte_s` does not cut an answer whose body takes longer."""
    gate = asyncio.Event()
    async with connected() as it:
        it.upstream.queue(OK + b"content-length: 2\r\n\r\n", gate, b"hi")
        response = await it.endpoint.send(request(first_byte_s=0.05, idle_s=None))
        asyncio.get_running_loop().call_later(0.2, gate.set)
        assert await response.read(2) == b"hi"
        response.close()


async def test_body_does_not_time_out_when_bytes_keep_coming() -> None:
    """The limit is between two pieces, not for the whole; and one request's limits do not outlive it."""
    async with connected() as it:
        it.upstream.events, it.upstream.interval_s = 8, 0.1
        asked = request(b'{"stream":true}', path=b"/v1/chat/completions", first_byte_s=0.6, idle_s=0.6)
        assert b"".join(await collect(it.endpoint, asked)).endswith(b"[DONE]\n\n")
        assert it.endpoint.idle == 1


async def test_slow_client_is_no_timeout_when_the_upstream_would_send() -> None:
    """While reading is paused for the client, the upstream's silence is our doing."""
    gate = asyncio.Event()

    async def sink(piece: bytes) -> None:
        await gate.wait()

    flood = Flood()
    async with connected() as it:
        it.upstream.script(flood)
        response = await it.endpoint.send(request(idle_s=0.1))
        asyncio.get_running_loop().call_later(0.3, gate.set)
        await response.pump(sink)
        response.close()
        assert flood.written_bytes == flood.total_bytes
