"""What the gateway's reading routes answer, as far as it is shown. Keys it may add later are ignored."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

Footprint = Mapping[str, int]


class Standing(msgspec.Struct, frozen=True):
    """`roundhouse` of one entry of /v1/models."""

    targets: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    state: str = ""  # a phase, "cold", or "remote"
    bytes: Footprint | None = None  # None: not in memory
    context_length: int | None = None
    pinned: bool = False


class ModelEntry(msgspec.Struct, frozen=True):
    """One entry of /v1/models."""

    id: str
    roundhouse: Standing


class ModelList(msgspec.Struct, frozen=True):
    """/v1/models."""

    data: tuple[ModelEntry, ...]


class Device(msgspec.Struct, frozen=True):
    """One of /admin/residency's devices."""

    budget_bytes: int
    committed_bytes: int
    measured_bytes: int
    strangers_bytes: int


class Resident(msgspec.Struct, frozen=True):
    """One of /admin/residency's residents."""

    model: str
    target: str
    phase: str
    leases: int
    pinned: bool
    footprint: Footprint
    footprint_source: str
    idle_s: float
    resident_s: float
    why: str


class Waiting(msgspec.Struct, frozen=True):
    """One of /admin/residency's queue."""

    target: str
    waiting_s: float
    position: int


class Residency(msgspec.Struct, frozen=True):
    """/admin/residency."""

    devices: Mapping[str, Device]
    residents: tuple[Resident, ...]
    queue: tuple[Waiting, ...]
    cooling_down: Mapping[str, str] = {}  # target → why its last load failed


class LoadPlan(msgspec.Struct, frozen=True):
    """/admin/plan: what a load would meet now."""

    model: str
    outcome: str  # ready | loading | fits | evicts | waits | refused
    needed: Footprint
    footprint_source: str
    free: Footprint
    victims: tuple[str, ...] = ()
    refusal: str | None = None
    detail: str = ""
    queue_ahead: int = 0
    expected_load_s: float | None = None  # None: never loaded


class Acted(msgspec.Struct, frozen=True):
    """/admin/models/MODEL/VERB: how it stands afterwards."""

    model: str
    phase: str
    pinned: bool
