"""The same subjects against an upstream given from outside: a program that imitates several APIs and is told what to do.

    ROUNDHOUSE_CONTRACT_RIG=/path/to/the/program python -m pytest tests/providers/contract

It takes `--flavor`, `--port`, `--port-file`, `--models`, `--api-key`; is scripted by `POST /_fake/script`, told things by
`/_fake/state`, asked by `GET /_fake/stats` and `/_fake/requests`. Without the variable these subjects do not exist.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar, Self

import httpx

from tests.fakes.processes import until
from tests.providers.contract.subjects import KEY, WITHIN_S, Remoted
from tests.providers.contract.wires import ANTHROPIC, Messages, Trouble

PROGRAM = os.environ.get("ROUNDHOUSE_CONTRACT_RIG", "")
_LOOK_AGAIN_S = 0.01
_LOAD_MS = 300  # long enough to be cancelled
_SCRIPTS: Mapping[Trouble, Mapping[str, Any]] = {
    Trouble.SILENT: {"hang": "headers"},
    Trouble.LONG: {"mode": "tokens", "n": 50, "delay_ms": 60_000},
    Trouble.PAUSE: {"mode": "tokens", "n": 5, "fail": "hang", "fail_after": 1},
    Trouble.CUT: {"drop": "headers"},
    Trouble.RESET: {"drop": "rst"},
    Trouble.CUT_BODY: {"mode": "tokens", "n": 5, "fail": "drop", "fail_after": 1},
    Trouble.RESET_BODY: {"mode": "tokens", "n": 5, "fail": "rst", "fail_after": 1},
    Trouble.CUT_PLAIN: {"fail": "drop"},
}


class Rigs:
    """One process of the program for each of its flavours."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._up: dict[str, tuple[subprocess.Popen[bytes], int]] = {}

    async def port(self, flavor: str) -> int:
        """Where it listens."""
        if flavor not in self._up:
            port_file = Path(self._folder.name) / flavor
            flags = ("--flavor", flavor, "--port", "0", "--port-file", str(port_file), "--api-key", KEY)
            models = ("--models", "one:latest,two:1b")
            process = _start(*flags, *models)
            self._up[flavor] = process, 0
            await until(port_file.exists, WITHIN_S)
            self._up[flavor] = process, int(port_file.read_text())
        return self._up[flavor][1]

    def close(self) -> None:
        """End them all."""
        for process, _ in self._up.values():
            process.kill()
            process.wait()
        self._folder.cleanup()


def _start(*flags: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, PROGRAM, *flags], stdout=subprocess.DEVNULL)


