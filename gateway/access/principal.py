"""Who asks, and how much they may. Pure."""

from __future__ import annotations

from decimal import Decimal
from fnmatch import fnmatchcase

import msgspec

from gateway.errors import UnknownModel

_SHOWN_CHARS = 256  # of a name that somebody made up


class Limits(msgspec.Struct, frozen=True):
    """How much one key, or one tenant, may use. 0 and None: no limit."""

    rpm: int = 0  # requests in any 60 s
    tpm: int = 0  # tokens in any 60 s, prompt and answer together
    concurrent: int = 0  # requests at once
    budget_usd_day: Decimal | None = None  # per UTC day
    budget_usd_month: Decimal | None = None  # per calendar month, UTC


class Principal(msgspec.Struct, frozen=True):
    """Who asks."""

    name: str
    admin: bool
    key_id: str = ""
    tenant: str = ""
    may_name: tuple[str, ...] = ()  # the tenants it may name in X-Tenant-ID; "*": any
    models: tuple[str, ...] = ()  # patterns; none: all
    limits: Limits | None = None
    expires_at: float | None = None  # seconds since the epoch
    capture: bool = False  # bodies of its requests are kept
    tenant_models: tuple[str, ...] = ()  # patterns that its tenant holds it to, as well

    @property
    def sees_all(self) -> bool:
        """Whether there is no model that it may not ask for."""
        return not self.models and not self.tenant_models

    def may(self, model_name: str) -> bool:
        """Whether it may ask for this model, by its public name."""
        return (not self.models or _matches(model_name, self.models)) and (
            not self.tenant_models or _matches(model_name, self.tenant_models)
        )


def unknown_here(name: str) -> UnknownModel:
    """For who does not see all there is: the names that look like this one may be others' business."""
    shown = name if len(name) <= _SHOWN_CHARS else name[:_SHOWN_CHARS] + "…"
    message = f"The model '{shown}' does not exist here; GET /v1/models lists what this key may ask for"
    return UnknownModel(message, param="model")


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
