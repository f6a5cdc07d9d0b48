"""What is on offer: an immutable snapshot of models, aliases and targets, swapped whole.

A model is a name clients ask for; its route is an ordered list of targets, each `provider/upstream-name`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec


class Target(msgspec.Struct, frozen=True):
    """Where a request can go. `upstream_name` is what the upstream calls the model; None: it does not care."""

    key: str  # "provider/upstream-name", the identity of a resident
    provider: str
    upstream_name: str | None


class Model(msgspec.Struct, frozen=True):
    """A public name and its route, the preferred target first."""

    name: str
    targets: tuple[Target, ...]
    aliases: tuple[str, ...] = ()
    context_length: int | None = None
    created: int = 0  # seconds since the epoch; OpenAI's entries carry one


class Catalog:
    """Every model by its name, by its aliases, and by its targets' keys. Built once, never changed.

    Raises: ValueError: a name or alias is given twice.
    """

    __slots__ = ("by_name", "by_target", "models")

    def __init__(self, models: Iterable[Model]) -> None:
        self.models: tuple[Model, ...] = tuple(models)
        self.by_name: Mapping[str, Model] = _by_name(self.models)
        # a target asked for by its key is a route of one
        self.by_target: Mapping[str, Model] = {
            target.key: Model(model.name, (target,), context_length=model.context_length, created=model.created)
            for model in reversed(self.models)
            for target in model.targets
        }


def _by_name(models: Iterable[Model]) -> dict[str, Model]:
    names: dict[str, Model] = {}
    for model in models:
        for name in (model.name, *model.aliases):
            if name in names:
                raise ValueError(f"the name {name!r} is given twice")
            names[name] = model
    return names
