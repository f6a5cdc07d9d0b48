"""From an entry to the values of its row and back: exact, and whatever it is, such that a database takes it."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.metering.ledger_rows import COLUMNS, COST_MAX, TOKENS_MAX, entry_of, joined, plain, sound, split, values
from gateway.storage.tables import requests
from tests.metering.kept import entry

KEPT = st.decimals(0, COST_MAX, places=18, allow_nan=False)


def test_columns_are_the_tables() -> None:
    """In the same order."""
    assert [column.name for column in requests.columns] == list(COLUMNS)


@given(KEPT)
def test_amount_comes_back_digit_for_digit(cost: Decimal) -> None:
    """Up to 18 decimals, up to a billion."""
    nano, atto = split(cost)
    assert joined(nano, atto) == cost
    assert nano is not None
    assert nano < 1 << 63


@given(st.lists(st.one_of(st.none(), KEPT), max_size=20))
def test_sums_of_the_two_numbers_are_the_sum_of_the_amounts(costs: list[Decimal | None]) -> None:
    """Whatever is carried from one to the other."""
    split_up = [split(cost) for cost in costs if cost is not None]
    nano, atto = sum(nano or 0 for nano, _ in split_up), sum(atto or 0 for _, atto in split_up)
    exact = sum(int(cost.scaleb(18)) for cost in costs if cost is not None)
    found = joined(nano, atto)
    assert found is not None
    assert int(found.scaleb(18)) == exact


@pytest.mark.parametrize("cost", ["-0.1", "NaN", "Infinity", "1000000000.1", "1E+400"])
def test_what_is_no_amount_is_unknown(cost: str) -> None:
    """And not zero."""
    assert split(Decimal(cost)) == (None, None)


def test_finer_than_is_kept_is_rounded() -> None:
    """At 1e-18 USD."""
    assert joined(*split(Decimal("0.1234567890123456784"))) == Decimal("0.123456789012345678")
    assert joined(*split(Decimal("1E-300"))) == 0


@pytest.mark.parametrize(
    ("cost", "written"),
    [("0.00000010", "0.0000001"), ("100", "100"), ("0", "0"), ("12.50", "12.5"), ("1E-18", "0." + "0" * 17 + "1")],
)
def test_amount_is_written_without_an_exponent(cost: str, written: str) -> None:
    """As people write money."""
    amount = joined(*split(Decimal(cost)))
    assert amount is not None
    assert plain(amount) == written


@pytest.mark.parametrize("cost", [None, Decimal("0.000123"), Decimal(0)])
def test_entry_comes_back_as_it_was(cost: Decimal | None) -> None:
    """Every field."""
    kept = entry(7, cost_usd=cost, streamed=True, left="answer", model="ünï", tenant="t", load_us=3)
    assert entry_of(values("abc", kept)) == kept


def test_counts_no_model_reaches_do_not_spoil_sums() -> None:
    """They are cut."""
    assert entry_of(values("abc", entry(prompt=1 << 48, cached=1 << 60))).prompt == TOKENS_MAX


@pytest.mark.parametrize(
    "said",
    [
        {"asked": "a\0b"},
        {"id": "\ud800", "user_agent": "x" * 10**6},
        {"prompt": 1 << 70, "total_us": -1},
        {"asked": "\0" * 10**5, "bytes_out": 1 << 64},
    ],
)
def test_sound_entry_can_be_encoded_and_kept(said: dict[str, Any]) -> None:
    """Whatever a caller made up."""
    found = sound(entry(**said))
    assert len(msgspec.msgpack.encode(found)) < 10_000
    for value in values("abc", found):
        assert not isinstance(value, str) or "\0" not in value
        assert not isinstance(value, int) or 0 <= value < 1 << 63


def test_nul_is_replaced_where_callers_write() -> None:
    """PostgreSQL would refuse the row."""
    assert "\0" not in "".join(str(value) for value in values("abc", entry(asked="a\0", user_agent="\0", id="\0")))
