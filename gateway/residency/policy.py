"""Who must leave so that somebody else has room.

Pure, and it never logs: it is asked speculatively. The law: a victim set that provably makes room, or none at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

Footprint = Mapping[str, int]


class Candidate(msgspec.Struct, frozen=True):
    """A resident that may be asked to leave."""

    target: str
    footprint: Footprint
    leases: int
    last_used_s: float


def lru_order(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Idle before busy, then least recently used; the name settles ties, so that the same state gives the same victims."""
    return sorted(candidates, key=lambda c: (c.leases > 0, c.last_used_s, c.target))


def choose_victims(ordered: Sequence[Candidate], short: Mapping[str, int]) -> tuple[Candidate, ...] | None:
    """The fewest-regrets set whose leaving covers `short` on every device, or None where none does.

    Taken in the given order; then those that turn out not to be needed are spared, the one taken last first: when one big
    busy resident makes room alone, the small idle ones taken before it stay.

    Args:
        ordered: in the order of `lru_order`.
        short: device → bytes that are missing; entries ≤ 0 are not missing.
    """
    missing = {device: size for device, size in short.items() if size > 0}
    taken: list[Candidate] = []
    for candidate in ordered:
        if not missing:
            break
        if any(candidate.footprint.get(device, 0) > 0 for device in missing):
            taken.append(candidate)
            for device in list(missing):
                missing[device] -= candidate.footprint.get(device, 0)
                if missing[device] <= 0:
                    del missing[device]
    if missing:
        return None
    return _spare(taken, short) if len(taken) > 1 else tuple(taken)


def _spare(taken: list[Candidate], short: Mapping[str, int]) -> tuple[Candidate, ...]:
    """Drops from a sufficient set whoever is not needed, beginning with the one taken last."""
    surplus = {
        device: sum(c.footprint.get(device, 0) for c in taken) - size for device, size in short.items() if size > 0
    }
    kept: list[Candidate] = []
    for candidate in reversed(taken):
        if all(candidate.footprint.get(device, 0) <= over for device, over in surplus.items()):
            for device in surplus:
                surplus[device] -= candidate.footprint.get(device, 0)
        else:
            kept.append(candidate)
    kept.reverse()
    return tuple(kept)
