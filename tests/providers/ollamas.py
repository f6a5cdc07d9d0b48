"""What the tests of Ollama share: a fake with a provider to it, and specs of its models."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from config.schema import ProviderConfig
from providers.contract import Engine, EngineSpec, Footprint, ProcessExit
from providers.ollama import OllamaProvider
from providers.remote import Site
from tests.fakes.ollama import FakeModel, FakeOllama

MB = 1_000_000


def spec(
    model: str, *, provider: str = "ollama", declared: Footprint | None = None, limit_s: float = 5.0
) -> EngineSpec:
    return EngineSpec(
        target=f"{provider}/{model}", alias=model, declared=declared, load_timeout_s=limit_s, stop_timeout_s=limit_s
    )


def provider_to(base_url: str, *, name: str = "ollama", gpu: str | None = None, **keys: Any) -> OllamaProvider:
    config = ProviderConfig(kind="ollama", base_url=base_url, **keys)
    return OllamaProvider(name, config, Site(state_dir=Path("unused"), gpus={gpu: 0} if gpu else {}))


def never_exits(exited: ProcessExit) -> None:
    raise AssertionError(f"nobody calls this: {exited}")


class Setup:
    """An Ollama and a provider to it."""

    def __init__(self, ollama: FakeOllama, provider: OllamaProvider) -> None:
        self.ollama = ollama
        self.provider = provider

    async def load(self, model: str, **options: Any) -> Engine:
        return await self.provider.load(spec(model, **options), never_exits)

    def loading(self, model: str, **options: Any) -> asyncio.Task[Engine]:
        """A load that waits at the gate."""
        self.ollama.loading.clear()
        return asyncio.create_task(self.load(model, **options))

    async def held(self) -> Mapping[str, Footprint]:
        return {item.name: item.footprint for item in await self.provider.held()}

    async def settled(self) -> None:
        """Nothing is in flight on either side."""
        await self.ollama.until(lambda: self.provider.endpoint.in_flight == 0 and self.ollama.in_flight == 0)


@asynccontextmanager
async def connected(*models: FakeModel, fake: Mapping[str, Any] | None = None, **keys: Any) -> AsyncGenerator[Setup]:
    async with FakeOllama(*models, **(fake or {})) as ollama:
        provider = provider_to(ollama.base_url, **keys)
        try:
            yield Setup(ollama, provider)
        finally:
            await provider.aclose()
            assert provider.endpoint.in_flight == 0
