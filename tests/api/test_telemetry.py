"""What a request leaves behind in metrics and traces, from the socket to the upstream."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.fakes.collector import collector, values
from tests.fakes.running import CHAT, ask, chat, running
from tests.fakes.upstream import Exchange, FakeUpstream, speak_openai
from tests.metering.test_metrics import read

SLOW_S = 0.3
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
ROUTE = (("route", CHAT),)


def toml(upstream: FakeUpstream) -> str:
    """One provider, `up`, with one model."""
    return f"""
    [providers.up]
    kind = "openai"
    base_url = "{upstream.base_url}"
    models = ["m"]
    """


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
async def test_overhead_is_our_own_time_only(tmp_path: Path, *, stream: bool) -> None:
    """Neither the upstream's nor that of a body that comes late."""

    async def slowly(exchange: Exchange) -> None:
        await exchange.body()
        await asyncio.sleep(SLOW_S)  # it is the upstream's time that is measured
        await speak_openai(exchange)

    async with FakeUpstream() as upstream, running(tmp_path, toml(upstream)) as gateway:
        upstream.script(slowly)
        body = chat("m", stream=stream)
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(head.encode())
        await gateway.until(lambda: gateway.parts.metrics.in_flight == 1)
        await asyncio.sleep(SLOW_S)
        writer.write(body)
        assert b" 200 " in (await reader.read()).partition(b"\r\n")[0]
        writer.close()
        await gateway.until(lambda: gateway.parts.metrics.in_flight == 0)
        _, samples = read(gateway.parts.metrics)
        assert samples["roundhouse_request_seconds_sum", ROUTE] > 2 * SLOW_S
        assert 0 < samples["roundhouse_overhead_seconds_sum", ROUTE] < SLOW_S


async def test_a_trace_goes_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the caller's span over ours to the upstream's, which is told its parent; and the collector gets both."""
    with collector() as kept:
        for name, value in kept.environ(OTEL_TRACES_EXPORTER="otlp", OTEL_METRICS_EXPORTER="otlp").items():
            monkeypatch.setenv(name, value)
        async with FakeUpstream() as upstream:
            async with running(tmp_path, toml(upstream)) as gateway:
                await ask(gateway.port, "POST", CHAT, chat("m", stream=True), fields=[("traceparent", PARENT)])
            told = upstream.requests[-1].header("traceparent") or ""
            port = upstream.port
        client, server = kept.spans
        assert told == f"00-{client.trace_id.hex()}-{client.span_id.hex()}-01"
        assert server.parent_span_id.hex() == PARENT[36:52]
        assert client.parent_span_id == server.span_id
        assert values(client.attributes)["server.port"] == port
        assert values(server.attributes)["gen_ai.usage.input_tokens"] == 7
        assert values(server.attributes)["gen_ai.response.time_to_first_chunk"]
        assert kept.metric("gen_ai.server.time_to_first_token").histogram.data_points[0].count == 1


async def test_without_tracing_the_callers_trace_goes_on_as_it_came(tmp_path: Path) -> None:
    """Byte for byte."""
    async with FakeUpstream() as upstream, running(tmp_path, toml(upstream)) as gateway:
        await ask(gateway.port, "POST", CHAT, chat("m"), fields=[("traceparent", PARENT)])
        assert upstream.requests[-1].header("traceparent") == PARENT
