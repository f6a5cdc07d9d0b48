"""llama.cpp: the embedded server in a process of its own, or the operator's own `llama-server`.

Law: one process per model; it takes what the estimate says and does not grow by itself beyond it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import secrets
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cachetools
import msgspec

from providers.command import CommandProvider, fill
from providers.contract import EngineSpec, Footprint, Offer, ProcessExit
from providers.engine import ProcessEngine, bring_up, last_line
from providers.errors import LoadFailed
from providers.gguf import GgufError, GgufInfo, kv_cache_bytes, process_bytes, read_info, working_bytes
from providers.llama_routes import LLAMA_SERVER_ROUTES
from providers.warden import Warden

_LAUNCHER = Path(__file__).with_name("llama_launcher.py")
_READY_LINE_BYTES = 4096
_HEADERS_KEPT = 256  # a few KiB each
_CHECKPOINTS = 4  # of windows and recurrent states per slot: enough to take up the last turns of a conversation
_GPU_HOST_BYTES = 256 << 20  # what the CUDA runtime keeps in RAM beside the process
_GPU_CONTEXT_BYTES = 320 << 20  # what one CUDA context takes on the device before any tensor
# Architectures that only embed and do not say so by a pooling type. Source: llama-arch.cpp.
_ENCODERS = frozenset(
    {"bert", "nomic-bert", "nomic-bert-moe", "neo-bert", "jina-bert-v2", "jina-bert-v3", "modern-bert", "eurobert",
     "gemma-embedding", "t5encoder"}
)  # fmt: skip
_ERROR_LINE = re.compile(r"^[\d.]+ E \S+\s+(?:\S+: )?(?P<said>.*)")  # "0.00.033.722 E llama_model_load: …"


class LlamaCppProvider(CommandProvider):
    """Loads GGUF files. Implements `contract.Provider` and `contract.Loader`.

    A spec's `args` are flags for `llama-server`, or "name=value" settings for the embedded one.

    Args:
        binary: the operator's own `llama-server`; None: the embedded one. A spec's own `command` goes before both.
    """

    kind = "llama_cpp"
    routes: frozenset[bytes] | None = LLAMA_SERVER_ROUTES

    def __init__(
        self,
        name: str,
        specs: Mapping[str, EngineSpec],
        warden: Warden,
        secret_env: frozenset[str] = frozenset(),
        binary: str | None = None,
    ) -> None:
        super().__init__(name, specs, warden, secret_env)
        self._binary = binary
        self._headers: cachetools.LRUCache[tuple[str, int, int], GgufInfo] = cachetools.LRUCache(_HEADERS_KEPT)

    async def catalogue(self) -> Sequence[Offer]:
        """What is configured, with what the files' headers say. Loads nothing; a file that cannot be read is left out."""
        return await asyncio.to_thread(self._offers)

    def _offers(self) -> list[Offer]:
        offers: list[Offer] = []
        for spec in self.specs().values():
            with contextlib.suppress(LoadFailed):
                offers.append(_offer(spec, self.header(spec)))
        return offers

    def header(self, spec: EngineSpec) -> GgufInfo:
        """What the weights file says of itself; remembered until the file changes. Blocking.

        Raises: LoadFailed: it is absent, unreadable or damaged.
        """
        if spec.source is None:
            raise LoadFailed(f"'{spec.alias}' names no GGUF file: set its source", source=self.name)
        try:
            stat = spec.source.stat()
            key = (str(spec.source), stat.st_size, stat.st_mtime_ns)
            info = self._headers.get(key)
            if info is None:
                info = self._headers[key] = read_info(spec.source)
        except GgufError as error:
            raise LoadFailed(
                f"the weights of '{spec.alias}' cannot be used: {error}", source=self.name, detail=str(spec.source)
            ) from error
        except OSError as error:
            raise LoadFailed(
                f"the weights of '{spec.alias}' cannot be read: {spec.source.name}: {error.strerror}",
                source=self.name,
                detail=str(spec.source),
            ) from error
        return info

    def estimate(self, spec: EngineSpec) -> Footprint:
        """The operator's word, else tensors, cache and working memory as the header gives them. Blocking.

        Raises: LoadFailed: the weights are absent or unreadable.
        """
        if spec.declared is not None:
            return spec.declared
        info = self.header(spec)
        context = _context(spec, info)
        micro_batch = context if _embeds(info) else 512
        on_device = info.tensor_bytes + kv_cache_bytes(info, context, spec.slots) + working_bytes(info, micro_batch)
        if info.recurrent_bytes or info.sliding_window:
            on_device += _checkpoint_bytes(info, context) * spec.slots
        if spec.device == "ram":
            return {"ram": on_device + process_bytes(info)}
        return {spec.device: on_device + _GPU_CONTEXT_BYTES, "ram": process_bytes(info) + _GPU_HOST_BYTES}

    async def load(self, spec: EngineSpec, on_exit: Callable[[ProcessExit], None]) -> ProcessEngine:
        """Start a server for this file and wait until it answers.

        Raises: LoadFailed. It leaves no process behind, nor does a cancelled call.
        """
        info = await asyncio.to_thread(self.header, spec)
        if spec.command or self._binary is not None:
            own = spec.command or (self._binary or "",)
            return await super().load(_with_flags(spec, own, info), on_exit)
        await self.guard()
        return await self._load_embedded(spec, info, on_exit)

    async def _load_embedded(
        self, spec: EngineSpec, info: GgufInfo, on_exit: Callable[[ProcessExit], None]
    ) -> ProcessEngine:
        key = secrets.token_urlsafe(24)
        read_end, write_end = os.pipe()
        try:
            asked = self._asked(spec, info, write_end)
            argv = [sys.executable, "-P", str(_LAUNCHER), "--json", json.dumps(asked)]
            extra = {**spec.env, "ROUNDHOUSE_ENGINE_KEY": key}
            child = self.start(spec, argv, extra, pass_fds=(write_end,))
        except BaseException:
            os.close(read_end)
            raise
        finally:
            os.close(write_end)
        return await bring_up(
            spec,
            child,
            _ready_line(read_end),
            source=self.name,
            on_exit=on_exit,
            headers=((b"authorization", b"Bearer " + key.encode()),),
            reason=first_error,
        )

    def _asked(self, spec: EngineSpec, info: GgufInfo, ready_fd: int) -> dict[str, Any]:
        return {
            "source": str(spec.source),
            "alias": spec.alias,
            "context": _context(spec, info),
            "slots": spec.slots,
            "threads": self.threads(spec),
            "gpu": spec.device != "ram",
            "embedding": _embeds(info),
            "checkpoints": _CHECKPOINTS,
            "settings": fill(spec.args, {}, spec, self.name),
            "parent": os.getpid(),
            "ready_fd": ready_fd,
        }


