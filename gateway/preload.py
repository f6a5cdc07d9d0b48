"""What the configuration wants there from the start, in the background: models pulled to a server's disk, pinned ones loaded."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from typing import cast

from config.schema import Config
from gateway.residency.manager import ResidencyManager
from gateway.routing.listings import SETTLE_S, Listings
from providers.contract import Provider, Puller
from providers.errors import ProviderError
from providers.ollama_names import canonical

log = logging.getLogger("roundhouse")


async def preload(
    config: Config, providers: Mapping[str, Provider], listings: Listings, residency: ResidencyManager
) -> None:
    """One that cannot be is reported, and waits for its first request."""
    await listings.settle(SETTLE_S)
    for name, provider in providers.items():
        await _pull(name, config.providers[name].pull, provider, listings)
    for target, managed in list(residency.managed.items()):
        if managed.pinned:
            with contextlib.suppress(Exception):  # told in the log and in /admin/residency by whoever refused
                await residency.load(target, config.residency.patience_s)


async def _pull(name: str, wanted: tuple[str, ...], provider: Provider, listings: Listings) -> None:
    there = {offer.name for offer in listings.shelves[name].offers} if name in listings.shelves else set[str]()
    for model in map(canonical, wanted):
        if model in there:
            continue
        log.info("%s fetches %s", name, model)
        try:
            async with contextlib.aclosing(cast("Puller", provider).pull(model)) as steps:
                async for _ in steps:
                    pass
        except ProviderError as error:
            log.warning("%s could not fetch %s: %s", name, model, error)
        else:
            await listings.ask(name)
