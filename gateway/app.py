"""The composition root: builds everything once, and takes it down again. Nobody imports it but the command line and journeys."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import msgspec
from litestar import Litestar, Request, Response, asgi
from litestar.exceptions import HTTPException
from litestar.handlers import ASGIRouteHandler

from config.schema import Config, ModelConfig
from gateway import __version__
from gateway.api.activity import activity_routes
from gateway.api.admin import admin_routes
from gateway.api.dashboard import FOLDER, dashboard_routes, files_in
from gateway.api.data import DataRoutes
from gateway.api.edge import App, Edge
from gateway.api.errors import spoken_at, tell, tell_http
from gateway.api.health import (
    INDEX,
    build_info,
    count_happenings,
    health_routes,
    ledger_series,
    provider_series,
    residency_gauges,
)
from gateway.api.keys import key_routes
from gateway.api.live import live_routes
from gateway.api.models import model_routes
from gateway.api.ollama import ollama_routes
from gateway.api.providers import provider_routes
from gateway.api.session import session_routes
from gateway.api.settings import settings_routes
from gateway.api.tenants import tenant_routes
from gateway.api.timeline import timeline_routes
from gateway.api.usage import usage_routes
from gateway.dialects.spoken import enveloped
from gateway.dialects.talk import Stamp
from gateway.metering.activity import Activity
from gateway.metering.genai import peers_of
from gateway.metering.metrics import Metrics
from gateway.metering.otlp import pushing_from_environment
from gateway.metering.traces import Tracing, from_environment
from gateway.proxy.pipeline import Pipeline, Upstream
from gateway.proxy.routes import ROUTES
from gateway.proxy.toll import Toll
from gateway.residency.footprints import Footprints
from gateway.residency.leftovers import Leftovers
from gateway.residency.manager import ResidencyManager
from gateway.residency.memory import Measurer, Reading, budgets
from gateway.residency.progress import Board
from gateway.residency.sampling import Sampler
from gateway.residency.timeline import Timeline
from gateway.residency.watch import Watch
from gateway.routing.catalog import Catalog
from gateway.routing.listings import Listings
from gateway.server.memory import Packed
from providers.contract import Provider
from providers.hosted import HostedServer
from providers.remote import Site
from providers.warden import Warden

from . import assembly
from .directory import Directory
from .operation import Books, desk_of, open_books, restored
from .preload import preload

log = logging.getLogger("roundhouse")

DATA_PATHS = frozenset(ROUTES)
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
    packed: Packed


class _Ground(msgspec.Struct, frozen=True):
    """What everything else stands on."""

    config: Config  # with the addresses of the servers that we start ourselves
    hosted: Mapping[str, HostedServer]
    measurer: Measurer
    reading: Reading
    footprints: Footprints
    providers: Mapping[str, Provider]
    models: Mapping[str, ModelConfig]


class _Parts(msgspec.Struct, frozen=True):
    """What the application is put together from."""

    config: Config
    models: Mapping[str, ModelConfig]
    directory: Directory
    residency: ResidencyManager
    listings: Listings
    upstreams: Mapping[str, Upstream]
    hosted: Mapping[str, Callable[[], object]]  # provider → how the server that we started for it stands
    metrics: Metrics
    tracing: Tracing | None
    books: Books
    timeline: Timeline


@asynccontextmanager
async def gateway(config: Config) -> AsyncGenerator[Gateway, None]:
    """Everything built; on leaving, every engine is stopped and every connection closed.

    Raises: ConfigError: a name is given twice, or something of a provider cannot be used.
    """
    async with AsyncExitStack() as stack:
        ground = await _lay_ground(config, stack)
        yield await _build(ground, stack)


async def _lay_ground(config: Config, stack: AsyncExitStack) -> _Ground:
    clock = asyncio.get_running_loop().time
    models = await asyncio.to_thread(assembly.models_of, config)
    measurer = Measurer()
    stack.push_async_callback(measurer.aclose)
    footprints = Footprints(config.server.state_dir / "footprints.json")
    await footprints.open()
    stack.push_async_callback(footprints.aclose)
    reading = await measurer.measure()
    footprints.totals = {device: seen.total_bytes for device, seen in reading.devices.items()}
    warden = Warden()
    stack.push_async_callback(warden.aclose)
    hosted = assembly.hosted_of(config, warden, clock, random.random)
    config = assembly.with_addresses(config, hosted)
    gpus = {device: seen.total_bytes for device, seen in sorted(reading.devices.items()) if device != "ram"}
    site = Site(state_dir=config.server.state_dir, gpus=gpus)
    providers = assembly.providers_of(config, assembly.specs_of(config, models), warden, site)
    for provider in providers.values():
        stack.push_async_callback(provider.aclose)
    return _Ground(config, hosted, measurer, reading, footprints, providers, models)


async def _build(ground: _Ground, stack: AsyncExitStack) -> Gateway:
    clock = asyncio.get_running_loop().time
    config, providers = ground.config, ground.providers
    health = assembly.health_of(providers, clock)
    listings = Listings(
        assembly.shelves_of(config, providers),
        health,
        lambda: directory.update(listings.listings(), residency),
        clock,
        random.random,
    )
    known = listings.listings()
    directory = Directory(config, ground.models, providers, int(time.time()), known)
    # the servers that we start end after what is in their memory has been unloaded
    _start(stack, [server.run() for server in ground.hosted.values()])
    residency = ResidencyManager(
        directory.managed(known),
        assembly.with_servers(config, budgets(ground.reading, config.memory)),
        measurer=ground.measurer,
        footprints=ground.footprints,
        queue_max=config.residency.queue_max,
        min_residency_s=config.residency.min_residency_s,
        clock=clock,
    )
    leftovers = Leftovers(config.server.state_dir / "in_servers.json", residency.in_server)
    residency.disown(await leftovers.open())
    stack.push_async_callback(leftovers.aclose)
    stack.push_async_callback(residency.aclose, DRAIN_S)
    upstreams = assembly.upstreams_of(config, providers, health, clock, random.random)
    metrics = Metrics(
        lambda: (
            *residency_gauges(residency, metrics.residency),
            *provider_series(listings, upstreams, clock),
            *(() if books.ledger is None else ledger_series(books.ledger.state)),
            build_info(),
        )
    )
    timeline = Timeline()
    residency.journal.listeners += [
        partial(count_happenings, metrics),
        _log_happening,
        leftovers.heed,
        timeline.heed,
    ]
    watch = Watch(residency, assembly.servers_of(providers), listings.nudge)
    sampler = Sampler(residency, config.memory, clock, watch.roots, partial(assembly.with_servers, config))
    tracing = _tell_collectors(config, metrics, stack)
    books, keeping = await open_books(config, stack)
    _start(stack, [keeping])
    await restored(books.access)
    views = {name: server.view for name, server in ground.hosted.items()}
    app, activity = _application(
        _Parts(
            config,
            ground.models,
            directory,
            residency,
            listings,
            upstreams,
            views,
            metrics,
            tracing,
            books,
            timeline,
        )
    )
    _start(stack, [sampler.run(), listings.run(), watch.run(), preload(config, providers, listings, residency)])
    await listings.settle(FIRST_LOOK_S, [name for name, shelf in listings.shelves.items() if shelf.near])
    return Gateway(app, directory, residency, listings, watch, upstreams, metrics, sampler, activity.packed)


def _tell_collectors(config: Config, metrics: Metrics, stack: AsyncExitStack) -> Tracing | None:
    """Spans and metrics to whom the environment names; what is left is handed on at the end."""
    peers = peers_of(config)
    tracing = from_environment(os.environ, peers, (config.server.host, config.server.port), __version__)
    pushing = pushing_from_environment(os.environ, metrics.counts.rows, peers, __version__)
    for telling in (tracing, pushing):
        if telling is not None:
            stack.push_async_callback(asyncio.to_thread, telling.close)
    return tracing


def _start(stack: AsyncExitStack, work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """In the background, until the stack is unwound."""
    stack.push_async_callback(_end, [asyncio.create_task(each, name=each.__qualname__) for each in work])


async def _end(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _application(parts: _Parts) -> tuple[App, Activity]:
    config, directory, residency = parts.config, parts.directory, parts.residency

    def catalog() -> Catalog:
        return directory.catalog

    books = parts.books
    access = books.access
    desk = desk_of(books, catalog, residency, parts.listings, parts.upstreams, parts.timeline)
    pipeline = Pipeline(
        catalog,
        parts.listings.look_again,
        residency,
        parts.upstreams,
        config.residency.patience_s,
        assembly.policies_of(parts.models),
        _stamp,
        Toll(access, desk.cost),
    )
    data = DataRoutes(
        pipeline,
        access,
        parts.metrics,
        max_body_bytes=config.server.max_body_bytes,
        max_upload_bytes=config.server.max_upload_bytes,
        keepalive_s=config.residency.keepalive_s,
        stamp=_stamp,
        progress=Board(residency).progress,
        recorder=desk.recorder,
        capture_max_bytes=config.ledger.capture_max_bytes if books.ledger is not None else 0,
        tracing=parts.tracing,
    )
    litestar = Litestar(
        [
            *_data_handlers(data),
            *model_routes(catalog, residency, parts.listings),
            *ollama_routes(catalog, residency, parts.listings),
            *key_routes(access),
            *tenant_routes(access),
            *session_routes(access),
            *admin_routes(catalog, residency, config.residency.patience_s, access),
            *provider_routes(parts.listings, parts.upstreams, parts.hosted, asyncio.get_running_loop().time),
            *health_routes(residency, parts.metrics),
            *dashboard_routes(files_in(FOLDER), INDEX),
            *live_routes(desk.hub),
            *activity_routes(desk.activity, books.archive),
            *timeline_routes(desk.timeline, desk.minutes, desk.standing.name_of),
            *settings_routes(config, os.environ),
            *(() if books.ledger is None else usage_routes(books.ledger)),
        ],
        exception_handlers={HTTPException: _http_error, Exception: _error},
        openapi_config=None,
        logging_config=None,
    )
    return Edge(litestar, access, data.handle, DATA_PATHS), desk.activity


def _stamp() -> Stamp:
    return Stamp(secrets.token_hex(12), int(time.time()), time.monotonic)


def _data_handlers(data: DataRoutes) -> Iterable[ASGIRouteHandler]:
    for path in sorted(DATA_PATHS):

        @asgi(path, copy_scope=False)
        async def handle(scope: Any, receive: Any, send: Any) -> None:
            await data.handle(scope, receive, send)

        yield handle


def _error(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    told = tell(error, spoken_at(request.scope["path"]))
    if told.status == 500:
        log.error("unforeseen", exc_info=error)
    headers = {name.decode(): value.decode() for name, value in told.headers if name != b"content-type"}
    return Response(told.body(), status_code=told.status, headers=headers, media_type="application/json")


def _http_error(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    said = tell_http(error.status_code, error.detail)
    body = msgspec.json.encode(enveloped(said["error"], spoken_at(request.scope["path"])))
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
