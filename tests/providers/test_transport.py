"""The data path's client against a real upstream on the loopback, on both event loops."""

from __future__ import annotations

import asyncio
import hashlib
import random
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from providers.contract import Request
from providers.errors import ProviderError, UpstreamBroke, UpstreamTimeout, UpstreamUnreachable
from providers.transport import Endpoint
from tests.fakes.upstream import CUT, HOLD, RESET, Exchange, FakeUpstream

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])

OK = b"HTTP/1.1 200 OK\r\n"
SHORT = OK + b"content-length: 5\r\n\r\nhello"
MIB = 1 << 20
# One read event's worth and the few bytes at which an unread answer stops reading.
UNREAD_MAX_BYTES = 256 * 1024 + 4 * 1024


def request(
    body: bytes = b"{}",
    *,
    method: bytes = b"POST",
    path: bytes = b"/v1/x",
    headers: Sequence[tuple[bytes, bytes]] = ((b"content-type", b"application/json"),),
    first_byte_s: float | None = 10.0,
    idle_s: float | None = 10.0,
) -> Request:
    return Request(method=method, path=path, headers=headers, body=body, first_byte_s=first_byte_s, idle_s=idle_s)


class Setup:
    """An upstream and an endpoint to it."""

    def __init__(self, upstream: FakeUpstream, endpoint: Endpoint) -> None:
        self.upstream = upstream
        self.endpoint = endpoint

    async def settled(self) -> None:
        """Nothing is in flight on either side."""
        await self.upstream.until(lambda: self.endpoint.in_flight == 0 and self.upstream.in_flight == 0)

    async def works(self) -> None:
        """A plain request is served as ever."""
        self.upstream.queue(SHORT)
        assert await fetch(self.endpoint) == b"hello"


@asynccontextmanager
async def connected(**options: Any) -> AsyncIterator[Setup]:
    async with FakeUpstream() as upstream:
        endpoint = Endpoint(upstream.base_url, source="fake", **options)
        try:
            yield Setup(upstream, endpoint)
        finally:
            await endpoint.aclose()
            assert endpoint.in_flight == 0
            assert endpoint.idle == 0


async def fetch(endpoint: Endpoint, asked: Request | None = None, max_bytes: int = 16 * MIB) -> bytes:
    response = await endpoint.send(asked or request())
    try:
        return await response.read(max_bytes)
    finally:
        response.close()


async def collect(endpoint: Endpoint, asked: Request | None = None) -> list[bytes]:
    pieces: list[bytes] = []

    async def sink(piece: bytes) -> None:
        pieces.append(piece)

    response = await endpoint.send(asked or request())
    try:
        await response.pump(sink)
    finally:
        response.close()
    return pieces


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


# --- the plain way


async def test_send_gives_the_whole_body_at_once_when_it_came_with_the_head() -> None:
    """An answer in one segment needs no further wait, and its connection serves the next request."""
    async with connected() as it:
        for _ in range(3):
            it.upstream.queue(SHORT)
            response = await it.endpoint.send(request())
            assert (response.status, response.whole(), response.whole()) == (200, b"hello", b"hello")
            assert await response.read(5) == b"hello"
            assert it.endpoint.in_flight == 1
            response.close()
            assert (it.endpoint.in_flight, it.endpoint.idle) == (0, 1)
        assert it.upstream.connections == 1


async def test_send_returns_at_the_head_when_the_body_is_still_to_come() -> None:
    """`whole` is None until the last byte is in; `read` waits for it."""
    gate = asyncio.Event()
    async with connected() as it:
        it.upstream.queue(OK + b"content-length: 10\r\n\r\n", gate, b"01234", b"56789")
        response = await it.endpoint.send(request())
        assert response.whole() is None
        gate.set()
        assert await response.read(10) == b"0123456789"
        assert response.whole() == b"0123456789"
        response.close()


