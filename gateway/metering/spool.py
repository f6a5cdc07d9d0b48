"""What has not reached the database yet, kept on disk as it comes: it survives the end of the process, however that ends.

    NUMBER.lock             held as long as its owner lives; one owner per NUMBER ("place")
    NUMBER-SEQUENCE.rows    a segment: a head (magic, then what the ids of its rows begin with), then frames

    frame = length of the payload (u32), CRC-32 of it begun with the row's number (u32), the row's number (u64), payload

The law: segments are only appended to, by one owner, in one write per call, and each owner begins with a segment of its own; so
nothing but the end of a segment can be torn, and what is torn is not read. A segment goes once all of its rows are in the database,
never before. A second gateway with the same folder takes the next place; what a dead one left behind in any place is taken over by
whoever starts next. Nothing is synced: the rows outlive our process (kill -9 too), not a loss of power.
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

MAGIC = b"RHROWS1\n"
PREFIX_CHARS = 20  # 12 of the time in ms, so that ids of later runs are greater, and 8 by chance
SEGMENT_BYTES = 4 << 20  # ten thousand rows: as many as are written twice at most when one is read back
ANEW_BYTES = 256 << 10  # a segment without rows left is begun anew above it: a truncation costs as much as ten writes
PLACES_MAX = 64  # gateways at once on one folder
_HEAD_BYTES = len(MAGIC) + PREFIX_CHARS
_FRAME = struct.Struct("<IIQ")
_SEGMENT = re.compile(r"(\d{1,4})-(\d{1,12})\.rows")
_PREFIX = re.compile(rb"[0-9a-f]{20}")

_decode = msgspec.msgpack.Decoder(Entry).decode
_pack = _FRAME.pack
_crc32 = zlib.crc32


def _seed(number: int) -> int:
    return (number ^ number >> 32) & 0xFFFFFFFF


def new_prefix() -> str:
    """What the row ids of one run begin with."""
    return f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(4)}"


def row_id(prefix: str, number: int) -> str:
    """Unique for ever, and greater for later rows."""
    return f"{prefix}{number:012x}"


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
        prefix: as `new_prefix` gives it.
        segment_bytes: above it another segment is begun.
    """

    def __init__(self, folder: Path, prefix: str, segment_bytes: int = SEGMENT_BYTES) -> None:
        self.segments: deque[Segment] = (
            deque()
        )  # oldest first; the last is the one that is written to, once there is one
        self.size = 0  # of all of them
        self._folder = folder
        self._prefix = prefix
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

    def append(self, first: int, payloads: Sequence[bytes]) -> Segment:
        """Write rows numbered from `first` on: all of them, or none. Raises: OSError."""
        parts: list[bytes] = []
        for number, payload in enumerate(payloads, first):
            parts.append(_pack(len(payload), _crc32(payload, _seed(number)), number))
            parts.append(payload)
        data = b"".join(parts)
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
        segment.left += len(payloads)
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
                os.ftruncate(self._fd, _HEAD_BYTES)
            except OSError:
                self.forget(segment)
            else:
                self.size -= segment.size - _HEAD_BYTES
                segment.size = _HEAD_BYTES

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
        rows = sum(1 for _ in frames(path))
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
            if os.write(fd, MAGIC + self._prefix.encode()) != _HEAD_BYTES:
                raise OSError(ENOSPC, os.strerror(ENOSPC))
        except OSError:
            os.close(fd)
            path.unlink()
            raise
        self.end()
        self._fd = fd
        self.segments.append(Segment(path, _HEAD_BYTES))
        self.size += _HEAD_BYTES

    def _cut_back(self, segment: Segment) -> None:
        """Nothing of a write that failed is to stay: frames behind it would not be found."""
        try:
            os.ftruncate(self._fd, segment.size)
        except OSError:
            self.end()  # what is torn stays the end of that segment


# ---------------------------------------------------------------------- reading


class Frame(msgspec.Struct, frozen=True, gc=False):
    """One row as it lies in a segment."""

    row_id: str
    payload: bytes
    end: int  # where the next one begins


def frames(path: Path, start: int = 0) -> Iterator[Frame]:
    """The whole rows from a place in the file on (0: all), up to its end or to what is torn. Raises: OSError."""
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
        prefix = head[len(MAGIC) :]
        if not head.startswith(MAGIC) or not _PREFIX.fullmatch(prefix):
            return
        at = max(start, _HEAD_BYTES)
        file.seek(at)
        while len(header := file.read(_FRAME.size)) == _FRAME.size:
            length, crc, number = _FRAME.unpack(header)
            payload = file.read(length) if length <= SEGMENT_BYTES * 8 else b""
            if len(payload) != length or _crc32(payload, _seed(number)) != crc:
                return
            at += _FRAME.size + length
            yield Frame(row_id(prefix.decode(), number), payload, at)


def read(payload: bytes) -> Entry | None:
    """The entry; also of a version that kept other fields. None: it is none."""
    try:
        return _decode(payload)
    except msgspec.MsgspecError:
        pass
    try:
        said: Any = msgspec.msgpack.decode(payload)
        return msgspec.convert({**_BLANK, **said}, Entry, strict=False) if isinstance(said, dict) else None
    except (msgspec.MsgspecError, TypeError):
        return None


_BLANK: dict[str, Any] = {
    field.name: {str: "", int: 0, bool: False}.get(field.type) for field in msgspec.structs.fields(Entry)
} | {"left": ""}
