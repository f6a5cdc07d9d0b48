"""Spans of each sampled request, in OpenTelemetry's generative-AI terms; nothing at all unless the environment asks for it.

The law: off, it costs nothing, not even an import, and the caller's `traceparent` goes on to the upstream as it came. On, a request
pays for the sampler's word; its spans are built after its answer has been sent: one for what the caller asked of us (SERVER), and
below it one for what we asked of the upstream (CLIENT), whose number the upstream is told as its parent. Where several targets were
tried, that is the last one. Neither what was asked nor what was answered is in them, and no key.

The usual variables decide: OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_TRACES_EXPORTER (otlp, console, none), OTEL_TRACES_SAMPLER,
OTEL_SERVICE_NAME, OTEL_BSP_*.

Source: semantic conventions for generative AI (see genai.py), W3C Trace Context (`traceparent`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Protocol

from . import genai, otlp
from .entry import Entry
from .genai import GATEWAY, Peer

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span

Headers = Iterable[tuple[bytes, bytes]]
Attributes = dict[str, str | int | float | bool]

_ASKED_MAX = 200  # characters of a model's name: it is the caller's
_FIELDS = (b"traceparent", b"tracestate")


class Mark:
    """A request that is traced, while it is in progress."""

    __slots__ = ("call_id", "parent", "span_id", "trace_id")

    def __init__(self, parent: Context, trace_id: int, span_id: int, call_id: int) -> None:
        self.parent = parent
        self.trace_id = trace_id
        self.span_id = span_id
        self.call_id = call_id  # of what we ask of the upstream

    def onto(self, headers: Headers) -> list[tuple[bytes, bytes]]:
        """The fields with ours in place of the caller's `traceparent`; its `tracestate` goes on."""
        told = b"00-%032x-%016x-01" % (self.trace_id, self.call_id)
        return [*(field for field in headers if field[0] != b"traceparent"), (b"traceparent", told)]


class Tracing(Protocol):
    """Where requests are told."""

    def begin(self, headers: Headers) -> Mark | None:
        """One has come, with these fields of the caller's. None: it is not sampled."""
        ...

    def ended(self, mark: Mark, entry: Entry, upstream_us: int) -> None:
        """It has ended. `upstream_us`: how long it was with an upstream; 0: it was with none."""
        ...

    def close(self) -> None:
        """Hand on what has not been exported yet. Blocking for at most some seconds."""
        ...


def from_environment(
    environ: Mapping[str, str],
    peers: Mapping[str, Peer] | None = None,
    address: tuple[str, int] = ("", 0),
    version: str = "",
) -> Tracing | None:
    """None where no exporter is asked for, or the one asked for is not there (said once in the log).

    Args:
        peers: by the name that a provider has in the configuration.
        address: where we listen.
    """
    made = otlp.exporter(
        environ,
        "OTEL_TRACES_EXPORTER",
        ("opentelemetry.sdk.trace.export", "ConsoleSpanExporter"),
        ("opentelemetry.exporter.otlp.proto.http.trace_exporter", "OTLPSpanExporter"),
    )
    return None if made is None else Spans(made, environ, peers or {}, address, version)