async def test_request_goes_out_with_its_own_host_and_length_when_the_caller_sends_others() -> None:
    """Base path, configured headers and framing are the endpoint's; everything else is the caller's, unchanged."""
    async with FakeUpstream() as upstream:
        endpoint = Endpoint(upstream.base_url + "/api/", source="fake", headers=[(b"Authorization", b"Bearer s3cret")])
        headers = [
            (b"host", b"elsewhere"),
            (b"content-length", b"999"),
            (b"transfer-encoding", b"chunked"),
            (b"authorization", b"Bearer caller"),
            (b"x-a", b"1"),
            (b"x-a", b"2"),
        ]
        upstream.queue(SHORT)
        await fetch(endpoint, request(b"body", path=b"/v1/messages?beta=true", headers=headers))
        await endpoint.aclose()
        recorded = upstream.requests[0]
        assert (recorded.method, recorded.path, recorded.body) == ("POST", "/api/v1/messages?beta=true", b"body")
        assert recorded.headers == [
            ("host", f"127.0.0.1:{upstream.port}"),
            ("authorization", "Bearer s3cret"),
            ("x-a", "1"),
            ("x-a", "2"),
            ("content-length", "4"),
        ]


async def test_get_has_no_length_when_it_has_no_body() -> None:
    """A body-less GET announces none, a body-less POST announces zero."""
    async with connected() as it:
        await fetch(it.endpoint, request(b"", method=b"GET", path=b"/v1/models"))
        await fetch(it.endpoint, request(b"", path=b"/v1/nothing"))
        assert [recorded.header("content-length") for recorded in it.upstream.requests] == [None, "0"]


async def test_openai_stream_arrives_whole_when_pumped() -> None:
    """The fake's default answers: a streamed chat ends with [DONE], a plain one is JSON."""
    async with connected() as it:
        body = b'{"model":"m","stream":true,"stream_options":{"include_usage":true},"messages":[]}'
        text = b"".join(await collect(it.endpoint, request(body, path=b"/v1/chat/completions")))
        assert text.count(b"data: ") == it.upstream.events + 3
        assert text.endswith(b"data: [DONE]\n\n")
        plain = await fetch(it.endpoint, request(b'{"model":"m"}', path=b"/v1/chat/completions"))
        assert b'"content": "w0 w1 w2"' in plain
        assert it.upstream.connections == 1


async def test_headers_keep_their_order_and_repeats_when_sent_twice() -> None:
    """Names are lower case, values without the white space around them, duplicates stay."""
    async with connected() as it:
        it.upstream.queue(OK + b"Set-Cookie: a\r\nX-Y:  b \t\r\nSet-Cookie: c\r\nContent-Length: 0\r\n\r\n")
        response = await it.endpoint.send(request())
        assert response.headers == [
            (b"set-cookie", b"a"),
            (b"x-y", b"b"),
            (b"set-cookie", b"c"),
            (b"content-length", b"0"),
        ]
        assert response.whole() == b""
        response.close()


# --- framing


@pytest.mark.parametrize(
    ("answer", "body", "reused"),
    [
        (OK + b"Connection: close\r\nContent-Length: 2\r\n\r\nhi", b"hi", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi", b"hi", False),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nhi", b"hi", True),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b"", True),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 100\r\n\r\n", b"", True),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\n" + SHORT, b"hello", True),
        (CHUNKED + b"3;name=value\r\nabc\r\n2\r\nde\r\n0\r\nX-Trailer: t\r\n\r\n", b"abcde", True),
        (CHUNKED + b"0\r\n\r\n", b"", True),
        (OK + b"Upgrade: h2c\r\nConnection: upgrade\r\nContent-Length: 2\r\n\r\nhi", b"hi", True),
    ],
)
async def test_message_ends_where_its_framing_says_when_read(answer: bytes, body: bytes, reused: bool) -> None:
    """Length, chunks, no body at all, interim answers before it; and only a whole, keepable message is kept."""
    async with connected() as it:
        it.upstream.queue(answer)
        response = await it.endpoint.send(request())
        assert await response.read(100) == body
        assert not {b"x-trailer", b"link"} & {name for name, _ in response.headers}
        response.close()
        assert it.endpoint.idle == int(reused)
        await it.works()
        assert it.upstream.connections == (1 if reused else 2)


