"""Which models of a catalogue with prices are shown: only free ones, free ones first, none dearer than a limit. Pure.

The law: an unknown price is neither free nor affordable; a limit holds against the dearest token of a model; the order of the
catalogue is kept within each group.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal

import msgspec

from config.schema import ProviderConfig

from .contract import Offer
from .pricing import ZERO, cost_per_token, is_free, read_amount

DEFAULT_MAX_COST_PER_TOKEN = Decimal("0.001")  # USD: a thousand dollars per million tokens stops a slip, not a choice
FREE_ONLY_ENV = "OPENROUTER_SHOW_FREE_ONLY"
PREFER_FREE_ENV = "OPENROUTER_PREFER_FREE_MODELS"
MAX_COST_ENV = "OPENROUTER_MAX_COST_PER_TOKEN"
_FLAGS = {
    **dict.fromkeys(("true", "1", "yes", "on"), True),
    **dict.fromkeys(("false", "0", "no", "off"), False),
}


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What to show. `show_free_only` goes before `prefer_free_models`."""

    show_free_only: bool = False
    prefer_free_models: bool = True
    max_cost_per_token: Decimal = (
        DEFAULT_MAX_COST_PER_TOKEN  # USD, for paid models where free ones are preferred; 0: no limit
    )


def settings_from(config: ProviderConfig, environ: Mapping[str, str]) -> tuple[Settings, tuple[str, ...]]:
    """Each from the configuration, else from its environment variable, else the default.

    Returns: the settings, and what is to be logged of variables that make no sense and were not heeded.
    """
    complaints: list[str] = []

    def flag(configured: bool | None, name: str, default: bool) -> bool:
        if configured is not None:
            return configured
        written = environ.get(name, "").strip()
        if not written:
            return default
        if written.lower() not in _FLAGS:
            complaints.append(f"{name} is {written[:40]!r}: expected true or false; it is not heeded")
        return _FLAGS.get(written.lower(), default)

    def amount(configured: Decimal | None, name: str, default: Decimal) -> Decimal:
        if configured is not None:
            return configured
        written = environ.get(name, "").strip()
        if not written:
            return default
        read = read_amount(written)
        if read is None:
            complaints.append(f"{name} is {written[:40]!r}: expected USD per token ≥ 0; it is not heeded")
        return default if read is None else read

    defaults = Settings()
    settings = Settings(
        show_free_only=flag(config.show_free_only, FREE_ONLY_ENV, defaults.show_free_only),
        prefer_free_models=flag(config.prefer_free_models, PREFER_FREE_ENV, defaults.prefer_free_models),
        max_cost_per_token=amount(config.max_cost_per_token, MAX_COST_ENV, defaults.max_cost_per_token),
    )
    return settings, tuple(complaints)


def apply(offers: Sequence[Offer], settings: Settings) -> list[Offer]:
    """What is shown of them.

    show_free_only: the free ones. prefer_free_models: the free ones, then the others; where there is a limit, without those
    above it and those whose price is unknown. Neither: all of them, as they come, whatever they cost.
    """
    if settings.show_free_only:
        return free(offers)
    if not settings.prefer_free_models:
        return list(offers)
    limit = settings.max_cost_per_token
    paid = [offer for offer in offers if not is_free(offer.price)]
    return [*free(offers), *(offer for offer in paid if limit <= ZERO or _within(offer, limit))]


def free(offers: Sequence[Offer]) -> list[Offer]:
    """Those that cost nothing."""
    return [offer for offer in offers if is_free(offer.price)]


def affordable(offers: Sequence[Offer], limit: Decimal) -> list[Offer]:
    """Those whose dearest token costs at most so many USD, the free ones among them; never one whose price is unknown."""
    return [offer for offer in offers if is_free(offer.price) or _within(offer, limit)]


def _within(offer: Offer, limit: Decimal) -> bool:
    return offer.price is not None and cost_per_token(offer.price) <= limit
