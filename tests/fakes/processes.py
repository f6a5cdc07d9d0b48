"""What tests of processes share: how to start the fake engine, who is alive, waiting for a condition."""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

ROOT = Path(__file__).parents[2]
# -S: without site-packages it is ready 20 ms sooner.
ENGINE = (sys.executable, "-S", str(ROOT / "tests/fakes/engine.py"))


def alive(pid: int) -> bool:
    """It exists and is no zombie: in a container an orphan may stay one for ever."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")


def pids(log_lines: Iterable[str], who: str = "engine|grandchild") -> list[int]:
    """The process ids the fake engine printed."""
    return [int(match[1]) for line in log_lines if (match := re.fullmatch(rf"(?:{who}) pid=(\d+)", line))]


def ready_at_s(log_lines: Iterable[str]) -> float:
    """When the fake engine says it turned ready, on time.monotonic()."""
    return next(float(line.rpartition("monotonic=")[2]) for line in log_lines if line.startswith("engine ready"))


async def until(condition: Callable[[], bool], bound_s: float = 10.0) -> None:
    """Wait for it. Raises: AssertionError: it did not come true in time."""
    deadline_s = time.monotonic() + bound_s
    while not condition():
        assert time.monotonic() < deadline_s, "the condition did not come true"
        await asyncio.sleep(0.002)
