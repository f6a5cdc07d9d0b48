"""What a caller sees of an event stream: events as they come, comments only in silence and between events, an end that is true."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator

import pytest
import pytest_asyncio

from tests.fakes.processes import ENGINE
from tests.fakes.running import CHAT, Answer, Caller, Running, ask, chat, events_of, running
from tests.fakes.upstream import CUT, HOLD, FakeUpstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEEPALIVE_S = 0.15
BOOT_S = 0.6
IDLE_S = 0.5
COMMENT = b": keep-alive\n\n"
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\nx-mine: 1\r\n\r\n"
ONE = b'data: {"id":"1","choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}\n\n'
TWO = b'data: {"id":"1","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
USAGE = b'data: {"id":"1","choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}\n\n'
DONE = b"data: [DONE]\n\n"
END = b"0\r\n\r\n"
ASKS_USAGE = {"include_usage": True}


def chunk(data: bytes) -> bytes:
    """As it stands on the wire."""
    return b"%x\r\n%b\r\n" % (len(data), data)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(
    upstream: FakeUpstream, dead_port: int, tmp_path_factory: pytest.TempPathFactory
) -> AsyncGenerator[Running, None]:
    """With comments after a short silence, a quick engine, a slow one and one that does not come up."""
    toml = f"""
    [server]
    port = 0
    [memory.devices]
    ram = "100MiB"
    [residency]
    keepalive_s = {KEEPALIVE_S}
    min_residency_s = 0
    [providers.up]
    kind = "openai"
    base_url = "{upstream.base_url}"
    [providers.hasty]
    kind = "openai"
    base_url = "{upstream.base_url}"
    idle_s = {IDLE_S}
    [providers.dead]
    kind = "openai"
    base_url = "http://127.0.0.1:{dead_port}"
    [providers.rig]
    kind = "process"
    command = {json.dumps([*ENGINE, "--port", "${port}", "--boot-s", str(BOOT_S)])}
    [models.echo]
    targets = ["up/echo"]
    [models.hasty]
    targets = ["hasty/echo"]
    [models.cold]
    targets = ["rig/cold"]
    memory = "60MiB"
    [models.broken]
    targets = ["rig/broken"]
    memory = "60MiB"
    args = ["--fail-code", "3", "--say", "out of luck"]
    [models.fallback]
    targets = ["rig/broken2", "up/echo"]
    memory = "60MiB"
    args = ["--fail-code", "4"]
    """
    async with running(tmp_path_factory.mktemp("gateway"), toml) as found:
        yield found


async def stream(gateway: Running, model: str = "echo") -> Answer:
    """A streamed answer, whole."""
    return await ask(gateway.port, "POST", CHAT, chat(model, stream=True))


def error_in(event: str) -> dict[str, object]:
    """The error that an event is."""
    return json.loads(event)["error"]


# ---------------------------------------------------------------- events


async def test_stream_passes_byte_for_byte(gateway: Running, upstream: FakeUpstream) -> None:
    """Fields of the stream, the usage chunk, one `[DONE]`, and an end; nothing is added."""
    upstream.queue(HEAD, chunk(ONE + TWO), chunk(USAGE), chunk(DONE), END)
    answer = await ask(gateway.port, "POST", CHAT, chat("echo", stream=True, stream_options=ASKS_USAGE))
    assert answer.body == ONE + TWO + USAGE + DONE
    assert answer.field("content-type") == "text/event-stream"
    assert (answer.field("cache-control"), answer.field("x-accel-buffering")) == ("no-cache", "no")
    assert (answer.field("x-mine"), answer.field("content-length")) == ("1", None)


async def test_stream_hands_each_event_on_as_it_comes(gateway: Running, upstream: FakeUpstream) -> None:
    """The caller has the first before the upstream has written the second, each in one piece."""
    gates = [asyncio.Event() for _ in range(2)]
    upstream.queue(HEAD, chunk(ONE), gates[0], chunk(TWO), gates[1], chunk(DONE), END)
    async with Caller(gateway.port) as caller:
        await caller.ask("POST", CHAT, chat("echo", stream=True))
        assert (await caller.head())[0] == 200
        assert await caller.piece() == ONE
        gates[0].set()
        assert await caller.piece() == TWO
        gates[1].set()
        assert await caller.rest() == DONE


@pytest.mark.parametrize("ending", [b"\r\n", b"\n", b"\r"])
async def test_stream_is_over_whatever_the_line_ends(gateway: Running, upstream: FakeUpstream, ending: bytes) -> None:
    """The three that the format allows."""
    body = (ONE + DONE).replace(b"\n", ending)
    upstream.queue(HEAD, chunk(body), END)
    assert (await stream(gateway)).body == body


async def test_stream_is_whole_however_it_is_cut(gateway: Running, upstream: FakeUpstream) -> None:
    """A piece for every byte, `[DONE]` too."""
    body = ONE + DONE
    upstream.queue(HEAD, *(chunk(body[i : i + 1]) for i in range(len(body))), END)
    assert (await stream(gateway)).body == body


async def test_stream_keeps_the_connections_of_both_sides(gateway: Running, upstream: FakeUpstream) -> None:
    """The next request of the caller uses the same, and so does ours to the upstream."""
    async with Caller(gateway.port) as caller:
        for _ in range(3):
            await caller.ask("POST", CHAT, chat("echo", stream=True))
            assert (await caller.answer()).events()[-1] == "[DONE]"
        before = upstream.connections
        await caller.ask("POST", CHAT, chat("echo", stream=True))
        await caller.answer()
        assert upstream.connections == before


# ---------------------------------------------------------------- ends that are none


@pytest.mark.parametrize("ending", [(END,), (CUT,), (b"zz\r\n",)])
async def test_stream_without_done_ends_in_an_error_event(
    gateway: Running, upstream: FakeUpstream, ending: tuple[bytes, ...]
) -> None:
    """Complete, cut or broken: no `[DONE]` and no finish_reason are invented."""
    upstream.queue(HEAD, chunk(ONE), *ending)
    answer = await stream(gateway)
    assert answer.body.startswith(ONE)
    first, last = answer.events()
    assert first == ONE.decode()[6:-2]
    error = error_in(last)
    assert (error["code"], error["source"], error["type"]) == ("upstream_broke", "up", "upstream_error")
    assert "finish_reason" not in last


async def test_stream_cut_inside_an_event_still_gives_the_error_an_event_of_its_own(
    gateway: Running, upstream: FakeUpstream
) -> None:
    """Ours begins on a line of its own."""
    upstream.queue(HEAD, chunk(ONE + b'data: {"id"'), CUT)
    answer = await stream(gateway)
    assert error_in(answer.events()[-1])["code"] == "upstream_broke"
    assert len(answer.events()) == 3


async def test_stream_that_falls_silent_ends_in_an_error_event(gateway: Running, upstream: FakeUpstream) -> None:
    """After the provider's idle_s, with comments meanwhile."""
    upstream.queue(HEAD, chunk(ONE), HOLD)
    answer = await stream(gateway, "hasty")
    assert COMMENT in answer.body
    assert error_in(answer.events()[-1])["code"] == "upstream_timeout"
    await upstream.until(lambda: upstream.in_flight == 0)


