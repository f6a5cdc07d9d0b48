"""Entries to keep."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, closing, contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

from gateway.metering.entry import Entry
from gateway.metering.ledger import Ledger
from gateway.metering.ledger_questions import Query
from gateway.storage.database import Database

DAY_US = 86_400_000_000
NOW_US = 1_795_300_000_000_000  # 2026-11-21, some hour

_PLAIN: dict[str, Any] = {
    "principal": "alice",
    "key_id": "key_1",
    "tenant": "",
    "asked": "small",
    "model": "small",
    "target": "up/small",
    "route": "/v1/chat/completions",
    "status": 200,
    "code": "",
    "streamed": False,
    "left": "",
    "prompt": 10,
    "completion": 5,
    "cached": 0,
    "reasoning": 0,
    "cost_usd": None,
    "queued_us": 0,
    "first_byte_us": 2_000,
    "total_us": 3_000,
    "load_us": 0,
    "bytes_in": 100,
    "bytes_out": 200,
    "user_agent": "test/1",
}


def entry(number: int = 0, **said: Any) -> Entry:
    """One of its own id and time."""
    fields: dict[str, Any] = {"id": f"r{number}", "at_us": NOW_US + number, **_PLAIN, **said}
    return Entry(**fields)


def some(count: int, seed: int = 1) -> list[Entry]:
    """Different ones, over some days; the same for the same seed."""
    dice = random.Random(seed)
    found: list[Entry] = []
    for number in range(count):
        left = dice.choice(["", "", "", "", "queued", "answer"])
        status = 0 if left == "queued" else dice.choice([200, 200, 200, 404, 502])
        cost = dice.choice([None, Decimal(dice.randrange(10**9)).scaleb(-dice.randrange(19)), Decimal("1E-18")])
        found.append(
            entry(
                number,
                at_us=NOW_US + dice.randrange(5 * DAY_US),
                principal=dice.choice(["alice", "bob"]),
                key_id=dice.choice(["key_1", "key_2", ""]),
                tenant=dice.choice(["", "a", "b"]),
                model=dice.choice(["small", "large", "ünï"]),
                target=dice.choice(["up/small", "down/large"]),
                status=status,
                code="upstream_broke" if status == 200 and dice.random() < 0.1 else "",
                left=left,
                prompt=dice.randrange(10**6),
                completion=dice.randrange(10**6),
                cached=dice.randrange(100),
                reasoning=dice.randrange(100),
                cost_usd=cost,
            )
        )
    return found


@asynccontextmanager
async def ledger(url: str, spool_dir: Path, **said: Any) -> AsyncGenerator[Ledger, None]:
    """One that is open, on a database that waits for no lock."""
    database = Database(url, busy_s=0.05)
    found = Ledger(database, spool_dir, **said)
    await found.open()
    try:
        yield found
    finally:
        await found.aclose()
        await database.aclose()


async def ids(url: str, spool_dir: Path) -> list[str]:
    """Of all that is in the database once everything that waited in the spool is, too; the oldest first."""
    async with ledger(url, spool_dir) as found:
        await found.settle()
        return [kept.id async for kept in found.export(Query())]


async def until(condition: Callable[[], bool], within_s: float = 5.0) -> None:
    """Look again and again. Raises: TimeoutError."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.wait((loop.create_future(),), timeout=0.005)


@contextmanager
def locked(path: Path) -> Generator[None]:
    """An SQLite file that nobody else can write."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
