"""What the tests of this room list."""

from __future__ import annotations

from gateway.routing.catalog import Listing, Model, Target
from providers.contract import Offer

VARIANTS = frozenset({":nitro", ":online"})


def target(key: str) -> Target:
    """A target whose upstream name is the rest of its key."""
    provider, _, name = key.partition("/")
    return Target(key, provider, name)


def configured(name: str, *keys: str, aliases: tuple[str, ...] = ()) -> Model:
    """A model of the operator's."""
    return Model(name, tuple(target(key) for key in keys), aliases)


def listing(provider: str, *names: str, tagged: bool = False, variants: frozenset[str] = frozenset()) -> Listing:
    """A provider that lists these names."""
    return Listing(provider, [Offer(name=name) for name in names], tagged, variants)


def ollama(*names: str, provider: str = "ollama") -> Listing:
    """One whose names have tags."""
    return listing(provider, *names, tagged=True)


def openrouter(*names: str) -> Listing:
    """One whose names may carry suffixes."""
    return listing("openrouter", *names, variants=VARIANTS)
