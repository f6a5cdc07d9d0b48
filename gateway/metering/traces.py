"""A span for each sampled request, in OpenTelemetry's generative-AI terms; nothing at all unless the environment asks for it.

The law: off, it costs nothing, not even an import; on, a span is built after the answer has been sent. The usual variables
decide: OTEL_TRACES_EXPORTER (console, otlp), OTEL_TRACES_SAMPLER, OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_SERVICE_NAME.

Source: semantic conventions for generative AI (span names and `gen_ai.*` attributes), W3C Trace Context (`traceparent`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

log = logging.getLogger("roundhouse.traces")

_NS = 1_000_000_000


class Tracing(Protocol):
    """Where finished requests are told."""

    def request(
        self,
        headers: Iterable[tuple[bytes, bytes]],
        *,
        model: str,
        target: str,
        status: int,
        seconds: float,
        left: bool,
    ) -> None:
        """One exchange has ended just now, after `seconds`. `headers` are the caller's."""
        ...

    def close(self) -> None:
        """Hand on what has not been exported yet. Blocking for at most some seconds."""
        ...


def from_environment(environ: Mapping[str, str]) -> Tracing | None:
    """None where no exporter is asked for, or the one asked for is not there (said once in the log)."""
    wanted = environ.get("OTEL_TRACES_EXPORTER", "none").strip().lower()
    if wanted in ("", "none") or environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    exporter = _exporter(wanted)
    return None if exporter is None else Spans(exporter)


def _exporter(wanted: str) -> SpanExporter | None:
    # imported only when wanted: the SDK takes a tenth of a second of every start
    if wanted == "console":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter  # noqa: PLC0415

        return ConsoleSpanExporter()
    if wanted == "otlp":
        from importlib import import_module  # noqa: PLC0415

        try:
            module = import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter")
        except ModuleNotFoundError:
            log.warning("no spans: OTEL_TRACES_EXPORTER=otlp needs the package opentelemetry-exporter-otlp-proto-http")
            return None
        return module.OTLPSpanExporter()
    log.warning("no spans: OTEL_TRACES_EXPORTER=%r is neither console, otlp nor none", wanted)
    return None


class Spans:
    """Tracing with a real exporter. Implements `Tracing`."""

    def __init__(self, exporter: SpanExporter) -> None:
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 - see `_exporter`
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

        self._provider = TracerProvider(resource=Resource.create({"service.name": "roundhouse"}))
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("roundhouse")
        self._propagator = TraceContextTextMapPropagator()

    def request(
        self,
        headers: Iterable[tuple[bytes, bytes]],
        *,
        model: str,
        target: str,
        status: int,
        seconds: float,
        left: bool,
    ) -> None:
        """See `Tracing`."""
        from opentelemetry.trace import SpanKind, StatusCode  # noqa: PLC0415 - loaded by now

        carrier = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in headers if name.startswith(b"trace")
        }
        end_ns = time.time_ns()
        span = self._tracer.start_span(
            f"chat {model}" if model else "chat",
            self._propagator.extract(carrier),
            SpanKind.SERVER,
            {
                "gen_ai.operation.name": "chat",
                "gen_ai.request.model": model,
                "gen_ai.provider.name": target.partition("/")[0] or "roundhouse",
                "roundhouse.target": target,
                "http.response.status_code": status,
            },
            start_time=end_ns - int(seconds * _NS),
        )
        if left:
            span.set_attribute("error.type", "caller_left")
        elif status >= 500:
            span.set_attribute("error.type", str(status))
            span.set_status(StatusCode.ERROR)
        span.end(end_ns)

    def close(self) -> None:
        """See `Tracing`."""
        self._provider.shutdown()