@pytest.mark.parametrize(
    "fields", [b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n"]
)
async def test_head_answer_has_no_body_when_a_length_is_announced(fields: bytes) -> None:
    """HEAD, 304's sister: the length is that of the GET; the connection serves the next request."""
    async with connected() as it:
        it.upstream.queue(OK + fields + b"\r\n")
        response = await it.endpoint.send(request(b"", method=b"HEAD"))
        assert response.whole() == b""
        response.close()
        await it.works()
        assert it.upstream.connections == 1


async def test_body_to_the_end_of_the_connection_is_whole_when_no_length_is_given() -> None:
    """Without length and chunks a clean close is the normal end."""
    gate = asyncio.Event()
    async with connected() as it:
        it.upstream.queue(OK + b"\r\nab", gate, b"cd", CUT)
        response = await it.endpoint.send(request())
        assert response.whole() is None
        gate.set()
        assert await response.read(10) == b"abcd"
        response.close()
        assert it.endpoint.idle == 0


async def test_body_to_the_end_of_the_connection_is_broken_when_it_is_reset() -> None:
    """A reset is never the normal end."""
    gate = asyncio.Event()
    async with connected() as it:
        it.upstream.queue(OK + b"\r\nab", gate, RESET)
        response = await it.endpoint.send(request())
        gate.set()
        with pytest.raises(UpstreamBroke):
            await response.read(10)
        response.close()


async def test_answer_is_the_same_when_it_comes_in_two_pieces_cut_anywhere() -> None:
    """Head, interim answer, chunk sizes, extensions, trailers: no cut changes what is read."""
    answer = b"HTTP/1.1 100 C\r\n\r\n" + CHUNKED + b"3;x=y\r\nabc\r\n0c\r\nmore of this\r\n0\r\nT: x\r\n\r\n"
    async with connected() as it:

        async def halves(exchange: Exchange) -> None:
            at = int(await exchange.body())
            await exchange.write(answer[:at])
            for _ in range(3):
                await asyncio.sleep(0)  # lets the client's side of this loop read
            await exchange.write(answer[at:])

        it.upstream.script(halves)
        for at in range(1, len(answer)):
            assert b"".join(await collect(it.endpoint, request(b"%d" % at))) == b"abcmore of this"
        assert it.upstream.connections == 1


async def test_answer_is_the_same_when_it_comes_byte_by_byte() -> None:
    """Every state of the parser survives the end of a segment."""
    answer = CHUNKED + chunk(b"data: one\n\n") + chunk(b"data: two\n\n") + b"0\r\n\r\n"
    async with connected() as it:

        async def trickle(exchange: Exchange) -> None:
            for at in range(len(answer)):
                await exchange.write(answer[at : at + 1])
                await asyncio.sleep(0)

        it.upstream.script(trickle)
        assert b"".join(await collect(it.endpoint)) == b"data: one\n\ndata: two\n\n"
        assert await fetch(it.endpoint) == b"data: one\n\ndata: two\n\n"


# --- pumping


async def test_pump_wakes_no_task_when_the_sink_does_not_wait() -> None:
    """The sink runs inside the read event, one call per segment, and chunks of one segment come joined."""
    gates = [asyncio.Event() for _ in range(3)]
    pieces: list[bytes] = []
    in_tasks: list[bool] = []

    async def sink(piece: bytes) -> None:
        pieces.append(piece)
        in_tasks.append(asyncio.current_task() is not None)
        gates[len(pieces)].set()

    async with connected() as it:
        it.upstream.queue(
            CHUNKED, gates[0], chunk(b"a") + chunk(b"b"), gates[1], chunk(b"c"), gates[2], b"1\r\nd\r\n0\r\n\r\n"
        )
        response = await it.endpoint.send(request())
        gates.append(asyncio.Event())
        pumping = asyncio.ensure_future(response.pump(sink))
        await asyncio.sleep(0)
        gates[0].set()
        await pumping
        response.close()
        assert (pieces, in_tasks) == ([b"ab", b"c", b"d"], [False, False, False])
        assert it.endpoint.idle == 1


@pytest.mark.parametrize("seed", range(12))
async def test_pump_keeps_every_byte_in_order_when_the_sink_waits_now_and_then(seed: int) -> None:
    """However chunks and waits fall together, what goes in comes out once and in order."""
    dice = random.Random(seed)
    sent = bytearray()
    got = bytearray()

    async def produce(exchange: Exchange) -> None:
        await exchange.body()
        await exchange.start_stream()
        for number in range(200):
            data = b"%d:" % number + bytes(dice.choice((1, 50, 5000, 70_000)))
            sent.extend(data)
            await exchange.chunk(data)
            for _ in range(dice.randrange(4)):
                await asyncio.sleep(0)
        await exchange.end()

    async def sink(piece: bytes) -> None:
        for _ in range(dice.choice((0, 0, 0, 1, 3))):
            await asyncio.sleep(0)
        got.extend(piece)

    async with connected() as it:
        it.upstream.script(produce)
        response = await it.endpoint.send(request())
        for _ in range(dice.randrange(6)):
            await asyncio.sleep(0)
        await response.pump(sink)
        response.close()
        assert hashlib.sha256(got).digest() == hashlib.sha256(sent).digest()
        assert it.endpoint.idle == 1


class Flood:
    """An answer far larger than all buffers between; knows when it can write no further."""

    def __init__(self, total_bytes: int = 64 * MIB) -> None:
        self.total_bytes = total_bytes
        self.written_bytes = 0
        self.exchange: Exchange | None = None

    async def __call__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        await exchange.body()
        await exchange.write(OK + b"content-length: %d\r\n\r\n" % self.total_bytes)
        while self.written_bytes < self.total_bytes:
            self.written_bytes += 64 * 1024
            await exchange.write(bytes(64 * 1024))

    def stalled(self) -> bool:
        return self.exchange is not None and not self.exchange.connection.writable.is_set()


async def test_upstream_is_not_read_when_the_sink_waits() -> None:
    """A client that does not read stops the upstream; when it reads again everything comes."""
    flood = Flood()
    gate = asyncio.Event()
    got = 0

    async def sink(piece: bytes) -> None:
        nonlocal got
        got += len(piece)
        await gate.wait()

    async with connected() as it:
        it.upstream.script(flood)
        response = await it.endpoint.send(request())
        pumping = asyncio.ensure_future(response.pump(sink))
        await it.upstream.until(flood.stalled)
        assert got <= UNREAD_MAX_BYTES
        assert not pumping.done()
        gate.set()
        await pumping
        assert got == flood.total_bytes
        response.close()


async def test_unread_answer_holds_little_when_nobody_takes_it() -> None:
    """What arrives before anyone pumps stays below one read event, however much the upstream has."""
    flood = Flood()
    sizes: list[int] = []

    async def sink(piece: bytes) -> None:
        sizes.append(len(piece))

    async with connected() as it:
        it.upstream.script(flood)
        response = await it.endpoint.send(request())
        await it.upstream.until(flood.stalled)
        await response.pump(sink)
        response.close()
        assert sizes[0] <= UNREAD_MAX_BYTES
        assert sum(sizes) == flood.total_bytes


@pytest.mark.parametrize("waits", [False, True])
async def test_pump_raises_what_the_sink_raises_when_it_fails(waits: bool) -> None:
    """In the read event or after a wait: the error comes out of `pump`, and the upstream is cut."""

    async def sink(piece: bytes) -> None:
        if waits:
            await asyncio.sleep(0)
        raise LookupError(piece.decode())

    gate = asyncio.Event()
    async with connected() as it:
        it.upstream.queue(CHUNKED, gate, chunk(b"first"), HOLD)
        response = await it.endpoint.send(request())
        pumping = asyncio.ensure_future(response.pump(sink))
        await asyncio.sleep(0)
        gate.set()
        with pytest.raises(LookupError, match="first"):
            await pumping
        await it.upstream.until(lambda: it.upstream.aborted == 1)
        response.close()
        assert it.endpoint.idle == 0


async def test_pump_hands_on_what_came_when_the_upstream_then_breaks() -> None:
    """Bytes before the error leave before the error, taken late or straight from the read event."""
    gate = asyncio.Event()
    pieces: list[bytes] = []

    async def sink(piece: bytes) -> None:
        pieces.append(piece)

    async with connected() as it:
        it.upstream.queue(CHUNKED + chunk(b"a") + b"no size\r\n", HOLD)
        it.upstream.queue(CHUNKED, gate, chunk(b"b") + b"no size\r\n", HOLD)
        for _ in range(2):
            response = await it.endpoint.send(request())
            pumping = asyncio.ensure_future(response.pump(sink))
            await asyncio.sleep(0)
            gate.set()
            with pytest.raises(UpstreamBroke):
                await pumping
            response.close()
        assert pieces == [b"a", b"b"]


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
                await (response.pump(_nowhere) if pumped else response.read(100))
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


async def test_upload_arrives_whole_when_the_upstream_reads_slowly() -> None:
    """5 MB, taken in steps."""
    body = random.Random(5).randbytes(5 * MIB)

    async def slow(exchange: Exchange) -> None:
        while not exchange.received.is_set():
            exchange.pause_reading()
            await asyncio.sleep(0)
            exchange.resume_reading()
            await asyncio.sleep(0)
        await exchange.write(SHORT)

    async with connected() as it:
        it.upstream.queue_handler(slow)
        assert await fetch(it.endpoint, request(body)) == b"hello"
        assert it.upstream.requests[0].body == body
        assert it.endpoint.idle == 1


# --- keeping connections


@pytest.mark.parametrize("ending", [CUT, RESET])
async def test_request_is_sent_again_when_a_kept_connection_closes_before_the_answer(ending: Any) -> None:
    """The keep-alive race: once, on a fresh connection, for a POST too."""
    async with connected() as it:
        await it.works()
        it.upstream.queue(ending)
        it.upstream.queue(SHORT)
        assert await fetch(it.endpoint, request(b"again")) == b"hello"
        assert [recorded.body for recorded in it.upstream.requests] == [b"{}", b"again", b"again"]
        assert it.upstream.connections == 2
        assert it.endpoint.idle == 1


async def test_request_is_not_sent_a_third_time_when_the_fresh_connection_closes_too() -> None:
    """Once is the limit, and the other kept connections are not tried one by one."""
    async with connected() as it:
        await asyncio.gather(it.works(), it.works())
        it.upstream.queue(CUT)
        it.upstream.queue(CUT)
        with pytest.raises(UpstreamBroke) as caught:
            await fetch(it.endpoint)
        assert caught.value.nothing_received
        assert len(it.upstream.requests) == 4
        assert it.endpoint.idle == 1


async def test_request_is_not_sent_again_when_the_connection_was_fresh() -> None:
    """A fresh connection that closes is the upstream's failure, not a race."""
    async with connected() as it:
        it.upstream.queue(CUT)
        with pytest.raises(UpstreamBroke) as caught:
            await fetch(it.endpoint)
        assert caught.value.nothing_received
        assert len(it.upstream.requests) == 1


async def test_request_is_not_sent_again_when_one_byte_of_the_answer_came() -> None:
    """Then the upstream has taken it, and may have done the work."""
    async with connected() as it:
        await it.works()
        it.upstream.queue(b"H", CUT)
        with pytest.raises(UpstreamBroke) as caught:
            await fetch(it.endpoint)
        assert not caught.value.nothing_received
        assert len(it.upstream.requests) == 2


async def test_kept_connection_is_forgotten_when_the_upstream_closes_it() -> None:
    """Seen at once, without a request."""
    async with connected() as it:
        await it.works()
        it.upstream.cut_connections()
        await it.upstream.until(lambda: it.endpoint.idle == 0)
        await it.works()
        assert len(it.upstream.requests) == 2


async def test_kept_connection_is_closed_when_it_was_not_used_for_long() -> None:
    """So that the upstream, which closes it a little later, never wins the race."""
    async with connected(idle_keep_s=0.05) as it:
        await asyncio.gather(it.works(), it.works())
        await it.upstream.until(lambda: it.endpoint.idle == 0 and it.upstream.open_connections == 0)
        await it.works()
        assert it.upstream.connections == 3


async def test_no_more_connections_are_kept_when_the_limit_is_reached() -> None:
    """`idle_max` bounds what a burst leaves behind."""
    async with connected(idle_max=2) as it:
        await asyncio.gather(*(it.works() for _ in range(5)))
        assert it.endpoint.idle == 2
        await it.upstream.until(lambda: it.upstream.open_connections == 2)


async def test_many_answers_stay_apart_when_they_run_at_once() -> None:
    """Fifty streams side by side, each its own bytes, and everything is given back."""

    async def echo(exchange: Exchange) -> None:
        body = await exchange.body()
        await exchange.start_stream()
        for _ in range(5):
            await exchange.chunk(body)
            await asyncio.sleep(0)
        await exchange.end()

    async with connected() as it:
        it.upstream.script(echo)
        names = [b"<%d>" % number for number in range(50)]
        for _ in range(2):
            answers = await asyncio.gather(*(collect(it.endpoint, request(name)) for name in names))
            assert [b"".join(pieces) for pieces in answers] == [name * 5 for name in names]
        assert (it.endpoint.in_flight, it.endpoint.idle, it.upstream.connections) == (0, 50, 50)


async def test_close_does_nothing_when_the_connection_serves_another_by_now() -> None:
    """Closing twice must not cut the next request's answer."""
    gate = asyncio.Event()
    async with connected() as it:
        it.upstream.queue(SHORT)
        first = await it.endpoint.send(request())
        first.close()
        it.upstream.queue(OK + b"Content-Length: 2\r\n\r\n", gate, b"hi")
        second = await it.endpoint.send(request())
        first.close()
        assert it.endpoint.in_flight == 1
        gate.set()
        assert await second.read(2) == b"hi"
        second.close()
        assert it.upstream.connections == 1


# --- leaving


async def test_upstream_sees_it_at_once_when_an_answer_is_closed_early() -> None:
    """This is how a leaving client frees the engine's slot."""
    async with connected() as it:
        it.upstream.queue(CHUNKED + chunk(b"a"), HOLD)
        response = await it.endpoint.send(request())
        response.close()
        response.close()
        await it.upstream.until(lambda: it.upstream.aborted == 1)
        assert (it.endpoint.in_flight, it.endpoint.idle) == (0, 0)


@pytest.mark.parametrize("pumped", [False, True])
async def test_waiting_task_gets_an_error_when_another_closes_the_answer(pumped: bool) -> None:
    """Nobody waits for ever on an answer that was closed."""
    async with connected() as it:
        it.upstream.queue(CHUNKED + chunk(b"a"), HOLD)
        response = await it.endpoint.send(request())
        waiting = asyncio.ensure_future(response.pump(_nowhere) if pumped else response.read(100))
        await asyncio.sleep(0)
        response.close()
        with pytest.raises(UpstreamBroke):
            await waiting


async def _send(endpoint: Endpoint) -> None:
    await endpoint.send(request())


async def _read(endpoint: Endpoint) -> None:
    await fetch(endpoint)


async def _pump(endpoint: Endpoint) -> None:
    await collect(endpoint)


async def _pump_slowly(endpoint: Endpoint) -> None:
    async def sink(piece: bytes) -> None:
        await asyncio.Event().wait()

    response = await endpoint.send(request())
    try:
        await response.pump(sink)
    finally:
        response.close()


@pytest.mark.parametrize(
    ("work", "answer"),
    [
        (_send, b""),
        (_send, b"HTTP/1.1 200"),
        (_read, CHUNKED + chunk(b"a")),
        (_pump, CHUNKED + chunk(b"a")),
        (_pump_slowly, CHUNKED + chunk(b"a")),
    ],
)
@pytest.mark.parametrize("kept", [False, True])
async def test_connection_is_cut_when_the_caller_is_cancelled(
    work: Callable[[Endpoint], Any], answer: bytes, kept: bool
) -> None:
    """Waiting for the head, reading, pumping, held up by the sink: the upstream is freed and the counters are right."""
    started = asyncio.Event()

    async def begin(exchange: Exchange) -> None:
        await exchange.body()
        if answer:
            await exchange.write(answer)
        started.set()
        await asyncio.Event().wait()

    async with connected() as it:
        if kept:
            await it.works()
        it.upstream.queue_handler(begin)
        task = asyncio.ensure_future(work(it.endpoint))
        await started.wait()
        for _ in range(5):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await it.upstream.until(lambda: it.upstream.aborted == 1)
        assert (it.endpoint.in_flight, it.endpoint.idle, it.upstream.open_connections) == (0, 0, 0)
        await it.works()


async def test_cancellation_reaches_the_sink_when_it_waits() -> None:
    """A sink that was started in the read event cleans up like any other, even by waiting once more."""
    seen: list[str] = []
    waiting = asyncio.Event()
    gate = asyncio.Event()

    async def sink(piece: bytes) -> None:
        try:
            waiting.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            seen.append("cancelled")
            raise
        finally:
            seen.append("left")

    async with connected() as it:
        it.upstream.queue(CHUNKED, gate, chunk(b"a"), HOLD)
        response = await it.endpoint.send(request())
        task = asyncio.ensure_future(response.pump(sink))
        await asyncio.sleep(0)
        gate.set()
        await waiting.wait()
        for _ in range(3):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert seen == ["cancelled", "left"]
        response.close()


async def test_cancellation_works_when_it_falls_on_any_step_of_a_request() -> None:
    """Cut after every number of loop turns: the counters are right and no connection stays open half-used."""
    async with connected() as it:
        for turns in range(40):
            task = asyncio.ensure_future(
                collect(it.endpoint, request(b'{"stream":true}', path=b"/v1/chat/completions"))
            )
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait((task,))
            await it.settled()
            await it.upstream.until(lambda: it.upstream.open_connections == it.endpoint.idle)
            if turns % 2:
                it.upstream.cut_connections()
                await it.upstream.until(lambda: it.endpoint.idle == 0)
        assert it.endpoint.in_flight == 0


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
            await (response.pump(_nowhere) if pumped else response.read(100))
        await it.upstream.until(lambda: it.upstream.aborted == 1)
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


# --- connecting


@asynccontextmanager
async def mute_port() -> AsyncIterator[tuple[int, list[asyncio.StreamReader]]]:
    """Accepts connections and says nothing."""
    readers: list[asyncio.StreamReader] = []
    writers: list[asyncio.StreamWriter] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        readers.append(reader)
        writers.append(writer)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], readers
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        await server.wait_closed()


