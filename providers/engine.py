"""A child process that answers HTTP: brought up, spoken to, stopped.

Law: either an engine that answers is returned, or no process is left and LoadFailed says why; cancelled too.
"""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from providers.contract import EngineSpec, ProcessExit
from providers.errors import LoadFailed
from providers.process import Child, outlast
from providers.transport import Endpoint

_REASON_CHARS = 300  # of the log line that goes into the message
_HINTS = {
    signal.SIGILL: "its build needs a CPU instruction that this machine lacks",
    signal.SIGKILL: "most likely the kernel took it for lack of memory",
}
_FOLDERS = re.compile(r"(?<![\w.:/])/(?:[^\s/'\"]+/)+")


def last_line(log_lines: Sequence[str]) -> str:
    """The last line that says something."""
    return next((line.strip() for line in reversed(log_lines) if line.strip()), "")


class ProcessEngine:
    """An engine that is up. Implements `contract.Engine`."""

    def __init__(self, spec: EngineSpec, child: Child, endpoint: Endpoint) -> None:
        self.spec = spec
        self._child = child
        self._endpoint = endpoint
        # The endpoint's own: every call between costs each request. Raises: UpstreamUnreachable, UpstreamTimeout, UpstreamBroke.
        self.send = endpoint.send
        self._stopping: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        """The root of its process tree."""
        return self._child.pid

    def log_lines(self) -> tuple[str, ...]:
        """The last lines it printed, oldest first."""
        return self._child.log_lines()

    async def stop(self) -> None:
        """TERM, after the limit KILL; returns when no process of it is left. Idempotent; not cut short by cancellation."""
        if self._stopping is None:
            self._stopping = asyncio.ensure_future(self._stop())
        await outlast(self._stopping)

    async def _stop(self) -> None:
        try:
            await self._endpoint.aclose()  # first: many servers wait for their open connections before they end
        finally:
            await self._child.stop()


async def bring_up(
    spec: EngineSpec,
    child: Child,
    ready: Coroutine[Any, Any, str],
    *,
    source: str,
    on_exit: Callable[[ProcessExit], None],
    headers: Sequence[tuple[bytes, bytes]] = (),
    reason: Callable[[Sequence[str]], str] = last_line,
) -> ProcessEngine:
    """Wait until a child just started answers.

    Args:
        ready: returns the engine's base URL once it answers; is cancelled when the child ends or the time is over.
        source: the provider's name.
        on_exit: called once when its root process has ended, whoever ended it; only if this returned.
        headers: sent with every request to it.
        reason: picks from the log what went wrong.

    Raises:
        LoadFailed: it ended, or did not answer within `load_timeout_s`. No process of it is left. So too when cancelled.
    """
    try:
        base_url = await _first_answer(spec, child, ready, source, reason)
        engine = ProcessEngine(spec, child, Endpoint(base_url, source=source, headers=headers))
    except BaseException:
        await child.stop()
        raise
    child.when_exited(on_exit)  # not only when it is swept up: until then requests would still be sent to it
    return engine


async def _first_answer(
    spec: EngineSpec,
    child: Child,
    ready: Coroutine[Any, Any, str],
    source: str,
    reason: Callable[[Sequence[str]], str],
) -> str:
    answer = asyncio.ensure_future(ready)
    death = asyncio.ensure_future(child.exited())
    try:
        await asyncio.wait({answer, death}, timeout=spec.load_timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if death.done():
            raise _ended(spec, await child.gone(), source, reason)
        if not answer.done():
            raise _too_slow(spec, child.log_lines(), source, reason)
        return answer.result()
    finally:
        answer.cancel()
        death.cancel()
        await asyncio.gather(answer, death, return_exceptions=True)


def _ended(spec: EngineSpec, end: ProcessExit, source: str, reason: Callable[[Sequence[str]], str]) -> LoadFailed:
    code = end.exit_code
    how = f"exited with code {code}"
    hint = ""
    if code < 0:
        how = f"was killed by signal {-code}{_signal_name(-code)}"
        hint = f" ({_HINTS[signal.Signals(-code)]})" if -code in _HINTS else ""
    return LoadFailed(
        f"engine for '{spec.alias}' {how} before it was ready{hint}{_because(end.log_lines, reason)}",
        source=source,
        detail="\n".join(end.log_lines),
        exit_code=code,
        log_lines=end.log_lines,
    )


def _too_slow(
    spec: EngineSpec, lines: tuple[str, ...], source: str, reason: Callable[[Sequence[str]], str]
) -> LoadFailed:
    return LoadFailed(
        f"engine for '{spec.alias}' was still running but not ready after {spec.load_timeout_s:g} s; "
        f"raise load_timeout_s if it needs longer{_because(lines, reason)}",
        source=source,
        detail="\n".join(lines),
        log_lines=lines,
    )


def _because(lines: Sequence[str], reason: Callable[[Sequence[str]], str]) -> str:
    """What its log says, without the folders of this machine."""
    said = _FOLDERS.sub("", reason(lines))[:_REASON_CHARS]
    return f": {said}" if said else ""


def _signal_name(number: int) -> str:
    try:
        return f" ({signal.Signals(number).name})"
    except ValueError:  # a real-time signal
        return ""
