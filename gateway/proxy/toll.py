"""What a request has to pass beside its key: whether it may ask for this model, and whether there is room within its limits.

The law: what is reserved is settled or released, however the request ends. Whom nothing limits costs nothing here.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

import msgspec

from gateway.access.door import Access
from gateway.access.estimate import Estimate, estimate
from gateway.access.limits import Reservation
from gateway.access.principal import Principal
from gateway.errors import CapacityError, Forbidden
from gateway.metering.usage import Usage
from gateway.routing.catalog import Model
from providers.errors import LoadFailed, UpstreamBusy, UpstreamCoolingDown, UpstreamKeyRefused, UpstreamUnreachable

from .client import Client

# Nothing has reached an upstream, so nothing was used.
_UNUSED = (CapacityError, LoadFailed, UpstreamUnreachable, UpstreamCoolingDown, UpstreamBusy, UpstreamKeyRefused)
# USD of a usage at a target; None: nobody knows
Cost = Callable[[str, Usage], Decimal | None]


class Held(msgspec.Struct, frozen=True):
    """What one request has taken."""

    reservation: Reservation


class Toll:
    """Takes it, and gives back.

    Args:
        cost: by the catalogue's prices.
    """

    def __init__(self, access: Access, cost: Cost) -> None:
        self._access = access
        self._cost = cost

    def admit(self, principal: Principal, model: Model) -> None:
        """Raises: Forbidden."""
        if not principal.may(model.name):
            raise Forbidden(
                f"This key may not ask for '{model.name}'; GET /v1/models lists what it may",
                param="model",
                code="model_not_allowed",
            )

    def take(self, principal: Principal, body: object, model: Model, target: str, client: Client) -> Held | None:
        """Room for one request, told in header fields; None: nothing limits it. Raises: RateLimited."""
        if not self._access.subjects(principal):
            return None
        context = model.context_length or (None if model.offer is None else model.offer.context_length)
        tokens = estimate(body, context) if isinstance(body, bytes) else Estimate()
        cost_usd = self._cost(target, Usage(prompt=tokens.prompt, completion=tokens.completion))
        try:
            reservation = self._access.reserve(principal, tokens=tokens.total, cost_usd=cost_usd)
        finally:
            client.limit(*self._access.limit_fields(principal))
        return None if reservation is None else Held(reservation)

    def settle(self, held: Held, client: Client, error: BaseException | None) -> None:
        """It has ended."""
        usage = client.usage
        if usage is not None:
            cost_usd = self._cost(client.target, usage)
            self._access.settle(held.reservation, tokens=usage.total, cost_usd=cost_usd)
        elif not client.committed and isinstance(error, _UNUSED):
            self._access.release(held.reservation)
        elif client.status >= 400:  # the upstream's own refusal was handed on
            self._access.settle(held.reservation, tokens=0, cost_usd=Decimal(0))
        else:  # the caller left, or an answer without usage: the estimate stands
            self._access.settle(held.reservation, tokens=None, cost_usd=None)
