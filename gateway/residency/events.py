"""What crosses the border of the residency core: facts that go in, decisions that come out, and how to read it.

Pure values. Events are facts (`Loaded`), decisions are imperative (`StartLoad`). `target` is always "provider/upstream-name";
a footprint is a mapping device → bytes; every `*_s` is seconds, `deadline_s` a reading of the clock that is passed to the core.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import msgspec

Footprint = Mapping[str, int]


class Phase(StrEnum):
    """Where a resident stands. Absent means cold."""

    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"  # one-way: no new leases, stops when the last one ends
    UNLOADING = "unloading"


class Why(StrEnum):
    """Why a resident is in memory or leaves."""

    REQUESTED = "requested"
    RESTORED = "restored"  # its room was taken for a load that then failed
    FOUND = "found"  # in the memory of its server, loaded there by somebody else
    EVICTED = "evicted"
    IDLE = "idle"
    ADMIN = "admin"
    OVER_BUDGET = "over_budget"
    DIED = "died"
    SHUTDOWN = "shutdown"


class Refusal(StrEnum):
    """Why a ticket is rejected. Each is the `code` of one GatewayError."""

    QUEUE_FULL = "queue_full"
    WAIT_TIMED_OUT = "wait_timed_out"
    LARGER_THAN_BUDGET = "larger_than_budget"
    NO_ROOM_BESIDE_PINS = "no_room_beside_pins"  # or beside what its server cannot be told to unload
    LOAD_FAILED = "load_failed"  # just now
    COOLING_DOWN = "cooling_down"  # failed before; not tried again yet
    UNLOADED = "unloaded"  # an admin stopped the load it waited for
    SHUTTING_DOWN = "shutting_down"


# ---------------------------------------------------------------- events


class Event(msgspec.Struct, frozen=True):
    """A fact."""


class Describe(Event, frozen=True):
    """What is known of a target before it is loaded; the latest word holds for its next load."""

    target: str
    footprint: Footprint
    source: str  # learned | declared | estimated
    idle_s: float | None  # None: never unloaded for idleness
    pinned: bool = False  # as configured; only heeded the first time, `Pin` changes it
    evictable: bool = True  # False: its server cannot be told to unload; it leaves when that server lets it go


class Acquire(Event, frozen=True):
    """Somebody wants to use a target. Answered exactly once, by Grant or Reject, unless released first."""

    ticket: int
    target: str
    deadline_s: float
    explicit: bool = False  # an admin's load: forgives earlier failures and may evict for a model on probation


class Release(Event, frozen=True):
    """The ticket is done with, whether waiting, held or unknown."""

    ticket: int


class Loaded(Event, frozen=True):
    target: str
    epoch: int


class LoadFailed(Event, frozen=True):
    """The load ended without an engine; nothing of it is left in memory."""

    target: str
    epoch: int
    reason: str


class Died(Event, frozen=True):
    """A ready engine ended without being asked."""

    target: str
    epoch: int
    reason: str


class Gone(Event, frozen=True):
    """After a StartUnload: no process of it is left, and its memory is seen to be back."""

    target: str
    epoch: int


class Measured(Event, frozen=True):
    target: str
    epoch: int
    footprint: Footprint


class Seen(Event, frozen=True):
    """The server that holds it says that it is in memory, whoever loaded it.

    Only to be told of a target that was cold, ready or draining both when the server was asked and now, with the same epoch.
    """

    target: str
    epoch: int  # as it stood when the server was asked
    footprint: Footprint  # exact: more or less than was thought
    used: bool  # since the last time: by whomever


class Vanished(Event, frozen=True):
    """The server that held it says that it is not in memory any more, and nobody of ours had asked for that.

    Only to be told of a target that was ready or draining when the server was asked.
    """

    target: str
    epoch: int  # as it stood when the server was asked


class Budget(Event, frozen=True):
    """How many bytes we may commit, per device. Replaces the former word whole."""

    budget_bytes: Footprint


class Pin(Event, frozen=True):
    target: str
    pinned: bool


class Mended(Event, frozen=True):
    """What kept it from loading is over (its server answers again): what it failed before does not count any more."""

    target: str


class Unload(Event, frozen=True):
    """An admin wants it out of memory."""

    target: str


class Tick(Event, frozen=True):
    """Time has passed."""


class Shutdown(Event, frozen=True):
    """Take nobody in any more, let leases end, unload everything."""


# ---------------------------------------------------------------- decisions


class Decision(msgspec.Struct, frozen=True):
    """What must be done now."""


class Grant(Decision, frozen=True):
    ticket: int
    target: str
    epoch: int


class Reject(Decision, frozen=True):
    ticket: int
    target: str
    refusal: Refusal
    detail: str  # for the caller: what happened, with the figures
    retry_after_s: float | None = None  # None: repeating cannot help


class StartLoad(Decision, frozen=True):
    target: str
    epoch: int
    footprint: Footprint
    source: str
    why: Why


class Drain(Decision, frozen=True):
    """Nothing for the shell to do: from now on this resident takes no new leases. Said so that it can be told why."""

    target: str
    epoch: int
    why: Why
    detail: str
    leases: int
    idle_s: float
    for_target: str | None = None


class StartUnload(Decision, frozen=True):
    """Stop the engine (or the load under way) and report Gone, always."""

    target: str
    epoch: int
    why: Why


# ---------------------------------------------------------------- reading


class ResidentView(msgspec.Struct, frozen=True):
    target: str
    phase: Phase
    epoch: int
    leases: int
    pinned: bool
    footprint: Footprint
    footprint_source: str
    idle_s: float
    resident_s: float
    load_s: float | None
    why: Why


class WaitingView(msgspec.Struct, frozen=True):
    ticket: int
    target: str
    waiting_s: float
    position: int


class Plan(msgspec.Struct, frozen=True):
    """What would happen if one more request for `target` came now. Nothing has been changed to find out."""

    target: str
    outcome: str  # ready | loading | fits | evicts | waits | refused
    needed: Footprint
    footprint_source: str
    free: Footprint
    victims: tuple[str, ...] = ()
    refusal: Refusal | None = None
    detail: str = ""
    queue_ahead: int = 0
