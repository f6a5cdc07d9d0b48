"""What OpenRouter's entries and its word on our key become, and what becomes of those that make no sense."""

from __future__ import annotations

import time
from collections.abc import Sequence
from decimal import Decimal

import msgspec
import pytest

from providers.contract import Account, Offer
from providers.openrouter_wire import KeyAnswer, Listing, choose, next_query, read_account, read_offers
from providers.pricing import Price
from tests.fakes.openrouter import entry


def listing(*entries: object, links: object = None) -> Listing:
    return msgspec.json.decode(msgspec.json.encode({"data": entries, "links": links}), type=Listing)


def offers(*entries: object) -> list[Offer]:
    found, broken = read_offers(listing(*entries).data)
    assert broken == 0
    return found


def test_an_entry_becomes_an_offer() -> None:
    """Everything that it says and we have a word for."""
    (found,) = offers(
        entry(
            "vendor/model:free",
            "0.0000006",
            "0",
            inputs=["text", "image", "file"],
            parameters=["tools", "tool_choice", "structured_outputs", "reasoning", "max_tokens"],
            pricing={"input_cache_read": "0.00000006"},
        )
    )
    assert found == Offer(
        name="vendor/model:free",
        context_length=8192,
        capabilities=("chat", "vision", "tools", "reasoning", "structured_output"),
        price=Price(prompt=Decimal("0.0000006"), completion=Decimal(0), cache_read=Decimal("0.00000006")),
        input_modalities=("text", "image", "file"),
        output_modalities=("text",),
        supported_parameters=("tools", "tool_choice", "structured_outputs", "reasoning", "max_tokens"),
        description="The model vendor/model:free.",
        created=1_700_000_000,
    )


@pytest.mark.parametrize(
    ("inputs", "outputs", "parameters", "expected"),
    [
        (["text"], ["text"], [], ("chat",)),
        (["text"], ["embeddings"], [], ("embedding",)),
        (["text"], ["rerank"], [], ("rerank",)),
        (["text"], ["image"], [], ()),
        (["text", "audio"], ["text"], [], ("chat", "audio")),
        (["text"], ["text", "audio"], ["include_reasoning"], ("chat", "audio", "reasoning")),
        ([], [], ["response_format"], ()),
    ],
)
def test_capabilities_are_words_of_ours(
    inputs: Sequence[str], outputs: Sequence[str], parameters: Sequence[str], expected: Sequence[str]
) -> None:
    """Taken from modalities and parameters, never from the name (T33); JSON mode alone is no structured output."""
    assert offers(entry("a/chat-code-vision", inputs=inputs, outputs=outputs, parameters=parameters))[
        0
    ].capabilities == (tuple(expected))


def test_what_an_entry_does_not_say_stays_empty() -> None:
    """Only its name is needed; nulls are as good as nothing."""
    bare = {"id": "a/b"}
    nulls = dict.fromkeys(
        ("created", "description", "context_length", "architecture", "pricing", "supported_parameters", "top_provider")
    )
    assert offers(bare) == offers({**bare, **nulls}) == [Offer(name="a/b")]


def test_numbers_may_be_written_as_javascript_does() -> None:
    """8192.0 is 8192; zero, negative or huge is none; the first provider's context is the second choice."""
    assert offers(entry("a", context_length=8192.0, created=1.7e9))[0].context_length == 8192
    assert offers(entry("a", context_length=None))[0].context_length == 8192
    assert (
        offers(entry("a", context_length=-5, top_provider=None, created=-1))[0]
        == offers(entry("a", context_length=0, top_provider={"context_length": None}, created=None))[0]
    )


def test_a_price_that_varies_is_unknown() -> None:
    """The routers' "-1"; and one written as a number keeps its digits."""
    assert offers(entry("openrouter/auto", "-1", "-1"))[0].price is None
    raw = b'{"data":[{"id":"a","pricing":{"prompt":0.00000010,"completion":1e-7}}]}'
    (found,), _ = read_offers(msgspec.json.decode(raw, type=Listing).data)
    assert found.price is not None
    assert (str(found.price.prompt), found.price.completion) == ("1.0E-7", Decimal("0.0000001"))


def test_long_descriptions_are_cut() -> None:
    """At 300 characters."""
    assert offers(entry("a", description="ä" * 5000))[0].description == "ä" * 300


