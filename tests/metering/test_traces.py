"""Spans of requests: what they say, and that nothing is there unless asked for."""

from __future__ import annotations

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from gateway.metering.traces import Spans, from_environment

PARENT = (b"traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")


def test_nothing_is_traced_when_the_environment_asks_for_nothing() -> None:
    """Also when it says so, or switches the whole SDK off."""
    assert from_environment({}) is None
    assert from_environment({"OTEL_TRACES_EXPORTER": "none"}) is None
    assert from_environment({"OTEL_TRACES_EXPORTER": "console", "OTEL_SDK_DISABLED": "true"}) is None


def test_an_unknown_exporter_is_said_and_no_reason_not_to_start(caplog: pytest.LogCaptureFixture) -> None:
    """One line names the variable and what it may hold."""
    assert from_environment({"OTEL_TRACES_EXPORTER": "zipkin"}) is None
    assert "OTEL_TRACES_EXPORTER" in caplog.text


def test_a_span_has_the_callers_trace_and_the_usual_names() -> None:
    """Parent, name, kind, attributes and times."""
    exporter = InMemorySpanExporter()
    spans = Spans(exporter)
    spans.request([PARENT], model="smol", target="local/smol", status=200, seconds=1.5, left=False)
    spans.close()

    (span,) = exporter.get_finished_spans()
    assert span.name == "chat smol"
    assert span.kind is SpanKind.SERVER
    assert span.parent is not None
    assert f"{span.parent.trace_id:032x}" == "0af7651916cd43dd8448eb211c80319c"
    assert dict(span.attributes or {}) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "smol",
        "gen_ai.provider.name": "local",
        "roundhouse.target": "local/smol",
        "http.response.status_code": 200,
    }
    assert span.end_time is not None
    assert span.start_time is not None
    assert span.end_time - span.start_time == 1_500_000_000


def test_a_failed_span_says_so_and_holds_no_key() -> None:
    """Server errors set the status, a caller that left is named; header fields are not copied."""
    exporter = InMemorySpanExporter()
    spans = Spans(exporter)
    secret = (b"authorization", b"Bearer secret")
    spans.request([secret], model="smol", target="local/smol", status=503, seconds=0.1, left=False)
    spans.request([secret], model="smol", target="local/smol", status=200, seconds=0.1, left=True)
    spans.close()

    failed, left = exporter.get_finished_spans()
    assert failed.status.status_code is StatusCode.ERROR
    assert (left.attributes or {})["error.type"] == "caller_left"
    assert "secret" not in failed.to_json() + left.to_json()
