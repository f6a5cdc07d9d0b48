"""`/v1/models`: what may be asked for, in OpenAI's form, with what we know beside it. Reading loads nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from litestar import get
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

from gateway.residency.manager import ResidencyManager
from gateway.routing.catalog import Catalog, Model
from gateway.routing.resolve import resolve


def entry(model: Model, residency: ResidencyManager) -> Mapping[str, Any]:
    """OpenAI's model object, and `roundhouse`: where it stands."""
    residents = {resident.target: resident for resident in residency.residents()}
    resident = next((residents[target.key] for target in model.targets if target.key in residents), None)
    managed = [target.key for target in model.targets if target.key in residency.managed]
    state = "remote" if not managed else "cold" if resident is None else str(resident.phase)
    return {
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": model.targets[0].provider,
        "roundhouse": {
            "targets": [target.key for target in model.targets],
            "aliases": model.aliases,
            "state": state,
            "bytes": None if resident is None else resident.footprint,
            "context_length": model.context_length,
            "pinned": any(residency.is_pinned(target) for target in managed),
        },
    }


def model_routes(catalog: Catalog, residency: ResidencyManager) -> list[HTTPRouteHandler]:
    """The two reading routes."""

    @get("/v1/models")
    async def list_models() -> Mapping[str, Any]:
        return {"object": "list", "data": [entry(model, residency) for model in catalog.models]}

    @get("/v1/models/{name:path}")
    async def get_model(name: FromPath[str]) -> Mapping[str, Any]:
        return entry(resolve(catalog, name.removeprefix("/")), residency)

    return [list_models, get_model]
