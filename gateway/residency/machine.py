"""Reads the machine: devices from the kernel and the GPU driver, and what the processes of ours hold on each.

The law: everything here blocks, and is called from one thread (memory.py's `Measurer`); what cannot be read is left out
or keeps its last value, and stops nobody. What is ours is told by process trees: whatever descends from this process,
also an engine that is still loading.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Protocol, cast

import msgspec
import psutil

from providers.contract import Footprint

log = logging.getLogger("roundhouse.memory")


class DeviceReading(msgspec.Struct, frozen=True, kw_only=True):
    """One device, strangers and all."""

    total_bytes: int
    free_bytes: int  # what a new program could have


class EngineReading(msgspec.Struct, frozen=True, kw_only=True):
    """What one engine's process tree holds."""

    footprint: Footprint  # all of it: RAM as proportional set size, mapped weights included
    private: Footprint  # what stopping it gives back at once: RAM without pages of files


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """The cheap part of a reading: counters the kernel and the driver keep anyway."""

    devices: Mapping[str, DeviceReading]
    held: Footprint
    private: Mapping[int, Footprint]  # of the roots that were asked for
    blind: frozenset[str] = frozenset()


class Gauge(Protocol):
    """Reads the machine. Blocking; called from one thread only."""

    def look(self, roots: Collection[int]) -> Look:
        """Some milliseconds: one pass over the process table, and one call per GPU."""
        ...

    def weigh(self, pid: int) -> EngineReading | None:
        """The process tree of `pid`, exactly. Walks its page tables: tens of ms for tens of GB. None: it has ended."""
        ...

    def close(self) -> None: ...


class Processes(Protocol):
    """The operating system's word on processes."""

    def table(self) -> Mapping[int, tuple[int, int]]:
        """pid → (parent's pid, process group)."""
        ...

    def private(self, pid: int) -> tuple[int, int]:
        """(anonymous bytes, shared memory bytes), by counters; zeros when it has ended."""
        ...

    def weight(self, pid: int) -> tuple[int, int] | None:
        """(proportional set size, the private part of it), exactly; None when it has ended."""
        ...


class Machine:
    """The gauge of this machine.

    Args:
        proc, cgroup: where procfs and the cgroup hierarchy are mounted.
        nvml: the NVIDIA management library; None: look for it at the first reading.
        own_pid: the root of what is ours.
    """

    def __init__(
        self,
        *,
        proc: Path = Path("/proc"),
        cgroup: Path = Path("/sys/fs/cgroup"),
        nvml: Any = None,
        own_pid: int | None = None,
    ) -> None:
        self._proc = proc
        self._cgroup = cgroup
        self._processes: Processes = Procfs(proc) if (proc / "meminfo").exists() else Psutil()
        self._gpus = Gpus(nvml)
        self._own_pid = os.getpid() if own_pid is None else own_pid

    def look(self, roots: Collection[int]) -> Look:
        table = self._processes.table()
        gpus, by_pid, blind = self._gpus.read(table.keys())
        children = [pid for pid, (parent, _) in table.items() if parent == self._own_pid]
        private: dict[int, Footprint] = {}
        held: dict[str, int] = {}
        seen: set[int] = set()
        # a root that is no child of ours any more (its parent ended) is ours all the same
        for root in (*children, *(root for root in roots if root in table and root not in children)):
            family = _family(root, table)
            sizes = self._private(family, by_pid)
            if root in roots:
                private[root] = sizes
            if family.isdisjoint(seen):
                add(held, sizes)
            seen |= family
        return Look(devices={"ram": self._ram(), **gpus}, held=held, private=private, blind=blind)

    def weigh(self, pid: int) -> EngineReading | None:
        table = self._processes.table()
        if pid not in table:
            return None
        family = _family(pid, table)
        weights = [weight for member in family if (weight := self._processes.weight(member)) is not None]
        if not weights:
            return None
        _, by_pid, _ = self._gpus.read(table.keys())
        on_gpus = _on_gpus(family, by_pid)
        return EngineReading(
            footprint={"ram": sum(pss for pss, _ in weights), **on_gpus},
            private={"ram": sum(part for _, part in weights), **on_gpus},
        )

    def close(self) -> None:
        self._gpus.close()

    def _private(self, family: Collection[int], by_pid: Mapping[str, Mapping[int, int]]) -> dict[str, int]:
        counted = [self._processes.private(pid) for pid in family]
        # workers of one engine map the same shared memory, and each counter holds all of it
        ram = sum(anonymous for anonymous, _ in counted) + max(shared for _, shared in counted)
        return {"ram": ram, **_on_gpus(family, by_pid)}

    def _ram(self) -> DeviceReading:
        total, free = _meminfo(self._proc)
        for limit, used in cgroup_limits(self._proc, self._cgroup):
            if limit < total:
                total = limit
            free = min(free, max(0, limit - used))
        return DeviceReading(total_bytes=total, free_bytes=min(free, total))


