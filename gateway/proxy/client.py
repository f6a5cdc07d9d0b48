"""The caller's side of one exchange: what has been said to it, and whether it is still there.

The law: a caller that leaves cancels the request's task, at any moment; comments go only between events; nothing is said twice.
The watcher for its leaving is started only when an answer is not there at once, since a task costs more than a quick answer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Protocol, cast

from gateway.access.principal import Principal
from gateway.metering.usage import Usage

from .headers import STREAM_FIELDS
from .silence import ASKED_S, Silence
from .sse import Tail

Headers = Sequence[tuple[bytes, bytes]]
Send = Callable[[object], Awaitable[None]]
Receive = Callable[[], Awaitable[object]]

# Answers quicker than this are given without watching for the caller's leaving: there would be nothing to save.
# A watcher is a task of its own, which costs more than such an answer.
WATCH_AFTER_S = 0.1
_EVENT_STREAM = (b"content-type", b"text/event-stream; charset=utf-8")


def _without_limits(headers: Headers) -> Headers:
    return [field for field in headers if not field[0].startswith(b"x-ratelimit-")]


class Watchman:
    """Begins to watch for the leaving of every caller whose answer is not there at once; one timer serves all of them.

    A timer for each request costs more than most answers need to come.
    """

    __slots__ = ("_armed", "_waiting", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._waiting: dict[Client, float] = {}  # in order, since all wait equally long
        self._armed = False

    def add(self, client: Client) -> None:
        """Watch it after WATCH_AFTER_S, unless it is forgotten by then."""
        self._waiting[client] = self.loop.time() + WATCH_AFTER_S
        if not self._armed:
            self._armed = True
            self.loop.call_later(WATCH_AFTER_S, self._look)

    def forget(self, client: Client) -> None:
        """It has its answer. Idempotent."""
        self._waiting.pop(client, None)

    def _look(self) -> None:
        now_s = self.loop.time()
        for client in [client for client, due_s in self._waiting.items() if due_s <= now_s]:
            del self._waiting[client]
            client.listen()
        self._armed = bool(self._waiting)
        if self._armed:
            self.loop.call_later(WATCH_AFTER_S, self._look)


class _Nothing:
    def __await__(self) -> Iterator[None]:
        return iter(())


# Awaited, it is over at once: a coroutine that has nothing to wait for costs a third of a microsecond.
NOTHING = cast("Awaitable[None]", _Nothing())
_BLANK = Tail()  # of an answer of which nothing has been said


class Kept:
    """The bodies of an exchange whose key has them kept: what was asked, and the beginning of the answer."""

    __slots__ = ("_limit_bytes", "cut", "request", "response")

    def __init__(self, request: bytes, limit_bytes: int) -> None:
        self.request = request
        self.response = bytearray()
        self.cut = False
        self._limit_bytes = limit_bytes

    def add(self, piece: bytes) -> None:
        """More of the answer."""
        room = self._limit_bytes - len(self.response)
        self.response += piece[:room]
        self.cut = self.cut or len(piece) > room


class Direct(Protocol):
    """A server that gives and takes whole bodies at once, which is cheaper than ASGI's messages."""

    def take_whole(self, most_bytes: int) -> bytes | None: ...

    def answer(self, status: int, headers: Headers, more: Headers, body: bytes) -> None:
        """`headers`: where they are a tuple, it may remember how they are written."""
        ...