async def test_send_raises_unreachable_when_nothing_listens() -> None:
    """Nothing was sent, and the message names the provider but no address."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        endpoint = Endpoint(f"http://127.0.0.1:{taken.getsockname()[1]}", source="fake")
        with pytest.raises(UpstreamUnreachable, match="nothing listens") as caught:
            await endpoint.send(request())
    assert "127.0.0.1" not in caught.value.message
    assert "127.0.0.1" in caught.value.detail
    assert endpoint.in_flight == 0


async def test_send_raises_unreachable_when_the_name_is_none() -> None:
    """A label of 70 letters is no host name (RFC 1035: 63)."""
    endpoint = Endpoint(f"http://{'a' * 70}.test", source="fake")
    with pytest.raises(UpstreamUnreachable):
        await endpoint.send(request())
    await endpoint.aclose()


async def test_connecting_gives_up_when_it_takes_too_long() -> None:
    """`connect_timeout_s` covers TLS; the socket is closed."""
    async with mute_port() as (port, readers):
        endpoint = Endpoint(f"https://127.0.0.1:{port}", source="fake", connect_timeout_s=0.1)
        with pytest.raises(UpstreamUnreachable, match="in time"):
            await endpoint.send(request())
        await asyncio.wait_for(_drain(readers[0]), 5)
        assert endpoint.in_flight == 0
        await endpoint.aclose()


async def test_socket_is_closed_when_connecting_is_cancelled() -> None:
    """Amid the TLS handshake: the other side sees the end."""
    async with mute_port() as (port, readers):
        endpoint = Endpoint(f"https://127.0.0.1:{port}", source="fake")
        task = asyncio.ensure_future(endpoint.send(request()))
        async with asyncio.timeout(5):
            while not readers:
                await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(_drain(readers[0]), 5)
        assert endpoint.in_flight == 0
        await endpoint.aclose()


async def test_ipv6_address_works_when_it_stands_in_brackets() -> None:
    """And the Host field has the brackets too."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    async with FakeUpstream(host="::1") as upstream:
        endpoint = Endpoint(upstream.base_url, source="fake")
        upstream.queue(SHORT)
        assert await fetch(endpoint) == b"hello"
        assert upstream.requests[0].header("host") == f"[::1]:{upstream.port}"
        await endpoint.aclose()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for localhost, with its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed, and Python's ssl module cannot make a certificate")
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(path), "-out", f"{path}.crt"]
    subprocess.run(command, check=True, capture_output=True)
    path.write_bytes(path.read_bytes() + Path(f"{path}.crt").read_bytes())
    return path


