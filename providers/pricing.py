"""What tokens cost, as exact decimals in USD. Pure.

The law: a price is what the upstream's catalogue says, digit for digit; nothing is rounded, averaged or guessed. A price that
varies (OpenRouter writes a negative one) or cannot be read is unknown, not cheap. All prices are per token, never per million:
whoever divides what is per token already by a million makes every model look free.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Context, Decimal

import msgspec

ZERO = Decimal(0)
# Digits of any sum of products here: a price has at most _WRITTEN_CHARS_MAX, a count of tokens below 20.
_EXACT = Context(prec=400)
_WRITTEN_CHARS_MAX = 48  # the longest price seen in a catalogue has 13
_EXPONENT_MAX = 40  # 1e-40 USD is no price; without a bound one written plainly could fill the memory
_NUMBER = re.compile(r"\d+(?:\.\d+)?(?:[eE][+-]?\d{1,3})?", re.ASCII)  # neither sign, blank, "_" nor "NaN"
_TOKENS_PER_MILLION = 6  # as a power of ten


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

# OpenRouter's word for each field that it may leave out, see its Models API, "Pricing Object".
_FLAT = {"request": "request", "image": "image"}
# On a model that costs, older entries write "0" for these where they have no price of their own; read as free they would
# make an answer look cheaper than it is (its documentation: "reasoning tokens are considered output tokens and charged so").
_OWN = {"input_cache_read": "cache_read", "input_cache_write": "cache_write", "internal_reasoning": "reasoning"}


# ---------------------------------------------------------------------- reading


def read_amount(written: object) -> Decimal | None:
    """An exact amount ≥ 0: "0.0000006", "6e-7", a Decimal, a whole number. None: negative, no number, or beyond any price.

    A float is none: it has lost its digits already.
    """
    if isinstance(written, bool) or not isinstance(written, str | int | Decimal):
        return None
    text = str(written)
    if len(text) > _WRITTEN_CHARS_MAX or not _NUMBER.fullmatch(text):
        return None
    amount = Decimal(text)
    exponent = amount.as_tuple().exponent
    return amount if isinstance(exponent, int) and abs(exponent) <= _EXPONENT_MAX else None


def read_price(pricing: Mapping[str, object]) -> Price | None:
    """OpenRouter's price object: USD per token, in strings.

    None: unknown, because prompt or completion is missing, or any price in it is negative (it varies) or cannot be read.
    The price is the one below the thresholds that `overrides` may name (dearer above so many tokens of prompt).
    """
    prompt, completion = read_amount(pricing.get("prompt")), read_amount(pricing.get("completion"))
    if prompt is None or completion is None:
        return None
    rest: dict[str, Decimal] = {}
    for word, field in (*_FLAT.items(), *_OWN.items()):
        written = pricing.get(word)
        if written is None:
            continue
        amount = read_amount(written)
        if amount is None:
            return None
        if word in _FLAT or amount or not (prompt or completion):
            rest[field] = amount
    return Price(prompt=prompt, completion=completion, **rest)


def is_sound(price: Price) -> bool:
    """Whether each part is a finite amount ≥ 0 of a usual size: one from a file or an operator need not be."""
    parts = (getattr(price, name) for name in Price.__struct_fields__)
    return all(part is None or read_amount(part) is not None for part in parts)


# ---------------------------------------------------------------------- what it comes to


def cost(
    price: Price,
    prompt_tokens: int,
    completion_tokens: int,
    cached: int = 0,
    reasoning: int = 0,
    requests: int = 1,
    images: int = 0,
    written: int = 0,
) -> Decimal:
    """USD, exact. Counts as in OpenAI's `usage`: never below zero, a part never above its whole.

    Args:
        cached: of the prompt's tokens, those read from the upstream's cache.
        reasoning: of the completion's tokens, those thought.
        written: of the prompt's tokens, those written into the cache.
    """
    prompt_tokens, completion_tokens = max(0, prompt_tokens), max(0, completion_tokens)
    cached = min(max(0, cached), prompt_tokens)
    written = min(max(0, written), prompt_tokens - cached)
    reasoning = min(max(0, reasoning), completion_tokens)
    parts = (
        (price.prompt, prompt_tokens - cached - written),
        (price.prompt if price.cache_read is None else price.cache_read, cached),
        (price.prompt if price.cache_write is None else price.cache_write, written),
        (price.completion, completion_tokens - reasoning),
        (price.completion if price.reasoning is None else price.reasoning, reasoning),
        (price.request, max(0, requests)),
        (price.image, max(0, images)),
    )
    total = ZERO
    for amount, count in parts:
        if count:
            total = _EXACT.fma(amount, Decimal(count), total)
    return total


def is_free(price: Price | None) -> bool:
    """Costs nothing, whatever is asked of it. An unknown price is not free."""
    return price is not None and not any(getattr(price, name) for name in Price.__struct_fields__)


def cost_per_token(price: Price) -> Decimal:
    """The dearest token: what a limit must hold against.

    An average of prompt and completion would let a dear completion through behind a cheap prompt, and an answer can be nearly
    all completion. Prices per request or picture are no prices of a token and do not count here, nor do those of the cache.
    """
    return max(price.prompt, price.completion, ZERO if price.reasoning is None else price.reasoning)


def estimate(price: Price | None, tokens: int) -> Decimal | None:
    """USD that so many tokens cost at most, without what is charged per request or picture; None: nobody knows."""
    return None if price is None else _EXACT.multiply(cost_per_token(price), Decimal(max(0, tokens)))


# USD per token, at most; what is above the last is expensive.
_CATEGORIES = (("very_cheap", Decimal("0.0001")), ("cheap", Decimal("0.001")), ("moderate", Decimal("0.01")))


def category(price: Price | None) -> str:
    """free, very_cheap (≤ 0.0001 USD per token), cheap (≤ 0.001), moderate (≤ 0.01), expensive, or unknown."""
    if price is None:
        return "unknown"
    if is_free(price):
        return "free"
    dearest = cost_per_token(price)
    return next((name for name, limit in _CATEGORIES if dearest <= limit), "expensive")


TOKENS_PER_DAY = (1_000, 5_000, 20_000, 100_000)  # light use, regular, heavy, a small team
DAYS_PER_MONTH = 30


def monthly(price: Price | None) -> dict[int, Decimal] | None:
    """USD in a month of 30 days at most, by tokens per day; None: nobody knows."""
    if price is None:
        return None
    return {daily: estimate(price, daily * DAYS_PER_MONTH) or ZERO for daily in TOKENS_PER_DAY}


# ---------------------------------------------------------------------- writing


def plain(amount: Decimal) -> str:
    """Digit for digit, never with an exponent: "0.00000060"."""
    return format(amount, "f")


def per_million(amount: Decimal) -> str:
    """A price per token as people read it: USD per million tokens, exact, with cents: "0.60", "0.075", "15.00"."""
    digits = plain(_EXACT.scaleb(amount, _TOKENS_PER_MILLION))
    whole, _, fraction = digits.partition(".")
    return f"{whole}.{fraction.rstrip('0').ljust(2, '0')}"


def words(price: Price | None) -> str:
    """ "$0.15 in, $0.60 out per million tokens", "free", or "unknown price"."""
    if price is None:
        return "unknown price"
    if is_free(price):
        return "free"
    fee = f", ${plain(price.request)} per request" if price.request else ""
    return f"${per_million(price.prompt)} in, ${per_million(price.completion)} out per million tokens{fee}"


def as_wire(price: Price) -> dict[str, str]:
    """For JSON: plain decimal strings by field, in USD; what costs nothing extra or as its basic price is left out."""
    parts = {name: getattr(price, name) for name in Price.__struct_fields__}
    return {
        name: plain(amount)
        for name, amount in parts.items()
        if amount is not None and (amount or name in ("prompt", "completion"))
    }
