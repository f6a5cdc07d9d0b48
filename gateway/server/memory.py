"""Giving memory back to the system after a crowd has left.

Python and the C library keep what they have once got, in pages that a few long-lived objects hold. Two calls loosen most of it:
a full collection empties the interpreter's free lists, which pin whole arenas, and glibc gives back free pages inside its heap.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable
from functools import cache


def give_back() -> None:
    """Takes a few milliseconds."""
    gc.collect()
    trim = _trim()
    if trim is not None:
        trim(0)


@cache
def _trim() -> Callable[[int], int] | None:
    """glibc's malloc_trim (malloc_trim(3)), None where there is another C library."""
    if sys.platform != "linux":
        return None
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return None
