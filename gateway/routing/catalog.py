"""What is on offer: an immutable snapshot of models, aliases and targets, swapped whole. Pure.

A model is a name clients ask for; its route is an ordered list of targets, each `provider/upstream-name`. The operator's models
come first; everything else a provider lists is a model called `provider/name`. What a name means is worked out here, once per
snapshot, so that a request pays one look into a table; `resolve.py` tells the rules in their order.

The law: what the operator has named is never changed by what a provider lists, and a provider's list never makes a snapshot fail.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from providers.contract import Offer

LATEST = "latest"  # the tag that Ollama means by a name without one


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
    offer: Offer | None = None  # what the provider says of it; of a route, what the first that lists it says
    found: bool = (
        False  # True: made from providers' lists, may be reordered; False: the operator's own, its order is law
    )


class Listing(msgspec.Struct, frozen=True):
    """What one provider offers now."""

    provider: str
    offers: Sequence[Offer]
    tagged: bool = False  # its names are NAME:TAG, and NAME alone means NAME:latest (Ollama)
    variants: frozenset[str] = frozenset()  # suffixes with their colon that may follow any of its names: ":nitro"


class Catalog:
    """Everything that can be asked for. Built once, never changed.

    `models` are those shown: the operator's, then the listed ones, both in configured order. A listed one whose name the operator
    has given to a model, or as an alias, is not shown; its own name (`gpt-4o`) still means it. An offer without a name and the
    second of the same name are passed over.

    Args:
        listings: in configured order; it decides who comes first in a route that several providers serve.
    Raises: ValueError: a configured name or alias is given twice.
    """

    __slots__ = ("ambiguous", "bare", "by_name", "by_target", "listed", "meant", "models", "offers", "own", "variants")

    def __init__(self, models: Iterable[Model], listings: Sequence[Listing] = ()) -> None:
        self.listed: Mapping[str, Model] = _listed(listings)  # `provider/name`, also where the operator uses that name
        self.offers: Mapping[str, Offer] = {key: model.offer for key, model in self.listed.items() if model.offer}
        configured = tuple(_described(model, self.offers) for model in models)
        self.own: Mapping[str, Model] = _by_name(configured)  # names and aliases of the operator's models
        self.models: tuple[Model, ...] = (*configured, *(m for key, m in self.listed.items() if key not in self.own))
        self.by_name: Mapping[str, Model] = {**self.own, **{m.name: m for m in self.models[len(configured) :]}}
        self.by_target: Mapping[str, Model] = {**self.listed, **_by_target(configured, self.offers)}
        offered = [_under_own_name(model, self.own) for model in self.listed.values()]
        self.bare: Mapping[str, Model] = _routes((_own_name(model), model) for model in offered)
        tagged = {listing.provider for listing in listings if listing.tagged}
        untagged, self.ambiguous = _untagged([model for model in offered if model.targets[0].provider in tagged])
        # provider → the suffixes that its names may carry
        self.variants: Mapping[str, frozenset[str]] = {
            each.provider: each.variants for each in listings if each.variants
        }
        # rules 1 to 5 in one table: the later a union's part, the stronger
        self.meant: Mapping[str, Model] = {**untagged, **self.bare, **self.by_target, **self.by_name}


def _by_name(models: Iterable[Model]) -> dict[str, Model]:
    names: dict[str, Model] = {}
    for model in models:
        for name in (model.name, *model.aliases):
            if name in names:
                raise ValueError(f"the name {name!r} is given twice")
            names[name] = model
    return names


def _by_target(models: Sequence[Model], offers: Mapping[str, Offer]) -> dict[str, Model]:
    """A target asked for by its key is a route of one; the first model that has it names it."""
    return {
        target.key: Model(
            model.name,
            (target,),
            context_length=model.context_length,
            created=model.created,
            offer=offers.get(target.key),
        )
        for model in reversed(models)
        for target in model.targets
    }


def _described(model: Model, offers: Mapping[str, Offer]) -> Model:
    """The operator's model with what is said of the first of its targets that is listed."""
    if model.offer is not None:
        return model
    offer = next((offers[target.key] for target in model.targets if target.key in offers), None)
    return model if offer is None else msgspec.structs.replace(model, offer=offer)


def _listed(listings: Iterable[Listing]) -> dict[str, Model]:
    models: dict[str, Model] = {}
    for listing in listings:
        provider = listing.provider
        for offer in listing.offers:
            key = f"{provider}/{offer.name}"
            if offer.name and key not in models:
                target = Target(key, provider, offer.name)
                models[key] = Model(key, (target,), (), offer.context_length, offer.created, offer, True)
    return models


def _own_name(model: Model) -> str:
    return model.targets[0].upstream_name or ""


def _under_own_name(model: Model, own: Mapping[str, Model]) -> Model:
    """A listed model whose public name means something else is called as its provider calls it."""
    return msgspec.structs.replace(model, name=_own_name(model)) if model.name in own else model


def _routes(named: Iterable[tuple[str, Model]]) -> dict[str, Model]:
    """What is served under one name by several is one route, in the order given."""
    routes: dict[str, Model] = {}
    for name, model in named:
        first = routes.get(name)
        if first is None:
            routes[name] = model
        else:
            route = (*first.targets, *model.targets)
            routes[name] = Model(name, route, (), first.context_length, first.created, first.offer, True)
    return routes


def _untagged(models: Sequence[Model]) -> tuple[Mapping[str, Model], Mapping[str, Sequence[str]]]:
    """Names without their tag → what is meant, and → the tags to choose from, where that cannot be told."""
    meant: dict[str, Model] = {}
    unclear: dict[str, Sequence[str]] = {}
    for named in (
        [(_own_name(model), model) for model in models],
        [(model.targets[0].key, model) for model in models],  # `provider/name` is the more exact one
    ):
        stems: dict[str, dict[str, Model]] = {}
        for name, model in _routes(named).items():
            for stem in _stem(name):
                stems.setdefault(stem, {})[name] = model
        for stem, tags in stems.items():
            chosen = next(iter(tags.values())) if len(tags) == 1 else tags.get(f"{stem}:{LATEST}")
            if chosen is None:
                unclear[stem] = tuple(tags)
            else:
                meant[stem] = chosen
    return meant, unclear


def _stem(name: str) -> Iterator[str]:
    """The name without its tag, nothing where it has none; a colon before the last slash is a port (`host:5000/name`)."""
    stem, colon, tag = name.rpartition(":")
    if colon and stem and "/" not in tag:
        yield stem
