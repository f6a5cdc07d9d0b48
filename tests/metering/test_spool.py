"""The spool: what was written is read, whatever was torn; nobody takes another's place; a full disk tears nothing."""

from __future__ import annotations

import resource
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from gateway.metering.entry import Entry
from gateway.metering.spool import ANEW_BYTES, Spool, frames, new_prefix, read, row_id
from tests.metering.kept import entry

PREFIX = "0" * 20


def payloads(*numbers: int) -> list[bytes]:
    """Encoded entries."""
    return [msgspec.msgpack.encode(entry(number)) for number in numbers]


def ids(path: Path) -> list[str]:
    """Of the entries that can be read."""
    return [found.id for frame in frames(path) if (found := read(frame.payload)) is not None]


@contextmanager
def spool(folder: Path, prefix: str = PREFIX, segment_bytes: int = 1 << 20) -> Generator[Spool]:
    """One that is open."""
    found = Spool(folder, prefix, segment_bytes)
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
    with spool(tmp_path, "0123456789abcdef0123") as kept:
        kept.append(5, payloads(0, 1))
        segment = kept.append(7, payloads(2))
        found = list(frames(segment.path))
        assert [frame.row_id for frame in found] == [row_id("0123456789abcdef0123", number) for number in (5, 6, 7)]
        assert [read(frame.payload) for frame in found] == [entry(0), entry(1), entry(2)]
        assert [frame.row_id for frame in frames(segment.path, found[1].end)] == [found[2].row_id]
        assert segment.left == 3
        assert kept.size == segment.path.stat().st_size


def test_torn_at_any_byte_every_whole_row_is_read(tmp_path: Path) -> None:
    """As after a kill in the middle of a write."""
    with spool(tmp_path / "a") as kept:
        segment = kept.append(0, payloads(0, 1, 2))
        data, ends = segment.path.read_bytes(), [frame.end for frame in frames(segment.path)]
    torn = tmp_path / "torn"
    for size in range(len(data)):
        torn.write_bytes(data[:size])
        assert ids(torn) == ["r0", "r1", "r2"][: sum(end <= size for end in ends)], size


def test_damaged_row_ends_the_reading(tmp_path: Path) -> None:
    """Nothing false is read, whichever byte it is."""
    with spool(tmp_path / "a") as kept:
        segment = kept.append(0, payloads(0, 1))
        data, ends = bytearray(segment.path.read_bytes()), [frame.end for frame in frames(segment.path)]
    damaged = tmp_path / "damaged"
    for place in range(ends[0], ends[1]):
        data[place] ^= 0x55
        damaged.write_bytes(data)
        assert ids(damaged) == ["r0"], place
        data[place] ^= 0x55


@pytest.mark.parametrize("data", [b"", b"RHROWS1\n", b"RHROWS2\n" + b"0" * 20, b"\xff" * 100])
def test_what_is_no_segment_is_empty(tmp_path: Path, data: bytes) -> None:
    """Also of another form."""
    (tmp_path / "x").write_bytes(data)
    assert list(frames(tmp_path / "x")) == []


def test_segment_goes_with_its_last_row(tmp_path: Path) -> None:
    """The one that is written to stays, and is begun anew once it is large."""
    with spool(tmp_path, segment_bytes=1) as kept:
        first = kept.append(0, payloads(0))
        second = kept.append(1, payloads(1))
        assert first is not second
        kept.written(first, 1)
        assert not first.path.exists()
        kept.written(second, 1)
        assert second.path.exists()
    with spool(tmp_path) as kept:
        segment = kept.append(0, [b"x" * ANEW_BYTES])
        kept.written(segment, 1)
        assert segment.path.stat().st_size == segment.size == kept.size < 100
        kept.append(1, payloads(1))
        assert ids(segment.path) == ["r1"]


def test_closed_it_leaves_what_is_not_written_and_the_next_takes_it_over(tmp_path: Path) -> None:
    """Under the ids that it had."""
    with spool(tmp_path, "1" * 20) as kept:
        kept.append(0, payloads(0))
    with spool(tmp_path, "2" * 20) as kept:
        (segment,) = kept.segments
        assert (segment.on_disk, segment.left) == (True, 1)
        assert [frame.row_id for frame in frames(segment.path)] == [row_id("1" * 20, 0)]
        kept.append(0, payloads(1))
        assert len(kept.segments) == 2
        kept.forget(segment)
        kept.written(kept.segments[0], 1)
    assert [path.name for path in tmp_path.iterdir()] == ["0.lock"]


def test_two_at_once_have_places_of_their_own(tmp_path: Path) -> None:
    """Neither takes what the other is writing; what a dead one left in any place is taken over."""
    with spool(tmp_path, "1" * 20) as first:
        first.append(0, payloads(1))
        with spool(tmp_path, "2" * 20) as second:
            second.append(0, payloads(2))
            assert not second.segments[0].on_disk
            assert len(second.segments) == 1
        with spool(tmp_path, "3" * 20) as third:
            assert [ids(segment.path) for segment in third.segments] == [["r2"]]
    with spool(tmp_path, "4" * 20) as last:
        assert sorted(ids(segment.path)[0] for segment in last.segments) == ["r1", "r2"]


def test_full_disk_leaves_no_half_rows(tmp_path: Path) -> None:
    """The rows of the call are refused whole; those before and after can be read, without another segment."""
    with spool(tmp_path) as kept:
        segment = kept.append(0, payloads(0))
        for more in range(1, len(payloads(1)[0]) + 16):
            with file_size_limit(segment.size + more), pytest.raises(OSError, match=r"."):
                kept.append(1, payloads(1))
        assert segment.path.stat().st_size == segment.size
        assert kept.append(2, payloads(2)) is segment
        assert ids(segment.path) == ["r0", "r2"]


def test_full_disk_at_the_beginning_leaves_nothing(tmp_path: Path) -> None:
    """Not even the head of a segment."""
    with spool(tmp_path) as kept:
        for size in range(30):
            with file_size_limit(size), pytest.raises(OSError, match=r"."):
                kept.append(0, payloads(0))
        assert [segment.left for segment in kept.segments] == [0] * len(kept.segments)
        segment = kept.append(1, payloads(1))
        assert ids(segment.path) == ["r1"]
    assert len(list(tmp_path.glob("*.rows"))) == 1


def test_row_of_another_version_is_read_as_far_as_it_goes() -> None:
    """Fields it lacks are empty, fields we do not know are left out."""
    said = msgspec.msgpack.decode(msgspec.msgpack.encode(entry(1, prompt=7)))
    del said["user_agent"], said["cost_usd"], said["streamed"], said["left"]
    found = read(msgspec.msgpack.encode({**said, "of_tomorrow": 1}))
    assert isinstance(found, Entry)
    assert (found.id, found.prompt, found.user_agent, found.cost_usd, found.left) == ("r1", 7, "", None, "")
    assert read(b"\xc1") is None
    assert read(msgspec.msgpack.encode([1])) is None


def test_prefixes_differ_and_grow() -> None:
    """Two runs in the same moment have different ones."""
    first, second = new_prefix(), new_prefix()
    assert first != second
    assert first[:11] <= second[:11]
    assert len(first) == len(PREFIX)
