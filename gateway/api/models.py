"""`/v1/models`: what may be asked for, in OpenAI's form, with what we know beside it. Reading loads nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

import msgspec
from litestar import Request, get
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, FromQuery

from gateway.access.principal import Principal, unknown_here
from gateway.errors import Forbidden, InvalidRequest, UnknownModel
from gateway.residency.events import ResidentView
from gateway.residency.manager import ResidencyManager
from gateway.routing.catalog import Catalog, Model
from gateway.routing.listings import Listings
from gateway.routing.resolve import resolve
from providers.contract import Offer
from providers.pricing import as_wire, category, cost_per_token, is_free, read_amount

from .session import asker_of


class Entries:
    """Makes the entries of one answer: what is in memory is looked up once for all of them."""

    def __init__(self, residency: ResidencyManager, listings: Listings) -> None:
        self._residency = residency
        self._listings = listings
        self._residents: Mapping[str, ResidentView] = {resident.target: resident for resident in residency.residents()}

    def entry(self, model: Model) -> Mapping[str, Any]:
        """OpenAI's model object, and `roundhouse`: where it stands and what its provider says of it."""
        offer = model.offer
        return {
            "id": model.name,
            "object": "model",
            "created": (offer.created if offer is not None else 0) or model.created,
            "owned_by": model.targets[0].provider,
            "roundhouse": self._standing(model) | (_described(offer) if offer is not None else {}),
        }

    def _standing(self, model: Model) -> dict[str, Any]:
        managed = [target.key for target in model.targets if target.key in self._residency.managed]
        resident = next((self._residents[key] for key in managed if key in self._residents), None)
        provider, offer = model.targets[0].provider, model.offer
        shelf = self._listings.shelves.get(provider)
        state = "remote" if not managed else "cold" if resident is None else str(resident.phase)
        if shelf is not None and shelf.error and resident is None:
            state = "unreachable"
        return {
            "provider": provider,
            "targets": [target.key for target in model.targets],
            "aliases": model.aliases,
            "state": state,
            "bytes": None if resident is None else resident.footprint,
            "expected_bytes": self._expected(managed[0]) if managed else None,
            "load_s": self._residency.load_s(managed[0]) if managed else None,
            "context_length": model.context_length or (None if offer is None else offer.context_length),
            "capabilities": (),
            "price": None,
            "cost": category(None),
            "pinned": any(self._residency.is_pinned(target) for target in managed),
        }

    def _expected(self, target: str) -> Mapping[str, int] | None:
        """What it took before, else what was declared; None: nobody knows before its first load."""
        one = self._residency.managed[target]
        return self._residency.footprints.best(one.key, one.spec.declared, {})[0] or None


def _described(offer: Offer) -> dict[str, Any]:
    """What the provider says, without what it does not say."""
    said: dict[str, Any] = {
        "size_bytes": offer.size_bytes,
        "family": offer.family,
        "parameters": offer.parameters,
        "quantization": offer.quantization,
        "input_modalities": offer.input_modalities,
        "output_modalities": offer.output_modalities,
        "supported_parameters": offer.supported_parameters,
        "description": offer.description,
    }
    price = None if offer.price is None else as_wire(offer.price)
    always = {"capabilities": offer.capabilities, "price": price, "cost": category(offer.price)}
    return {name: value for name, value in said.items() if value} | always


class Wanted(msgspec.Struct, frozen=True):
    """Which models a list is to hold. What a provider does not say of a model does not exclude it, but for being free."""

    provider: str | None = None
    free_only: bool = False
    max_cost_per_token: Decimal | None = None  # USD, against the dearest token
    min_context_length: int | None = None  # tokens
    capabilities: frozenset[str] = frozenset()  # all of them

    def holds(self, model: Model) -> bool:
        """Whether this one is to be in it."""
        offer = model.offer
        if self.provider is not None and all(target.provider != self.provider for target in model.targets):
            return False
        price = None if offer is None else offer.price
        if self.free_only and not is_free(price):
            return False
        if (
            self.max_cost_per_token is not None
            and price is not None
            and cost_per_token(price) > self.max_cost_per_token
        ):
            return False
        length = model.context_length or (None if offer is None else offer.context_length)
        if self.min_context_length is not None and length is not None and length < self.min_context_length:
            return False
        return self.capabilities <= frozenset(() if offer is None else offer.capabilities)


async def named(asker: Principal, name: str, catalog: Callable[[], Catalog], listings: Listings) -> Model:
    """The model that a caller means. Raises: UnknownModel, Forbidden; neither names a model that it may not ask for."""
    try:
        model = resolve(catalog(), name)
    except UnknownModel:
        await listings.look_again()
        try:
            model = resolve(catalog(), name)
        except UnknownModel:
            if asker.sees_all:
                raise
            raise unknown_here(name) from None
    if not asker.may(model.name):
        raise Forbidden(f"This key may not ask for '{name}'", param="model", code="model_not_allowed")
    return model


def _limit(written: str | None) -> Decimal | None:
    """Raises: InvalidRequest."""
    amount = None if written is None else read_amount(written)
    if written is not None and amount is None:
        raise InvalidRequest("max_cost_per_token must be a number of USD per token ≥ 0", param="max_cost_per_token")
    return amount


def model_routes(
    catalog: Callable[[], Catalog], residency: ResidencyManager, listings: Listings
) -> list[HTTPRouteHandler]:
    """The two reading routes."""

    @get(["/v1/models", "/models"])
    async def list_models(
        request: Request[Any, Any, Any],
        provider: FromQuery[str | None] = None,
        free_only: FromQuery[bool] = False,
        max_cost_per_token: FromQuery[str | None] = None,
        min_context_length: FromQuery[int | None] = None,
        capabilities: FromQuery[str | None] = None,
    ) -> Mapping[str, Any]:
        words = frozenset(filter(None, (capabilities or "").split(",")))
        wanted = Wanted(provider, free_only, _limit(max_cost_per_token), min_context_length, words)
        entries = Entries(residency, listings)
        asker = asker_of(request.scope)
        shown = (model for model in catalog().models if asker.may(model.name) and wanted.holds(model))
        return {"object": "list", "data": [entries.entry(model) for model in shown]}

    @get(["/v1/models/{name:path}", "/models/{name:path}"])
    async def get_model(request: Request[Any, Any, Any], name: FromPath[str]) -> Mapping[str, Any]:
        model = await named(asker_of(request.scope), name.removeprefix("/"), catalog, listings)
        return Entries(residency, listings).entry(model)

    return [list_models, get_model]
