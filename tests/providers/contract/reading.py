"""Taking an answer: whole, or as a stream that is read while the test looks on."""

from __future__ import annotations

import asyncio
import traceback

from providers.contract import Request, Response
from providers.errors import ProviderError
from tests.providers.contract.subjects import KEY, NAME, WITHIN_S, Subject

_MAX_BYTES = 1 << 20


async def whole(subject: Subject, request: Request) -> tuple[Response, bytes]:
    """Status and fields, and the body."""
    response = await subject.send(request)
    try:
        return response, await response.read(_MAX_BYTES)
    finally:
        response.close()


class Reading:
    """A stream being read by a task of its own."""

    def __init__(self, subject: Subject, request: Request) -> None:
        self.body = b""
        self.response: Response | None = None
        self.pieces = 0
        self._subject = subject
        self._seen = asyncio.Event()
        self.task = asyncio.get_running_loop().create_task(self._read(request))
        self.task.add_done_callback(lambda _: self._seen.set())

    async def _read(self, request: Request) -> None:
        self.response = await self._subject.send(request)
        try:
            await self.response.pump(self._take)
        finally:
            self.response.close()

    async def _take(self, piece: bytes) -> None:
        self.body += piece
        self.pieces += 1
        if self.words():
            self._seen.set()

    def words(self) -> list[str]:
        """The pieces of text so far."""
        return self._subject.wire.words(self.body[: self.body.rfind(b"\n\n") + 2])

    async def first(self) -> None:
        """Wait for the first word. It has ended without one: its own error."""
        async with asyncio.timeout(WITHIN_S):
            await self._seen.wait()
        if self.task.done():
            await self.task
        assert self.words()

    async def end(self) -> None:
        """Wait for the last byte."""
        async with asyncio.timeout(WITHIN_S):
            await self.task

    async def leave(self) -> None:
        """As a caller who leaves."""
        self.task.cancel()
        async with asyncio.timeout(WITHIN_S):
            await asyncio.wait({self.task})
        assert self.task.cancelled()


def fair(error: ProviderError) -> None:
    """An error of the contract says who failed, and never our key."""
    assert error.source == NAME
    assert NAME in error.message
    told = "\n".join((*traceback.format_exception(error), repr(error), error.detail, repr(vars(error))))
    assert KEY not in told
