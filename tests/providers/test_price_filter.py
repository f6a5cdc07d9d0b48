"""What is shown of a priced catalogue: free ones only, free ones first, none dearer than a limit."""

from __future__ import annotations

from decimal import Decimal
from itertools import product

import pytest

from config.schema import ProviderConfig
from providers.contract import Offer
from providers.price_filter import Settings, affordable, apply, free, settings_from
from providers.pricing import Price

NO_LIMIT = Decimal(0)


def offer(name: str, prompt: str | None, completion: str = "0", **rest: str) -> Offer:
    if prompt is None:
        return Offer(name=name)
    parts = {part: Decimal(amount) for part, amount in rest.items()}
    return Offer(name=name, price=Price(prompt=Decimal(prompt), completion=Decimal(completion), **parts))


# in an order that no rule would give by chance
CATALOGUE = [
    offer("dear", "0.00001", "0.00003"),
    offer("free-1", "0", "0"),
    offer("varies", None),
    offer("cheap", "0.0000001", "0.0000004"),
    offer("free-2", "0"),
    offer("dear-answer", "0.0000001", "0.00008"),
    offer("dear-prompt", "0.00008", "0.0000001"),
    offer("fee", "0", "0", request="0.01"),
]
LIMIT = Decimal("0.00001")


def names(offers: list[Offer]) -> list[str]:
    return [each.name for each in offers]


def shown(*, free_only: bool = False, prefer: bool = True, limit: Decimal = LIMIT) -> list[str]:
    settings = Settings(show_free_only=free_only, prefer_free_models=prefer, max_cost_per_token=limit)
    return names(apply(CATALOGUE, settings))


@pytest.mark.parametrize(("prefer", "limit"), list(product((True, False), (NO_LIMIT, LIMIT))))
def test_free_only_shows_the_free_ones_whatever_else_is_set(prefer: bool, limit: Decimal) -> None:
    """T36: neither the other flag nor a limit brings a paid or unpriced one back."""
    assert shown(free_only=True, prefer=prefer, limit=limit) == ["free-1", "free-2"]


def test_preferring_puts_the_free_ones_first_and_drops_what_is_above_the_limit() -> None:
    """T37: the order within each group stays; unpriced ones go, too."""
    assert shown() == ["free-1", "free-2", "cheap", "fee"]


def test_preferring_without_a_limit_drops_nothing() -> None:
    """T39: zero means no limit; then the unpriced ones stay among the paid."""
    assert shown(limit=NO_LIMIT) == [
        "free-1",
        "free-2",
        "dear",
        "varies",
        "cheap",
        "dear-answer",
        "dear-prompt",
        "fee",
    ]


def test_both_off_shows_everything_as_it_comes() -> None:
    """T38: the limit does not hold here."""
    assert shown(prefer=False) == names(CATALOGUE)


def test_a_price_at_the_limit_is_within_it() -> None:
    """To the last digit, as no float could tell."""
    at, above = offer("at", "0", "0.0000006"), offer("above", "0", "0.00000060000000000000000001")
    settings = Settings(max_cost_per_token=Decimal("0.0000006"))
    assert names(apply([above, at], settings)) == ["at"]


def test_a_limit_holds_against_prices_per_token() -> None:
    """The original's fault: divided by a million again, $0.60 per million passed any limit one could set (W11)."""
    mini = offer("mini", "0.00000015", "0.0000006")
    assert apply([mini], Settings(max_cost_per_token=Decimal("0.0000005"))) == []
    assert apply([mini], Settings(max_cost_per_token=Decimal("0.000001"))) == [mini]


def test_the_default_limit_lets_today_s_models_through() -> None:
    """T39: 0.001 USD per token, a thousand per million."""
    settings = Settings()
    assert (settings.show_free_only, settings.prefer_free_models) == (False, True)
    assert settings.max_cost_per_token == Decimal("0.001")
    dearest, beyond = offer("dearest", "0.00015", "0.0006"), offer("beyond", "0.0011", "0")
    assert names(apply([dearest, beyond], settings)) == ["dearest"]


def test_the_given_catalogue_is_not_changed() -> None:
    """It is kept, to be filtered anew when the settings change."""
    before = list(CATALOGUE)
    for free_only, prefer in product((True, False), repeat=2):
        result = apply(CATALOGUE, Settings(show_free_only=free_only, prefer_free_models=prefer))
        result.clear()
    assert before == CATALOGUE


