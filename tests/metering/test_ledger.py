"""The ledger's life: kept at once, written soon, each row once, and what becomes of rows while the database is away."""

from __future__ import annotations

import asyncio
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from gateway.metering.capture import Capture
from gateway.metering.ledger import PAGE_ROWS, Ledger
from gateway.metering.ledger_questions import Query, UsageQuery
from gateway.metering.ledger_writer import BATCH_ROWS, HOLD_ROWS
from gateway.metering.spool import frames
from gateway.storage.database import Database, DatabaseUnavailable
from tests.metering.kept import DAY_US, NOW_US, entry, ids, ledger, locked, until


@pytest.fixture
def url(tmp_path: Path) -> str:
    """SQLite, at tmp_path/kept."""
    return f"sqlite:///{tmp_path}/kept"


def spooled(folder: Path) -> int:
    """Rows that lie in a spool."""
    return sum(frame.count for path in folder.glob("*.rows") for frame in frames(path))


def names(*numbers: int) -> list[str]:
    """As `entry` calls them."""
    return [f"r{number}" for number in numbers]


async def test_what_was_added_is_seen_by_who_asks_next(any_url: str, tmp_path: Path) -> None:
    """Without waiting for the batch's time; and it stays after the end."""
    kept = entry(1, cost_usd=Decimal("0.00012"), streamed=True, left="answer")
    async with ledger(any_url, tmp_path / "spool") as found:
        found.add(kept)
        assert await found.recent(Query()) == [kept]
        assert await found.one("r1") == kept
        assert await found.one("r2") is None
        assert (found.state.written, found.state.buffered, found.state.ok) == (1, 0, True)
    assert await ids(any_url, tmp_path / "spool") == ["r1"]


async def test_row_is_on_disk_when_its_turn_ends(url: str, tmp_path: Path) -> None:
    """All of a turn in one write, before anything reaches the database."""
    async with ledger(url, tmp_path / "spool") as found:
        for number in range(3):
            found.add(entry(number))
        assert spooled(tmp_path / "spool") == 0
        await asyncio.sleep(0)
        assert spooled(tmp_path / "spool") == 3


async def test_row_that_may_wait_is_on_disk_soon(url: str, tmp_path: Path) -> None:
    """With the next one that may not, with the hundredth, or after some milliseconds; an end of the ledger loses none."""
    spool = tmp_path / "spool"
    async with ledger(url, spool) as found:
        await found.usage(UsageQuery())
        found.add_soon(entry(0))
        await asyncio.sleep(0)
        assert (spooled(spool), found.state.buffered) == (0, 1)
        found.add(entry(1))
        await asyncio.sleep(0)
        assert spooled(spool) == 2
        for number in range(2, 2 + HOLD_ROWS):
            found.add_soon(entry(number))
        await asyncio.sleep(0)
        assert spooled(spool) == 2 + HOLD_ROWS
        found.add_soon(entry(2 + HOLD_ROWS))
        await until(lambda: spooled(spool) == 3 + HOLD_ROWS, within_s=2)
        found.add_soon(entry(3 + HOLD_ROWS))
    assert await ids(url, spool) == names(*range(4 + HOLD_ROWS))


async def test_kinds_of_requests_leave_with_the_last_of_them(any_url: str, tmp_path: Path) -> None:
    """Each is there once, whoever wrote it; a younger request keeps its own."""

    async def asked() -> list[str]:
        database = Database(any_url)
        said = text("SELECT asked FROM roundhouse_kinds ORDER BY asked")
        try:
            return list(await database.read(lambda connection: connection.execute(said).scalars().all()))
        finally:
            await database.aclose()

    old, now_s = NOW_US - 3 * DAY_US, NOW_US / 1e6
    for run in range(2):
        async with ledger(any_url, tmp_path / "spool", retention_days=3, clock=lambda: now_s) as found:
            for number in range(120):
                found.add(entry(number, at_us=old - 2 + run, asked=f"old{number % 3}"))
            await found.settle()
            found.add(entry(200, at_us=old + 1, asked="young"))
            await found.settle()
            if run == 0:
                assert await asked() == ["old0", "old1", "old2", "young"]
    async with ledger(any_url, tmp_path / "spool", retention_days=3, clock=lambda: now_s) as found:
        assert await asked() == ["old0", "old1", "old2", "young"]
        assert await found.prune() == 240
        assert await asked() == ["young"]
        assert [each.asked for each in await found.recent(Query())] == ["young"] * 2


