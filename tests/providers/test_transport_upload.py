"""Bodies that are sent while they come in: exact bytes, back-pressure, answers that come early, and every way it can end."""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from pathlib import Path

import psutil
import pytest

from providers.contract import Request
from providers.errors import UpstreamBroke, UpstreamTimeout
from providers.transport import Endpoint
from tests.fakes.certificates import self_signed
from tests.fakes.upstream import CUT, HOLD, RESET, Exchange, FakeUpstream
from tests.providers.wire import CHUNKED, MIB, OK, SHORT, Setup, chunk, collect, connected, fetch, request

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])

Step = bytes | asyncio.Event | Exception
NO = b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno"


class Pieces:
    """A body: bytes, gates to wait for, an error at last."""

    def __init__(self, *steps: Step, length: int | None = None, sized: bool = True) -> None:
        self.steps = steps
        self.begun = 0  # how often it was begun
        self.given_bytes = 0
        self._length = sum(len(step) for step in steps if isinstance(step, bytes)) if length is None else length
        self._sized = sized

    @property
    def length(self) -> int | None:
        return self._length if self._sized else None

    async def pieces(self) -> AsyncIterator[bytes]:
        """See `Body`."""
        self.begun += 1
        for step in self.steps:
            if isinstance(step, bytes):
                self.given_bytes += len(step)
                yield step
            elif isinstance(step, asyncio.Event):
                await step.wait()
            else:
                raise step

    @property
    def all(self) -> bytes:
        return b"".join(step for step in self.steps if isinstance(step, bytes))


def upload(body: Pieces, *, first_byte_s: float | None = 10.0, idle_s: float | None = 10.0) -> Request:
    return Request(method=b"POST", path=b"/v1/x", headers=(), body=body, first_byte_s=first_byte_s, idle_s=idle_s)


def feeding() -> bool:
    """Whether a body is still being sent."""
    return any("Feeder._feed" in repr(task) for task in asyncio.all_tasks())


async def cleared(it: Setup) -> None:
    """Nothing of an exchange is left on our side, and its connection is not used again."""
    await it.upstream.until(lambda: not feeding())
    assert (it.endpoint.in_flight, it.endpoint.idle) == (0, 0)


# --- what goes over the wire


@pytest.mark.parametrize("sized", [True, False])
@pytest.mark.parametrize(
    "steps", [(), (b"",), (b"hello",), (b"a", b"", b"bc", b""), (bytes(300_000), b"x" * 70_000, b"y")]
)
async def test_body_arrives_byte_for_byte(steps: Sequence[Step], sized: bool) -> None:
    """With its length where that is known, else in chunks; the connection serves the next request."""
    body = Pieces(*steps, sized=sized)
    async with connected() as it:
        for _ in range(2):
            it.upstream.queue(SHORT)
            assert await fetch(it.endpoint, upload(body)) == b"hello"
        for recorded in it.upstream.requests:
            assert recorded.body == body.all
            assert recorded.header("content-length") == (str(len(body.all)) if sized else None)
            assert recorded.header("transfer-encoding") == (None if sized else "chunked")
        assert (it.upstream.connections, it.endpoint.idle) == (1, 1)
        await it.works()