def test_free_and_affordable_ask_the_price_alone() -> None:
    """T41: free ones are always affordable, an unknown price never."""
    assert names(free(CATALOGUE)) == ["free-1", "free-2"]
    assert names(affordable(CATALOGUE, LIMIT)) == ["free-1", "cheap", "free-2", "fee"]
    assert names(affordable([offer("paid", "0.1"), offer("free", "0")], Decimal(0))) == ["free"]


# --- where the settings come from


def config(free_only: bool | None = None, prefer: bool | None = None, limit: Decimal | None = None) -> ProviderConfig:
    return ProviderConfig(
        kind="openrouter", show_free_only=free_only, prefer_free_models=prefer, max_cost_per_token=limit
    )


ENVIRON = {
    "OPENROUTER_SHOW_FREE_ONLY": "true",
    "OPENROUTER_PREFER_FREE_MODELS": "off",
    "OPENROUTER_MAX_COST_PER_TOKEN": "0.00002",
}


def test_without_a_word_the_defaults_hold() -> None:
    """An empty variable says nothing."""
    assert settings_from(config(), {}) == (Settings(), ())
    assert settings_from(config(), dict.fromkeys(ENVIRON, " ")) == (Settings(), ())


def test_the_environment_goes_before_the_defaults() -> None:
    """T40: all three variables."""
    expected = Settings(show_free_only=True, prefer_free_models=False, max_cost_per_token=Decimal("0.00002"))
    assert settings_from(config(), ENVIRON) == (expected, ())


def test_the_configuration_goes_before_the_environment() -> None:
    """T40: also where it says false or zero."""
    settings, complaints = settings_from(config(False, True, Decimal(0)), ENVIRON)
    assert settings == Settings(show_free_only=False, prefer_free_models=True, max_cost_per_token=Decimal(0))
    assert complaints == ()


def test_each_setting_is_looked_up_for_itself() -> None:
    """One in the configuration does not hide the other variables."""
    settings, _ = settings_from(config(prefer=True), ENVIRON)
    assert settings == Settings(show_free_only=True, prefer_free_models=True, max_cost_per_token=Decimal("0.00002"))


@pytest.mark.parametrize(
    ("written", "meant"),
    [(word, True) for word in ("true", "1", "yes", "on", "TRUE", " Yes ")]
    + [(word, False) for word in ("false", "0", "no", "off", "Off")],
)
def test_flags_are_written_in_four_ways(written: str, meant: bool) -> None:
    """T40: true, 1, yes and on, in any case; and their opposites."""
    settings, complaints = settings_from(
        config(), {"OPENROUTER_SHOW_FREE_ONLY": written, "OPENROUTER_PREFER_FREE_MODELS": written}
    )
    assert (settings.show_free_only, settings.prefer_free_models, complaints) == (meant, meant, ())


@pytest.mark.parametrize("written", ["cheap", "-1", "nan", "inf", "0,001", "1e-999", "1_0"])
def test_a_number_that_is_none_is_not_heeded_but_reported(written: str) -> None:
    """T40: the default holds, and the log can say why."""
    settings, complaints = settings_from(config(), {"OPENROUTER_MAX_COST_PER_TOKEN": written})
    assert settings == Settings()
    assert len(complaints) == 1
    assert "OPENROUTER_MAX_COST_PER_TOKEN" in complaints[0]
    assert written in complaints[0]


def test_a_flag_that_is_none_is_not_heeded_but_reported() -> None:
    """It does not silently mean false: prefer_free_models is on unless somebody turns it off."""
    settings, complaints = settings_from(config(), {"OPENROUTER_PREFER_FREE_MODELS": "maybe"})
    assert settings == Settings()
    assert len(complaints) == 1
    assert "OPENROUTER_PREFER_FREE_MODELS" in complaints[0]


def test_a_variable_that_the_configuration_overrides_is_not_complained_of() -> None:
    """Nobody reads it then."""
    assert settings_from(config(limit=Decimal(1)), {"OPENROUTER_MAX_COST_PER_TOKEN": "cheap"})[1] == ()
