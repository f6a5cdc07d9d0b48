"""How an answer goes out: framing, one write, and what comes after it on the connection."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.server.exchange import JOIN_MAX_BYTES
from gateway.server.service import Limits
from tests.fakes.running import WITHIN_S, Caller

from .served import Served, answer, piece, read, served

GET = b"GET %b HTTP/1.1\r\nhost: h\r\n\r\n"


async def raw(port: int, request: bytes) -> bytes:
    """Everything that comes until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    async with asyncio.timeout(WITHIN_S):
        writer.write(request)
        try:
            return await reader.read()
        finally:
            writer.close()


def gives(status: int = 200, headers: Any = (), *pieces: bytes) -> Any:
    """A handler with this answer, each piece in a message of its own."""

    async def handler(_: Any, __: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": status, "headers": headers})
        for number, data in enumerate(pieces, 1):
            await piece(send, data, more=number < len(pieces))

    return handler


# ---------------------------------------------------------------- framing


async def test_every_byte_of_a_plain_answer(server: Served) -> None:
    """Status line, date, the application's fields as they are, the length where it is known."""
    server.handlers["/a"] = gives(200, [(b"x-a", b"1"), (b"X-A", b"2")], b"body")
    got = await raw(server.port, b"GET /a HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n")
    assert got == (
        b"HTTP/1.1 200 OK\r\ndate: Sun, 22 Nov 2026 12:00:00 GMT\r\nx-a: 1\r\nX-A: 2\r\ncontent-length: 4\r\n"
        b"connection: close\r\n\r\nbody"
    )


async def test_date_follows_the_clock(server: Served) -> None:
    """It is made anew when the second changes, and only then."""
    for second in (b"00", b"01"):
        server.state.default_headers = [(b"date", b"Sun, 22 Nov 2026 12:00:" + second + b" GMT")]
        async with Caller(server.port) as caller:
            await caller.send(GET % b"/")
            assert (await caller.answer()).field("date") == f"Sun, 22 Nov 2026 12:00:{second.decode()} GMT"


@pytest.mark.parametrize("size", [1, JOIN_MAX_BYTES, JOIN_MAX_BYTES + 1, 1 << 20])
async def test_pieces_without_a_length_are_chunks(server: Served, size: int) -> None:
    """Each in one chunk; empty ones are none, since an empty chunk ends the answer."""
    server.handlers["/a"] = gives(200, [], b"", b"x" * size, b"", b"end", b"")
    async with Caller(server.port) as caller:
        await caller.send(GET % b"/a" * 2)
        for _ in range(2):
            _, fields = await caller.head()
            assert dict(fields)["transfer-encoding"] == "chunked"
            assert "content-length" not in dict(fields)
            assert [await caller.piece() for _ in range(3)] == [b"x" * size, b"end", b""]


@pytest.mark.parametrize("size", [0, 5, JOIN_MAX_BYTES + 1])
async def test_last_piece_may_hold_something(server: Served, size: int) -> None:
    """It is not lost before the end."""
    server.handlers["/a"] = gives(200, [], b"first", b"x" * size)
    async with Caller(server.port) as caller:
        await caller.send(GET % b"/a")
        assert (await caller.answer()).body == b"first" + b"x" * size


@pytest.mark.parametrize("size", [0, 3, JOIN_MAX_BYTES + 1])
async def test_announced_length_is_kept(server: Served, size: int) -> None:
    """In one piece or in several."""
    headers = [(b"content-length", b"%d" % (size + 2))]
    server.handlers["/a"] = gives(200, headers, b"ab" + b"x" * size)
    server.handlers["/b"] = gives(200, headers, b"a", b"", b"b" + b"x" * size, b"")
    async with Caller(server.port) as caller:
        for path in (b"/a", b"/b"):
            await caller.send(GET % path)
            told = await caller.answer()
            assert told.field("content-length") == str(size + 2)
            assert told.field("transfer-encoding") is None
            assert told.body == b"ab" + b"x" * size


async def test_head_and_body_leave_together(server: Served) -> None:
    """One read gets all of it, also of an event stream's beginning."""
    server.handlers["/a"] = gives(200, [], b"event", b"")
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(GET % b"/a")
    await server.until(lambda: bool(server.scopes) and server.running == 0)
    got = await reader.read(1 << 16)
    assert got.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\n\r\n5\r\nevent\r\n" in got
    writer.close()


@pytest.mark.parametrize("path", ["/sized", "/chunks"])
async def test_head_gets_no_body(server: Served, path: str) -> None:
    """But the fields that GET would get, as far as they are known, and the connection goes on."""
    server.handlers["/sized"] = gives(200, [(b"content-length", b"4")], b"body")
    server.handlers["/chunks"] = gives(200, [], b"bo", b"dy")
    async with Caller(server.port) as caller:
        await caller.send(f"HEAD {path} HTTP/1.1\r\nhost: h\r\n\r\n".encode() + GET % b"/next")
        told = await caller.answer(bodyless=True)
        assert told.field("content-length") == ("4" if path == "/sized" else None)
        assert (await caller.answer()).body == b"GET /next "


@pytest.mark.parametrize("status", [204, 304])
async def test_status_without_a_body(server: Served, status: int) -> None:
    """Neither a body nor a framing, whatever the application gives."""
    server.handlers["/a"] = gives(status, [(b"content-length", b"4")] if status == 204 else [], b"body")
    async with Caller(server.port) as caller:
        await caller.send(GET % b"/a" + GET % b"/next")
        told = await caller.answer(bodyless=True)
        assert told.status == status
        assert told.field("transfer-encoding") is None
        assert told.field("content-length") is None
        assert (await caller.answer()).body == b"GET /next "


async def test_framing_is_not_the_applications_to_say(server: Served) -> None:
    """A coding it names is left out: two would be read in two ways."""
    server.handlers["/a"] = gives(200, [(b"Transfer-Encoding", b"chunked"), (b"Content-Length", b"2")], b"ab")
    async with Caller(server.port) as caller:
        await caller.send(GET % b"/a")
        told = await caller.answer()
        assert (told.field("transfer-encoding"), told.field("content-length"), told.body) == (None, "2", b"ab")


@pytest.mark.parametrize(
    ("name", "value"),
    [(b"a", b"1\r\nx: y"), (b"a", b"1\nb"), (b"a", b"1\0"), (b"a b", b"1"), (b"a\r\nb", b"1"), (b"", b"1")],
)
async def test_field_that_would_be_two_is_not_sent(server: Served, name: bytes, value: bytes) -> None:
    """The caller is told of an internal error in its place."""
    server.handlers["/a"] = gives(200, [(name, value)], b"body")
    async with Caller(server.port) as caller:
        await caller.send(GET % b"/a")
        told = await caller.answer()
        assert (told.status, told.error["code"]) == (500, "internal_error")
        assert await caller.ended()


WHOLE: dict[str, tuple[int, list[tuple[bytes, bytes]], bytes]] = {
    "plain": (200, [(b"x-a", b"1"), (b"X-A", b"2")], b"body"),
    "nothing": (200, [], b""),
    "large": (200, [(b"x-a", b"1")], b"a" * (JOIN_MAX_BYTES + 1)),
    "no content": (204, [(b"x-a", b"1")], b""),
    "its length": (200, [(b"Content-Length", b"4")], b"body"),
    "a wrong length": (200, [(b"content-length", b"5")], b"body"),
    "a coding": (200, [(b"transfer-encoding", b"chunked")], b"body"),
    "closing": (200, [(b"connection", b"close")], b"body"),
    "two in one": (200, [(b"a", b"1\r\nx: y")], b"body"),
    "no name": (200, [(b"a b", b"1")], b"body"),
    "no status": (99, [], b"body"),
}
ASKED = (
    b"POST /a HTTP/1.1\r\nhost: h\r\ncontent-length: 0\r\n\r\n",
    b"HEAD /a HTTP/1.1\r\nhost: h\r\n\r\n",
    b"GET /a HTTP/1.0\r\n\r\n",
    b"POST /a HTTP/1.1\r\nhost: h\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n",
)


def gives_whole(status: int, headers: Any, more: Any, body: bytes) -> Any:
    """All of it at once, by the short way."""

    async def handle(scope: Any, _receive: Any, _send: Any) -> None:
        scope["state"]["exchange"].answer(status, headers, more, body)

    return handle


@pytest.mark.parametrize("asked", ASKED, ids=["post", "head", "1.0", "expect"])
@pytest.mark.parametrize("name", WHOLE)
async def test_a_whole_answer_is_that_of_two_messages(server: Served, name: str, asked: bytes) -> None:
    """Byte by byte, whichever part of its header fields is this answer's only; also when it is given again."""
    status, headers, body = WHOLE[name]
    end = b"GET /end HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n"
    server.handlers["/a"] = gives(status, headers, body)
    expected = await raw(server.port, asked + end)
    fixed = tuple(headers)
    for given, more in ((headers, []), ([], headers), (fixed, []), (fixed, []), (fixed[:1], headers[1:])):
        server.handlers["/a"] = gives_whole(status, given, more, body)
        assert await raw(server.port, asked + end) == expected


# ---------------------------------------------------------------- HTTP/1.0 and closing


async def test_http_1_0_gets_no_chunks(server: Served) -> None:
    """Its answer ends with the connection."""
    server.handlers["/a"] = gives(200, [], b"some", b"thing")
    got = await raw(server.port, b"GET /a HTTP/1.0\r\nconnection: keep-alive\r\n\r\n")
    head, _, body = got.partition(b"\r\n\r\n")
    assert body == b"something"
    assert b"transfer-encoding" not in head
    assert b"connection: close" in head


async def test_caller_asks_to_close(server: Served) -> None:
    """It is told so, and what it sends behind is not served."""
    got = await raw(server.port, b"GET /a HTTP/1.1\r\nhost: h\r\nConnection: Close\r\n\r\n" + GET % b"/b")
    assert got.count(b"HTTP/1.1 ") == 1
    assert b"connection: close" in got
    assert [scope["path"] for scope in server.scopes] == ["/a"]


async def test_application_asks_to_close(server: Served) -> None:
    """Its own field, once."""
    server.handlers["/a"] = gives(200, [(b"connection", b"close")], b"body")
    got = await raw(server.port, GET % b"/a")
    assert got.lower().count(b"connection: close") == 1


# ---------------------------------------------------------------- one after another


async def test_requests_sent_ahead_are_answered_in_order(server: Served) -> None:
    """One at a time, also when the first takes longer, with bodies and without."""
    first = asyncio.Event()

    async def slow(_: Any, receive: Any, send: Any) -> None:
        assert await read(receive) == b"abc"
        await first.wait()
        await answer(send, b"slow")

    server.handlers["/slow"] = slow
    async with Caller(server.port) as caller:
        await caller.send(
            b"POST /slow HTTP/1.1\r\nhost: h\r\ncontent-length: 3\r\n\r\nabc"
            b"POST /b HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\n\r\nde"
            + GET % b"/c"
            + b"POST /d HTTP/1.1\r\nhost: h\r\ncontent-length: 4\r\n\r\nfg"
        )
        await server.until(lambda: server.running == 1)
        await caller.send(b"hi")
        first.set()
        answers = [(await caller.answer()).body for _ in range(4)]
    assert answers == [b"slow", b"POST /b de", b"GET /c ", b"POST /d fghi"]


async def test_bad_request_behind_a_good_one_waits_for_it(server: Served) -> None:
    """The good one is answered first, then the refusal comes, then the end."""
    go = asyncio.Event()

    async def slow(_: Any, __: Any, send: Any) -> None:
        await go.wait()
        await answer(send, b"slow")

    server.handlers["/slow"] = slow
    async with Caller(server.port) as caller:
        await caller.send(GET % b"/slow" + GET % b"/b" + b"rubbish\r\n\r\n")
        await server.until(lambda: server.running == 1)
        go.set()
        assert [(await caller.answer()).status for _ in range(3)] == [200, 200, 400]
        assert await caller.ended()


async def test_many_requests_on_one_connection(server: Served) -> None:
    """Nothing of one is left for the next."""
    async with Caller(server.port) as caller:
        for number in range(100):
            body = b"x" * number
            await caller.send(b"POST /%d HTTP/1.1\r\nhost: h\r\ncontent-length: %d\r\n\r\n" % (number, number) + body)
            assert (await caller.answer()).body == b"POST /%d " % number + body


async def test_answers_that_are_not_read_hold_up_the_next_requests(server: Served) -> None:
    """Else requests sent ahead for ever would fill the memory with answers."""
    server.handlers["/a"] = gives(200, [], b"x" * (1 << 20))
    count = 64
    async with Caller(server.port) as caller:
        await caller.send(GET % b"/a" * count)
        await server.until(lambda: len(server.scopes) > 0 and server.running == 0)
        begun = len(server.scopes)
        assert begun < count
        for _ in range(count):
            assert len((await caller.answer()).body) == 1 << 20
    assert len(server.scopes) == count


# ---------------------------------------------------------------- time


async def test_silent_connection_is_closed() -> None:
    """Before the first request as well as after one; not while an answer is under way."""
    async with served(Limits(keep_alive_s=0.05)) as server:
        go = asyncio.Event()

        async def slow(_: Any, __: Any, send: Any) -> None:
            await go.wait()
            await answer(send, b"slow")

        server.handlers["/slow"] = slow
        async with Caller(server.port) as patient, Caller(server.port) as idle:
            await patient.send(GET % b"/slow")
            assert await idle.ended()
            go.set()
            assert (await patient.answer()).body == b"slow"
            assert await patient.ended()
        await server.until(lambda: not server.state.connections)


async def test_unread_body_is_not_thrown_away_for_ever() -> None:
    """After the answer, an upload that does not end loses its connection."""
    async with served(Limits(head_s=0.05)) as server, Caller(server.port) as caller:
        server.handlers["/a"] = gives(200, [], b"done")
        await caller.send(b"POST /a HTTP/1.1\r\nhost: h\r\ncontent-length: 1000\r\n\r\nx")
        assert (await caller.answer()).body == b"done"
        assert await caller.ended()