class Spans:
    """Tracing with a real exporter. Implements `Tracing`."""

    def __init__(
        self,
        exporter: SpanExporter,
        environ: Mapping[str, str] | None = None,
        peers: Mapping[str, Peer] | None = None,
        address: tuple[str, int] = ("", 0),
        version: str = "",
    ) -> None:
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415 - see `otlp.exporter`
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
        from opentelemetry.sdk.trace.id_generator import RandomIdGenerator  # noqa: PLC0415
        from opentelemetry.sdk.trace.sampling import ALWAYS_ON  # noqa: PLC0415
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

        from .traceids import Chosen  # noqa: PLC0415

        self._peers = peers or {}
        self._address = address
        self._sampler = TracerProvider(shutdown_on_exit=False).sampler  # as the environment wants it
        self._random = RandomIdGenerator()
        # The sampler is asked at a request's beginning, when its numbers are given, too: both must hold at its end.
        self._ids = Chosen()
        self._provider = TracerProvider(
            sampler=ALWAYS_ON,
            resource=otlp.resource(environ or {}, version),
            id_generator=self._ids,
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer(GATEWAY, version or None, genai.SCHEMA_URL)
        self._propagator = TraceContextTextMapPropagator()

    def begin(self, headers: Headers) -> Mark | None:
        """See `Tracing`."""
        from opentelemetry.context import Context  # noqa: PLC0415 - loaded by now
        from opentelemetry.trace import SpanKind, get_current_span  # noqa: PLC0415

        carrier = {name.decode("latin-1"): value.decode("latin-1") for name, value in headers if name in _FIELDS}
        parent = self._propagator.extract(carrier, Context())
        above = get_current_span(parent).get_span_context()
        trace_id = above.trace_id if above.is_valid else self._random.generate_trace_id()
        word = self._sampler.should_sample(parent, trace_id, "request", SpanKind.SERVER)
        if not word.decision.is_sampled():
            return None
        return Mark(parent, trace_id, self._random.generate_span_id(), self._random.generate_span_id())

    def ended(self, mark: Mark, entry: Entry, upstream_us: int) -> None:
        """See `Tracing`."""
        from opentelemetry.trace import SpanKind, set_span_in_context  # noqa: PLC0415 - loaded by now

        operation = genai.operation_of(entry.route)
        start_ns = entry.at_us * 1000
        end_ns = start_ns + entry.total_us * 1000
        begun_us = max(0, entry.total_us - upstream_us)  # when the upstream was asked
        said = self._said(entry, operation)
        self._ids.next(mark.trace_id, mark.span_id)
        server = self._tracer.start_span(
            f"{operation} {entry.model}" if entry.model else operation,
            mark.parent,
            SpanKind.SERVER,
            said | self._of_server(entry),
            start_time=start_ns,
        )
        _judge(server, entry, 500)
        if upstream_us:
            upstream_name = entry.target.partition("/")[2]
            self._ids.next(mark.trace_id, mark.call_id)
            client = self._tracer.start_span(
                f"{operation} {upstream_name}" if upstream_name else operation,
                set_span_in_context(server, mark.parent),
                SpanKind.CLIENT,
                said | self._of_client(entry, upstream_name, begun_us),
                start_time=start_ns + begun_us * 1000,
            )
            _judge(client, entry, 400)
            client.end(end_ns)
        server.end(end_ns)

    def _said(self, entry: Entry, operation: str) -> Attributes:
        """What both spans say."""
        name, _, upstream_name = entry.target.partition("/")
        peer = self._peers.get(name)
        said: Attributes = {
            genai.OPERATION: operation,
            genai.PROVIDER: peer.name if peer is not None else name or GATEWAY,
            genai.STREAM: entry.streamed,
        }
        if entry.status:
            said[genai.STATUS] = entry.status
        if upstream_name and 0 < entry.status < 400:
            said[genai.RESPONSE_MODEL] = upstream_name
        if entry.prompt or entry.completion:
            said[genai.INPUT_TOKENS] = entry.prompt
            said[genai.OUTPUT_TOKENS] = entry.completion
        if entry.cached:
            said[genai.CACHE_READ_TOKENS] = entry.cached
        if entry.reasoning:
            said[genai.REASONING_TOKENS] = entry.reasoning
        return said

    def _of_server(self, entry: Entry) -> Attributes:
        said: Attributes = {
            "http.request.method": "POST",
            "http.route": entry.route,
            "url.path": entry.route,
            "url.scheme": "http",
            "roundhouse.request_id": entry.id,
            "roundhouse.target": entry.target,
            "roundhouse.queue_seconds": entry.queued_us / 1e6,
            "roundhouse.load_seconds": entry.load_us / 1e6,
            **_at(*self._address),
        }
        if entry.asked:
            said[genai.REQUEST_MODEL] = entry.asked[:_ASKED_MAX]
        if entry.streamed and entry.first_byte_us:
            said[genai.FIRST_CHUNK] = entry.first_byte_us / 1e6
        return said

    def _of_client(self, entry: Entry, upstream_name: str, begun_us: int) -> Attributes:
        peer = self._peers.get(entry.target.partition("/")[0])
        said: Attributes = {genai.REQUEST_MODEL: upstream_name} if upstream_name else {}
        if peer is not None:
            said |= _at(peer.address, peer.port)
        if entry.streamed and entry.first_byte_us:
            said[genai.FIRST_CHUNK] = max(0, entry.first_byte_us - begun_us) / 1e6
        return said

    def close(self) -> None:
        """See `Tracing`."""
        self._provider.shutdown()


def _at(address: str, port: int) -> Attributes:
    if not address:
        return {}
    return {genai.ADDRESS: address, genai.PORT: port} if port else {genai.ADDRESS: address}


def _judge(span: Span, entry: Entry, error_from: int) -> None:
    """Its error, where there was one. A caller's own mistake is none of a server's; its leaving is nobody's."""
    from opentelemetry.trace import StatusCode  # noqa: PLC0415 - loaded by now

    if error := genai.error_of(entry.status, entry.code, left=bool(entry.left)):
        span.set_attribute(genai.ERROR, error)
        if not entry.left and entry.status >= error_from:
            span.set_status(StatusCode.ERROR, error)
