"""Answers that are not the truth, for any fake: handlers of `FakeUpstream`."""

from __future__ import annotations

import asyncio

from tests.fakes.upstream import Exchange


async def html(exchange: Exchange) -> None:
    """Some other server's page."""
    await exchange.answer(200, b"<!doctype html><title>Login</title>", {"content-type": "text/html"})


async def truncated(exchange: Exchange) -> None:
    """JSON that ends in the middle, with the right length."""
    await exchange.answer(200, b'{"models": [{"name": "a:lat')


async def wrong_shape(exchange: Exchange) -> None:
    """JSON of another API."""
    await exchange.answer(200, {"object": "list", "models": {"a": 1}, "data": []})


async def server_error(exchange: Exchange) -> None:
    """What Ollama's framework answers after a panic."""
    await exchange.answer(500, {"error": "something went wrong"})


async def silent(exchange: Exchange) -> None:
    """No answer."""
    await asyncio.Event().wait()


async def endless(exchange: Exchange) -> None:
    """A body without an end, and without a line end."""
    await exchange.start_stream({"content-type": "application/json"})
    while True:
        await exchange.chunk(b"[" * (1 << 20))
        await asyncio.sleep(0)  # to a peer that has left every write succeeds at once
