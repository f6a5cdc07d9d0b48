"""Residency over the last hours: who was in memory when, in which phase, and what happened at which moment. Pure.

Fed by the journal, one happening at a time. The law: bounded by number, whatever happens; a span never ends before it begins, also
where the clock was set back; what is under way has no end yet. Times are the journal's: seconds since the epoch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING

import msgspec

from .events import Phase

if TYPE_CHECKING:
    from .journal import Happening

# At one swap a second an hour's, at home weeks. Some 200 bytes each.
SPANS_KEPT = 8000
MARKS_KEPT = 4000
# Each request that waits is queued and granted: that would push everything else out, and is in the activity already.
_NO_MARKS = frozenset(("queued", "granted", "unload_started"))


class Span(msgspec.Struct, gc=False):
    """One target in one phase. `to_s` is None while it lasts."""

    target: str
    phase: Phase
    from_s: float
    to_s: float | None
    why: str


class Timeline:
    """Keeps spans and marks. `heed` is a listener of the journal."""

    __slots__ = ("_loads", "_open", "_spans", "marks")

    def __init__(self) -> None:
        self._open: dict[str, Span] = {}
        self._spans: deque[Span] = deque(maxlen=SPANS_KEPT)
        self._loads: dict[str, tuple[float, float]] = {}  # the last one of each target: from, to
        self.marks: deque[Happening] = deque(maxlen=MARKS_KEPT)

    def heed(self, happening: Happening) -> None:
        """What the journal has noted. Never fails."""
        if happening.what not in _NO_MARKS:
            self.marks.append(happening)
        match happening.what:
            case "load_started":
                self._turn(happening, Phase.LOADING)
            case "loaded":
                self._turn(happening, Phase.READY)
            case "found":
                self._turn(happening, Phase.READY, "found")
            case "draining":
                self._turn(happening, Phase.DRAINING)
            case "unload_started":
                self._turn(happening, Phase.UNLOADING)
            case "gone" | "load_failed" | "died" | "vanished":
                self._end(happening)
            case _:
                pass

    def _turn(self, happening: Happening, phase: Phase, why: str = "") -> None:
        former = self._end(happening)
        # why it is in memory stays said while it is ready
        why = happening.why or why or (former.why if former is not None and phase is Phase.READY else "")
        self._open[happening.target] = Span(happening.target, phase, happening.at_s, None, why)

    def _end(self, happening: Happening) -> Span | None:
        span = self._open.pop(happening.target, None)
        if span is not None:
            span.to_s = max(span.from_s, happening.at_s)
            if span.phase is Phase.LOADING:
                self._loads[span.target] = (span.from_s, span.to_s)
            # of a phase that lasted no time there is nothing to be seen
            if span.to_s > span.from_s or span.phase is Phase.READY:
                self._spans.append(span)
        return span

    def spans(self, from_s: float) -> Iterator[Span]:
        """Those that had not ended by then: the ended ones in the order of their ends, then those under way."""
        return (span for span in chain(self._spans, self._open.values()) if span.to_s is None or span.to_s > from_s)

    def marks_since(self, from_s: float) -> Iterator[Happening]:
        """Oldest first."""
        return (mark for mark in self.marks if mark.at_s >= from_s)

    def load_part(self, target: str, end_s: float, waited_s: float) -> float:
        """Seconds of a wait, which ended then, during which the target was being loaded: for the last time, or now."""
        span = self._open.get(target)
        if span is not None and span.phase is Phase.LOADING:
            from_s, to_s = span.from_s, end_s
        elif target in self._loads:
            from_s, to_s = self._loads[target]
        else:
            return 0.0
        return min(max(0.0, min(to_s, end_s) - max(from_s, end_s - waited_s)), waited_s)
