"""`/admin/live`: everything the dashboard shows, as it happens, over one stream of server-sent events.

The law: what is told is worked out once, however many look, and only while somebody looks; nobody who reads slowly holds up anybody
else: states are replaced by later ones, and of happenings and requests the oldest are lost, which is said (`reset`). A request pays
nothing for it: what has changed is looked for a few times a second. A stream lives for seconds and is taken up again where it ended
(`again`), so that who asks is looked at anew: a key that was taken back, or a session that is over, is told nothing more.

Each event's id is `RUN.HAPPENINGS.REQUESTS`, how much had been told by then; a browser that comes back with it is told what it
missed. Source: WHATWG HTML §9.2 (server-sent events: `id`, `retry`, `Last-Event-ID`).
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import msgspec
from litestar import Request, get
from litestar.handlers import HTTPRouteHandler
from litestar.response import Stream

from gateway.metering.activity import Activity, Begun, row_of
from gateway.metering.entry import Entry
from gateway.residency.journal import Happening, Journal
from gateway.residency.words import words

log = logging.getLogger("roundhouse")

BEAT_S = 0.2  # what has changed is looked for so often: at most five states in a second
STATE_EVERY_S = 2.0  # also where nothing changed: idle times go on, and the connection is seen to live
QUEUED = 512  # events that one reader may be behind; a burst of 300 requests is shown whole
TOLD_AT_FIRST = 300  # happenings for who comes anew: what the dashboard keeps
ENDED_MAX = 100  # requests told in one beat: more nobody can read. Those whose beginning was told are always told.
RUNNING_MAX = 200  # of those in progress
RETRY_MS = 1000
LIFE_S = 5.0  # of one stream; taking it up again is one small request on the same connection

_ID = re.compile(r"([0-9a-f]{8})\.([0-9]{1,15})\.([0-9]{1,15})")
_encode = msgspec.json.Encoder().encode


class Subscriber:
    """One reader's own queue: bounded, and never waited for."""

    __slots__ = ("_closed", "_events", "_loads", "_lost", "_news", "_state")

    def __init__(self) -> None:
        self._events: deque[bytes] = deque()
        self._state = b""
        self._loads: dict[str, bytes] = {}
        self._lost = False
        self._closed = False
        self._news = asyncio.Event()

    def tell(self, event: bytes) -> None:
        """Once, in order; where the reader is too far behind, the oldest is lost."""
        if len(self._events) >= QUEUED:
            self._events.popleft()
            self._lost = True
        self._events.append(event)
        self._news.set()

    def show(self, state: bytes) -> None:
        """The newest only."""
        self._state = state
        self._news.set()

    def show_load(self, target: str, load: bytes) -> None:
        """The newest of each target only."""
        self._loads[target] = load
        self._news.set()

    def send_away(self) -> None:
        """To ask again at once."""
        self.tell(_event("again", {}))
        self.close()

    def close(self) -> None:
        """After what is queued comes the end."""
        self._closed = True
        self._news.set()

    async def take(self) -> bytes:
        """All that is there, as soon as there is something; b"": it is over."""
        await self._news.wait()
        reset = [_event("reset", {"why": "too slow"})] if self._lost else []
        taken = b"".join((*reset, *self._events, *self._loads.values(), self._state))
        self._events.clear()
        self._loads.clear()
        self._state = b""
        self._lost = False
        if not self._closed:
            self._news.clear()
        return taken


