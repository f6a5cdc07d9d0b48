"""What the model lists of OpenAI-compatible APIs say, in our words. Pure.

The law: what a list does not say of a model stays empty, and a field that one upstream uses in its own way spoils neither the
entry nor the list. Prices are not read: of these lists only Together's has some, and its documentation gives no unit for them.

Sources: the documentation of OpenAI, vLLM and SGLang (`max_model_len`), llama.cpp's server (`meta`, `architecture`; `status` in
router mode), Groq (`context_window`, `active`), Together (a bare list; `context_length`, `type`), Mistral (`max_context_length`,
`capabilities`), DeepSeek (names only), TabbyAPI (`parameters.max_seq_len`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import cast

import msgspec

from .contract import Offer
from .pricing import Price

_MISTRAL = {"completion_chat": "chat", "completion_fim": "insert", "function_calling": "tools", "vision": "vision"}
_TOGETHER = {
    "chat": "chat",
    "language": "completion",
    "code": "completion",
    "embedding": "embedding",
    "rerank": "rerank",
}
_LLAMA_CPP = {"image": "vision", "audio": "audio"}  # what a model can read beside text


class Entry(msgspec.Struct):
    """One model. Any field may be missing or of another type than here is looked for."""

    id: object = None
    created: object = None
    description: object = None
    type: object = None
    active: object = True
    status: object = None
    capabilities: object = None
    architecture: object = None
    meta: object = None
    parameters: object = None
    max_model_len: object = None
    context_length: object = None
    context_window: object = None
    max_context_length: object = None
    roundhouse: object = None  # our own mark


class ModelList(msgspec.Struct):
    """OpenAI's form. Servers written in Go write null for a list without entries."""

    data: list[Entry] | None


def is_roundhouse(listed: ModelList | list[Entry]) -> bool:
    """Whether the list is of one like us: found at a port where we looked for something else, it would be served twice."""
    entries = (listed.data or []) if isinstance(listed, ModelList) else listed
    return any(entry.roundhouse is not None for entry in entries)


def offers_of(listed: ModelList | list[Entry], prices: Mapping[str, Price]) -> Sequence[Offer]:
    """Every model with a name that can be asked for now, each once, in the order of the list."""
    entries = (listed.data or []) if isinstance(listed, ModelList) else listed
    offers: dict[str, Offer] = {}
    for entry in entries:
        name = entry.id
        if isinstance(name, str) and name and _there(entry):
            offers[name] = _offer(name, entry, prices.get(name))
    return list(offers.values())


def _there(entry: Entry) -> bool:
    """Neither switched off (Groq) nor still on its way to the upstream's disk (llama.cpp's router)."""
    return entry.active is not False and _part(entry.status, "value") != "downloading"


def _offer(name: str, entry: Entry, price: Price | None) -> Offer:
    reads = _texts(_part(entry.architecture, "input_modalities"))
    return Offer(
        name=name,
        created=_whole(entry.created) or 0,
        context_length=_context_length(entry),
        capabilities=_capabilities(entry, reads),
        size_bytes=_whole(_part(entry.meta, "size")),
        input_modalities=reads,
        output_modalities=_texts(_part(entry.architecture, "output_modalities")),
        description=entry.description if isinstance(entry.description, str) else "",
        price=price,
    )


def _context_length(entry: Entry) -> int | None:
    """What the server runs with, before what the model was trained for."""
    told = (
        entry.max_model_len,
        _part(entry.meta, "n_ctx"),
        _part(entry.parameters, "max_seq_len"),
        entry.context_length,
        entry.context_window,
        entry.max_context_length,
        _part(entry.meta, "n_ctx_train"),
    )
    return next((size for size in map(_whole, told) if size), None)


def _capabilities(entry: Entry, reads: Iterable[str]) -> tuple[str, ...]:
    words = [_TOGETHER.get(entry.type) if isinstance(entry.type, str) else None]
    words += [ours for theirs, ours in _MISTRAL.items() if _part(entry.capabilities, theirs) is True]
    words += [_LLAMA_CPP.get(what) for what in reads]
    return tuple(dict.fromkeys(word for word in words if word))


def _part(table: object, key: str) -> object:
    return cast("dict[str, object]", table).get(key) if isinstance(table, dict) else None


def _whole(value: object) -> int | None:
    """A number > 0 that is a count of something."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return int(value) if 0 < value < 2**63 else None


def _texts(value: object) -> tuple[str, ...]:
    return (
        tuple(item for item in cast("list[object]", value) if isinstance(item, str)) if isinstance(value, list) else ()
    )
