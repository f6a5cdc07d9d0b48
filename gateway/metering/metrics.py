"""What has been counted, for Prometheus.

The law: arrays are put into the exposition format only when somebody scrapes. A series' name ends in its unit, a counter's in
`_total`; what can be told from the start is there from the start, so that a rate does not begin with a gap.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from decimal import Decimal

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import generate_latest

from .counts import (
    CALLER_LEFT,
    FIRST_S,
    OVERHEAD_S,
    QUEUE_S,
    THRASH_OVER_S,
    THRASH_WITHIN_S,
    TOTAL_S,
    US,
    Histogram,
    Kind,
    Loads,
    Requests,
    Row,
)
from .entry import Entry

# What was cached is part of the prompt, what was reasoned most often part of the completion: they are not to be summed up.
TOKEN_KINDS = ("prompt", "completion", "cached", "reasoning")
# Codes of ours that refuse for a limit of the caller's key or tenant. An upstream's own 429 is no limit of ours.
LIMIT_CODES = ("rate_limit_exceeded", "concurrency_limit_exceeded", "insufficient_quota")
_EVICTIONS = ("evicted", "idle", "over_budget", "admin", "died")
_PHASES = ("upload", "queued", "first_byte", "answer")


class Metrics:
    """The gateway's counts.

    Args:
        gauges: asked at each scrape for what is a state and not a count.
        clock: seconds since the epoch.
    """

    def __init__(self, gauges: Callable[[], Iterable[Metric]], clock: Callable[[], float] = time.time) -> None:
        self._gauges = gauges
        self._clock = clock
        self.in_flight = 0
        self.counts = Requests()
        # One request has ended: (entry, our own time in µs, -1: not known). The counts' own, for every call costs each request.
        self.ended: Callable[[Entry, int], None] = self.counts.count
        self.residency = Loads()
        self.rejections: Counter[str] = Counter()  # by reason
        self.queue_wait_s = Histogram(QUEUE_S)
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)  # pyright: ignore[reportArgumentType] - a collector is whatever has `collect`
        ProcessCollector(registry=self._registry)

    @property
    def disconnects(self) -> int:
        """Callers that left."""
        return self.counts.disconnects

    @property
    def requests(self) -> Counter[tuple[str, int]]:
        """By route and status."""
        found: Counter[tuple[str, int]] = Counter()
        for row in self.counts.rows():
            found[row.kind.route, row.kind.status] += row.requests
        return found

    def text(self) -> bytes:
        """Everything in Prometheus' text format 0.0.4."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Called by the registry."""
        rows = self.counts.rows()
        yield from self._of_requests(rows)
        yield from _of_targets(rows)
        yield from self._of_residency()
        yield from self._gauges()

    def _of_requests(self, rows: Sequence[Row]) -> Iterator[Metric]:
        yield GaugeMetricFamily("roundhouse_in_flight", "Requests under way.", self.in_flight)
        requests = CounterMetricFamily(
            "roundhouse_requests",
            "Requests ended; status 0: the caller left before there was one.",
            labels=("route", "status"),
        )
        for (route, status), count in self.requests.items():
            requests.add_metric((route, str(status)), count)
        yield requests
        errors = Counter[str]()
        for row in rows:
            if row.kind.fault not in ("", CALLER_LEFT):
                errors[row.kind.fault] += row.requests
        yield _by("roundhouse_errors", "Errors that the gateway told, by code.", "code", errors)
        limited = Counter[str](dict.fromkeys(LIMIT_CODES, 0))
        limited.update({code: errors[code] for code in LIMIT_CODES})
        yield _by("roundhouse_limits_rejected", "Requests refused for a limit of their key or tenant.", "code", limited)
        left = Counter[str](dict.fromkeys(_PHASES, 0))
        left.update(self.counts.left)
        yield _by("roundhouse_disconnects", "Callers that left before their answer's end, by where.", "phase", left)
        yield _histograms(
            "roundhouse_request_seconds",
            "From the request's header fields to its last byte.",
            ("route",),
            _grouped(rows, TOTAL_S, lambda row: row.total, lambda kind: (kind.route,)),
        )
        yield _histograms(
            "roundhouse_request_queue_seconds",
            "Of that, waited for the model: the queue and its load; 0 where it was there.",
            ("route",),
            _grouped(rows, QUEUE_S, lambda row: row.queue, lambda kind: (kind.route,)),
        )
        yield _histograms(
            "roundhouse_overhead_seconds",
            "The gateway's own time: from the socket's bytes to the last byte of the answer, without the caller's body, "
            "waits for models and places, and what the upstream took.",
            ("route",),
            _grouped(rows, OVERHEAD_S, lambda row: row.overhead, lambda kind: (kind.route,)),
        )

    def _of_residency(self) -> Iterator[Metric]:
        loads = self.residency
        results = Counter[str]({"ok": 0, "failed": 0})
        results.update(loads.results)
        yield _by("roundhouse_loads", "Loads ended, by result.", "result", results)
        evictions = Counter[str](dict.fromkeys(_EVICTIONS, 0))
        evictions.update(loads.evictions)
        yield _by("roundhouse_evictions", "Residents asked to leave, by reason.", "reason", evictions)
        yield CounterMetricFamily(
            "roundhouse_reloads",
            f"Loads of models that began within {THRASH_WITHIN_S:g} s of their leaving for another one or for the budget.",
            loads.again,
        )
        yield GaugeMetricFamily(
            "roundhouse_thrash_ratio",
            f"Reloads (as roundhouse_reloads_total has them) among the successful loads of the last {THRASH_OVER_S:g} s; "
            "0: no model was pushed out in vain, 1: every load was of a model that had just been.",
            loads.thrash(self._clock()),
        )
        yield _by("roundhouse_rejections", "Requests refused a place in memory, by reason.", "reason", self.rejections)
        yield _histogram(
            "roundhouse_queue_wait_seconds", "Waits that ended with the model, of those that waited.", self.queue_wait_s
        )
        yield _histogram("roundhouse_load_seconds", "Successful loads.", loads.seconds)


