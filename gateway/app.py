"""The composition root: builds everything once, and takes it down again. Nobody imports it but the command line and journeys."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import msgspec
from litestar import Litestar, Request, Response, asgi
from litestar.exceptions import HTTPException
from litestar.handlers import ASGIRouteHandler

from config.schema import Config
from gateway.access.keys import Keys
from gateway.api.admin import admin_routes
from gateway.api.data import DataRoutes
from gateway.api.edge import App, Edge
from gateway.api.errors import tell, tell_http
from gateway.api.health import count_happenings, health_routes, provider_series, residency_gauges
from gateway.api.models import model_routes
from gateway.api.providers import provider_routes
from gateway.metering.metrics import Metrics
from gateway.metering.traces import Tracing, from_environment
from gateway.proxy.pipeline import Pipeline, Upstream
from gateway.residency.footprints import Footprints
from gateway.residency.leftovers import Leftovers
from gateway.residency.manager import ResidencyManager
from gateway.residency.memory import Measurer, budgets
from gateway.residency.sampling import Sampler
from gateway.residency.watch import Watch
from gateway.routing.catalog import Catalog
from gateway.routing.listings import Listings
from providers.remote import Site
from providers.warden import Warden

from . import assembly
from .directory import Directory
from .preload import preload

log = logging.getLogger("roundhouse")

DATA_PATHS = frozenset(("/v1/chat/completions", "/v1/messages", "/v1/messages/count_tokens"))
# How long the start waits for servers in reach to say what they have: they answer in milliseconds, or nobody listens there.
FIRST_LOOK_S = 1.0
# After the server has waited for its requests: what is still held then belongs to nobody.
DRAIN_S = 1.0


class Gateway(msgspec.Struct, frozen=True):
    """The parts that others need to see."""

    app: App
    directory: Directory
    residency: ResidencyManager
    listings: Listings
    watch: Watch
    upstreams: Mapping[str, Upstream]
    metrics: Metrics
    sampler: Sampler


class _Parts(msgspec.Struct, frozen=True):
    """What the application is put together from."""

    config: Config
    directory: Directory
    residency: ResidencyManager
    listings: Listings
    upstreams: Mapping[str, Upstream]
    hosted: Mapping[str, Callable[[], object]]  # provider → how the server that we started for it stands
    metrics: Metrics
    tracing: Tracing | None


@asynccontextmanager
async def gateway(config: Config) -> AsyncGenerator[Gateway, None]:
    """Everything built; on leaving, every engine is stopped and every connection closed.

    Raises: ConfigError: a name is given twice.
    """
    loop = asyncio.get_running_loop()
    models = await asyncio.to_thread(assembly.models_of, config)
    warden = Warden()
    hosted = assembly.hosted_of(config, warden, loop.time, random.random)
    config = assembly.with_addresses(config, hosted)
    measurer = Measurer()
    footprints = Footprints(config.server.state_dir / "footprints.json")
    await footprints.open()
    reading = await measurer.measure()
    gpus = {device: seen.total_bytes for device, seen in sorted(reading.devices.items()) if device != "ram"}
    site = Site(state_dir=config.server.state_dir, gpus=gpus)
    providers = assembly.providers_of(config, assembly.specs_of(config, models), warden, site)
    directory = Directory(config, models, providers, int(time.time()))
    footprints.totals = {device: seen.total_bytes for device, seen in reading.devices.items()}
    residency = ResidencyManager(
        directory.managed(),
        assembly.with_servers(config, budgets(reading, config.memory)),
        measurer=measurer,
        footprints=footprints,
        queue_max=config.residency.queue_max,
        min_residency_s=config.residency.min_residency_s,
        clock=loop.time,
    )
    health = assembly.health_of(providers, loop.time)
    listings = Listings(
        assembly.shelves_of(config, providers),
        health,
        lambda: directory.update(listings.listings(), residency),
        loop.time,
        random.random,
    )
    directory.update(listings.listings(), residency)
    watch = Watch(residency, assembly.servers_of(providers), listings.nudge)
    own_memory = partial(assembly.with_servers, config)
    sampler = Sampler(residency, config.memory, loop.time, watch.roots, own_memory)
    tracing = from_environment(os.environ)
    upstreams = assembly.upstreams_of(config, providers, health, loop.time, random.random)
    metrics = Metrics(
        lambda: (*residency_gauges(residency), *provider_series(listings, upstreams, loop.time)),
    )
    leftovers = Leftovers(config.server.state_dir / "in_servers.json", residency.in_server)
    residency.disown(await leftovers.open())
    residency.journal.listeners += [partial(count_happenings, metrics), _log_happening, leftovers.heed]
    views = {name: server.view for name, server in hosted.items()}
    app = _application(_Parts(config, directory, residency, listings, upstreams, views, metrics, tracing))
    serving = [asyncio.create_task(server.run(), name=f"host {name}") for name, server in hosted.items()]
    work = (sampler.run(), listings.run(), watch.run(), preload(config, providers, listings, residency))
    background = [asyncio.create_task(each, name=each.__qualname__) for each in work]
    try:
        await listings.settle(FIRST_LOOK_S, [name for name, shelf in listings.shelves.items() if shelf.near])
        yield Gateway(app, directory, residency, listings, watch, upstreams, metrics, sampler)
    finally:
        await _end(background)
        await residency.aclose(DRAIN_S)
        await _end(serving)  # not before what is in their memory has been unloaded
        for provider in providers.values():
            await provider.aclose()
        await warden.aclose()
        await footprints.aclose()
        await leftovers.aclose()
        await measurer.aclose()
        if tracing is not None:
            await asyncio.to_thread(tracing.close)


async def _end(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _application(parts: _Parts) -> App:
    config, directory, residency = parts.config, parts.directory, parts.residency
    keys = Keys(config.server.api_keys, config.server.admin_keys)

    def catalog() -> Catalog:
        return directory.catalog

    pipeline = Pipeline(catalog, parts.listings.look_again, residency, parts.upstreams, config.residency.patience_s)
    data = DataRoutes(
        pipeline,
        keys,
        parts.metrics,
        max_body_bytes=config.server.max_body_bytes,
        keepalive_s=config.residency.keepalive_s,
        tracing=parts.tracing,
    )
    litestar = Litestar(
        [
            *_data_handlers(data),
            *model_routes(catalog, residency, parts.listings),
            *admin_routes(catalog, residency, config.residency.patience_s),
            *provider_routes(parts.listings, parts.upstreams, parts.hosted, asyncio.get_running_loop().time),
            *health_routes(residency, parts.metrics),
        ],
        exception_handlers={HTTPException: _http_error, Exception: _error},
        openapi_config=None,
        logging_config=None,
    )
    return Edge(litestar, keys, data.handle, DATA_PATHS)


def _data_handlers(data: DataRoutes) -> Iterable[ASGIRouteHandler]:
    for path in sorted(DATA_PATHS):

        @asgi(path, copy_scope=False)
        async def handle(scope: Any, receive: Any, send: Any) -> None:
            await data.handle(scope, receive, send)

        yield handle


def _error(_: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    told = tell(error)
    if told.status == 500:
        log.error("unforeseen", exc_info=error)
    headers = {name.decode(): value.decode() for name, value in told.headers if name != b"content-type"}
    return Response(told.body(), status_code=told.status, headers=headers, media_type="application/json")


def _http_error(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    body = msgspec.json.encode(tell_http(error.status_code, error.detail))
    headers = {name: value for name, value in (error.headers or {}).items() if name == "allow"}
    if request.scope["path"] in DATA_PATHS:  # refused before its handler, which would have added them
        headers |= {name.decode(): value.decode() for name, value in request.scope["state"]["fields"]}
    return Response(body, status_code=error.status_code, media_type="application/json", headers=headers)


def _log_happening(happening: Any) -> None:
    words = [happening.what.replace("_", " "), happening.target]
    words += [happening.why] if happening.why else []
    words += [f"for {happening.for_target}"] if happening.for_target else []
    words += [f"({happening.detail})"] if happening.detail else []
    words += [f"{happening.seconds:.2f} s"] if happening.seconds is not None else []
    log.info(" ".join(words))
