"""The caller's side of an exchange on a clock that jumps: comments in silence, its leaving, and nothing said twice."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from gateway.proxy.client import WATCH_AFTER_S, Client, Watchman
from gateway.proxy.silence import Silence
from gateway.proxy.sse import KEEP_ALIVE
from tests.residency.shell import on_virtual_time

EVENT = b'data: {"x":1}\n\n'


def silence(keepalive_s: float | None) -> Silence:
    """Nothing loads here."""
    return Silence(keepalive_s, lambda _: None)


class Wire:
    """The server below: notes what is sent and when, is slow or gone when it is told so.

    Like a real one it refuses what is out of order.
    """

    def __init__(self, keepalive_s: float | None = 10.0) -> None:
        self.sent: list[tuple[float, bytes | int]] = []
        self.gone = asyncio.Event()
        self.clear = asyncio.Event()
        self.clear.set()
        self.complete = False
        watchman = Watchman(asyncio.get_running_loop())
        self.client = Client(watchman, self.receive, self.send, [(b"x-request-id", b"1")], silence(keepalive_s))

    async def receive(self) -> object:
        """The caller's leaving, when it does."""
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: object) -> None:
        """Take one message."""
        await self.clear.wait()
        said = cast("dict[str, Any]", message)
        assert not self.complete, f"after the end: {said}"
        started = bool(self.sent)
        assert (said["type"] == "http.response.start") is not started, said
        self.sent.append((asyncio.get_running_loop().time(), said["body"] if started else said["status"]))
        self.complete = started and not said.get("more_body")

    def said(self) -> list[bytes | int]:
        """Without the times."""
        return [what for _, what in self.sent]


@on_virtual_time
async def test_comment_comes_after_silence_and_again_after_as_much() -> None:
    """Nothing before; each after keepalive_s."""
    wire = Wire(10.0)
    began_s = asyncio.get_running_loop().time()
    wire.client.watch(stream=True)
    await asyncio.sleep(35.0)
    wire.client.unwatch()
    assert wire.said() == [200, KEEP_ALIVE, KEEP_ALIVE, KEEP_ALIVE]
    assert [round(at_s - began_s) for at_s, _ in wire.sent[1:]] == [10, 20, 30]
    await asyncio.sleep(100.0)
    assert len(wire.sent) == 4


@on_virtual_time
async def test_comment_waits_for_silence_after_every_event() -> None:
    """An event each 9 s: none; then one 10 s after the last."""
    wire = Wire(10.0)
    wire.client.watch(stream=True)
    await wire.client.start_stream()
    for _ in range(10):
        await wire.client.write(EVENT)
        await asyncio.sleep(9.0)
    assert KEEP_ALIVE not in wire.said()
    await asyncio.sleep(1.5)
    assert wire.said()[-1] == KEEP_ALIVE
    wire.client.unwatch()


@on_virtual_time
async def test_comment_never_comes_inside_an_event() -> None:
    """However long the rest of it takes."""
    wire = Wire(10.0)
    wire.client.watch(stream=True)
    await wire.client.start_stream()
    await wire.client.write(EVENT[:5])
    await asyncio.sleep(95.0)
    await wire.client.write(EVENT[5:])
    await asyncio.sleep(11.0)
    wire.client.unwatch()
    assert wire.said() == [200, EVENT[:5], EVENT[5:], KEEP_ALIVE]


@pytest.mark.parametrize(("keepalive_s", "stream"), [(None, True), (10.0, False)])
def test_comment_does_not_come_when_it_is_switched_off_or_no_stream_was_asked_for(
    keepalive_s: float | None, stream: bool
) -> None:
    """Not in a thousand seconds."""

    @on_virtual_time
    async def scenario() -> None:
        wire = Wire(keepalive_s)
        wire.client.watch(stream=stream)
        await asyncio.sleep(1000.0)
        wire.client.unwatch()
        assert wire.said() == []

    scenario()


