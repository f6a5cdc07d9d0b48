"""Metrics over OTLP: the conventions' names, attributes and bounds, with our own counts in them."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager

import pytest
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality, HistogramDataPoint

from config.load import load
from gateway.metering.counts import Requests
from gateway.metering.genai import DURATION_S, FIRST_TOKEN_S, Peer, peers_of
from gateway.metering.otlp import Pushing, pushing_from_environment
from tests.fakes.collector import Collector, Value, collector, values

from .entries import entry

PEERS = {"up": Peer("mistral_ai", "api.mistral.ai", 443)}


@contextmanager
def pushed(requests: Requests, monkeypatch: pytest.MonkeyPatch, **more: str) -> Generator[tuple[Collector, Pushing]]:
    """A collector, and who pushes to it."""
    with collector() as kept:
        environ = kept.environ(OTEL_METRICS_EXPORTER="otlp", **more)
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        pushing = pushing_from_environment(environ, requests.rows, PEERS, "1.2")
        assert pushing is not None
        try:
            yield kept, pushing
        finally:
            pushing.close()


def points(kept: Collector, name: str) -> list[tuple[dict[str, Value], HistogramDataPoint]]:
    """Of a histogram, as told last."""
    return [(values(point.attributes), point) for point in kept.metric(name).histogram.data_points]


def counted() -> Requests:
    """Two streams, a whole answer and a failure."""
    requests = Requests()
    for _ in range(2):
        requests.count(
            entry(
                streamed=True, target="up/large", prompt=20, completion=300, first_byte_us=30_000, total_us=3_000_000
            ),
            80,
        )
    requests.count(entry(target="up/large", prompt=5, completion=1, total_us=700_000_000), 80)
    requests.count(entry(target="up/large", prompt=0, completion=0, status=503, code="queue_full", total_us=900), 80)
    return requests


def test_a_collector_gets_the_conventions_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names, units, attributes, bounds and counts; cumulative."""
    with pushed(counted(), monkeypatch) as (kept, pushing):
        pushing.close()
        assert kept.errors == []
        assert {metric.name: metric.unit for metric in kept.metrics} == {
            "gen_ai.server.request.duration": "s",
            "gen_ai.server.time_to_first_token": "s",
            "gen_ai.client.token.usage": "{token}",
        }
        common = {"gen_ai.operation.name": "chat", "gen_ai.provider.name": "mistral_ai", "gen_ai.request.model": "m"}
        good = common | {"gen_ai.response.model": "large"}
        (answered, all_answers), (failed, failures) = points(kept, "gen_ai.server.request.duration")
        assert (answered, failed) == (good, common | {"error.type": "queue_full"})
        assert (all_answers.count, failures.count) == (3, 1)
        assert all_answers.sum == pytest.approx(706.0)
        assert tuple(all_answers.explicit_bounds) == DURATION_S
        assert list(all_answers.bucket_counts) == [0] * 9 + [2] + [0] * 4 + [1]
        assert not all_answers.HasField("min")
        ((said, first),) = points(kept, "gen_ai.server.time_to_first_token")
        assert (said, first.count, tuple(first.explicit_bounds)) == (good, 2, FIRST_TOKEN_S)
        assert {said["gen_ai.token.type"]: point.sum for said, point in points(kept, "gen_ai.client.token.usage")} == {
            "input": 45,
            "output": 601,
        }
        temporality = kept.metric("gen_ai.client.token.usage").histogram.aggregation_temporality
        assert temporality == AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE
        assert kept.resources[0]["service.name"] == "roundhouse"


def test_they_are_told_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the interval asked for; sums since the start."""
    requests = counted()
    with pushed(requests, monkeypatch, OTEL_METRIC_EXPORT_INTERVAL="20") as (kept, _):
        assert kept.news.wait(5)
        requests.count(entry(target="up/large"), 80)
        deadline_s = time.monotonic() + 5
        while sum(point.count for _, point in points(kept, "gen_ai.server.request.duration")) < 5:
            kept.news.clear()
            assert kept.news.wait(deadline_s - time.monotonic())


def test_nothing_counted_is_nothing_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The collector takes that, too."""
    with pushed(Requests(), monkeypatch) as (kept, pushing):
        pushing.close()
        assert kept.errors == []
        assert points(kept, "gen_ai.server.request.duration") == []


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({}, ""),
        ({"OTEL_METRICS_EXPORTER": "none"}, ""),
        ({"OTEL_METRICS_EXPORTER": "otlp", "OTEL_SDK_DISABLED": "TRUE"}, ""),
        ({"OTEL_METRICS_EXPORTER": "prometheus"}, "OTEL_METRICS_EXPORTER='prometheus'"),
    ],
    ids=["unset", "none", "disabled", "unknown"],
)
def test_nothing_is_pushed_unless_it_is_asked_for(
    environ: dict[str, str], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What is asked for and not there is said, and no reason not to start."""
    assert pushing_from_environment(environ, list, {}) is None
    assert said in caplog.text
    assert bool(caplog.records) is bool(said)


def test_an_interval_that_is_none_is_said(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the usual one taken."""
    with pushed(Requests(), monkeypatch, OTEL_METRIC_EXPORT_INTERVAL="often"):
        assert "OTEL_METRIC_EXPORT_INTERVAL" in caplog.text


def test_a_collector_that_is_away_costs_nothing_but_a_line(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gateway ends all the same."""
    with collector() as kept:
        environ = kept.environ(OTEL_METRICS_EXPORTER="otlp", OTEL_EXPORTER_OTLP_TIMEOUT="1")
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    pushing = pushing_from_environment(environ, counted().rows, {})
    assert pushing is not None
    pushing.close()
    assert "export" in caplog.text


def test_providers_are_told_by_the_conventions_names() -> None:
    """By preset, else kind; one that only speaks OpenAI's API by its own name. With its address."""
    config = load(None, {"HOME": "/nowhere", "GROQ_API_KEY": "k", "MISTRAL_API_KEY": "k", "ANTHROPIC_API_KEY": "k"})
    peers = peers_of(config)
    assert peers["groq"] == Peer("groq", "api.groq.com", 443)
    assert peers["mistral"] == Peer("mistral_ai", "api.mistral.ai", 443)
    assert peers["anthropic"] == Peer("anthropic", "api.anthropic.com", 443)
    assert peers["local"] == Peer("llama_cpp")
