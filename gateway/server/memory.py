"""Giving memory back to the system after a crowd has left.

Python's own allocator keeps an arena of a megabyte as long as one small object lives in it, and every one of a crowd's has some.
glibc's gives back each free page. So the server is started with glibc's (`started_anew`), and what holds single pages is loosened
before: the interpreter's free lists by a full collection, what the caller keeps of its last requests by copying it, and glibc's own
cache of small pieces.

The law: what is set for that is ours alone. A program that we start, an engine before all, has the environment that we were given.
"""

from __future__ import annotations

import ctypes
import gc
import sys
import threading
from collections.abc import Callable, Mapping, MutableMapping
from functools import cache

_CHOICE = "PYTHONMALLOC"
_TUNING = "GLIBC_TUNABLES"
# How many free pieces of each size glibc keeps at hand. Its own 7 are soon used up by a request, and a search costs more.
_CACHED = 64
_SET = {_CHOICE: "malloc", _TUNING: f"glibc.malloc.tcache_count={_CACHED}"}
# The names, in a row, of what we set ourselves.
_OURS = "ROUNDHOUSE_OWN_MALLOC"
# The sizes of pieces that glibc keeps at hand: 24, 40 … 1032 bytes. Source: malloc(3) in glibc's manual, "Memory Allocation Tunables".
_SIZES = range(24, 1033, 16)


def started_anew(environ: Mapping[str, str], platform: str) -> dict[str, str] | None:
    """The environment in which this program is to be started anew; None: it was, or the operator has chosen, or it would be no use."""
    if platform != "linux" or _CHOICE in environ or _OURS in environ or _trim() is None:
        return None
    ours = {name: value for name, value in _SET.items() if name not in environ}
    return {**environ, **ours, _OURS: " ".join(ours)}


def forget(environ: MutableMapping[str, str]) -> None:
    """Take out again what `started_anew` put in: it has been read."""
    for name in environ.pop(_OURS, "").split():
        environ.pop(name, None)


def give_back(renew: Callable[[], None] | None = None) -> None:
    """Takes some ten milliseconds.

    Args:
        renew: copies what is kept for long and was made here and there.
    """
    gc.collect()
    trim = _trim()
    if trim is None:
        return
    _empty_cache()
    if renew is not None:
        renew()
    trim(0)


def _empty_cache() -> None:
    """What this thread has at hand goes to another one, whose end sets it free. Without glibc's allocator below: nothing much."""
    pieces = [b"\0" * (size - _HEADER) for size in _SIZES if size > _HEADER for _ in range(_CACHED)]
    ending = threading.Thread(target=pieces.clear, name="give-back")
    ending.start()
    ending.join()


_HEADER = sys.getsizeof(b"")  # of an object of bytes


@cache
def _trim() -> Callable[[int], int] | None:
    """glibc's malloc_trim (malloc_trim(3)), None where there is another C library."""
    if sys.platform != "linux":
        return None
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return None
