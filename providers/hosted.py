"""Servers that others would start by hand (Ollama, LM Studio, a container of them), started by the operator's own command.

Law: the address is fixed when this is built and never changes, so whoever was told it keeps it over every restart. A server that
answers there already is somebody's own: it is used, never doubled and never stopped. When `run` ends, no process of ours is left.

The command must stay in the foreground: one that puts its server into the background and ends takes the server with it. Of a
container the client is supervised (`docker run`, without -d and -t): it passes TERM on to the container, and KILL it cannot.
An image is fetched before, by hand: that takes longer than a server may need to answer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from config.schema import ProviderConfig

from .command import CommandProvider, fill
from .contract import EngineSpec
from .engine import bring_up, last_line
from .errors import LoadFailed
from .ports import LOOPBACK, free_port
from .process import Child
from .readiness import health_status, until_healthy
from .warden import Warden

_log = logging.getLogger(__name__)

State = Literal["starting", "up", "failed", "stopped"]  # failed: waits for its next start

_PORT = "${port}"
_HEALTH = ProviderConfig(kind="ollama").health  # what engines answer, and these servers do not
_ROOT = "/"  # Ollama says "Ollama is running" there, LM Studio 200 whatever it says
_SPEAKS_HTTP = range(200, 500)  # a server that wants a key (401) or knows no such path (404) is up all the same
_MISSES = 2  # looks in a row without an answer: one may fall into the moment in which the operator restarts his server
_BEYOND_S = 60.0  # above `ready_s`, which ends the wait itself, with better words


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """The clocks of a server of ours, in seconds."""

    ready_s: float = 60.0  # from its start to its first answer: a container on a cold disk takes tens of seconds
    stop_s: float = 10.0  # from TERM to KILL: as [residency] stop_timeout_s, and as `docker stop` has it
    pause_first_s: float = 1.0  # before it is started again; doubled with each further failure
    pause_max_s: float = 60.0  # … up to this: a command that needs mending is not in a hurry
    steady_s: float = 60.0  # up for so long: the next failure is a first one again
    look_s: float = 2.0  # between two looks at a server that is not ours


_USUAL = Limits()


class HostedView(msgspec.Struct, frozen=True, kw_only=True):
    """How a server of ours stands, for operators."""

    state: State
    base_url: str
    pid: int | None  # the root of its process tree; of a container: its client's
    restarts: int  # starts after the first
    failures: int  # in a row
    reason: str  # what went wrong last, while it is not up; that it is somebody else's server, while it is
    log_lines: tuple[str, ...]  # the last lines it printed, oldest first; after its end those of its last life


class HostedServer:
    """One server: started, followed, started again.

    `${port}` in the command, the arguments and the values of `env` is a port of ours; nothing else has a meaning there, and
    `${anything_else}` is refused. Without `${port}` it must listen at `base_url` by itself.

    Args:
        name: the provider's.
        config: with a `command`. A `health` of its own must answer 200; without one "/" must answer at all. `device`, where it
            is a GPU, is the only one the server is shown: what residency counts there is then there.
        secret_env: names of environment variables it may not see.
        clock: monotonic seconds; `jitter`: a fresh number in [0, 1).
    Raises:
        ValueError: no command, another placeholder, or an address that is not this machine's loopback; names the provider.
        OSError: no port is left.
    """

    def __init__(
        self,
        name: str,
        config: ProviderConfig,
        warden: Warden,
        secret_env: frozenset[str],
        *,
        clock: Callable[[], float],
        jitter: Callable[[], float],
        limits: Limits = _USUAL,
    ) -> None:
        self.name = name
        self._spec = _spec_of(name, config, limits)
        # A port of ours is nobody else's: who answers on it is a stranger, and is not used.
        self._reserved = any(_PORT in text for text in (*self._spec.command, *self._spec.env.values()))
        self.base_url = f"http://{LOOPBACK}:{free_port()}" if self._reserved else config.base_url
        self._port = _port_of(name, self.base_url)
        self._argv, self._env = _filled(name, self._spec, self._port)
        self._ready = (200,) if config.health != _HEALTH else _SPEAKS_HTTP
        self._launcher = CommandProvider(name, {}, warden, secret_env)
        self._clock = clock
        self._jitter = jitter
        self._limits = limits
        self._state: State = "stopped"
        self._reason = ""
        self._starts = 0
        self._failures = 0
        self._child: Child | None = None

    @property
    def state(self) -> State:
        """What it does now."""
        return self._state

    @property
    def pid(self) -> int | None:
        """The root of its process tree while it runs. Of a container it is the client's, whose memory says nothing."""
        child = self._child
        return None if child is None or child.exit_code is not None else child.pid

    def log_lines(self) -> tuple[str, ...]:
        """The last lines it printed, oldest first; after its end those of its last life."""
        return () if self._child is None else self._child.log_lines()

    def view(self) -> HostedView:
        """All of it at once."""
        return HostedView(
            state=self._state,
            base_url=self.base_url,
            pid=self.pid,
            restarts=max(0, self._starts - 1),
            failures=self._failures,
            reason=self._reason,
            log_lines=self.log_lines(),
        )

    async def run(self) -> None:
        """For ever: start it, follow it, start it again. Once at a time.

        Raises: CancelledError, only; then no process of it is left (after TERM, `stop_s`, KILL).
        """
        try:
            while True:
                reason = await self._life()
                pause_s = pause_of(self._failures, self._jitter(), self._limits)
                self._state, self._reason = "failed", reason
                self._failures += 1
                _log.warning("providers.%s: %s; it is started again in %.1f s", self.name, reason, pause_s)
                await asyncio.sleep(pause_s)
        finally:
            self._state, self._reason = "stopped", ""

    async def _life(self) -> str:
        """From one start to its end; why it ended."""
        self._state = "starting"
        try:
            if not self._reserved:
                await self._use_strangers()
            await self._launcher.guard()
            self._starts += 1
            child = self._child = self._launcher.start(self._spec, self._argv, self._env)
            return await self._follow(child)
        except LoadFailed as error:
            # Without a complaint: most likely it has put its server into the background.
            return f"{error.message}; it must stay in the foreground" if error.exit_code == 0 else error.message
        except (OSError, RuntimeError) as error:  # no descriptor, or no thread, is left on this machine
            return f"the server cannot be looked at: {error}"

    async def _follow(self, child: Child) -> str:
        """Until it ends."""
        engine = await bring_up(
            self._spec, child, self._first_answer(child), source=self.name, on_exit=lambda _end: None
        )
        self._state, self._reason = "up", ""
        up_s = self._clock()
        try:
            code = await child.exited()
            how = f"exited with code {code}" if code >= 0 else f"was killed by signal {-code}"
            self._state, self._reason = "failed", f"the server {how}{_because(child)}"
        finally:
            await engine.stop()  # what is left of it
        if self._clock() - up_s >= self._limits.steady_s:
            self._failures = 0
        return self._reason

    async def _first_answer(self, child: Child) -> str:
        """Raises: LoadFailed: it does not answer in time, or another process does."""
        path, limit_s = self._spec.health, self._limits.ready_s
        try:
            async with asyncio.timeout(limit_s):
                return await until_healthy(self._port, path, child, source=self.name, ready=self._ready)
        except TimeoutError:
            raise LoadFailed(
                f"the server runs but did not answer at {self.base_url}{path} within {limit_s:g} s "
                f"(does its command make it listen there?){_because(child)}",
                source=self.name,
            ) from None

    async def _use_strangers(self) -> None:
        """As long as somebody's own server answers at our address."""
        if not await self._is_answered():
            return
        self._state, self._child = "up", None
        self._reason = f"somebody serves at {self.base_url} already: that server is used, and none is started"
        _log.info("providers.%s: %s", self.name, self._reason)
        misses = 0
        while misses < _MISSES:
            await asyncio.sleep(self._limits.look_s)
            misses = 0 if await self._is_answered() else misses + 1
        self._state, self._reason = "starting", ""

    async def _is_answered(self) -> bool:
        """Whether anything that speaks HTTP is there, ready or not: a second one could not listen beside it."""
        return await health_status(self._port, self._spec.health) != 0


