"""Arithmetic over devices: what is free now, what will be, and what is claimed by those who came before. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

Footprint = Mapping[str, int]


def larger(one: Footprint, other: Footprint) -> Footprint:
    """Per device the larger of two."""
    return {device: max(one.get(device, 0), other.get(device, 0)) for device in {**one, **other}}


def total(footprints: Iterable[Footprint]) -> dict[str, int]:
    """Per device the sum."""
    sizes: dict[str, int] = {}
    for footprint in footprints:
        for device, size in footprint.items():
            sizes[device] = sizes.get(device, 0) + size
    return sizes


def covers(sizes: Footprint, short: Footprint) -> bool:
    """Whether `sizes` are at least what is `short`, on every device."""
    return all(size <= sizes.get(device, 0) for device, size in short.items())


def room_text(sizes: Footprint) -> str:
    """`ram 1.2 GiB, gpu0 0.3 GiB` for people."""
    return ", ".join(f"{device} {size_text(size)}" for device, size in sizes.items()) or "nothing"


def size_text(size_bytes: int) -> str:
    """`1.2 GiB` for people."""
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB")):
        if abs(size_bytes) >= unit:
            return f"{size_bytes / unit:.1f} {name}"
    return f"{size_bytes} B"


class Room:
    """The memory of one moment, used up while a queue is planned.

    Args:
        budget: device → bytes.
        held: device → bytes of everything in memory, on its way in or out.
        leaving: device → bytes of what is on its way out, a part of that.

    `now` is free this moment, `coming` also counts what is leaving, `claimed` is what earlier ones in the queue still need.
    All may be negative: a budget can fall. Who needs nothing of a device does not care how that one stands.
    """

    __slots__ = ("claimed", "coming", "now")

    def __init__(self, budget: Footprint, held: Footprint, leaving: Footprint) -> None:
        self.now = dict(budget)
        for device, size in held.items():
            self.now[device] = self.now.get(device, 0) - size
        self.coming = dict(self.now)
        self.claimed: dict[str, int] = {}
        self.leaves(leaving)

    def short_of(self, need: Footprint) -> dict[str, int]:
        """What is missing to fit once everything that is leaving has left, with the earlier claims met. Empty: it will fit."""
        coming, claimed = self.coming, self.claimed
        short: dict[str, int] = {}
        for device, size in need.items():
            missing = size + claimed.get(device, 0) - coming.get(device, 0)
            if size > 0 and missing > 0:
                short[device] = missing
        return short

    def fits_now(self, need: Footprint) -> bool:
        return all(size <= self.now.get(device, 0) for device, size in need.items() if size > 0)

    def over_budget(self) -> dict[str, int]:
        """Device → bytes by which those who stay exceed the budget."""
        return {device: -free for device, free in self.coming.items() if free < 0}

    def take(self, need: Footprint) -> None:
        """It starts now."""
        for device, size in need.items():
            self.now[device] = self.now.get(device, 0) - size
            self.coming[device] = self.coming.get(device, 0) - size

    def claim(self, need: Footprint) -> None:
        """It starts later, in room that is on its way; nobody behind it may use that."""
        for device, size in need.items():
            self.claimed[device] = self.claimed.get(device, 0) + size

    def leaves(self, footprint: Footprint) -> None:
        """A victim has been chosen."""
        for device, size in footprint.items():
            self.coming[device] = self.coming.get(device, 0) + size
