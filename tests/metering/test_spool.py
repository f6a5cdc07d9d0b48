"""The spool: what was written is read, whatever was torn; nobody takes another's place; a full disk tears nothing."""

from __future__ import annotations

import resource
from collections.abc import Generator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest

from gateway.metering.ledger_rows import NAMES, fields_of
from gateway.metering.spool import ANEW_BYTES, Frame, Spool, frames, new_start, read
from tests.metering.kept import entry

START = 1 << 60
ID = NAMES.index("id")


def rows(*numbers: int) -> tuple[int, bytes]:
    """How many, and encoded."""
    return len(numbers), msgspec.msgpack.encode([fields_of(entry(number)) for number in numbers])


def ids(path: Path) -> list[str]:
    """Of the entries that can be read."""
    return [found[ID] for frame in frames(path) for found in read(frame) if found is not None]


@contextmanager
def spool(folder: Path, start: int = START, segment_bytes: int = 1 << 20) -> Generator[Spool]:
    """One that is open."""
    found = Spool(folder, start, segment_bytes)
    found.open()
    try:
        yield found
    finally:
        found.close()


@contextmanager
def file_size_limit(size: int) -> Generator[None]:
    """No file may grow beyond it: the same for a writer as a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_rows_come_back_with_their_ids(tmp_path: Path) -> None:
    """In their order, and from any place on."""
    with spool(tmp_path) as kept:
        kept.append(5, *rows(0, 1))
        segment = kept.append(7, *rows(2))
        found = list(frames(segment.path))
        assert [(frame.row_id - START, frame.count) for frame in found] == [(5, 2), (7, 1)]
        assert [row for frame in found for row in read(frame)] == [fields_of(entry(number)) for number in range(3)]
        assert list(frames(segment.path, found[0].end)) == found[1:]
        assert segment.left == 3
        assert kept.size == segment.path.stat().st_size


def test_torn_at_any_byte_every_whole_row_is_read(tmp_path: Path) -> None:
    """As after a kill in the middle of a write."""
    with spool(tmp_path / "a") as kept:
        kept.append(0, *rows(0, 1))
        segment = kept.append(2, *rows(2))
        data, ends = segment.path.read_bytes(), [frame.end for frame in frames(segment.path)]
    torn = tmp_path / "torn"
    for size in range(len(data)):
        torn.write_bytes(data[:size])
        assert ids(torn) == ["r0", "r1", "r2"][: (0, 2, 3)[sum(end <= size for end in ends)]], size


def test_damaged_row_ends_the_reading(tmp_path: Path) -> None:
    """Nothing false is read, whichever byte it is."""
    with spool(tmp_path / "a") as kept:
        kept.append(0, *rows(0))
        segment = kept.append(1, *rows(1))
        data, ends = bytearray(segment.path.read_bytes()), [frame.end for frame in frames(segment.path)]
    damaged = tmp_path / "damaged"
    for place in range(ends[0], ends[1]):
        data[place] ^= 0x55
        damaged.write_bytes(data)
        assert ids(damaged) == ["r0"], place
        data[place] ^= 0x55


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"RHROWS2\n",
        b"RHROWS1\n" + b"0" * 100,
        b"RHROWS2\nz\n[]\n",
        b"RHROWS2\n1\n[1]\n" + b"0" * 100,
        b"\xff" * 100,
    ],
)
def test_what_is_no_segment_is_empty(tmp_path: Path, data: bytes) -> None:
    """Also of another form."""
    (tmp_path / "x").write_bytes(data)
    assert list(frames(tmp_path / "x")) == []


def test_segment_goes_with_its_last_row(tmp_path: Path) -> None:
    """The one that is written to stays, and is begun anew once it is large."""
    with spool(tmp_path, segment_bytes=1) as kept:
        first = kept.append(0, *rows(0))
        second = kept.append(1, *rows(1))
        assert first is not second
        kept.written(first, 1)
        assert not first.path.exists()
        kept.written(second, 1)
        assert second.path.exists()
    with spool(tmp_path) as kept:
        segment = kept.append(0, 1, b"x" * ANEW_BYTES)
        kept.written(segment, 1)
        assert segment.path.stat().st_size == segment.size == kept.size < 500
        kept.append(1, *rows(1))
        assert ids(segment.path) == ["r1"]


def test_closed_it_leaves_what_is_not_written_and_the_next_takes_it_over(tmp_path: Path) -> None:
    """Under the ids that it had."""
    with spool(tmp_path, START + 1) as kept:
        kept.append(0, *rows(0))
    with spool(tmp_path, START + 2) as kept:
        (segment,) = kept.segments
        assert (segment.on_disk, segment.left) == (True, 1)
        assert [frame.row_id for frame in frames(segment.path)] == [START + 1]
        kept.append(0, *rows(1))
        assert len(kept.segments) == 2
        kept.forget(segment)
        kept.written(kept.segments[0], 1)
    assert [path.name for path in tmp_path.iterdir()] == ["0.lock"]


def test_two_at_once_have_places_of_their_own(tmp_path: Path) -> None:
    """Neither takes what the other is writing; what a dead one left in any place is taken over."""
    with spool(tmp_path, START + 1) as first:
        first.append(0, *rows(1))
        with spool(tmp_path, START + 2) as second:
            second.append(0, *rows(2))
            assert not second.segments[0].on_disk
            assert len(second.segments) == 1
        with spool(tmp_path, START + 3) as third:
            assert [ids(segment.path) for segment in third.segments] == [["r2"]]
    with spool(tmp_path, START + 4) as last:
        assert sorted(ids(segment.path)[0] for segment in last.segments) == ["r1", "r2"]


def test_full_disk_leaves_no_half_rows(tmp_path: Path) -> None:
    """The rows of the call are refused whole; those before and after can be read, without another segment."""
    with spool(tmp_path) as kept:
        segment = kept.append(0, *rows(0))
        for more in range(1, len(rows(1)[1]) + 20):
            with file_size_limit(segment.size + more), pytest.raises(OSError, match=r"."):
                kept.append(1, *rows(1))
        assert segment.path.stat().st_size == segment.size
        assert kept.append(2, *rows(2)) is segment
        assert ids(segment.path) == ["r0", "r2"]


def test_full_disk_at_the_beginning_leaves_nothing(tmp_path: Path) -> None:
    """Not even the head of a segment."""
    with spool(tmp_path) as kept:
        for size in range(300):
            with file_size_limit(size), pytest.raises(OSError, match=r"."):
                kept.append(0, *rows(0))
        assert [segment.left for segment in kept.segments] == [0] * len(kept.segments)
        segment = kept.append(1, *rows(1))
        assert ids(segment.path) == ["r1"]
    assert len(list(tmp_path.glob("*.rows"))) == 1


def frame(names: tuple[str, ...], payload: object, count: int = 1) -> Frame:
    """As if it had been read."""
    return Frame(START, count, msgspec.msgpack.encode(payload), names, 0)


def test_row_of_another_version_is_read_as_far_as_it_goes() -> None:
    """Fields it lacks are empty, fields we do not know are left out; its neighbours are read whatever it is."""
    said = dict(zip(NAMES, fields_of(entry(1, prompt=7)), strict=True))
    del said["user_agent"], said["cost_usd"], said["streamed"], said["left"]
    names = (*said, "of_tomorrow")
    (found,) = read(frame(names, [[*said.values(), 1]]))
    assert found == fields_of(entry(1, prompt=7, user_agent="", cost_usd=None, streamed=False, left=""))
    kept = fields_of(entry(1, cost_usd=Decimal("0.1")))
    assert read(frame(NAMES, [[1], kept, [None] * len(NAMES)], 3)) == [None, kept, None]
    assert read(frame(NAMES, 7, 2)) == [None, None]


def test_ids_begin_anew_with_each_run() -> None:
    """Two runs in the same moment have different ones, both of which a database can count on from."""
    first, second = new_start(), new_start()
    assert first != second
    assert first >> 21 <= second >> 21
    assert second + (1 << 60) < 1 << 63
