"""What a request becomes for the application, and what of one is refused: framing, targets, limits."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.server.protocol import HEAD_MAX_BYTES, UNTAKEN_MAX_BYTES
from gateway.server.service import Limits
from tests.fakes.running import Caller

from .served import Served, answer, read, served

GET = b"GET %b HTTP/1.1\r\nhost: h\r\n%b\r\n"
POST = b"POST /p HTTP/1.1\r\nhost: h\r\n%b\r\n%b"
CHUNKED = b"transfer-encoding: chunked\r\n"


async def refused(caller: Caller, status: int = 400) -> str:
    """The refusal's message; after it the connection is closed."""
    told = await caller.answer()
    assert told.status == status, told.body
    assert told.field("connection") == "close"
    assert await caller.ended()
    return str(told.error["message"])


# ---------------------------------------------------------------- the scope


async def test_scope_is_what_asgi_demands(server: Served) -> None:
    """Names in lower case, values without white space around, in order and as often as they came."""
    async with Caller(server.port) as caller:
        await caller.send(GET % (b"/a%20b%2Fc/%C3%BC?x=1%202&y?z", b"X-One:  \t1 \t\r\nx-one:2\r\nEmpty:\r\n"))
        assert (await caller.answer()).status == 200
    scope = server.scopes[0]
    assert (scope["type"], scope["http_version"], scope["method"], scope["scheme"]) == ("http", "1.1", "GET", "http")
    assert scope["path"] == "/a b/c/ü"
    assert scope["raw_path"] == b"/a%20b%2Fc/%C3%BC"
    assert scope["query_string"] == b"x=1%202&y?z"
    assert scope["headers"] == [(b"host", b"h"), (b"x-one", b"1"), (b"x-one", b"2"), (b"empty", b"")]
    assert scope["server"] == ("127.0.0.1", server.port)
    assert scope["client"][0] == "127.0.0.1"
    assert scope["root_path"] == ""


@pytest.mark.parametrize(
    ("target", "path"),
    [(b"http://other/a?b", "/a"), (b"http://other", "/"), (b"//admin", "//admin"), (b"/a/../b", "/a/../b")],
)
async def test_target_is_taken_as_it_stands(server: Served, target: bytes, path: str) -> None:
    """Absolute addresses too, which a server must understand; nothing is normalized here."""
    async with Caller(server.port) as caller:
        await caller.send(GET % (target, b""))
        assert (await caller.answer()).body == f"GET {path} ".encode()


async def test_options_of_everything(server: Served) -> None:
    """The one target that is no path."""
    async with Caller(server.port) as caller:
        await caller.send(b"OPTIONS * HTTP/1.1\r\nhost: h\r\n\r\n")
        assert (await caller.answer()).body == b"OPTIONS * "


async def test_head_that_comes_byte_by_byte(server: Served) -> None:
    """It is the same request."""
    async with Caller(server.port) as caller:
        for byte in POST % (b"content-length: 3\r\nX-Long: abc\r\n", b"abc"):
            await caller.send(bytes((byte,)))
        assert (await caller.answer()).body == b"POST /p abc"
    assert (b"x-long", b"abc") in server.scopes[0]["headers"]


# ---------------------------------------------------------------- bodies


@pytest.mark.parametrize("body", [b"", b"x", b"y" * 300_000])
async def test_body_of_a_length(server: Served, body: bytes) -> None:
    """It arrives as it was sent."""
    async with Caller(server.port) as caller:
        await caller.send(POST % (b"content-length: %d\r\n" % len(body), body))
        assert (await caller.answer()).body == b"POST /p " + body


async def test_body_in_chunks(server: Served) -> None:
    """With an extension, and a trailer, which is no header field."""
    async with Caller(server.port) as caller:
        await caller.send(POST % (CHUNKED, b"3;ext=1\r\nabc\r\nA\r\n0123456789\r\n0\r\nhost: evil\r\nX: y\r\n\r\n"))
        assert (await caller.answer()).body == b"POST /p abc0123456789"
        await caller.send(GET % (b"/again", b""))
        assert (await caller.answer()).status == 200
    assert server.scopes[0]["headers"] == [(b"host", b"h"), (b"transfer-encoding", b"chunked")]


