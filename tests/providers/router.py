"""What OpenRouter's tests share: a catalogue, and a provider that speaks to the fake."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from config.forms import Secret
from config.schema import ProviderConfig
from providers.openrouter import OpenRouterProvider
from providers.price_filter import Settings
from providers.remote import Site
from tests.fakes.openrouter import KEY, FakeOpenRouter, entry

ENTRIES = [
    entry("a/dear", "0.00001", "0.00003"),
    entry("a/free:free", "0", "0"),
    entry("openrouter/auto", "-1", "-1"),
    entry("a/cheap", "0.0000001", "0.0000004"),
]
EVERYTHING = Settings(prefer_free_models=False)


class Clock:
    """Seconds since the epoch, as the test says."""

    def __init__(self) -> None:
        self.now_s = 1_000_000.0

    def __call__(self) -> float:
        return self.now_s


def made(
    base_url: str,
    state_dir: Path,
    *,
    key: str | None = KEY,
    environ: Mapping[str, str] | None = None,
    clock: Clock | None = None,
    name: str = "openrouter",
    **keys: Any,
) -> OpenRouterProvider:
    config = ProviderConfig(
        kind="openrouter", base_url=base_url, api_key=None if key is None else Secret(key), proxy=None, **keys
    )
    return OpenRouterProvider(name, config, Site(state_dir=state_dir), environ or {}, clock or Clock())


class Setup:
    """OpenRouter, and a provider that speaks to it."""

    def __init__(self, router: FakeOpenRouter, provider: OpenRouterProvider, clock: Clock) -> None:
        self.router = router
        self.provider = provider
        self.clock = clock

    async def names(self) -> list[str]:
        return [offer.name for offer in await self.provider.catalogue()]

    async def settled(self) -> None:
        await self.router.upstream.until(lambda: self.provider.endpoint.in_flight == 0)


@asynccontextmanager
async def connected(
    state_dir: Path, entries: list[Any] | None = None, page: int = 0, **keys: Any
) -> AsyncGenerator[Setup]:
    clock = Clock()
    async with FakeOpenRouter(ENTRIES if entries is None else entries, page=page) as router:
        provider = made(router.base_url, state_dir, clock=clock, **keys)
        try:
            yield Setup(router, provider, clock)
        finally:
            await provider.aclose()
            assert provider.endpoint.in_flight == 0