class Hub:
    """Looks for what is new, and tells all who are there.

    Args:
        state: what `state` says; asked at most once a beat.
        loads: target → what `load` says of it; asked while something loads.
        name_of: target → the name that people ask for.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        journal: Journal,
        activity: Activity,
        *,
        state: Callable[[], object],
        loads: Callable[[], Mapping[str, object]],
        name_of: Callable[[str], str],
        clock: Callable[[], float],
    ) -> None:
        self._journal = journal
        self._activity = activity
        self._state = state
        self._loads = loads
        self._name_of = name_of
        self._clock = clock
        self._run = secrets.token_hex(4)
        self._subscribers: set[Subscriber] = set()
        self._pump: asyncio.Task[None] | None = None
        self._happened = 0  # the number of the last happening that was told
        self._ended = 0  # … of the last request
        self._begun: dict[int, Begun] = {}  # those in progress, as they were told
        self._changed = (0, 0, 0)  # counts as they were in the last state
        self._shown_s = 0.0
        self._last_state = b""
        self._loading = False

    @property
    def watched(self) -> int:
        """How many look."""
        return len(self._subscribers)

    async def follow(self, last_id: str = "", life_s: float | None = None) -> AsyncIterator[bytes]:
        """Events, in pieces of one or more, until the journal is closed or its life is over. Ending it frees everything."""
        subscriber = self._enter(last_id)
        over = None if life_s is None else asyncio.get_running_loop().call_later(life_s, subscriber.send_away)
        try:
            yield b"retry: %d\n\n" % RETRY_MS
            while piece := await subscriber.take():
                yield piece
        finally:
            if over is not None:
                over.cancel()
            self._leave(subscriber)

    # ------------------------------------------------------------ coming and going

    def _enter(self, last_id: str) -> Subscriber:
        if self._pump is None:
            kept = self._journal.since(0)
            self._happened = kept[-1].seq if kept else 0
            self._ended = self._activity.ended
            self._begun.clear()
            self._look_at_running()
            self._show()
            self._pump = asyncio.get_running_loop().create_task(self._work(), name="live")
            self._pump.add_done_callback(_tell_failure)
        subscriber = Subscriber()
        self._catch_up(subscriber, last_id)
        self._subscribers.add(subscriber)
        return subscriber

    def _leave(self, subscriber: Subscriber) -> None:
        self._subscribers.discard(subscriber)
        if not self._subscribers and self._pump is not None:
            self._pump.cancel()
            self._pump = None

    def _catch_up(self, subscriber: Subscriber, last_id: str) -> None:
        """What it missed, or what there is to be seen at first; then how things stand."""
        kept = [happening for happening in self._journal.since(0) if happening.seq <= self._happened]
        happened, ended, known = self._position(last_id, kept)
        if not known:
            happened, ended = kept[-TOLD_AT_FIRST:][0].seq - 1 if kept else 0, self._ended
            if last_id not in ("", "0"):  # it has something that does not go together with what follows
                subscriber.tell(_event("reset", {"why": "too long away"}))
        for happening in kept:
            if happening.seq > happened:
                subscriber.tell(self._happening(happening, ended))
        missed = self._activity.since(ended)
        for number, entry in enumerate(missed[: self._ended - ended], ended + 1):
            subscriber.tell(self._entry(entry, self._happened, number))
        for begun in self._begun.values():
            subscriber.tell(self._event("request", begun))
        subscriber.show(self._last_state)

    def _position(self, last_id: str, kept: Sequence[Happening]) -> tuple[int, int, bool]:
        """Up to where it was told; False: another run's, or not all that came after is kept."""
        found = _ID.fullmatch(last_id)
        if found is None or found[1] != self._run:
            return 0, 0, False
        happened, ended = int(found[2]), int(found[3])
        oldest = kept[0].seq if kept else self._happened + 1
        whole = oldest - 1 <= happened <= self._happened and self._activity.oldest - 1 <= ended <= self._ended
        return happened, ended, whole

    # ------------------------------------------------------------ what is new

    async def _work(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                beat = group.create_task(self._beat())
                async for happening in self._journal.follow(self._happened):
                    self._happened = happening.seq
                    self._broadcast(self._happening(happening, self._ended))
                beat.cancel()
            self._look()
            self._show()
        finally:
            if self._pump is asyncio.current_task():
                self._pump = None
                for subscriber in self._subscribers:
                    subscriber.close()

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(BEAT_S)
            self._look()

    def _look(self) -> None:
        activity = self._activity
        if activity.running or self._begun:
            self._look_at_running()
        if activity.ended != self._ended:
            self._look_at_ended()
        counts = (self._happened, activity.began, activity.ended)
        if counts != self._changed or self._clock() - self._shown_s >= STATE_EVERY_S:
            self._show()
        elif self._loading:
            self._show_loads()

    def _look_at_running(self) -> None:
        for number, ongoing in list(self._activity.running.items())[-RUNNING_MAX:]:
            told = self._begun.get(number)
            begun = ongoing.begun()
            if told is None or (told.phase, told.target) != (begun.phase, begun.target):
                self._begun[number] = begun
                self._broadcast(self._event("request", begun))

    def _look_at_ended(self) -> None:
        activity = self._activity
        gone = [number for number in self._begun if number not in activity.running]
        announced = {self._begun.pop(number).id for number in gone}
        entries = activity.since(self._ended)
        number = self._ended = activity.ended
        newest = len(entries) - ENDED_MAX
        for place, entry in enumerate(entries):
            if place >= newest or entry.id in announced:
                self._broadcast(self._entry(entry, self._happened, number))

    def _show(self) -> None:
        self._shown_s = self._clock()
        self._changed = (self._happened, self._activity.began, self._activity.ended)
        self._last_state = self._event("state", self._state())
        for subscriber in self._subscribers:
            subscriber.show(self._last_state)
        self._show_loads()

    def _show_loads(self) -> None:
        loads = self._loads()
        self._loading = bool(loads)
        for target, load in loads.items():
            event = self._event("load", load)
            for subscriber in self._subscribers:
                subscriber.show_load(target, event)

    def _broadcast(self, event: bytes) -> None:
        for subscriber in self._subscribers:
            subscriber.tell(event)

    # ------------------------------------------------------------ how it is said

    def _happening(self, happening: Happening, ended: int) -> bytes:
        said = msgspec.to_builtins(happening) | {
            "words": words(happening, self._name_of),
            "model": self._name_of(happening.target) if happening.target else "",
        }
        return self._event("happening", said, happening.seq, ended)

    def _entry(self, entry: Entry, happened: int, number: int) -> bytes:
        return self._event("request", row_of(entry), happened, number)

    def _event(self, name: str, data: object, happened: int | None = None, ended: int | None = None) -> bytes:
        place = (self._happened if happened is None else happened, self._ended if ended is None else ended)
        return _event(name, data, f"{self._run}.{place[0]}.{place[1]}")


def _event(name: str, data: object, id: str = "") -> bytes:
    head = f"id: {id}\nevent: {name}\ndata: " if id else f"event: {name}\ndata: "
    return b"%b%b\n\n" % (head.encode(), _encode(data))


def _tell_failure(pump: asyncio.Task[None]) -> None:
    if not pump.cancelled() and (error := pump.exception()) is not None:
        log.error("the dashboard's stream ended with an error; browsers begin it anew", exc_info=error)


def live_routes(hub: Hub) -> list[HTTPRouteHandler]:
    """Needs an admin's key where keys are configured."""

    @get("/admin/live")
    async def follow_live(request: Request[Any, Any, Any]) -> Stream:
        last_id = request.headers.get("last-event-id", "")
        # nginx would keep events back until it has some kilobytes of them
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        return Stream(hub.follow(last_id, LIFE_S), media_type="text/event-stream", headers=headers)

    return [follow_live]
