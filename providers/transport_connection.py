"""One connection to an upstream: requests out, one answer at a time in.

Law: a streamed event wakes no task, it goes from the socket's read event straight into the sink; and every way an
exchange can end wakes whoever waits for it.

Source: RFC 9112 (message framing, section 6.3; interim answers and reuse, section 9); httptools wraps llhttp, which
keeps the framing for us, except for HEAD (it is not told the request's method) and for bodies that end with the
connection (its `finish` is not exposed).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from providers.contract import Request, Sink
from providers.errors import UpstreamBroke, UpstreamTimeout
from providers.transport_answer import NEVER, Answer, Known, too_large
from providers.transport_heads import body_of
from providers.transport_upload import Feeder, last_words

# An answer's head, or its trailers and chunk extensions, above this is refused: node.js has 16 KiB, nginx 32 KiB.
_HEAD_MAX_BYTES = 64 * 1024
# Body bytes nobody takes yet: from here on the socket is no longer read. One read event brings at most 256 KiB
# (uvloop 256,000 bytes), so that this little above it bounds what one unread answer may hold.
_KEEP_UNREAD_BYTES = 4 * 1024
# Below this, copying head and body together is cheaper than a gathering write.
_JOIN_MAX_BYTES = 32 * 1024

_DONE = object()


class Pool(Protocol):
    """What a connection tells its owner."""

    source: str
    known: Known | None  # the head of an answer that came before

    def study(self, data: bytes, answer: Answer) -> None:
        """This answer is all of `data`, and its head not the one that is known."""
        ...

    def unusable(self, connection: Connection) -> None:
        """It must not be handed out any more. Called once, perhaps while it is idle."""
        ...

    def gone(self, connection: Connection) -> None:
        """Its socket is closed."""
        ...

    def released(self, connection: Connection, *, reusable: bool) -> None:
        """Its answer is done with."""
        ...


class Connection(asyncio.Protocol):
    """One socket to the upstream. Carries one exchange at a time; `Endpoint` owns it between two."""

    __slots__ = (
        "_answer",
        "_deadline",
        "_feed",
        "_feeder",
        "_loop",
        "_parser",
        "_parts",
        "_paused",
        "_pool",
        "_timer",
        "_timer_at",
        "_transport",
        "idle_since",
        "lost",
        "on_body",
        "source",
    )

    def __init__(self, pool: Pool, loop: asyncio.AbstractEventLoop) -> None:
        self.source = pool.source
        self.lost = False  # closed, closing, or not to be used any more
        self.idle_since = -1.0  # a clock reading while it lies in the pool
        self._pool = pool
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._answer: Answer | None = None
        self._feeder: Feeder | None = None  # of a body that comes in pieces
        self._paused = False
        self._parts: list[bytes] = []
        self.on_body = self._parts.append  # the parser's callback: no Python frame per chunk
        self._parser = HttpResponseParser(self)
        self._feed: Callable[[bytes], object] = self._parser.feed_data
        # One lazy timer per connection: moving the deadline is an assignment, the timer finds out when it fires.
        self._deadline = NEVER
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = NEVER

    def begin(self, head: bytes, request: Request) -> tuple[Answer, asyncio.Future[None]]:
        """Send one request. The future is for the answer's head, or its failure: then `begun` is to be called, or else `cut`."""
        transport = self._transport
        assert transport is not None  # connect() has returned
        waiter = self._loop.create_future()
        answer = self._answer = Answer(self, request, waiter)
        body = request.body
        if not isinstance(body, bytes):
            transport.write(head)
            self._feeder = Feeder(self, self._loop, transport, body, request)
        else:
            if len(body) <= _JOIN_MAX_BYTES:
                transport.write(head + body)
            else:
                transport.writelines((head, body))
            if request.first_byte_s is not None:
                self._set_deadline(self._loop.time() + request.first_byte_s)
        return answer, waiter

    def begun(self, answer: Answer) -> Answer:
        """Its head is here. Raises: UpstreamTimeout, UpstreamBroke, what the request's `Body` raises: it is not."""
        answer.waiter = None
        if answer.status == 0:
            assert answer.error is not None
            if self._feeder is not None:
                self.abort()  # what lies in its buffer would hold the closing up
            raise answer.error
        return answer

    async def listen(self, answer: Answer) -> None:
        """Wait until the answer ends, breaks, or its sink suspends. Cancelled, it cuts the connection."""
        waiter = answer.waiter = self._loop.create_future()
        self._resume()
        if answer.idle_s is not NEVER:
            self._set_deadline(self._loop.time() + answer.idle_s)
        try:
            await waiter
        except BaseException:
            self.cut()
            raise
        finally:
            answer.waiter = None
            self._deadline = NEVER

    def finish(self, answer: Answer) -> None:
        """The answer's owner is done with it."""
        transport = self._transport
        reusable = False
        if not self.lost and answer.complete and answer.keep_alive and transport is not None:
            # An answer that came before the whole request was written leaves the rest in our way.
            reusable = transport.get_write_buffer_size() == 0 and (self._feeder is None or self._feeder.done)
        if reusable:
            self._feeder = None
            self._resume()
            if answer.head_only:
                self._renew_parser()  # it still waits for the body that a HEAD answer only announces
        else:
            self.cut()
        self._answer = None
        self._pool.released(self, reusable=reusable)

    def cut(self) -> None:
        """Give up: close the socket at once. Idempotent."""
        self.fail(UpstreamBroke("the answer was given up before its end", source=self.source))

    def fail(self, error: BaseException) -> None:
        """End the exchange with this error, unless it has ended already, and the connection with it."""
        answer = self._answer
        if answer is not None and not answer.complete and answer.error is None:
            answer.error = error
            answer.wake()
        self.abort()

    def abort(self) -> None:
        """Close the socket at once, also while it is still being connected. Idempotent."""
        if not self.lost:
            self.lost = True
            self._pool.unusable(self)
        if self._feeder is not None:
            self._feeder.stop()
        if self._transport is not None:
            self._transport.abort()

    # what the feeder tells

    def limit_head(self, limit_s: float | None) -> None:
        """How long the answer's head may take from now on, if it is not there yet; None: for ever."""
        answer = self._answer
        if answer is not None and answer.status == 0 and not self.lost:
            if limit_s is None:
                self._deadline = NEVER
            else:
                self._set_deadline(self._loop.time() + limit_s)

    # what the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        if self.lost:  # given up while connecting
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        answer = self._answer
        if answer is None or answer.complete:
            self.abort()  # nobody asked for this: what it belongs to cannot be known
            return
        fresh = False
        if answer.status == 0:
            fresh = answer.overhead_bytes == 0 and self._feeder is None and not answer.head_only
            if fresh and (known := self._pool.known) is not None:
                found = body_of(known[0], data)
                if found is not None:
                    self._deadline = NEVER
                    answer.arrived(known, found)
                    return
            answer.overhead_bytes += len(data)
        try:
            self._feed(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            self._malformed(answer, error)
        parts = self._parts
        if parts:
            piece = parts[0] if len(parts) == 1 else b"".join(parts)
            parts.clear()
            if self._deadline is not NEVER:
                self._deadline = self._loop.time() + answer.idle_s
            if answer.sink is not None:
                self._push(answer, answer.sink, piece)
            else:
                self._keep(answer, piece)
        elif not answer.complete:
            self._limit_overhead(answer, len(data))
        if answer.complete:
            if fresh and answer.keep_alive and answer.error is None:
                self._pool.study(data, answer)
            answer.wake()
        elif answer.error is not None:
            self.abort()
            answer.wake()

    def pause_writing(self) -> None:
        if self._feeder is not None:
            self._feeder.pause()

    def resume_writing(self) -> None:
        if self._feeder is not None:
            self._feeder.resume()

    def eof_received(self) -> None:
        self._ended(None)

    def connection_lost(self, exc: Exception | None) -> None:
        answer = self._answer
        if exc is not None and not self.lost and answer is not None and not answer.complete:
            words = last_words(cast(asyncio.Transport, self._transport))
            if words:
                self.data_received(words)
        self._ended(exc)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._feed = _deaf  # the parser and this object hold each other
        del self._parser
        self._pool.gone(self)

    # what the parser calls, from within `_feed`

    def on_message_begin(self) -> None:
        answer = self._answer
        if answer is not None and answer.complete:
            # Its body must not be taken for the rest of ours, so parsing stops here.
            raise ValueError("a second answer, to no request")

    def on_header(self, name: bytes, value: bytes) -> None:
        answer = self._answer
        if answer is not None and answer.status == 0:  # else trailers: nobody was promised any
            answer.headers.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        answer = self._answer
        if answer is None or answer.complete:
            return
        status = self._parser.get_status_code()
        if status < 200:
            return  # interim: its end follows at once, the real answer comes after it
        # More may be body that came with it: then the head itself is counted.
        if answer.overhead_bytes > _HEAD_MAX_BYTES and answer.head_bytes() > _HEAD_MAX_BYTES:
            self._too_much_overhead(answer)
            return
        answer.overhead_bytes = 0
        answer.status = status
        self._deadline = NEVER
        if self._feeder is not None:
            self._feeder.answered(status)
        if answer.head_only:
            answer.complete = True
            answer.keep_alive = self._parser.should_keep_alive()
        answer.wake()

    def on_message_complete(self) -> None:
        answer = self._answer
        if answer is None or answer.complete:
            return
        if answer.status:
            answer.complete = True
            answer.keep_alive = self._parser.should_keep_alive()
        else:
            answer.headers.clear()

    # the rest

    def _push(self, answer: Answer, sink: Sink, piece: bytes) -> None:
        """Drive the sink by hand up to its first suspension; mostly it has none."""
        try:
            steps = sink(piece).__await__()
            pending = next(steps, _DONE)
        except BaseException as error:  # noqa: BLE001 - carried to the task in `pump`, which raises it
            answer.sink = None
            answer.error = error
            return
        if pending is not _DONE:
            answer.sink = None  # what comes from now on queues behind
            answer.suspended = (steps, pending)
            self._pause()
            answer.wake()

    def _keep(self, answer: Answer, piece: bytes) -> None:
        """Nobody takes this yet, or `read` collects it."""
        if answer.head_only:
            answer.keep_alive = False  # a body in answer to HEAD
            return
        answer.pieces.append(piece)
        answer.kept_bytes += len(piece)
        if answer.read_max_bytes >= 0:
            if answer.kept_bytes > answer.read_max_bytes and not answer.complete:
                answer.error = too_large(self.source, answer.read_max_bytes)
        elif answer.kept_bytes >= _KEEP_UNREAD_BYTES and not answer.complete:
            self._pause()

    def _limit_overhead(self, answer: Answer, count: int) -> None:
        """Refuse a head, chunk extensions or trailers without end."""
        if answer.status:
            answer.overhead_bytes += count
        if answer.overhead_bytes > _HEAD_MAX_BYTES:
            self._too_much_overhead(answer)

    def _too_much_overhead(self, answer: Answer) -> None:
        answer.error = answer.error or UpstreamBroke(
            f"provider {self.source!r} sent more than {_HEAD_MAX_BYTES // 1024} KiB of header fields",
            source=self.source,
        )

    def _malformed(self, answer: Answer, error: Exception) -> None:
        if answer.complete:
            answer.keep_alive = False  # the answer is whole; what follows it is not HTTP
        elif answer.error is None:
            answer.error = UpstreamBroke(
                f"provider {self.source!r} answered with something that is not HTTP/1.1",
                source=self.source,
                detail=str(error),
            )

    def _ended(self, error: Exception | None) -> None:
        """No further byte will come."""
        if self.lost:
            return
        self.lost = True
        self._pool.unusable(self)
        if self._feeder is not None:
            self._feeder.stop()
        answer = self._answer
        if answer is None or answer.complete or answer.error is not None:
            return
        # Closing with our bytes unread resets the connection: how a refused upload's answer ends.
        refused = self._feeder is not None and self._feeder.refused
        if (error is None or refused) and answer.status and answer.ends_with_connection():
            answer.complete = True
        else:
            nothing = answer.status == 0 and answer.overhead_bytes == 0
            what = "closed the connection without an answer" if nothing else "broke off in the middle of its answer"
            answer.error = UpstreamBroke(
                f"provider {self.source!r} {what}",
                source=self.source,
                detail=repr(error) if error is not None else "end of stream",
                nothing_received=nothing,
            )
        answer.wake()

    def _renew_parser(self) -> None:
        self._parser = HttpResponseParser(self)
        self._feed = self._parser.feed_data

    def _pause(self) -> None:
        if not self._paused and not self.lost and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def _resume(self) -> None:
        if self._paused and not self.lost and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()

    def _set_deadline(self, deadline_s: float) -> None:
        self._deadline = deadline_s
        if self._timer is None or self._timer_at > deadline_s:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = deadline_s
            self._timer = self._loop.call_at(deadline_s, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        answer = self._answer
        if answer is None or self.lost or self._deadline is NEVER:
            return
        if self._deadline > self._loop.time():
            self._set_deadline(self._deadline)
            return
        what = "sent nothing more" if answer.status else "did not answer"
        if self._feeder is not None and self._feeder.held_up and answer.status == 0:
            what = "did not take the request"
        self.fail(UpstreamTimeout(f"provider {self.source!r} {what} in time", source=self.source))


def _deaf(data: bytes) -> None:
    """Stands for the parser after the connection is gone."""
