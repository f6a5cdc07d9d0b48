"""One caller's connection: HTTP/1.1 in over llhttp, one exchange at a time.

The law: what two readers could read differently is refused, and the connection with it; answers go out in the order of their
requests; a caller that leaves is noticed, unless it has sent ahead more than is taken.

Source: RFC 9112 (§3.2 Host and target, §6 framing, §9 connections), RFC 9110 §7.8 (an Upgrade may be ignored). llhttp refuses what
can be read in two ways: several lengths, a length beside a coding, bad chunk sizes, folded lines, spaces in names, control bytes.
"""

from __future__ import annotations

import asyncio
import math
import socket
import struct
import time
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import unquote

from httptools import (
    HttpParserCallbackError,
    HttpParserError,
    HttpParserUpgrade,
    HttpRequestParser,
    parse_url,
)

from providers.transport_heads import body_of, with_length

from .exchange import Exchange
from .heads import LESSONS_MAX, Known, study
from .refusals import Refused

if TYPE_CHECKING:
    from .service import Service

NEVER = math.inf  # a deadline
# A request's head, or its trailers and chunk extensions, above this is refused.
HEAD_MAX_BYTES = 64 << 10
# Body bytes that the application has not taken: from here on the socket is no longer read.
UNTAKEN_MAX_BYTES = 64 << 10
_ASGI = {"version": "3.0", "spec_version": "2.3"}
_METHODS = {name.encode(): name for name in ("GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH")}
# Names of fields as they are mostly written, and as ASGI has them: no copy of them per request.
_LOWER_MAX = 500
_lower: dict[bytes, bytes] = {}

_RESET = struct.pack("ii", 1, 0)  # closing is told by a reset

Address = tuple[str, int] | None


