"""Metrics over OTLP: the conventions' names, attributes and bounds, with our own counts in them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import pytest
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality, HistogramDataPoint
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from config.load import load
from gateway.metering.counts import Requests
from gateway.metering.genai import DURATION_S, FIRST_TOKEN_S, Peer, peers_of
from gateway.metering.otlp import Pushing, pushing_from_environment
from tests.cli.gateways import Served, served
from tests.fakes.collector import Collector, Value, collector, values
from tests.fakes.running import CHAT, ask, chat
from tests.fakes.upstream import Exchange, FakeUpstream

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
        ({"OTEL_METRICS_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}, ""),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:1"}, ""),
        ({"OTEL_METRICS_EXPORTER": "otlp", "OTEL_SDK_DISABLED": "TRUE"}, ""),
        ({"OTEL_METRICS_EXPORTER": "prometheus"}, "OTEL_METRICS_EXPORTER='prometheus'"),
    ],
    ids=["unset", "none", "traces only", "disabled", "unknown"],
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


# ---------------------------------------------------------------- a gateway of its own, and the conventions' own lists

# Attributes of a span of inference, and their types. Source: semantic-conventions-genai, docs/gen-ai/gen-ai-spans.md.
LISTED: dict[str, type] = {
    "gen_ai.operation.name": str,
    "gen_ai.provider.name": str,
    "gen_ai.conversation.id": str,
    "gen_ai.output.type": str,
    "gen_ai.request.choice.count": int,
    "gen_ai.request.model": str,
    "gen_ai.request.seed": int,
    "gen_ai.request.stream": bool,
    "gen_ai.request.top_k": float,
    "gen_ai.request.max_tokens": int,
    "gen_ai.request.temperature": float,
    "gen_ai.request.top_p": float,
    "gen_ai.response.id": str,
    "gen_ai.response.model": str,
    "gen_ai.response.time_to_first_chunk": float,
    "gen_ai.usage.cache_read.input_tokens": int,
    "gen_ai.usage.input_tokens": int,
    "gen_ai.usage.output_tokens": int,
    "gen_ai.usage.reasoning.output_tokens": int,
    "error.type": str,
    "server.address": str,
    "server.port": int,
    # of HTTP's conventions
    "http.request.method": str,
    "http.response.status_code": int,
    "http.route": str,
    "url.path": str,
    "url.scheme": str,
}
REQUIRED = {"gen_ai.operation.name", "gen_ai.provider.name"}
# What each of the two says of a streamed answer that was counted.
TOLD = REQUIRED | {
    "gen_ai.request.model",
    "gen_ai.request.stream",
    "gen_ai.response.model",
    "gen_ai.response.time_to_first_chunk",
    "gen_ai.usage.input_tokens",
    "gen_ai.usage.output_tokens",
    "gen_ai.usage.cache_read.input_tokens",
    "gen_ai.usage.reasoning.output_tokens",
    "server.address",
    "server.port",
}
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = [("traceparent", f"00-{TRACE}-{SPAN}-01"), ("tracestate", "vendor=1")]
USAGE = {
    "prompt_tokens": 9,
    "completion_tokens": 5,
    "total_tokens": 14,
    "prompt_tokens_details": {"cached_tokens": 4},
    "completion_tokens_details": {"reasoning_tokens": 2},
}


async def speak(exchange: Exchange) -> None:
    """A stream with everything in its usage; a failure for who asks otherwise."""
    await exchange.body()
    if not exchange.request.json().get("stream"):
        await exchange.answer(500, {"error": {"message": "no", "type": "server_error"}})
        return
    await exchange.start_stream()
    await exchange.event({"choices": [{"index": 0, "delta": {"content": "w"}}]})
    await exchange.event({"choices": [], "usage": USAGE})
    await exchange.event("[DONE]")
    await exchange.end()


@asynccontextmanager
async def gateway_told_by(folder: Path, upstream: FakeUpstream) -> AsyncGenerator[Served, None]:
    """A process of its own; it is ended by SIGTERM with the block."""
    toml = f"""
    [server]
    port = 0
    [providers.up]
    kind = "openai"
    base_url = "{upstream.base_url}"
    models = ["m"]
    """
    with ExitStack() as stack:
        found = await asyncio.to_thread(stack.enter_context, served(folder, toml))
        yield found
        assert await asyncio.to_thread(found.stop) == 0, found.log.read_text()


async def asked(port: int, **more: object) -> int:
    """In the trace of a caller that has one; the status."""
    return (await ask(port, "POST", CHAT, chat("m", **more), fields=PARENT)).status  # pyright: ignore[reportArgumentType]


async def test_a_gateway_is_told_by_the_environment_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An endpoint, and the collector has spans and metrics in the conventions' names, in the caller's trace and the upstream's."""
    with collector() as kept:
        for name, value in kept.environ(OTEL_SERVICE_NAME="front").items():
            monkeypatch.setenv(name, value)
        async with FakeUpstream() as upstream:
            upstream.script(speak)
            async with gateway_told_by(tmp_path / "gateway", upstream) as gateway:
                port = int(gateway.url.rpartition(":")[2])
                assert [await asked(port, stream=True), await asked(port)] == [200, 500]
                assert (await ask(port, "POST", CHAT, chat("nobody"))).status == 404
            heard = [(each.header("traceparent"), each.header("tracestate")) for each in upstream.requests]
    assert kept.errors == []
    assert {resource["service.name"] for resource in kept.resources} == {"front"}
    of_kind = {
        kind: [each for each in kept.spans if each.kind == kind]
        for kind in (Span.SPAN_KIND_SERVER, Span.SPAN_KIND_CLIENT)
    }
    (streamed, failed, unknown), (call, failed_call) = of_kind.values()
    assert len(kept.spans) == 5
    # whose trace it is
    assert heard == [(f"00-{TRACE}-{each.span_id.hex()}-01", "vendor=1") for each in (call, failed_call)]
    assert [each.parent_span_id.hex() for each in (streamed, failed, unknown)] == [SPAN, SPAN, ""]
    assert [each.parent_span_id for each in (call, failed_call)] == [streamed.span_id, failed.span_id]
    assert {each.trace_id.hex() for each in (streamed, failed, call, failed_call)} == {TRACE}
    # what it is called
    assert [each.name for each in (streamed, call, unknown)] == ["chat up/m", "chat m", "chat"]
    for span in kept.spans:
        said = values(span.attributes)
        assert set(said) >= REQUIRED
        assert {
            name: type(value) for name, value in said.items() if not name.startswith("roundhouse.")
        }.items() <= LISTED.items()
    assert set(values(call.attributes)) == TOLD | {"http.response.status_code"}
    assert set(values(streamed.attributes)) >= TOLD - {"server.port"}  # it is the kernel's choice here
    usage = [
        values(call.attributes)[f"gen_ai.usage.{name}_tokens"]
        for name in ("input", "cache_read.input", "reasoning.output")
    ]
    assert usage == [9, 4, 2]
    assert [values(span.attributes)["error.type"] for span in (failed, failed_call, unknown)] == [
        "500",
        "500",
        "model_not_found",
    ]
    assert [span.status.code for span in (failed, failed_call, unknown)] == [2, 2, 0]
    assert {metric.name for metric in kept.metrics} == {
        "gen_ai.server.request.duration",
        "gen_ai.server.time_to_first_token",
        "gen_ai.client.token.usage",
    }
