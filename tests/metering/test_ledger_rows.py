"""From an entry to the values of its row and back: exact, and whatever it is, such that a database takes it."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.metering.entry import Entry
from gateway.metering.ledger_rows import (
    COLUMNS,
    COST_MAX,
    KIND,
    NAMES,
    TEXT_MAX,
    TOKENS_MAX,
    digest,
    entry_of,
    fields_of,
    joined,
    kind_of,
    odd,
    plain,
    sound,
    split,
    values,
)
from gateway.storage.tables import kinds, requests
from tests.metering.kept import entry


def row(kept: Entry) -> dict[str, Any]:
    """As it is read again."""
    (pieces,) = values([7], [fields_of(kept)], [3])
    found = dict(zip(COLUMNS, (value for piece in pieces for value in piece), strict=True))
    assert (found["row_id"], found["kind"]) == (7, 3)
    return found | dict(zip(KIND, kind_of(fields_of(kept)), strict=True))


def is_odd(kept: Entry) -> bool:
    """Among others."""
    rows = [fields_of(entry(1)), fields_of(kept), fields_of(entry(2))]
    return odd(rows, {kind_of(each) for each in rows})


KEPT = st.decimals(0, COST_MAX, places=18, allow_nan=False)


def test_columns_are_the_tables() -> None:
    """Each has its place, and every field of an entry one of them."""
    assert {column.name for column in requests.columns} == set(COLUMNS)
    assert [column.name for column in kinds.columns] == ["id", "digest", *KIND, "last_us"]
    assert set(NAMES) - {"cost_usd"} == {*COLUMNS, *KIND} - {"cost_nano", "cost_atto", "kind", "row_id"}


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
    assert entry_of(row(kept)) == kept
    assert not is_odd(kept)


def test_counts_no_model_reaches_do_not_spoil_sums() -> None:
    """They are cut."""
    kept = entry(prompt=1 << 48, cached=1 << 60)
    assert is_odd(kept)
    found = dict(zip(NAMES, sound(fields_of(kept)), strict=True))
    assert (found["prompt"], found["cached"], found["completion"]) == (TOKENS_MAX, TOKENS_MAX, kept.completion)


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
    found = sound(fields_of(entry(**said)))
    assert len(msgspec.msgpack.encode(found)) < 10_000
    assert not odd([found], {kind_of(found)})
    for value in found:
        assert not isinstance(value, str) or "\0" not in value
        assert not isinstance(value, int) or 0 <= value < 1 << 63


@pytest.mark.parametrize(
    "said",
    [
        {"id": "a\0"},
        {"asked": "a\0"},
        {"user_agent": "\0"},
        {"asked": "x" * (TEXT_MAX + 1)},
        {"id": "x" * (TEXT_MAX + 1)},
        *({name: TOKENS_MAX + 1} for name in ("prompt", "completion", "cached", "reasoning")),
        {"id": None},
        {"model": None},
        {"prompt": None},
    ],
)
def test_what_cannot_be_kept_as_it_is_is_seen_among_others(said: dict[str, Any]) -> None:
    """PostgreSQL would refuse the row, or it would spoil sums."""
    assert is_odd(entry(**said))


def test_kinds_are_told_apart_by_each_of_their_fields() -> None:
    """Nothing that a caller writes into one of them makes it look like another."""
    alike = entry(1, prompt=7, id="other", at_us=5)
    assert digest(kind_of(fields_of(entry(1)))) == digest(kind_of(fields_of(alike)))
    others = [entry(1, **{name: "x"}) for name in KIND if name not in ("status", "streamed")]
    others += [entry(1, status=500), entry(1, streamed=True), entry(1, asked="smal", model="lsmall")]
    found = {digest(kind_of(fields_of(each))) for each in (entry(1), *others)}
    assert len(found) == 1 + len(others)
