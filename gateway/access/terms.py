"""On which terms a key, or a tenant, may use the gateway: as configured, as kept in the database, as shown. Pure."""

from __future__ import annotations

from decimal import Decimal
from typing import Literal

import msgspec

from config.schema import LimitsConfig

from .principal import Limits

Source = Literal["config", "database"]


class Terms(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is said of a key beside its name. In the database it is JSON; what an older program kept has the defaults."""

    models: tuple[str, ...] = ()
    tenants: tuple[str, ...] = ()  # whom it has to name
    rpm: int = 0
    tpm: int = 0
    concurrent: int = 0
    budget_usd_day: Decimal | None = None
    budget_usd_month: Decimal | None = None
    capture: bool = False

    def limits(self) -> Limits | None:
        """None: there is no limit at all."""
        limits = Limits(self.rpm, self.tpm, self.concurrent, self.budget_usd_day, self.budget_usd_month)
        return None if limits == _UNLIMITED else limits


_UNLIMITED = Limits()


class KeyRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One key, without anything it could be used by."""

    id: str
    name: str
    prefix: str  # what is shown of it; "" of configured ones
    tenant: str
    admin: bool
    terms: Terms
    source: Source
    created_s: float | None = None  # seconds since the epoch, as all of these
    expires_s: float | None = None
    revoked_s: float | None = None


class TenantRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One tenant."""

    id: str
    display_name: str
    terms: Terms
    source: Source
    created_s: float | None = None


def terms_of(config: LimitsConfig, *, tenants: tuple[str, ...] = (), capture: bool = False) -> Terms:
    """As configured."""
    return Terms(
        models=config.models,
        tenants=tenants,
        rpm=config.rpm,
        tpm=config.tpm,
        concurrent=config.concurrent,
        budget_usd_day=config.budget_usd_day,
        budget_usd_month=config.budget_usd_month,
        capture=capture,
    )
