"""Prices: read digit for digit, never rounded, averaged or guessed."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.pricing import (
    FREE,
    Price,
    as_wire,
    category,
    cost,
    cost_per_token,
    estimate,
    is_free,
    is_sound,
    monthly,
    per_million,
    plain,
    read_amount,
    read_price,
    words,
)

MINI = {"prompt": "0.00000015", "completion": "0.0000006"}  # $0.15 and $0.60 per million tokens


def price(prompt: str, completion: str, **rest: str) -> Price:
    return Price(
        prompt=Decimal(prompt),
        completion=Decimal(completion),
        **{name: Decimal(amount) for name, amount in rest.items()},
    )


def known(pricing: Mapping[str, object]) -> Price:
    found = read_price(pricing)
    assert found is not None
    return found


# --- reading


def test_a_price_is_read_digit_for_digit() -> None:
    """Neither a float nor a rounding comes between: trailing zeros stay, too."""
    found = known({"prompt": "0.00000010", "completion": "0.0000006"})
    assert (str(found.prompt), plain(found.prompt)) == ("1.0E-7", "0.00000010")
    assert plain(found.completion) == "0.0000006"


def test_every_part_that_openrouter_names_has_its_field() -> None:
    """Its words are mapped to ours; what we do not bill (web search, audio) is left aside."""
    found = known(
        {
            "prompt": "0.000003",
            "completion": "0.000015",
            "request": "0.005",
            "image": "0.0048",
            "input_cache_read": "0.0000003",
            "input_cache_write": "0.00000375",
            "internal_reasoning": "0.00002",
            "web_search": "0.01",
            "audio": "nonsense",
            "discount": 0,
            "overrides": [{"min_prompt_tokens": 272000, "prompt": "0.000006"}],
        }
    )
    assert found == price(
        "0.000003",
        "0.000015",
        request="0.005",
        image="0.0048",
        cache_read="0.0000003",
        cache_write="0.00000375",
        reasoning="0.00002",
    )


def test_a_part_that_is_not_named_costs_nothing_or_as_its_basic_price() -> None:
    """Absent and null are the same."""
    found = known({**MINI, "request": None, "internal_reasoning": None})
    assert (found.request, found.image) == (0, 0)
    assert (found.cache_read, found.cache_write, found.reasoning) == (None, None, None)


def test_zero_for_a_part_without_a_price_of_its_own_does_not_make_it_free() -> None:
    """Entries write "0" for reasoning and cache where these are charged as any token."""
    found = known({**MINI, "internal_reasoning": "0", "input_cache_read": "0", "input_cache_write": "0"})
    assert (found.cache_read, found.cache_write, found.reasoning) == (None, None, None)
    assert cost(found, 10, 10, cached=10, reasoning=10) == 10 * found.prompt + 10 * found.completion


@pytest.mark.parametrize("pricing", [{}, {"prompt": "0.1"}, {"completion": "0.1"}, {"prompt": None, "completion": "0"}])
def test_without_prompt_or_completion_a_price_is_unknown(pricing: Mapping[str, object]) -> None:
    """Half a price is none: the other half is not guessed."""
    assert read_price(pricing) is None


UNREADABLE: tuple[object, ...] = (
    *(
        "-1",
        "-0.000001",
        "NaN",
        "nan",
        "Infinity",
        "-Infinity",
        "sNaN",
        "",
        " ",
        "0,1",
        "1_000",
        "٣",
        "0x1",
        "$1",
        "+1",
    ),
    *(" 0.1", "0.1\n", "1e-999999999", "1E+999", "0." + "1" * 60, ".1", "1.", "e5", 0.1, True, [], {}),
)


@pytest.mark.parametrize("written", UNREADABLE)
@pytest.mark.parametrize("word", ["prompt", "completion", "request", "image", "input_cache_read", "internal_reasoning"])
def test_a_negative_or_unreadable_part_makes_the_price_unknown(word: str, written: object) -> None:
    """A router's "-1" means it varies; taken as a number it would pass for the cheapest of all (W11)."""
    assert read_price({**MINI, word: written}) is None


