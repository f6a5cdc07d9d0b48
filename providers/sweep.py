"""Find and kill every process that carries a mark in its environment; run as a script it is the warden of one gateway.

Law: it stands alone. `python -I -S sweep.py OWNER` must start in milliseconds and stay small, so only modules that
the interpreter has at hand are imported, and nothing of ours. It kills nothing that it has not seen the mark on (or
that is no descendant of such a process), and it re-checks after pinning the process with a pidfd, so that a reused
process id never costs a stranger its life.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
from collections.abc import Collection

# Environment variables every engine gets and its children inherit.
OWNER = "ROUNDHOUSE_OWNER"  # the gateway process that started it
ENGINE = "ROUNDHOUSE_ENGINE"  # the one engine

_ENVIRON_MAX_BYTES = 4 << 20  # the kernel allows argv and environment 1/4 of the stack limit: 2 MiB by default
_WARDEN_BOUND_S = 10.0
_SECOND_LOOK_S = 0.02  # between two scans that must both find nothing: time for a fork under way to show


def mark(name: str, value: str) -> bytes:
    """The environment entry to look for, as /proc shows it."""
    return f"{name}={value}".encode()


def _read(path: str) -> bytes | None:
    """A /proc file, or None when the process is gone or not ours to read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        pieces: list[bytes] = []
        while sum(map(len, pieces)) < _ENVIRON_MAX_BYTES and (piece := os.read(fd, 1 << 17)):
            pieces.append(piece)
        return b"".join(pieces)
    except OSError:
        return None
    finally:
        os.close(fd)


def _carries(pid: int, entry: bytes) -> bool:
    environ = _read(f"/proc/{pid}/environ")
    return environ is not None and (environ.startswith(entry + b"\0") or b"\0" + entry + b"\0" in environ)


def _parent(pid: int) -> int:
    """Its parent's id; 0 when it is gone, or a zombie: that holds nothing any more."""
    stat = _read(f"/proc/{pid}/stat")
    if not stat:
        return 0
    state, parent = stat.rpartition(b")")[2].split()[:2]
    return 0 if state in (b"Z", b"X") else int(parent)


def _find_by_ps(entry: bytes) -> set[int]:
    """Where there is no /proc (macOS): `ps -E` prints the environment behind the command."""
    import subprocess  # noqa: PLC0415 - 10 ms at the start of every warden, wanted on this platform only

    listing = subprocess.run(["/bin/ps", "-axww", "-E", "-o", "pid=,command="], capture_output=True, check=False).stdout
    return {int(line.split(None, 1)[0]) for line in listing.splitlines() if b" " + entry in line} - {os.getpid()}


def find_marked(entry: bytes, roots: Collection[int] = ()) -> set[int]:
    """Living processes with this entry in their environment, or descended from one that has, or from one of `roots`.

    Blocking: some 50 µs per process of the machine. The calling process is never among them.
    """
    if not os.path.isdir("/proc/self"):
        return _find_by_ps(entry)
    parents = {pid: parent for name in os.listdir("/proc") if name.isdigit() and (parent := _parent(pid := int(name)))}
    found = {pid for pid in parents if pid in roots or _carries(pid, entry)}
    fresh = found
    while fresh:
        fresh = {pid for pid, parent in parents.items() if parent in fresh and pid not in found}
        found |= fresh
    return found - {os.getpid()}


def _pin(pid: int, entry: bytes, family: Collection[int]) -> int | None:
    """A pidfd of it; None when it is gone, or its number is somebody else's by now."""
    try:
        fd = os.pidfd_open(pid)
    except OSError:
        return None
    if _carries(pid, entry) or _parent(pid) in family:
        return fd
    os.close(fd)
    return None


def _kill(found: Collection[int], entry: bytes, bound_s: float) -> None:
    """SIGKILL to all of them, and wait until they have ended."""
    if not hasattr(os, "pidfd_open"):
        for pid in found:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(_SECOND_LOOK_S)
        return
    # All are pinned before the first is killed: with its parent gone, a descendant would no longer look like one.
    pinned = [fd for pid in found if (fd := _pin(pid, entry, found)) is not None]
    for fd in pinned:
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(fd, signal.SIGKILL)
    _await_gone(pinned, bound_s)


def _await_gone(fds: Collection[int], bound_s: float) -> None:
    """Until all these pidfds say that their process ended, at most bound_s. Closes them."""
    deadline_s = time.monotonic() + bound_s
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    waiting = set(fds)
    while waiting and (left_s := deadline_s - time.monotonic()) > 0:
        for fd, _ in poll.poll(left_s * 1000):
            poll.unregister(fd)
            waiting.discard(fd)
    for fd in fds:
        os.close(fd)


def kill_marked(entry: bytes, *, bound_s: float, quiet_scans: int = 1) -> set[int]:
    """SIGKILL everything with this mark until `quiet_scans` scans in a row find nothing.

    Blocking. Returns the ids still there after bound_s (a process inside the kernel that takes no signal): usually none.
    """
    deadline_s = time.monotonic() + bound_s
    quiet = 0
    while True:
        found = find_marked(entry)
        left_s = deadline_s - time.monotonic()
        if found and left_s <= 0:
            return found
        if found:
            quiet = 0
            _kill(found, entry, min(left_s, 1.0))
            continue
        quiet += 1
        if quiet >= quiet_scans:
            return found
        time.sleep(_SECOND_LOOK_S)


def main(owner: str) -> None:
    """Wait until the gateway's end of the pipe on stdin closes, for whatever reason; then kill what it left behind."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while os.read(0, 4096):
        pass
    kill_marked(mark(OWNER, owner), bound_s=_WARDEN_BOUND_S, quiet_scans=2)


if __name__ == "__main__":
    main(sys.argv[1])
