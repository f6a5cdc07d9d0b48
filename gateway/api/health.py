"""Whether the gateway lives, whether it takes requests, and what it has counted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from litestar import Response, get
from litestar.handlers import HTTPRouteHandler
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric

from gateway import __version__
from gateway.metering.counts import Loads
from gateway.metering.metrics import Metrics
from gateway.proxy.pipeline import Upstream
from gateway.residency.events import Phase, ResidentView
from gateway.residency.journal import Happening
from gateway.residency.manager import ResidencyManager
from gateway.routing.listings import Listings

# What programs are told at `/`; people are shown the dashboard.
INDEX = {"name": "roundhouse", "version": __version__, "openai_base_url": "/v1", "models": "/v1/models"}
PROMETHEUS = "text/plain; version=0.0.4"


class LedgerWords(Protocol):
    """How the ledger stands."""

    @property
    def ok(self) -> bool: ...

    @property
    def buffered(self) -> int: ...

    @property
    def written(self) -> int: ...

    @property
    def dropped(self) -> int: ...


def health_routes(residency: ResidencyManager, metrics: Metrics) -> list[HTTPRouteHandler]:
    """None of them needs a key: they tell nothing about requests or models' contents."""

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

    return [live, ready, prometheus]


def count_happenings(metrics: Metrics, happening: Happening) -> None:
    """Turns what residency notes down into counts."""
    loads, target = metrics.residency, happening.target
    match happening.what:
        case "load_started":
            loads.started(target, happening.footprint or {}, happening.footprint_source)
        case "loaded":
            loads.loaded(target, happening.at_s, happening.seconds or 0.0)
        case "load_failed":
            loads.results["failed"] += 1
            loads.gone(target)
        case "draining":
            loads.leaves(target, happening.at_s, happening.why)
        case "died":
            loads.leaves(target, happening.at_s, "died")
            loads.gone(target)
        case "gone" | "vanished":
            loads.gone(target)
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


def residency_gauges(residency: ResidencyManager, loads: Loads | None = None) -> Iterable[Metric]:
    """The state of memory at this moment."""
    residents = residency.residents()
    bytes_held = GaugeMetricFamily("roundhouse_resident_bytes", "Committed bytes.", labels=("target", "device"))
    leases = GaugeMetricFamily("roundhouse_leases", "Requests holding a resident.", labels=("target",))
    for resident in residents:
        leases.add_metric((resident.target,), resident.leases)
        for device, size in resident.footprint.items():
            bytes_held.add_metric((resident.target, device), size)
    phases = GaugeMetricFamily("roundhouse_residents", "Models in memory, on their way in or out.", labels=("phase",))
    for phase in Phase:
        phases.add_metric((phase.value,), sum(resident.phase is phase for resident in residents))
    yield from (bytes_held, leases, phases)
    yield from _devices(residency)
    waiting = residency.waiting()
    yield GaugeMetricFamily("roundhouse_queue_depth", "Requests waiting for memory.", len(waiting))
    yield GaugeMetricFamily(
        "roundhouse_queue_longest_wait_seconds",
        "How long the one who waits longest has waited so far; 0: nobody waits.",
        max((each.waiting_s for each in waiting), default=0.0),
    )
    if loads is not None:
        yield _footprint_errors(residency, residents, loads)


def _devices(residency: ResidencyManager) -> Iterable[Metric]:
    committed = GaugeMetricFamily("roundhouse_committed_bytes", "Set aside for residents.", labels=("device",))
    budget = GaugeMetricFamily("roundhouse_budget_bytes", "What may be committed.", labels=("device",))
    strangers = GaugeMetricFamily("roundhouse_strangers_bytes", "Held by others.", labels=("device",))
    measured = GaugeMetricFamily("roundhouse_measured_bytes", "Held by our engines, as measured.", labels=("device",))
    held = residency.committed_bytes()
    for device, words in residency.budgets.items():
        committed.add_metric((device,), held.get(device, 0))
        budget.add_metric((device,), words.budget_bytes)
        strangers.add_metric((device,), words.strangers_bytes)
        measured.add_metric((device,), words.measured_bytes)
    return committed, budget, strangers, measured


def _footprint_errors(residency: ResidencyManager, residents: Iterable[ResidentView], loads: Loads) -> Metric:
    errors = GaugeMetricFamily(
        "roundhouse_footprint_error_ratio",
        "Of each resident: its size as it was thought when its load began (source: estimated, declared or learned) against the "
        "most it has been measured to hold, less 1. Above 0: too much was set aside; below 0: too little.",
        labels=("target", "device", "source"),
    )
    for resident in residents:
        target = resident.target
        if target not in loads.believed or target not in residency.managed:
            continue
        believed, source = loads.believed[target]
        measured, _ = residency.footprints.best(residency.managed[target].key, None, {})
        for device, size in measured.items():
            errors.add_metric((target, device, source), believed.get(device, 0) / size - 1)
    return errors


def ledger_series(state: LedgerWords) -> Iterable[Metric]:
    """How the ledger stands."""
    yield GaugeMetricFamily("roundhouse_ledger_ok", "1: rows are written; 0: they wait, see the log.", int(state.ok))
    yield GaugeMetricFamily(
        "roundhouse_ledger_buffered_rows",
        "Rows that are not in the database yet, on disk and in memory.",
        state.buffered,
    )
    yield CounterMetricFamily("roundhouse_ledger_written_rows", "Rows that came into the database.", state.written)
    yield CounterMetricFamily("roundhouse_ledger_dropped_rows", "Rows that never will.", state.dropped)


def build_info() -> Metric:
    """Which version this is: joined to other series, or shown beside them."""
    return InfoMetricFamily("roundhouse_build", "This gateway.", {"version": __version__})