def _family(root: int, table: Mapping[int, tuple[int, int]]) -> set[int]:
    """The root, all that descends from it, and its process group: a daemonised worker has lost its parent, not its group."""
    children: dict[int, list[int]] = {}
    for pid, (parent, _) in table.items():
        children.setdefault(parent, []).append(pid)
    family: set[int] = set()
    grey = [root, *(pid for pid, (_, group) in table.items() if group == root)]
    while grey:
        pid = grey.pop()
        if pid not in family:
            family.add(pid)
            grey += children.get(pid, [])
    return family


def add(total: dict[str, int], more: Footprint) -> None:
    """Bytes of `more` onto `total`, device by device."""
    for device, size in more.items():
        total[device] = total.get(device, 0) + size


def _on_gpus(family: Collection[int], by_pid: Mapping[str, Mapping[int, int]]) -> dict[str, int]:
    sizes = {device: sum(size for pid, size in held.items() if pid in family) for device, held in by_pid.items()}
    return {device: size for device, size in sizes.items() if size}


def _meminfo(proc: Path) -> tuple[int, int]:
    """(total, available) bytes of RAM."""
    try:
        fields = _fields(proc / "meminfo")
        return fields["MemTotal"] * 1024, fields["MemAvailable"] * 1024
    except (OSError, KeyError):  # another system than Linux
        memory = psutil.virtual_memory()
        return memory.total, memory.available


def _fields(path: Path) -> dict[str, int]:
    """`Name: number …` or `name number` lines of a kernel file. Raises: OSError."""
    found: dict[str, int] = {}
    for line in path.read_text().splitlines():
        words = line.replace(":", " ", 1).split()
        if len(words) >= 2 and words[1].isdigit():
            found[words[0]] = int(words[1])
    return found


def cgroup_limits(proc: Path, mount: Path) -> list[tuple[int, int]]:
    """(limit, used) bytes of our own cgroup and those above it that have a limit; pages of files do not count as used.

    Inside a container the path in /proc/self/cgroup may be the host's; what does not exist below the mount is skipped,
    and the mount's root is then the container's own.
    Source: kernel documentation, cgroup-v2 "Memory Interface Files"; cgroup-v1 "memory.txt", section 5.2.
    """
    found: list[tuple[int, int]] = []
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return found
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":
            root, names = mount, ("memory.max", "memory.current", "")
        elif "memory" in controllers.split(","):
            root, names = mount / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
        else:
            continue
        own = root / path.lstrip("/")
        for folder in (own, *own.parents):
            if folder.is_relative_to(root) and (limit := _cgroup_limit(folder, *names)) is not None:
                found.append(limit)
    return found


def _cgroup_limit(folder: Path, limit: str, current: str, prefix: str) -> tuple[int, int] | None:
    try:
        written = (folder / limit).read_text().strip()
        if not written.isdigit() or int(written) >= 1 << 60:  # "max"; cgroup v1 writes a number near 2^63
            return None
        used = int((folder / current).read_text())
        stat = _fields(folder / "memory.stat")
    except (OSError, ValueError):
        return None
    files = sum(stat.get(f"{prefix}{name}", 0) for name in ("inactive_file", "active_file"))
    return int(written), max(0, used - files)


