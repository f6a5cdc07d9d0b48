"""The warden: a small process that outlives this one and kills the engines that a killed gateway would leave behind.

Law: the pipe is the only word between the two. Its one write end is in this process, is never inherited, and closes
when this process ends, however it ends; there is no message that could be lost and no process id that could be stale.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import subprocess
import sys
from pathlib import Path

from providers import sweep
from providers.process import outlast, watch_exit

_log = logging.getLogger(__name__)

_SCRIPT = Path(sweep.__file__)
_SHORT_LIFE_S = 1.0
_SHORT_LIVES_MAX = 3  # in a row; then it waits for the next `ensure`, so that a broken machine is no fork loop
_END_S = 12.0  # the script's own bound is 10 s


class Warden:
    """Started before the first engine, replaced when it dies. One per gateway process; used on one event loop."""

    def __init__(self) -> None:
        self.owner = secrets.token_hex(16)  # what every engine of this gateway carries as ROUNDHOUSE_OWNER
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe = -1
        self._ended: asyncio.Event = asyncio.Event()
        self._closed = False
        self._short_lives = 0
        self._closing: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """The warden's process id; None while there is none."""
        return None if self._process is None else self._process.pid

    async def ensure(self) -> None:
        """There is a warden when this returns. Takes some milliseconds the first time; nothing is awaited.

        Raises: OSError: no process can be started.
        """
        if self._process is None and not self._closed:
            self._start()

    def _start(self) -> None:
        read_end, write_end = os.pipe()
        try:
            # Its environment is bare: a gateway that is itself somebody's engine carries marks, and the warden must
            # not be swept away together with it.
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_SCRIPT), self.owner],
                stdin=read_end,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={},
                cwd="/",
                start_new_session=True,
            )
        except OSError:
            os.close(write_end)
            raise
        finally:
            os.close(read_end)
        self._process, self._pipe = process, write_end
        self._ended.clear()
        loop = asyncio.get_running_loop()
        started_s = loop.time()
        watch_exit(process, lambda: self._died(process, loop.time() - started_s))

    def _died(self, process: subprocess.Popen[bytes], lived_s: float) -> None:
        process.poll()
        self._process = None
        self._ended.set()
        self._drop_pipe()
        if self._closed:
            return
        _log.warning("the warden process ended with code %s after %.1f s", process.returncode, lived_s)
        self._short_lives = self._short_lives + 1 if lived_s < _SHORT_LIFE_S else 0
        if self._short_lives <= _SHORT_LIVES_MAX:
            with contextlib.suppress(OSError):  # the next `ensure` tries again, and says so
                self._start()

    def _drop_pipe(self) -> None:
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1

    async def aclose(self) -> None:
        """Let it go: it kills what is still there of our engines, and ends. Idempotent; not cut short by cancellation."""
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._close())
        await outlast(self._closing)

    async def _close(self) -> None:
        self._closed = True
        self._drop_pipe()
        process = self._process
        if process is None:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_END_S):
                await self._ended.wait()
        if not self._ended.is_set():
            process.kill()
            await self._ended.wait()
