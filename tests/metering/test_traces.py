"""Spans of requests: what they say, whose trace they are in, and that nothing is there unless asked for."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from gateway.metering.entry import Entry
from gateway.metering.genai import Peer
from gateway.metering.traces import Spans, Tracing, from_environment
from tests.fakes.collector import collector, values

from .entries import entry

PARENT = (b"traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
NOT_SAMPLED = (b"traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00")
PEERS = {"up": Peer("groq", "api.groq.com", 443), "local": Peer("llama_cpp")}
AT_US = 1_700_000_000_000_000


def told(
    entry: Entry, upstream_us: int = 0, headers: tuple[tuple[bytes, bytes], ...] = (PARENT,)
) -> list[ReadableSpan]:
    """What is exported of one request: the client's span, where there is one, before the server's."""
    exporter = InMemorySpanExporter()
    spans = Spans(exporter, {}, PEERS, ("127.0.0.1", 8080), "1.2")
    mark = spans.begin(headers)
    assert mark is not None
    spans.ended(mark, entry, upstream_us)
    spans.close()
    return list(exporter.get_finished_spans())


def said(span: ReadableSpan) -> Mapping[str, object]:
    """Its attributes."""
    return dict(span.attributes or {})


def streamed() -> Entry:
    """An ordinary one, with everything in it."""
    return entry(
        at_us=AT_US,
        asked="fast",
        model="fast",
        target="up/llama-3.1-8b",
        streamed=True,
        prompt=100,
        completion=50,
        cached=64,
        reasoning=20,
        queued_us=500_000,
        first_byte_us=700_000,
        total_us=1_500_000,
    )


# ---------------------------------------------------------------- whether there are any


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"},
        {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://127.0.0.1:1", "OTEL_EXPORTER_OTLP_ENDPOINT": " "},
        {"OTEL_TRACES_EXPORTER": "console", "OTEL_SDK_DISABLED": "true"},
    ],
    ids=["unset", "none", "metrics only", "disabled"],
)
def test_nothing_is_traced_when_the_environment_asks_for_nothing(environ: Mapping[str, str]) -> None:
    """Also when it says so, or switches the whole SDK off."""
    assert from_environment(environ) is None


def test_an_unknown_exporter_is_said_and_no_reason_not_to_start(caplog: pytest.LogCaptureFixture) -> None:
    """One line names the variable and what it may hold."""
    assert from_environment({"OTEL_TRACES_EXPORTER": "zipkin"}) is None
    assert "OTEL_TRACES_EXPORTER" in caplog.text


def test_off_it_is_not_even_imported() -> None:
    """Neither for spans nor for metrics."""
    code = (
        "import sys; from gateway.metering import otlp, traces\n"
        "assert traces.from_environment({}) is None\n"
        "assert otlp.pushing_from_environment({}, list, {}) is None\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ---------------------------------------------------------------- what they say


def test_a_request_has_a_span_of_ours_and_one_of_the_upstreams() -> None:
    """Parents, names, kinds, attributes and times."""
    client, server = told(streamed(), upstream_us=900_000)
    assert (server.name, client.name) == ("chat fast", "chat llama-3.1-8b")
    assert (server.kind, client.kind) == (SpanKind.SERVER, SpanKind.CLIENT)
    assert server.parent is not None
    assert f"{server.parent.trace_id:032x}-{server.parent.span_id:016x}" == PARENT[1].decode()[3:52]
    assert client.parent is not None
    assert server.context is not None
    assert client.parent.span_id == server.context.span_id
    both = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "groq",
        "gen_ai.response.model": "llama-3.1-8b",
        "gen_ai.request.stream": True,
        "gen_ai.usage.input_tokens": 100,
        "gen_ai.usage.output_tokens": 50,
        "gen_ai.usage.cache_read.input_tokens": 64,
        "gen_ai.usage.reasoning.output_tokens": 20,
        "http.response.status_code": 200,
    }
    assert said(server) == both | {
        "gen_ai.request.model": "fast",
        "gen_ai.response.time_to_first_chunk": 0.7,
        "server.address": "127.0.0.1",
        "server.port": 8080,
        "http.request.method": "POST",
        "http.route": "/v1/chat/completions",
        "url.path": "/v1/chat/completions",
        "url.scheme": "http",
        "roundhouse.request_id": "req-1",
        "roundhouse.target": "up/llama-3.1-8b",
        "roundhouse.queue_seconds": 0.5,
        "roundhouse.load_seconds": 0.0,
    }
    assert said(client) == both | {
        "gen_ai.request.model": "llama-3.1-8b",
        "gen_ai.response.time_to_first_chunk": pytest.approx(0.1),
        "server.address": "api.groq.com",
        "server.port": 443,
    }
    times = [(each.start_time or 0) // 1000 - AT_US for each in (server, client)]
    assert times == [0, 600_000]
    assert {(each.end_time or 0) // 1000 - AT_US for each in (server, client)} == {1_500_000}


@pytest.mark.parametrize(
    ("route", "operation"),
    [
        ("/v1/chat/completions", "chat"),
        ("/chat/completions", "chat"),
        ("/v1/responses", "chat"),
        ("/v1/messages", "chat"),
        ("/api/chat", "chat"),
        ("/v1/completions", "text_completion"),
        ("/api/generate", "text_completion"),
        ("/v1/embeddings", "embeddings"),
        ("/api/embeddings", "embeddings"),
        ("/v2/rerank", "rerank"),
        ("/v1/audio/transcriptions", "transcription"),
        ("/v1/images/generations", "generate_content"),
    ],
)
def test_every_route_has_its_operation(route: str, operation: str) -> None:
    """By the conventions' word where they have one."""
    (span,) = told(entry(route=route))
    assert span.name == f"{operation} m"
    assert said(span)["gen_ai.operation.name"] == operation


