"""A real HTTP/1.1 upstream for tests: it speaks OpenAI by default, exact bytes on demand, and keeps a journal.

Law: nothing here waits for a time unless the test asks for an `interval_s`: steps are held by gates (`asyncio.Event`)
and tests wait with `until`.

    async with FakeUpstream() as upstream:
        upstream.queue(b"HTTP/1.1 200 OK\\r\\ncontent-length: 4\\r\\n\\r\\nab", gate, b"cd")   # the next request's answer
        upstream.queue(b"HTTP/1.1 200 OK\\r\\n", CUT)                                     # the one after it
        upstream.script(handler)                                                       # all others, see `Exchange`
        ...
        await upstream.until(lambda: upstream.aborted == 1)
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import struct
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Self, cast

from httptools import HttpParserError, HttpRequestParser


class Step(Enum):
    """What a queued answer can do beside sending bytes and waiting for a gate."""

    CUT = "close the connection, as an ending process does (FIN)"
    RESET = "reset the connection, as a crashed host does (RST)"
    HOLD = "say nothing more, until the peer leaves"


CUT = Step.CUT
RESET = Step.RESET
HOLD = Step.HOLD

_LOOK_AGAIN_S = 0.005

AnswerStep = bytes | asyncio.Event | Step


@dataclass(slots=True)
class Recorded:
    """One request as it came. `body` is filled when it is complete."""

    method: str
    path: str
    headers: list[tuple[str, str]]
    body: bytes = b""

    def header(self, name: str) -> str | None:
        """The first field of that lower-case name."""
        return next((value for key, value in self.headers if key == name), None)

    def json(self) -> dict[str, Any]:
        """The body, parsed; {} when there is none."""
        return cast(dict[str, Any], json.loads(self.body)) if self.body else {}


@dataclass(slots=True)
class Exchange:
    """One request being answered. A handler runs in a task of its own, which is cancelled when the peer leaves."""

    upstream: FakeUpstream
    request: Recorded
    connection: _Connection
    received: asyncio.Event = field(default_factory=asyncio.Event)

    async def body(self) -> bytes:
        """The request's body, once it is complete."""
        await self.received.wait()
        return self.request.body

    def pause_reading(self) -> None:
        """Take no more of the request, until `resume_reading`."""
        self.connection.transport.pause_reading()

    def resume_reading(self) -> None:
        """Read on."""
        self.connection.transport.resume_reading()

    async def write(self, data: bytes) -> None:
        """Send exactly these bytes; waits while the peer does not take them."""
        self.connection.transport.write(data)
        if self.connection.transport.is_closing():
            await asyncio.sleep(0)  # it takes everything now, and its end would never be noticed
        await self.connection.writable.wait()

    async def answer(self, status: int, body: bytes | object, headers: Mapping[str, str] | None = None) -> None:
        """A whole answer with its length, in one write. `body`: bytes, or anything json can write."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        fields = {"content-type": "application/json", "content-length": str(len(raw)), **(headers or {})}
        await self.write(_head(status, fields) + raw)

    async def start_stream(self, headers: Mapping[str, str] | None = None) -> None:
        """The head of a chunked event stream."""
        fields = {"content-type": "text/event-stream", "transfer-encoding": "chunked", **(headers or {})}
        await self.write(_head(200, fields))

    async def chunk(self, data: bytes) -> None:
        """One chunk of a stream, in one write."""
        await self.write(b"%x\r\n%b\r\n" % (len(data), data))

    async def event(self, data: str | object) -> None:
        """One server-sent event, in one chunk. `data`: a string as it is, anything else as json."""
        text = data if isinstance(data, str) else json.dumps(data)
        await self.chunk(f"data: {text}\n\n".encode())

    async def end(self) -> None:
        """The last chunk."""
        await self.write(b"0\r\n\r\n")

    def cut(self) -> None:
        """Send what is written, then close."""
        self.connection.answered = True
        self.connection.transport.close()

    def reset(self) -> None:
        """Close with an RST."""
        self.connection.answered = True
        sock = cast(socket.socket, self.connection.transport.get_extra_info("socket"))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.transport.abort()


Handler = Callable[[Exchange], Awaitable[None]]


class FakeUpstream:
    """A server on a free port of the loopback. Change its attributes at any time.

    Args:
        model: what it offers and answers as.
        events: content events of a streamed answer.
        interval_s: pause before each event; 0: none.
        host: where it listens.
        ssl_context: speak https; `base_url` then names localhost.
    """

    def __init__(
        self,
        *,
        model: str = "fake",
        events: int = 3,
        interval_s: float = 0.0,
        host: str = "127.0.0.1",
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self.model = model
        self.events = events
        self.interval_s = interval_s
        self.requests: list[Recorded] = []
        self.connections = 0  # ever accepted
        self.open_connections = 0
        self.in_flight = 0  # requests whose head is in and whose answer is not complete
        self.aborted = 0  # answers the peer did not wait for
        self.failures: list[BaseException] = []  # of handlers; raised when the block ends
        self.port = 0
        self._host = host
        self._ssl = ssl_context
        self._server: asyncio.Server | None = None
        self._queue: deque[Handler] = deque()
        self._handler: Handler = speak_openai
        self._live: set[_Connection] = set()
        self._changed: set[asyncio.Future[None]] = set()

    @property
    def base_url(self) -> str:
        """Without a slash at its end."""
        if self._ssl is not None:
            return f"https://localhost:{self.port}"
        return f"http://[{self._host}]:{self.port}" if ":" in self._host else f"http://{self._host}:{self.port}"

    def script(self, handler: Handler | None) -> None:
        """Let this answer every request from now on; None: OpenAI again. Queued answers come first."""
        self._handler = handler or speak_openai

    def queue(self, *steps: AnswerStep, early: bool = False) -> None:
        """The next request's answer: bytes, gates to wait for, CUT, RESET or HOLD.

        Args:
            early: begin as soon as the request's head is in, without waiting for its body.
        """

        async def play(exchange: Exchange) -> None:
            if not early:
                await exchange.body()
            for step in steps:
                if isinstance(step, bytes):
                    await exchange.write(step)
                elif isinstance(step, asyncio.Event):
                    await step.wait()
                elif step is CUT:
                    exchange.cut()
                elif step is RESET:
                    exchange.reset()
                else:
                    await asyncio.Event().wait()

        self.queue_handler(play)

    def queue_handler(self, handler: Handler) -> None:
        """Let this answer one request, after what is queued already."""
        self._queue.append(handler)

    def forget(self) -> None:
        """What is queued is not answered with after all."""
        self._queue.clear()

    async def until(self, condition: Callable[[], bool], within_s: float = 5.0) -> None:
        """Wait for something this upstream sees, at once, or for anything else, by looking again and again.

        Raises: TimeoutError: not within `within_s`; it tells this upstream's state.
        """
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(within_s):
                while not condition():
                    change = loop.create_future()
                    self._changed.add(change)
                    await asyncio.wait((change,), timeout=_LOOK_AGAIN_S)
        except TimeoutError:
            raise TimeoutError(f"not within {within_s} s: {self!r}") from None

    def cut_connections(self) -> None:
        """Close every connection there is, idle ones too."""
        for connection in list(self._live):
            connection.answered = True
            connection.transport.close()

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), self._host, self.port, ssl=self._ssl)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.stop()
        if self.failures and exc_info[0] is None:
            raise self.failures[0]

    async def stop(self) -> None:
        """Close the port and every connection, as an ending process does. `__aenter__` opens the same port again."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in list(self._live):
            connection.answered = True
            connection.transport.abort()
        await self.until(lambda: self.open_connections == 0)

    def __repr__(self) -> str:
        return (
            f"<FakeUpstream {self.base_url} requests={len(self.requests)} connections={self.connections} "
            f"open={self.open_connections} in_flight={self.in_flight} aborted={self.aborted}>"
        )

    # what its connections tell

    def opened(self, connection: _Connection) -> None:
        """Accepted."""
        self._live.add(connection)
        self.connections += 1
        self.open_connections += 1
        self.changed()

    def closed(self, connection: _Connection) -> None:
        """Gone."""
        self._live.discard(connection)
        self.open_connections -= 1
        self.changed()

    def changed(self) -> None:
        """Something a test may be waiting for."""
        for waiter in self._changed:
            if not waiter.done():
                waiter.set_result(None)
        self._changed.clear()

    def next_handler(self) -> Handler:
        """Who answers the request that has just come."""
        return self._queue.popleft() if self._queue else self._handler


