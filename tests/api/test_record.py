"""The Entry of a request: every field from what its exchange knows, exact costs, and where the caller left."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.access.principal import Principal
from gateway.api.record import Costs, Recorder
from gateway.metering.activity import Activity
from gateway.metering.entry import Entry
from gateway.metering.rates import Minutes, Rates
from gateway.metering.usage import Usage
from gateway.routing.catalog import Catalog, Listing, Model, Target
from providers.contract import Offer
from providers.pricing import FREE, ZERO, Price, cost

SCOPE = {
    "path": "/v1/chat/completions",
    "state": {"fields": [(b"x-request-id", b"req-1")]},
    "headers": [(b"host", b"x"), (b"user-agent", b"\xfcser/1 " + b"a" * 200)],
}


class Exchanged(msgspec.Struct):
    """What the caller's side knows of an answer that went well."""

    principal: Principal | None = None
    asked: str = "alias"
    model: str = "m"
    target: str = "up/m"
    status: int = 200
    code: str = ""
    left: bool = False
    streaming: bool = True
    committed: bool = True
    usage: Usage | None = None
    queued_s: float = 0.5
    leased_s: float = 10.5
    first_s: float = 10.75
    bytes_in: int = 100
    bytes_out: int = 2000
    kept: None = None


def catalog(price: Price | None) -> Catalog:
    """`up/m` at this price, and `own/m` without one."""
    return Catalog([Model("own", (Target("own/m", "own", None),))], [Listing("up", [Offer(name="m", price=price)])])


def costs(price: Price | None) -> Costs:
    known = catalog(price)
    return Costs(lambda: known, lambda target: target.startswith("own/"))


def recorded(exchange: Exchanged) -> Entry:
    """Of a request that began at 10.0 and ended at 12.0."""
    recorder = Recorder(Activity(), Rates(), Minutes(), costs(None), load_part=lambda target, end_s, waited_s: 0.25)
    return recorder.end(recorder.begin(SCOPE, exchange, 10.0), 12.0)


def test_every_field_has_its_place() -> None:
    """Who, what, how long, how much."""
    usage = Usage(prompt=5, completion=7, cached=2, reasoning=3)
    made = recorded(Exchanged(principal=Principal("key-1", False, "id-1", "t"), usage=usage))
    assert msgspec.structs.replace(made, at_us=0) == Entry(
        id="req-1",
        at_us=0,
        principal="key-1",
        key_id="id-1",
        tenant="t",
        asked="alias",
        model="m",
        target="up/m",
        route="/v1/chat/completions",
        status=200,
        code="",
        streamed=True,
        left="",
        prompt=5,
        completion=7,
        cached=2,
        reasoning=3,
        cost_usd=None,
        queued_us=500_000,
        first_byte_us=750_000,
        total_us=2_000_000,
        load_us=250_000,
        bytes_in=100,
        bytes_out=2000,
        user_agent="üser/1 " + "a" * 113,
    )


@pytest.mark.parametrize(
    ("said", "where"),
    [
        ({}, ""),
        ({"left": True, "asked": "", "leased_s": 0.0, "committed": False}, "upload"),
        ({"left": True, "leased_s": 0.0, "committed": False}, "queued"),
        ({"left": True, "committed": False}, "first_byte"),
        ({"left": True}, "answer"),
    ],
)
def test_where_the_caller_left(said: dict[str, Any], where: str) -> None:
    """As far as the exchange had come."""
    assert recorded(Exchanged(**said)).left == where


def test_it_is_told_to_all_who_count() -> None:
    """In progress until its end; then in the ring, the rates, the minutes and the ledger; unknown names count nowhere."""
    activity, rates, minutes = Activity(), Rates(), Minutes()
    kept: list[Entry] = []
    recorder = Recorder(activity, rates, minutes, costs(None), kept.append)
    exchange = Exchanged(usage=Usage(prompt=1, completion=9), committed=False)
    record = recorder.begin(SCOPE, exchange, 10.0)
    assert [(begun.id, begun.phase, begun.principal) for _, begun in activity.in_progress()] == [
        ("req-1", "queued", "")
    ]
    exchange.committed = True
    exchange.principal = Principal("key-1", False)
    assert [(begun.phase, begun.principal) for _, begun in activity.in_progress()] == [("answering", "key-1")]
    entry = recorder.end(record, 11.0)
    unknown = Exchanged(model="", target="", status=404, code="model_not_found")
    recorder.end(recorder.begin(SCOPE, unknown, 10.0), 11.0)
    assert (activity.running, [each.id for each in activity.since(0)]) == ({}, ["req-1", "req-1"])
    assert (rates.requests, rates.tokens) == (2, 9)
    assert [(model, count) for _, model, count in minutes.since(0)] == [("m", 1)]
    assert (kept[0], kept[1].code) == (entry, "model_not_found")


def test_what_nothing_was_done_for_costs_nothing_and_what_is_not_known_is_unknown() -> None:
    """Own engines are free; a price that nobody tells is no zero; what the upstream charged is believed."""
    usage = Usage(prompt=1000, completion=10)
    assert costs(None).of("up/m", usage, answered=True) is None
    assert costs(None).of("up/m", None, answered=True) is None
    assert costs(None).of("up/m", None, answered=False) == ZERO
    assert costs(None).of("", None, answered=False) == ZERO
    assert costs(None).of("own/m", usage, answered=True) == ZERO
    assert costs(FREE).of("up/m", usage, answered=True) == ZERO
    assert costs(FREE).of("up/m", None, answered=True) == ZERO
    told = Usage(prompt=1000, completion=10, cost=Decimal("0.00123"))
    assert costs(FREE).of("up/m", told, answered=True) == Decimal("0.00123")


def test_a_new_catalogue_has_new_prices() -> None:
    """They are looked up once, and again when the catalogue was built anew."""
    dear = Price(prompt=Decimal(1), completion=Decimal(2))
    now = [catalog(None)]
    found = Costs(lambda: now[0], lambda _: False)
    usage = Usage(prompt=1, completion=1)
    assert found.of("up/m", usage, answered=True) is None
    now[0] = catalog(dear)
    assert found.of("up/m", usage, answered=True) == 3


AMOUNTS = st.decimals(0, 1, places=12) | st.integers(0, 3).map(Decimal) | st.just(Decimal("1E-15"))
TOKENS = st.integers(0, 1 << 40)


@given(
    st.builds(
        Price,
        prompt=AMOUNTS,
        completion=AMOUNTS,
        request=AMOUNTS,
        cache_read=st.none() | AMOUNTS,
        cache_write=st.none() | AMOUNTS,
        reasoning=st.none() | AMOUNTS,
    ),
    st.builds(Usage, prompt=TOKENS, completion=TOKENS, cached=TOKENS, written=TOKENS, reasoning=TOKENS),
)
def test_costs_are_those_of_the_price_list_to_the_last_digit(price: Price, usage: Usage) -> None:
    """The quick way is the exact way."""
    expected = cost(price, usage.prompt, usage.completion, usage.cached, usage.reasoning, written=usage.written)
    assert costs(price).of("up/m", usage, answered=True) == expected
