"""What has been counted, for Prometheus.

Plain integers and bucket arrays on the hot path (a library's synchronous instrument costs fifty times as much); they are put into
the exposition format only when somebody scrapes.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import generate_latest

from .usage import Usage

# Seconds. Requests: from a cached embedding to a long answer; loads: from a small file in the page cache to a big one from disk.
REQUEST_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
LOAD_BUCKETS_S = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320)
# What was cached is part of the prompt, what was reasoned most often part of the completion: they are not to be summed up.
TOKEN_KINDS = ("prompt", "completion", "cached", "reasoning")


class Histogram:
    """Counts per bucket, and a sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative, as Prometheus wants them."""
        running = 0
        rows: list[tuple[str, float]] = []
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            running += count
            rows.append((bound, running))
        return rows


class Metrics:
    """The gateway's counts. `gauges` is asked at each scrape for what is a state and not a count."""

    def __init__(self, gauges: Callable[[], Iterable[Metric]]) -> None:
        self._gauges = gauges
        self.in_flight = 0
        self.requests: Counter[tuple[str, int]] = Counter()  # (route, status)
        self.disconnects = 0
        self.request_s: dict[str, Histogram] = {}
        self.loads: Counter[str] = Counter()  # by result
        self.evictions: Counter[str] = Counter()  # by reason
        self.rejections: Counter[str] = Counter()  # by reason
        self.queue_wait_s = Histogram(REQUEST_BUCKETS_S)
        self.load_s = Histogram(LOAD_BUCKETS_S)
        self._tokens: dict[str, list[int]] = {}  # by target; in the order of TOKEN_KINDS
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)  # pyright: ignore[reportArgumentType] - a collector is whatever has `collect`

    def request(self, route: str, status: int, seconds: float, *, left: bool) -> None:
        """One request has ended."""
        self.requests[route, status] += 1
        if left:
            self.disconnects += 1
        histogram = self.request_s.get(route)
        if histogram is None:
            histogram = self.request_s[route] = Histogram(REQUEST_BUCKETS_S)
        histogram.add(seconds)

    def tokens(self, target: str, usage: Usage) -> None:
        """What one answer of this target took. Targets are the catalogue's: as many as it has, whatever callers write."""
        counts = self._tokens.get(target)
        if counts is None:
            counts = self._tokens[target] = [0] * len(TOKEN_KINDS)
        counts[0] += usage.prompt
        counts[1] += usage.completion
        counts[2] += usage.cached
        counts[3] += usage.reasoning

    def text(self) -> bytes:
        """Everything in Prometheus' text format 0.0.4."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Called by the registry."""
        requests = CounterMetricFamily("roundhouse_requests", "Requests ended.", labels=("route", "status"))
        for (route, status), count in self.requests.items():
            requests.add_metric((route, str(status)), count)
        yield requests
        seconds = HistogramMetricFamily("roundhouse_request_seconds", "From body read to last byte.", labels=("route",))
        for route, histogram in self.request_s.items():
            seconds.add_metric((route,), histogram.buckets(), histogram.total)
        yield seconds
        yield GaugeMetricFamily("roundhouse_in_flight", "Requests under way.", self.in_flight)
        yield CounterMetricFamily(
            "roundhouse_disconnects", "Callers that left before their answer's end.", self.disconnects
        )
        yield _by("roundhouse_loads", "Loads ended, by result.", "result", self.loads)
        yield _by("roundhouse_evictions", "Residents asked to leave, by reason.", "reason", self.evictions)
        yield _by("roundhouse_rejections", "Requests refused a place in memory, by reason.", "reason", self.rejections)
        yield _tokens(self._tokens)
        yield _histogram("roundhouse_queue_wait_seconds", "Waits for a model that was not ready.", self.queue_wait_s)
        yield _histogram("roundhouse_load_seconds", "Successful loads.", self.load_s)
        yield from self._gauges()


def _by(name: str, text: str, label: str, counts: Counter[str]) -> Metric:
    family = CounterMetricFamily(name, text, labels=(label,))
    for key, count in counts.items():
        family.add_metric((key,), count)
    return family


def _tokens(counts: dict[str, list[int]]) -> Metric:
    family = CounterMetricFamily("roundhouse_tokens", "Tokens, as upstreams tell them.", labels=("target", "kind"))
    for target, values in counts.items():
        for kind, value in zip(TOKEN_KINDS, values, strict=True):
            family.add_metric((target, kind), value)
    return family


def _histogram(name: str, text: str, histogram: Histogram) -> Metric:
    family = HistogramMetricFamily(name, text)
    family.add_metric((), histogram.buckets(), histogram.total)
    return family
