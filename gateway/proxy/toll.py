"""What a request has to pass beside its key: whether it may ask for this model, and whether there is room within its limits.

The law: what is reserved is settled or released, however the request ends. Whom nothing limits costs nothing here.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from decimal import Decimal

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


_ZERO, _NOTHING = Decimal(0), Estimate()
Held = Reservation  # what one request has taken


class Toll:
    """Takes it, and gives back.

    Args:
        cost: by the catalogue's prices.
        clock: UTC, seconds since the epoch; the door's own.
    """

    def __init__(self, access: Access, cost: Cost, clock: Callable[[], float] = time.time) -> None:
        self._access = access
        self._cost = cost
        self._clock = clock

    def admit(self, principal: Principal, model: Model, asked: str) -> None:
        """`asked`: its name as the caller knows it. Raises: Forbidden."""
        if not principal.may(model.name):
            raise Forbidden(
                f"This key may not ask for '{asked}'; GET /v1/models lists what it may",
                param="model",
                code="model_not_allowed",
            )

    def take(self, principal: Principal, body: object, model: Model, target: str, client: Client) -> Held | None:
        """Room for one request, told in header fields; None: nothing limits it. Raises: RateLimited."""
        subjects = self._access.subjects(principal)
        if not subjects:
            return None
        tokens, cost_usd = _NOTHING, _ZERO
        counted = paid = False
        for _, limits in subjects:
            counted = counted or limits.tpm > 0
            paid = paid or limits.budget_usd_day is not None or limits.budget_usd_month is not None
        if (counted or paid) and isinstance(body, bytes):
            tokens = estimate(
                body, model.context_length or (None if model.offer is None else model.offer.context_length)
            )
        if paid:
            cost_usd = self._cost(target, Usage(prompt=tokens.prompt, completion=tokens.completion))
        limiter, now_s = self._access.limiter, self._clock()
        try:
            total = tokens.prompt + tokens.completion
            return limiter.reserve_all(subjects, tokens=total, cost_usd=cost_usd, now_s=now_s)
        finally:
            client.limit(*limiter.headers_all(subjects, now_s))

    def settle(self, held: Held, client: Client, error: BaseException | None) -> None:
        """It has ended."""
        limiter, now_s, usage = self._access.limiter, self._clock(), client.usage
        if usage is not None:
            limiter.settle(held, tokens=usage.total, cost_usd=self._cost(client.target, usage), now_s=now_s)
        elif not client.committed and isinstance(error, _UNUSED):
            limiter.release(held, now_s)
        elif client.status >= 400:  # the upstream's own refusal was handed on
            limiter.settle(held, tokens=0, cost_usd=_ZERO, now_s=now_s)
        else:  # the caller left, or an answer without usage: the estimate stands
            limiter.settle(held, tokens=None, cost_usd=None, now_s=now_s)
