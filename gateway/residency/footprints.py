"""Learned sizes: what each engine has been seen to hold and how long it took to load, kept across restarts.

The law: a size is only as good as its source, and the better one wins device by device: learned, then declared, then
estimated. What cannot be read or written never stops the gateway: it then learns anew, or forgets at the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import math
import os
from pathlib import Path
from typing import Annotated

import msgspec

from providers.contract import EngineSpec, Footprint

log = logging.getLogger("roundhouse.memory")

# A high-water mark falls by this much with every load that does not reach it: one freak reading is forgotten in months,
# a size seen every time stays.
DECAY_PER_LOAD = 0.98
# Estimates of weights and cache are right within tens of percent; a sample four times off is another process's, or a
# reading taken while the engine was coming up.
CLAMP_FACTOR = 4
_LOAD_S_WEIGHT = 0.3  # of the newest load in the average: the first load reads a cold disk, later ones the page cache
ENTRIES_MAX = 1000  # every change of context or arguments is a new entry; the ones longest unused go
WRITE_AFTER_S = 2.0  # samples come in bursts, one per engine

_Bytes = Annotated[int, msgspec.Meta(gt=0)]
_Count = Annotated[int, msgspec.Meta(ge=0)]


class _Mark(msgspec.Struct):
    """A high-water mark, and the number of the load at which it was last reached or lowered."""

    bytes: _Bytes
    load: _Count


class _Entry(msgspec.Struct):
    devices: dict[str, _Mark] = {}
    loads: _Count = 0
    load_s: Annotated[float, msgspec.Meta(ge=0)] | None = None


class _File(msgspec.Struct, forbid_unknown_fields=True):
    version: Annotated[int, msgspec.Meta(ge=1, le=1)] = 1
    engines: dict[str, _Entry] = {}


def footprint_key(kind: str, spec: EngineSpec) -> str:
    """A stable digest of all that decides an engine's size. Blocking: one stat of the weights.

    A file of another length is another model. An engine without a file is told by its target.
    """
    identity: list[object] = [spec.target]
    if spec.source is not None:
        try:
            size = spec.source.stat().st_size
        except OSError:
            size = -1
        identity = [str(spec.source), size]
    described = [kind, identity, spec.command, spec.args, spec.context, spec.slots, spec.device]
    return hashlib.sha256(msgspec.json.encode(described)).hexdigest()[:32]


class Footprints:
    """What has been learned, by `footprint_key`.

    Works in memory alone until `open`; from then on changes are written some seconds later, and at `aclose`.

    Args:
        path: the file; its folder is made when needed.
    """

    def __init__(self, path: Path) -> None:
        self.totals: Footprint = {}  # device → all it has; a sample above it is cut
        self._path = path
        self._entries: dict[str, _Entry] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.Task[None] | None = None
        self._dirty = False
        self._warned = False

    # ------------------------------------------------------------ in memory

    def learn(self, key: str, sample: Footprint, estimate: Footprint | None = None) -> None:
        """One reading of a running engine. Per device: the larger of the sample and the decayed mark.

        The mark decays once per load since it was last touched, so that several samples of one load only raise it.
        A sample is cut to [1/4, 4] times the estimate, where there is one, and to the device's total; zero is no sample
        (a driver that does not tell says so).
        """
        entry = self._touch(key)
        for device, size in sample.items():
            if size <= 0:
                continue
            if estimate and (guess := estimate.get(device, 0)) > 0:
                size = min(max(size, guess // CLAMP_FACTOR), guess * CLAMP_FACTOR)
            size = max(1, min(size, self.totals.get(device) or size))
            mark = entry.devices.get(device)
            if mark is not None:
                size = max(size, int(mark.bytes * DECAY_PER_LOAD ** max(0, entry.loads - mark.load)))
            if mark is None or (mark.bytes, mark.load) != (size, entry.loads):
                entry.devices[device] = _Mark(size, entry.loads)
                self._changed()

    def learn_load_s(self, key: str, seconds: float) -> None:
        """One load is done and took this long. Call it once per load: it also counts them."""
        entry = self._touch(key)
        entry.loads += 1
        if math.isfinite(seconds) and seconds >= 0:
            entry.load_s = seconds if entry.load_s is None else entry.load_s + _LOAD_S_WEIGHT * (seconds - entry.load_s)
        self._changed()

    def load_s(self, key: str) -> float | None:
        """How long a load takes by experience; None: there is none."""
        entry = self._entries.get(key)
        return None if entry is None else entry.load_s

    def best(self, key: str, declared: Footprint | None, estimated: Footprint) -> tuple[Footprint, str]:
        """The best word on a size, and whose it is: "learned", "declared" or "estimated".

        A device that was never measured keeps the declared (else the estimated) size; the whole is called learned only
        when nothing of it is a guess.
        """
        base, source = (declared, "declared") if declared else (estimated, "estimated")
        entry = self._entries.get(key)
        if entry is None or not entry.devices:
            return base, source
        learned = {device: mark.bytes for device, mark in entry.devices.items()}
        guessed = any(size > 0 and device not in learned for device, size in base.items())
        return {**base, **learned}, source if guessed else "learned"

    def _touch(self, key: str) -> _Entry:
        entry = self._entries.pop(key, None) or _Entry()
        self._entries[key] = entry  # the last in order is the one used last
        while len(self._entries) > ENTRIES_MAX:
            del self._entries[next(iter(self._entries))]
        return entry

    # ------------------------------------------------------------ on disk

    async def open(self) -> None:
        """Read what an earlier run learned, and keep the file up to date from now on. Never fails."""
        learned = await asyncio.to_thread(_read, self._path)
        self._entries = {**learned, **self._entries}
        self._loop = asyncio.get_running_loop()

    async def aclose(self) -> None:
        """Write what is not yet written. Idempotent."""
        if self._loop is None:
            return
        self._loop = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._writing is not None:
            await asyncio.wait([self._writing])
        await self._write()

    def _changed(self) -> None:
        self._dirty = True
        if self._loop is not None and self._timer is None:
            self._timer = self._loop.call_later(WRITE_AFTER_S, self._start_writing)

    def _start_writing(self) -> None:
        self._timer = None
        if self._loop is None:
            return
        if self._writing is not None:  # a slow disk: look again later
            self._timer = self._loop.call_later(WRITE_AFTER_S, self._start_writing)
            return
        self._writing = self._loop.create_task(self._write(), name="write footprints")
        self._writing.add_done_callback(self._written)

    def _written(self, _: asyncio.Task[None]) -> None:
        self._writing = None

    async def _write(self) -> None:
        if not self._dirty:
            return
        self._dirty = False
        content = msgspec.json.format(msgspec.json.encode(_File(engines=self._entries)), indent=1)
        try:
            await asyncio.to_thread(replace_whole, self._path, content)
        except OSError as error:
            if not self._warned:
                log.warning("learned sizes are kept in memory only: %s: %s", self._path, error.strerror)
                self._warned = True


def _read(path: Path) -> dict[str, _Entry]:
    """The file's entries. A file that makes no sense is set aside, for someone to look at, and nothing was learned."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=_File).engines
    except FileNotFoundError:
        return {}
    except OSError as error:
        log.warning("learned sizes cannot be read: %s: %s", path, error.strerror)
        return {}
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        aside = path.with_name(f"{path.name}.corrupt")
        with contextlib.suppress(OSError):  # a read-only folder: it stays, and the next start says so again
            path.replace(aside)
        log.warning("learned sizes make no sense (%s) and were set aside as %s; learning anew", error, aside)
        return {}


def replace_whole(path: Path, content: bytes) -> None:
    """All of the new content or all of the old, also when the power fails. Raises: OSError."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
