"""Who may be asked to leave, and who instead: each set of victims held against the books.

The law: enough, none too many, nobody protected, idle before busy; and nobody where one as large was used less recently.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from gateway.residency.events import Phase

from .books import Books, Engine


def check_victims(books: Books, target: str, leaving: Sequence[Engine]) -> None:
    """Those who leave for `target`."""
    model = books.models[target]
    cold = books.cold()
    assert target in cold, f"evicted for {target}, which does not wait"
    assert model.failures == 0, f"evicted for {target}, which is on probation"
    assert not books.never(target), f"evicted for {target}, which can never fit"
    short = books.short(target)
    assert short, f"evicted for {target}, whose room is there or on the way"
    assert books.covers(leaving, short), f"the victims do not make room for {target}: {short}"
    for victim in leaving:
        rest = [engine for engine in leaving if engine is not victim]
        assert not books.covers(rest, short), f"{victim.target} need not leave for {target}"
        assert books.protected_until_s(victim) <= books.now_s, f"{victim.target} leaves within its minimum residency"
    if target != cold[0]:
        assert all(victim.leases == 0 for victim in leaving), f"{target} is not the head and drains busy ones"
    pool = books.evictable()
    idle = [engine for engine in pool if engine.leases == 0]
    if any(victim.leases for victim in leaving):
        assert not books.covers(idle, short), f"busy ones leave for {target}, idle ones would do"
    _check_least_recently_used(leaving, pool, short)
    model.evicted |= {victim.target for victim in leaving}


def check_over_budget(books: Books, leaving: Sequence[Engine]) -> None:
    """Those who leave because more is committed than the budget holds: idle ones only, what was found only after a while."""
    over = books.over_budget()
    assert over, "over_budget, and the budget holds"
    for victim in leaving:
        assert victim.leases == 0, f"{victim.target} is busy, and leaves because the budget fell"
        assert not victim.found or books.protected_until_s(victim) <= books.now_s, f"{victim.target} was just found"
        rest = [engine for engine in leaving if engine is not victim]
        needed = [d for d in over if books.covers(leaving, {d: over[d]}) and not books.covers(rest, {d: over[d]})]
        assert needed, f"{victim.target} need not leave: {over} over budget"
    pool = [
        engine
        for engine in books.engines.values()
        if engine.phase is Phase.READY
        and not engine.leases
        and not books.keeps_room(engine)
        and not (engine.found and books.protected_until_s(engine) > books.now_s)
    ]
    made_up = [device for device, size in over.items() if books.covers(leaving, {device: size})]
    _check_least_recently_used(leaving, pool, dict.fromkeys(made_up, 0))


def _check_least_recently_used(leaving: Sequence[Engine], pool: Iterable[Engine], short: Mapping[str, int]) -> None:
    others = [engine for engine in pool if engine not in leaving]
    for victim in leaving:
        for other in others:
            if all(other.footprint.get(d, 0) >= victim.footprint.get(d, 0) for d in short):
                assert _use(victim) <= _use(other), f"{victim.target} leaves, {other.target} was used less recently"


def _use(engine: Engine) -> tuple[bool, float]:
    return engine.leases > 0, engine.last_used_s