async def test_same_request_id_twice_is_two_rows(url: str, tmp_path: Path) -> None:
    """Callers choose it; the newest is found by it."""
    async with ledger(url, tmp_path / "spool") as found:
        found.add(entry(1, id="mine", prompt=1))
        found.add(entry(1, id="mine", prompt=1))
        found.add(entry(2, id="mine", prompt=2))
        assert len(await found.recent(Query())) == 3
        newest = await found.one("mine")
        assert newest is not None
        assert newest.prompt == 2


async def test_rows_read_back_that_are_there_already_are_not_there_twice(url: str, tmp_path: Path) -> None:
    """As after a kill between the commit and the end of the segment."""
    spool = tmp_path / "spool"
    async with ledger(url, spool) as found:
        for number in range(3):
            found.add(entry(number))
        await asyncio.sleep(0)
        (segment,) = spool.glob("*.rows")
        data = segment.read_bytes()
    assert list(spool.glob("*.rows")) == []
    segment.write_bytes(data)
    async with ledger(url, spool) as found:
        await found.settle()
        assert (await found.usage(UsageQuery()))[0].requests == 3
        assert (found.state.written, found.state.dropped) == (0, 0)
    assert list(spool.glob("*.rows")) == []


async def test_locked_database_holds_up_nobody_and_gets_everything_later(url: str, tmp_path: Path) -> None:
    """The state says so, and since when; questions that need it written are refused, others answered from what is there."""
    async with ledger(url, tmp_path / "spool") as found:
        found.add(entry(0))
        await found.settle()
        with locked(tmp_path / "kept"):
            found.add(entry(1))
            await until(lambda: not found.state.ok)
            state = found.state
            assert "locked" in state.error
            assert (state.buffered, state.dropped, abs(state.since_s - time.time()) < 5) == (1, 0, True)
            with pytest.raises(DatabaseUnavailable):
                await found.settle()
            with pytest.raises(DatabaseUnavailable):
                await found.spent(key_id="key_1", since_us=0)
            assert [each.id for each in await found.recent(Query())] == ["r0"]
        await until(lambda: found.state.ok)
        assert found.state.error == ""
        assert [each.id for each in await found.recent(Query())] == ["r1", "r0"]


async def test_more_than_memory_holds_waits_on_disk(url: str, tmp_path: Path) -> None:
    """Everything comes into the database, once, in whatever order."""
    rows = 3 * BATCH_ROWS
    async with ledger(url, tmp_path / "spool", buffer_rows=BATCH_ROWS) as found:
        found.add(entry(0))
        await found.settle()
        with locked(tmp_path / "kept"):
            for number in range(1, rows):
                found.add(entry(number))
                if number % 100 == 0:
                    await asyncio.sleep(0)
            await until(lambda: not found.state.ok)
            assert (found.state.buffered, found.state.dropped) == (rows - 1, 0)
        await until(lambda: found.state.ok)
        await found.settle()
        assert (found.state.written, found.state.buffered, found.state.dropped) == (rows, 0, 0)
    assert sorted(await ids(url, tmp_path / "spool")) == sorted(names(*range(rows)))


async def test_more_than_the_disk_may_hold_drops_the_oldest_and_counts(url: str, tmp_path: Path) -> None:
    """The newest are kept, with what was on its way just then; rows that came, were dropped and are there add up."""
    rows = 10 * BATCH_ROWS
    async with ledger(url, tmp_path / "spool", buffer_rows=BATCH_ROWS, spool_max_bytes=1 << 20) as found:
        await found.usage(UsageQuery())  # so that there is a file to lock
        with locked(tmp_path / "kept"):
            for number in range(rows):
                found.add(entry(number))
                if number % 100 == 0:
                    await asyncio.sleep(0)
            await asyncio.sleep(0)
            dropped = found.state.dropped
            assert 0 < dropped < rows
            assert found.state.buffered == rows - dropped
            assert sum(path.stat().st_size for path in (tmp_path / "spool").glob("*.rows")) <= 1 << 20
        await until(lambda: found.state.buffered == 0)
    kept = [int(name[1:]) for name in await ids(url, tmp_path / "spool")]
    assert len(kept) == rows - dropped
    newest = sum(number + place == rows for place, number in enumerate(reversed(kept), 1))
    assert newest >= BATCH_ROWS
    assert len(kept) - newest <= BATCH_ROWS + 200


