"""How far a model is that somebody waits for: in the queue, or loading. Read from the manager, changing nothing. Pure.

The law: what is told is what is known. A fraction is told only where loads of the same engine have been timed before, and never
says that it is done; how long a wait for room will last nobody knows, so it is not told.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

from .events import Phase

if TYPE_CHECKING:
    from .journal import Happening
    from .manager import ResidencyManager

# A load that takes longer than its predecessors stays here until it is done.
FRACTION_MAX = 0.99
# An engine's bad end that is older than this is no news to who waits for it now.
NEWS_S = 60.0
# The whole queue is looked through at once, for all who wait: hundreds of them asking every second would be a square of that.
FRESH_S = 0.2


class Stage(StrEnum):
    """What it is that one waits for."""

    WAITING = "waiting"  # for room, or for its own former engine to be gone
    LOADING = "loading"
    STARTING_OVER = "starting_over"  # loading, after its engine died or did not come up a moment ago


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """One model that is not ready. `elapsed_s`: of its load, or of the longest wait for it."""

    stage: Stage
    elapsed_s: float
    place: int | None = None  # of the model in the queue, from 1; only while it waits
    fraction: float | None = None  # 0 to FRACTION_MAX; None: no load of it was ever timed, or it waits
    eta_s: float | None = None  # until it is loaded; None: unknown, or it should have been by now


class Board:
    """The progress of every model that is waited for, kept for a moment."""

    def __init__(self, manager: ResidencyManager) -> None:
        self._manager = manager
        self._read_s = float("-inf")
        self._shown: dict[str, Progress] = {}

    def progress(self, target: str) -> Progress | None:
        """None: it is ready, or nobody waits for it, or it needs no memory of ours. At most FRESH_S old."""
        now_s = self._manager.clock()
        if now_s - self._read_s >= FRESH_S:
            self._read_s = now_s
            self._shown = progress_of_all(self._manager)
        return self._shown.get(target)


def progress_of(manager: ResidencyManager, target: str) -> Progress | None:
    """As `Board.progress`, read anew. Costs a look at the whole queue."""
    return progress_of_all(manager).get(target)


def progress_of_all(manager: ResidencyManager) -> dict[str, Progress]:
    """Target → how far it is, of all that are loading or waited for."""
    shown: dict[str, Progress] = {}
    for waiting in manager.waiting():  # the first of each target has waited longest
        if waiting.target not in shown:
            shown[waiting.target] = Progress(stage=Stage.WAITING, elapsed_s=waiting.waiting_s, place=waiting.position)
    loading = [resident for resident in manager.residents() if resident.phase is Phase.LOADING]
    if loading:
        again = _starting_over(manager.journal.since(0), {resident.target for resident in loading})
        for resident in loading:
            stage = Stage.STARTING_OVER if resident.target in again else Stage.LOADING
            load_s = manager.load_s(resident.target) if resident.target in manager.managed else None
            shown[resident.target] = _loading(stage, resident.resident_s, load_s)
    return shown


def _loading(stage: Stage, elapsed_s: float, load_s: float | None) -> Progress:
    """A load is timed from the decision to load, and so is this."""
    if load_s is None:
        return Progress(stage=stage, elapsed_s=elapsed_s)
    left_s = load_s - elapsed_s
    if left_s <= 0:
        return Progress(stage=stage, elapsed_s=elapsed_s, fraction=FRACTION_MAX)
    return Progress(stage=stage, elapsed_s=elapsed_s, fraction=min(elapsed_s / load_s, FRACTION_MAX), eta_s=left_s)


def _starting_over(entries: Iterable[Happening], loading: set[str]) -> set[str]:
    """Those of them whose last engine ended badly, shortly before this load began, and has not been up since."""
    ended_s: dict[str, float] = {}
    again: set[str] = set()
    for entry in entries:
        if entry.target not in loading:
            continue
        match entry.what:
            case "died" | "load_failed":
                ended_s[entry.target] = entry.at_s
            case "loaded" | "found":
                ended_s.pop(entry.target, None)
                again.discard(entry.target)
            case "load_started":
                again.discard(entry.target)
                if entry.target in ended_s and entry.at_s - ended_s[entry.target] <= NEWS_S:
                    again.add(entry.target)
            case _:
                pass
    return again
