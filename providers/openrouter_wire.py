"""What OpenRouter says of its models and of our key, in our own words. Pure.

The law: an entry that makes no sense is left out and counted, it never takes the others along; what an entry does not say stays
empty. Source: OpenRouter's Models API ("Model Object Schema"), `GET /api/v1/models` and `GET /api/v1/key`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from decimal import Decimal

import msgspec

from .contract import Account, Offer
from .pricing import read_price

DESCRIPTION_CHARS = 300  # some are pages long; nobody reads more in a list
_NAME_CHARS_MAX = 200  # three times the longest there is
_MASKED_KEY = "sk-or-"  # a key without a name of its own is labelled with its own first and last letters
_QUERY_CHARS_MAX = 200

# our word → what an entry names for it
_BY_PARAMETER = {
    "tools": ("tools",),
    "reasoning": ("reasoning", "include_reasoning"),
    "structured_output": ("structured_outputs",),
}


class _Architecture(msgspec.Struct):
    input_modalities: list[str] | None = None
    output_modalities: list[str] | None = None


class _Top(msgspec.Struct):
    context_length: int | float | None = None


class _Entry(msgspec.Struct):
    id: str
    created: int | float | None = None
    description: str | None = None
    context_length: int | float | None = None
    architecture: _Architecture | None = None
    pricing: dict[str, object] | None = None
    supported_parameters: list[str] | None = None
    top_provider: _Top | None = None


class _Links(msgspec.Struct):
    next: str | None = None


class Listing(msgspec.Struct):
    """One page of the catalogue, its entries not read yet."""

    data: list[msgspec.Raw]
    links: msgspec.Raw = msgspec.Raw(b"null")


class _Key(msgspec.Struct):
    label: str | None = None
    usage: Decimal | None = None  # JSON's digits, not a float's
    limit: Decimal | None = None
    limit_remaining: Decimal | None = None
    is_free_tier: bool | None = None


class KeyAnswer(msgspec.Struct):
    """What `GET /v1/key` says."""

    data: _Key


_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
# A price written as a number keeps its digits, too.
_ENTRY = msgspec.json.Decoder(_Entry, float_hook=Decimal)
_LINKS = msgspec.json.Decoder(_Links)


def read_offers(entries: Sequence[msgspec.Raw]) -> tuple[list[Offer], int]:
    """The models in the upstream's order, each name once (pages may overlap), and how many entries made no sense."""
    offers: dict[str, Offer] = {}
    broken = 0
    for raw in entries:
        try:
            entry = _ENTRY.decode(raw)
        except _UNREADABLE:
            broken += 1
            continue
        if not _is_name(entry.id):
            broken += 1
        elif entry.id not in offers:
            offers[entry.id] = _offer(entry)
    return list(offers.values()), broken


def next_query(listing: Listing) -> str | None:
    """The query of the next page: "offset=500&limit=500". None: this is the last, or it points to somewhere else."""
    try:
        link = _LINKS.decode(listing.links).next if listing.links != b"null" else None
    except _UNREADABLE:
        return None
    path, _, query = (link or "").partition("?")
    usable = path.endswith("/models") and query.isascii() and query.isprintable() and " " not in query
    return query if query and usable and len(query) <= _QUERY_CHARS_MAX else None


def read_account(answer: KeyAnswer) -> Account:
    """Raises: ValueError: an amount is none."""
    key = answer.data
    if any(amount is not None and not amount.is_finite() for amount in (key.usage, key.limit, key.limit_remaining)):
        raise ValueError("an amount is no number")
    label = key.label or ""
    return Account(
        label="" if label.startswith(_MASKED_KEY) else label,
        usage_usd=key.usage,
        limit_usd=key.limit,
        remaining_usd=key.limit_remaining,
        free_tier=key.is_free_tier,
    )


def choose(offers: Sequence[Offer], names: Sequence[str], variants: frozenset[str]) -> list[Offer]:
    """Those of these names, in the names' order.

    A name with a suffix of `variants` is its model, routed otherwise. One that is not listed at all (a preset, a preview) is
    offered on the operator's word, with nothing known of it.
    """
    listed: Mapping[str, Offer] = {offer.name: offer for offer in offers}
    chosen: list[Offer] = []
    for name in dict.fromkeys(names):
        base, colon, suffix = name.rpartition(":")
        known = listed.get(name) or (listed.get(base) if f"{colon}{suffix}" in variants else None)
        chosen.append(Offer(name=name) if known is None else msgspec.structs.replace(known, name=name))
    return chosen


def _offer(entry: _Entry) -> Offer:
    architecture = entry.architecture or _Architecture()
    inputs = tuple(architecture.input_modalities or ())
    outputs = tuple(architecture.output_modalities or ())
    parameters = tuple(entry.supported_parameters or ())
    context = _whole(entry.context_length) or _whole(entry.top_provider.context_length if entry.top_provider else None)
    return Offer(
        name=entry.id,
        context_length=context or None,
        capabilities=_capabilities(inputs, outputs, parameters),
        price=read_price(entry.pricing or {}),
        input_modalities=inputs,
        output_modalities=outputs,
        supported_parameters=parameters,
        description=(entry.description or "")[:DESCRIPTION_CHARS],
        created=_whole(entry.created),
    )


def _capabilities(inputs: Sequence[str], outputs: Sequence[str], parameters: Sequence[str]) -> tuple[str, ...]:
    """In the words of `contract.Offer.capabilities`."""
    said = {
        "chat": "text" in outputs,
        "embedding": "embeddings" in outputs,
        "rerank": "rerank" in outputs,
        "vision": "image" in inputs,
        "audio": "audio" in inputs or "audio" in outputs,
        **{ours: any(word in parameters for word in theirs) for ours, theirs in _BY_PARAMETER.items()},
    }
    return tuple(word for word, has in said.items() if has)


def _whole(number: float | None) -> int:
    """A count as JavaScript writes it, 8192 or 8192.0; 0: none."""
    return int(number) if number is not None and math.isfinite(number) and number > 0 else 0


def _is_name(name: str) -> bool:
    return 0 < len(name) <= _NAME_CHARS_MAX and name.isprintable() and name == name.strip()