def test_numbers_are_taken_where_they_kept_their_digits() -> None:
    """Decimals and whole numbers, plain or with an exponent; a float has lost them."""
    assert read_amount(Decimal("1E-7")) == read_amount("1e-7") == read_amount("0.0000001") == Decimal("0.0000001")
    assert read_amount(0) == 0
    assert read_amount(1e-7) is None


@pytest.mark.parametrize("amount", ["NaN", "-1", "Infinity", "1E-999999", "1E+400"])
def test_a_price_from_elsewhere_is_sound_only_with_usual_amounts(amount: str) -> None:
    """A file of ours could be anybody's; a NaN would break every comparison."""
    assert not is_sound(Price(prompt=Decimal(amount), completion=Decimal(0)))
    assert not is_sound(Price(prompt=Decimal(0), completion=Decimal(0), reasoning=Decimal(amount)))
    assert is_sound(known(MINI))


# --- a millionth too cheap


def test_the_price_per_token_is_not_divided_by_a_million_again() -> None:
    """The original took (prompt + completion) / 2,000,000 of prices that were per token already: every model looked free."""
    mini = known(MINI)
    fault = (mini.prompt + mini.completion) / 2_000_000
    assert cost_per_token(mini) == Decimal("0.0000006")
    assert cost_per_token(mini) / fault > 1_000_000
    assert cost(mini, 1_000_000, 1_000_000) == Decimal("0.75")
    assert per_million(mini.prompt) == "0.15"


def test_the_dearest_token_counts_not_the_average() -> None:
    """A cheap prompt does not hide a dear completion, nor dear thinking."""
    assert cost_per_token(price("0.000001", "0.000075")) == Decimal("0.000075")
    assert cost_per_token(price("0.00005", "0.00001")) == Decimal("0.00005")
    assert cost_per_token(price("0.000001", "0.000002", reasoning="0.000009")) == Decimal("0.000009")


# --- what it comes to


def test_cost_takes_every_part_at_its_own_price() -> None:
    """Cached, written and thought tokens are parts of prompt and completion, not more of them."""
    dear = price(
        "0.000003",
        "0.000015",
        request="0.005",
        image="0.0048",
        cache_read="0.0000003",
        cache_write="0.00000375",
        reasoning="0.00002",
    )
    expected = (
        700 * Decimal("0.000003")
        + 200 * Decimal("0.0000003")
        + 100 * Decimal("0.00000375")
        + 40 * Decimal("0.000015")
        + 10 * Decimal("0.00002")
        + Decimal("0.005")
        + 2 * Decimal("0.0048")
    )
    assert cost(dear, 1000, 50, cached=200, reasoning=10, images=2, written=100) == expected
    assert cost(dear, 0, 0) == Decimal("0.005")
    assert cost(dear, 0, 0, requests=0) == 0


def test_counts_that_cannot_be_are_cut_to_what_can() -> None:
    """An upstream's `usage` may be wrong; a cost below zero is never."""
    mini = known(MINI)
    assert cost(mini, 10, 5, cached=99, reasoning=99, written=99) == cost(mini, 10, 5)
    cached = price("0.1", "0.2", cache_read="0.01", cache_write="0.3", reasoning="0.5")
    assert cost(cached, 10, 5, cached=-1, reasoning=-1, written=-1) == 2
    assert cost(cached, 10, 5, cached=99, reasoning=99, written=99) == Decimal("2.6")
    assert cost(mini, -10, -5, cached=-1, reasoning=-1, requests=-1, images=-1) == 0


_AMOUNTS = st.integers(0, 10**12).map(lambda units: Decimal(units).scaleb(-15))


@given(_AMOUNTS, _AMOUNTS, st.integers(0, 10**15), st.integers(0, 10**15))
def test_cost_is_exact(prompt: Decimal, completion: Decimal, read: int, written: int) -> None:
    """As whole numbers would give it: the default context's 28 digits would round here."""
    found = cost(Price(prompt=prompt, completion=completion), read, written)
    units = int(prompt.scaleb(15)) * read + int(completion.scaleb(15)) * written
    assert found == Decimal(f"{units}E-15")
    assert int(plain(found).replace(".", "")) == units