async def test_stream_is_finished_when_only_the_connection_is_cut_after_done(
    gateway: Running, upstream: FakeUpstream
) -> None:
    """Many servers end so; the last word was said."""
    upstream.queue(HEAD, chunk(ONE + DONE), CUT)
    assert (await stream(gateway)).body == ONE + DONE


@pytest.mark.parametrize("model", ["echo", "hasty"])
async def test_stream_is_finished_when_the_upstream_does_not_end_after_done(
    gateway: Running, upstream: FakeUpstream, model: str
) -> None:
    """It is not waited for, and its connection is given up."""
    upstream.queue(HEAD, chunk(ONE + DONE), HOLD)
    answer = await stream(gateway, model)
    assert answer.body.replace(COMMENT, b"") == ONE + DONE
    await upstream.until(lambda: upstream.in_flight == 0)


async def test_upstreams_own_error_event_is_the_last_word(gateway: Running, upstream: FakeUpstream) -> None:
    """Ours is not put after it."""
    said = b'data: {"error":{"message":"overloaded","code":529}}\n\n'
    upstream.queue(HEAD, chunk(ONE + said), END)
    assert (await stream(gateway)).body == ONE + said


async def test_failure_before_the_first_event_is_a_real_http_error(gateway: Running, upstream: FakeUpstream) -> None:
    """Head of a stream or not: nothing of the answer was handed on."""
    for ending in (END, CUT):
        upstream.queue(HEAD, ending)
        answer = await stream(gateway)
        assert (answer.status, answer.error["code"]) == (502, "upstream_broke")


