"""Streaming: no task per event, every byte in order, and a slow client stops the upstream."""

from __future__ import annotations

import asyncio
import hashlib
import random

import pytest

from providers.errors import UpstreamBroke
from tests.fakes.upstream import HOLD, Exchange
from tests.providers.wire import CHUNKED, UNREAD_MAX_BYTES, Flood, chunk, connected, request

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])


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


async def test_connection_serves_the_next_request_when_the_sink_waited_for_the_last_piece() -> None:
    """Reading was paused for the client and goes on for the next answer."""

    async def sink(piece: bytes) -> None:
        await asyncio.sleep(0)

    gate = asyncio.Event()
    async with connected() as it:
        it.upstream.queue(CHUNKED, gate, chunk(b"last") + b"0\r\n\r\n")
        response = await it.endpoint.send(request())
        pumping = asyncio.ensure_future(response.pump(sink))
        await asyncio.sleep(0)
        gate.set()
        await pumping
        response.close()
        await it.works()
        assert it.upstream.connections == 1


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
