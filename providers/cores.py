"""How many cores this process may use.

Law: what the machine has is not what a container or a CPU set lets us have; the smallest word counts.
"""

from __future__ import annotations

import os
from pathlib import Path

import psutil


def cores_available() -> int:
    """Physical cores, cut by the CPU set and the control group's quota; at least 1. Blocking, a fraction of a millisecond."""
    logical = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    physical = psutil.cpu_count(logical=False) or logical
    return max(1, min(logical, physical, int(_quota() or logical)))


def _quota() -> float | None:
    """Cores granted by the control groups above us; None where there is no limit.

    Source: kernel documentation, cgroup-v2 `cpu.max` ("QUOTA PERIOD" or "max PERIOD"), cgroup-v1 `cpu.cfs_quota_us`.
    """
    limits: list[float] = []
    for line in _read("/proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            folder = Path("/sys/fs/cgroup") / path.lstrip("/")
            for level in (folder, *folder.parents):
                quota, _, period = _read(f"{level}/cpu.max").partition(" ")
                if quota.isdigit():
                    limits.append(int(quota) / int(period))
                if level.name == "cgroup":
                    break
        elif "cpu" in controllers.split(","):
            quota = _read(f"/sys/fs/cgroup/cpu{path.rstrip('/')}/cpu.cfs_quota_us").strip()
            period = _read(f"/sys/fs/cgroup/cpu{path.rstrip('/')}/cpu.cfs_period_us").strip()
            if quota.isdigit() and period.isdigit():
                limits.append(int(quota) / int(period))
    return min(limits, default=None)


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def share(asked: int, running: int, cores: int) -> int:
    """Threads for one more engine beside `running` ones: what the operator asked for, else an equal part of the cores."""
    return asked or max(1, cores // (running + 1))
