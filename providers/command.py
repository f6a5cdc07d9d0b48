"""Engines started by the operator's own command: anything that speaks HTTP on a port it is told (kind `process`).

Law: the command is an argv list and never sees a shell; what it may refer to is written ${like_this}, and a name that
is not known is an error at once rather than an engine that starts with nonsense.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from providers.contract import EngineSpec, Footprint, Loader, Offer, ProcessExit, Request, Response, Server
from providers.cores import cores_available, share
from providers.engine import ProcessEngine, bring_up
from providers.errors import LoadFailed, UpstreamUnreachable
from providers.ports import Ports
from providers.process import Child, engine_environment, spawn
from providers.readiness import until_healthy
from providers.warden import Warden

# Nothing known about it: half a GiB is what a small embedding server or a 1B model in 4 bits takes. It is replaced by
# what is measured at its first run.
UNKNOWN_BYTES = 512 << 20
_WORKING_SET_PERCENT = 110  # weights as they lie on disk, and what an engine needs around them
_PLACEHOLDER = re.compile(r"\$\{([^}]*)\}")


class CommandProvider:
    """Starts one engine per target from its own command. Implements `contract.Provider` and `contract.Loader`.

    Args:
        name: as the operator calls it.
        specs: by target.
        secret_env: names of environment variables no engine may see.
    """

    kind = "process"

    server: Server | None = None
    routes: frozenset[bytes] | None = None
    tagged = False
    variants: frozenset[str] = frozenset()

    def __init__(
        self,
        name: str,
        specs: Mapping[str, EngineSpec],
        warden: Warden,
        secret_env: frozenset[str] = frozenset(),
    ) -> None:
        self.name = name
        self.loader: Loader | None = self
        self._specs = dict(specs)
        self._warden = warden
        self._secret_env = secret_env
        self._ports = Ports()
        self._running = 0

    async def catalogue(self) -> Sequence[Offer]:
        """What is configured. Loads nothing."""
        return [Offer(name=upstream_name(spec), context_length=spec.context) for spec in self._specs.values()]

    async def send(self, request: Request) -> Response:
        """Raises: UpstreamUnreachable, always: there is no upstream beside the engines."""
        raise UpstreamUnreachable(
            f"provider '{self.name}' starts engines and has no address of its own; nothing was sent", source=self.name
        )

    async def aclose(self) -> None:
        """Nothing to close: engines are stopped by residency, and the warden belongs to the composition root."""

    def specs(self) -> Mapping[str, EngineSpec]:
        """Everything it can load, by target."""
        return self._specs

    def estimate(self, spec: EngineSpec) -> Footprint:
        """The operator's word, else the size of the weights and a tenth, else UNKNOWN_BYTES. Blocking: stats files.

        Raises: LoadFailed: the source is named and cannot be read.
        """
        if spec.declared is not None:
            return spec.declared
        if spec.source is None:
            return {spec.device: UNKNOWN_BYTES}
        return {spec.device: _size_bytes(spec.source, spec.alias, self.name) * _WORKING_SET_PERCENT // 100}

    async def load(self, spec: EngineSpec, on_exit: Callable[[ProcessExit], None]) -> ProcessEngine:
        """Start the command and wait for 200 on its health path.

        Raises: LoadFailed. It leaves no process behind, nor does a cancelled call.
        """
        await self.guard()
        port = self.take_port(spec)
        try:
            values = self._values(spec, port)
            argv = fill([*spec.command, *spec.args], values, spec, self.name)
            extra = dict(zip(spec.env, fill(list(spec.env.values()), values, spec, self.name), strict=True))
            if not any("${port}" in text for text in (*spec.command, *spec.args, *spec.env.values())):
                raise LoadFailed(
                    f"the engine of '{spec.alias}' is not told its port: put ${{port}} into its command, args or env",
                    source=self.name,
                )
            child = self.start(spec, argv, extra)
        except BaseException:
            self._ports.give_back(port)
            raise
        child.when_gone(lambda _: self._ports.give_back(port))
        ready = until_healthy(port, spec.health, child, source=self.name)
        return await bring_up(spec, child, ready, source=self.name, on_exit=on_exit)

    async def guard(self) -> None:
        """There is a warden. Raises: LoadFailed: no process can be started."""
        try:
            await self._warden.ensure()
        except OSError as error:
            raise LoadFailed(f"no process can be started: {error.strerror}", source=self.name) from error

    def take_port(self, spec: EngineSpec) -> int:
        """A port for one engine; give it back when that is gone. Raises: LoadFailed: none is left."""
        try:
            return self._ports.take()
        except OSError as error:
            raise LoadFailed(f"no port is left for '{spec.alias}': {error.strerror}", source=self.name) from error

    def start(
        self, spec: EngineSpec, argv: Sequence[str], extra: Mapping[str, str], pass_fds: Sequence[int] = ()
    ) -> Child:
        """Spawn an engine's process with its environment. Raises: LoadFailed: it cannot even be started."""
        env = engine_environment(
            os.environ,
            owner=self._warden.owner,
            secret_env=self._secret_env,
            extra={**device_environment(spec), **extra},
        )
        try:
            child = spawn(argv, env=env, stop_timeout_s=spec.stop_timeout_s, pass_fds=pass_fds)
        except OSError as error:
            program = Path(argv[0]).name if argv else ""
            raise LoadFailed(
                f"cannot start '{program}' for '{spec.alias}': {error.strerror}; check its command",
                source=self.name,
                detail=f"{argv!r}: {error}",
            ) from error
        except (ValueError, IndexError) as error:  # an empty argv; a NUL in an argument
            raise LoadFailed(
                f"the command of '{spec.alias}' is empty or malformed: {error}", source=self.name
            ) from error
        self._running += 1
        child.when_gone(self._one_less)
        return child

    def _one_less(self, _end: ProcessExit) -> None:
        self._running -= 1

    def threads(self, spec: EngineSpec) -> int:
        """For one more engine of this provider: its own word, else an equal part of the cores with those running."""
        return share(spec.threads, self._running, cores_available())

    def _values(self, spec: EngineSpec, port: int) -> dict[str, str]:
        values = {
            "port": str(port),
            "alias": spec.alias,
            "model": upstream_name(spec),
            "context": str(spec.context),
            "slots": str(spec.slots),
            "threads": str(self.threads(spec)),
        }
        if spec.source is not None:
            values["source"] = str(spec.source)
        if spec.device.startswith("gpu"):
            values["device_index"] = spec.device.removeprefix("gpu")
        return values


