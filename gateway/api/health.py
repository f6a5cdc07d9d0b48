"""Whether the gateway lives, whether it takes requests, and what it has counted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from litestar import Response, get, head
from litestar.handlers import HTTPRouteHandler
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from gateway import __version__
from gateway.metering.metrics import Metrics
from gateway.proxy.pipeline import Upstream
from gateway.residency.journal import Happening
from gateway.residency.manager import ResidencyManager
from gateway.routing.listings import Listings

PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


def health_routes(residency: ResidencyManager, metrics: Metrics) -> list[HTTPRouteHandler]:
    """None of them needs a key: they tell nothing about requests or models' contents."""

    @get("/", sync_to_thread=False)
    def index() -> Mapping[str, str]:
        return {"name": "roundhouse", "version": __version__, "openai_base_url": "/v1", "models": "/v1/models"}

    @head("/", sync_to_thread=False)
    def index_head() -> None: ...

    @get("/health/live", sync_to_thread=False)
    def live() -> Mapping[str, str]:
        return {"status": "ok"}

    @get("/health/ready", sync_to_thread=False)
    def ready() -> Response[Mapping[str, Any]]:
        closing = residency.closing
        status = "shutting_down" if closing else "ok"
        return Response({"status": status}, status_code=503 if closing else 200)

    @get("/metrics", sync_to_thread=False)
    def prometheus() -> Response[bytes]:
        return Response(metrics.text(), media_type=PROMETHEUS)

    return [index, index_head, live, ready, prometheus]


def count_happenings(metrics: Metrics, happening: Happening) -> None:
    """Turns what residency notes down into counts."""
    match happening.what:
        case "loaded":
            metrics.loads["ok"] += 1
            metrics.load_s.add(happening.seconds or 0.0)
        case "load_failed":
            metrics.loads["failed"] += 1
        case "draining":
            metrics.evictions[happening.why] += 1
        case "died":
            metrics.evictions["died"] += 1
        case "rejected":
            metrics.rejections[happening.why] += 1
        case "granted":
            metrics.queue_wait_s.add(happening.seconds or 0.0)
        case _:
            pass


def provider_series(
    listings: Listings, upstreams: Mapping[str, Upstream], clock: Callable[[], float]
) -> Iterable[Metric]:
    """Every provider that is spoken to over an address: whether it is up, what it offers, how its requests went."""
    up = GaugeMetricFamily("roundhouse_provider_up", "1: sent to; 0: down.", labels=("provider",))
    models = GaugeMetricFamily("roundhouse_provider_models", "What its catalogue lists.", labels=("provider",))
    waiting = GaugeMetricFamily(
        "roundhouse_provider_waiting", "For a place under max_concurrent.", labels=("provider",)
    )
    outcomes = CounterMetricFamily(
        "roundhouse_provider_requests", "By how they ended; `all` began.", labels=("provider", "outcome")
    )
    for name, shelf in listings.shelves.items():
        guard = upstreams[name].guard
        if guard is None or not shelf.shown:
            continue
        view = guard.health.view(clock())
        up.add_metric((name,), 0 if view.state == "down" else 1)
        models.add_metric((name,), len(shelf.offers))
        waiting.add_metric((name,), guard.waiting)
        outcomes.add_metric((name, "all"), view.requests)
        outcomes.add_metric((name, "refused"), view.refused)
        outcomes.add_metric((name, "failed"), view.failures)
    yield from (up, models, waiting, outcomes)


def residency_gauges(residency: ResidencyManager) -> Iterable[Metric]:
    """The state of memory at this moment."""
    bytes_held = GaugeMetricFamily("roundhouse_resident_bytes", "Committed bytes.", labels=("target", "device"))
    leases = GaugeMetricFamily("roundhouse_leases", "Requests holding a resident.", labels=("target",))
    for resident in residency.residents():
        leases.add_metric((resident.target,), resident.leases)
        for device, size in resident.footprint.items():
            bytes_held.add_metric((resident.target, device), size)
    yield bytes_held
    yield leases
    budget = GaugeMetricFamily("roundhouse_budget_bytes", "What may be committed.", labels=("device",))
    strangers = GaugeMetricFamily("roundhouse_strangers_bytes", "Held by others.", labels=("device",))
    measured = GaugeMetricFamily("roundhouse_measured_bytes", "Held by our engines, as measured.", labels=("device",))
    for device, words in residency.budgets.items():
        budget.add_metric((device,), words.budget_bytes)
        strangers.add_metric((device,), words.strangers_bytes)
        measured.add_metric((device,), words.measured_bytes)
    yield budget
    yield strangers
    yield measured
    yield GaugeMetricFamily("roundhouse_queue_depth", "Requests waiting for memory.", len(residency.waiting()))
