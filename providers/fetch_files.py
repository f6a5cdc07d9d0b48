"""What every way of getting weights does with files: is it there and right, one at a time, off the event loop.

The law: a file appears under its own name only when it is whole and its checksum is right. A lock is the kernel's, so that it
is free again however its holder ends.

    NAME.gguf            the file, whole
    NAME.gguf.sha256     its checksum, as sha256sum writes it: younger than the file, so nobody hashes again
    NAME.gguf.set-aside  another file that had the name: not ours to delete
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import hashlib
import os
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NoReturn, TypeVar

from providers.sources import FetchError

# (stage, bytes done, bytes in all or 0 where unknown); stages in order: "wait", "download" (of a split file "download 2/3"),
# "unpack", UNVERIFIED where nobody gave a checksum, "done"
Progress = Callable[[str, int, int], None]

UNVERIFIED = "unverified"
POLL_S = 0.2  # how often a lock is tried, and a growing download looked at: a person watches
CHUNK_BYTES = 1 << 20
FULL = "the disk of the models folder is full: make room, or set server.models_dir to a folder with more"

_T = TypeVar("_T")


class Stopped(Exception):
    """The caller does not want it any more."""


def is_there(target: Path, sha256: str, size_bytes: int = 0) -> bool:
    """True when the file is in place and is the right one. Another file of its name is set aside, not lost. Blocking.

    Hashes only a file that is younger than its checksum's note, or has none: somebody else put it there.

    Args:
        sha256, size_bytes: what it should have; "" and 0: unknown.
    """
    try:
        found = target.stat()
    except FileNotFoundError:
        return False
    note = _note(target)
    with contextlib.suppress(OSError):
        fresh = note.stat().st_mtime_ns >= found.st_mtime_ns
        known = note.read_text(errors="replace").partition(" ")[0]
        if fresh and sha256 in ("", known) and size_bytes in (0, found.st_size):
            return True
    if not sha256 and size_bytes in (0, found.st_size):
        return True
    if size_bytes in (0, found.st_size) and sha256_of(target) == sha256:
        write_note(target, sha256)
        return True
    target.replace(target.with_name(f"{target.name}.set-aside"))
    return False


def sha256_of(path: Path) -> str:
    """Blocking."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_note(target: Path, digest: str) -> None:
    """Beside the file."""
    with contextlib.suppress(OSError):  # a read-only folder: it is hashed again next time
        _note(target).write_text(f"{digest}  {target.name}\n")


def _note(target: Path) -> Path:
    return target.with_name(f"{target.name}.sha256")


def make_folders(*folders: Path) -> None:
    """With their parents."""
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)


def explain(error: OSError) -> NoReturn:
    """Raises: FetchError: what the operator can do about it."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        raise FetchError(FULL, detail=str(error)) from error
    reason = error.strerror or type(error).__name__
    raise FetchError(
        f"the models folder cannot be used ({reason}): correct its rights, or set server.models_dir", detail=str(error)
    ) from error


@asynccontextmanager
async def locked(path: Path, tell: Progress) -> AsyncGenerator[None, None]:
    """Hold the lock file; wait for whoever holds it. The kernel frees it when its holder ends, however it ends."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                tell("wait", 0, 0)
                await asyncio.sleep(POLL_S)
        yield
    finally:
        os.close(descriptor)


async def in_thread(work: Callable[[threading.Event], _T]) -> _T:
    """Run in a thread; cancelled, set the event and wait until the thread has cleared up."""
    stop = threading.Event()
    running = asyncio.ensure_future(asyncio.to_thread(work, stop))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        stop.set()
        await asyncio.wait([running])
        if not running.cancelled():
            running.exception()  # seen: Stopped, or what happened to come first
        raise
