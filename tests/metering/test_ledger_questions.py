"""What is asked of the ledger: sums equal a reference kept with decimals, days are UTC's, pages have no gap."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from decimal import Decimal, localcontext
from pathlib import Path
from typing import Any

import pytest

from gateway.metering.activity import Wanted, outcome_of, place_of
from gateway.metering.entry import Entry
from gateway.metering.ledger_questions import BY, By, Query, UsageQuery, UsageRow, read_by
from gateway.metering.ledger_rows import COST_MAX, TOKENS_MAX
from tests.metering.kept import DAY_US, NOW_US, entry, ledger, some

_OF: dict[By, Callable[[Entry], str]] = {
    "day": lambda e: datetime.datetime.fromtimestamp(e.at_us // 10**6, datetime.UTC).date().isoformat(),
    "key": lambda e: e.key_id,
    "tenant": lambda e: e.tenant,
    "model": lambda e: e.model,
    "target": lambda e: e.target,
}


def reference(entries: list[Entry], by: tuple[By, ...]) -> list[UsageRow]:
    """The same sums, with Python's decimals."""
    groups: dict[tuple[str, ...], list[Entry]] = {}
    for each in entries:
        groups.setdefault(tuple(_OF[word](each) for word in by), []).append(each)
    rows: list[UsageRow] = []
    for group, members in groups.items():
        costs = [each.cost_usd for each in members if each.cost_usd is not None]
        named: dict[str, Any] = dict(zip(by, group, strict=True))
        with localcontext(prec=100):
            cost = sum(costs, Decimal(0)) if costs else None
        rows.append(
            UsageRow(
                **named,
                requests=len(members),
                errors=sum(outcome_of(each) == "error" for each in members),
                prompt=sum(each.prompt for each in members),
                completion=sum(each.completion for each in members),
                cached=sum(each.cached for each in members),
                reasoning=sum(each.reasoning for each in members),
                cost_usd=cost,
                priced=len(costs),
            )
        )
    return rows


def by_name(rows: list[UsageRow]) -> list[UsageRow]:
    """In one order, whatever a database's alphabet."""
    return sorted(rows, key=lambda row: [str(getattr(row, word)) for word in BY])


async def test_sums_equal_a_reference(any_url: str, tmp_path: Path) -> None:
    """Grouped by everything, by some, by nothing; in a span, and of one key, tenant or model."""
    entries = some(1500)
    since_us, until_us = NOW_US + DAY_US, NOW_US + 3 * DAY_US + 17
    in_span = [each for each in entries if since_us <= each.at_us < until_us]
    async with ledger(any_url, tmp_path / "spool") as found:
        for each in entries:
            found.add(each)
        await found.settle()
        groups: list[tuple[By, ...]] = [
            (),
            ("day",),
            ("key",),
            ("tenant", "model"),
            ("model", "day", "target", "key", "tenant"),
        ]
        for by in groups:
            assert by_name(await found.usage(UsageQuery(by=by))) == by_name(reference(entries, by)), by
        query = UsageQuery(by=("day",), since_us=since_us, until_us=until_us)
        assert await found.usage(query) == by_name(reference(in_span, ("day",)))
        choices: list[tuple[UsageQuery, Callable[[Entry], bool]]] = [
            (UsageQuery(key="key_1"), lambda e: e.key_id == "key_1"),
            (UsageQuery(key="bob"), lambda e: e.principal == "bob"),
            (UsageQuery(tenant="a"), lambda e: e.tenant == "a"),
            (UsageQuery(model="ünï"), lambda e: e.model == "ünï"),
            (UsageQuery(model="up/small"), lambda e: e.target == "up/small"),
        ]
        for chosen, holds in choices:
            assert await found.usage(chosen) == reference([each for each in entries if holds(each)], ())
        spent = await found.spent(tenant="a", since_us=since_us, until_us=until_us)
        (row,) = reference([each for each in in_span if each.tenant == "a"], ())
        assert (spent.requests, spent.tokens, spent.cost_usd) == (
            row.requests,
            row.prompt + row.completion,
            row.cost_usd,
        )


async def test_largest_and_smallest_amounts_add_up_exactly(any_url: str, tmp_path: Path) -> None:
    """No float, and no overflow, is between."""
    costs = [Decimal(COST_MAX), Decimal("1E-18"), Decimal(COST_MAX) - Decimal("1E-18"), Decimal("0.1")] * 20
    async with ledger(any_url, tmp_path / "spool") as found:
        for number, cost in enumerate(costs):
            found.add(entry(number, cost_usd=cost, prompt=TOKENS_MAX))
        (row,) = await found.usage(UsageQuery())
        with localcontext(prec=100):
            assert row.cost_usd == sum(costs)
        assert row.prompt == TOKENS_MAX * len(costs)


