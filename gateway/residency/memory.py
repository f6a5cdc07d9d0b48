"""Measures the machine: what each device has, what engines hold of it, what strangers hold, and so what we may commit.

The law: nothing here blocks the event loop; the machine is read in the one thread of `Measurer` (see machine.py). Of
our engines' RAM only what cannot be dropped (anonymous and shared pages) is told apart from strangers': the kernel's
"available" counts the pages of a mapped weights file as free already, and they must not be counted twice.

    total ─┬─ free (available)
           └─ used ─┬─ ours: private memory of our process tree
                    └─ strangers' = used - ours        budget = total - strangers' - headroom
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import msgspec

from config.schema import Memory
from providers.contract import Footprint

from .machine import DeviceReading, EngineReading, Gauge, Look, Machine, add

MIB = 1024**2
# Kept free of an "auto" budget. RAM: programs come and go, and a machine without page cache crawls; below 512 MiB a
# desktop starts to swap. GPU: the driver's own contexts and fragmentation; a CUDA context alone takes 200–500 MB.
_HEADROOM = {"ram": (512 * MIB, 0.05), "gpu": (256 * MIB, 0.03)}
POLL_S = 0.02  # while waiting for memory to come back: the bound on what a swap waits for nothing
_BACK_SHARE = 0.75  # of what an engine held must be back; the rest is others' breathing and the driver's rounding
_NOTICEABLE_BYTES = 32 * MIB  # less than this is lost in the noise of the machine: not waited for

_T = TypeVar("_T")


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """The machine at one moment."""

    devices: Mapping[str, DeviceReading]
    engines: Mapping[int, EngineReading] = {}  # the pids that were asked for, less those that have ended
    held: Footprint = {}  # private memory of all processes of ours, asked for or not
    measured: Footprint = {}  # footprints of all engines ever asked for that still run, each as last read
    blind: frozenset[str] = frozenset()  # GPUs whose driver does not say which process holds what (containers)


class DeviceBudget(msgspec.Struct, frozen=True, kw_only=True):
    """What may be committed on one device."""

    budget_bytes: int
    total_bytes: int = 0  # of the device itself; 0: not known
    strangers_bytes: int = 0
    measured_bytes: int = 0  # held by our engines


class Freed(msgspec.Struct, frozen=True, kw_only=True):
    """Noted before an engine stops, to see afterwards that its memory is back."""

    pid: int
    private: Footprint
    unclaimed: Footprint  # device → bytes free or held by other processes of ours


def budgets(reading: Reading, memory: Memory, committed: Footprint | None = None) -> dict[str, DeviceBudget]:
    """What may be committed on each device. Fixed sizes are taken as they are, also for a device nobody can measure.

    Args:
        committed: bytes residency has committed; stands in for the engines' share on a GPU that is blind.
    """
    fixed = dict(memory.devices)
    if memory.budget is not None:
        fixed.setdefault("ram", memory.budget)
    result: dict[str, DeviceBudget] = {}
    for device in (*reading.devices, *(name for name in fixed if name not in reading.devices)):
        seen = reading.devices.get(device)
        total = seen.total_bytes if seen else 0
        used = total - seen.free_bytes if seen else 0
        ours = reading.held.get(device, 0)
        if device in reading.blind and committed:
            ours = max(ours, min(committed.get(device, 0), used))
        strangers = max(0, used - ours)
        headroom = headroom_bytes(device, total) if memory.headroom is None else memory.headroom
        result[device] = DeviceBudget(
            budget_bytes=fixed.get(device, max(0, total - strangers - headroom)),
            total_bytes=total,
            strangers_bytes=strangers,
            measured_bytes=reading.measured.get(device, 0),
        )
    return result


def headroom_bytes(device: str, total_bytes: int) -> int:
    """What an "auto" headroom keeps free on a device of this size."""
    least, share = _HEADROOM["ram" if device == "ram" else "gpu"]
    return max(least, int(total_bytes * share))


def _unclaimed(look: Look, pid: int) -> dict[str, int]:
    """Free, or held by processes of ours other than `pid`'s: neither strangers' nor its own."""
    mine = look.private.get(pid, {})
    return {
        device: seen.free_bytes + look.held.get(device, 0) - mine.get(device, 0)
        for device, seen in look.devices.items()
    }


class Measurer:
    """The gauge on the event loop: every reading happens in one thread of its own, one after the other.

    A cancelled call returns at once; its reading ends in the thread and is dropped.
    """

    def __init__(self, gauge: Gauge | None = None) -> None:
        self._gauge = gauge
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="memory")
        self._weighed: dict[int, Footprint] = {}

    async def measure(self, pids: Iterable[int] = (), servers: Iterable[int] = ()) -> Reading:
        """The machine now, with the exact size of the process trees of `pids` (roots). Raises: OSError: no /proc/meminfo.

        Args:
            servers: roots of servers whose models are ours to count: held by us, but not weighed.
        """
        wanted, counted = frozenset(pids), frozenset(servers)
        return await self._in_thread(lambda gauge: self._measure(gauge, wanted, counted))

    async def before_stop(self, pid: int) -> Freed:
        """What will have to come back when the engine with this root ends. Call it while it still runs."""
        look = await self._in_thread(lambda gauge: gauge.look((pid,)))
        return Freed(pid=pid, private=look.private.get(pid, {}), unclaimed=_unclaimed(look, pid))

    async def wait_back(self, freed: Freed, bound_s: float) -> bool:
        """Wait until the memory of a stopped engine is seen to be back: three quarters of it on each device.

        What other engines of ours take meanwhile does not count against it. False: not seen within `bound_s`.
        """
        wanted = {
            device: freed.unclaimed.get(device, 0) + _BACK_SHARE * size
            for device, size in freed.private.items()
            if size >= _NOTICEABLE_BYTES
        }
        try:
            async with asyncio.timeout(bound_s):
                while wanted:
                    look = await self._in_thread(lambda gauge: gauge.look((freed.pid,)))
                    now = _unclaimed(look, freed.pid)
                    if all(now.get(device, 0) >= least for device, least in wanted.items()):
                        break
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            return False
        return True

    async def aclose(self) -> None:
        """End the thread, after the reading it is at. Idempotent; nothing can be measured afterwards."""
        if self._gauge is not None:
            with contextlib.suppress(RuntimeError):  # the thread has ended already
                await self._in_thread(lambda gauge: gauge.close())
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _in_thread(self, read: Callable[[Gauge], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._call, read)

    def _call(self, read: Callable[[Gauge], _T]) -> _T:
        if self._gauge is None:
            self._gauge = Machine()
        return read(self._gauge)

    def _measure(self, gauge: Gauge, pids: frozenset[int], servers: frozenset[int]) -> Reading:
        look = gauge.look(self._weighed.keys() | pids | servers)
        weighed = {pid: gauge.weigh(pid) for pid in sorted(pids)}
        engines = {pid: engine for pid, engine in weighed.items() if engine is not None}
        self._weighed = {pid: size for pid, size in self._weighed.items() if pid in look.private}
        self._weighed |= {pid: engine.footprint for pid, engine in engines.items()}
        measured: dict[str, int] = {}
        for size in self._weighed.values():
            add(measured, size)
        return Reading(devices=look.devices, engines=engines, held=look.held, measured=measured, blind=look.blind)