async def test_upload_waits_for_the_application(server: Served) -> None:
    """What is not taken is not read: the sender is held up, and all arrives once it is taken."""
    size = 64 << 20
    take = asyncio.Event()

    async def slow(_: Any, receive: Any, send: Any) -> None:
        await take.wait()
        got, largest = 0, 0
        while True:
            message = await receive()
            got += len(message["body"])
            largest = max(largest, len(message["body"]))
            if not message["more_body"]:
                break
        await answer(send, b"%d %d" % (got, largest))

    server.handlers["/p"] = slow
    async with Caller(server.port) as caller:
        await caller.send(POST % (b"content-length: %d\r\n" % size, b""))
        sending = asyncio.ensure_future(caller.send(b"x" * size))
        await server.until(lambda: server.running == 1)
        done, _ = await asyncio.wait([sending], timeout=0.1)
        assert not done
        take.set()
        await sending
        got, largest = map(int, (await caller.answer()).body.split())
    assert got == size
    assert largest <= UNTAKEN_MAX_BYTES + (256 << 10)


async def test_continue_is_said_when_the_body_is_wanted(server: Served) -> None:
    """Once, and only then."""
    async with Caller(server.port) as caller:
        await caller.send(POST % (b"content-length: 2\r\nexpect: 100-Continue\r\n", b""))
        assert [await caller.line() for _ in range(2)] == [b"HTTP/1.1 100 Continue\r\n", b"\r\n"]
        await caller.send(b"ab")
        assert (await caller.answer()).body == b"POST /p ab"
        await caller.send(POST % (b"content-length: 2\r\nexpect: 100-continue\r\n", b"cd"))
        assert await caller.line() == b"HTTP/1.1 200 OK\r\n"


async def test_continue_is_not_said_to_a_refused_caller(server: Served) -> None:
    """And nothing after its answer can be taken for another request."""

    async def refuse(_: Any, __: Any, send: Any) -> None:
        await answer(send, b"no", 401)

    server.handlers["/p"] = refuse
    async with Caller(server.port) as caller:
        await caller.send(POST % (b"content-length: 36\r\nexpect: 100-continue\r\n", b""))
        told = await caller.answer()
        assert (told.status, told.field("connection")) == (401, "close")
        await caller.send(GET % (b"/smuggled", b""))
        assert await caller.ended()
    assert len(server.scopes) == 1


async def test_body_that_nobody_took_is_thrown_away(server: Served) -> None:
    """The connection goes on after it."""

    async def hasty(_: Any, __: Any, send: Any) -> None:
        await answer(send, b"done")

    server.handlers["/p"] = hasty
    async with Caller(server.port) as caller:
        await caller.send(POST % (b"content-length: 200000\r\n", b"x" * 1000))
        assert (await caller.answer()).body == b"done"
        await caller.send(b"x" * 199_000 + GET % (b"/next", b""))
        assert (await caller.answer()).body == b"GET /next "


async def test_upgrade_is_ignored(server: Served) -> None:
    """Java's client asks for h2c with every request: it gets a plain answer, and its body arrives."""
    upgrade = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAM\r\n"
    async with Caller(server.port) as caller:
        for framing, body in ((b"content-length: 3\r\n", b"abc"), (CHUNKED, b"3\r\nabc\r\n0\r\n\r\n")):
            await caller.send(POST % (upgrade + framing, body))
            told = await caller.answer()
            assert (told.status, told.body) == (200, b"POST /p abc")
        await caller.send(GET % (b"/ws", b"connection: upgrade\r\nupgrade: websocket\r\n"))
        assert (await caller.answer()).body == b"GET /ws "
        await caller.send(POST % (upgrade + b"content-length: 6\r\n", b"ab"))
        await server.until(lambda: server.running == 1)
        await caller.send(b"cdef")
        assert (await caller.answer()).body == b"POST /p abcdef"


