"""Requests out, answers in: what goes over the wire and where a message ends, on both event loops."""

from __future__ import annotations

import asyncio

import pytest

from providers.contract import Request
from providers.errors import ProviderError, UpstreamBroke
from providers.transport import Endpoint
from tests.fakes.upstream import CUT, RESET, Exchange, FakeUpstream
from tests.providers.wire import CHUNKED, OK, SHORT, chunk, collect, connected, fetch, request

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])


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


async def test_callers_keys_are_not_sent_whatever_the_request_holds() -> None:
    """The endpoint's own key is; a caller's never, also where the endpoint has none."""
    fields = [(b"authorization", b"Bearer callers"), (b"x-api-key", b"callers"), (b"cookie", b"callers=1")]
    async with FakeUpstream() as upstream:
        for own in ((), ((b"x-api-key", b"ours"),)):
            endpoint = Endpoint(upstream.base_url, source="up", headers=own)
            response = await endpoint.send(Request(method=b"GET", path=b"/v1/models", headers=fields, body=b""))
            await response.read(1000)
            response.close()
            await endpoint.aclose()
            seen = upstream.requests[-1]
            assert (seen.header("authorization"), seen.header("cookie")) == (None, None)
            assert seen.header("x-api-key") == (own[0][1].decode() if own else None)
