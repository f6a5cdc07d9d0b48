"""What the figures were taken on, and how much of it others used meanwhile.

Law: a figure without its machine, its date and its neighbours means nothing, so they are printed with every table.
"""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version

import msgspec
import psutil

# From here on figures of two runs cannot be compared, and those of one run only as ratios.
BUSY_SHARE = 0.05


class Cores(msgspec.Struct, frozen=True):
    """Who runs where."""

    proxy: int
    load: int
    upstream: int

    @property
    def shared(self) -> bool:
        """Whether the proxy has no core to itself."""
        return self.proxy == self.load


def cores() -> Cores:
    """The proxy on the first core we may use, the load on the last, the upstream between them where there is one."""
    mine = sorted(os.sched_getaffinity(0))
    return Cores(proxy=mine[0], load=mine[-1], upstream=mine[-2] if len(mine) > 2 else mine[-1])


def describe() -> dict[str, str]:
    """Date, machine and versions, as lines of a report."""
    packages = ("uvicorn", "uvloop", "httptools", "litestar", "msgspec")
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": f"{_processor()}, {len(os.sched_getaffinity(0))} cores, Linux {platform.release()}",
        "versions": f"Python {platform.python_version()}, " + ", ".join(f"{name} {version(name)}" for name in packages),
        "commit": _commit(),
    }


def _processor() -> str:
    with open("/proc/cpuinfo") as lines:
        return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown CPU")


def _commit() -> str:
    """With a + where files differ from it."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty=+"],  # noqa: S607 - whatever git the developer has
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"


class Neighbours:
    """How much of the machine processes other than ours used since this was made."""

    def __init__(self) -> None:
        self._busy_s, self._all_s = _machine_s()

    def share(self, ours_s: float) -> float:
        """0…1 of all cores, given what ours used in the same time."""
        busy_s, all_s = _machine_s()
        passed_s = all_s - self._all_s
        return max(0.0, busy_s - self._busy_s - ours_s) / passed_s if passed_s > 0 else 0.0


def _machine_s() -> tuple[float, float]:
    """Seconds of all cores that were used, and that were there."""
    times = psutil.cpu_times()
    everything = sum(times[:8])  # what follows (guest…) is counted in these already
    return everything - times.idle - times.iowait, everything
