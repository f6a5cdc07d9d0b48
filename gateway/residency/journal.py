"""What residency has decided and seen, in words, newest last: for `/admin/events`, the log and the metrics.

A bounded ring. A subscriber who is too slow loses the oldest entries, seen by the gap in `seq`; it never holds anybody up.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable

import msgspec

from .events import Footprint

# Kept for late subscribers: at one swap a second some four minutes, at home some weeks.
KEPT = 1000
# A subscriber's own queue: more than a burst of 50 waiters being granted.
QUEUED = 512


class Happening(msgspec.Struct, frozen=True, omit_defaults=True):
    """One decision or fact.

    `what` is one of: queued granted rejected load_started loaded load_failed draining unload_started gone died pinned unpinned
    budget.
    """

    seq: int
    at_s: float  # seconds since the epoch
    what: str
    target: str = ""
    epoch: int = 0
    why: str = ""
    detail: str = ""
    for_target: str = ""
    seconds: float | None = None  # how long it took or was waited for
    footprint: Footprint | None = None
    footprint_source: str = ""
    ticket: int = 0


Listener = Callable[[Happening], None]


class Journal:
    """The one writer appends; listeners are called in line, subscribers read at their own pace."""

    def __init__(self, wall_clock: Callable[[], float]) -> None:
        self._wall_clock = wall_clock
        self._ring: deque[Happening] = deque(maxlen=KEPT)
        self._seq = 0
        self._queues: set[asyncio.Queue[Happening | None]] = set()
        self._closed = False
        self.listeners: list[Listener] = []

    def note(
        self,
        what: str,
        target: str = "",
        epoch: int = 0,
        *,
        why: str = "",
        detail: str = "",
        for_target: str = "",
        seconds: float | None = None,
        footprint: Footprint | None = None,
        footprint_source: str = "",
        ticket: int = 0,
    ) -> None:
        """Write one entry down and tell everybody."""
        self._seq += 1
        happening = Happening(
            self._seq,
            self._wall_clock(),
            what,
            target,
            epoch,
            why,
            detail,
            for_target,
            seconds,
            footprint,
            footprint_source,
            ticket,
        )
        self._ring.append(happening)
        for listener in self.listeners:
            listener(happening)
        self._tell(happening)

    def close(self) -> None:
        """Nothing more will happen: whoever follows comes to the end, so that nobody keeps a server from ending."""
        self._closed = True
        self._tell(None)

    def _tell(self, happening: Happening | None) -> None:
        for queue in self._queues:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(happening)

    def since(self, seq: int) -> list[Happening]:
        """Entries after `seq` that are still kept, oldest first."""
        return [happening for happening in self._ring if happening.seq > seq]

    async def follow(self, seq: int) -> AsyncIterator[Happening]:
        """First what is kept after `seq`, then everything as it happens, until `close`. Ending the iteration unsubscribes.

        A number not reached yet is a former run's: all that is kept follows.
        """
        queue: asyncio.Queue[Happening | None] = asyncio.Queue(QUEUED)
        self._queues.add(queue)
        try:
            last = seq if seq <= self._seq else 0
            for happening in self.since(last):
                last = happening.seq
                yield happening
            while not (self._closed and queue.empty()):
                happening = await queue.get()
                if happening is not None and happening.seq > last:
                    last = happening.seq
                    yield happening
        finally:
            self._queues.discard(queue)
