"""An upstream whose answers begin with the same head: each is read as if it were the first."""

from __future__ import annotations

import asyncio

import pytest

from providers.contract import Request
from providers.errors import ProviderError, UpstreamBroke
from providers.transport import Endpoint
from tests.fakes.upstream import CUT, AnswerStep
from tests.providers.wire import CHUNKED, OK, SHORT, chunk, collect, connected, fetch, request

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])

HEAD = OK + b"Server: s\r\nContent-Length: %d\r\nX-One:  a \r\nX-One: b\r\n\r\n"
Told = tuple[int, list[tuple[bytes, bytes]], bytes, int]


def plain(body: bytes) -> bytes:
    return HEAD % len(body) + body


async def told(endpoint: Endpoint, asked: Request | None = None) -> Told | str:
    """Status, fields and body, and how many connections are kept afterwards; or how it failed."""
    try:
        response = await endpoint.send(asked or request())
    except ProviderError as error:
        return type(error).__name__
    try:
        body = await response.read(1 << 20)
    except ProviderError as error:
        return f"{response.status} {type(error).__name__}"
    finally:
        response.close()
    return response.status, response.headers, body, endpoint.idle


# What may come after a head that is known.
ANSWERS: dict[str, tuple[AnswerStep, ...]] = {
    "the same": (plain(b"hello"),),
    "another length": (plain(b"a" * 1234),),
    "nothing": (plain(b""),),
    "a head in the body": (plain(plain(b"x")),),
    "another status": (plain(b"no").replace(b"200 OK", b"429 Too Many Requests"),),
    "another field": (plain(b"hello").replace(b"Server: s", b"Server: t"),),
    "chunks": (CHUNKED + chunk(b"hello") + b"0\r\n\r\n",),
    "no length": (OK + b"\r\nhello", CUT),
    "closing": (OK + b"connection: close\r\ncontent-length: 2\r\n\r\nhi",),
    "not modified": (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n",),
    "interim": (b"HTTP/1.1 100 Continue\r\n\r\n" + plain(b"hello"),),
    "two answers": (plain(b"hello") + plain(b"again"),),
    "too much": (plain(b"hello") + b"x",),
    "two lengths": (plain(b"hello").replace(b"X-One: b", b"Content-Length: 6"),),
    "a sign": (plain(b"hello").replace(b": 5", b": +5"),),
    "a length of its own kind": (plain(b"hello").replace(b": 5", b": 0x5"),),
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
async def test_it_is_read_as_on_a_connection_of_its_own(answer: tuple[AnswerStep, ...]) -> None:
    """After a head that is known, and with one that has become known: fields, body, and whether the connection is kept."""
    async with connected() as alone:
        alone.upstream.queue(*answer)
        expected = await told(alone.endpoint)
    async with connected() as it:
        for _ in range(3):
            it.upstream.queue(plain(b"first"))
            assert await fetch(it.endpoint) == b"first"
            it.upstream.queue(*answer)
            assert await told(it.endpoint) == expected
        await it.works()


@pytest.mark.parametrize("at", range(1, len(plain(b"hello"))))
async def test_it_comes_in_two_pieces(at: int) -> None:
    """Cut anywhere, it is waited for."""
    gate = asyncio.Event()
    async with connected() as it:
        it.upstream.queue(plain(b"hello"))
        await fetch(it.endpoint)
        whole = plain(b"hello")
        it.upstream.queue(whole[:at], gate, whole[at:])
        asked = asyncio.ensure_future(fetch(it.endpoint))
        await it.upstream.until(lambda: it.upstream.in_flight == 1)
        gate.set()
        assert await asked == b"hello"
        assert it.endpoint.idle == 1


async def test_it_ends_early() -> None:
    """Less than the known head announces is broken off, never whole."""
    async with connected() as it:
        it.upstream.queue(plain(b"hello"))
        await fetch(it.endpoint)
        it.upstream.queue(plain(b"hello")[:-1], CUT)
        with pytest.raises(UpstreamBroke, match="broke off"):
            await fetch(it.endpoint)


async def test_an_answer_to_head_has_no_body() -> None:
    """Whatever its length says."""
    async with connected() as it:
        for method, body in ((b"POST", b"hello"), (b"HEAD", b""), (b"POST", b"hello")):
            it.upstream.queue(HEAD % 5 + body)
            assert await fetch(it.endpoint, request(b"" if method == b"HEAD" else b"{}", method=method)) == body
        assert it.upstream.connections == 1


async def test_what_is_made_of_a_head_lasts_as_long_as_it_comes() -> None:
    """One memory for all answers with it, whatever their length; the first has none, nor has another head."""
    memories: list[object] = []
    async with connected() as it:
        for answer in (plain(b"a"), plain(b"b"), plain(b"long"), SHORT, plain(b"c")):
            it.upstream.queue(answer)
            response = await it.endpoint.send(request())
            memories.append(response.made)
            response.close()
    assert memories[0] is None
    assert memories[1] is not None
    assert memories[1] is memories[2] is memories[4]
    assert memories[3] is None


async def test_it_is_pumped_like_any_other() -> None:
    """In one piece."""
    async with connected() as it:
        for body in (b"a", b"b", b""):
            it.upstream.queue(plain(body))
            assert await collect(it.endpoint) == [body][: len(body)]


async def test_an_answer_that_nobody_asked_for_ends_the_connection() -> None:
    """Its head may be known as well as it likes."""
    async with connected() as it:
        it.upstream.queue(plain(b"hello"))
        await fetch(it.endpoint)
        gate = asyncio.Event()
        it.upstream.queue(plain(b"hello"), gate, plain(b"unasked"))
        assert await fetch(it.endpoint) == b"hello"
        gate.set()
        await it.upstream.until(lambda: it.endpoint.idle == 0)
        await it.works()