class Connection(asyncio.Protocol):
    """One socket to a caller."""

    __slots__ = (
        "_caller",
        "_came_s",
        "_drain",
        "_exchange",
        "_feed",
        "_fields",
        "_incoming",
        "_known",
        "_lessons",
        "_lost",
        "_overhead",
        "_parser",
        "_paused",
        "_queue",
        "_reading",
        "_scope",
        "_server",
        "_transport",
        "_upgrade",
        "_url",
        "closing",
        "due_s",
        "loop",
        "service",
        "writable",
    )

    def __init__(self, service: Service, loop: asyncio.AbstractEventLoop) -> None:
        self.service = service
        self.loop = loop
        self.due_s = NEVER  # when `overdue` is called
        self.closing = False  # after the present exchange
        self.writable = True
        self._transport: asyncio.Transport
        self._caller: Address = None
        self._server: Address = None
        self._lost = False
        self._paused = False
        self._drain: list[asyncio.Future[None]] | None = None
        self._parser = HttpRequestParser(self)
        self._feed = self._parser.feed_data
        self._came_s = 0.0  # when the last bytes came; the monotonic clock
        self._incoming = 0  # bytes since the present head began
        self._overhead = 0  # bytes since the last piece of a body; -1: it has just come
        self._url = b""
        self._fields: list[tuple[bytes, bytes]] | None = None  # of a head that is not complete
        self._upgrade = False
        self._known: Known | None = None  # a head that came before
        self._lessons = -1  # how many were studied; the first is not: many connections carry one request only
        self._scope: dict[str, Any] | None = None  # of a head that can be studied
        self._exchange: Exchange | None = None  # being answered
        self._reading: Exchange | None = None  # its body is still coming
        self._queue: list[tuple[Exchange, dict[str, Any]] | bytes] = []  # sent ahead; its last may be a refusal

    # ------------------------------------------------------------ what the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        service = self.service
        self._caller = _address(transport.get_extra_info("peername"))
        server = _address(transport.get_extra_info("sockname"))
        self._server = service.addresses.setdefault(server, server)
        service.begun(self)
        self.due_s = service.now_s + service.limits.keep_alive_s

    def data_received(self, data: bytes) -> None:
        self._came_s = time.monotonic()
        between = self._exchange is None and self._incoming == 0 and self._feed is not _deaf
        known = self._known
        if between and known is not None and (found := body_of(known[0], data)) is not None:
            self._comes_again(known, found)
            return
        self._incoming += len(data)
        try:
            self._feed(data)
        except HttpParserUpgrade as upgrade:
            self._go_on_without_upgrade(data[upgrade.args[0] :])
            return
        except HttpParserCallbackError as error:
            refused = error.__context__
            if not isinstance(refused, Refused):
                raise
            self._refuse_request(refused.status, str(refused))
        except HttpParserError as error:
            self._refuse_request(400, f"This is not an HTTP/1.1 request: {error}")
        if self._fields is not None:
            self._head_goes_on()
        elif self._reading is not None:
            self._overhead = 0 if self._overhead < 0 else self._overhead + len(data)
            if self._overhead > HEAD_MAX_BYTES:
                self._refuse_request(400, "Too much between two pieces of the body")
        if self._scope is not None:
            if between and self._lessons < LESSONS_MAX:
                self._lessons += 1
                if self._lessons:
                    self._known = study(data, self._scope)
            self._scope = None

    def eof_received(self) -> None:
        self._gone()

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone()
        self._feed = _deaf  # the parser and this object hold each other
        del self._parser
        self.service.over(self)

    def pause_writing(self) -> None:
        self.writable = False

    def resume_writing(self) -> None:
        self.writable = True
        waiters, self._drain = self._drain, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(None)
        if self._queue and self._exchange is None:
            self._next()

    def overdue(self) -> None:
        """Nothing has come for too long. Called by the sweep."""
        self.due_s = NEVER
        if self._fields is not None and self._url and self._exchange is None and self._feed is not _deaf:
            self.refuse(408, "The header fields did not arrive in time")
        else:
            self._transport.close()

    def shutdown(self) -> None:
        """The server ends: no request after the present one. Called by uvicorn."""
        self.closing = True
        if self._exchange is None:
            self._transport.close()
        else:
            self._exchange.keep = False

    # ------------------------------------------------------------ what the parser calls, from within `_feed`

    def on_message_begin(self) -> None:
        self._url = b""
        self._fields = []
        self.due_s = NEVER

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._fields is not None:  # else trailers: they are no header fields, and nobody was promised any
            self._fields.append((name, value))

    def on_headers_complete(self) -> None:
        raw = self._fields
        assert raw is not None
        fields = [(_lower.get(name) or _lowered(name), value.rstrip(b" \t")) for name, value in raw]
        parser = self._parser
        if self._incoming > HEAD_MAX_BYTES:
            self._measure(fields)
        if parser.should_upgrade():
            if parser.get_method() == b"CONNECT":
                raise Refused(405, "CONNECT is not served here")
            self._upgrade = True
            self._fields = fields
            return  # its end follows at once, then `HttpParserUpgrade`
        self._fields = None
        self._overhead = -1
        self.due_s = NEVER
        version = parser.get_http_version()
        method = parser.get_method()
        named = dict(fields)
        if version != "1.1":
            if version != "1.0":
                raise Refused(505, "HTTP/1.1 is served here")
        elif b"host" not in named:
            raise Refused(400, "The Host field is missing")
        if len(named) != len(fields) and sum(name == b"host" for name, _ in fields) > 1:
            raise Refused(400, "The Host field is there more than once")
        expects = b"expect" in named and version == "1.1" and named[b"expect"].lower() == b"100-continue"
        raw_path, query = _target(self._url)
        path = raw_path.decode("ascii")
        keep = version == "1.1" and parser.should_keep_alive()
        exchange = self._reading = Exchange(self, keep, version == "1.1", method == b"HEAD", expects)
        scope: dict[str, Any] = {
            "type": "http",
            "asgi": _ASGI,
            "http_version": version,
            "server": self._server,
            "client": self._caller,
            "scheme": "http",
            "root_path": "",
            "method": _METHODS.get(method) or method.decode("ascii"),
            "path": unquote(path) if "%" in path else path,
            "raw_path": raw_path,
            "query_string": query,
            "headers": fields,
            "state": {"came_s": self._came_s, "exchange": exchange},  # the end of its head
        }
        if keep and method == b"POST" and not expects:
            self._scope = {**scope, "state": None}
        if self._exchange is None and self.writable:
            self._begin(exchange, scope)
        else:  # also while earlier answers are not read
            self._queue.append((exchange, scope))
            self.read_or_pause()

    def _comes_again(self, known: Known, found: tuple[bytes, bytes]) -> None:
        """A whole request with a head that came before."""
        cut, scope, learned = known
        digits, body = found
        self.due_s = NEVER
        scope = scope.copy()
        scope["headers"] = with_length(scope["headers"], cut[2], digits)
        exchange = Exchange(self, True, True, False, False)
        exchange.hold(body)
        scope["state"] = {"came_s": self._came_s, "exchange": exchange, "learned": learned}
        if self.writable:
            self._begin(exchange, scope)
        else:
            self._queue.append((exchange, scope))
            self.read_or_pause()

    def on_body(self, piece: bytes) -> None:
        self._overhead = -1
        exchange = self._reading
        assert exchange is not None
        exchange.feed(piece)
        if exchange.size > UNTAKEN_MAX_BYTES:
            self.read_or_pause()

    def on_message_complete(self) -> None:
        if self._upgrade:
            return
        exchange = self._reading
        assert exchange is not None
        self._reading = None
        self._incoming = 0
        exchange.complete()
        if exchange is self._exchange and exchange.ended:
            self._next()

    # ------------------------------------------------------------ what the exchange calls

    def write(self, data: bytes) -> None:
        """Hand it to the socket."""
        self._transport.write(data)

    def write_both(self, head: bytes, body: bytes) -> None:
        """Hand both to the socket, uncopied."""
        self._transport.writelines((head, body))

    async def drained(self) -> None:
        """Wait until the caller has read most of what was written, or has left."""
        if not self._lost:
            waiter = self.loop.create_future()
            if self._drain is None:
                self._drain = [waiter]
            else:
                self._drain.append(waiter)
            await waiter

    def read_or_pause(self) -> None:
        """The socket is read unless somebody has sent too far ahead."""
        reading = self._reading
        pause = bool(self._queue) or (reading is not None and reading.size > UNTAKEN_MAX_BYTES)
        if pause is not self._paused and not self._lost:
            self._paused = pause
            if pause:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    def answered(self, exchange: Exchange) -> None:
        """The last byte of its answer is written."""
        if not exchange.keep or self.closing:
            self._exchange = self._reading = None
            self._feed = _deaf
            if exchange.whole:
                self._transport.close()
            else:
                self._linger()
        elif exchange.whole:
            self._next()
        else:  # the rest of its body is thrown away, but not for ever
            self.due_s = self.service.now_s + self.service.limits.head_s
            self.read_or_pause()

    def refuse(self, status: int, message: str) -> None:
        """In place of an answer; after it the connection is closed, with some time for a caller that is still sending."""
        if self._lost:
            return
        self._feed = _deaf
        self._exchange = self._reading = self._fields = None
        self._queue.clear()
        self._transport.write(self.service.refusal(status, message))
        self._linger()

    def cut(self, *, whole_lost: bool) -> None:
        """End the connection in the middle of an answer.

        Args:
            whole_lost: the answer has no length of its own, so that a mere end would be taken for its own.
        """
        self._feed = _deaf
        if whole_lost:
            sock = self._transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self._transport.abort()
        else:
            self._transport.close()

    # ------------------------------------------------------------ the rest

    def _begin(self, exchange: Exchange, scope: dict[str, Any]) -> None:
        self._exchange = exchange
        if self.closing:
            exchange.keep = False
        self.service.workers.give(exchange, scope)

    def _next(self) -> None:
        """The present exchange is over, and its request has been read to its end."""
        self._exchange = None
        if not self._queue:
            limits = self.service.limits
            self.due_s = self.service.now_s + (limits.keep_alive_s if self._fields is None else limits.head_s)
            return
        if not self.writable:
            return  # goes on when the answers so far have been read
        waiting = self._queue.pop(0)
        if isinstance(waiting, bytes):
            self._transport.write(waiting)
            self._linger()
        else:
            self.read_or_pause()
            exchange, scope = waiting
            scope["state"]["came_s"] = time.monotonic()  # it came ahead of its turn
            self._begin(exchange, scope)

    def _head_goes_on(self) -> None:
        """A head has begun and is not here to its end."""
        if self._incoming > HEAD_MAX_BYTES:
            self._refuse_request(431, f"The header fields are larger than {HEAD_MAX_BYTES} bytes")
        elif self._exchange is None and self.due_s == NEVER:
            self.due_s = self.service.now_s + self.service.limits.head_s

    def _measure(self, fields: list[tuple[bytes, bytes]]) -> None:
        """More came than a head may have; part of it may be body. Raises: Refused."""
        if len(self._url) + sum(len(name) + len(value) + 4 for name, value in fields) > HEAD_MAX_BYTES:
            raise Refused(431, f"The header fields are larger than {HEAD_MAX_BYTES} bytes")

    def _go_on_without_upgrade(self, rest: bytes) -> None:
        """An Upgrade is ignored. llhttp reads no body after one, so the head is said to a new parser without it."""
        fields, parser = self._fields, self._parser
        assert fields is not None
        self._upgrade = False
        if self._exchange is not None:
            self._refuse_request(400, "An Upgrade cannot be asked for before the last answer is there")
            return
        line = b"%b %b HTTP/%b" % (parser.get_method(), self._url, parser.get_http_version().encode())
        lines = [line, *(b"%b: %b" % field for field in fields if field[0] != b"upgrade"), b"", rest]
        self._parser = HttpRequestParser(self)
        self._feed = self._parser.feed_data
        self._incoming = 0
        self.data_received(b"\r\n".join(lines))

    def _refuse_request(self, status: int, message: str) -> None:
        """What came is no request, or no body. Requests before it get their answers first."""
        self._feed = _deaf
        self._fields = None
        broken, self._reading = self._reading, None
        present = self._exchange
        if present is None:
            self.refuse(status, message)
        elif broken is present:
            present.leave()
            if present.ended:
                self._linger()
            elif present.started:
                self._transport.abort()
            else:
                self.refuse(status, message)
        else:
            if broken is not None:
                self._queue.pop()
            self._queue.append(self.service.refusal(status, message))

    def _linger(self) -> None:
        """Closing with unread bytes would reset the connection under the answer: read on for a while, and throw away."""
        self.due_s = self.service.now_s + self.service.limits.linger_s
        self.read_or_pause()
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._transport.close()

    def _gone(self) -> None:
        """No further byte will come or go. Idempotent."""
        self._lost = True
        self.due_s = NEVER
        if self._exchange is not None:
            self._exchange.leave()
            self._exchange = None
        self._reading = None
        self._queue.clear()
        self.resume_writing()


def _target(url: bytes) -> tuple[bytes, bytes]:
    """Path and query. Raises: Refused."""
    if url[:1] == b"/":
        path, _, query = url.partition(b"?")
        if b"#" in url:
            raise Refused(400, "A fragment is no part of a request's target")
        return path, query
    if url == b"*":
        return url, b""
    try:
        parsed = parse_url(url)  # absolute-form
    except HttpParserError:
        raise Refused(400, "The request's target is no address") from None
    return parsed.path or b"/", parsed.query or b""


def _lowered(name: bytes) -> bytes:
    lower = name.lower()
    if len(_lower) < _LOWER_MAX:
        _lower[name] = lower
    return lower


def _address(found: tuple[Any, ...] | None) -> Address:
    """As ASGI has it: host and port, of an IPv6 address too."""
    return None if found is None or len(found) < 2 else (found[0], found[1])


def _deaf(data: bytes) -> None:
    """Stands for the parser when nothing more is to be understood."""