async def test_without_a_spool_memory_is_all_there_is(url: str, tmp_path: Path) -> None:
    """The state says so though the database is well; above the bound the oldest go, and are counted."""
    (tmp_path / "spool").touch()
    async with ledger(url, tmp_path / "spool", buffer_rows=BATCH_ROWS) as found:
        found.add(entry(0))
        await found.settle()
        assert not found.state.ok
        assert "spool" in found.state.error
        with locked(tmp_path / "kept"):
            for number in range(1, 2 * BATCH_ROWS + 1):
                found.add(entry(number))
                await asyncio.sleep(0)
            dropped = found.state.dropped
            assert 0 < dropped <= BATCH_ROWS
            assert found.state.buffered == 2 * BATCH_ROWS - dropped
        await until(lambda: found.state.buffered == 0)
        assert found.state.dropped == dropped
    (tmp_path / "spool").unlink()
    kept = await ids(url, tmp_path / "spool")
    assert len(kept) == 1 + 2 * BATCH_ROWS - dropped
    assert kept[-BATCH_ROWS:] == names(*range(BATCH_ROWS + 1, 2 * BATCH_ROWS + 1))


async def test_ended_while_the_database_is_away_the_next_start_writes_it(url: str, tmp_path: Path) -> None:
    """Nothing waits for longer than some seconds, nothing is lost."""
    async with ledger(url, tmp_path / "spool") as found:
        await found.usage(UsageQuery())
        found.add(entry(1))
        with locked(tmp_path / "kept"):
            began = time.monotonic()
            await found.aclose()
            assert time.monotonic() - began < 3
    assert spooled(tmp_path / "spool") == 1
    assert await ids(url, tmp_path / "spool") == ["r1"]


async def test_before_and_after_its_life(url: str, tmp_path: Path) -> None:
    """What is added before `open` is kept; what is added after `aclose` is counted as dropped; neither fails."""
    database = Database(url)
    found = Ledger(database, tmp_path / "spool")
    found.add(entry(1))
    found.add(entry(2))
    assert found.state.buffered == 2
    with pytest.raises(DatabaseUnavailable):
        await found.settle()
    await found.open()
    await found.settle()
    await found.aclose()
    await found.aclose()
    found.add(entry(3))
    assert (found.state.written, found.state.dropped, found.state.buffered) == (2, 1, 0)
    await database.aclose()
    assert await ids(url, tmp_path / "spool") == names(1, 2)


async def test_two_gateways_on_one_state_folder_keep_apart_what_is_theirs(url: str, tmp_path: Path) -> None:
    """Both write into the same database."""
    async with ledger(url, tmp_path / "spool") as first, ledger(url, tmp_path / "spool") as second:
        for number in range(0, 100, 2):
            first.add(entry(number))
            second.add(entry(number + 1))
            await asyncio.sleep(0)
        # one may find the file locked while the other makes it, and tries again
        await until(lambda: first.state.buffered == second.state.buffered == 0)
    assert sorted(await ids(url, tmp_path / "spool")) == sorted(names(*range(100)))


@pytest.mark.parametrize(
    "odd",
    [
        {"asked": "a\0b", "user_agent": "\0"},
        {"id": "\ud800\udfff", "asked": "\udcff"},
        {"asked": "x" * 10**6},
        {"prompt": 1 << 80},
        {"cost_usd": Decimal("NaN")},
        {"cost_usd": Decimal("1E+5000")},
    ],
)
async def test_odd_values_are_kept_and_hold_up_nobody(any_url: str, tmp_path: Path, odd: dict[str, Any]) -> None:
    """Whatever callers and upstreams write."""
    async with ledger(any_url, tmp_path / "spool") as found:
        for each in (entry(1), entry(2, **odd), entry(3)):
            found.add_soon(each)
        await found.settle()
        assert found.state.written == 3
        assert len(await found.recent(Query())) == 3


