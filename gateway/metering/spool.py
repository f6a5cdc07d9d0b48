"""What has not reached the database yet, kept on disk as it comes: it survives the end of the process, however that ends.

    NUMBER.lock             held as long as its owner lives; one owner per NUMBER ("place")
    NUMBER-SEQUENCE.rows    a segment: a head of three lines, then frames

    head = magic · where the ids of its rows begin (16 hex digits) · the names of a row's fields (a JSON list)
    frame = length of the payload (u32), CRC-32 of what follows (u32), how many rows (u32), number of the first (u64), payload
    payload = a msgpack list of rows, each a list of its fields

The law: segments are only appended to, by one owner, in one write per call, and each owner begins with a segment of its own; so
nothing but the end of a segment can be torn, and what is torn is not read: a frame is read whole or not at all. A segment goes once
all of its rows are in the database, never before. A second gateway with the same folder takes the next place; what a dead one left
behind in any place is taken over by whoever starts next. Nothing is synced: the rows outlive our process (kill -9 too), not a loss
of power.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import struct
import time
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from errno import EBUSY, ENOSPC
from pathlib import Path
from typing import Any

import msgspec

from .entry import Entry
from .ledger_rows import NAMES, Fields, fields_of

MAGIC = b"RHROWS2\n"
SEGMENT_BYTES = 4 << 20  # twenty thousand rows: as many as are written twice at most when one is read back
ANEW_BYTES = 256 << 10  # a segment without rows left is begun anew above it: a truncation costs as much as ten writes
PLACES_MAX = 64  # gateways at once on one folder
HEAD_MAX_BYTES = 4096
_ID_DIGITS = 16
_CHANCE_BITS = 21
_SAID = struct.Struct("<II")
_COUNTED = struct.Struct("<IQ")
_FRAME_BYTES = _SAID.size + _COUNTED.size
_SEGMENT = re.compile(r"(\d{1,4})-(\d{1,12})\.rows")

_encode_names = msgspec.json.Encoder().encode
_decode_rows = msgspec.msgpack.Decoder(list[list[Any]]).decode
_crc32 = zlib.crc32


def new_start() -> int:
    """Where the ids of one run's rows begin. Ids of later runs are greater; those of two that begin at once differ by chance."""
    return (time.time_ns() // 1_000_000) << _CHANCE_BITS | secrets.randbits(_CHANCE_BITS)


class Segment:
    """One file.

    Args:
        on_disk: whether rows of it are nowhere else.
    """

    __slots__ = ("left", "on_disk", "path", "size")

    def __init__(self, path: Path, size: int, left: int = 0, *, on_disk: bool = False) -> None:
        self.path = path
        self.size = size
        self.left = left  # rows of it that are not in the database
        self.on_disk = on_disk


class Spool:
    """One place in a folder. All of it blocks, but `append` only as long as a write into the page cache takes.

    Args:
        folder: made when needed.
        start: as `new_start` gives it.
        segment_bytes: above it another segment is begun.
    """

    def __init__(self, folder: Path, start: int, segment_bytes: int = SEGMENT_BYTES) -> None:
        self.segments: deque[Segment] = (
            deque()
        )  # oldest first; the last is the one that is written to, once there is one
        self.size = 0  # of all of them
        self._folder = folder
        self._head = MAGIC + b"%0*x\n%s\n" % (_ID_DIGITS, start, _encode_names(NAMES))
        self._segment_bytes = segment_bytes
        self._place = -1
        self._lock = -1
        self._fd = -1
        self._sequence = 0

    def open(self) -> None:
        """Take a place, and what dead owners left behind. Raises: OSError."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._place, self._lock = self._take_place()
        found: list[tuple[int, int, Path]] = []
        for path in self._folder.iterdir():
            if match := _SEGMENT.fullmatch(path.name):
                found.append((int(match[1]), int(match[2]), path))
        self._sequence = 1 + max((sequence for place, sequence, _ in found if place == self._place), default=0)
        for place in sorted({place for place, _, _ in found}):
            # held as long as we take over, so that nobody else does
            lock = -1 if place == self._place else self._locked(place)
            if place == self._place or lock >= 0:
                for path in [path for theirs, _, path in sorted(found) if theirs == place]:
                    with contextlib.suppress(FileNotFoundError):  # somebody was faster, and has ended since
                        self._adopt(path)
            if lock >= 0:
                os.close(lock)

    def append(self, first: int, count: int, payload: bytes) -> Segment:
        """Write rows numbered from `first` on: all of them, or none. Raises: OSError."""
        counted = _COUNTED.pack(count, first)
        data = b"".join((_SAID.pack(len(payload), _crc32(payload, _crc32(counted))), counted, payload))
        if self._fd < 0 or self.segments[-1].size >= self._segment_bytes:
            self._begin()
        segment = self.segments[-1]
        try:
            if os.write(self._fd, data) != len(data):
                raise OSError(ENOSPC, os.strerror(ENOSPC))
        except OSError:
            self._cut_back(segment)
            raise
        segment.size += len(data)
        segment.left += count
        self.size += len(data)
        return segment

    def written(self, segment: Segment, rows: int) -> None:
        """So many of its rows are in the database now. With the last of them it goes, or is begun anew."""
        segment.left -= rows
        if segment.left > 0:
            return
        if segment is not self.segments[-1] or self._fd < 0:
            self.forget(segment)
        elif segment.size >= ANEW_BYTES:
            try:
                os.ftruncate(self._fd, len(self._head))
            except OSError:
                self.forget(segment)
            else:
                self.size -= segment.size - len(self._head)
                segment.size = len(self._head)

    def forget(self, segment: Segment) -> None:
        """Delete it, whatever is in it."""
        if self._fd >= 0 and segment is self.segments[-1]:
            self.end()
        self.segments.remove(segment)
        self.size -= segment.size
        with contextlib.suppress(OSError):
            segment.path.unlink()

    def end(self) -> None:
        """What comes next goes into another segment."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def close(self) -> None:
        """Leave the place; segments of which every row is in the database go. Idempotent."""
        self.end()
        for segment in [segment for segment in self.segments if segment.left <= 0]:
            self.forget(segment)
        self.segments.clear()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    # ------------------------------------------------------------ places

    def _take_place(self) -> tuple[int, int]:
        for place in range(PLACES_MAX):
            lock = self._locked(place)
            if lock >= 0:
                return place, lock
        raise OSError(EBUSY, f"{PLACES_MAX} gateways use {self._folder} already")

    def _locked(self, place: int) -> int:
        """The descriptor that holds the lock until it is closed; -1: another owner lives."""
        fd = os.open(self._folder / f"{place}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(fd)
            if isinstance(error, BlockingIOError):
                return -1
            raise
        return fd

    def _adopt(self, path: Path) -> None:
        """Its rows become ours, before any of our own."""
        rows = sum(frame.count for frame in frames(path))
        if rows == 0:  # nothing, or nothing that can be read
            path.unlink()
            return
        mine = self._folder / f"{self._place}-{self._sequence}.rows"
        self._sequence += 1
        path.rename(mine)
        segment = Segment(mine, mine.stat().st_size, rows, on_disk=True)
        self.segments.append(segment)
        self.size += segment.size

    # ------------------------------------------------------------ the segment that is written to

    def _begin(self) -> None:
        path = self._folder / f"{self._place}-{self._sequence}.rows"
        self._sequence += 1
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            if os.write(fd, self._head) != len(self._head):
                raise OSError(ENOSPC, os.strerror(ENOSPC))
        except OSError:
            os.close(fd)
            path.unlink()
            raise
        self.end()
        self._fd = fd
        self.segments.append(Segment(path, len(self._head)))
        self.size += len(self._head)

    def _cut_back(self, segment: Segment) -> None:
        """Nothing of a write that failed is to stay: frames behind it would not be found."""
        try:
            os.ftruncate(self._fd, segment.size)
        except OSError:
            self.end()  # what is torn stays the end of that segment


# ---------------------------------------------------------------------- reading


class Frame(msgspec.Struct, frozen=True, gc=False):
    """What one call has written."""

    row_id: int  # of its first row
    count: int
    payload: bytes
    names: tuple[str, ...]  # of the fields of each row
    end: int  # where the next one begins


def frames(path: Path, start: int = 0) -> Iterator[Frame]:
    """The whole ones from a place in the file on (0: all), up to its end or to what is torn. Raises: OSError."""
    with path.open("rb") as file:
        if file.readline(HEAD_MAX_BYTES) != MAGIC:
            return
        try:
            begun = int(file.readline(HEAD_MAX_BYTES), 16)
            names = msgspec.json.decode(file.readline(HEAD_MAX_BYTES), type=tuple[str, ...])
        except ValueError:
            return
        at = max(start, file.tell())
        file.seek(at)
        while len(header := file.read(_FRAME_BYTES)) == _FRAME_BYTES:
            length, crc = _SAID.unpack_from(header)
            count, number = _COUNTED.unpack_from(header, _SAID.size)
            payload = file.read(length) if length <= SEGMENT_BYTES * 8 else b""
            if len(payload) != length or _crc32(payload, _crc32(header[_SAID.size :])) != crc:
                return
            at += _FRAME_BYTES + length
            yield Frame(begun + number, count, payload, names, at)


def read(frame: Frame) -> Sequence[Fields | None]:
    """Its rows; also of a version that kept other fields. None: it is none."""
    try:
        rows = _decode_rows(frame.payload)
    except msgspec.MsgspecError:
        return [None] * frame.count
    return [_read(frame.names, row) for row in rows]


def _read(names: tuple[str, ...], row: list[Any]) -> Fields | None:
    try:
        said = dict(zip(names, row, strict=True))
        return fields_of(msgspec.convert({**_BLANK, **said}, Entry, strict=False))
    except ValueError:
        return None


_BLANK: dict[str, Any] = {
    field.name: {str: "", int: 0, bool: False}.get(field.type) for field in msgspec.structs.fields(Entry)
} | {"left": ""}