async def _ready_line(fd: int) -> str:
    """The address in the one line that the launcher writes. Closes fd. Never returns when it ends without one."""
    loop = asyncio.get_running_loop()
    line: asyncio.Future[str] = loop.create_future()
    held = bytearray()

    def readable() -> None:
        piece = os.read(fd, _READY_LINE_BYTES)
        held.extend(piece)
        if not piece or len(held) > _READY_LINE_BYTES:
            loop.remove_reader(fd)  # it is dying, or no launcher of ours: its exit or the time limit will say so
        elif held.endswith(b"\n") and not line.done():
            line.set_result(json.loads(held)["ready"])

    try:
        loop.add_reader(fd, readable)
        return await line
    finally:
        loop.remove_reader(fd)
        os.close(fd)


def first_error(log_lines: Sequence[str]) -> str:
    """llama.cpp names the cause first, and then once more in every function it leaves."""
    matches = (match["said"] for line in log_lines if (match := _ERROR_LINE.match(line)))
    return next(matches, "") or last_line(log_lines)


def _embeds(info: GgufInfo) -> bool:
    return info.pooling_type > 0 or info.architecture in _ENCODERS


def _context(spec: EngineSpec, info: GgufInfo) -> int:
    """Not more than it was trained on: beyond that llama.cpp reserves memory for answers that are noise."""
    return min(spec.context, info.context_length) if info.context_length else spec.context


def _checkpoint_bytes(info: GgufInfo, context: int) -> int:
    """What one slot's checkpoints may take: each holds the windows and states, at most a whole small cache."""
    return _CHECKPOINTS * kv_cache_bytes(info, min(context, max(info.sliding_window, 1)), 1)


def _offer(spec: EngineSpec, info: GgufInfo) -> Offer:
    _, _, name = spec.target.partition("/")
    if _embeds(info):
        return Offer(name=name, context_length=_context(spec, info), capabilities=("embedding",))
    capabilities = ("completion", "chat") if info.has_chat_template else ("completion",)
    return Offer(name=name, context_length=_context(spec, info), capabilities=capabilities)


def _with_flags(spec: EngineSpec, own: tuple[str, ...], info: GgufInfo) -> EngineSpec:
    """The operator's own llama-server, told what the embedded one is told. Source: llama.cpp, tools/server/README.md."""
    command = (
        *own,
        *("-m", "${source}", "-a", "${alias}"),
        *("--host", "127.0.0.1", "--port", "${port}"),
        *("-c", str(_context(spec, info) * spec.slots), "-np", "${slots}", "-t", "${threads}"),
        *("-ngl", "0" if spec.device == "ram" else "999"),
        "--metrics",
        *(("--embedding",) if _embeds(info) else ()),
    )
    # In the environment, which an older build ignores where it would end at an unknown flag; the operator's own word wins.
    bounds = {"LLAMA_ARG_CACHE_RAM": "0", "LLAMA_ARG_CTX_CHECKPOINTS": str(_CHECKPOINTS), "LLAMA_ARG_FIT": "off"}
    return msgspec.structs.replace(spec, command=command, env={**bounds, **spec.env})
