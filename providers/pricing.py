"""What tokens cost, as exact decimals in USD. Pure.

The law: a price is what the upstream's catalogue says, digit for digit; nothing is rounded, averaged or guessed. A price that
varies (OpenRouter writes a negative one) is unknown, not cheap.
"""

from __future__ import annotations

from decimal import Decimal

import msgspec

ZERO = Decimal(0)


class Price(msgspec.Struct, frozen=True, kw_only=True):
    """USD per token, per request and per image; never negative."""

    prompt: Decimal  # per token read
    completion: Decimal  # per token written
    request: Decimal = ZERO  # per request
    image: Decimal = ZERO  # per picture read
    cache_read: Decimal | None = None  # per token read from the upstream's cache; None: as `prompt`
    cache_write: Decimal | None = None  # per token written into it; None: as `prompt`
    reasoning: Decimal | None = None  # per token thought; None: as `completion`


FREE = Price(prompt=ZERO, completion=ZERO)  # whatever runs on our own machines
