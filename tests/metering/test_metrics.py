"""The exposition: text that Prometheus reads, with counts that add up."""

from __future__ import annotations

import math

import pytest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families

from gateway.metering.metrics import LOAD_BUCKETS_S, REQUEST_BUCKETS_S, TOKEN_KINDS, Histogram, Metrics
from gateway.metering.usage import Usage

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def read(metrics: Metrics) -> tuple[dict[str, Metric], Samples]:
    """What a scrape gives, by family and by sample."""
    families = {family.name: family for family in text_string_to_metric_families(metrics.text().decode())}
    samples = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families.values()
        for sample in family.samples
    }
    return families, samples


def test_metrics_parse_when_nothing_has_been_counted() -> None:
    """An empty gateway can be scraped."""
    families, samples = read(Metrics(lambda: ()))
    assert {
        "roundhouse_requests",
        "roundhouse_request_seconds",
        "roundhouse_in_flight",
        "roundhouse_disconnects",
        "roundhouse_loads",
        "roundhouse_evictions",
        "roundhouse_rejections",
        "roundhouse_queue_wait_seconds",
        "roundhouse_load_seconds",
        "roundhouse_tokens",
    } <= set(families)
    assert samples["roundhouse_in_flight", ()] == 0


def test_metrics_tell_what_was_counted() -> None:
    """Requests by route and status, those who left, and what residency did."""
    metrics = Metrics(lambda: ())
    metrics.in_flight = 3
    metrics.request("/v1/chat/completions", 200, 0.2, left=False)
    metrics.request("/v1/chat/completions", 200, 0.3, left=False)
    metrics.request("/v1/chat/completions", 0, 700.0, left=True)
    metrics.loads["ok"] += 2
    metrics.evictions["evicted"] += 1
    metrics.rejections["queue_full"] += 4
    families, samples = read(metrics)
    route = ("route", "/v1/chat/completions")
    assert samples["roundhouse_requests_total", (route, ("status", "200"))] == 2
    assert samples["roundhouse_requests_total", (route, ("status", "0"))] == 1
    assert samples["roundhouse_disconnects_total", ()] == 1
    assert samples["roundhouse_in_flight", ()] == 3
    assert samples["roundhouse_loads_total", (("result", "ok"),)] == 2
    assert samples["roundhouse_evictions_total", (("reason", "evicted"),)] == 1
    assert samples["roundhouse_rejections_total", (("reason", "queue_full"),)] == 4
    assert samples["roundhouse_request_seconds_count", (route,)] == 3
    assert samples["roundhouse_request_seconds_sum", (route,)] == pytest.approx(700.5)
    assert families["roundhouse_request_seconds"].type == "histogram"


def test_metrics_ask_for_the_state_at_each_scrape() -> None:
    """A gauge is what is, not what was when it was registered."""
    now = [1.0]
    metrics = Metrics(lambda: [GaugeMetricFamily("x", "y", now[0])])
    assert read(metrics)[1]["x", ()] == 1.0
    now[0] = 2.0
    assert read(metrics)[1]["x", ()] == 2.0


@pytest.mark.parametrize("bounds", [REQUEST_BUCKETS_S, LOAD_BUCKETS_S])
def test_histogram_is_cumulative_and_counts_a_bound_as_within(bounds: tuple[float, ...]) -> None:
    """Prometheus' `le`: less or equal; the last bucket holds everything."""
    histogram = Histogram(bounds)
    values = [0.0, *bounds, bounds[-1] * 10]
    for value in values:
        histogram.add(value)
    rows = histogram.buckets()
    assert [row[0] for row in rows] == [*map(str, bounds), "+Inf"]
    for label, count in rows:
        limit = math.inf if label == "+Inf" else float(label)
        assert count == sum(value <= limit for value in values)
    assert histogram.total == pytest.approx(sum(values))


def test_metrics_escape_a_label_when_it_holds_quotes() -> None:
    """A hostile route or reason does not break the exposition."""
    metrics = Metrics(lambda: ())
    metrics.rejections['a"b\\c\nd'] += 1
    assert read(metrics)[1]["roundhouse_rejections_total", (("reason", 'a"b\\c\nd'),)] == 1


def test_metrics_count_tokens_by_target_and_kind() -> None:
    """Each kind is a sum over the target's answers."""
    metrics = Metrics(lambda: ())
    metrics.tokens("llama/smollm2", Usage(prompt=10, completion=5, cached=4))
    metrics.tokens("llama/smollm2", Usage(prompt=1, completion=2, reasoning=2))
    metrics.tokens("openrouter/a/b", Usage(completion=7))
    _, samples = read(metrics)
    counts = {
        (dict(labels)["target"], dict(labels)["kind"]): value
        for (name, labels), value in samples.items()
        if name == "roundhouse_tokens_total"
    }
    assert {kind for _, kind in counts} == set(TOKEN_KINDS)
    assert [counts["llama/smollm2", kind] for kind in TOKEN_KINDS] == [11, 7, 4, 2]
    assert [counts["openrouter/a/b", kind] for kind in TOKEN_KINDS] == [0, 7, 0, 0]