@pytest.mark.parametrize(
    ("ended", "error", "server_failed", "client_failed"),
    [
        ({"status": 503, "code": "queue_full"}, "queue_full", True, True),
        ({"status": 404}, "404", False, True),
        ({"status": 401, "code": "invalid_api_key"}, "invalid_api_key", False, True),
        ({"status": 200, "left": "answer"}, "caller_left", False, False),
        ({"status": 0, "left": "queued"}, "caller_left", False, False),
    ],
    ids=["ours", "upstream's", "caller's", "left", "left early"],
)
def test_an_error_is_told_by_its_class(
    ended: Mapping[str, Any], error: str, server_failed: bool, client_failed: bool
) -> None:
    """A server fails from 500 on, a call from 400 on; a caller that leaves is no failure."""
    client, server = told(entry(**ended), upstream_us=5)
    assert said(server)["error.type"] == said(client)["error.type"] == error
    assert (server.status.status_code is StatusCode.ERROR) is server_failed
    assert (client.status.status_code is StatusCode.ERROR) is client_failed
    assert "gen_ai.response.model" not in said(server) or ended["status"] == 200


def test_what_reached_no_upstream_has_no_call() -> None:
    """Nor a model's name in its own, where there is none of that name; a long one is cut."""
    (span,) = told(entry(asked="x" * 5000, model="", target="", status=404, code="model_not_found"))
    assert span.name == "chat"
    assert said(span)["gen_ai.request.model"] == "x" * 200
    assert said(span)["gen_ai.provider.name"] == "roundhouse"


def test_no_key_is_in_a_span() -> None:
    """Header fields are not copied."""
    (span,) = told(entry(), headers=((b"authorization", b"Bearer secret"), PARENT))
    assert "secret" not in span.to_json()


# ---------------------------------------------------------------- whose trace they are in