async def test_second_target_is_not_tried_after_the_first_byte(gateway: Running, upstream: FakeUpstream) -> None:
    """The first content byte commits."""
    before = len(upstream.requests)
    upstream.queue(HEAD, chunk(ONE), CUT)
    await stream(gateway)
    assert len(upstream.requests) == before + 1


# ---------------------------------------------------------------- silence


async def test_comments_come_only_after_silence_and_between_events(gateway: Running, upstream: FakeUpstream) -> None:
    """None while an event is half written, however long that takes; then again, keepalive_s after the last byte."""
    gates = [asyncio.Event() for _ in range(3)]
    upstream.queue(HEAD, chunk(ONE[:20]), gates[0], chunk(ONE[20:]), gates[1], chunk(TWO), gates[2], chunk(DONE), END)
    loop = asyncio.get_running_loop()
    async with Caller(gateway.port) as caller:
        # who asks for the usage gets every byte at once: nothing has to be looked for and taken out
        await caller.ask("POST", CHAT, chat("echo", stream=True, stream_options=ASKS_USAGE))
        await caller.head()
        assert await caller.piece() == ONE[:20]
        assert await caller.silent(KEEPALIVE_S * 2.5)
        gates[0].set()
        assert await caller.piece() == ONE[20:]
        since_s = loop.time()
        assert await caller.piece() == COMMENT
        assert loop.time() - since_s >= KEEPALIVE_S * 0.9
        gates[1].set()
        assert await caller.piece() == TWO
        gates[2].set()
        assert await caller.rest() == DONE


async def test_comments_come_while_the_upstream_is_silent(gateway: Running, upstream: FakeUpstream) -> None:
    """Before its head, and between its head and its first event; the answer then is the stream itself."""
    gates = [asyncio.Event() for _ in range(2)]
    upstream.queue(gates[0], HEAD, gates[1], chunk(ONE + DONE), END)
    loop = asyncio.get_running_loop()
    async with Caller(gateway.port) as caller:
        since_s = loop.time()
        await caller.ask("POST", CHAT, chat("echo", stream=True))
        status, fields = await caller.head()
        assert loop.time() - since_s >= KEEPALIVE_S * 0.9
        assert (status, dict(fields)["content-type"]) == (200, "text/event-stream; charset=utf-8")
        assert dict(fields)["cache-control"] == "no-cache"
        assert await caller.piece() == COMMENT
        gates[0].set()
        assert await caller.piece() == COMMENT
        gates[1].set()
        assert await caller.rest() == ONE + DONE


async def test_comments_come_while_a_cold_model_is_loaded(gateway: Running) -> None:
    """Then its stream, as if it had been there."""
    gateway.parts.residency.unload("rig/cold")
    await gateway.until(lambda: "rig/cold" not in gateway.phases())
    answer = await stream(gateway, "cold")
    comments, _, events = answer.body.partition(b"\n\ndata:")
    assert comments.count(b": loading cold ") >= 2
    assert answer.events()[-1] == "[DONE]"
    assert b"loading" not in events