@on_virtual_time
async def test_comment_and_event_do_not_mix_when_the_caller_is_slow() -> None:
    """A comment that is stuck in the caller's buffer goes out whole, then the event."""
    wire = Wire(10.0)
    wire.client.watch(stream=True)
    wire.clear.clear()
    await asyncio.sleep(10.5)
    writing = asyncio.ensure_future(wire.client.write(EVENT))
    await asyncio.sleep(30.0)
    assert not writing.done()
    wire.clear.set()
    await writing
    await wire.client.end()
    wire.client.unwatch()
    assert wire.said() == [200, KEEP_ALIVE, EVENT, b""]


@pytest.mark.parametrize("turns", range(4))
def test_answer_and_comment_do_not_both_begin(turns: int) -> None:
    """The answer comes in the very moment in which a comment is due: one of them begins, the other knows."""

    @on_virtual_time
    async def scenario() -> None:
        wire = Wire(10.0)
        wire.client.watch(stream=True)
        await asyncio.sleep(10.0)
        for _ in range(turns):
            await asyncio.sleep(0)
        await wire.client.hush()
        if not wire.client.started:
            await wire.client.answer(400, [], b"{}")
        else:
            await wire.client.end(EVENT)
        await asyncio.sleep(100.0)
        wire.client.unwatch()
        assert wire.said() in ([400, b"{}"], [200, KEEP_ALIVE, EVENT])

    scenario()


@on_virtual_time
async def test_hush_ends_comments_for_good() -> None:
    """What follows is no event stream."""
    wire = Wire(10.0)
    wire.client.watch(stream=True)
    await wire.client.hush()
    await wire.client.start(200, [])
    await asyncio.sleep(100.0)
    await wire.client.end(b"{}")
    wire.client.unwatch()
    assert wire.said() == [200, b"{}"]


@on_virtual_time
async def test_leaving_cancels_the_task_that_serves() -> None:
    """At whatever it waits, and it knows why."""
    wire = Wire()

    async def serve() -> None:
        wire.client = Client(Watchman(asyncio.get_running_loop()), wire.receive, wire.send, [], None)
        wire.client.watch(stream=False)
        try:
            await asyncio.Event().wait()
        finally:
            wire.client.unwatch()

    task = asyncio.ensure_future(serve())
    await asyncio.sleep(WATCH_AFTER_S * 3)
    wire.gone.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert wire.client.left


@on_virtual_time
async def test_leaving_after_the_end_changes_nothing() -> None:
    """Servers tell the end of every exchange as a leaving."""
    wire = Wire()
    wire.client.watch(stream=False)
    await asyncio.sleep(WATCH_AFTER_S * 2)
    await wire.client.answer(200, [], b"{}")
    wire.gone.set()
    await asyncio.sleep(1.0)
    wire.client.unwatch()
    assert not wire.client.left
    await asyncio.sleep(0)


@on_virtual_time
async def test_leaving_is_noticed_for_each_of_many() -> None:
    """One timer serves all: those who come while it runs are watched too, those who have their answer are not."""
    watchman = Watchman(asyncio.get_running_loop())
    listening: list[int] = []
    clients: list[Client] = []

    async def say(_: object) -> None: ...

    for number in range(100):

        async def receive(number: int = number) -> object:
            listening.append(number)
            return await asyncio.Event().wait()

        client = Client(watchman, receive, say, [], None)
        client.watch(stream=False)
        clients.append(client)
        if number % 2:
            client.unwatch()
        await asyncio.sleep(WATCH_AFTER_S / 10)
    await asyncio.sleep(WATCH_AFTER_S * 3)
    assert listening == list(range(0, 100, 2))
    for client in clients:
        client.unwatch()


@on_virtual_time
async def test_end_is_said_once() -> None:
    """However often it is asked for."""
    wire = Wire()
    await wire.client.start_stream()
    await wire.client.end(EVENT)
    await wire.client.end(EVENT)
    assert wire.said() == [200, EVENT]