async def test_row_the_database_does_not_take_is_dropped_alone(any_url: str, tmp_path: Path) -> None:
    """And counted: nothing else waits because of it."""
    nothing: Any = None
    async with ledger(any_url, tmp_path / "spool") as found:
        for number in range(300):
            found.add(entry(number))
        found.add(entry(1000, route=nothing))
        found.add(entry(1001, at_us=nothing))
        found.add_capture(entry(300), Capture(b"a", b"b"))
        await found.settle()
        assert (found.state.written, found.state.dropped, found.state.ok) == (301, 2, True)
        assert {each.id for each in await found.recent(Query(limit=1000))} == set(names(*range(301)))
        assert await found.captured("r300") is not None


async def test_bodies_are_kept_beside_their_request(any_url: str, tmp_path: Path) -> None:
    """Redacted and cut, and only theirs."""
    async with ledger(any_url, tmp_path / "spool", capture_max_bytes=40) as found:
        found.add(entry(1))
        found.add_capture(entry(2), Capture(b'{"api_key": "geheim", "x": 1}', b"y" * 100))
        found.add(entry(3))
        kept = await found.captured("r2")
        assert kept is not None
        assert (kept.request, kept.request_cut) == (b'{"api_key": "***", "x": 1}', False)
        assert (kept.response, kept.response_cut) == (b"y" * 40, True)
        assert await found.capture("r2") == {
            "request": '{"api_key": "***", "x": 1}',
            "request_cut": False,
            "response": "y" * 40,
            "response_cut": True,
        }
        assert await found.capture("r1") is None
        assert await found.captured("r3") is None
        assert len(await found.recent(Query())) == 3


async def test_bodies_that_wait_are_bounded_and_the_request_is_kept_without_them(url: str, tmp_path: Path) -> None:
    """While the database is away."""
    async with ledger(url, tmp_path / "spool") as found:
        await found.usage(UsageQuery())
        with locked(tmp_path / "kept"):
            for number in range(100):
                found.add_capture(entry(number), Capture(b"a", b"b"))
        await until(lambda: found.state.buffered == 0)
        assert await found.captured("r0") is not None
        assert await found.captured("r99") is None
        assert found.state.written == 100
        found.add_capture(entry(200), Capture(b"a", b"b"))
        assert await found.captured("r200") is not None


async def test_retention_deletes_what_is_older_with_its_bodies(any_url: str, tmp_path: Path) -> None:
    """In batches; what is younger by a microsecond stays."""
    old = NOW_US - 3 * DAY_US
    now_s = NOW_US / 1e6
    async with ledger(any_url, tmp_path / "spool", retention_days=3, clock=lambda: now_s) as found:
        for number in range(1, PAGE_ROWS + 200):
            found.add(entry(number, at_us=old - number))
        found.add_capture(entry(10_000, at_us=old - 10**6), Capture(b"a", b"b"))
        found.add_capture(entry(20_000, at_us=old), Capture(b"a", b"b"))
        await found.settle()
        assert await found.prune() == PAGE_ROWS + 200
        assert [each.id for each in await found.recent(Query())] == ["r20000"]
        assert await found.captured("r20000") is not None
        assert await found.prune() == 0


async def test_adding_is_cheap(url: str, tmp_path: Path) -> None:
    """A bound far above what it takes (0.3 µs), since this machine is shared; the bench has the figures."""
    rows = [entry(number) for number in range(2000)]
    async with ledger(url, tmp_path / "spool") as found:
        fastest = 1.0
        for start in range(0, len(rows), 100):
            began = time.perf_counter()
            for row in rows[start : start + 100]:
                found.add(row)
            fastest = min(fastest, time.perf_counter() - began)
            await asyncio.sleep(0)
        assert fastest / 100 < 3e-6