def _head(path: str) -> bytes:
    """The first kilobyte of a file, at a third of what open() costs: there are hundreds of processes."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 1024)
    finally:
        os.close(descriptor)


class Procfs:
    """Processes as Linux has them. Source: proc(5)."""

    def __init__(self, proc: Path) -> None:
        self._proc = proc

    def table(self) -> Mapping[int, tuple[int, int]]:
        found: dict[int, tuple[int, int]] = {}
        for name in os.listdir(self._proc):
            if name.isdigit():
                with contextlib.suppress(OSError, ValueError, IndexError):  # it ended meanwhile
                    # "pid (command) state ppid pgrp …"; the command may hold blanks and brackets
                    fields = _head(f"{self._proc}/{name}/stat").rpartition(b")")[2].split(None, 4)
                    found[int(name)] = int(fields[1]), int(fields[2])
        return found

    def private(self, pid: int) -> tuple[int, int]:
        try:
            fields = _fields(self._proc / str(pid) / "status")
        except OSError:
            return 0, 0
        return fields.get("RssAnon", 0) * 1024, fields.get("RssShmem", 0) * 1024

    def weight(self, pid: int) -> tuple[int, int] | None:
        try:
            fields = _fields(self._proc / str(pid) / "smaps_rollup")
            return fields["Pss"] * 1024, (fields["Pss_Anon"] + fields["Pss_Shmem"]) * 1024
        except (
            OSError,
            KeyError,
        ):  # another user's, an old kernel, or ended: the plain counters, which share nothing out
            pass
        try:
            fields = _fields(self._proc / str(pid) / "status")
        except OSError:
            return None
        return fields.get("VmRSS", 0) * 1024, (fields.get("RssAnon", 0) + fields.get("RssShmem", 0)) * 1024


class Psutil:
    """Processes on systems without procfs: resident sizes, which count mapped weights as private."""

    def table(self) -> Mapping[int, tuple[int, int]]:
        found: dict[int, tuple[int, int]] = {}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                found[process.pid] = process.ppid(), os.getpgid(process.pid)
        return found

    def private(self, pid: int) -> tuple[int, int]:
        weight = self.weight(pid)
        return (0, 0) if weight is None else (weight[1], 0)

    def weight(self, pid: int) -> tuple[int, int] | None:
        try:
            size = psutil.Process(pid).memory_info().rss
        except psutil.Error:
            return None
        return size, size


class Gpus:
    """NVIDIA GPUs by NVML, named gpu0, gpu1, … in its order. No driver: no GPUs. A call that fails keeps the last word.

    Source: NVML API Reference, nvmlDeviceGetMemoryInfo, nvmlDeviceGetComputeRunningProcesses.
    """

    def __init__(self, nvml: Any = None) -> None:
        self._nvml = nvml
        self._handles: dict[str, Any] | None = None
        self._last: dict[str, DeviceReading] = {}
        self._warned = False

    def read(
        self, visible: Collection[int]
    ) -> tuple[dict[str, DeviceReading], dict[str, dict[int, int]], frozenset[str]]:
        """Devices; device → pid → bytes; the devices whose processes cannot be told apart.

        Args:
            visible: pids that exist here. NVML in a container may speak of pids of the host.
        """
        if self._handles is None:
            self._handles = self._open()
        by_pid: dict[str, dict[int, int]] = {}
        blind: set[str] = set()
        for device, handle in self._handles.items():
            try:
                memory = self._nvml.nvmlDeviceGetMemoryInfo(handle)
                self._last[device] = DeviceReading(total_bytes=int(memory.total), free_bytes=int(memory.free))
                listed = cast("list[Any]", self._nvml.nvmlDeviceGetComputeRunningProcesses(handle))
            except self._nvml.NVMLError as error:
                if not self._warned:
                    log.warning("%s cannot be read (%s); its last reading stays", device, error)
                    self._warned = True
                blind.add(device)
                continue
            held = {process.pid: process.usedGpuMemory for process in listed}
            by_pid[device] = {pid: int(size) for pid, size in held.items() if size is not None}
            if any(size is None or pid not in visible for pid, size in held.items()):
                blind.add(device)
        return dict(self._last), by_pid, frozenset(blind)

    def close(self) -> None:
        if self._handles:
            with contextlib.suppress(self._nvml.NVMLError):
                self._nvml.nvmlShutdown()
        self._handles = {}

    def _open(self) -> dict[str, Any]:
        handles: dict[str, Any] = {}
        if self._nvml is None:
            try:
                # imported when first needed, in the thread: 30 ms that a start need not wait for
                self._nvml = importlib.import_module("pynvml")
            except ImportError:
                return handles
        nvml = self._nvml
        try:
            nvml.nvmlInit()
        except nvml.NVMLError as error:
            log.debug("no NVIDIA driver: %s", error)
            return handles
        try:
            for index in range(nvml.nvmlDeviceGetCount()):
                handles[f"gpu{index}"] = nvml.nvmlDeviceGetHandleByIndex(index)
        except nvml.NVMLError as error:
            log.warning("not every GPU can be read: %s", error)
        return handles
