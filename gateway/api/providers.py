"""`/admin/providers`: whom we can reach, how they are, and what the operator may change about them at run time."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from decimal import Decimal
from typing import Any, Protocol, runtime_checkable

import msgspec
from litestar import Request, delete, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath
from litestar.response import Stream

from gateway.errors import InvalidRequest, UnknownProvider
from gateway.proxy.pipeline import Upstream
from gateway.proxy.sse import event
from gateway.routing.listings import Listings, Shelf
from providers.contract import Banker, Cached, Puller, Versioned
from providers.errors import ProviderError
from providers.price_filter import Settings
from providers.pricing import plain, read_amount

from .errors import in_stream

_TRUE, _FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")


@runtime_checkable
class Filtered(Protocol):
    """A provider whose catalogue passes a filter that can be changed at run time."""

    @property
    def filter(self) -> Settings: ...

    def set_filter(self, settings: Settings) -> None: ...


class Providers:
    """What the routes below do."""

    def __init__(
        self,
        listings: Listings,
        upstreams: Mapping[str, Upstream],
        hosted: Mapping[str, Callable[[], object]],
        clock: Callable[[], float],
    ) -> None:
        self._listings = listings
        self._hosted = hosted
        self._upstreams = upstreams
        self._clock = clock

    def shelf(self, name: str) -> Shelf:
        """Raises: UnknownProvider."""
        shelf = self._listings.shelves.get(name)
        if shelf is None:
            known = ", ".join(self._listings.shelves) or "none"
            raise UnknownProvider(
                f"There is no provider '{name}' that is spoken to over an address; there are: {known}"
            )
        return shelf

    def all(self) -> list[Mapping[str, Any]]:
        """Every provider but the discovered ones that have never answered."""
        return [self.view(name) for name, shelf in self._listings.shelves.items() if shelf.shown]

    def view(self, name: str) -> dict[str, Any]:
        """One provider: how the last look at its catalogue went, and its health as the data path sees it."""
        shelf, guard = self.shelf(name), self._upstreams[name].guard
        assert guard is not None
        now_s = self._clock()
        return {
            "name": name,
            "kind": shelf.provider.kind,
            "discovered": shelf.discovered,
            "models": len(shelf.offers),
            "error": shelf.error,
            "catalogue": {
                "asked": shelf.asked,
                "every_s": shelf.every_s,
                "age_s": round(now_s - shelf.at_s, 3) if shelf.asked else None,
                "took_s": round(shelf.seconds, 6) if shelf.answered else None,
                **_cached(shelf.provider),
            },
            "health": guard.health.view(now_s),
            "waiting": guard.waiting,
            "filter": _settings(shelf.provider),
            "hosted": self._hosted[name]() if name in self._hosted else None,
        }

    async def detail(self, name: str) -> dict[str, Any]:
        """With what the upstream says of itself and of our key, asked now."""
        view = self.view(name)
        provider = self.shelf(name).provider
        if isinstance(provider, Versioned):
            with contextlib.suppress(ProviderError):  # what is wrong with it stands in `error`
                view["version"] = await provider.version()
        if isinstance(provider, Banker):
            try:
                view["account"] = await provider.account()
            except ProviderError as error:
                view["account_error"] = error.message
        return view

    async def refresh(self, name: str) -> dict[str, Any]:
        """Forget its failures, and ask it for its catalogue now."""
        self.shelf(name)
        guard = self._upstreams[name].guard
        assert guard is not None
        guard.health.forgive()
        await self._listings.ask(name)
        return self.view(name)

    async def change_filter(self, name: str, said: Mapping[str, str]) -> Mapping[str, Any]:
        """Raises: InvalidRequest."""
        provider = self._filtered(name)
        provider.set_filter(_changed(provider.filter, said))
        await self._listings.ask(name)
        return {"provider": name, "settings": _settings(provider)}

    def filter(self, name: str) -> Mapping[str, Any]:
        return {"provider": name, "settings": _settings(self._filtered(name))}

    def _filtered(self, name: str) -> Filtered:
        provider = self.shelf(name).provider
        if not isinstance(provider, Filtered):
            raise InvalidRequest(f"'{name}' has no filter: only providers with prices have one", param="provider")
        return provider

    def puller(self, name: str) -> Puller:
        """Raises: UnknownProvider, InvalidRequest."""
        provider = self.shelf(name).provider
        if not isinstance(provider, Puller):
            raise InvalidRequest(f"'{name}' ({provider.kind}) cannot fetch or delete models", param="provider")
        return provider

    async def pull(self, name: str, puller: Puller, model: str) -> AsyncIterator[bytes]:
        """Progress as server-sent events; the last one is `[DONE]`, or an error."""
        try:
            async with contextlib.aclosing(puller.pull(model)) as steps:  # a caller who leaves ends it at once
                async for step in steps:
                    yield event(step)
        except ProviderError as error:
            yield in_stream(error, between_events=True)
            return
        await self._listings.ask(name)
        yield b"data: [DONE]\n\n"

    async def delete(self, name: str, model: str) -> None:
        """Raises: ProviderError."""
        await self.puller(name).delete(model)
        await self._listings.ask(name)


def _cached(provider: object) -> Mapping[str, object]:
    if not isinstance(provider, Cached):
        return {"stale": False}
    trouble = provider.trouble
    return {
        "stale": provider.stale,
        "cached_age_s": provider.cached_age_s,
        "trouble": None if trouble is None else trouble.message,
    }


def _settings(provider: object) -> Mapping[str, object] | None:
    if not isinstance(provider, Filtered):
        return None
    settings = provider.filter
    return msgspec.structs.asdict(settings) | {"max_cost_per_token": plain(settings.max_cost_per_token)}


def _changed(settings: Settings, said: Mapping[str, str]) -> Settings:
    """`prefer_free` is an older client's word for `prefer_free_models`. Raises: InvalidRequest."""
    changes: dict[str, object] = {}
    for name, value in said.items():
        match name:
            case "show_free_only":
                changes[name] = _flag(name, value)
            case "prefer_free_models" | "prefer_free":
                changes["prefer_free_models"] = _flag(name, value)
            case "max_cost_per_token":
                changes[name] = _amount(name, value)
            case _:
                raise InvalidRequest(
                    f"'{name}' is no setting: there are show_free_only, prefer_free_models, max_cost_per_token",
                    param=name,
                )
    return msgspec.structs.replace(settings, **changes)


