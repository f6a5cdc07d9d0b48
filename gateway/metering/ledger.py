"""Every request that has ended, kept, and what may be asked of all of them.

The law: whoever adds never waits and never fails (`ledger_writer` says how, and what a kill may lose); whoever asks sees what was
added before, and gets sums that are exact.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.storage.database import Database, DatabaseUnavailable

from .activity import Wanted
from .capture import Capture
from .entry import Entry
from .ledger_questions import END_US, Captured, LedgerState, Query, Spent, UsageQuery, UsageRow
from .ledger_writer import SPOOL_MAX_BYTES, Writer, queries

if TYPE_CHECKING:
    from sqlalchemy import Connection

log = logging.getLogger("roundhouse.ledger")

BUFFER_ROWS = 20_000  # about 20 MB
PAGE_ROWS = 500  # of an export, and of a deletion: as long as others wait for one
CAPTURE_MAX_BYTES = 64 << 10  # of each body
READ_OWN_S = 2.0  # how long a question waits for what was added before it; the first one for an import, too
PRUNE_EVERY_S = 3600.0
PRUNE_FIRST_S = 60.0
PRUNE_PAUSE_S = 0.05  # between two batches of deletions, in which others may write
DAY_S = 86_400


class Ledger:
    """One for the gateway. What is added before `open` waits for it; what is added after `aclose` is counted as dropped.

    Args:
        database: opened by the first who needs it; closed after us, by whoever made it.
        spool_dir: a folder of our own.
        buffer_rows: rows in memory that are not in the database yet.
        retention_days: older requests are deleted; 0: none is.
        capture_max_bytes: of each body that is kept.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        database: Database,
        spool_dir: Path,
        *,
        buffer_rows: int = BUFFER_ROWS,
        retention_days: int = 0,
        capture_max_bytes: int = CAPTURE_MAX_BYTES,
        spool_max_bytes: int = SPOOL_MAX_BYTES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._retention_days = retention_days
        self._clock = clock
        self._writer = Writer(
            database,
            spool_dir,
            clock,
            buffer_rows=buffer_rows,
            capture_max_bytes=capture_max_bytes,
            spool_max_bytes=spool_max_bytes,
        )
        # Keep an entry: on disk at the end of this turn of the event loop, or some milliseconds later. Never wait, never fail;
        # the writer's own, for every call between costs each request.
        self.add: Callable[[Entry], None] = self._writer.add
        self.add_soon: Callable[[Entry], None] = self._writer.add_soon
        self._pruning: asyncio.Task[None] | None = None

    def add_capture(self, entry: Entry, capture: Capture) -> None:
        """Keep it, with its bodies where there is room for them; they are redacted and cut before they are written."""
        self._writer.add_capture(entry, capture)

    async def open(self) -> None:
        """Begin to write, with what an earlier run left behind. Waits for no database; never fails."""
        await self._writer.open()
        if self._retention_days:
            self._pruning = asyncio.create_task(self._prune_all(), name="ledger retention")

    async def aclose(self) -> None:
        """Write what is there, or leave it in the spool for the next start. Idempotent."""
        if self._pruning is not None:
            self._pruning.cancel()
            await asyncio.gather(self._pruning, return_exceptions=True)
        await self._writer.aclose()

    @property
    def state(self) -> LedgerState:
        """How it stands now."""
        return self._writer.state

    async def settle(self) -> None:
        """Wait until all that was added before, in an earlier run too, is written. Raises: DatabaseUnavailable."""
        await self._writer.settle()

    # ------------------------------------------------------------ questions

    async def recent(self, query: Query) -> list[Entry]:
        """The newest first. Raises: DatabaseUnavailable."""
        await self._catch_up()
        return await self._database.read(lambda connection: queries().recent(connection, query))

    async def older(self, wanted: Wanted, limit: int) -> list[Entry]:
        """The same, in the activity's words. Raises: DatabaseUnavailable."""
        return await self.recent(
            Query(
                limit=limit,
                before=wanted.before,
                key=wanted.key,
                tenant=wanted.tenant,
                model=wanted.model,
                outcome=wanted.outcome,
                q=wanted.q,
            )
        )

    async def one(self, request_id: str) -> Entry | None:
        """The newest of this id. Raises: DatabaseUnavailable."""
        await self._catch_up()
        found = await self._database.read(lambda connection: queries().one(connection, request_id))
        return None if found is None else found[0]

    async def captured(self, request_id: str) -> Captured | None:
        """The bodies of the newest of this id, where they were kept. Raises: DatabaseUnavailable."""
        await self._catch_up()
        found = await self._database.read(lambda connection: queries().one(connection, request_id))
        return None if found is None else found[1]

    async def capture(self, request_id: str) -> Mapping[str, object] | None:
        """The same, as the API tells it. Raises: DatabaseUnavailable."""
        found = await self.captured(request_id)
        return None if found is None else found.words()

    async def usage(self, query: UsageQuery) -> list[UsageRow]:
        """Exact sums, in the order of what they are grouped by. Raises: DatabaseUnavailable."""
        await self._catch_up()
        return await self._database.read(lambda connection: queries().usage(connection, query))

    async def export(self, query: Query) -> AsyncIterator[Entry]:
        """All of them, the oldest first, some hundred at a time. Raises: DatabaseUnavailable."""
        await self._catch_up()
        behind: tuple[int, int] | None = None
        while True:
            entries, behind = await self._database.read(
                lambda connection, behind=behind: queries().following(connection, query, behind, PAGE_ROWS)
            )
            for entry in entries:
                yield entry
            if behind is None:
                return

    async def spent(self, *, key_id: str = "", tenant: str = "", since_us: int, until_us: int = END_US) -> Spent:
        """What a key, or else a tenant, has used in a span, with all that was added before. Raises: DatabaseUnavailable."""
        await self.settle()

        def ask(connection: Connection) -> Spent:
            words = queries()
            who = words.KEYS if key_id else words.TENANTS
            return words.spent(connection, who, key_id or tenant, since_us, until_us)

        return await self._database.read(ask)

    # ------------------------------------------------------------ retention

    async def prune(self) -> int:
        """Delete what is older than the retention; how many requests it were. Raises: DatabaseUnavailable."""
        before_us = int((self._clock() - self._retention_days * DAY_S) * 1_000_000)
        deleted = 0
        while True:
            count = await self._database.write(lambda connection: queries().prune(connection, before_us, PAGE_ROWS))
            deleted += count
            if count < PAGE_ROWS:
                return deleted
            await asyncio.sleep(PRUNE_PAUSE_S)

    async def _prune_all(self) -> None:
        await asyncio.sleep(PRUNE_FIRST_S)
        while True:
            with contextlib.suppress(DatabaseUnavailable):  # it is told by those who write
                if deleted := await self.prune():
                    log.info("%d requests older than %d days left the ledger", deleted, self._retention_days)
            await asyncio.sleep(PRUNE_EVERY_S)

    async def _catch_up(self) -> None:
        """Who asks sees what was added before, unless the database is slow or away."""
        with contextlib.suppress(DatabaseUnavailable, TimeoutError):
            async with asyncio.timeout(READ_OWN_S):
                await self.settle()
