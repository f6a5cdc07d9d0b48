"""The ledger's writing half: into the spool in this turn of the event loop or soon, into the database within a second.

    add ──────▶ turn ──(end of the loop's turn)──────────▶ spool + queue ──(2,000 rows or 1 s: one transaction)──▶ database
    add_soon ─▶  "   ──(50 ms or 100 rows: one write)──▶        memory full: spool only, read back from there later

The law: no request ever waits for this, or fails because of it. A row is in the spool until the database has committed it, and rows
are inserted under ids of their own, so that one written twice is one row: nothing is there twice, and nothing is lost by an end of
the process. A kill (-9) loses what was not in the spool yet: of `add` the rows of the loop's turn that was under way (limits and
budgets are counted from these), of `add_soon` those of the last 50 ms: at most 100, and what came in the turn that made them so
many.

While the database is away, rows wait in memory up to `buffer_rows`, above that in the spool alone up to SPOOL_MAX_BYTES, above that
the oldest are dropped and counted. Where the spool cannot be written either, memory is all there is, and the oldest go first.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable
from pathlib import Path

import msgspec

from gateway.storage.database import Database, DatabaseUnavailable

from .capture import Capture, redacted
from .entry import Entry
from .ledger_questions import LedgerState
from .ledger_rows import Body, Fields, fields_of, sound, time_of
from .spool import Segment, Spool, frames, new_start, read

log = logging.getLogger("roundhouse.ledger")

BATCH_ROWS = 2000
BATCH_S = 1.0
REPLAY_S = 0.1  # between two segments that are read back
BLOCK_ROWS = 500  # of one write into the spool
HOLD_ROWS = 100  # takes about 50 µs, in which no request is served
HOLD_S = 0.05
SPOOL_MAX_BYTES = 256 << 20  # more than a million rows
PAYLOAD_MAX_BYTES = 8 << 10  # of a row, on average; what is longer holds somebody's joke of a name
CAPTURES_WAITING_MAX = 64  # bodies are never more than a help: they wait in memory only
PAUSE_FIRST_S, PAUSE_MAX_S = 0.2, 10.0  # between tries at a database that is away
CLOSE_S = 5.0

_encode = msgspec.msgpack.Encoder().encode


_Made = tuple[list[int], list[Fields], list[Body]]  # ids, rows, and bodies under the same ids


class _Block(msgspec.Struct, gc=False):
    """Rows of one turn, numbered from `first` on."""

    first: int
    rows: list[Fields]
    segment: Segment | None  # where they lie in the spool; None: nowhere
    captures: dict[int, Capture] | None


class Writer:
    """Its writing half. What is added before `open` waits for it; what is added after `aclose` is counted as dropped.

    Args:
        spool_dir: a folder of our own.
        buffer_rows: rows in memory that are not in the database yet.
        capture_max_bytes: of each body that is kept.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        database: Database,
        spool_dir: Path,
        clock: Callable[[], float],
        *,
        buffer_rows: int,
        capture_max_bytes: int,
        spool_max_bytes: int = SPOOL_MAX_BYTES,
    ) -> None:
        self._database = database
        self._start = new_start()
        self._spool = Spool(spool_dir, self._start)
        self._buffer_rows = max(BATCH_ROWS, buffer_rows)
        self._capture_max_bytes = capture_max_bytes
        self._spool_max_bytes = spool_max_bytes
        self._clock = clock
        self._turn: list[Entry] = []
        self._due = self._held = False  # whether its end was asked for, and whether it comes after HOLD_S at the latest
        self._soon: Callable[[Callable[[], None]], object] = _not_yet
        self._after: Callable[[float, Callable[[], None]], object] = _not_yet
        self._captures: dict[int, Capture] = {}  # by number; of this turn
        self._captures_waiting = 0
        self._number = 0  # of the turn's first row
        self._queue: deque[_Block] = deque()
        self._writing: list[_Block] = []
        self._in_memory = 0  # rows of both
        self._in_flight = 0  # of `_writing`: beside `buffer_rows`, since they may be in the database already
        self._replayed: Segment | None = None  # the one that is being read back
        self._work = asyncio.Event()
        self._hurry = asyncio.Event()
        self._ending = False
        self._waiters: list[asyncio.Future[None]] = []
        self._task: asyncio.Task[None] | None = None
        self._written = self._dropped = 0
        self._spool_error = self._database_error = ""
        self._spool_open = False
        self._since_s = clock()

    # ------------------------------------------------------------ the hot path

    def add(self, entry: Entry) -> None:
        """Keep it: in the spool at the end of the loop's turn. Never waits, never fails."""
        self._turn.append(entry)
        if not self._due:
            self._due = True
            self._soon(self._end_turn)

    def add_soon(self, entry: Entry) -> None:
        """The same within HOLD_S, at a fraction of the cost; for what nobody's limits depend on."""
        turn = self._turn
        turn.append(entry)
        if len(turn) >= HOLD_ROWS:
            if not self._due:
                self._due = True
                self._soon(self._end_turn)
        elif not self._held:
            self._held = True
            self._after(HOLD_S, self._end_hold)

    def add_capture(self, entry: Entry, capture: Capture) -> None:
        """Keep it, with its bodies where there is room for them."""
        if self._captures_waiting < CAPTURES_WAITING_MAX:
            self._captures[self._number + len(self._turn)] = capture
            self._captures_waiting += 1
        self.add(entry)

    # ------------------------------------------------------------ its life

    async def open(self) -> None:
        """Begin to write, with what an earlier run left behind. Waits for no database; never fails."""
        try:
            await asyncio.to_thread(self._spool.open)
            self._spool_open = True
        except OSError as error:
            self._trouble(spool=error.strerror or str(error))
        loop = asyncio.get_running_loop()
        self._soon, self._after = loop.call_soon, loop.call_later
        self._end_hold()
        self._task = asyncio.create_task(self._write_all(), name="ledger writer")

    async def aclose(self) -> None:
        """Write what is there, or leave it in the spool for the next start. Idempotent."""
        task, self._task = self._task, None
        if task is None:
            return
        self._end_turn()
        self._soon = self._after = self._refuse
        self._ending = True
        self._work.set()
        self._hurry.set()
        await asyncio.wait((task,), timeout=CLOSE_S)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        left = self.state.buffered
        self._spool.close()
        if left:
            lost = sum(len(block.rows) for block in (*self._writing, *self._queue) if block.segment is None)
            self._dropped += lost
            log.warning("%d rows of the ledger are not in the database; %d of them are kept for it", left, left - lost)
        self._tell_waiters()

    @property
    def state(self) -> LedgerState:
        """How it stands now."""
        on_disk = sum(segment.left for segment in self._spool.segments if segment.on_disk)
        buffered = len(self._turn) + self._in_memory + on_disk
        error = self._database_error or self._spool_error
        return LedgerState(not error, error, self._since_s, buffered, self._written, self._dropped)

    async def settle(self) -> None:
        """Wait until all that was added before, in an earlier run too, is written. Raises: DatabaseUnavailable."""
        if self._turn and self._task:
            self._end_turn()
        number = self._number + len(self._turn)
        while self._outstanding(number):
            if self._database_error or not self._task:
                raise DatabaseUnavailable(self._database_error or "The ledger is not open")
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            self._hurry.set()
            await waiter

    # ------------------------------------------------------------ the end of a turn

    def _end_hold(self) -> None:
        self._held = False
        self._end_turn()

    def _end_turn(self) -> None:
        self._due = False
        entries, self._turn = self._turn, []
        captures, self._captures = self._captures, {}
        first = self._number
        self._number += len(entries)
        rows = list(map(fields_of, entries))
        for start in range(0, len(rows), BLOCK_ROWS):
            part = rows[start : start + BLOCK_ROWS] if len(rows) > BLOCK_ROWS else rows
            end = first + start + len(part)
            theirs = {number: captures[number] for number in captures if first + start <= number < end}
            self._keep(first + start, part, theirs or None)
        if entries:
            self._work.set()
        if self._in_memory - self._in_flight >= BATCH_ROWS and not self._database_error:
            self._hurry.set()

    def _keep(self, first: int, rows: list[Fields], captures: dict[int, Capture] | None) -> None:
        count = len(rows)
        payload, rows = _encoded(rows)
        self._dropped += count - len(rows)
        if not rows:
            return
        segment: Segment | None = None
        if self._spool_open:
            try:
                segment = self._spool.append(first, len(rows), payload)
            except OSError as error:
                self._trouble(spool=error.strerror or str(error))
            else:
                if self._spool_error:
                    self._recovered(spool=True)
        self._queue.append(_Block(first, rows, segment, captures))
        self._in_memory += len(rows)
        if self._in_memory - self._in_flight > self._buffer_rows:
            self._relieve_memory()
        if self._spool.size > self._spool_max_bytes:
            self._relieve_disk()

    def _relieve_memory(self) -> None:
        """The oldest rows: they are in the spool and are read back from there later; those that are not are lost."""
        while self._queue and self._in_memory - self._in_flight > self._buffer_rows:
            block = self._queue[0]
            if block.segment is None:
                self._drop(self._forget_block(self._queue.popleft()))
                continue
            segment = block.segment
            if segment is self._spool.segments[-1]:
                self._spool.end()
            segment.on_disk = True
            while self._queue and self._queue[0].segment is segment:
                self._forget_block(self._queue.popleft())

    def _relieve_disk(self) -> None:
        on_their_way = {self._replayed, *(block.segment for block in self._writing)}
        for segment in [s for s in self._spool.segments if s.on_disk and s not in on_their_way]:
            if self._spool.size <= self._spool_max_bytes:
                break
            while self._queue and self._queue[0].segment is segment:  # a try to write these failed
                self._forget_block(self._queue.popleft())
            self._spool.forget(segment)
            self._drop(segment.left)

    def _forget_block(self, block: _Block) -> int:
        count = len(block.rows)
        self._in_memory -= count
        if block.captures:
            self._captures_waiting -= len(block.captures)
        return count

    def _drop(self, rows: int) -> None:
        if rows and not self._dropped:
            log.error("the ledger drops its oldest rows: there is no room for more until the database is back")
        self._dropped += rows

    def _refuse(self, *_: object) -> None:
        self._due = self._held = False
        self._dropped += len(self._turn)
        self._turn.clear()

    # ------------------------------------------------------------ the writer

    async def _write_all(self) -> None:
        pause_s = PAUSE_FIRST_S
        while True:
            if not self._queue and not self._next_on_disk():
                if self._ending:
                    return
                self._work.clear()
                await self._work.wait()
                continue
            if self._in_memory < BATCH_ROWS:
                await self._rest(REPLAY_S if self._next_on_disk() else BATCH_S)
            elif not self._waiters and not self._ending:
                self._hurry.clear()  # it was meant for this
            try:
                await self._write_some()
            except DatabaseUnavailable as error:
                self._trouble(database=error.message)
                self._tell_waiters()
                if self._ending:
                    return
                await self._rest(pause_s)
                pause_s = min(PAUSE_MAX_S, pause_s * 2)
            else:
                pause_s = PAUSE_FIRST_S
                if self._database_error:
                    self._recovered(database=True)
                self._tell_waiters()

    async def _rest(self, seconds: float) -> None:
        """Until then, or until somebody is in a hurry."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._hurry.wait(), seconds)
        if not self._ending:
            self._hurry.clear()

    async def _write_some(self) -> None:
        segment = self._next_on_disk()
        if segment is not None:
            await self._replay(segment)
            return
        taken = self._take()
        try:
            await self._insert(lambda: self._made(taken))
        except BaseException:
            self._queue.extendleft(reversed(taken))
            raise
        finally:
            self._writing.clear()
            self._in_flight = 0
        for block in taken:
            self._forget_block(block)
            if block.segment is not None and not block.segment.on_disk:
                self._spool.written(block.segment, len(block.rows))

    def _take(self) -> list[_Block]:
        taken, count = self._writing, 0
        while self._queue and count + len(self._queue[0].rows) <= BATCH_ROWS:
            taken.append(self._queue.popleft())
            count += len(taken[-1].rows)
        self._in_flight = count
        return list(taken)

    # these two run in the database's thread

    def _made(self, blocks: list[_Block]) -> _Made:
        firsts = [(self._start + block.first, len(block.rows)) for block in blocks]
        row_ids = [row_id for first, count in firsts for row_id in range(first, first + count)]
        return row_ids, [row for block in blocks for row in block.rows], self._bodies(blocks)

    def _bodies(self, blocks: list[_Block]) -> list[Body]:
        found: list[Body] = []
        for block in blocks:
            for number, capture in (block.captures or {}).items():
                if 0 <= number - block.first < len(block.rows):
                    request, request_cut = redacted(capture.request, self._capture_max_bytes)
                    response, response_cut = redacted(capture.response, self._capture_max_bytes)
                    place = (time_of(block.rows[number - block.first]), self._start + number)
                    cuts = (request_cut or capture.request_cut, response_cut or capture.response_cut)
                    found.append((*place, request, cuts[0], response, cuts[1]))
        return found

    async def _insert(self, made: Callable[[], _Made]) -> None:
        if why := await self._refused(made):
            await self._insert_apart(*await asyncio.to_thread(made), why)

    async def _insert_apart(self, row_ids: list[int], rows: list[Fields], bodies: list[Body], why: str) -> None:
        """One of them is what the database does not take: the others are not to wait for ever because of it."""
        if len(rows) <= 1:
            log.error("the database does not take a row of the ledger (%s); it is dropped", why)
            self._dropped += len(rows)
            return
        middle = len(rows) // 2
        for half in (slice(None, middle), slice(middle, None)):
            ids = row_ids[half]
            part = (ids, rows[half], [body for body in bodies if ids[0] <= body[1] <= ids[-1]])
            if why := await self._refused(lambda part=part: part):
                await self._insert_apart(*part, why)

    async def _refused(self, made: Callable[[], _Made]) -> str:
        """Write them, all or none; why the database does not take them. Raises: DatabaseUnavailable."""
        try:
            self._written += await self._database.write(lambda connection: queries().insert(connection, *made()))
        except DatabaseUnavailable as error:
            if not error.data_refused:
                raise
            return error.detail or error.message
        except (
            TypeError,
            ValueError,
            AttributeError,
        ) as error:  # somebody put something into it that is no value of an entry
            return type(error).__name__
        return ""

    # ------------------------------------------------------------ what lies in the spool alone

    def _next_on_disk(self) -> Segment | None:
        return next((segment for segment in self._spool.segments if segment.on_disk), None)

    async def _replay(self, segment: Segment) -> None:
        """Into the database with it, from its beginning: what is there already stays as it is."""
        self._replayed = segment
        try:
            at: int | None = 0
            while at is not None:
                row_ids, rows, at, count = await asyncio.to_thread(_batch, segment.path, at)
                self._dropped += count - len(rows)
                await self._insert(lambda row_ids=row_ids, rows=rows: (row_ids, rows, []))
                segment.left = max(1, segment.left - count)
        except OSError as error:
            log.error("rows of the ledger cannot be read back from %s: %s", segment.path, error.strerror)
            self._dropped += segment.left
        finally:
            self._replayed = None
        self._spool.forget(segment)

    # ------------------------------------------------------------ what others see

    def _outstanding(self, number: int) -> bool:
        """Whether a row before this number is not in the database."""
        oldest = self._writing or self._queue
        if (oldest and oldest[0].first < number) or self._number < number:
            return True
        return self._next_on_disk() is not None

    def _tell_waiters(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _trouble(self, *, database: str = "", spool: str = "") -> None:
        if not (self._database_error or self._spool_error):
            self._since_s = self._clock()
        if database and database != self._database_error:
            self._database_error = database
            log.warning("%s; requests go on, and their rows are kept until it is back", database)
        if spool and not self._spool_error:
            self._spool_error = f"The ledger's spool cannot be written ({spool}): rows are in memory alone until then"
            log.warning("%s", self._spool_error)

    def _recovered(self, *, database: bool = False, spool: bool = False) -> None:
        if database:
            self._database_error = ""
            log.info("the database takes the ledger's rows again")
        if spool:
            self._spool_error = ""
            log.info("the ledger's spool can be written again")
        if not (self._database_error or self._spool_error):
            self._since_s = self._clock()


def _not_yet(*_: object) -> None:
    """Not open: the turn ends with `open`."""


def _encoded(rows: list[Fields]) -> tuple[bytes, list[Fields]]:
    """As they lie in the spool; where that cannot be, all are made sound first, and what still cannot be is left out."""
    try:
        payload = _encode(rows)
        if len(payload) <= PAYLOAD_MAX_BYTES * len(rows):
            return payload, rows
    except (UnicodeEncodeError, OverflowError, TypeError):
        pass
    kept: list[Fields] = []
    for row in map(sound, rows):
        try:
            _encode(row)
        except (UnicodeEncodeError, OverflowError, TypeError) as error:
            log.error("an entry of the ledger is dropped: %s", error)
        else:
            kept.append(row)
    return _encode(kept), kept


def _batch(path: Path, start: int) -> tuple[list[int], list[Fields], int | None, int]:
    """Rows of a segment from there on, under their ids, where the next begin (None: it was the end), and how many there were."""
    row_ids: list[int] = []
    rows: list[Fields] = []
    count, end = 0, start
    for frame in frames(path, start):
        for row_id, row in enumerate(read(frame), frame.row_id):
            if row is not None:
                row_ids.append(row_id)
                rows.append(row)
        count, end = count + frame.count, frame.end
        if count >= BATCH_ROWS:
            return row_ids, rows, end, count
    return row_ids, rows, None, count


def queries():
    """What is said to the database."""
    from . import ledger_queries  # noqa: PLC0415 - it imports SQLAlchemy: only the database's threads may

    return ledger_queries
