"""One supervised child process: its own process group, its output kept, its death noticed at once, nothing left of it.

Law: nothing here polls, and nothing here blocks the event loop longer than starting a process takes. A child counts as
gone only when no process carrying its mark is left, so that its memory is really back.

Children are started on the event loop's thread, never in a worker thread: a child may ask the kernel to be killed
with its parent, and Linux means the parent *thread* by that (prctl(2), PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from providers.childlog import ChildLog
from providers.contract import ProcessExit
from providers.sweep import ENGINE, OWNER, kill_marked, mark

_log = logging.getLogger(__name__)

T = TypeVar("T")

_READ_BYTES = (
    1 << 16
)  # per callback, so that a child printing without end does not starve the loop; a Linux pipe's size
_LAST_WORDS_READS = 64  # after its death: at most 4 MiB are read in one go
_KILL_WAIT_S = 10.0  # a process inside the kernel (a hung GPU driver) may not take even SIGKILL
_SWEEP_S = 10.0
_OOM_SCORE_ADJ = b"500"  # -1000…1000: short of memory, the kernel shall take an engine before the gateway


async def outlast(task: asyncio.Future[T]) -> T:
    """Wait for a task that must not be cut short. Cancelled meanwhile, this waits on, and is cancelled afterwards."""
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
    return task.result()


def watch_exit(process: subprocess.Popen[bytes], notify: Callable[[], None], *, pidfd: bool = True) -> None:
    """Call `notify` on the running loop when the process has ended and still waits to be reaped.

    Args:
        pidfd: False: a thread that blocks in wait, as it is where the kernel has no pidfds (macOS, Linux before 5.3).
    """
    loop = asyncio.get_running_loop()
    try:
        fd = os.pidfd_open(process.pid) if pidfd else -1
    except (AttributeError, OSError):
        fd = -1
    if fd >= 0:

        def ended() -> None:
            loop.remove_reader(fd)
            os.close(fd)
            notify()

        loop.add_reader(fd, ended)
        return

    def wait() -> None:
        if hasattr(os, "waitid"):
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        else:  # macOS before Python 3.13: reaped here already
            process.wait()
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(notify)

    threading.Thread(target=wait, name=f"wait-{process.pid}", daemon=True).start()


def engine_environment(
    base: Mapping[str, str],
    *,
    owner: str,
    secret_env: frozenset[str] = frozenset(),
    extra: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """The environment of an engine: the operator's, without our own secrets, with the owner's mark.

    Args:
        secret_env: names of variables that hold keys of ours (an upstream's, the gateway's): no engine's business.
        extra: what the engine's configuration sets; wins over `base`.
    """
    env = {name: value for name, value in base.items() if name not in secret_env}
    # Spinning barriers of two engines on the same cores cost each of them nine tenths of its speed.
    env.setdefault("OMP_WAIT_POLICY", "passive")
    env.update(extra or {})
    env[OWNER] = owner
    return env


class Child:
    """A running child process. Made by `spawn`; ends by itself or by `stop`."""

    def __init__(
        self, process: subprocess.Popen[bytes], output: int, engine_id: str, stop_timeout_s: float, log: ChildLog
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._process = process
        self._output = output
        self._mark = mark(ENGINE, engine_id)
        self._stop_timeout_s = stop_timeout_s
        self._log = log
        self._asked = False
        self._stopping: asyncio.Task[None] | None = None
        self._exited: asyncio.Future[int] = self._loop.create_future()
        self._loop.add_reader(output, self._on_output)
        watch_exit(process, self._on_exit)
        self._gone = self._loop.create_task(self._follow(), name=f"child-{process.pid}")

    @property
    def pid(self) -> int:
        """The root of its process tree, and the id of its process group."""
        return self._process.pid

    @property
    def mark(self) -> bytes:
        """The environment entry all its processes carry."""
        return self._mark

    @property
    def exit_code(self) -> int | None:
        """None while its root process runs; negative: minus the signal's number."""
        return self._exited.result() if self._exited.done() and not self._exited.cancelled() else None

    def log_lines(self) -> tuple[str, ...]:
        """The last lines it printed, oldest first."""
        return self._log.lines()

    def when_exited(self, callback: Callable[[ProcessExit], None]) -> None:
        """Call back once on the loop when its root process has ended: before the rest of it is swept up."""
        self._exited.add_done_callback(
            lambda ended: (
                None
                if ended.cancelled()
                else callback(ProcessExit(exit_code=ended.result(), log_lines=self._log.lines(), asked=self._asked))
            )
        )

    def when_gone(self, callback: Callable[[ProcessExit], None]) -> None:
        """Call back once on the loop when it is gone; not when the loop is torn down before that."""
        self._gone.add_done_callback(lambda task: None if task.cancelled() else callback(task.result()))

    async def exited(self) -> int:
        """Until its root process has ended; its exit code. Cancelling this touches nothing."""
        return await asyncio.shield(self._exited)

    async def gone(self) -> ProcessExit:
        """Until no process of it is left. Cancelling this touches nothing."""
        return await asyncio.shield(self._gone)

    async def stop(self) -> None:
        """TERM to the group, KILL after stop_timeout_s; returns when no process of it is left, or after 20 s more.

        Safe to call twice, at once, and on one that has ended. Cancelled, it finishes first and then is cancelled.
        """
        if self._stopping is None:
            self._stopping = self._loop.create_task(self._stop(), name=f"stop-{self.pid}")
        await outlast(self._stopping)

    async def _stop(self) -> None:
        if not self._exited.done():
            self._asked = True
            self._signal(signal.SIGTERM)
            await asyncio.wait({self._exited}, timeout=self._stop_timeout_s)
        if not self._exited.done():
            _log.warning("process %d ignored SIGTERM for %.1f s and is killed", self.pid, self._stop_timeout_s)
            self._signal(signal.SIGKILL)
        done, _ = await asyncio.wait({self._gone}, timeout=_KILL_WAIT_S + _SWEEP_S)
        if not done:
            _log.error("process %d does not end even by SIGKILL; its memory is not back", self.pid)

    def _signal(self, number: signal.Signals) -> None:
        # Its id cannot be another's: it is reaped in `_on_exit` only, and this is not called after that.
        with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS: EPERM for a group of zombies
            os.killpg(self.pid, number)

    def _on_output(self) -> None:
        self._read()

    def _read(self) -> bool:
        """One bounded read. False: there is nothing (more) now."""
        try:
            data = os.read(self._output, _READ_BYTES)
        except BlockingIOError:
            return False
        if not data:
            self._loop.remove_reader(self._output)
            return False
        self._log.feed(data)
        return True

    def _on_exit(self) -> None:
        """The root process has ended: take its last words and the rest of its group, then reap it."""
        if self._exited.done():  # abandoned, and reaped already
            return
        self._signal(signal.SIGKILL)  # before reaping: until then nobody else can have this group's number
        for _ in range(_LAST_WORDS_READS):
            if not self._read():
                break
        self._loop.remove_reader(self._output)
        os.close(self._output)  # a grandchild may hold the other end: it is not waited for
        self._exited.set_result(self._process.wait())

    async def _follow(self) -> ProcessExit:
        try:
            exit_code = await asyncio.shield(self._exited)
        except asyncio.CancelledError:
            self._abandon()
            raise
        left = await asyncio.to_thread(kill_marked, self._mark, bound_s=_SWEEP_S)
        if left:
            _log.error("processes %s of engine process %d do not end", sorted(left), self.pid)
        return ProcessExit(exit_code=exit_code, log_lines=self._log.lines(), asked=self._asked)

    def _abandon(self) -> None:
        """The loop is being torn down under us: no more waiting, but no engine left either."""
        if not self._exited.done():
            self._signal(signal.SIGKILL)
            self._exited.cancel()
            self._loop.remove_reader(self._output)
            os.close(self._output)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(1.0)


