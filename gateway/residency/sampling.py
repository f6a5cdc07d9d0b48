"""Reads the machine's memory every few seconds and tells residency: what engines hold, what strangers hold, what is left for us.

Reading a big process's memory map takes its time and holds the process's lock, so engines are read rarely once they are known:
after 1, 2, 4 … seconds, then once a minute.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping

import msgspec

from config.schema import Memory

from .manager import ResidencyManager
from .memory import DeviceBudget, budgets

log = logging.getLogger("roundhouse.memory")

# How often the machine is read: strangers' memory is noticed within this time. One look costs a few milliseconds of a thread.
DEVICES_EVERY_S = 5.0  # while no engine of ours runs
ENGINE_FIRST_S = 1.0  # while one does; also when it is weighed first
ENGINE_EVERY_MAX_S = 60.0
# A budget follows strangers' memory only past this change, so that ordinary breathing of the machine is not a stream of events.
BUDGET_STEP_BYTES = 64 << 20


class Sampler:
    """Runs for the life of the gateway; `sample` may also be called by itself.

    Args:
        roots: pids of the servers on this machine whose models are committed by us: their memory is no strangers'.
        complete: adds the budgets of devices that are not this machine's.
    """

    def __init__(
        self,
        manager: ResidencyManager,
        memory: Memory,
        clock: Callable[[], float],
        roots: Callable[[], Collection[int]] = tuple,
        complete: Callable[[Mapping[str, DeviceBudget]], dict[str, DeviceBudget]] = dict,
    ) -> None:
        self._manager = manager
        self._memory = memory
        self._roots = roots
        self._complete = complete
        self._clock = clock
        self._due: dict[int, tuple[float, float]] = {}  # pid → (next read, gap to the one after)

    async def run(self) -> None:
        """For ever. One failed reading is logged and the next one tried."""
        while True:
            try:
                await self.sample()
            except OSError:
                log.exception("reading the machine's memory failed")
            await asyncio.sleep(ENGINE_FIRST_S if self._manager.engines else DEVICES_EVERY_S)

    async def sample(self) -> None:
        """Read once whatever is due, and report it. Raises: OSError: the machine does not tell."""
        manager = self._manager
        targets = {engine.pid: target for target, engine in manager.engines.items() if engine.pid is not None}
        reading = await manager.measurer.measure(self._pids_due(set(targets)), self._roots())
        for pid, engine in reading.engines.items():
            present = manager.engines.get(targets[pid])
            if present is not None and present.pid == pid and engine.footprint:
                manager.measured(targets[pid], engine.footprint)
        fresh = self._complete(budgets(reading, self._memory, manager.committed_bytes()))
        manager.budgeted(self._steady(fresh))

    def _pids_due(self, pids: set[int]) -> list[int]:
        now_s = self._clock()
        self._due = {pid: self._due.get(pid, (now_s, ENGINE_FIRST_S)) for pid in pids}
        due = [pid for pid, (at_s, _) in self._due.items() if at_s <= now_s]
        for pid in due:
            gap_s = self._due[pid][1]
            self._due[pid] = (now_s + gap_s, min(gap_s * 2, ENGINE_EVERY_MAX_S))
        return due

    def _steady(self, fresh: Mapping[str, DeviceBudget]) -> dict[str, DeviceBudget]:
        """The fresh words, with the former budget where it has hardly changed."""
        former = self._manager.budgets
        return {
            device: msgspec.structs.replace(words, budget_bytes=former[device].budget_bytes)
            if device in former and abs(words.budget_bytes - former[device].budget_bytes) < BUDGET_STEP_BYTES
            else words
            for device, words in fresh.items()
        }
