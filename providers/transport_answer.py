"""An upstream's answer, from its head on: what is there, what is still to come, and who waits for it.

Law: a body's bytes leave in the order they came, none lost and none twice; what came before an error leaves before it.
"""

from __future__ import annotations

import asyncio
import math
import types
from collections.abc import Generator
from typing import Any, NamedTuple, Protocol

from providers.contract import Request, Sink
from providers.errors import UpstreamBroke
from providers.transport_heads import Cut, with_length

NEVER = math.inf  # a deadline


class Known(NamedTuple):
    """The head of an answer after which the connection stays open. `made`: see `providers.contract.Response`."""

    cut: Cut
    status: int
    headers: list[tuple[bytes, bytes]]
    made: dict[object, Any]


class Carrier(Protocol):
    """The connection, as far as its answer needs it."""

    source: str

    async def listen(self, answer: Answer) -> None:
        """Wait until the answer ends, breaks, or its sink suspends. Cancelled, it cuts the connection."""
        ...

    def finish(self, answer: Answer) -> None:
        """The answer's owner is done with it."""
        ...

    def cut(self) -> None:
        """Give up: close the socket at once. Idempotent."""
        ...


class Answer:
    """An upstream's answer; see `providers.contract.Response`, which it implements.

    The sink of `pump` runs inside the read event, that is in no task and in the context of the connection, not in
    the pumping task's: it must not ask for the current task or a context variable.
    """

    __slots__ = (
        "_connection",
        "closed",
        "complete",
        "error",
        "head_only",
        "headers",
        "idle_s",
        "keep_alive",
        "kept_bytes",
        "made",
        "overhead_bytes",
        "pieces",
        "read_max_bytes",
        "sink",
        "status",
        "suspended",
        "waiter",
    )

    def __init__(self, connection: Carrier, request: Request, waiter: asyncio.Future[None]) -> None:
        self.status = 0  # 0: the head is not in yet
        self.headers: list[tuple[bytes, bytes]] = []
        self.made: dict[object, Any] | None = None
        self.head_only = request.method == b"HEAD"
        self.idle_s = NEVER if request.idle_s is None else request.idle_s
        self.complete = False
        self.keep_alive = False
        self.closed = False
        self.error: BaseException | None = None
        self.pieces: list[bytes] = []  # arrived, not yet taken
        self.kept_bytes = 0
        self.overhead_bytes = 0  # of the head; after it, of chunk extensions and trailers since the last body byte
        self.read_max_bytes = -1  # >= 0: `read` is waiting
        self.sink: Sink | None = None  # set: `pump` is waiting and pieces go straight in
        self.suspended: tuple[Generator[Any, Any, None], Any] | None = None
        self.waiter: asyncio.Future[None] | None = waiter
        self._connection = connection

    def __repr__(self) -> str:
        state = "complete" if self.complete else "broken" if self.error is not None else "arriving"
        return f"<Answer {self.status} {state}>"

    def whole(self) -> bytes | None:
        """The body when it has all arrived already, else None. May be called again."""
        return self._join() if self.complete else None

    async def read(self, max_bytes: int) -> bytes:
        """The whole body; may be called again. Cancelled, it cuts the connection.

        Raises:
            UpstreamBroke: it ended early, or is larger than max_bytes.
            UpstreamTimeout: no further byte for idle_s.
        """
        if not self.complete and self.error is None and self.kept_bytes <= max_bytes:
            self.read_max_bytes = max_bytes
            try:
                await self._connection.listen(self)
            finally:
                self.read_max_bytes = -1
        if self.error is not None:
            raise self.error
        if self.kept_bytes > max_bytes:
            self._connection.cut()
            raise too_large(self._connection.source, max_bytes)
        return self._join()

    async def pump(self, sink: Sink) -> None:
        """Hand on every piece of the body as it arrives; returns after the last. Cancelled, it cuts the connection.

        Raises: as `read`, after the bytes that did come were handed on; and whatever `sink` raises.
        """
        try:
            while True:
                if self.suspended is not None:
                    steps, pending = self.suspended
                    self.suspended = None
                    await _carry_on(steps, pending)
                while self.pieces:
                    await sink(self._take())
                if self.error is not None:
                    raise self.error
                if self.complete:
                    return
                self.sink = sink
                try:
                    await self._connection.listen(self)
                finally:
                    self.sink = None
        except BaseException:
            self._connection.cut()
            if self.suspended is not None:
                self.suspended[0].close()
                self.suspended = None
            raise

    def arrived(self, known: Known, found: tuple[bytes, bytes]) -> None:
        """All of it is here, under a head that was there before."""
        cut, self.status, headers, self.made = known
        digits, body = found
        self.headers = with_length(headers, cut[2], digits)
        self.complete = self.keep_alive = True
        if body:
            self.pieces.append(body)
            self.kept_bytes = len(body)
        self.wake()

    def close(self) -> None:
        """Done with it: the connection goes back to the pool when the message was complete, else it is cut."""
        if not self.closed:
            self.closed = True
            self._connection.finish(self)

    def wake(self) -> None:
        """Let the task that waits for this answer look again."""
        waiter = self.waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def head_bytes(self) -> int:
        """What the header fields take on the wire."""
        return sum(len(name) + len(value) + 4 for name, value in self.headers)

    def ends_with_connection(self) -> bool:
        """No length was announced: the body is whatever comes until the upstream closes (RFC 9112, 6.3, rule 8)."""
        codings = b""
        for name, value in self.headers:
            if name == b"content-length":
                return False
            if name == b"transfer-encoding":
                codings = value
        return codings.rpartition(b",")[2].strip().lower() != b"chunked"

    def _join(self) -> bytes:
        pieces = self.pieces
        if len(pieces) > 1:
            pieces[:] = (b"".join(pieces),)
        return pieces[0] if pieces else b""

    def _take(self) -> bytes:
        piece = self._join()
        self.pieces.clear()
        self.kept_bytes = 0
        return piece


def too_large(source: str, max_bytes: int) -> UpstreamBroke:
    """The error for a body above what its reader allows."""
    return UpstreamBroke(f"provider {source!r} sent a body of more than {max_bytes} bytes", source=source)


@types.coroutine
def _carry_on(steps: Generator[Any, Any, None], pending: object) -> Generator[Any, Any, None]:
    """Continue in a task a coroutine that was driven by hand up to `pending`, the future it yielded.

    Cancellation goes into the coroutine, which may clean up, even by further waiting.
    """
    while True:
        try:
            yield pending
        except BaseException as error:  # noqa: BLE001 - belongs to the coroutine, which raises it again
            try:
                pending = steps.throw(error)
            except StopIteration:
                return
        else:
            yield from steps
            return
