"""An upload on its way through: read all the time, forwarded while it comes in, and kept so that it can be sent again.

The law: nobody but this reads from the caller, and it never stops, so that its leaving is noticed at every moment; an upload is
never whole in memory; the last byte is handed on only after the form was found to be right; `close` frees everything.

The file is written and read in threads. A write into the page cache takes a third of a thread's hop, but where engines fill the
memory the kernel makes a writer wait for the disk, and every other caller's stream would stand still with it. While one is written
nothing more is read from this caller: a slow disk slows its sender down, nobody else.

Source: Linux, Documentation/admin-guide/sysctl/vm.rst (dirty_ratio: from there on a writing process itself waits for the disk).
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import IO, Any, Self, TypeVar, cast

import msgspec

from gateway.errors import BodyTooLarge, CallerLeft, GatewayError, InvalidRequest, UploadNotKept, UploadTimedOut
from providers.contract import Body

from .headers import first
from .multipart import Scanner, boundary_of

MEMORY_BYTES = 1 << 20  # of each upload; what comes after it goes to disk
PIECE_BYTES = 256 * 1024  # written, read and handed on at once
# Phones change cells within seconds; nginx waits 60 s (client_body_timeout).
SILENCE_S = 30.0

_T = TypeVar("_T")


class Fields(msgspec.Struct, frozen=True):
    """What the way of a form depends on."""

    model: str
    stream: bool


class Upload:
    """One form, from the caller to as many targets as are tried.

        async with Upload(receive, headers, limit_bytes=…) as upload:
            fields = await upload.fields()
            request = Request(…, body=upload.body("the target's own name"))

    Args:
        receive: ASGI's. Nobody else may call it while the upload is open; `leaving` is what others may wait on.
        headers: the request's, names in lower case.
        limit_bytes: of the whole body.
        silence_s: how long nothing may come before the upload is complete; None: for ever.
    Raises:
        InvalidRequest: it is announced as something else than a form. BodyTooLarge: it is announced to be larger than the limit.
            Nothing has been asked of the caller then, no `100 Continue` has been sent.
    """

    def __init__(
        self,
        receive: Callable[[], Awaitable[object]],
        headers: Sequence[tuple[bytes, bytes]],
        *,
        limit_bytes: int,
        silence_s: float | None = SILENCE_S,
    ) -> None:
        if sum(name == b"content-type" for name, _ in headers) > 1:
            raise InvalidRequest("content-type is there twice", param="content-type", code="unsupported_content_type")
        self._scanner = Scanner(boundary_of(first(headers, b"content-type")))
        self._declared = _declared(headers)
        self._limit_bytes = limit_bytes
        if self._declared is not None and self._declared > limit_bytes:
            raise self._too_large()
        self._receive = receive
        self._silence_s = silence_s
        self._spool = Spool()
        self._came = 0  # bytes
        self._complete = False  # all has come, and it is a form
        self._error: GatewayError | None = None
        self._left = False
        self._arrived = False  # the caller has nothing more to send
        self._waiters: set[asyncio.Future[None]] = set()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.get_running_loop().create_task(self._listen())
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def fields(self) -> Fields:
        """Where the form goes. Returns as soon as that is known: at the first file after `model`, or at `stream`, or at the end.

        So `stream` is False where it comes after a file that comes after `model`.

        Raises: InvalidRequest, BodyTooLarge, UploadTimedOut, UploadNotKept, CallerLeft.
        """
        scanner = self._scanner
        while not scanner.settled:
            self._check()
            await self._news()
        self._check()
        assert scanner.model is not None  # else it were not settled
        return Fields(scanner.model, scanner.stream is True)

    def body(self, model: str | None = None) -> Body:
        """The form as a request's body, from its beginning, as often as wanted. Call it after `fields` has returned.

        Args:
            model: what stands in the place of the model's value; None: nothing else.
        Raises: ValueError: `model` holds a line break, which could end the field.
        """
        scanner = self._scanner
        if model is None or model == scanner.model:
            return _Form(self, 0, 0, b"")
        if "\r" in model or "\n" in model:
            raise ValueError("a model's name with a line break cannot stand in a form")
        return _Form(self, scanner.model_at, scanner.model_at + scanner.model_length, model.encode())

    async def leaving(self) -> object:
        """Waits until the caller has left; then ASGI's word for it. Stands in for `receive`, for whoever waits for nothing else."""
        while not self._left:
            await self._news()
        return {"type": "http.disconnect"}

    async def arrived(self) -> None:
        """Waits until the caller has nothing more to send. After a failure what still comes is thrown away."""
        while not self._arrived:
            await self._news()

    async def close(self) -> None:
        """Frees the memory, the file and the task. Idempotent; not undone by cancellation. The caller may still be sending."""
        self._error = self._error or CallerLeft("the upload is closed")
        task, self._task = self._task, None
        self._wake()
        try:
            if task is not None:
                task.cancel()
                await asyncio.wait((task,))
        finally:
            await self._spool.close()

    # ------------------------------------------------------------ what its bodies ask

    @property
    def length(self) -> int | None:
        """As the caller announced it."""
        return self._declared

    async def read(self, start: int, end: int | None) -> bytes:
        """What has come from `start` on, up to `end`, at least a byte; waits for it. b"": nothing more will come.

        Raises: as `fields`.
        """
        while True:
            self._check()
            ready = self._ready()
            stop = ready if end is None else min(ready, end)
            if start < stop:
                try:
                    return await self._spool.read(start, stop)
                except OSError as error:
                    raise _not_kept(error) from error
            if self._complete:
                return b""
            await self._news()

    def _ready(self) -> int:
        """How much may be handed on. Whoever has the last byte of an announced length has a request, so that one waits."""
        if self._complete or self._declared is None:
            return self._spool.size
        return min(self._spool.size, self._declared - 1)

    # ------------------------------------------------------------ the caller

    async def _listen(self) -> None:
        try:
            await self._take_in()
        except GatewayError as error:
            self._error = error
        except OSError as error:
            self._error = _not_kept(error)
        self._wake()
        while not self._left:
            self._next(await self._receive())
            self._wake()

    async def _take_in(self) -> None:
        """Raises: GatewayError; OSError: the disk."""
        while not self._arrived:
            try:
                async with asyncio.timeout(self._silence_s):
                    message = await self._receive()
            except TimeoutError:
                raise UploadTimedOut(
                    f"Nothing more of the upload came for {self._silence_s:g} s: send it again"
                ) from None
            piece = self._next(message)
            if self._left:
                raise CallerLeft("the caller left before its upload was complete")
            self._came += len(piece)
            if self._came > self._limit_bytes:
                raise self._too_large()
            self._scanner.feed(piece)
            self._spool.add(piece)
            self._wake()
            await self._spool.settle()
        self._scanner.finish()
        if self._declared is not None and self._declared != self._came:
            raise InvalidRequest("The body is not as long as its content-length says", code="invalid_multipart")
        self._complete = True

    def _next(self, message: object) -> bytes:
        """The piece in one of ASGI's messages."""
        fields = cast("dict[str, Any]", message)
        if fields["type"] != "http.request":
            self._left = self._arrived = True
            return b""
        self._arrived = not fields.get("more_body", False)
        return cast("bytes", fields.get("body", b""))

    def _too_large(self) -> BodyTooLarge:
        return BodyTooLarge(f"The body is larger than {self._limit_bytes} bytes (server.max_upload_bytes)")

    # ------------------------------------------------------------ those who wait

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    async def _news(self) -> None:
        """Waits until something has come or ended."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)


class _Form:
    """An upload with one part of it replaced. See `providers.contract.Body`."""

    __slots__ = ("_end", "_start", "_text", "_upload")

    def __init__(self, upload: Upload, start: int, end: int, text: bytes) -> None:
        self._upload = upload
        self._start = start  # what lies between these two in the upload
        self._end = end
        self._text = text  # is this here

    @property
    def length(self) -> int | None:
        declared = self._upload.length
        return None if declared is None else declared - (self._end - self._start) + len(self._text)

    def pieces(self) -> AsyncIterator[bytes]:
        """From the first byte on. Raises: as `Upload.fields`."""
        return _Pieces(self._upload, self._start, self._end, self._text)


class _Pieces:
    """An iterator and no generator: one that is given up halfway needs nobody to close it."""

    __slots__ = ("_at", "_end", "_start", "_text", "_upload")

    def __init__(self, upload: Upload, start: int, end: int, text: bytes) -> None:
        self._upload = upload
        self._start = start
        self._end = end
        self._text = text
        self._at = 0

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if self._text and self._at == self._start:
            self._at, text, self._text = self._end, self._text, b""
            return text
        piece = await self._upload.read(self._at, self._start if self._text else None)
        if not piece:
            raise StopAsyncIteration
        self._at += len(piece)
        return piece


class Spool:
    """Bytes that are added at the end and read anywhere: the first in memory, the rest in a file without a name.

    What has just come is in memory too, until it is a piece worth writing: whoever follows the end reads no file.
    """

    def __init__(self) -> None:
        self.size = 0
        self._head = bytearray()
        self._tail = bytearray()
        self._file: IO[bytes] | None = None
        self._file_size = 0
        self._running: set[asyncio.Future[Any]] = set()
        self._closed = False

    def add(self, piece: bytes) -> None:
        """To be followed by `settle`, before more is added."""
        room = MEMORY_BYTES - len(self._head)
        if room > 0:
            self._head += piece[:room]
            piece = piece[room:]
        self._tail += piece
        self.size = len(self._head) + self._file_size + len(self._tail)

    async def settle(self) -> None:
        """Write what is too much for the memory. Raises: OSError: the disk is full, or there is no folder for such files."""
        while len(self._tail) >= PIECE_BYTES:
            await self._in_thread(self._write, bytes(memoryview(self._tail)[:PIECE_BYTES]), self._file_size)
            del self._tail[:PIECE_BYTES]
            self._file_size += PIECE_BYTES

    async def read(self, start: int, end: int) -> bytes:
        """From `start` on, a byte at least, a piece at most. Raises: OSError."""
        end = min(end, start + PIECE_BYTES)
        head = len(self._head)
        if start < head:
            return bytes(memoryview(self._head)[start:end])
        start, end = start - head, end - head
        if start < self._file_size:
            return await self._in_thread(self._read, start, min(end, self._file_size))
        return bytes(memoryview(self._tail)[start - self._file_size : end - self._file_size])

    async def close(self) -> None:
        """Waits for what runs in a thread: a number that names another file by then must not be written to."""
        self._closed = True
        self._head, self._tail = bytearray(), bytearray()
        self._close_file()
        while self._running:
            await asyncio.wait(self._running)

    def _close_file(self) -> None:
        """In a thread too: giving back a large file's blocks takes milliseconds."""
        if self._file is not None and not self._running:
            file, self._file = self._file, None
            self._start(file.close)

    async def _in_thread(self, work: Callable[..., _T], *args: object) -> _T:
        running = self._start(work, *args)
        await asyncio.wait((running,))  # cancelled, it goes on, and is waited for in `close`
        return running.result()

    def _start(self, work: Callable[..., _T], *args: object) -> asyncio.Future[_T]:
        running = asyncio.get_running_loop().run_in_executor(None, work, *args)
        self._running.add(running)
        running.add_done_callback(self._ended)
        return running

    def _ended(self, running: asyncio.Future[Any]) -> None:
        self._running.discard(running)
        if not running.cancelled():
            running.exception()  # has been raised by who waited, if it still did
        if self._closed:
            self._close_file()

    # in a thread

    def _write(self, piece: bytes, at: int) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - lives as long as the upload, see `close`
        rest = memoryview(piece)
        while rest:
            written = os.pwrite(self._file.fileno(), rest, at)
            rest, at = rest[written:], at + written

    def _read(self, start: int, end: int) -> bytes:
        assert self._file is not None  # something was written
        piece = os.pread(self._file.fileno(), end - start, start)
        if not piece:
            raise OSError("the file with the upload has been cut short")
        return piece


def _declared(headers: Sequence[tuple[bytes, bytes]]) -> int | None:
    length = first(headers, b"content-length")
    return int(length) if length is not None and length.isdigit() else None


def _not_kept(error: OSError) -> UploadNotKept:
    return UploadNotKept(
        f"The gateway could not keep the upload in its temporary folder ({error.strerror or 'the file is damaged'}): "
        "its operator must make room there, or name another one in TMPDIR",
        detail=repr(error),
    )
