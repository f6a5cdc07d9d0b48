"""The same counts over OTLP, in OpenTelemetry's generative-AI terms; nothing at all unless the environment asks for it.

The law: off, it costs nothing, not even an import; on, a thread of its own reads the arrays every minute, and a request pays
nothing for it. The usual variables decide: OTEL_EXPORTER_OTLP_ENDPOINT (who names one wants it used), OTEL_METRICS_EXPORTER (otlp,
console, none), OTEL_METRIC_EXPORT_INTERVAL (ms), OTEL_SERVICE_NAME and their like. Sums since the start are told (cumulative),
whatever else is asked for.

Source: semantic conventions for generative AI, metrics; OpenTelemetry's environment variables.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import genai
from .counts import CALLER_LEFT, TOKENS, Histogram, Row
from .genai import GATEWAY, Peer

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import HistogramDataPoint, Metric, MetricExporter
    from opentelemetry.sdk.resources import Resource

log = logging.getLogger("roundhouse.metrics")

PACKAGE = "opentelemetry-exporter-otlp-proto-http"
INTERVAL_MS = 60_000
_END_S = 10.0  # for the last export, at the gateway's end

Attributes = dict[str, str | int]


def wanted(environ: Mapping[str, str], variable: str) -> str:
    """Which exporter the environment asks for; "": none.

    The specification's default is otlp, to a collector on this machine; here one has to be named, as most machines have none.
    """
    signal = variable.removeprefix("OTEL_").removesuffix("_EXPORTER")
    endpoints = ("OTEL_EXPORTER_OTLP_ENDPOINT", f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT")
    usual = "otlp" if any(environ.get(name, "").strip() for name in endpoints) else "none"
    asked = environ.get(variable, "").strip().lower() or usual
    off = environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    return "" if off or asked == "none" else asked


def exporter(environ: Mapping[str, str], variable: str, console: tuple[str, str], otlp: tuple[str, str]) -> Any | None:
    """The one asked for, made; None where there is none, or not that one (said once in the log).

    Args:
        console, otlp: module and class.
    """
    asked = wanted(environ, variable)
    if not asked:
        return None
    if asked not in ("console", "otlp"):
        log.warning("%s=%r is neither otlp, console nor none: nothing is exported", variable, asked)
        return None
    module, name = console if asked == "console" else otlp
    try:
        # imported only when wanted: the SDK takes a tenth of a second of every start
        found = import_module(module)
    except ModuleNotFoundError:
        log.warning("%s=%s needs the package %s: nothing is exported", variable, asked, PACKAGE)
        return None
    spoken = environ.get("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
    if asked == "otlp" and spoken != "http/protobuf":
        log.warning("OTEL_EXPORTER_OTLP_PROTOCOL=%r is not spoken here: http/protobuf is used", spoken)
    return getattr(found, name)()


def resource(environ: Mapping[str, str], version: str) -> Resource:
    """Who we are: what the environment says, else our own name."""
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 - see `exporter`

    named = bool(environ.get("OTEL_SERVICE_NAME")) or "service.name=" in environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    own = {"service.version": version} if version else {}
    return Resource.create(own if named else {"service.name": GATEWAY, **own})


def pushing_from_environment(
    environ: Mapping[str, str],
    rows: Callable[[], Sequence[Row]],
    peers: Mapping[str, Peer],
    version: str = "",
) -> Pushing | None:
    """None where no exporter is asked for, or the one asked for is not there.

    Args:
        rows: of the requests' counts; called from another thread.
    """
    made = exporter(
        environ,
        "OTEL_METRICS_EXPORTER",
        ("opentelemetry.sdk.metrics.export", "ConsoleMetricExporter"),
        ("opentelemetry.exporter.otlp.proto.http.metric_exporter", "OTLPMetricExporter"),
    )
    if made is None:
        return None
    try:
        interval_ms = float(environ.get("OTEL_METRIC_EXPORT_INTERVAL") or INTERVAL_MS)
    except ValueError:
        interval_ms = 0.0
    if not interval_ms > 0:
        log.warning("OTEL_METRIC_EXPORT_INTERVAL is no number of milliseconds: %d are taken", INTERVAL_MS)
        interval_ms = INTERVAL_MS
    return Pushing(made, resource(environ, version), rows, peers, interval_ms / 1000)


class Pushing:
    """Exports the counts again and again, in a thread of its own, until `close`."""

    def __init__(
        self,
        made: MetricExporter,
        who: Resource,
        rows: Callable[[], Sequence[Row]],
        peers: Mapping[str, Peer],
        interval_s: float,
    ) -> None:
        self._exporter = made
        self._resource = who
        self._rows = rows
        self._peers = peers
        self._interval_s = interval_s
        self._started_ns = time.time_ns()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="otlp metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Export once more, and end. Blocking for at most some seconds. Idempotent."""
        if not self._end.is_set():
            self._end.set()
            self._thread.join(_END_S)
            self._exporter.shutdown()  # pyright: ignore[reportUnknownMemberType] - its **kwargs have no type

    def _run(self) -> None:
        while not self._end.wait(self._interval_s):
            self._push()
        self._push()

    def _push(self) -> None:
        from opentelemetry.sdk.metrics.export import MetricsData, ResourceMetrics, ScopeMetrics  # noqa: PLC0415
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope  # noqa: PLC0415

        scope = ScopeMetrics(InstrumentationScope(GATEWAY), list(self._metrics()), genai.SCHEMA_URL)
        data = MetricsData([ResourceMetrics(self._resource, [scope], "")])
        self._exporter.export(data)  # pyright: ignore[reportUnknownMemberType] - as above

    def _metrics(self) -> Iterator[Metric]:
        rows = self._rows()
        yield self._metric(
            genai.DURATION,
            "s",
            "Generative AI server request duration such as time-to-last byte or last output token.",
            self._points([(row, "", row.total) for row in rows], genai.DURATION_S),
        )
        streams = [row for row in rows if row.kind.streamed and 0 < row.kind.status < 400 and not row.kind.fault]
        yield self._metric(
            genai.FIRST_TOKEN,
            "s",
            "Time to generate first token for successful responses.",
            self._points([(row, "", row.first) for row in streams], genai.FIRST_TOKEN_S),
        )
        counted = [row for row in rows if any(row.prompt.counts)]
        by_type = [
            *((row, "input", row.prompt) for row in counted),
            *((row, "output", row.completion) for row in counted),
        ]
        yield self._metric(
            genai.TOKEN_USAGE, "{token}", "Number of input and output tokens used.", self._points(by_type, TOKENS)
        )

    def _metric(self, name: str, unit: str, text: str, points: list[HistogramDataPoint]) -> Metric:
        from opentelemetry.sdk.metrics.export import AggregationTemporality, Metric  # noqa: PLC0415
        from opentelemetry.sdk.metrics.export import Histogram as Told  # noqa: PLC0415

        return Metric(name, text, unit, Told(points, AggregationTemporality.CUMULATIVE))

    def _points(
        self, found: Sequence[tuple[Row, str, Histogram]], bounds: tuple[float, ...]
    ) -> list[HistogramDataPoint]:
        """One for each set of attributes; `found`: of a row, the type of its tokens ("": they are none), and what was counted."""
        from opentelemetry.sdk.metrics.export import HistogramDataPoint  # noqa: PLC0415

        sums: dict[tuple[tuple[str, str | int], ...], tuple[list[int], float]] = {}
        for row, token_type, histogram in found:
            said = self._attributes(row)
            if token_type:
                said[genai.TOKEN_TYPE] = token_type
            key = tuple(said.items())
            counts, total = sums.get(key, ([0] * (len(bounds) + 1), 0.0))
            fresh = histogram.within(bounds)
            sums[key] = [mine + its for mine, its in zip(counts, fresh, strict=True)], total + histogram.sum
        now_ns = time.time_ns()
        return [
            HistogramDataPoint(
                attributes=dict(key),
                start_time_unix_nano=self._started_ns,
                time_unix_nano=now_ns,
                count=sum(counts),
                sum=total,
                bucket_counts=counts,
                explicit_bounds=bounds,
                min=None,  # pyright: ignore[reportArgumentType] - OTLP lets both be absent: we do not keep them
                max=None,  # pyright: ignore[reportArgumentType]
            )
            for key, (counts, total) in sums.items()
        ]

    def _attributes(self, row: Row) -> Attributes:
        kind = row.kind
        name, _, upstream_name = kind.target.partition("/")
        peer = self._peers.get(name, Peer(name or GATEWAY))
        said: Attributes = {genai.OPERATION: genai.operation_of(kind.route), genai.PROVIDER: peer.name}
        if kind.model:
            said[genai.REQUEST_MODEL] = kind.model
        if upstream_name and 0 < kind.status < 400:
            said[genai.RESPONSE_MODEL] = upstream_name
        left = kind.fault == CALLER_LEFT
        if error := genai.error_of(kind.status, "" if left else kind.fault, left=left):
            said[genai.ERROR] = error
        return said