def spawn(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    stop_timeout_s: float,
    pass_fds: Sequence[int] = (),
    on_line: Callable[[str], None] | None = None,
) -> Child:
    """Start a child in its own process group, stdin empty, stdout and stderr into the log. Call it on the loop's thread.

    Args:
        env: its whole environment; see `engine_environment`. The engine's own mark is added here.
        on_line: called with every line kept; of a flood only the last lines of each read.

    Raises:
        OSError: the program is absent, not executable, or there is no process or descriptor left.
    """
    engine_id = secrets.token_hex(8)
    read_end, write_end = os.pipe()
    try:
        os.set_blocking(read_end, False)
        process = subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=write_end,
            stderr=write_end,
            env={**env, ENGINE: engine_id},
            process_group=0,
            pass_fds=pass_fds,
        )  # no preexec_fn: so that vfork is used, whose cost does not grow with our memory
    except BaseException:
        os.close(read_end)
        raise
    finally:
        os.close(write_end)
    _prefer_for_oom(process.pid)
    return Child(process, read_end, engine_id, stop_timeout_s, ChildLog(on_line))


def _prefer_for_oom(pid: int) -> None:
    with contextlib.suppress(OSError):  # no /proc, or it has ended already
        fd = os.open(f"/proc/{pid}/oom_score_adj", os.O_WRONLY)
        try:
            os.write(fd, _OOM_SCORE_ADJ)
        finally:
            os.close(fd)