class Rig(Remoted):
    """What all flavours share."""

    flavor: ClassVar[str]
    base_path: ClassVar[str] = "/v1"
    model = "one:latest"
    words: ClassVar[Sequence[str]] = ("t0", " t1", " t2")
    prompt = '@fake {"mode": "tokens", "n": 3}'
    client: httpx.AsyncClient

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[Self]:
        root = f"http://127.0.0.1:{await self.place.rigs.port(self.flavor)}"
        self.base_url = root + self.base_path
        # without certificates: reading them for every case takes longer than the cases
        fields = {"authorization": f"Bearer {KEY}"}
        async with httpx.AsyncClient(base_url=root, trust_env=False, verify=False, headers=fields) as client:  # noqa: S501
            self.client = client
            await self.tell("/_fake/reset")
            self.left_before = 0
            self.connect()
            try:
                yield self
            finally:
                await self.closed()
                await self._until(lambda stats: stats["inflight"] == 0)
                assert (await self.stats())["violations"] == []

    async def tell(self, path: str, **what: Any) -> Any:
        """A control call."""
        answer = await self.client.post(path, json=what)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def stats(self) -> Any:
        """What it has counted."""
        return (await self.client.get("/_fake/stats")).json() | {}

    async def _until(self, condition: Callable[[Any], bool]) -> None:
        async with asyncio.timeout(WITHIN_S):
            while True:
                stats = await self.stats()
                stats["inflight"] -= 1  # the question itself
                if condition(stats):
                    return
                await asyncio.sleep(_LOOK_AGAIN_S)

    async def ready(self, trouble: Trouble | None = None) -> asyncio.Event | None:
        if self.provider.server is not None and self.engine is None:
            self.engine = await self.load()
        if trouble is not None:
            if trouble not in _SCRIPTS:
                self.cannot("it has no such fault")
            steps = [_SCRIPTS[trouble]]
            if trouble in (
                Trouble.CUT,
                Trouble.RESET,
            ):  # once more: a kept connection that ends unused is no answer yet
                steps *= 2
            await self.tell("/_fake/script", steps=steps)
        self.left_before = (await self.stats()).get("client_disconnects", 0)
        return None

    async def answers(self, status: int, body: bytes, retry_after: str = "") -> None:
        headers = {"retry-after": retry_after} if retry_after else {}
        step = {"status": status, "body": body.decode(), "headers": headers}
        await self.tell("/_fake/script", steps=[step])

    async def arrived(self) -> None:
        await self._until(lambda stats: stats["inflight"] > 0)

    async def left(self) -> None:
        await self._until(
            lambda stats: (
                stats.get("client_disconnects", 0) == self.left_before + 1
                and stats["inflight"] == 0
                and self.remote.endpoint.in_flight == 0
            )
        )

    async def seen(self) -> Sequence[tuple[str, str]]:
        journal = (await self.client.get("/_fake/requests")).json()["requests"]
        last = next(one for one in reversed(journal) if one["target"].endswith(self.path.decode()))
        return [(name.lower(), value) for name, value in last["headers"]]

    async def memory(self) -> set[str]:
        return set((await self.stats())["loaded"]) if self.provider.server is not None else set()

    async def unload_behind(self) -> None:
        await self.tell("/_fake/state", unload=[self.model])

    async def hold_loads(self) -> None:
        await self.tell("/_fake/state", load_ms=_LOAD_MS)

    async def loading(self) -> None:
        await self._until(lambda stats: bool(stats["loading"]))


class RigOpenAI(Rig):
    """OpenAI."""

    id = "rig-openai"
    kind = flavor = "openai"


class RigVllm(Rig):
    """vLLM."""

    id = "rig-vllm"
    kind = "openai"
    flavor = "vllm"


class RigLlamaCpp(Rig):
    """llama.cpp's server, as an upstream."""

    id = "rig-llamacpp"
    kind = "openai"
    flavor = "llamacpp"


class RigAnthropic(Rig):
    """Anthropic, which every flavour speaks, too."""

    id = "rig-anthropic"
    kind = "anthropic"
    flavor = "openai"
    base_path = ""
    wire = Messages(always=ANTHROPIC.always, last=b'data: {"type":"message_stop"}\n\n')


class RigOpenRouter(Rig):
    """OpenRouter."""

    id = "rig-openrouter"
    kind = flavor = "openrouter"
    base_path = "/api/v1"


class RigOllama(Rig):
    """Ollama."""

    id = "rig-ollama"
    kind = flavor = "ollama"
    base_path = ""

    async def load_behind(self) -> None:
        await self.tell("/api/generate", model=self.model)

    async def hold_loads(self) -> None:
        # Source: Ollama's scheduler, "client connection closed before server finished loading, aborting load".
        self.cannot("it goes on loading for a caller who has left, which Ollama does not")


class RigLmStudio(Rig):
    """LM Studio."""

    id = "rig-lmstudio"
    kind = flavor = "lmstudio"
    base_path = ""

    async def load_behind(self) -> None:
        await self.tell("/api/v1/models/load", model=self.model)


_ALL: Sequence[type[Rig]] = (
    RigOllama,
    RigLmStudio,
    RigOpenRouter,
    RigOpenAI,
    RigVllm,
    RigLlamaCpp,
    RigAnthropic,
)
RIGS: Sequence[type[Rig]] = _ALL if PROGRAM else ()
