"""An OpenTelemetry collector for tests: takes OTLP over HTTP, decodes it with the protocol's own classes and keeps it.

Law: what is no OTLP is answered with 400 and kept as an error, never passed over.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from gzip import decompress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.trace.v1.trace_pb2 import Span

Value = str | int | float | bool


@dataclass
class Collector:
    """What has come so far."""

    port: int
    spans: list[Span] = field(default_factory=list[Span])
    metrics: list[Metric] = field(default_factory=list[Metric])  # of all exports
    resources: list[Mapping[str, Value]] = field(default_factory=list[Mapping[str, Value]])
    errors: list[str] = field(default_factory=list[str])
    news: threading.Event = field(default_factory=threading.Event)

    def environ(self, **more: str) -> dict[str, str]:
        """The variables that send everything here."""
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self.port}", **more}

    def metric(self, name: str) -> Metric:
        """As it was told last."""
        return next(metric for metric in reversed(self.metrics) if metric.name == name)

    def take(self, path: str, body: bytes) -> None:
        """One export. Raises: DecodeError, ValueError."""
        if path == "/v1/traces":
            for traced in ExportTraceServiceRequest.FromString(body).resource_spans:
                self.resources.append(values(traced.resource.attributes))
                self.spans += [span for scope in traced.scope_spans for span in scope.spans]
        elif path == "/v1/metrics":
            for told in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                self.resources.append(values(told.resource.attributes))
                self.metrics += [metric for scope in told.scope_metrics for metric in scope.metrics]
        else:
            raise ValueError(path)
        self.news.set()


def values(attributes: Iterable[KeyValue]) -> dict[str, Value]:
    """Attributes as a plain mapping."""
    found: dict[str, Value] = {}
    for each in attributes:
        kind = each.value.WhichOneof("value") or ""
        found[each.key] = getattr(each.value, kind)
    return found


@contextmanager
def collector() -> Generator[Collector]:
    """On a free port of loopback, in threads of its own."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = decompress(body)
            try:
                kept.take(self.path, body)
            except (DecodeError, ValueError) as error:
                kept.errors.append(f"{self.path}: {error}")
                self.send_response(400)
            else:
                self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        kept = Collector(server.server_port)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield kept
        finally:
            server.shutdown()
            thread.join()
