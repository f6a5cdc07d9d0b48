"""Bodies that are too large, come slowly, or do not come: the refusal reaches a caller that is still sending."""

from __future__ import annotations

import asyncio

import pytest

from tests.api.conftest import MAX_BODY_BYTES
from tests.fakes.running import CHAT, Answer, Caller, Running, chat
from tests.fakes.upstream import FakeUpstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

HEAD = f"POST {CHAT} HTTP/1.1\r\nhost: 127.0.0.1\r\n".encode()
PIECE = b"x" * 65_536


async def refusal(caller: Caller) -> Answer:
    """The answer, which must be a 413."""
    answer = await caller.answer()
    assert (answer.status, answer.error["code"]) == (413, "body_too_large")
    assert str(MAX_BODY_BYTES) in answer.error["message"]
    assert "max_body_bytes" in answer.error["message"]
    assert answer.field("x-request-id")
    assert answer.field("connection") == "close"
    return answer


async def test_declared_length_is_refused_before_a_byte_of_the_body(gateway: Running) -> None:
    """Nothing needs to be sent to learn it."""
    async with Caller(gateway.port) as caller:
        await caller.send(HEAD + b"content-length: %d\r\n\r\n" % (MAX_BODY_BYTES + 1))
        await refusal(caller)


async def test_expect_100_is_refused_without_asking_for_the_body(gateway: Running) -> None:
    """No `100 Continue`, neither before nor after the answer."""
    async with Caller(gateway.port) as caller:
        await caller.send(HEAD + b"expect: 100-continue\r\ncontent-length: 99999999\r\n\r\n")
        await refusal(caller)
        caller.finish()
        assert await caller.ended()


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_refusal_reaches_a_caller_that_is_still_sending(gateway: Running, framing: str) -> None:
    """Megabytes are under way when it comes: the connection is not reset under it, and what comes is thrown away."""
    async with Caller(gateway.port) as caller:
        if framing == "length":
            await caller.send(HEAD + b"content-length: 8388608\r\n\r\n")
            piece = PIECE
        else:
            await caller.send(HEAD + b"transfer-encoding: chunked\r\n\r\n")
            piece = b"%x\r\n%b\r\n" % (len(PIECE), PIECE)
        for _ in range(128):
            await caller.send(piece)
        if framing == "chunked":
            await caller.send(b"0\r\n\r\n")
        await refusal(caller)
        assert await caller.ended()
    await gateway.until(lambda: gateway.parts.metrics.in_flight == 0)


async def test_refused_caller_that_sends_for_ever_is_cut(gateway: Running) -> None:
    """It is listened to for some seconds, not longer."""
    async with Caller(gateway.port) as caller:
        await caller.send(HEAD + b"transfer-encoding: chunked\r\n\r\n")
        sending = asyncio.ensure_future(send_for_ever(caller))
        await refusal(caller)
        await gateway.until(lambda: gateway.parts.metrics.in_flight == 0)
        with pytest.raises((ConnectionError, OSError)):
            await sending


async def send_for_ever(caller: Caller) -> None:
    """Chunk after chunk, as fast as they are taken."""
    while True:
        await caller.send(b"%x\r\n%b\r\n" % (len(PIECE), PIECE))
        await asyncio.sleep(0)


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_body_of_just_the_limit_passes(gateway: Running, upstream: FakeUpstream, framing: str) -> None:
    """The limit itself is allowed."""
    body = chat("echo")
    body = body[:-1] + b" " * (MAX_BODY_BYTES - len(body)) + b"}"
    async with Caller(gateway.port) as caller:
        if framing == "length":
            await caller.send(HEAD + b"content-length: %d\r\n\r\n" % len(body) + body)
        else:
            pieces = [body[i : i + 50_000] for i in range(0, len(body), 50_000)]
            await caller.send(HEAD + b"transfer-encoding: chunked\r\n\r\n")
            for piece in pieces:
                await caller.send(b"%x\r\n%b\r\n" % (len(piece), piece))
            await caller.send(b"0\r\n\r\n")
        assert (await caller.answer()).status == 200
    assert upstream.requests[-1].body == body


async def test_expect_100_is_answered_when_the_body_is_wanted(gateway: Running) -> None:
    """curl waits a second for it otherwise."""
    body = chat("echo")
    async with Caller(gateway.port) as caller:
        await caller.send(HEAD + b"expect: 100-continue\r\ncontent-length: %d\r\n\r\n" % len(body))
        assert [await caller.line() for _ in range(2)] == [b"HTTP/1.1 100 Continue\r\n", b"\r\n"]
        await caller.send(body)
        assert (await caller.answer()).status == 200


@pytest.mark.parametrize("goes", ["leaves", "resets"])
async def test_caller_that_goes_mid_upload_leaves_nothing(gateway: Running, upstream: FakeUpstream, goes: str) -> None:
    """No lease, nothing in flight, nothing sent upstream."""
    before, left = len(upstream.requests), gateway.parts.metrics.disconnects
    async with Caller(gateway.port) as caller:
        await caller.send(HEAD + b"content-length: 100000\r\n\r\n" + b"x" * 1000)
        await gateway.until(lambda: gateway.parts.metrics.in_flight == 1)
        caller.leave() if goes == "leaves" else caller.reset()
        await gateway.until(lambda: gateway.parts.metrics.in_flight == 0, within_s=1.0)
    assert gateway.parts.metrics.disconnects == left + 1
    assert len(upstream.requests) == before


async def test_key_is_asked_for_before_the_body_is_read(gateway: Running) -> None:
    """Other refusals too come without waiting for the body."""
    async with Caller(gateway.port) as caller:
        await caller.send(f"PUT {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n".encode())
        assert (await caller.answer()).status == 405