async def test_https_works_when_the_certificate_is_trusted(certificate: Path) -> None:
    """Plain answers, reuse, and streams with a sink that waits."""
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(certificate)
    async with FakeUpstream(ssl_context=serving) as upstream:
        trusting = ssl.create_default_context(cafile=str(certificate))
        endpoint = Endpoint(upstream.base_url, source="fake", ssl_context=trusting)
        upstream.queue(SHORT)
        assert await fetch(endpoint) == b"hello"
        flood = Flood(8 * MIB)
        upstream.queue_handler(flood)
        got = 0

        async def sink(piece: bytes) -> None:
            nonlocal got
            await asyncio.sleep(0)
            got += len(piece)

        response = await endpoint.send(request())
        await response.pump(sink)
        response.close()
        assert got == flood.total_bytes
        assert (endpoint.idle, upstream.connections) == (1, 1)
        await endpoint.aclose()
        await upstream.until(lambda: upstream.open_connections == 0)


async def test_https_is_refused_when_the_certificate_is_not_trusted(certificate: Path) -> None:
    """Verification is on by default: nothing is sent."""
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(certificate)
    async with FakeUpstream(ssl_context=serving) as upstream:
        endpoint = Endpoint(upstream.base_url, source="fake")
        with pytest.raises(UpstreamUnreachable, match="certificate is not accepted"):
            await endpoint.send(request())
        assert (endpoint.in_flight, len(upstream.requests)) == (0, 0)
        await endpoint.aclose()