def pause_of(failures: int, jitter: float, limits: Limits) -> float:
    """Seconds before the next start.

    Args:
        failures: in a row, before this one.
        jitter: in [0, 1); a quarter less to a quarter more.
    """
    return min(limits.pause_first_s * 2.0 ** min(failures, 32), limits.pause_max_s) * (0.75 + 0.5 * jitter)


def _spec_of(name: str, config: ProviderConfig, limits: Limits) -> EngineSpec:
    if not config.command:
        raise ValueError(f"providers.{name}: a server that is started here needs a command")
    return EngineSpec(
        target=f"{name}/server",
        alias=name,
        command=(*config.command, *config.args),
        env={key: secret.reveal() for key, secret in config.env.items()},
        device=config.device or "ram",
        health=_ROOT if config.health == _HEALTH else config.health,
        load_timeout_s=limits.ready_s + _BEYOND_S,
        stop_timeout_s=limits.stop_s,
    )


def _filled(name: str, spec: EngineSpec, port: int) -> tuple[list[str], dict[str, str]]:
    """Its argv and its environment. Raises: ValueError."""
    values = {"port": str(port)}
    try:
        argv = fill(spec.command, values, spec, name)
        return argv, dict(zip(spec.env, fill(list(spec.env.values()), values, spec, name), strict=True))
    except LoadFailed as error:
        raise ValueError(f"providers.{name}: {error.message}") from None


def _port_of(name: str, base_url: str) -> int:
    parts = urlsplit(base_url)
    if parts.scheme != "http" or parts.hostname not in (LOOPBACK, "localhost"):
        raise ValueError(
            f"providers.{name}: with a command the server runs on this machine: base_url must be http://{LOOPBACK}:PORT, "
            f"or the command must hold {_PORT}"
        )
    return parts.port or 80


def _because(child: Child) -> str:
    said = last_line(child.log_lines())
    return f": {said}" if said else ""