class _Connection(asyncio.Protocol):
    """One accepted connection; requests one after the other, as HTTP/1.1 without pipelining."""

    def __init__(self, upstream: FakeUpstream) -> None:
        self.upstream = upstream
        self.writable = asyncio.Event()
        self.writable.set()
        self.answered = True  # no request is waiting for us
        self.transport: asyncio.Transport
        self._exchange: Exchange | None = None
        self._task: asyncio.Task[None] | None = None
        self._path = b""
        self._headers: list[tuple[str, str]] = []
        self._body = bytearray()
        self._parser = HttpRequestParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.upstream.opened(self)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except HttpParserError as error:
            self.upstream.failures.append(error)
            self.transport.abort()
        self.upstream.changed()

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    def eof_received(self) -> None:
        self.transport.abort()  # the peer has left: do not try to send the rest

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.answered:
            self.upstream.aborted += 1
        if self._task is not None:
            self._task.cancel()
        self.upstream.closed(self)

    # what the parser calls

    def on_message_begin(self) -> None:
        self._path = b""
        self._headers = []
        self._body.clear()

    def on_url(self, url: bytes) -> None:
        self._path += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.decode("latin-1").lower(), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        recorded = Recorded(self._parser.get_method().decode(), self._path.decode("latin-1"), self._headers)
        self._exchange = Exchange(self.upstream, recorded, self)
        self.upstream.requests.append(recorded)
        self.upstream.in_flight += 1
        self.answered = False
        handler = self.upstream.next_handler()
        self._task = asyncio.get_running_loop().create_task(self._answer(handler, self._exchange))
        self._task.add_done_callback(self._answer_ended)

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        assert self._exchange is not None
        self._exchange.request.body = bytes(self._body)
        self._exchange.received.set()

    async def _answer(self, handler: Handler, exchange: Exchange) -> None:
        try:
            await handler(exchange)
            self.answered = True
        except Exception as error:  # noqa: BLE001 - boundary: a test's handler failed, the test shall hear of it
            self.upstream.failures.append(error)
            self.transport.abort()

    def _answer_ended(self, task: asyncio.Task[None]) -> None:
        if self._task is task:
            self._task = None
        self.upstream.in_flight -= 1
        self.upstream.changed()


