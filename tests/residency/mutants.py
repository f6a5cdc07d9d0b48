"""Bugs that peers have had, or that we had, put back into the residency core one at a time, to prove that the simulation sees them.

The law: a mutant is a small replacement in the source as it stands; if the source has moved on, loading the mutant fails. It lives
in modules of its own, compiled in memory, so that the real ones stay as they are.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import NamedTuple, cast

import gateway.residency.core
from gateway.residency.core import Residency

ROOM = Path(gateway.residency.core.__file__).parent
# In the order in which they import each other. `events` is the border and is shared: the simulation speaks it, too.
MODULES = ("room", "policy", "state", "planning", "views", "core")


class Mutant(NamedTuple):
    """One seeded bug: in `module`, `old` (which occurs exactly once) becomes `new`."""

    name: str
    models: str  # what happens in the real world
    module: str
    old: str
    new: str


MUTANTS: Sequence[Mutant] = (
    Mutant(
        "only_idle_ones_are_evicted",
        "a model that is always in use starves every other: the oldest complaint about swapping proxies",
        "planning",
        "pool = lru_order(self._state.candidates(self._now_s))",
        "pool = lru_order(self._state.candidates(self._now_s, idle=True))",
    ),
    Mutant(
        "evicts_though_it_is_not_enough",
        "models are thrown out, and the new one still does not fit",
        "policy",
        "    if missing:\n        return None\n",
        "    if missing and not taken:\n        return None\n",
    ),
    Mutant(
        "overtakes_into_the_heads_room",
        "small models slip into the room a big one has waited for, for ever",
        "room",
        "self.claimed[device] = self.claimed.get(device, 0) + size",
        "self.claimed[device] = 0",
    ),
    Mutant(
        "those_behind_the_head_drain_busy_ones",
        "the whole queue evicts at once, and every stream ends in a reload",
        "planning",
        "        if head:\n            pool",
        "        if head or short:\n            pool",
    ),
    Mutant(
        "draining_is_resurrected",
        "a new request revives a model that is on its way out, and its successor never comes",
        "core",
        "if resident is not None and resident.phase is Phase.READY:  # 1",
        "if resident is not None and resident.phase in (Phase.READY, Phase.DRAINING):  # 1",
    ),
    Mutant(
        "bytes_are_freed_at_the_stop",
        "the next engine starts while the last one still holds its memory: out of memory",
        "state",
        "        resident.phase, resident.why = phase, why\n",
        "        if phase is Phase.UNLOADING:\n            _subtract(self._committed, resident.footprint)\n"
        "            _add(self._committed, dict.fromkeys(resident.footprint, 0))\n"
        "            resident.footprint = {}\n        resident.phase, resident.why = phase, why\n",
    ),
    Mutant(
        "bytes_are_committed_when_loaded",
        "two models are started into the room of one",
        "state",
        "return Room(self.budget, self._committed, self._leaving)",
        "return Room(self.budget, total(r.footprint for r in self.residents.values() if r.ready_s is not None), {})",
    ),
    Mutant(
        "late_reports_are_believed",
        "the exit of the previous process ends the books of the present one",
        "core",
        "return resident if resident is not None and resident.epoch == epoch and resident.phase in phases else None",
        "return resident if resident is not None and resident.phase in phases else None",
    ),
    Mutant(
        "pins_are_ignored",
        "the model that must always be there is evicted",
        "state",
        "(idle and resident.leases) or known[resident.target].keeps_room:",
        "(idle and resident.leases) or not known[resident.target].evictable:",
    ),
    Mutant(
        "idle_pins_are_unloaded",
        "the model that must always be there is gone after lunch",
        "state",
        "resident.phase is not Phase.READY or known.keeps_room or known.idle_s is None",
        "resident.phase is not Phase.READY or not known.evictable or known.idle_s is None",
    ),
    Mutant(
        "minimum_residency_is_ignored",
        "two callers that alternate swap models on every message",
        "state",
        "if not protected or self.protected_until_s(resident) <= now_s:",
        "if not protected or self.protected_until_s(resident) <= max(now_s, 1e9):",
    ),
    Mutant(
        "stopped_under_a_lease",
        "a stream breaks off because somebody else wants another model",
        "core",
        "if resident.phase is Phase.DRAINING and resident.leases == 0:",
        "if resident.phase is Phase.DRAINING:",
    ),
    Mutant(
        "idle_ones_are_unloaded_while_in_use",
        "a long generation counts as idleness",
        "core",
        "            if resident.leases:\n                continue\n            expiry_s",
        "            expiry_s",
    ),
    Mutant(
        "a_timed_out_ticket_stays",
        "a client that was told to go away is answered again, and its lease is never given back",
        "core",
        "                self._drop(ticket)\n                detail",
        "                detail",
    ),
    Mutant(
        "one_waiter_leaving_stops_the_load",
        "an impatient client stops the load that others wait for",
        "core",
        "            self._drop(self._state.tickets[ticket])\n",
        "            target = self._state.tickets[ticket].target\n            self._drop(self._state.tickets[ticket])\n"
        "            self._unload(target, now_s, out)\n",
    ),
    Mutant(
        "a_load_is_granted_to_the_first_only",
        "of those who wait for one load, one is served and the others hang",
        "core",
        "        for ticket in self._dismiss(resident.target):\n            self._grant",
        "        for ticket in list(self._dismiss(resident.target))[:1]:\n            self._grant",
    ),
    Mutant(
        "a_second_process",
        "the model is started while its last process has not ended: twice the memory, one port",
        "planning",
        "starts = bool(victims or not short) and target not in state.residents and room.fits_now(need)",
        "starts = bool(victims or not short) and room.fits_now(need)",
    ),
    Mutant(
        "no_cool_down",
        "every retry of every client starts a broken engine again",
        "planning",
        "if now_s < known.retry_at_s:",
        "if now_s < known.retry_at_s - 1e9:",
    ),
    Mutant(
        "no_probation",
        "good models are evicted again and again for one that never comes up",
        "planning",
        "if refusal is None and known.failures:",
        "if refusal is None and known.failures > 99:",
    ),
    Mutant(
        "no_deadlines",
        "clients wait for ever",
        "core",
        "while self._deadlines and self._deadlines[0][0] <= now_s:",
        "while self._deadlines and self._deadlines[0][0] <= now_s - 1e9:",
    ),
    Mutant(
        "most_recently_used_first",
        "the model that everybody uses is the one that goes",
        "policy",
        "(c.leases > 0, c.last_used_s, c.target)",
        "(c.leases > 0, -c.last_used_s, c.target)",
    ),
    Mutant(
        "nobody_is_spared",
        "more models leave than had to",
        "policy",
        "    return _spare(taken, short) if len(taken) > 1 else tuple(taken)",
        "    return tuple(taken)",
    ),
    Mutant(
        "a_refused_head_blocks_the_others",
        "one model that cannot fit any more holds up the whole queue",
        "planning",
        'findings.append(Finding(target, "refused", refusal=refusal, detail=detail))\n                continue',
        'findings.append(Finding(target, "refused", refusal=refusal, detail=detail))\n                break',
    ),
    Mutant(
        "only_the_first_device_counts",
        "it fits into RAM, and the GPU runs out of memory",
        "room",
        "        for device, size in need.items():\n            missing",
        "        for device, size in list(need.items())[:1]:\n            missing",
    ),
    Mutant(
        "no_alarm_for_protections",
        "the head waits for a minimum residency to end, and nothing happens when it has",
        "core",
        "if protected_until_s > self._settled_s:",
        "if protected_until_s > max(self._settled_s, 1e9):",
    ),
    Mutant(
        "a_dead_engine_keeps_its_leases",
        "after a crash the books say busy for ever",
        "core",
        "            del self._state.leases[ticket]\n        resident.leases = 0\n",
        "            pass\n",
    ),
    Mutant(
        "growth_is_forgotten_when_it_leaves",
        "what an engine was measured to hold beyond the estimate is never given back: the budget leaks away",
        "state",
        "        resident.footprint = footprint\n",
        "        resident.footprint = footprint if resident.leaving else resident.footprint\n",
    ),
    Mutant(
        "measuring_less_frees_room",
        "an engine that has not touched all of its memory yet is joined by a second one",
        "core",
        "raised = larger(resident.footprint, event.footprint)",
        "raised = event.footprint",
    ),
    Mutant(
        "a_model_keeps_the_place_of_a_client_who_left",
        "newcomers inherit the place of somebody who has gone",
        "core",
        "        if first == ticket.ticket:\n",
        "        if first < 0:\n",
    ),
    # Those below were ours: found by this simulation in the first version of the core.
    Mutant(
        "an_alarm_that_is_late_is_lost",
        "another event comes between the end of a protection and its tick, and the head waits on",
        "core",
        "if protected_until_s > self._settled_s:",
        "if protected_until_s > now_s:",
    ),
    Mutant(
        "a_new_head_is_not_served_as_one",
        "when the head's load starts, the next one does not get its victims before something else happens",
        "planning",
        "head=not waiting",
        "head=not findings",
    ),
    Mutant(
        "victims_of_long_ago_are_restored",
        "a load fails, and a model appears that left for it hours ago",
        "core",
        "self._state.known[target].victims = ()\n        return",
        "pass\n        return",
    ),
    Mutant(
        "nobody_is_restored",
        "a load fails, and the model that had to leave for it is missed by its next caller",
        "core",
        "        self._restore(victims, now_s, out)\n",
        "",
    ),
    Mutant(
        "one_hopeless_device_keeps_all_idle_ones",
        "the GPU is over its budget because of a pin, so idle models stay although RAM is short",
        "core",
        "short = {device: size for device, size in over.items() if covers(held, {device: size})}",
        "short = over",
    ),
    Mutant(
        "freed_by_a_smaller_budget_and_not_used",
        "who left because the budget fell leaves room that nobody in the queue is given",
        "core",
        "shrunk = self._shrink(room, now_s, out)",
        "shrunk = self._shrink(room, now_s, out) and not room",
    ),
    Mutant(
        "a_new_description_changes_nothing",
        "a smaller estimate arrives, and the model that now fits still waits",
        "core",
        "            if event.target in self._state.waiting or kept is not known.keeps_room:\n",
        "            if kept is not known.keeps_room:\n",
    ),
    Mutant(
        "nothing_of_a_device_is_something",
        "a model that needs no GPU memory waits for the GPU",
        "room",
        "if size > 0 and missing > 0:",
        "if missing > 0:",
    ),
    Mutant(
        "a_lost_device_holds_nothing",
        "a GPU leaves the budget, and what is committed on it is not shown",
        "state",
        "return {**dict.fromkeys(self.budget, 0), **self._committed}",
        "return {device: self._committed.get(device, 0) for device in self.budget}",
    ),
    Mutant(
        "a_plan_that_takes_loads_for_waiters",
        "the plan shown is not the plan taken",
        "planning",
        "queue = list(state.cold())",
        "queue = list(state.waiting)",
    ),
    Mutant(
        "victims_leave_and_free_room_is_not_taken",
        "idle ones leave for the head's claim, and the one behind it waits for them instead of starting",
        "planning",
        "starts = bool(victims or not short) and",
        "starts = not short and",
    ),
)


class _PatchedLoader(SourceFileLoader):
    """Compiles a source with one replacement, past every cache."""

    def __init__(self, fullname: str, path: str, mutant: Mutant | None) -> None:
        super().__init__(fullname, path)
        self._mutant = mutant

    def get_code(self, fullname: str) -> CodeType:
        source = Path(self.path).read_text(encoding="utf-8")
        if self._mutant is not None:
            found = source.count(self._mutant.old)
            assert found == 1, f"{self._mutant.name}: its fragment occurs {found} times in {self.path}"
            source = source.replace(self._mutant.old, self._mutant.new)
        return self.source_to_code(source.encode(), self.path)


def load_core(mutant: Mutant | None) -> type[Residency]:
    """The core with that bug (None: with none), from fresh modules that nothing else sees."""
    package = f"residency_with_{'no_bug' if mutant is None else mutant.name}"
    parent = ModuleType(package)
    parent.__path__ = []
    loaded: dict[str, ModuleType] = {package: parent, f"{package}.events": sys.modules["gateway.residency.events"]}
    sys.modules.update(loaded)
    try:
        for name in MODULES:
            patch = mutant if mutant is not None and mutant.module == name else None
            loader = _PatchedLoader(f"{package}.{name}", str(ROOM / f"{name}.py"), patch)
            spec = ModuleSpec(f"{package}.{name}", loader, origin=loader.path)
            module = importlib.util.module_from_spec(spec)
            loaded[spec.name] = sys.modules[spec.name] = module
            loader.exec_module(module)
        return cast("type[Residency]", loaded[f"{package}.core"].Residency)
    finally:
        for name in loaded:
            sys.modules.pop(name, None)
