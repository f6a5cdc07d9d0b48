"""What it costs to keep a row of the ledger, from `add` to the commit: CPU of the loop's thread, and of all others together.

    python -m bench.ledger_cost [--json] [--rows N] [--url URL]

The law: CPU time is the kernel's count of the whole process (a database server has its own); what the same turns of the event loop
cost with a ledger that keeps nothing is taken off. The cheapest of five passes counts, since the machine is shared. Rows come as
fast as they can or at a rate (50 a turn, or the turns would cost more than the rows); by `add_soon`, and by `add`, which
writes at the end of each turn. Goals, for `add_soon`: 5 µs a row at 10,000 a second, 6 µs at 2,000.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import tempfile
import time
from collections.abc import Callable, Mapping
from decimal import Decimal
from pathlib import Path

import msgspec

from gateway.metering.entry import Entry
from gateway.metering.ledger import Ledger
from gateway.storage.database import Database

PASSES = 5
KEYS = 7

Keep = Callable[[Entry], None]


class Way(msgspec.Struct, frozen=True):
    """How rows come."""

    label: str
    soon: bool
    rate: int  # a second; 0: as fast as they can
    turn_rows: int
    goal: float | None = None


WAYS = (
    Way("add_soon, 20 a turn", True, 0, 20),
    Way("add_soon, 10,000 a second", True, 10_000, 50, 5.0),
    Way("add_soon, 2,000 a second", True, 2_000, 50, 6.0),
    Way("add, 20 a turn", False, 0, 20),
    Way("add, one a turn", False, 0, 1),
)


class Figures(msgspec.Struct):
    """µs of CPU a row."""

    loop: float
    threads: float
    goal: float | None

    @property
    def total(self) -> float:
        return self.loop + self.threads


def entries(count: int) -> list[Entry]:
    """As a gateway makes them: its own words are the same objects, those of callers are not. A third has a price."""
    now_us = time.time_ns() // 1000
    names = [f"key-{number}" for number in range(KEYS)]
    return [
        Entry(
            id=f"{number * 0x9E3779B97F4A7C15 & (1 << 64) - 1:016x}{number:016x}",
            at_us=now_us + number * 100,
            principal=names[number % KEYS],
            key_id=names[number % KEYS],
            tenant="",
            asked=b"llama-3.2-3b-instruct".decode(),
            model="llama-3.2-3b-instruct",
            target="local/llama-3.2-3b-instruct",
            route="/v1/chat/completions",
            status=200,
            code="",
            streamed=number % 2 == 0,
            left="",
            prompt=100 + number % 900,
            completion=number % 500,
            cached=0,
            reasoning=0,
            cost_usd=Decimal(number).scaleb(-9) if number % 3 == 0 else Decimal(0),
            queued_us=30,
            first_byte_us=20_000 + number,
            total_us=300_000 + number,
            load_us=0,
            bytes_in=2_000,
            bytes_out=6_000,
            user_agent=b"OpenAI/Python 1.57.0".decode(),
        )
        for number in range(count)
    ]


async def turns(keep: Keep, rows: list[Entry], way: Way) -> None:
    """Of the event loop."""
    loop = asyncio.get_running_loop()
    next_s = loop.time()
    for start in range(0, len(rows), way.turn_rows):
        for row in rows[start : start + way.turn_rows]:
            keep(row)
        next_s += way.turn_rows / way.rate if way.rate else 0.0
        await asyncio.sleep(max(0.0, next_s - loop.time()) if way.rate else 0)


class Spent:
    """CPU seconds of this thread, and of the others, since it was made."""

    def __init__(self) -> None:
        gc.collect()
        self._all_s, self._own_s = time.process_time(), time.thread_time()

    def so_far(self) -> tuple[float, float]:
        own_s = time.thread_time() - self._own_s
        return own_s, time.process_time() - self._all_s - own_s


async def one(url: str, folder: Path, way: Way, count: int) -> tuple[float, float]:
    """µs a row, of the loop and of the threads."""
    database = Database(url or f"sqlite:///{folder}/ledger.sqlite3")
    ledger = Ledger(database, folder / "spool")
    await ledger.open()
    for row in entries(100):  # what is imported and opened at the first row is no row's cost
        ledger.add(row)
    await ledger.settle()
    rows = entries(count)
    spent = Spent()
    await turns(ledger.add_soon if way.soon else ledger.add, rows, way)
    await ledger.settle()
    loop_s, threads_s = spent.so_far()
    assert (ledger.state.written, ledger.state.dropped) == (count + 100, 0)
    await ledger.aclose()
    await database.aclose()
    spent = Spent()
    await turns(lambda _: None, rows, way)
    idle_s, _ = spent.so_far()
    return (loop_s - idle_s) / count * 1e6, threads_s / count * 1e6


def measure(url: str, count: int) -> Mapping[str, Figures]:
    """How rows come → figures of the cheapest pass."""
    found: dict[str, Figures] = {}
    for way in WAYS:
        passes: list[Figures] = []
        for _ in range(PASSES):
            with tempfile.TemporaryDirectory() as folder:
                cost = asyncio.run(one(url, Path(folder), way, min(count, 2 * way.rate or count)))
            passes.append(Figures(*cost, way.goal))
        found[way.label] = min(passes, key=lambda figures: figures.total)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--rows", type=int, default=20_000, help="of a pass, at most")
    parser.add_argument("--url", default="", help="an empty database; without: SQLite in a folder that is deleted")
    arguments = parser.parse_args()
    figures = measure(arguments.url, arguments.rows)
    if arguments.json:
        print(json.dumps({label: msgspec.structs.asdict(each) for label, each in figures.items()}))
        return
    print(f"{'CPU µs a row':<28} {'loop':>7} {'threads':>8} {'total':>7} {'goal':>6}")
    for label, each in figures.items():
        goal = "" if each.goal is None else f"{each.goal:6.0f}{'' if each.total <= each.goal else '  (over the goal)'}"
        print(f"{label:<28} {each.loop:7.2f} {each.threads:8.2f} {each.total:7.2f} {goal:>6}")


if __name__ == "__main__":
    main()
