"""An answer of many lines (application/x-ndjson), line by line as they arrive.

Law: a line has a bound, and so has what waits for its reader: a slow reader slows the upstream down, it does not fill our memory.
Left early, the answer is no longer read and nothing of this runs on.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable

from .contract import Response
from .errors import UpstreamBroke, UpstreamTimeout

LINE_MAX_BYTES = 1 << 20  # real lines have some hundred bytes
_WAITING_MAX = 16  # lines: together no more than what one whole answer may have (remote.ANSWER_MAX_BYTES)


async def read_lines(response: Response, *, source: str, silence_s: Callable[[], float]) -> AsyncGenerator[bytes, None]:
    """Every line that is not empty, without its end; the last one needs none. The caller closes the response.

    Args:
        silence_s: how long the next line may take, asked before each.
    Raises:
        UpstreamTimeout: no further line in time.
        UpstreamBroke: it ended early, or a line has no end.
    """
    reader = _Reader(source)
    pumping = asyncio.get_running_loop().create_task(reader.pump(response), name=f"lines of {source}")
    pumping.add_done_callback(lambda _: reader.arrived.set())
    try:
        while True:
            if reader.lines:
                line = reader.lines.popleft()
                reader.room.set()
                yield line
            elif pumping.done():
                pumping.result()
                return
            else:
                reader.arrived.clear()
                await _within(reader.arrived, silence_s(), source)
    finally:
        pumping.cancel()
        await asyncio.wait({pumping})


async def _within(event: asyncio.Event, limit_s: float, source: str) -> None:
    try:
        async with asyncio.timeout(limit_s):
            await event.wait()
    except TimeoutError:
        raise UpstreamTimeout(f"{source} has said nothing for {limit_s:g} s", source=source) from None


class _Reader:
    def __init__(self, source: str) -> None:
        self.lines: deque[bytes] = deque()
        self.arrived = asyncio.Event()
        self.room = asyncio.Event()
        self._source = source
        self._rest = bytearray()

    async def pump(self, response: Response) -> None:
        await response.pump(self._take)
        await self._put(bytes(self._rest))

    async def _take(self, piece: bytes) -> None:
        *ends, rest = piece.split(b"\n")
        for end in ends:
            self._rest += end
            line = bytes(self._rest)
            self._rest.clear()
            await self._put(line)
        self._rest += rest
        self._check(len(self._rest))

    async def _put(self, line: bytes) -> None:
        self._check(len(line))
        if not line.strip():
            return
        self.lines.append(line)
        self.arrived.set()
        while len(self.lines) >= _WAITING_MAX:
            self.room.clear()
            await self.room.wait()

    def _check(self, size_bytes: int) -> None:
        if size_bytes > LINE_MAX_BYTES:
            raise UpstreamBroke(
                f"{self._source} sent a line of more than {LINE_MAX_BYTES} bytes: is base_url right?",
                source=self._source,
            )
