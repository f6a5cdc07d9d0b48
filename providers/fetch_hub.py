"""Brings a file of a model hub's repository into the models folder, all parts of it where it is split.

The law: whatever interrupts a fetch, the next one goes on where it was, and only with bytes of the same file: the part's mark
says whose they are. What the hub or the source gives a checksum for is in place only when the checksum is right.

    models_dir/.fetch/ORG--REPO[@REVISION]/FILE/    the work: a lock, `part`, and `part.json`, its mark
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import threading
from collections.abc import Mapping
from contextlib import aclosing
from pathlib import Path
from urllib.parse import quote

import msgspec

from providers.fetch_files import (
    CHUNK_BYTES,
    FULL,
    UNVERIFIED,
    Progress,
    Stopped,
    explain,
    in_thread,
    is_there,
    locked,
    make_folders,
    write_note,
)
from providers.hub import IDLE_S, Answer, Cut, Hub
from providers.sources import FetchError, HubFile, folder_of, parts_of, source_path

_MAGIC = b"GGUF"
# Requests for one file. Each but the first follows one that brought something, or whose part had to be given up.
_ATTEMPTS = 6


class _Mark(msgspec.Struct, frozen=True):
    """Of which file the part is."""

    size_bytes: int
    sha256: str = ""
    validator: str = ""


class _Anew(Exception):
    """What has been kept is of another file than what comes: begin at its first byte."""


async def fetch_hub_file(
    file: HubFile,
    models_dir: Path,
    progress: Progress | None = None,
    environ: Mapping[str, str] | None = None,
    idle_s: float = IDLE_S,
) -> Path:
    """The file in the models folder, at once when it is there already; of a split file the first part, all being there.

    Any number of processes may ask at the same time: one fetches, the others wait. Cancelled, it keeps what has come.

    Args:
        progress: called on the event loop.
        environ: for HF_ENDPOINT and HF_TOKEN; this process's own when None.
        idle_s: at most, between two pieces.
    Raises: FetchError
    """
    tell: Progress = progress or (lambda stage, done, total: None)
    parts = parts_of(file)
    try:
        for number, part in enumerate(parts, start=1):
            where = f" {number}/{len(parts)}" if len(parts) > 1 else ""
            target = source_path(part, models_dir)
            if not await asyncio.to_thread(is_there, target, part.sha256):
                work = models_dir / ".fetch" / folder_of(part) / quote(part.file, safe="")
                await asyncio.to_thread(make_folders, target.parent, work)
                async with locked(work / "lock", tell), Hub(os.environ if environ is None else environ, idle_s) as hub:
                    if not await asyncio.to_thread(is_there, target, part.sha256):
                        await _Fetch(hub, part, target, work, tell, where).run()
    except OSError as error:
        explain(error)
    first = source_path(parts[0], models_dir)
    size = first.stat().st_size
    tell("done", size, size)
    return first


class _Fetch:
    """One file, with its lock held."""

    def __init__(self, hub: Hub, file: HubFile, target: Path, work: Path, tell: Progress, where: str) -> None:
        self._hub = hub
        self._file = file
        self._target = target
        self._part = work / "part"
        self._note = work / "part.json"
        self._tell = tell
        self._where = where  # " 2/3" of a split file
        self._digest = hashlib.sha256()  # of the part's first `_held` bytes
        self._held = 0

    async def run(self) -> None:
        """Raises: FetchError, OSError."""
        for attempt in range(_ATTEMPTS):
            had = self._held
            try:
                mark = await self._attempt()
                break
            except _Anew:
                self._give_up()
            except Cut:
                if attempt == _ATTEMPTS - 1 or self._held <= had:
                    raise
        else:
            raise FetchError(f"{self._hub.host} sends another {self._file} every time: try again later")
        if not (self._file.sha256 or mark.sha256):
            self._tell(f"{UNVERIFIED}{self._where}", self._held, self._held)
        await asyncio.to_thread(self._put_in_place, mark)

    async def _attempt(self) -> _Mark:
        """The part is whole afterwards. Raises: _Anew, Cut, FetchError, OSError."""
        mark = await self._kept()
        if mark is not None and self._held == mark.size_bytes:
            return mark
        async with self._hub.opened(self._file, self._held, mark.validator if mark else "") as answer:
            if answer.starts_at not in (0, self._held):
                raise _Anew  # no such range (the file has changed), or another one than we asked for
            if answer.starts_at and not _same(mark, answer):
                raise _Anew
            if self._held and not answer.starts_at:
                self._give_up()
            mark = self._expected(answer)
            free = shutil.disk_usage(self._part.parent).free
            if free < mark.size_bytes - self._held:
                raise FetchError(FULL, detail=f"{free} bytes are free, {mark.size_bytes - self._held} are to come")
            self._note.write_bytes(msgspec.json.encode(mark))
            await self._receive(answer, mark.size_bytes)
        return mark

    def _expected(self, answer: Answer) -> _Mark:
        pinned = self._file.sha256
        if answer.size_bytes < len(_MAGIC):
            raise FetchError(f"{self._file} is empty at {self._hub.host}")
        if pinned and answer.sha256 and pinned != answer.sha256:
            raise FetchError(
                f"{self._file} has another checksum at {self._hub.host} than the source says: correct the source, or pin a "
                "revision with @COMMIT",
                detail=f"sha256 {answer.sha256}, expected {pinned}",
            )
        return _Mark(size_bytes=answer.size_bytes, sha256=answer.sha256 or pinned, validator=answer.validator)

    async def _kept(self) -> _Mark | None:
        """What an earlier fetch has left, hashed; None where there is nothing that can be gone on from."""
        try:
            mark = msgspec.json.decode(self._note.read_bytes(), type=_Mark)
            size = self._part.stat().st_size
        except (OSError, msgspec.MsgspecError):
            self._give_up()
            return None
        usable = mark.validator or mark.sha256  # else nobody could tell whether the rest belongs to it
        if size == 0 or size > mark.size_bytes or not usable or self._file.sha256 not in ("", mark.sha256):
            self._give_up()
            return None
        if size != self._held:
            await in_thread(lambda stop: self._hash(size, stop))
        return mark

    def _hash(self, size: int, stop: threading.Event) -> None:
        self._digest, self._held = hashlib.sha256(), 0
        with self._part.open("rb") as file:
            while self._held < size and (piece := file.read(CHUNK_BYTES)):
                if stop.is_set():
                    raise Stopped
                self._digest.update(piece)
                self._held += len(piece)

    async def _receive(self, answer: Answer, size: int) -> None:
        waiting = bytearray()
        with self._part.open("ab", buffering=0) as file:
            try:
                async with aclosing(answer.pieces) as pieces:
                    async for piece in pieces:
                        waiting += piece
                        self._check(waiting, size)
                        if len(waiting) >= CHUNK_BYTES:
                            ready, waiting = waiting, bytearray()
                            await self._write(file.fileno(), ready)
                        self._tell(f"download{self._where}", self._held + len(waiting), size)
            finally:  # cut or cancelled: what has come is kept
                await self._write(file.fileno(), waiting)
        if self._held < size:
            raise Cut(f"{self._hub.host} sent only {self._held} of {size} bytes of {self._file}: run it again")

    def _check(self, waiting: bytearray, size: int) -> None:
        """Before gigabytes of something else have come."""
        if self._held + len(waiting) > size:
            self._give_up()
            waiting.clear()
            raise FetchError(
                f"{self._hub.host} sends more than the {size} bytes that {self._file} has: try again later"
            )
        if self._held == 0 and not _MAGIC.startswith(bytes(waiting[: len(_MAGIC)])):
            looks = "a web page" if bytes(waiting).lstrip().startswith(b"<") else "something else"
            self._give_up()
            waiting.clear()
            raise FetchError(
                f"what {self._hub.host} sends for {self._file} is {looks} and no GGUF file: is a login page of your network "
                "in between, or HF_ENDPOINT wrong?"
            )

    async def _write(self, descriptor: int, data: bytearray) -> None:
        def write(_: threading.Event) -> None:
            view = memoryview(data)
            while view:
                written = os.write(descriptor, view)
                self._digest.update(view[:written])
                self._held += written
                view = view[written:]

        if data:
            await in_thread(write)

    def _give_up(self) -> None:
        """Forget what was kept."""
        self._digest, self._held = hashlib.sha256(), 0
        self._note.unlink(missing_ok=True)
        self._part.unlink(missing_ok=True)

    def _put_in_place(self, mark: _Mark) -> None:
        digest = self._digest.hexdigest()
        wanted = self._file.sha256 or mark.sha256
        if wanted not in ("", digest):
            self._give_up()
            raise FetchError(
                f"{self._file} has the wrong checksum and was removed: fetch it again, or ask who serves it",
                detail=f"sha256 {digest}, expected {wanted}",
            )
        with self._part.open("rb") as file:
            os.fsync(file.fileno())  # the name must not be there before the bytes are
        self._part.replace(self._target)
        self._note.unlink(missing_ok=True)
        write_note(self._target, digest)


def _same(mark: _Mark | None, answer: Answer) -> bool:
    """Whether what goes on here is what began there: If-Range has seen to it where there was a validator."""
    return mark is not None and (mark.size_bytes, mark.sha256) == (answer.size_bytes, answer.sha256 or mark.sha256)