async def speak_openai(exchange: Exchange) -> None:
    """The default: `/health`, `/v1/models`, completions plain and streamed (in chat form); all else is a 404."""
    body = await exchange.body()
    upstream, request = exchange.upstream, exchange.request
    path = request.path.partition("?")[0]
    if path.endswith("/health"):
        await exchange.answer(200, {"status": "ok"})
    elif path.endswith("/models"):
        model = {"id": upstream.model, "object": "model", "created": 1_700_000_000, "owned_by": "fake"}
        await exchange.answer(200, {"object": "list", "data": [model]})
    elif not path.endswith("/completions"):
        error = {
            "message": f"no such path: {path}",
            "type": "invalid_request_error",
            "param": None,
            "code": "not_found",
        }
        await exchange.answer(404, {"error": error})
    elif request.json().get("stream") and body:
        await _stream_chat(exchange, request.json())
    else:
        usage = _usage(upstream.events)
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": " ".join(f"w{n}" for n in range(upstream.events))},
            "logprobs": None,
            "finish_reason": "stop",
        }
        await exchange.answer(200, {**_common(exchange, "chat.completion"), "choices": [choice], "usage": usage})


async def _stream_chat(exchange: Exchange, asked: dict[str, Any]) -> None:
    common = _common(exchange, "chat.completion.chunk")
    count = exchange.upstream.events
    await exchange.start_stream()
    for number in range(count + 1):
        if exchange.upstream.interval_s > 0:
            await asyncio.sleep(exchange.upstream.interval_s)
        delta = {"content": f"w{number} "} if number < count else {}
        choice = {"index": 0, "delta": delta, "finish_reason": None if number < count else "stop"}
        await exchange.event({**common, "choices": [choice]})
    if asked.get("stream_options", {}).get("include_usage"):
        await exchange.event({**common, "choices": [], "usage": _usage(count)})
    await exchange.event("[DONE]")
    await exchange.end()


def _common(exchange: Exchange, kind: str) -> dict[str, object]:
    model = exchange.request.json().get("model", exchange.upstream.model)
    return {"id": "chatcmpl-fake", "object": kind, "created": 1_700_000_000, "model": model}


def _usage(completion: int) -> dict[str, int]:
    return {"prompt_tokens": 7, "completion_tokens": completion, "total_tokens": 7 + completion}


def _head(status: int, headers: Mapping[str, str]) -> bytes:
    fields = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status} Fake\r\n{fields}\r\n".encode("latin-1")