def test_the_upstream_is_told_our_span_as_its_parent() -> None:
    """In the caller's trace; its tracestate and all other fields go on."""
    exporter = InMemorySpanExporter()
    spans = Spans(exporter)
    headers = [(b"accept", b"*/*"), PARENT, (b"tracestate", b"a=1")]
    mark = spans.begin(headers)
    assert mark is not None
    fields = mark.onto(headers)
    spans.ended(mark, entry(), 5)
    spans.close()
    client, _ = exporter.get_finished_spans()
    assert client.context is not None
    assert fields[:2] == [headers[0], headers[2]]
    assert fields[2:] == [
        (b"traceparent", f"00-0af7651916cd43dd8448eb211c80319c-{client.context.span_id:016x}-01".encode())
    ]
    assert client.context.trace_state.get("a") == "1"


def test_a_request_without_a_trace_begins_one() -> None:
    """Each its own; numbers are as W3C wants them."""
    spans = Spans(InMemorySpanExporter())
    marks = [spans.begin(()) for _ in range(2)]
    told = [mark.onto(())[0][1].decode() for mark in marks if mark is not None]
    spans.close()
    assert len({each[3:35] for each in told}) == 2
    assert all(re.fullmatch("00-[0-9a-f]{32}-[0-9a-f]{16}-01", each) for each in told)


@pytest.mark.parametrize(
    "value", [b"", b"00-0-0-01", b"ff" * 30, b"00-" + b"0" * 32 + b"-" + b"0" * 16 + b"-01", b"\xff\xfe", b"00-zz"]
)
def test_what_is_no_traceparent_is_none(value: bytes) -> None:
    """A new trace is begun."""
    (span,) = told(entry(), headers=((b"traceparent", value),))
    assert span.parent is None


def test_who_is_not_sampled_pays_nothing_more() -> None:
    """The caller's word holds, as does the environment's."""
    spans = Spans(InMemorySpanExporter())
    assert spans.begin((NOT_SAMPLED,)) is None
    assert spans.begin((PARENT,)) is not None
    spans.close()


def test_the_environments_sampler_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """OTEL_TRACES_SAMPLER; a ratio of nothing is nothing."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.0")
    spans = Spans(InMemorySpanExporter())
    assert spans.begin(()) is None
    assert spans.begin((PARENT,)) is not None
    spans.close()


# ---------------------------------------------------------------- over the wire


def tracing_to(environ: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> Tracing:
    """As the gateway makes it. The exporter reads the process's own environment."""
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    tracing = from_environment(environ, PEERS, ("127.0.0.1", 8080), "1.2")
    assert tracing is not None
    return tracing


def test_a_collector_gets_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """By OTLP over HTTP, in batches; closing hands on the rest."""
    with collector() as kept:
        tracing = tracing_to(kept.environ(OTEL_TRACES_EXPORTER="otlp"), monkeypatch)
        for _ in range(3):
            mark = tracing.begin((PARENT,))
            assert mark is not None
            tracing.ended(mark, streamed(), 900_000)
        tracing.close()
        assert kept.errors == []
        assert [span.name for span in kept.spans] == ["chat llama-3.1-8b", "chat fast"] * 3
        client, server = kept.spans[:2]
        assert client.parent_span_id == server.span_id
        assert client.trace_id == server.trace_id == bytes.fromhex("0af7651916cd43dd8448eb211c80319c")
        assert values(server.attributes)["gen_ai.usage.cache_read.input_tokens"] == 64
        assert values(client.attributes)["server.address"] == "api.groq.com"
        assert kept.resources[0]["service.name"] == "roundhouse"
        assert kept.resources[0]["service.version"] == "1.2"


def test_the_environments_name_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """OTEL_SERVICE_NAME."""
    with collector() as kept:
        environ = kept.environ(OTEL_TRACES_EXPORTER="otlp", OTEL_SERVICE_NAME="front")
        tracing = tracing_to(environ, monkeypatch)
        mark = tracing.begin(())
        assert mark is not None
        tracing.ended(mark, entry(), 0)
        tracing.close()
        assert kept.resources[0]["service.name"] == "front"