# --- closing the endpoint


async def test_everything_ends_when_the_endpoint_is_closed() -> None:
    """Idle connections close, busy ones are cut, whoever waits gets an error, and nothing is sent any more."""
    async with FakeUpstream() as upstream:
        endpoint = Endpoint(upstream.base_url, source="fake")
        upstream.queue(SHORT)
        await fetch(endpoint)
        upstream.queue(HOLD)
        upstream.queue(CHUNKED, HOLD)
        sending = asyncio.ensure_future(endpoint.send(request()))
        pumping = asyncio.ensure_future(collect(endpoint))
        await upstream.until(lambda: upstream.in_flight == 2)
        await endpoint.aclose()
        for task in (sending, pumping):
            with pytest.raises(UpstreamBroke):
                await task
        await upstream.until(lambda: upstream.open_connections == 0)
        with pytest.raises(UpstreamUnreachable, match="shut down"):
            await endpoint.send(request())
        await endpoint.aclose()
        assert (endpoint.in_flight, endpoint.idle) == (0, 0)


# --- what must not get in or out


@pytest.mark.parametrize(
    "bad",
    [
        request(headers=[(b"x-a", b"1\r\nx-b: 2")]),
        request(headers=[(b"x-a", b"1\n")]),
        request(headers=[(b"x-a", b"1\r")]),
        request(headers=[(b"x-a\r\nx-b", b"1")]),
        request(headers=[(b"x-a", b"\0")]),
        request(path=b"/v1 HTTP/1.1\r\nx-b: 2\r\n\r\n"),
        request(path=b"/v1 HTTP/1.1"),
        request(path=b"v1"),
        request(method=b"GET /x HTTP/1.1\r\n"),
        request(method=b""),
    ],
)
async def test_request_is_refused_when_a_line_would_be_smuggled_in(bad: Request) -> None:
    """ValueError before anything is sent."""
    async with connected() as it:
        with pytest.raises(ValueError, match="nothing was sent"):
            await it.endpoint.send(bad)
        assert it.upstream.connections == 0


