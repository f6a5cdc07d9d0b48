"""Stopping an engine, and seeing that its memory is back before anybody else is started in its place."""

from __future__ import annotations

import asyncio
import logging

from providers.contract import Engine

from .memory import Measurer

log = logging.getLogger("roundhouse.residency")

# After a stop, how long the next start waits at most for the memory to be seen free. Ollama allows 5 s for the same wait and
# notes 0.5–1.5 s as typical for GPU drivers.
MEMORY_BACK_S = 5.0
# RAM is given back before a process's end is told, so not seeing it means that somebody else took it: no reason to wait long.
RAM_BACK_S = 0.25
# What a stop may take beyond the engine's own limit before we give up waiting for it: TERM, KILL and a sweep of /proc.
STOP_GRACE_S = 10.0


async def stop_engine(target: str, engine: Engine, measurer: Measurer) -> None:
    """Stop it and wait for its memory. One in somebody else's server has its own word for that: it returns when it is out.

    Raises: TimeoutError; whatever the engine's `stop` raises; OSError: the machine cannot be measured.
    """
    pid = engine.pid
    if pid is None:
        await _stop(engine)
        return
    try:
        freed = await measurer.before_stop(pid)
    finally:
        await _stop(engine)
    only_ram = set(freed.private) <= {"ram"}
    if not await measurer.wait_back(freed, RAM_BACK_S if only_ram else MEMORY_BACK_S):
        level = logging.DEBUG if only_ram else logging.WARNING
        log.log(level, "%s is gone, but its memory was not seen to come back", target)


async def _stop(engine: Engine) -> None:
    """Stop it, or give up waiting: an engine's stop need not heed cancellation, so it is left behind, not cut short.

    Raises: TimeoutError; whatever `stop` raises.
    """
    limit_s = engine.spec.stop_timeout_s + STOP_GRACE_S
    stopping = asyncio.ensure_future(engine.stop())
    done, _ = await asyncio.wait([stopping], timeout=limit_s)
    if not done:
        stopping.cancel()
        raise TimeoutError(f"it did not stop within {limit_s:g} s")
    stopping.result()