def _of_targets(rows: Sequence[Row]) -> Iterator[Metric]:
    """Targets are the catalogue's: as many as it has, whatever callers write."""
    reached = [row for row in rows if row.kind.target]
    yield _histograms(
        "roundhouse_first_byte_seconds",
        "Until the first byte of an answer below status 400; of one that is not streamed that is nearly its end.",
        ("target", "streamed"),
        _grouped(
            [row for row in reached if 0 < row.kind.status < 400],
            FIRST_S,
            lambda row: row.first,
            lambda kind: (kind.target, "true" if kind.streamed else "false"),
        ),
    )
    tokens: dict[str, list[int]] = {}
    costs: dict[str, Decimal] = {}
    for row in reached:
        counts = tokens.setdefault(row.kind.target, [0] * len(TOKEN_KINDS))
        for place, count in enumerate((int(row.prompt.total), int(row.completion.total), *row.tokens)):
            counts[place] += count
        costs[row.kind.target] = costs.get(row.kind.target, Decimal(0)) + row.cost_usd
    family = CounterMetricFamily("roundhouse_tokens", "Tokens, as upstreams tell them.", labels=("target", "kind"))
    for target, values in tokens.items():
        for kind, value in zip(TOKEN_KINDS, values, strict=True):
            family.add_metric((target, kind), value)
    yield family
    cost = CounterMetricFamily("roundhouse_cost_usd", "What answers cost, as far as that is known.", labels=("target",))
    for target, usd in costs.items():
        cost.add_metric((target,), float(usd))
    yield cost


def _grouped(
    rows: Iterable[Row],
    bounds: tuple[float, ...],
    of: Callable[[Row], Histogram],
    labels: Callable[[Kind], tuple[str, ...]],
) -> dict[tuple[str, ...], Histogram]:
    """One histogram for all rows of the same labels."""
    found: dict[tuple[str, ...], Histogram] = {}
    for row in rows:
        key = labels(row.kind)
        whole = found.get(key)
        if whole is None:
            whole = found[key] = Histogram(bounds, US)
        whole.put(of(row))
    return found


def _histograms(name: str, text: str, labels: tuple[str, ...], found: dict[tuple[str, ...], Histogram]) -> Metric:
    family = HistogramMetricFamily(name, text, labels=labels)
    for key, histogram in found.items():
        family.add_metric(key, histogram.buckets(), histogram.sum)
    return family


def _histogram(name: str, text: str, histogram: Histogram) -> Metric:
    family = HistogramMetricFamily(name, text)
    family.add_metric((), histogram.buckets(), histogram.sum)
    return family


def _by(name: str, text: str, label: str, counts: Counter[str]) -> Metric:
    family = CounterMetricFamily(name, text, labels=(label,))
    for key, count in counts.items():
        family.add_metric((key,), count)
    return family