def _flag(name: str, value: str) -> bool:
    text = value.lower()
    if text not in (*_TRUE, *_FALSE):
        raise InvalidRequest(f"'{name}' must be true or false", param=name)
    return text in _TRUE


def _amount(name: str, value: str) -> Decimal:
    amount = read_amount(value)
    if amount is None:
        raise InvalidRequest(f"'{name}' must be a number of USD per token ≥ 0, such as \"0.000001\"", param=name)
    return amount


async def _said(request: Request[Any, Any, Any]) -> dict[str, str]:
    """What a caller says, in a JSON body or in the query; the body wins. Raises: InvalidRequest.

    Numbers come as they are written: a price must not pass through a float.
    """
    query = {name: str(value) for name, value in request.query_params.items()}
    body = await request.body()
    if not body:
        return query
    try:
        raw = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
        return query | {name: _text(bytes(value)) for name, value in raw.items()}
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"The body must be a JSON object: {error}") from None


def _text(raw: bytes) -> str:
    return msgspec.json.decode(raw, type=str) if raw.startswith(b'"') else raw.decode()


def provider_routes(
    listings: Listings,
    upstreams: Mapping[str, Upstream],
    hosted: Mapping[str, Callable[[], object]],
    clock: Callable[[], float],
) -> list[HTTPRouteHandler]:
    """All of them need an admin's key where keys are configured."""
    providers = Providers(listings, upstreams, hosted, clock)

    @get("/admin/providers", sync_to_thread=False)
    def read_providers() -> Mapping[str, Any]:
        return {"providers": providers.all()}

    @get("/admin/providers/{name:str}")
    async def read_provider(name: FromPath[str]) -> Mapping[str, Any]:
        return await providers.detail(name)

    @post("/admin/providers/{name:str}/refresh", status_code=200)
    async def refresh(name: FromPath[str]) -> Mapping[str, Any]:
        return await providers.refresh(name)

    @get("/admin/providers/{name:str}/filter", sync_to_thread=False)
    def read_filter(name: FromPath[str]) -> Mapping[str, Any]:
        return providers.filter(name)

    @post("/admin/providers/{name:str}/filter", status_code=200)
    async def change_filter(name: FromPath[str], request: Request[Any, Any, Any]) -> Mapping[str, Any]:
        return await providers.change_filter(name, await _said(request))

    @post("/admin/providers/{name:str}/pull", status_code=200)
    async def pull(name: FromPath[str], request: Request[Any, Any, Any]) -> Stream:
        model = (await _said(request)).get("model", "")
        if not model:
            raise InvalidRequest('Say which model is to be fetched: {"model": "llama3.2:1b"}', param="model")
        progress = providers.pull(name, providers.puller(name), model)
        return Stream(progress, media_type="text/event-stream", headers={"cache-control": "no-cache"})

    @delete("/admin/providers/{name:str}/models/{model:path}", status_code=204)
    async def delete_model(name: FromPath[str], model: FromPath[str]) -> None:
        await providers.delete(name, model.removeprefix("/"))

    return [read_providers, read_provider, refresh, read_filter, change_filter, pull, delete_model]