# ---------------------------------------------------------------- refusals

TRAPS = {
    "length and coding": POST % (b"content-length: 3\r\n" + CHUNKED, b"0\r\n\r\n"),
    "coding and length": POST % (CHUNKED + b"content-length: 3\r\n", b"0\r\n\r\n"),
    "two lengths": POST % (b"content-length: 3\r\ncontent-length: 3\r\n", b"abc"),
    "list of lengths": POST % (b"content-length: 3, 3\r\n", b"abc"),
    "signed length": POST % (b"content-length: +3\r\n", b"abc"),
    "empty length": POST % (b"content-length:\r\n", b""),
    "endless length": POST % (b"content-length: 99999999999999999999\r\n", b""),
    "unknown coding": POST % (b"transfer-encoding: xchunked\r\n", b"0\r\n\r\n"),
    "coding after chunked": POST % (b"transfer-encoding: chunked, gzip\r\n", b"0\r\n\r\n"),
    "chunked twice": POST % (CHUNKED + CHUNKED, b"0\r\n\r\n"),
    "chunk without a size": POST % (CHUNKED, b"xyz\r\n"),
    "chunk of 0x3": POST % (CHUNKED, b"0x3\r\nabc\r\n0\r\n\r\n"),
    "negative chunk": POST % (CHUNKED, b"-3\r\nabc\r\n0\r\n\r\n"),
    "endless chunk": POST % (CHUNKED, b"fffffffffffffffff\r\n"),
    "chunk size with a space": POST % (CHUNKED, b"3 \r\nabc\r\n0\r\n\r\n"),
    "chunk lines that end with LF": POST % (CHUNKED, b"3\nabc\n0\n\n"),
    "chunk longer than its size": POST % (CHUNKED, b"3\r\nabcd\r\n0\r\n\r\n"),
    "space in a name": GET % (b"/", b"a b: 1\r\n"),
    "space before the colon": GET % (b"/", b"content-length : 3\r\n"),
    "empty name": GET % (b"/", b": 1\r\n"),
    "NUL": GET % (b"/", b"a: 1\0 2\r\n"),
    "control character": GET % (b"/", b"a: \x0b1\r\n"),
    "folded line": GET % (b"/", b"a: 1\r\n 2\r\n"),
    "folded first line": b"GET / HTTP/1.1\r\n host: h\r\n\r\n",
    "lines that end with LF": b"GET / HTTP/1.1\nhost: h\n\n",
    "lone CR": GET % (b"/", b"a: 1\r2\r\n"),
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": GET % (b"/", b"Host: g\r\n"),
    "fragment": GET % (b"/a#b", b""),
    "target that is none": GET % (b"a", b""),
    "raw byte in the target": GET % (b"/\xff", b""),
    "unknown method": b"BREW / HTTP/1.1\r\nhost: h\r\n\r\n",
    "lower-case method": b"get / HTTP/1.1\r\nhost: h\r\n\r\n",
    "HTTP/1.2": b"GET / HTTP/1.2\r\nhost: h\r\n\r\n",
    "HTTP/2's preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "SSH": b"SSH-2.0-OpenSSH_9.9\r\n",
}


@pytest.mark.parametrize("trap", TRAPS)
async def test_what_could_be_read_in_two_ways_is_refused(server: Served, trap: str) -> None:
    """With 400 in the envelope, and nothing behind it is served."""
    async with Caller(server.port) as caller:
        await caller.send(TRAPS[trap] + GET % (b"/smuggled", b""))
        assert await refused(caller)
    await server.until(lambda: server.running == 0)
    assert [scope["path"] for scope in server.scopes] in ([], ["/p"])
    assert server.bodies == []


@pytest.mark.parametrize("version", [b"0.9", b"2.0"])
async def test_other_versions_are_refused(server: Served, version: bytes) -> None:
    """A caller that speaks them would not understand the answer."""
    async with Caller(server.port) as caller:
        await caller.send(b"GET / HTTP/%b\r\nhost: h\r\n\r\n" % version)
        assert "HTTP/1.1" in await refused(caller, 505)