async def test_configured_header_is_refused_without_being_shown_when_it_holds_a_line_break() -> None:
    """A key read with its newline is the usual cause; it must not land in a log."""
    with pytest.raises(ValueError, match="line break") as caught:
        Endpoint("http://127.0.0.1:1", source="fake", headers=[(b"authorization", b"Bearer s3cret\n")])
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "base_url",
    [
        "127.0.0.1:80",
        "ftp://host",
        "http://",
        "http://user:s3cret@host",
        "http://host/?a=1",
        "http://host:99999",
        "http://ho st",
        "http://host/\r\nx: y",
        "http://[::1",
        "unix:///tmp/s",
    ],
)
async def test_base_url_is_refused_when_it_cannot_be_used(base_url: str) -> None:
    """The error says what is expected and does not repeat what may be secret."""
    with pytest.raises(ValueError, match="expected") as caught:
        Endpoint(base_url, source="fake")
    assert "s3cret" not in str(caught.value)


async def test_repr_and_errors_show_no_secret_when_printed() -> None:
    """Counts and the address, never a header."""
    async with connected(headers=[(b"authorization", b"Bearer s3cret")]) as it:
        await it.works()
        assert repr(it.endpoint) == f"<Endpoint 'fake' {it.upstream.base_url} in_flight=0 idle=1>"
        it.upstream.queue(b"garbage s3cret", CUT)
        with pytest.raises(ProviderError) as caught:
            await fetch(it.endpoint)
        assert "s3cret" not in f"{caught.value} {caught.value.detail}"


async def _nowhere(piece: bytes) -> None:
    """A sink for bytes that do not matter."""


async def _drain(reader: asyncio.StreamReader) -> None:
    """Returns when the peer has closed."""
    try:
        while await reader.read(65536):
            pass
    except ConnectionResetError:
        pass
