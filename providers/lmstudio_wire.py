"""LM Studio's REST APIs: the shapes of their answers, and what these mean in our words. Pure.

Sources: LM Studio's developer documentation, "REST API v1" (0.4.0 and newer: list, load, unload), "REST API v0" (0.3.6, deprecated)
and "Idle TTL and Auto-Evict" (0.3.9); lmstudio-bug-tracker #618 and #1323 for what it answers on paths that it does not have.

The law: an API is there when its list has the field that makes it this API's list. The status tells nothing: LM Studio answers an
unknown path with 200 and {"error": "Unexpected endpoint or method. (GET /…)"}. What a list does not say stays empty.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from .contract import Offer
from .pricing import FREE

_SAID_CHARS = 200  # of its own words in a message of ours
_EMBEDDING = frozenset(("embedding", "embeddings"))  # v1's word, v0's word
_CHATTING = frozenset(("llm", "vlm"))


class Instance(msgspec.Struct, frozen=True):
    """One copy of a model in its memory."""

    id: str  # "qwen/qwen3-4b", the second copy "qwen/qwen3-4b:2", or whatever its user called it
    context_length: int | None = None  # tokens, as loaded


class Seen(msgspec.Struct, frozen=True):
    """One model on its list."""

    offer: Offer
    instances: tuple[Instance, ...] = ()  # empty: not in memory
    embedding: bool = False


class _Words(msgspec.Struct):
    message: str = ""


class Answer(msgspec.Struct, kw_only=True):
    """What any answer may be: an error in place of what was asked for, whatever the status."""

    error: str | _Words | None = None

    def said(self) -> str:
        """Its own words, "" where it says no error."""
        if self.error is None:
            return ""
        text = self.error if isinstance(self.error, str) else self.error.message
        return " ".join(text.split())[:_SAID_CHARS] or "an error without words"


class Loaded(Answer):
    """`POST /api/v1/models/load`: answered when the model is in memory. Each call makes a new instance."""

    instance_id: str | None = None


class Unloaded(Answer):
    """`POST /api/v1/models/unload`."""

    instance_id: str | None = None


class Completion(Answer):
    """`POST /api/v0/chat/completions`, of which we want only that there is one."""

    choices: list[object] | None = None


class Embedding(Answer):
    """`POST /v1/embeddings`, of which we want only that there is one."""

    data: list[object] | None = None


class _Quantization(msgspec.Struct):
    name: str | None = None


class _Config(msgspec.Struct):
    context_length: int | None = None


class _LoadedInstance(msgspec.Struct):
    id: str
    config: _Config | None = None


class _Abilities(msgspec.Struct):
    vision: bool | None = None
    trained_for_tool_use: bool | None = None
    reasoning: object = None  # {"allowed_options": […], "default": …} where the model can reason, else absent


class _V1Model(msgspec.Struct):
    key: str
    type: str = ""
    architecture: str | None = None
    quantization: _Quantization | None = None
    size_bytes: int | None = None
    params_string: str | None = None
    loaded_instances: list[_LoadedInstance] | None = None
    max_context_length: int | None = None
    capabilities: _Abilities | None = None
    description: str | None = None


class V1List(Answer):
    """`GET /api/v1/models`: all that is on its disk, with the instances in its memory."""

    models: list[_V1Model] | None = None

    def seen(self) -> Mapping[str, Seen] | None:
        """By key; None: this is no such list."""
        return None if self.models is None else _by_name(map(_from_v1, self.models))


class _V0Model(msgspec.Struct):
    id: str
    state: str  # "loaded", "not-loaded"
    type: str = ""
    arch: str | None = None
    quantization: str | None = None
    max_context_length: int | None = None
    loaded_context_length: int | None = None
    capabilities: list[str] | None = None  # 0.3.16 and newer: "tool_use"


class V0List(Answer):
    """`GET /api/v0/models`: all that is on its disk; with its JIT loading switched off only what is in its memory. No sizes."""

    data: list[_V0Model] | None = None

    def seen(self) -> Mapping[str, Seen] | None:
        """By name; None: this is no such list. A second copy is listed as a model of its own, "NAME:2"."""
        if self.data is None:
            return None
        names = {model.id for model in self.data}
        return _by_name(_from_v0(_base(model.id, names), model) for model in self.data)


def _from_v1(model: _V1Model) -> Seen:
    can = model.capabilities or _Abilities()
    offer = Offer(
        name=model.key,
        context_length=model.max_context_length,
        capabilities=_words(
            model.type, tools=bool(can.trained_for_tool_use), vision=bool(can.vision), reasoning=bool(can.reasoning)
        ),
        size_bytes=model.size_bytes,
        family=model.architecture or "",
        parameters=model.params_string or "",
        quantization=(model.quantization.name or "") if model.quantization else "",
        price=FREE,
        description=model.description or "",
    )
    instances = (
        Instance(one.id, one.config.context_length if one.config else None) for one in model.loaded_instances or ()
    )
    return Seen(offer, tuple(instances), model.type in _EMBEDDING)


def _from_v0(name: str, model: _V0Model) -> Seen:
    offer = Offer(
        name=name,
        context_length=model.max_context_length,
        capabilities=_words(model.type, tools="tool_use" in (model.capabilities or ()), vision=model.type == "vlm"),
        family=model.arch or "",
        quantization=model.quantization or "",
        price=FREE,
    )
    instances = (Instance(model.id, model.loaded_context_length),) if model.state == "loaded" else ()
    return Seen(offer, instances, model.type in _EMBEDDING)


def _words(kind: str, *, tools: bool, vision: bool, reasoning: bool = False) -> tuple[str, ...]:
    """Its capabilities in the contract's vocabulary."""
    if kind in _EMBEDDING:
        return ("embedding",)
    chatting = kind in _CHATTING
    words = {"chat": chatting, "completion": chatting, "tools": tools, "vision": vision, "reasoning": reasoning}
    return tuple(word for word, is_so in words.items() if is_so)


def _base(name: str, names: set[str]) -> str:
    """The model of which "NAME:2" is a copy; a name of which no model is listed is a model itself."""
    base, colon, number = name.rpartition(":")
    return base if colon and number.isdecimal() and base in names else name


def _by_name(models: Iterable[Seen]) -> Mapping[str, Seen]:
    """One entry per name. A key may be listed once for each downloaded variant; its instances are then spread over them."""
    found: dict[str, Seen] = {}
    for model in models:
        first = found.setdefault(model.offer.name, model)
        if first is not model:
            found[model.offer.name] = Seen(first.offer, first.instances + model.instances, first.embedding)
    return found