async def test_no_comment_comes_when_a_plain_answer_is_waited_for(gateway: Running, upstream: FakeUpstream) -> None:
    """A JSON body is not to be begun with anything else."""
    gate = asyncio.Event()
    upstream.queue(gate, b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
    async with Caller(gateway.port) as caller:
        await caller.ask("POST", CHAT, chat("echo"))
        assert await caller.silent(KEEPALIVE_S * 2.5)
        gate.set()
        assert (await caller.answer()).body == b"{}"


@pytest.mark.parametrize("status", [429, 400])
@pytest.mark.parametrize("length", [b"content-length: 13\r\n\r\n", b"connection: close\r\n\r\n"])
async def test_no_comment_comes_into_an_error_body_that_dawdles(
    gateway: Running, upstream: FakeUpstream, length: bytes, status: int
) -> None:
    """A stream was asked for, a JSON error comes, head first and body much later: one answer, with its own status."""
    gate = asyncio.Event()
    upstream.queue(b"HTTP/1.1 %d X\r\nretry-after: 3\r\n" % status + length, b'{"error":', gate, b"{ } }"[:4], CUT)
    async with Caller(gateway.port) as caller:
        await caller.ask("POST", CHAT, chat("echo", stream=True))
        await upstream.until(lambda: upstream.in_flight == 1)
        asyncio.get_running_loop().call_later(KEEPALIVE_S * 2.5, gate.set)
        answer = await caller.answer()
    assert (answer.status, answer.body) == (status, b'{"error":{ } ')
    assert answer.field("retry-after") == "3"


# ---------------------------------------------------------------- failures after comments


async def test_failed_load_after_comments_is_an_error_event(gateway: Running) -> None:
    """The status is out, so the stream says it: same code, same reason."""
    answer = await stream(gateway, "broken")
    assert answer.status == 200
    assert answer.body.startswith(b": loading broken ")
    (event,) = answer.events()
    error = error_in(event)
    assert (error["code"], error["exit_code"]) == ("load_failed", 3)
    assert "out of luck" in str(error["log_lines"])
    again = await stream(gateway, "broken")
    assert (again.status, again.error["code"]) == (503, "load_failed")


async def test_second_target_is_tried_after_comments(gateway: Running) -> None:
    """Comments commit to nothing."""
    answer = await stream(gateway, "fallback")
    assert re.match(rb": (?:waiting for|loading) fallback", answer.body)
    assert answer.events()[-1] == "[DONE]"
    assert json.loads(answer.events()[0])["choices"]


@pytest.mark.parametrize("status", [400, 429, 500, 200])
async def test_refusal_after_comments_is_the_upstreams_own_words(
    gateway: Running, upstream: FakeUpstream, status: int
) -> None:
    """Its error object, as one event; what is no error object is told in ours."""
    gate = asyncio.Event()
    own = b'{"error":{"message":"no \\u00e9","big":123456789012345678901234567890}}'
    body = own if status != 200 else b'{"choices":[]}'
    upstream.queue(gate, b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n" % (status, len(body)), body)
    async with Caller(gateway.port) as caller:
        await caller.ask("POST", CHAT, chat("echo", stream=True))
        assert (await caller.head())[0] == 200
        assert await caller.piece() == COMMENT
        gate.set()
        rest = (await caller.rest()).replace(COMMENT, b"")
    if status == 200:
        assert error_in(events_of(rest)[0])["code"] == "upstream_refused"
    else:
        assert rest == b"data: " + own + b"\n\n"


async def test_end_of_the_upstream_after_comments_is_an_error_event(gateway: Running, upstream: FakeUpstream) -> None:
    """Nothing of the answer had come."""
    gate = asyncio.Event()
    upstream.queue(gate, HEAD, CUT)
    async with Caller(gateway.port) as caller:
        await caller.ask("POST", CHAT, chat("echo", stream=True))
        await caller.head()
        assert await caller.piece() == COMMENT
        gate.set()
        (event,) = events_of(await caller.rest())
    assert error_in(event)["code"] == "upstream_broke"
