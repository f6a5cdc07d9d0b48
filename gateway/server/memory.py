"""Giving memory back to the system after a crowd has left.

Python's own allocator keeps an arena of a megabyte as long as one small object lives in it, and every one of a crowd's has some.
glibc's gives back each free page. So the server is started with glibc's (`started_anew`), and what holds single pages is loosened
before: the interpreter's free lists by a full collection, the names that it has looked up, what is kept of the last requests by
laying it together, and glibc's own cache of small pieces.

The law: what is set for that is ours alone. A program that we start, an engine before all, has the environment that we were given.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Mapping, MutableMapping
from contextlib import AbstractContextManager, nullcontext
from functools import cache

_CHOICE = "PYTHONMALLOC"
_TUNING = "GLIBC_TUNABLES"
# How many free pieces of each size glibc keeps at hand. Its own 7 are soon used up by a request, 32 by 64 requests at once, and a
# search costs more; but each may hold a page: with 256 a crowd leaves twice as much.
_CACHED = 128
_SET = {_CHOICE: "malloc", _TUNING: f"glibc.malloc.tcache_count={_CACHED}"}
# The names, in a row, of what we set ourselves.
_OURS = "ROUNDHOUSE_OWN_MALLOC"
# The sizes of pieces that glibc keeps at hand: to 1032 bytes. Source: malloc(3) in glibc's manual, "Memory Allocation Tunables".
_SIZES = range(40, 1033, 16)
_HEADER_BYTES = sys.getsizeof(b"")  # of an object of bytes

Packed = Callable[[], AbstractContextManager[None]]


def started_anew(environ: Mapping[str, str], platform: str) -> dict[str, str] | None:
    """The environment in which this program is to be started anew; None: it was, the operator has chosen, or it is no use."""
    if platform != "linux" or _CHOICE in environ or _OURS in environ or not _is_glibc():
        return None
    ours = {name: value for name, value in _SET.items() if name not in environ}
    return {**environ, **ours, _OURS: " ".join(ours)}


def forget(environ: MutableMapping[str, str]) -> None:
    """Take out again what `started_anew` put in: it has been read."""
    for name in environ.pop(_OURS, "").split():
        environ.pop(name, None)


def give_back(packed: Packed = nullcontext) -> None:
    """Takes some tens of milliseconds, most of them the collection's.

    Args:
        packed: what is kept for long and was made here and there is out of the way as long as this lasts, and made anew at its end.
    """
    with packed():
        gc.collect()
        _forget_names()
        _release()
    _release()  # what was made anew has filled the cache with pieces from everywhere


def _forget_names() -> None:
    """The interpreter holds up to 4,096 names of attributes that were looked up, by where they lie: one made for a look-up stays.

    Source: `MCACHE_HASH_METHOD` in CPython's typeobject.c; Python 3.13 has the same under another name.
    """
    clear = getattr(sys, "_clear_internal_caches", None) or getattr(sys, "_clear_type_cache", None)
    if clear is not None:
        clear()


def _release() -> None:
    """Every free page goes back to the system."""
    if _is_glibc():
        _empty_cache()
        _trim()(0)


def _empty_cache() -> None:
    """What this thread has at hand goes to another one, whose end sets it free. With Python's own allocator nothing comes of it."""
    import threading  # noqa: PLC0415 - as below

    pieces = [b"\0" * (size - _HEADER_BYTES) for size in _SIZES for _ in range(_CACHED)]
    ending = threading.Thread(target=pieces.clear, name="give-back")
    ending.start()
    ending.join()


def _is_glibc() -> bool:
    """Source: confstr(3): other C libraries do not know the name."""
    try:
        return sys.platform == "linux" and (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (OSError, ValueError):
        return False


@cache
def _trim() -> Callable[[int], int]:
    """malloc_trim(3)."""
    import ctypes  # noqa: PLC0415 - not before it is known whether the program is started anew

    return ctypes.CDLL(None).malloc_trim
