"""The last lines a child process printed.

Law: bounded whatever the child prints: so many lines, so many characters each, so much work per read.
Pure: bytes in, lines out.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable

LINES_KEPT = 200
LINE_CHARS = 2000
_LINE_BYTES = 4 * LINE_CHARS  # UTF-8 needs at most four bytes a character

# Source: ECMA-48 §5.4 (control sequences), and OSC strings as xterm ends them (BEL or ST).
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[ -/]*[0-~])")
_CONTROLS = dict.fromkeys((*range(9), *range(10, 32), *range(127, 160)))  # all but the tab


def clean_line(raw: bytes) -> str:
    """One line as a person may read it: no escapes, no control characters, of a redrawn line the last state."""
    text = raw[:_LINE_BYTES].decode("utf-8", "replace")
    text = text.rstrip("\r").rpartition("\r")[2]
    return _ESCAPES.sub("", text).translate(_CONTROLS)[:LINE_CHARS]


class ChildLog:
    """A ring of lines, fed with whatever pieces the pipe gives.

    Args:
        on_line: called with every line kept, as it is completed.
    """

    def __init__(self, on_line: Callable[[str], None] | None = None) -> None:
        self._ring: deque[str] = deque(maxlen=LINES_KEPT)
        self._partial = b""  # the beginning of a line not ended yet, cut at _LINE_BYTES
        self._on_line = on_line

    def feed(self, data: bytes) -> None:
        """Take the next piece."""
        first, newline, rest = data.partition(b"\n")
        self._partial += first[: max(0, _LINE_BYTES - len(self._partial))]
        if not newline:
            return
        self._keep(self._partial)
        *whole, tail = rest.split(b"\n")
        for raw in whole[-LINES_KEPT:]:
            self._keep(raw)
        self._partial = tail[:_LINE_BYTES]

    def _keep(self, raw: bytes) -> None:
        line = clean_line(raw)
        self._ring.append(line)
        if self._on_line is not None:
            self._on_line(line)

    def lines(self) -> tuple[str, ...]:
        """Oldest first; a last line without its newline is among them."""
        kept = tuple(self._ring)
        return (*kept, clean_line(self._partial))[-LINES_KEPT:] if self._partial else kept
