"""What followers of the journal see: everything once, in order, from where they left off, to its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from gateway.residency.journal import KEPT, QUEUED, Happening, Journal


def journal() -> Journal:
    """With a clock that stands."""
    return Journal(lambda: 1.0)


async def take(following: AsyncIterator[Happening], count: int) -> list[int]:
    """The numbers of the next entries."""
    async with asyncio.timeout(5.0):
        return [(await anext(following)).seq for _ in range(count)]


async def test_follow_gives_what_is_kept_and_then_what_comes() -> None:
    """No entry twice and none left out, also those written while the kept ones are read."""
    notes = journal()
    for _ in range(3):
        notes.note("loaded", "a")
    following = notes.follow(1)
    assert await take(following, 1) == [2]
    notes.note("gone", "a")
    assert await take(following, 2) == [3, 4]
    notes.note("loaded", "a")
    assert await take(following, 1) == [5]


async def test_follow_starts_anew_when_the_number_is_a_former_runs() -> None:
    """A browser that reconnects after a restart names a number not reached yet: it must not wait for that."""
    notes = journal()
    notes.note("loaded", "a")
    following = notes.follow(5_000)
    assert await take(following, 1) == [1]
    notes.note("gone", "a")
    assert await take(following, 1) == [2]


async def test_follow_ends_when_the_journal_is_closed() -> None:
    """After the last entry, for those who read already and for those who come later."""
    notes = journal()
    following = notes.follow(0)
    waiting = asyncio.ensure_future(take(following, 1))
    await asyncio.sleep(0)
    notes.note("gone", "a")
    notes.close()
    assert await waiting == [1]
    async with asyncio.timeout(5.0):
        assert [entry.seq async for entry in following] == []
        assert [entry.seq async for entry in notes.follow(0)] == [1]


async def test_follow_loses_the_oldest_when_the_reader_is_slow() -> None:
    """Whoever writes is never held up, and memory is bounded; the gap shows in the numbers."""
    notes = journal()
    following = notes.follow(0)
    notes.note("loaded")
    assert await take(following, 1) == [1]
    for _ in range(QUEUED + 10):
        notes.note("loaded")
    last = 1 + QUEUED + 10
    assert await take(following, 2) == [last - QUEUED + 1, last - QUEUED + 2]


async def test_since_keeps_a_bounded_number() -> None:
    """The ring holds the newest."""
    notes = journal()
    for _ in range(KEPT + 5):
        notes.note("loaded")
    kept = notes.since(0)
    assert (len(kept), kept[0].seq, kept[-1].seq) == (KEPT, 6, KEPT + 5)


async def test_listeners_are_told_in_line() -> None:
    """Before `note` returns."""
    notes = journal()
    heard: list[str] = []
    notes.listeners.append(lambda entry: heard.append(entry.what))
    notes.note("pinned", "a")
    assert heard == ["pinned"]
