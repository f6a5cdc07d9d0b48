"""The configuration's remote providers, for commands that speak to one without a running gateway."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from config.schema import ENGINE_KINDS, Config
from providers import REMOTES
from providers.contract import Provider, Puller
from providers.errors import ProviderError
from providers.remote import Site


def built(config: Config, name: str) -> Provider:
    """One remote provider. It has no connections yet; close it all the same.

    Raises: ValueError: its address, proxy or certificates cannot be used; names the provider, shows no secret.
    """
    provider = config.providers[name]
    # without GPUs: on which device a model counts is residency's business, and not asked here
    return REMOTES[provider.kind](name, provider, Site(state_dir=config.server.state_dir))


@asynccontextmanager
async def puller(config: Config, name: str) -> AsyncGenerator[tuple[Provider, Puller], None]:
    """A provider that fetches models to its own disk, in both its roles. Raises: ProviderError: it is none."""
    kind = config.providers[name].kind
    if kind in ENGINE_KINDS:
        raise ProviderError(f"'{name}' starts engines of files and keeps no models of its own: name the file instead")
    try:
        provider = built(config, name)
    except ValueError as error:
        raise ProviderError(str(error)) from None
    try:
        if not isinstance(provider, Puller):
            raise ProviderError(f"'{name}' cannot be told to fetch or delete models (kind {kind}): do it there")
        yield provider, provider
    finally:
        await provider.aclose()
