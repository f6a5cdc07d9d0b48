"""A request's body on its way to an upstream while it is still coming in.

Law: not more than the length that was announced goes out, and the end of it only when the body has ended well; an upstream that
reads slowly slows the body down; an answer that refuses the request (3xx, 4xx, 5xx) ends the sending; whatever ends the exchange
ends the task. An upstream that begins a good answer early gets the rest: it may be answering while it reads.

Source: RFC 9112, 7.1 (chunks), 9.3 and 9.6 (a client that sends a body watches for an error and stops; a server that closes
with the body unread makes its kernel reset the connection).
"""

from __future__ import annotations

import asyncio
import socket
from typing import Protocol

from providers.contract import Body, Request
from providers.errors import UpstreamBroke

# What the transport may hold before the body has to wait, beside the one piece that filled it.
_HIGH_WATER_BYTES = 64 * 1024
_REFUSES = 300  # from this status on
_LAST_WORDS_MAX_BYTES = 128 * 1024  # a refusal's head and the words that go with it


class Line(Protocol):
    """The connection, as far as its feeder needs it."""

    source: str

    def fail(self, error: BaseException) -> None:
        """End the exchange with this error, and the connection with it."""
        ...

    def limit_head(self, limit_s: float | None) -> None:
        """How long the answer's head may take from now on, if it is not there yet; None: for ever."""
        ...


def framing(body: Body) -> bytes:
    """The header field that says where it ends."""
    length = body.length
    return b"transfer-encoding: chunked" if length is None else b"content-length: %d" % length


def last_words(transport: asyncio.BaseTransport) -> bytes:
    """What the upstream said before it reset the connection: a write that fails first hides it, but the kernel still has it.

    To be asked in `connection_lost`, when the socket is not closed yet. b"" through TLS.
    """
    peer = transport.get_extra_info("socket")
    if peer is None or peer.fileno() < 0 or transport.get_extra_info("ssl_object") is not None:
        return b""
    heard = bytearray()
    with socket.fromfd(peer.fileno(), peer.family, peer.type) as ear:
        ear.setblocking(False)
        while len(heard) < _LAST_WORDS_MAX_BYTES:
            try:
                piece = ear.recv(_LAST_WORDS_MAX_BYTES)
            except OSError:
                break
            if not piece:
                break
            heard += piece
    return bytes(heard)


class Feeder:
    """Sends one body, in a task of its own, after the head was written."""

    __slots__ = (
        "_body",
        "_line",
        "_loop",
        "_request",
        "_stopped",
        "_task",
        "_transport",
        "_writable",
        "done",
        "refused",
    )

    def __init__(
        self, line: Line, loop: asyncio.AbstractEventLoop, transport: asyncio.Transport, body: Body, request: Request
    ) -> None:
        self.done = False  # all of it was written
        self.refused = False  # the answer came before, and wants no more of it
        self._line = line
        self._loop = loop
        self._transport = transport
        self._body = body
        self._request = request
        self._stopped = False
        self._writable: asyncio.Future[None] | None = None  # there while the upstream takes no more
        transport.set_write_buffer_limits(high=_HIGH_WATER_BYTES)
        self._task = loop.create_task(self._feed())
        self._task.add_done_callback(self._ended)

    @property
    def held_up(self) -> bool:
        """Whether the upstream takes no more at the moment."""
        return self._writable is not None

    def stop(self) -> None:
        """Send no more. Idempotent."""
        if not self._stopped:
            self._stopped = True
            self._task.cancel()

    def answered(self, status: int) -> None:
        """The answer's head is there."""
        if status >= _REFUSES and not self.done:
            self.refused = True
            self.stop()

    def pause(self) -> None:
        """The transport holds enough."""
        if self._writable is None and not self.done:
            self._writable = self._loop.create_future()
            self._line.limit_head(self._request.idle_s)

    def resume(self) -> None:
        """The transport takes more."""
        writable, self._writable = self._writable, None
        if writable is not None and not writable.done():
            writable.set_result(None)
            self._line.limit_head(None)

    async def _feed(self) -> None:
        length, sent = self._body.length, 0
        write, writelines = self._transport.write, self._transport.writelines
        async for piece in self._body.pieces():
            sent += len(piece)
            if length is None:
                if piece:  # an empty chunk would be the last
                    writelines((b"%x\r\n" % len(piece), piece, b"\r\n"))
            elif sent <= length:
                write(piece)
            else:
                break  # the upstream would take the rest for another request
            if self._writable is not None:
                await self._writable
            else:
                await asyncio.sleep(0)  # a body that is all there would leave the loop no time to read the answer
        if length is None:
            write(b"0\r\n\r\n")
        elif sent != length:
            raise ValueError(f"a body announced with {length} bytes has {'more' if sent > length else 'less'}")
        self.done = True
        self._line.limit_head(self._request.first_byte_s)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """What the body raises is the exchange's end; nobody else would hear of it."""
        if not task.cancelled():
            error = task.exception()
        else:
            error = UpstreamBroke("the request's body was given up", source=self._line.source)
        if error is not None and not self._stopped:
            self._line.fail(error)