def test_free_is_what_costs_nothing_at_all() -> None:
    """Tokens for nothing with a fee per request are not free, nor is what nobody knows."""
    assert is_free(FREE)
    assert is_free(known({"prompt": "0", "completion": "0.0", "request": "0", "internal_reasoning": "0"}))
    assert not is_free(None)
    for part in ("request", "image", "reasoning", "cache_read", "cache_write"):
        assert not is_free(price("0", "0", **{part: "0.001"}))
    assert not is_free(price("0", "0.0000001"))
    assert not is_free(price("0.0000001", "0"))


@pytest.mark.parametrize(
    ("dearest", "name"),
    [
        ("0.000000000001", "very_cheap"),
        ("0.0001", "very_cheap"),
        ("0.00010000000000000000001", "cheap"),
        ("0.001", "cheap"),
        ("0.00100000000000000000001", "moderate"),
        ("0.01", "moderate"),
        ("0.01000000000000000000001", "expensive"),
        ("2", "expensive"),
    ],
)
def test_categories_have_exact_limits(dearest: str, name: str) -> None:
    """In USD per token; a limit itself still belongs to the cheaper one."""
    assert category(price("0", dearest)) == name
    assert category(price(dearest, "0")) == name


def test_free_and_unknown_are_categories_of_their_own() -> None:
    """Zero is free; a price that varies is not the cheapest."""
    assert category(FREE) == "free"
    assert category(None) == "unknown"
    assert category(price("0", "0", request="0.01")) == "very_cheap"


def test_estimate_is_the_dearest_token_times_their_number() -> None:
    """None where there is no price, never zero."""
    assert estimate(known(MINI), 1000) == Decimal("0.0006")
    assert estimate(FREE, 1000) == 0
    assert estimate(None, 1000) is None
    assert estimate(known(MINI), -5) == 0


def test_a_month_in_four_sizes() -> None:
    """1,000, 5,000, 20,000 and 100,000 tokens a day for 30 days."""
    assert monthly(known(MINI)) == {
        1_000: Decimal("0.018"),
        5_000: Decimal("0.09"),
        20_000: Decimal("0.36"),
        100_000: Decimal("1.8"),
    }
    assert monthly(FREE) == dict.fromkeys((1_000, 5_000, 20_000, 100_000), Decimal(0))
    assert monthly(None) is None


# --- writing


@pytest.mark.parametrize(
    ("amount", "shown"),
    [
        ("0.0000006", "0.60"),
        ("0.000000075", "0.075"),
        ("0.000015", "15.00"),
        ("0", "0.00"),
        ("0.0012345678901234567890123456789", "1234.5678901234567890123456789"),
        ("1E-13", "0.0000001"),
    ],
)
def test_people_read_usd_per_million_tokens(amount: str, shown: str) -> None:
    """Exact, with cents, and without a float: 0.6 stays 0.60."""
    assert per_million(Decimal(amount)) == shown


def test_words_for_people() -> None:
    """Free and unknown are said so; a fee per request is not kept quiet."""
    assert words(known(MINI)) == "$0.15 in, $0.60 out per million tokens"
    assert words(price("0.000001", "0.000002", request="0.005")).endswith(", $0.005 per request")
    assert (words(FREE), words(None)) == ("free", "unknown price")


def test_the_wire_form_is_plain_decimal_strings() -> None:
    """Never an exponent, which some decimal parsers refuse; never a number, which becomes a float."""
    assert as_wire(price("1E-7", "0.00000060", cache_read="1E-8", request="0.005")) == {
        "prompt": "0.0000001",
        "completion": "0.00000060",
        "request": "0.005",
        "cache_read": "0.00000001",
    }
    assert as_wire(FREE) == {"prompt": "0", "completion": "0"}


@given(st.dictionaries(st.sampled_from(Price.__struct_fields__), _AMOUNTS, min_size=1))
def test_the_wire_form_says_the_price(parts: Mapping[str, Decimal]) -> None:
    """Read back it costs the same, whatever was left out."""
    whole = {"prompt": Decimal(0), "completion": Decimal(0), **parts}
    back = msgspec.convert(as_wire(Price(**whole)), Price)
    assert (back.prompt, back.completion, back.request) == (
        whole["prompt"],
        whole["completion"],
        whole.get("request", 0),
    )
    assert not any("e" in text.lower() for text in as_wire(back).values())
