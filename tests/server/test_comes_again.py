"""A connection whose requests begin with the same head: the application sees what it would see of each alone."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.fakes.running import Caller

from .served import Served

HEAD = b"POST /p?q=%%20 HTTP/1.1\r\nHost: h\r\nX-One: a\r\ncontent-length: %d\r\nX-One:  b \r\n\r\n"


def told(scope: dict[str, Any]) -> dict[str, Any]:
    """What every request has of its own is left out, and what lies there for us alone."""
    return {name: value for name, value in scope.items() if name not in ("state", "client")}


async def test_scopes_and_bodies_are_those_of_the_first(server: Served) -> None:
    """Five times on one connection, with other lengths in between: as on five connections of their own."""
    bodies = [b"abc", b"abc", b"a" * 10, b"", b"xyz", b"{}", b"b" * 1234]
    async with Caller(server.port) as caller:
        for body in bodies:
            await caller.send(HEAD % len(body) + body)
            assert (await caller.answer()).body == b"POST /p " + body
    again = [told(scope) for scope in server.scopes]
    server.scopes.clear()
    for body in bodies:
        async with Caller(server.port) as caller:
            await caller.send(HEAD % len(body) + body)
            assert (await caller.answer()).body == b"POST /p " + body
    assert again == [told(scope) for scope in server.scopes]


async def test_what_was_learned_lasts_as_long_as_the_head(server: Served) -> None:
    """One memory for all requests with it; another head has none of it."""
    async with Caller(server.port) as caller:
        for _ in range(5):
            await caller.send(HEAD % 2 + b"{}")
            await caller.answer()
        await caller.send(HEAD.replace(b"One: a", b"One: c") % 2 + b"{}")
        await caller.answer()
    memories = [scope["state"].get("learned") for scope in server.scopes]
    assert memories[:2] == [None, None]
    assert memories[2] is not None
    assert all(memory is memories[2] for memory in memories[2:5])
    assert memories[5] is not memories[2]


async def test_other_requests_in_between(server: Served) -> None:
    """Without a body, in pieces, two at once: the parser goes on where it was."""
    async with Caller(server.port) as caller:
        for _ in range(3):
            await caller.send(HEAD % 1 + b"1")
            assert (await caller.answer()).body == b"POST /p 1"
        await caller.send(b"GET /g HTTP/1.1\r\nhost: h\r\n\r\n")
        assert (await caller.answer()).body == b"GET /g "
        await caller.send(HEAD % 3 + b"1")
        await asyncio.sleep(0)
        await caller.send(b"23")
        assert (await caller.answer()).body == b"POST /p 123"
        await caller.send(HEAD % 1 + b"4" + HEAD % 1 + b"5")
        assert (await caller.answer()).body == b"POST /p 4"
        assert (await caller.answer()).body == b"POST /p 5"
        await caller.send(HEAD % 1 + b"6")
        assert (await caller.answer()).body == b"POST /p 6"


async def test_what_follows_a_known_head_is_refused_as_ever(server: Served) -> None:
    """A length that is none."""
    async with Caller(server.port) as caller:
        for _ in range(4):
            await caller.send(HEAD % 1 + b"1")
            assert (await caller.answer()).status == 200
        await caller.send(HEAD.replace(b"%d", b"1x") % () + b"1")
        answer = await caller.answer()
        assert answer.status == 400
        assert await caller.ended()


async def test_leaving_is_noticed(server: Served) -> None:
    """While the application works on such a request, too."""
    begun, left = asyncio.Event(), asyncio.Event()

    async def waits(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        begun.set()
        assert (await receive())["type"] == "http.disconnect"
        left.set()

    async with Caller(server.port) as caller:
        for _ in range(4):
            await caller.send(HEAD % 1 + b"1")
            await caller.answer()
        server.handlers["/p"] = waits
        await caller.send(HEAD % 1 + b"1")
        await begun.wait()
    await asyncio.wait_for(left.wait(), 5)


async def test_two_at_once_teach_nothing_about_each_other(server: Served) -> None:
    """Sent in one piece, with different fields: the first head, sent again, still means what it says."""
    one, two = HEAD % 1 + b"1", HEAD.replace(b"One: a", b"One: z") % 1 + b"2"
    async with Caller(server.port) as caller:
        for _ in range(3):
            await caller.send(one + two)
            await caller.answer()
            await caller.answer()
        server.scopes.clear()
        await caller.send(one)
        await caller.answer()
    assert server.scopes[0]["headers"][1] == (b"x-one", b"a")
