"""One request and its answer: ASGI's `receive` and `send`, and how an answer is framed.

The law: nothing suspends that need not; head and first body bytes leave in one write; what ends early is never taken for whole.

Source: ASGI's HTTP specification 2.3 (a head is not sent before the first body message); RFC 9112 §6 (framing), RFC 9110 §10.1.1
(100-continue).
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from .refusals import CONTINUE

if TYPE_CHECKING:
    from .protocol import Connection

App = Callable[[Any, Any, Any], Awaitable[None]]
Fields = Sequence[tuple[bytes, bytes]]

log = logging.getLogger("roundhouse.server")

# Below this, copying head and body together is cheaper than two writes.
JOIN_MAX_BYTES = 64 << 10
_PLAIN, _LENGTH, _DROPPED, _CONNECTION = range(4)
_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110 §5.6.2
_KINDS = {b"content-length": _LENGTH, b"transfer-encoding": _DROPPED, b"connection": _CONNECTION}
_KINDS_MAX = 1000
_NO_BODY = frozenset((204, 304))
_NO_LENGTH = 204  # must not announce one (RFC 9110 §8.6)


class Exchange:
    """From a request's header fields to the last byte of its answer.

    Args:
        keep: the connection may carry another one after it.
        chunks: the caller understands chunked answers (HTTP/1.1).
        head_only: asked with HEAD.
        expects: the caller waits for a word before it sends the body.
    """

    __slots__ = (
        "_chunked",
        "_chunks",
        "_connection",
        "_expects",
        "_head",
        "_head_only",
        "_length",
        "_pieces",
        "_told_end",
        "_waiters",
        "ended",
        "keep",
        "left",
        "size",
        "started",
        "whole",
    )

    def __init__(self, connection: Connection, keep: bool, chunks: bool, head_only: bool, expects: bool) -> None:
        self._connection = connection
        self._expects = expects
        self._chunks = chunks
        self._head_only = head_only
        self._head: bytes | None = None  # built and not sent yet, without the lines on framing
        self._chunked = False
        self._length: int | None = None  # of the body, what is still to come; None: not announced
        self._pieces: list[bytes] = []
        self._told_end = False
        self._waiters: list[asyncio.Future[None]] | None = None
        self.size = 0  # of the pieces not yet taken
        self.whole = False  # the request is here to its end
        self.keep = keep
        self.started = False
        self.ended = False
        self.left = False  # the caller is gone, or was refused

    async def run(self, app: App, scope: dict[str, Any]) -> None:
        """The application on this request. What it leaves undone, or fails at, is told to the caller as far as that can be."""
        try:
            await app(scope, self.receive, self.send)
        except asyncio.CancelledError:
            self._broken(503, "The server is shutting down")
            raise
        except Exception:
            log.exception("an exchange ended with an error")
            self._broken(500, "Internal error; the log has the details")
        else:
            if not (self.ended or self.left):
                log.error("an exchange ended without a whole answer")
                self._broken(500, "Internal error; the log has the details")
        finally:
            scope["state"].pop("exchange", None)  # tasks that it has begun may remember its state for long

    # ------------------------------------------------------------ the request

    async def receive(self) -> dict[str, Any]:
        """ASGI's: the body as far as it is here, at once; after it, waits for the caller's leaving or the answer's end."""
        while not (self.left or self.ended):
            if self.whole and not self._told_end:
                self._told_end = True
                return {"type": "http.request", "body": self._take(), "more_body": False}
            if self._pieces:
                return {"type": "http.request", "body": self._take(), "more_body": True}
            if self._expects:
                self._expects = False
                if not self.whole and not self.started:
                    self._connection.write(CONTINUE)
            if self._head is not None:
                self._write(b"", more=True)  # an event stream that has nothing to say yet has begun all the same
            await self._news()
        return {"type": "http.disconnect"}

    def take_whole(self, most_bytes: int) -> bytes | None:
        """The body, where all of it is here already and it is not larger; None: `receive` will tell it. For the first word only."""
        if not self.whole or self._told_end or self.size > most_bytes:
            return None
        self._told_end = True
        return self._take()

    def feed(self, piece: bytes) -> None:
        """A piece of the body came. After the answer's end it is thrown away."""
        self._expects = False
        if not (self.ended or self.left):
            self._pieces.append(piece)
            self.size += len(piece)
            self.wake()

    def hold(self, body: bytes) -> None:
        """All of the body came at once."""
        self._pieces.append(body)
        self.size = len(body)
        self.whole = True

    def complete(self) -> None:
        """The request's end came."""
        self.whole = True
        self.wake()

    def leave(self) -> None:
        """The caller is gone. Idempotent."""
        self.left = True
        self.wake()

    def wake(self) -> None:
        """Let those who wait look again."""
        waiters = self._waiters
        if waiters is not None:
            self._waiters = None
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)

    def _take(self) -> bytes:
        pieces = self._pieces
        if not pieces:
            return b""
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self.size = 0
        self._connection.read_or_pause()
        return body

    async def _news(self) -> None:
        waiter = self._connection.loop.create_future()
        if self._waiters is None:
            self._waiters = [waiter]
        else:
            self._waiters.append(waiter)
        await waiter

    # ------------------------------------------------------------ the answer

    async def send(self, message: Any) -> None:
        """ASGI's. Suspends while the caller is slow to read; after its leaving it does nothing.

        Raises: RuntimeError, ValueError: the application does not keep to the protocol.
        """
        if self.left:
            return
        if self.ended:
            raise RuntimeError(f"{message['type']} after the answer's end")
        if self.started:
            if message["type"] != "http.response.body":
                raise RuntimeError(f"{message['type']} in place of a body")
            more: bool = message.get("more_body", False)
            self._write(message.get("body", b""), more=more)
            if more and not self._connection.writable:
                await self._connection.drained()
        else:
            if message["type"] != "http.response.start":
                raise RuntimeError(f"{message['type']} before the answer's start")
            self._start(message["status"], message.get("headers", ()))

    def answer(self, status: int, headers: Fields, more: Fields, body: bytes) -> None:
        """A whole answer, as two messages to `send` would be. Raises: as `send`.

        Args:
            headers: how they are written is remembered where they are a tuple, which cannot become another one.
            more: header fields of this answer only.
        """
        if self.left:
            return
        if self.started or self.ended:
            raise RuntimeError("a whole answer after another one's start")
        connection = self._connection
        lines = connection.service.written(headers)
        for name, value in more:  # numbers of bytes: to look for bytes themselves takes Python an exception
            if lines is None or _KINDS.get(name) != _PLAIN or 13 in value or 10 in value or 0 in value:  # CR, LF, NUL
                lines = None
                break
            lines = b"%b\r\n%b: %b" % (lines, name, value)
        usual = self.keep and not (self._head_only or self._expects or connection.closing or status in _NO_BODY)
        if lines is not None and usual and len(body) <= JOIN_MAX_BYTES:
            opening = connection.service.opening(status)
            self.started = self.ended = True
            connection.write(b"%b%b\r\ncontent-length: %d\r\n\r\n%b" % (opening, lines, len(body), body))
            if self._waiters is not None:
                self.wake()
            connection.answered(self)
        else:
            self._start(status, [*headers, *more])
            self._write(body, more=False)

    def _start(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Raises: ValueError: something that cannot stand in a head."""
        lines = [self._connection.service.opening(status)]
        for name, value in headers:
            kind = _KINDS.get(name)
            if kind is None:
                kind = _kind_of(name)
            if kind != _PLAIN:
                if kind == _DROPPED:
                    continue  # framing is ours
                if kind == _LENGTH:
                    self._length = int(value)
                    if status == _NO_LENGTH:
                        continue
                elif b"close" in value.lower():
                    self.keep = False
                    continue
            lines.append(name + b": " + value)
        lines.append(b"")
        head = _joined(lines, lines[0].count(b"\n") + len(lines) - 1)
        self.started = True
        if (self._expects and not self.whole) or self._connection.closing:
            self.keep = False  # whether the body will still come, nobody knows
        if self._head_only or status in _NO_BODY:
            self._head_only = True
            self._length = 0
        self._head = head

    def _write(self, body: bytes, *, more: bool) -> None:
        """Raises: RuntimeError: more, or less, than was announced."""
        connection = self._connection
        head = self._head
        if head is not None:
            self._head = None
            head += self._framing(body, more=more)
        if self._head_only:
            body = b""
        elif self._chunked:
            if body:
                size = len(body)
                if size <= JOIN_MAX_BYTES:
                    body = b"%x\r\n%b\r\n" % (size, body) if more else b"%x\r\n%b\r\n0\r\n\r\n" % (size, body)
                else:
                    head = b"%b%x\r\n" % (head or b"", size)
                    body += b"\r\n" if more else b"\r\n0\r\n\r\n"
            elif not more:
                body = b"0\r\n\r\n"
        elif self._length is not None:
            self._length -= len(body)
            if self._length < 0 or (self._length and not more):
                raise RuntimeError("the answer's body is not as long as its Content-Length says")
        if head is None:
            if body:
                connection.write(body)
        elif len(body) <= JOIN_MAX_BYTES:
            connection.write(head + body)
        else:
            connection.write_both(head, body)
        if not more:
            self.ended = True
            self.wake()
            connection.answered(self)

    def _framing(self, body: bytes, *, more: bool) -> bytes:
        """How the body's end will be known, and the connection's."""
        lines = b""
        if self._length is None:
            if not more:
                self._length = len(body)
                lines = b"content-length: %d\r\n" % len(body)
            elif self._chunks:
                self._chunked = True
                lines = b"transfer-encoding: chunked\r\n"
            else:
                self.keep = False  # it ends with the connection
        return lines + (b"\r\n" if self.keep else b"connection: close\r\n\r\n")

    def _broken(self, status: int, message: str) -> None:
        """There will be no answer, or no more of it."""
        if self.ended or self.left:
            return
        self.leave()
        connection = self._connection
        if self.started and self._head is None:
            connection.cut(whole_lost=not self._chunked and self._length is None)
        else:
            connection.refuse(status, message)


def written(headers: Fields) -> bytes | None:
    """Lines, each after a line end. None: some are about framing. Raises: ValueError: something that cannot stand in a head."""
    lines = [b""]
    for name, value in headers:
        kind = _KINDS.get(name)
        if (_kind_of(name) if kind is None else kind) != _PLAIN:
            return None
        lines.append(name + b": " + value)
    return _joined(lines, len(lines) - 1)


def _joined(lines: list[bytes], ends: int) -> bytes:
    """Raises: ValueError: there are other line ends than those."""
    head = b"\r\n".join(lines)
    if head.count(b"\n") != ends or head.count(b"\r") != ends or 0 in head:
        raise ValueError("a header field of the answer holds a line break or a NUL")
    return head


def _kind_of(name: bytes) -> int:
    """Raises: ValueError: it is no name."""
    if _TOKEN.fullmatch(name) is None:
        raise ValueError("the name of a header field of the answer is none")
    kind = _KINDS.get(name.lower(), _PLAIN)
    if len(_KINDS) < _KINDS_MAX:
        _KINDS[name] = kind
    return kind