async def test_nothing_there_is_no_row(any_url: str, tmp_path: Path) -> None:
    """And nothing was spent."""
    async with ledger(any_url, tmp_path / "spool") as found:
        assert await found.usage(UsageQuery()) == []
        assert await found.usage(UsageQuery(by=("day",))) == []
        spent = await found.spent(key_id="key_1", since_us=0)
        assert (spent.requests, spent.tokens, spent.cost_usd) == (0, 0, 0)
        assert await found.recent(Query()) == []


async def test_days_begin_at_midnight_utc(any_url: str, tmp_path: Path) -> None:
    """To the microsecond, in a leap year, too."""
    midnight = datetime.datetime(2028, 2, 29, tzinfo=datetime.UTC)
    us = int(midnight.timestamp()) * 10**6
    async with ledger(any_url, tmp_path / "spool") as found:
        for number, at_us in enumerate((us - 1, us, us + DAY_US - 1, us + DAY_US)):
            found.add(entry(number, at_us=at_us))
        rows = await found.usage(UsageQuery(by=("day",)))
        assert [(row.day, row.requests) for row in rows] == [("2028-02-28", 1), ("2028-02-29", 2), ("2028-03-01", 1)]
        rows = await found.usage(UsageQuery(by=("day",), since_us=us, until_us=us + DAY_US))
        assert [(row.day, row.requests) for row in rows] == [("2028-02-29", 2)]


async def test_pages_follow_without_a_gap_in_the_activitys_order(any_url: str, tmp_path: Path) -> None:
    """Also where many came in the same microsecond."""
    entries = [entry(number, id=f"r{number:03}", at_us=NOW_US + number // 7) for number in range(60)]
    async with ledger(any_url, tmp_path / "spool") as found:
        for each in reversed(entries):
            found.add(each)
        await found.settle()
        seen: list[Entry] = []
        before: tuple[int, str] | None = None
        while page := await found.older(Wanted(before=before), 8):
            seen += page
            before = place_of(page[-1])
        assert seen == sorted(entries, key=place_of, reverse=True)


@pytest.mark.parametrize(
    "wanted",
    [
        Wanted(outcome="ok"),
        Wanted(outcome="error"),
        Wanted(outcome="left"),
        Wanted(model="small"),
        Wanted(model="up/small", tenant="b"),
        Wanted(key="bob"),
        Wanted(key="key_2", outcome="ok"),
        Wanted(q="UP/SM"),
        Wanted(q="upstream_b"),
        Wanted(q="502"),
        Wanted(q="100%"),
        Wanted(q="r_"),
    ],
)
async def test_what_is_chosen_is_what_the_activity_would_choose(tmp_path: Path, wanted: Wanted) -> None:
    """One word means the same in memory and in the ledger."""
    entries = some(300)
    async with ledger(f"sqlite:///{tmp_path}/kept", tmp_path / "spool") as found:
        for each in entries:
            found.add(each)
        await found.settle()
        expected = sorted((each for each in entries if wanted.holds(each)), key=place_of, reverse=True)
        assert await found.older(wanted, 1000) == expected


async def test_search_is_the_same_on_postgresql(any_url: str, tmp_path: Path) -> None:
    """Case does not matter, signs of its own language mean themselves."""
    async with ledger(any_url, tmp_path / "spool") as found:
        for number, asked in enumerate(("Alpha", "50%", "a_b", "axb")):
            found.add(entry(number, asked=asked))
        for q, expected in (("aLPHA", ["r0"]), ("0%", ["r1"]), ("A_B", ["r2"]), ("'", [])):
            assert [each.id for each in await found.recent(Query(q=q))] == expected


async def test_export_has_all_the_oldest_first(any_url: str, tmp_path: Path) -> None:
    """Over more than one batch, and only what was chosen."""
    entries = some(1100)
    async with ledger(any_url, tmp_path / "spool") as found:
        for each in entries:
            found.add(each)
        await found.settle()
        exported = [each async for each in found.export(Query(key="key_1"))]
        expected = [each for each in entries if each.key_id == "key_1"]
        assert [each.at_us for each in exported] == sorted(each.at_us for each in expected)
        assert {each.id: each for each in exported} == {each.id: each for each in expected}


def test_words_of_by() -> None:
    """Each once, none unknown."""
    assert read_by(["model", "day", "model"]) == ["model", "day"]
    assert read_by([]) == []
    assert read_by(["day", "nix"]) is None
