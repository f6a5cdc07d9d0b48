"""In which order a model's targets are tried. Pure.

The law: the operator's own routes keep their order, whatever is in memory; a route made from providers' lists begins with what is
in memory now, then what we can bring there, then the rest. In both, a target that is not to be tried now comes after all others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .catalog import Model, Target


def order(
    model: Model,
    *,
    warm: Callable[[str], bool],
    local: Callable[[str], bool],
    resting_s: Callable[[Target], float],
) -> Sequence[Target]:
    """The model's targets, the first to try first; equals stay as they stand in the route.

    Args:
        warm: whether the target of this key is in memory now; not asked for the operator's own routes.
        local: whether it is one that residency brings into memory; asked only where it is not warm.
        resting_s: for how long it is not to be tried (`Health.wait_s`); 0: it may be tried now. Resting ones are still tried in
            the end, the one that is back soonest first.
    """
    targets = model.targets
    if len(targets) == 1:
        return targets

    def place(target: Target) -> tuple[float, int]:
        if not model.found:
            return resting_s(target), 0
        return resting_s(target), 0 if warm(target.key) else 1 if local(target.key) else 2

    return sorted(targets, key=place)
