"""The exposition of a gateway to which everything has happened that its series tell of."""

from __future__ import annotations

from pathlib import Path

from tests.fakes.running import CHAT, Caller, Running, ask, chat, running
from tests.fakes.upstream import CUT, HOLD, FakeUpstream
from tests.journeys.models import fakes

KEYS = """
[keys.alice]
key = "alice-in-a-test"
admin = true
[keys.bob]
key = "bob-in-a-test"
rpm = 1
[models.m]
targets = ["up/m"]
[providers.up]
kind = "openai"
base_url = "{url}"
models = ["m", "x"]
prices = {{ m = {{ prompt = "0.000001", completion = "0.000002" }} }}
"""
EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"w"}}]}\n\n'
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


async def scraped(folder: Path) -> tuple[str, str]:
    """What `/metrics` says in the end, and as what."""
    engines = fakes(
        "500MiB",
        {"a": "300MiB", "b": "300MiB", "broken": "10MiB", "dying": "10MiB"},
        flags={"broken": ("--fail-code", "3"), "dying": ("--die-mid-stream", "1", "--die-code", "9")},
    )
    async with FakeUpstream() as upstream, running(folder, engines + KEYS.format(url=upstream.base_url)) as gateway:
        await _memory(gateway)
        await _upstream(gateway, upstream)
        await gateway.until(lambda: gateway.parts.metrics.in_flight == 0)
        answer = await ask(gateway.port, "GET", "/metrics")
        return answer.body.decode(), answer.field("content-type") or ""


async def _said(gateway: Running, body: bytes, key: str = "alice") -> int:
    fields = [("authorization", f"Bearer {key}-in-a-test")]
    return (await ask(gateway.port, "POST", CHAT, body, fields)).status


async def _memory(gateway: Running) -> None:
    """Loads, one that is for another and one again, a load that fails, an engine that dies."""
    assert [await _said(gateway, chat(model)) for model in "aba"] == [200, 200, 200]
    assert await _said(gateway, chat("a", stream=True)) == 200
    assert await _said(gateway, chat("broken")) == 503
    assert await _said(gateway, chat("dying", stream=True)) == 200
    await gateway.until(lambda: gateway.happened("died") == ["fake/dying"])
    assert await _said(gateway, chat("nobody")) == 404
    await gateway.until(
        lambda: b"\nroundhouse_footprint_error_ratio{" in gateway.parts.metrics.text()
    )  # it is measured


async def _upstream(gateway: Running, upstream: FakeUpstream) -> None:
    """Answers that cost something, one that breaks off, a limit, a caller that leaves, a wrong key."""
    assert [await _said(gateway, chat("m", stream=stream)) for stream in (False, True)] == [200, 200]
    upstream.queue(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{", CUT)
    assert await _said(gateway, chat("m")) == 502
    assert [await _said(gateway, chat("m"), "bob") for _ in range(2)] == [200, 429]
    assert await _said(gateway, chat("m"), "nobody") == 401
    upstream.queue(STREAM + b"%x\r\n%b\r\n" % (len(EVENT), EVENT), HOLD)
    async with Caller(gateway.port) as caller:
        await caller.ask("POST", CHAT, chat("m", stream=True), [("authorization", "Bearer alice-in-a-test")])
        await caller.head()
    await gateway.until(lambda: gateway.parts.metrics.disconnects == 1)