async def test_piece_is_sent_as_soon_as_it_is_there() -> None:
    """The head before any of it, and no piece waits for the next."""
    gates = [asyncio.Event() for _ in range(3)]
    body = Pieces(gates[0], b"one", gates[1], b"two", gates[2])
    came = bytearray()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while not came.endswith(b"onetwo"):
            came.extend(await reader.read(65_536))
        writer.write(SHORT)
        await reader.read()
        writer.close()

    async with FakeUpstream() as clock, await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        endpoint = Endpoint(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", source="fake")
        sending = asyncio.ensure_future(fetch(endpoint, upload(body)))
        for gate, end in zip(gates, (b"\r\n\r\n", b"\r\none", b"onetwo"), strict=True):
            await clock.until(partial(came.endswith, end))
            gate.set()
        assert await sending == b"hello"
        await endpoint.aclose()


async def test_bytes_need_no_task() -> None:
    """All other requests go as before."""
    gate = asyncio.Event()
    async with connected() as it:
        it.upstream.queue(gate, SHORT)
        before = len(asyncio.all_tasks())
        sending = asyncio.ensure_future(fetch(it.endpoint, request(b"{}")))
        await it.upstream.until(lambda: it.upstream.in_flight == 1)
        assert len(asyncio.all_tasks()) == before + 2  # `sending`, and the fake upstream's own
        gate.set()
        await sending


# --- back-pressure


@pytest.mark.parametrize("sized", [True, False])
async def test_body_waits_when_the_upstream_reads_slowly(sized: bool) -> None:
    """Of 32 MiB no more is taken than the sockets hold; then all of it, in order."""
    piece = random.Random(7).randbytes(256 * 1024)
    body = Pieces(*[piece] * 128, sized=sized)
    gate = asyncio.Event()

    async def serve(exchange: Exchange) -> None:
        exchange.pause_reading()
        await gate.wait()
        exchange.resume_reading()
        assert await exchange.body() == body.all
        await exchange.write(SHORT)

    async with connected() as it:
        it.upstream.queue_handler(serve)
        sending = asyncio.ensure_future(fetch(it.endpoint, upload(body)))
        await it.upstream.until(still(body))
        assert body.given_bytes < 24 * MIB
        gate.set()
        assert await sending == b"hello"
        assert it.endpoint.idle == 1


def still(body: Pieces) -> Callable[[], bool]:
    """For `until`: between many looks nothing more was taken."""
    seen, count = -1, 0

    def look() -> bool:
        nonlocal seen, count
        count = count + 1 if 0 < body.given_bytes == seen else 0
        seen = body.given_bytes
        return count >= 8

    return look


async def test_body_waits_when_the_upstream_is_behind_tls(tmp_path: Path) -> None:
    """The same through TLS, whose transport has buffers of its own."""
    server = self_signed(tmp_path)
    client = ssl.create_default_context(cafile=str(tmp_path / "crt"))
    body = Pieces(*[bytes(256 * 1024)] * 128)
    gate = asyncio.Event()

    async def serve(exchange: Exchange) -> None:
        exchange.pause_reading()
        await gate.wait()
        exchange.resume_reading()
        assert len(await exchange.body()) == body.length
        await exchange.write(SHORT)

    async with FakeUpstream(ssl_context=server) as upstream:
        endpoint = Endpoint(upstream.base_url, source="fake", ssl_context=client)
        upstream.queue_handler(serve)
        sending = asyncio.ensure_future(fetch(endpoint, upload(body)))
        await upstream.until(still(body))
        assert body.given_bytes < 24 * MIB
        gate.set()
        assert await sending == b"hello"
        await endpoint.aclose()


async def test_upstream_that_takes_nothing_is_given_up() -> None:
    """`idle_s` bounds that too; `first_byte_s` does not count before all is sent."""
    body = Pieces(*[bytes(256 * 1024)] * 128)

    async def serve(exchange: Exchange) -> None:
        exchange.pause_reading()
        await asyncio.Event().wait()

    async with connected() as it:
        it.upstream.queue_handler(serve)
        with pytest.raises(UpstreamTimeout, match="did not take the request"):
            await it.endpoint.send(upload(body, first_byte_s=0.01, idle_s=0.2))
        await cleared(it)


async def test_limit_for_the_head_begins_when_all_is_sent() -> None:
    """A long upload is no slow answer; a slow answer after it is."""
    gate = asyncio.Event()
    body = Pieces(b"a", gate, b"b")
    async with connected() as it:
        it.upstream.queue(HOLD)
        asyncio.get_running_loop().call_later(0.2, gate.set)
        sending = asyncio.ensure_future(it.endpoint.send(upload(body, first_byte_s=0.05)))
        await it.upstream.until(gate.is_set)
        assert not sending.done()
        with pytest.raises(UpstreamTimeout, match="did not answer"):
            await sending
        assert it.upstream.requests[0].body == b"ab"
        await cleared(it)


# --- answers that come early


@pytest.mark.parametrize("held", ["by the caller", "by the upstream"])
async def test_early_refusal_is_the_answer_and_ends_the_sending(held: str) -> None:
    """Whoever the body waits for at that moment; the connection is not used again."""
    body = Pieces(b"a", asyncio.Event(), length=100) if held == "by the caller" else Pieces(*[bytes(256 * 1024)] * 128)

    async def refuse(exchange: Exchange) -> None:
        exchange.pause_reading()
        await exchange.upstream.until(still(body))
        await exchange.write(NO)
        await asyncio.Event().wait()

    async with connected() as it:
        it.upstream.queue_handler(refuse)
        response = await it.endpoint.send(upload(body))
        assert (response.status, await response.read(10)) == (413, b"no")
        await it.upstream.until(lambda: not feeding())
        assert body.given_bytes < 24 * MIB
        response.close()
        await cleared(it)
        await it.works()


@pytest.mark.parametrize("answer", [NO, b"HTTP/1.1 401 No\r\nConnection: close\r\n\r\nno"])
@pytest.mark.parametrize("large", [False, True])
async def test_early_refusal_counts_when_the_upstream_closes_with_the_body_unread(answer: bytes, large: bool) -> None:
    """Its kernel then resets the connection; what it said before is the answer."""
    body = Pieces(*([bytes(256 * 1024)] * 128 if large else [bytes(1000), asyncio.Event()]), length=32 * MIB)

    async def refuse(exchange: Exchange) -> None:
        exchange.pause_reading()
        await exchange.upstream.until(still(body))
        await exchange.write(answer)
        exchange.cut()

    async with connected() as it:
        it.upstream.queue_handler(refuse)
        response = await it.endpoint.send(upload(body))
        assert response.status in (401, 413)
        assert await response.read(10) == b"no"
        response.close()
        await cleared(it)


@pytest.mark.parametrize("body_too", [True, False])
async def test_early_refusal_is_not_lost_when_a_write_meets_the_reset_first(body_too: bool) -> None:
    """The next piece is written before the loop has read the answer: the kernel has it still, and it is looked for there."""
    given, closed = threading.Event(), threading.Event()

    def serve(listener: socket.socket) -> None:
        peer, _ = listener.accept()
        peer.recv(1000)  # and the rest stays unread
        assert given.wait(5.0)
        peer.sendall(NO if body_too else b"HTTP/1.1 401 No\r\nConnection: close\r\n\r\nno")
        peer.close()
        closed.set()

    class Late(Pieces):
        async def pieces(self) -> AsyncIterator[bytes]:
            yield bytes(100_000)
            given.set()
            assert closed.wait(5.0)  # the loop stands still meanwhile: it hears of the answer only after the write
            yield b"x"
            await asyncio.Event().wait()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = threading.Thread(target=serve, args=(listener,))
        serving.start()
        endpoint = Endpoint(f"http://127.0.0.1:{listener.getsockname()[1]}", source="fake")
        response = await endpoint.send(upload(Late(length=MIB)))
        assert response.status == (413 if body_too else 401)
        assert await response.read(10) == b"no"
        response.close()
        await endpoint.aclose()
        serving.join()
        assert not feeding()


async def test_early_good_answer_gets_the_rest_of_the_body() -> None:
    """An upstream may answer while it reads; both go on side by side."""
    gate = asyncio.Event()
    body = Pieces(b"one", gate, b"two")

    async def serve(exchange: Exchange) -> None:
        await exchange.write(CHUNKED + chunk(b"begun"))
        said = await exchange.body()
        await exchange.write(chunk(said) + chunk(b""))

    async with connected() as it:
        it.upstream.queue_handler(serve)
        response = await it.endpoint.send(upload(body))
        assert response.status == 200
        gate.set()
        assert await response.read(100) == b"begunonetwo"
        response.close()
        assert it.endpoint.idle == 1


async def test_early_good_answer_breaks_when_the_body_does() -> None:
    """The upstream cannot know: its answer would be to half a request."""
    gate = asyncio.Event()
    body = Pieces(b"one", gate, LookupError("the caller left"), length=100)
    async with connected() as it:
        it.upstream.queue(CHUNKED + chunk(b"begun"), HOLD, early=True)
        response = await it.endpoint.send(upload(body))
        gate.set()
        with pytest.raises(LookupError, match="the caller left"):
            await response.read(100)
        response.close()
        await cleared(it)
        await it.upstream.until(lambda: it.upstream.aborted == 1)


async def test_whole_early_answer_ends_the_sending_when_it_is_closed() -> None:
    """A 200 with its whole body while ours still comes: taken, and the connection is cut."""
    body = Pieces(b"one", asyncio.Event(), length=100)
    async with connected() as it:
        it.upstream.queue(SHORT, early=True)
        assert await fetch(it.endpoint, upload(body)) == b"hello"
        await cleared(it)


# --- endings


@pytest.mark.parametrize("end", [CUT, RESET])
@pytest.mark.parametrize("large", [False, True])
async def test_upstream_that_breaks_off_ends_the_sending(end: object, large: bool) -> None:
    """In the middle of the body, whether it waits for the caller or for the upstream."""
    body = Pieces(*([bytes(256 * 1024)] * 128 if large else [bytes(1000), asyncio.Event()]), length=32 * MIB)

    async def leave(exchange: Exchange) -> None:
        exchange.pause_reading()
        await exchange.upstream.until(still(body))
        exchange.cut() if end is CUT else exchange.reset()

    async with connected() as it:
        it.upstream.queue_handler(leave)
        with pytest.raises(UpstreamBroke) as caught:
            await it.endpoint.send(upload(body))
        assert caught.value.nothing_received
        assert len(it.upstream.requests) == body.begun == 1
        await cleared(it)
        await it.works()


async def test_connection_is_closed_at_once_when_the_upstream_ends_it_and_reads_no_more() -> None:
    """What lies in our buffer is not waited for."""
    body = Pieces(*[bytes(256 * 1024)] * 128)

    async def leave(exchange: Exchange) -> None:
        exchange.pause_reading()
        await exchange.upstream.until(still(body))
        exchange.connection.transport.write_eof()
        await asyncio.Event().wait()

    async with connected() as it:
        it.upstream.queue_handler(leave)
        with pytest.raises(UpstreamBroke):
            await it.endpoint.send(upload(body))
        ours = psutil.Process().net_connections
        await it.upstream.until(lambda: all(it.upstream.port not in line.raddr for line in ours("tcp")))


@pytest.mark.parametrize("sized", [True, False])
async def test_what_the_body_raises_is_raised_and_the_request_stays_incomplete(sized: bool) -> None:
    """The caller left, or its form was wrong: no upstream may take half of it for the whole."""
    gate = asyncio.Event()
    body = Pieces(b"half", gate, LookupError("second model"), length=1000, sized=sized)
    async with connected() as it:
        await it.works()
        it.upstream.queue(SHORT)
        sending = asyncio.ensure_future(it.endpoint.send(upload(body)))
        await it.upstream.until(lambda: len(it.upstream.requests) == 2)
        gate.set()
        with pytest.raises(LookupError, match="second model"):
            await sending
        await it.upstream.until(lambda: it.upstream.aborted == 1)
        assert it.upstream.requests[1].body == b""  # filled when it is complete
        await cleared(it)
        assert body.begun == 1


@pytest.mark.parametrize(("length", "word"), [(5, "more"), (7, "less")])
async def test_body_of_another_length_than_announced_is_an_error(length: int, word: str) -> None:
    """A byte too many would be the beginning of another request."""
    body = Pieces(b"abc", b"def", length=length)
    async with connected() as it:
        it.upstream.queue(HOLD)
        with pytest.raises(ValueError, match=f"announced with {length} bytes has {word}"):
            await it.endpoint.send(upload(body))
        await it.upstream.until(lambda: it.upstream.open_connections == 0)
        await cleared(it)


async def test_body_begins_again_when_a_kept_connection_was_stale() -> None:
    """Once, on a fresh connection, from its first byte."""
    body = Pieces(*[random.Random(3).randbytes(100_000)] * 3)
    async with connected() as it:
        await it.works()
        it.upstream.queue(CUT)
        it.upstream.queue(SHORT)
        assert await fetch(it.endpoint, upload(body)) == b"hello"
        assert body.begun == 2
        assert it.upstream.requests[-1].body == body.all
        it.upstream.queue(CUT)
        it.upstream.queue(CUT)
        with pytest.raises(UpstreamBroke):
            await it.endpoint.send(upload(body))
        assert body.begun == 4
        await cleared(it)


async def test_body_does_not_begin_again_when_a_byte_of_the_answer_came() -> None:
    """Then the upstream has taken it."""
    body = Pieces(b"abc")
    async with connected() as it:
        await it.works()
        it.upstream.queue(b"H", CUT)
        with pytest.raises(UpstreamBroke):
            await it.endpoint.send(upload(body))
        assert body.begun == 1


async def test_cancellation_works_when_it_falls_on_any_step() -> None:
    """Cut after every number of loop turns: no task, no half-used connection, the counters right."""
    async with connected() as it:
        for turns in range(40):
            body = Pieces(bytes(200_000), b"x", *[bytes(10)] * 3)
            it.upstream.queue(OK + b"content-length: 2\r\n\r\n", b"h", b"i")
            task = asyncio.ensure_future(collect(it.endpoint, upload(body)))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait((task,))
            await it.settled()
            await it.upstream.until(lambda: it.upstream.open_connections == it.endpoint.idle)
            await it.upstream.until(lambda: not feeding())
            it.upstream.script(None)
            while len(it.upstream.requests) <= turns:
                await fetch(it.endpoint)  # takes the answer that was queued for a request that never came
        assert it.endpoint.in_flight == 0


async def test_cancelled_upload_is_cut_at_once() -> None:
    """While it waits for its caller: the upstream is freed."""
    body = Pieces(b"abc", asyncio.Event(), length=100)
    async with connected() as it:
        sending = asyncio.ensure_future(it.endpoint.send(upload(body)))
        await it.upstream.until(lambda: it.upstream.in_flight == 1)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        await it.upstream.until(lambda: it.upstream.aborted == 1)
        await cleared(it)


async def test_upload_ends_when_the_endpoint_is_closed() -> None:
    """Its sender gets an error."""
    body = Pieces(b"abc", asyncio.Event(), length=100)
    async with connected() as it:
        sending = asyncio.ensure_future(it.endpoint.send(upload(body)))
        await it.upstream.until(lambda: it.upstream.in_flight == 1)
        await it.endpoint.aclose()
        with pytest.raises(UpstreamBroke, match="shut down"):
            await sending
        await cleared(it)
