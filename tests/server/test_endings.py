"""What does not go straight: slow readers, those who leave, applications that fail, and the server's own end."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from tests.fakes.running import WITHIN_S, Caller

from .served import Served, answer, piece, read

GET = b"GET %b HTTP/1.1\r\nhost: h\r\n\r\n"


# ---------------------------------------------------------------- slow readers, and those who leave


async def test_send_waits_for_a_slow_reader(server: Served) -> None:
    """It goes on when what was written has been read."""
    sent = 0

    async def much(_: Any, __: Any, send: Any) -> None:
        nonlocal sent
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(400):
            await piece(send, b"x" * 65_536)
            sent += 1
        await piece(send, b"", more=False)

    server.handlers["/a"] = much
    async with Caller(server.port) as caller:
        await caller.send(GET % b"/a")
        await server.until(lambda: sent > 0)
        before = -1
        while before != sent:
            before = sent
            await asyncio.sleep(0.02)
        assert sent < 400
        assert len((await caller.answer()).body) == 400 * 65_536
    assert sent == 400


@pytest.mark.parametrize("goes", ["leaves", "resets", "ends its sending"])
@pytest.mark.parametrize("when", ["uploading", "waiting", "streaming", "not reading"])
async def test_leaving_is_noticed(server: Served, when: str, goes: str) -> None:
    """At any moment `receive` says so, and sending goes on into nothing without an error."""
    seen = asyncio.Event()

    async def handler(_: Any, receive: Any, send: Any) -> None:
        if when == "uploading":
            assert await read(receive) is None
        else:
            assert await read(receive) == b""
            if when != "waiting":
                await answer(send, b"begun", more=True)
            if when == "not reading":
                while not seen.is_set():
                    await piece(send, b"x" * 65_536)
                    if (await receive_now(receive)) == "http.disconnect":
                        break
            else:
                assert (await receive())["type"] == "http.disconnect"
        assert (await receive())["type"] == "http.disconnect"
        seen.set()
        await answer(send, b"into nothing") if when in ("uploading", "waiting") else await piece(send, b"", more=False)

    server.handlers["/a"] = handler
    async with Caller(server.port) as caller:
        length = b"content-length: 10\r\n" if when == "uploading" else b""
        await caller.send(b"POST /a HTTP/1.1\r\nhost: h\r\n%b\r\n" % length)
        await server.until(lambda: server.running == 1)
        if when in ("streaming", "not reading"):
            await caller.head()
        {"leaves": caller.leave, "resets": caller.reset, "ends its sending": caller.finish}[goes]()
        async with asyncio.timeout(WITHIN_S):
            await seen.wait()
    await server.until(lambda: server.running == 0 and not server.state.connections and not server.state.tasks)


async def receive_now(receive: Any) -> str:
    """The type of a message that is there, "" where there is none."""
    try:
        async with asyncio.timeout(0.001):
            return str((await receive())["type"])
    except TimeoutError:
        return ""


async def test_several_may_wait_for_the_leaving(server: Served) -> None:
    """Also when one of them is cancelled meanwhile."""
    told: list[str] = []

    async def handler(_: Any, receive: Any, send: Any) -> None:
        await receive()
        waiting = [asyncio.ensure_future(receive()) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[1].cancel()
        await answer(send, b"begun", more=True)
        told.extend([(await waiting[number])["type"] for number in (0, 2)])

    server.handlers["/a"] = handler
    async with Caller(server.port) as caller:
        await caller.send(GET % b"/a")
        await caller.head()
    await server.until(lambda: server.running == 0)
    assert told == ["http.disconnect"] * 2


async def test_stream_that_has_nothing_to_say_yet_has_begun(server: Served) -> None:
    """Its head goes out when the application begins to wait for the caller's leaving."""

    async def handler(_: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await receive()

    server.handlers["/a"] = handler
    async with Caller(server.port) as caller:
        await caller.send(GET % b"/a")
        assert (await caller.head())[0] == 200


async def test_receive_after_the_end_is_a_disconnect(server: Served) -> None:
    """As ASGI has it."""
    told: list[str] = []

    async def handler(_: Any, receive: Any, send: Any) -> None:
        await answer(send, b"done")
        told.append((await receive())["type"])

    server.handlers["/a"] = handler
    async with Caller(server.port) as caller:
        await caller.send(GET % b"/a")
        assert (await caller.answer()).body == b"done"
    await server.until(lambda: server.running == 0)
    assert told == ["http.disconnect"]


# ---------------------------------------------------------------- what goes wrong in the application


@pytest.mark.parametrize("how", ["raises", "returns", "starts and raises"])
async def test_failure_before_the_answer_is_told(server: Served, how: str, caplog: pytest.LogCaptureFixture) -> None:
    """In the envelope, without what it was; the log has that."""

    async def handler(_: Any, __: Any, send: Any) -> None:
        if how == "starts and raises":
            await send({"type": "http.response.start", "status": 200, "headers": []})
        if how != "returns":
            raise ValueError("a secret")

    server.handlers["/a"] = handler
    with caplog.at_level(logging.ERROR, "roundhouse.server"):
        async with Caller(server.port) as caller:
            await caller.send(GET % b"/a")
            told = await caller.answer()
            assert (told.status, told.error["type"], told.error["code"]) == (500, "server_error", "internal_error")
            assert b"secret" not in told.body
            assert await caller.ended()
    assert caplog.records


@pytest.mark.parametrize("framing", ["length", "chunks", "until the end"])
async def test_failure_in_an_answer_cuts_it(server: Served, framing: str, caplog: pytest.LogCaptureFixture) -> None:
    """So that it never looks whole."""

    async def handler(_: Any, __: Any, send: Any) -> None:
        headers = [(b"content-length", b"100")] if framing == "length" else []
        await answer(send, b"begun", 200, headers, more=True)
        raise ValueError("no more")

    server.handlers["/a"] = handler
    with caplog.at_level(logging.CRITICAL, "roundhouse.server"):
        version = b"1.0" if framing == "until the end" else b"1.1"
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET /a HTTP/%b\r\nhost: h\r\n\r\n" % version)
        try:
            got = await reader.read()
        except ConnectionError:
            got = b""
        else:
            assert framing != "until the end"
        writer.close()
    assert not got.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("wrong", ["too long", "too short", "twice", "body first", "status"])
async def test_application_that_breaks_the_protocol_is_told(server: Served, wrong: str) -> None:
    """By an error, at the place where it does so."""
    errors: list[Exception] = []

    async def handler(_: Any, __: Any, send: Any) -> None:
        length = [(b"content-length", b"2")]
        try:
            if wrong == "too long":
                await answer(send, b"abc", 200, length)
            elif wrong == "too short":
                await answer(send, b"a", 200, length)
            elif wrong == "twice":
                await answer(send, b"ab", 200, length)
                await piece(send, b"more")
            elif wrong == "body first":
                await piece(send, b"ab")
            else:
                await answer(send, b"", 100)
        except (RuntimeError, ValueError) as error:
            errors.append(error)

    server.handlers["/a"] = handler
    async with Caller(server.port) as caller:
        await caller.send(GET % b"/a")
        await server.until(lambda: bool(errors))


# ---------------------------------------------------------------- the end


async def test_shutdown_lets_answers_end(server: Served) -> None:
    """Idle connections are closed at once; the running one is told that it is the last."""
    go = asyncio.Event()

    async def slow(_: Any, __: Any, send: Any) -> None:
        await go.wait()
        await answer(send, b"slow")

    server.handlers["/slow"] = slow
    async with Caller(server.port) as busy, Caller(server.port) as idle:
        await busy.send(GET % b"/slow" + GET % b"/never")
        await idle.send(GET % b"/")
        await idle.answer()
        await server.until(lambda: server.running == 1)
        for connection in list(server.state.connections):
            connection.shutdown()
        assert await idle.ended()
        go.set()
        told = await busy.answer()
        assert (told.body, told.field("connection")) == (b"slow", "close")
        assert await busy.ended()
    assert [scope["path"] for scope in server.scopes] == ["/slow", "/"]


@pytest.mark.parametrize("begun", [False, True])
async def test_exchange_that_outlasts_the_grace_is_cut(server: Served, begun: bool) -> None:
    """By cancelling its task, as uvicorn's shell does: told, where nothing was said yet."""

    async def endless(_: Any, receive: Any, send: Any) -> None:
        if begun:
            await answer(send, b"begun", more=True)
        await asyncio.Event().wait()

    server.handlers["/a"] = endless
    async with Caller(server.port) as caller:
        await caller.send(GET % b"/a")
        await server.until(lambda: server.running == 1)
        if begun:
            assert (await caller.head())[0] == 200
            assert await caller.piece() == b"begun"
        for task in server.state.tasks:
            task.cancel("grace exceeded")
        if begun:
            with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                await caller.piece()
        else:
            told = await caller.answer()
            assert (told.status, told.error["code"]) == (503, "shutting_down")
        assert await caller.ended()
    assert server.cancelled == 1
    async with Caller(server.port) as caller:  # and a fresh task serves the next one
        await caller.send(GET % b"/next")
        assert (await caller.answer()).body == b"GET /next "


async def test_tasks_are_used_again(server: Served) -> None:
    """One after another in the same task, two at a time in two; all of them end when they are dismissed."""
    tasks: list[asyncio.Task[None] | None] = []

    async def handler(_: Any, __: Any, send: Any) -> None:
        tasks.append(asyncio.current_task())
        await answer(send, b"")

    server.handlers["/a"] = handler
    async with Caller(server.port) as one, Caller(server.port) as two:
        for _ in range(3):
            await one.send(GET % b"/a")
            await one.answer()
        await two.send(GET % b"/a")
        await two.answer()
    assert len(set(tasks)) == 1
    server.service.workers.dismiss()
    task = tasks[0]
    assert task is not None
    await asyncio.wait([task], timeout=WITHIN_S)
    assert task.done()