class Client:
    """One caller, from the moment its body has been read.

    Args:
        fields: header fields that every answer carries.
        silence: how it is filled, in a stream; None: not at all.
        tail: made to remember the end of what is said, in the words of the caller's route.
        direct: takes whole answers, in place of `send`; None: nobody does.
    """

    # A reading of the monotonic clock; the loop's own may have no more than milliseconds (uvloop's has).
    now_s = staticmethod(time.monotonic)

    __slots__ = (
        "_busy",
        "_direct",
        "_fields",
        "_hushed",
        "_limited",
        "_loop",
        "_make_tail",
        "_receive",
        "_send",
        "_silence",
        "_tail",
        "_task",
        "_timers",
        "_told",
        "_watcher",
        "_watchman",
        "answered_s",
        "apart_s",
        "asked",
        "begun_s",
        "bytes_in",
        "bytes_out",
        "code",
        "committed",
        "ended",
        "first_s",
        "kept",
        "last_s",
        "leased_s",
        "left",
        "model",
        "principal",
        "queued_s",
        "started",
        "status",
        "streaming",
        "target",
        "upstream_s",
        "usage",
    )

    def __init__(
        self,
        watchman: Watchman,
        receive: Receive,
        send: Send,
        fields: Headers,
        silence: Silence | None,
        tail: type[Tail] = Tail,
        direct: Direct | None = None,
    ) -> None:
        self._direct = direct
        self._watchman = watchman
        self._receive = receive
        self._send = send
        self._fields = fields
        self._silence = silence
        self._hushed: Silence | None = None
        self._told: Headers = ()
        self._limited = False
        self._loop = watchman.loop  # looking it up costs a system call on some Pythons
        self._make_tail = tail
        self._tail = _BLANK if tail is Tail else tail()  # a copy of its own comes with the first piece: many have none
        self._task = asyncio.current_task(self._loop)
        self._timers: list[asyncio.TimerHandle] = []
        self._watcher: asyncio.Task[object] | None = None
        self._busy: asyncio.Task[None] | None = None
        self.principal: Principal | None = None  # who it is, once its key was looked at
        self.asked = ""  # the model's name as the caller gave it
        self.model = ""  # … and its public name
        self.target = ""  # who answers, as far as is known
        self.usage: Usage | None = None  # what the answer took, as far as it was told
        self.kept: Kept | None = None
        self.last_s = self._loop.time()
        self.begun_s = time.monotonic()
        self.queued_s = 0.0  # how long it waited for its model, over all attempts
        self.leased_s = 0.0  # when it had it
        self.first_s = 0.0  # when the first byte of the answer itself was handed on
        self.answered_s = 0.0  # when it was given a whole answer
        self.upstream_s = 0.0  # how long it was with upstreams, over all attempts
        self.apart_s = 0.0  # that, and what else was neither ours nor a wait for a model: its body, a provider's place
        self.bytes_in = 0
        self.bytes_out = 0  # of the body
        self.code = ""  # of the error that it was told, or would have been
        self.status = 0
        self.started = False  # status and header fields have been sent
        self.committed = False  # a byte of the answer itself has been sent; comments are none
        self.streaming = False  # what has been started is an event stream
        self.ended = False
        self.left = False  # it went away before the end

    def was_upstream(self, since_s: float) -> None:
        """From then on it was with an upstream, until it was answered or else until now."""
        seconds = (self.answered_s or time.monotonic()) - since_s
        self.upstream_s += seconds
        self.apart_s += seconds

    def keep(self, request: bytes, limit_bytes: int) -> None:
        """From now on the answer is kept beside the request. Nobody else pays for it: it is the sending that changes."""
        kept, send = Kept(request, limit_bytes), self._send
        self.kept = kept
        self._direct = None

        async def send_and_keep(message: object) -> None:
            said = cast("dict[str, Any]", message)
            if said["type"] == "http.response.body":
                kept.add(said.get("body", b""))
            await send(message)

        self._send = send_and_keep

    def tell(self, *fields: tuple[bytes, bytes]) -> None:
        """More header fields for the answer, in place of those told before: another target was tried then."""
        self._told = fields

    def limit(self, *fields: tuple[bytes, bytes]) -> None:
        """The caller's own x-ratelimit-* fields, in place of those that an upstream has for us."""
        self._fields = (*self._fields, *fields)
        self._limited = True

    # ------------------------------------------------------------ its leaving

    def watch(self, *, stream: bool) -> None:
        """From now on its leaving cancels the current task; with `stream`, silence is filled with comments."""
        self._watchman.add(self)
        if stream and self._silence is not None and (first_s := self._silence.first_s) is not None:
            self._timers.append(self._loop.call_later(first_s, self._look_for_silence))

    def heed(self, leaving: Receive) -> None:
        """Somebody else reads from the caller; this waits for its leaving. To be said before `watch`."""
        self._receive = leaving

    def unwatch(self) -> None:
        """The exchange is over. Idempotent."""
        self._watchman.forget(self)
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        if self._watcher is not None:
            self._watcher.cancel()
        if self._busy is not None:
            self._busy.cancel()

    def listen(self) -> None:
        """From now on its leaving cancels the task. Called by the watchman."""
        self._watcher = self._loop.create_task(self._wait_for_leaving())

    async def _wait_for_leaving(self) -> object:
        while True:
            message = await self._receive()
            if isinstance(message, dict) and message.get("type") == "http.disconnect":  # pyright: ignore[reportUnknownMemberType] - ASGI messages are plain dicts
                break
        if not self.ended and self._task is not None:
            self.left = True
            self._task.cancel()
        return None

    # ------------------------------------------------------------ answers

    def answer(self, status: int, headers: Headers, body: bytes) -> Awaitable[None]:
        """A whole answer; what is left to wait for."""
        self.status = status
        self.first_s = self.answered_s = time.monotonic()
        self.bytes_out = len(body)
        self.started = self.committed = self.ended = True
        if self._limited:
            headers = _without_limits(headers)
        more = (*self._fields, *self._told) if self._told else self._fields
        if self._direct is not None:
            self._direct.answer(status, headers, more, body)
            return NOTHING
        return self._answer(status, [*headers, *more, (b"content-length", b"%d" % len(body))], body)

    async def _answer(self, status: int, headers: Headers, body: bytes) -> None:
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})

    async def start(self, status: int, headers: Headers) -> None:
        """Status and fields of an answer whose body follows piece by piece."""
        self.status = status
        self.started = True
        if self._limited:
            headers = _without_limits(headers)
        await self._send(
            {"type": "http.response.start", "status": status, "headers": [*headers, *self._fields, *self._told]}
        )

    async def start_stream(self, headers: Headers = (_EVENT_STREAM,)) -> None:
        """Begin an event stream, unless a keep-alive has done so."""
        if not self.started:
            self.streaming = True
            names = {name for name, _ in headers}
            await self.start(200, [*headers, *(field for field in STREAM_FIELDS if field[0] not in names)])

    def write(self, data: bytes) -> Awaitable[None]:
        """Hand on a piece of the body. A plain function that returns ASGI's own coroutine: this is the way of every event."""
        self.last_s = self._loop.time()
        if not self.committed:
            self.committed = True
            self.first_s = time.monotonic()
            self._tail = self._make_tail()
        self._tail.add(data)
        self.bytes_out += len(data)
        if self._busy is None:
            return self._send({"type": "http.response.body", "body": data, "more_body": True})
        return self._write_after(self._busy, data)

    async def end(self, data: bytes = b"") -> None:
        """The last piece. Idempotent."""
        if not self.ended:
            self.ended = True
            if self._busy is not None:
                await self._busy
            await self._send({"type": "http.response.body", "body": data})

    @property
    def done(self) -> bool:
        """Whether the stream has said `[DONE]`."""
        return self._tail.done

    @property
    def failed(self) -> bool:
        """Whether the last thing the stream said was an error of the upstream's own."""
        return self._tail.failed

    @property
    def between_events(self) -> bool:
        return self._tail.between_events

    @property
    def said_last(self) -> bytes:
        """The last bytes of the body so far."""
        return self._tail.end

    # ------------------------------------------------------------ silence

    def speaks(self) -> bool:
        """Whether comments may come."""
        return bool(self._timers) and self._silence is not None

    def fill(self, silence: Silence) -> None:
        """Fill silence otherwise than usual. To be said before `watch`."""
        self._silence = silence

    async def hush(self) -> None:
        """No comments from now on. Returns when one that is under way is out, so that `started` is settled."""
        self._hushed = self._silence or self._hushed
        self._silence = None
        if self._busy is not None:
            await asyncio.wait([self._busy])

    def resume(self) -> None:
        """What it was hushed for did not come: comments again."""
        if self._hushed is None:
            return
        self._silence, self._hushed = self._hushed, None
        if self._timers and (first_s := self._silence.first_s) is not None:
            self._timers[-1].cancel()
            self._timers[-1] = self._loop.call_later(first_s, self._look_for_silence)

    def _look_for_silence(self) -> None:
        silence = self._silence
        if self.ended or silence is None:
            return
        progress = None if self.committed else silence.progress(self.target)
        gap_s = silence.gap_s(progress, begun=self.started)
        wait_s = ASKED_S  # until another look, where nothing is to be said now
        if gap_s is not None:
            silent_s = self._loop.time() - self.last_s
            if silent_s >= gap_s:
                if self._busy is None and self._tail.between_events:
                    self._busy = self._loop.create_task(self._keep_alive(silence.words(self.asked, progress)))
                self.last_s = self._loop.time()
                silent_s = 0.0
                gap_s = silence.gap_s(progress, begun=True) or gap_s
            wait_s = gap_s - silent_s
        elif self.committed:
            return  # who asked for progress only has heard all of it
        self._timers[-1] = self._loop.call_later(wait_s, self._look_for_silence)

    async def _keep_alive(self, words: bytes) -> None:
        try:
            await self.start_stream()
            await self._send({"type": "http.response.body", "body": words, "more_body": True})
        finally:
            self._busy = None

    async def _write_after(self, busy: asyncio.Task[None], data: bytes) -> None:
        await asyncio.wait([busy])
        await self._send({"type": "http.response.body", "body": data, "more_body": True})