@pytest.mark.parametrize(
    "broken",
    [
        3,
        None,
        "text",
        [],
        {},
        {"id": 5},
        {"id": ""},
        {"id": "a\nb"},
        {"id": " a"},
        {"id": "x" * 201},
        entry("a", architecture="text"),
        {"id": "a", "pricing": "free"},
        {"id": "a", "supported_parameters": [1]},
        {"id": "a", "context_length": "many"},
    ],
)
def test_a_broken_entry_is_counted_and_takes_no_other_along(broken: object) -> None:
    """The ones around it are all there."""
    found, count = read_offers(listing(entry("first"), broken, entry("last")).data)
    assert ([offer.name for offer in found], count) == (["first", "last"], 1)


def test_bytes_that_are_no_text_break_their_entry_alone() -> None:
    """As a lying upstream might send them."""
    raw = b'{"data":[{"id":"\xff"},{"id":"a"},{"id":"b","description":"\xc3"}]}'
    found, count = read_offers(msgspec.json.decode(raw, type=Listing).data)
    assert ([offer.name for offer in found], count) == (["a"], 2)


def test_a_name_listed_twice_is_one_offer() -> None:
    """The first counts; pages may overlap while the list moves, so that it is no mistake."""
    assert [offer.context_length for offer in offers(entry("a", context_length=1), entry("a", context_length=2))] == [1]


def test_six_hundred_models_are_read_at_once() -> None:
    """It runs on the loop: far below what a stream would notice."""
    many = listing(*(entry(f"vendor/model-{n}", description="word " * 200) for n in range(600)))
    began = time.perf_counter()
    found, _ = read_offers(many.data)
    assert len(found) == 600
    assert time.perf_counter() - began < 1.0


@pytest.mark.parametrize(
    ("links", "query"),
    [
        (None, None),
        ({}, None),
        ({"next": None}, None),
        ({"next": "/api/v1/models?offset=500&limit=500"}, "offset=500&limit=500"),
        (
            {"next": "https://elsewhere.example/api/v1/models?offset=1"},
            "offset=1",
        ),  # asked of our own upstream all the same
        ({"next": "/api/v1/models"}, None),
        ({"next": "/api/v1/secrets?x=1"}, None),
        ({"next": "/api/v1/models?a b"}, None),
        ({"next": "/api/v1/models?ä=1"}, None),
        ({"next": "/api/v1/models?a\r\nx:y"}, None),
        ({"next": "/api/v1/models?" + "a" * 500}, None),
        ({"next": 5}, None),
        ("next", None),
    ],
)
def test_the_next_page_is_taken_by_its_query_only(links: object, query: str | None) -> None:
    """An upstream's link cannot send us anywhere else, nor put a line into our request."""
    assert next_query(listing(links=links)) == query


# --- the configured names


def test_configured_names_come_in_their_order() -> None:
    """The operator's choice, in his order; each once."""
    listed = [Offer(name=name, context_length=n) for n, name in enumerate(("a", "b", "c"), 1)]
    assert choose(listed, ("c", "a", "c"), frozenset()) == [listed[2], listed[0]]


def test_a_configured_variant_is_its_model_routed_otherwise() -> None:
    """With all that is known of the model; only suffixes that may follow any name."""
    listed = [Offer(name="a/b", context_length=7)]
    variants = frozenset((":nitro",))
    assert choose(listed, ("a/b:nitro",), variants) == [Offer(name="a/b:nitro", context_length=7)]
    assert choose(listed, ("a/b:free", "@preset/x"), variants) == [Offer(name="a/b:free"), Offer(name="@preset/x")]


# --- our key


def account(raw: bytes) -> Account:
    return read_account(msgspec.json.decode(b'{"data":' + raw + b"}", type=KeyAnswer))


def test_amounts_of_the_key_are_exact() -> None:
    """JSON's digits, more than a float holds."""
    found = account(
        b'{"label":"prod","usage":0.1015644762000000000001,"limit":5,"limit_remaining":4.9,"is_free_tier":true,"x":{}}'
    )
    assert found == Account(
        label="prod",
        usage_usd=Decimal("0.1015644762000000000001"),
        limit_usd=Decimal(5),
        remaining_usd=Decimal("4.9"),
        free_tier=True,
    )


def test_a_key_without_a_limit_has_none() -> None:
    """null is no limit, and not zero."""
    found = account(b'{"label":null,"usage":0,"limit":null,"limit_remaining":null}')
    assert found == Account(usage_usd=Decimal(0))


def test_the_label_never_shows_a_part_of_the_key() -> None:
    """A key without a name is labelled with its own letters."""
    assert account(b'{"label":"sk-or-v1-116...0ce"}').label == ""


@pytest.mark.parametrize("amount", [b'"NaN"', b'"Infinity"', b'"-Infinity"'])
def test_an_amount_that_is_none_is_an_error(amount: bytes) -> None:
    """It would pass through every comparison."""
    with pytest.raises(ValueError, match="no number"):
        account(b'{"usage":' + amount + b"}")