async def test_connect_is_refused(server: Served) -> None:
    """This is no proxy for anything."""
    async with Caller(server.port) as caller:
        await caller.send(b"CONNECT evil:443 HTTP/1.1\r\nhost: evil:443\r\n\r\nbytes")
        assert await refused(caller, 405)
    assert server.scopes == []


@pytest.mark.parametrize("how", ["one field", "many fields", "target", "unfinished", "with a body"])
async def test_head_without_end_is_refused(server: Served, how: str) -> None:
    """431, whether it comes to its end or not."""
    much = HEAD_MAX_BYTES + 1
    heads = {
        "one field": GET % (b"/", b"a: " + b"x" * much + b"\r\n"),
        "many fields": GET % (b"/", b"a: b\r\n" * (much // 6)),
        "target": GET % (b"/" + b"x" * much, b""),
        "unfinished": b"GET / HTTP/1.1\r\nhost: h\r\na: " + b"x" * much,
        "with a body": POST % (b"content-length: 3\r\na: " + b"x" * much + b"\r\n", b"abc"),
    }
    async with Caller(server.port) as caller:
        await caller.send(heads[how])
        assert await refused(caller, 431)
    assert server.scopes == []


async def test_head_of_nearly_the_limit_is_served(server: Served) -> None:
    """Also with a large body right behind it."""
    body = b"y" * 100_000
    async with Caller(server.port) as caller:
        long = b"a: " + b"x" * (HEAD_MAX_BYTES - 200) + b"\r\n"
        await caller.send(POST % (long + b"content-length: %d\r\n" % len(body), body))
        assert (await caller.answer()).body == b"POST /p " + body


@pytest.mark.parametrize(
    "what", [b"1;" + b"x" * 70_000, b"0\r\n" + b"a: b\r\n" * 12_000], ids=["extension", "trailers"]
)
async def test_endless_overhead_of_chunks_is_refused(server: Served, what: bytes) -> None:
    """It would be read for ever and be nobody's body."""
    async with Caller(server.port) as caller:
        await caller.send(POST % (CHUNKED, b""))
        await server.until(lambda: server.running == 1)
        for start in range(0, len(what), 10_000):
            await caller.send(what[start : start + 10_000])
        assert await refused(caller)
    await server.until(lambda: server.running == 0)


async def test_bad_chunk_in_the_middle_of_an_answer_cuts_it(server: Served) -> None:
    """The answer had begun: it must not look whole."""

    async def early(_: Any, receive: Any, send: Any) -> None:
        await answer(send, b"begun", more=True)
        assert await read(receive) is None

    server.handlers["/p"] = early
    async with Caller(server.port) as caller:
        await caller.send(POST % (CHUNKED, b"3\r\nabc\r\n"))
        assert (await caller.head())[0] == 200
        assert await caller.piece() == b"begun"
        await caller.send(b"xyz\r\n")
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await caller.piece()
    await server.until(lambda: server.running == 0)


async def test_slow_head_is_refused() -> None:
    """A byte now and then does not hold a connection."""
    async with served(Limits(head_s=0.05)) as server, Caller(server.port) as caller:
        await caller.send(b"GET / HTTP/1.1\r\nhost:")
        told = await caller.answer()
        assert (told.status, told.field("connection")) == (408, "close")
        assert await caller.ended()


async def test_refused_caller_may_end_what_it_is_sending() -> None:
    """The refusal arrives, and is not lost to a reset; one that goes on for ever is cut."""
    async with served(Limits(linger_s=0.2)) as server, Caller(server.port) as caller:
        await caller.send(GET % (b"/", b"a: " + b"x" * 100_000))
        for _ in range(20):
            await caller.send(b"x" * 100_000)
        assert (await caller.answer()).status == 431
        with pytest.raises(ConnectionError):
            await send_for_ever(caller)


async def send_for_ever(caller: Caller) -> None:
    """As fast as it is taken."""
    while True:
        await caller.send(b"x" * 100_000)