def upstream_name(spec: EngineSpec) -> str:
    """The target without its provider: "vllm/Qwen/Qwen3-8B" is "Qwen/Qwen3-8B" there."""
    return spec.target.partition("/")[2]


def device_environment(spec: EngineSpec) -> dict[str, str]:
    """Show it the one GPU that its memory was planned on, under the number 0."""
    if not spec.device.startswith("gpu"):
        return {}
    # By default CUDA numbers the fastest first; the driver's tools, which budgets are measured with, by bus.
    return {"CUDA_VISIBLE_DEVICES": spec.device.removeprefix("gpu"), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


def fill(texts: Sequence[str], values: Mapping[str, str], spec: EngineSpec, source: str) -> list[str]:
    """Put the values in place of ${name}. Raises: LoadFailed: a name that has no value."""

    def value(match: re.Match[str]) -> str:
        found = values.get(match[1])
        if found is None:
            needs = {"source": "needs a source", "device_index": 'needs device = "gpuN"'}.get(match[1], "is not known")
            raise LoadFailed(
                f"{match[0]} in the command of '{spec.alias}' {needs}; there are: {', '.join(sorted(values))}",
                source=source,
            )
        return found

    return [_PLACEHOLDER.sub(value, text) for text in texts]


def _size_bytes(weights: Path, alias: str, source: str) -> int:
    """Of a file, or of a folder of weights in whatever parts."""
    try:
        if weights.is_dir():
            return sum(part.stat().st_size for part in weights.rglob("*") if part.is_file())
        return weights.stat().st_size
    except OSError as error:
        raise LoadFailed(
            f"the weights of '{alias}' cannot be read: {weights.name}: {error.strerror}",
            source=source,
            detail=str(weights),
        ) from error
