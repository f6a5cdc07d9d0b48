"""The data routes on a clock that jumps: moments that real sockets meet once in a million requests."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any, cast

import pytest

from config.schema import Config
from gateway.access.door import Access
from gateway.api.data import DataRoutes
from gateway.api.record import Costs, Recorder
from gateway.dialects.talk import Stamp
from gateway.metering.activity import Activity
from gateway.metering.metrics import Metrics
from gateway.metering.rates import Minutes, Rates
from gateway.proxy.pipeline import Pipeline, Upstream
from gateway.proxy.sse import KEEP_ALIVE
from gateway.proxy.toll import Toll
from gateway.routing.catalog import Catalog, Model, Target
from providers.contract import Loader, Offer, Request, Response, Server
from providers.errors import UpstreamUnreachable
from tests.fakes.running import CHAT, chat
from tests.residency.shell import World, on_virtual_time, turns

KEEPALIVE_S = 10.0


class Failing:
    """A provider that cannot be reached, which it finds out at a moment, so many turns of the loop after the timers."""

    name = kind = "up"
    loader: Loader | None = None
    server: Server | None = None
    routes: frozenset[bytes] | None = None
    tagged = False
    variants: frozenset[str] = frozenset()

    def __init__(self, after_s: float, after_turns: int) -> None:
        self._moment = asyncio.Event()
        self._after_turns = after_turns
        asyncio.get_running_loop().call_later(after_s, self._moment.set)  # before any timer of the request's own

    async def catalogue(self) -> Sequence[Offer]:
        return ()

    async def send(self, request: Request) -> Response:
        await self._moment.wait()
        await turns(self._after_turns)
        raise UpstreamUnreachable("nobody is there", source="up")

    async def aclose(self) -> None: ...


async def nothing() -> None:
    """Nobody can be asked for a name that is not known."""


async def exchange(routes: DataRoutes) -> list[bytes | int]:
    """One streamed request; what the server below was told to send, which must be in order and whole."""
    told: list[bytes | int] = []
    body = [{"type": "http.request", "body": chat("m", stream=True), "more_body": False}]

    async def receive() -> object:
        if body:
            return body.pop()
        return await asyncio.Event().wait()

    async def send(message: object) -> None:
        await turns(1)  # as where the caller takes its time
        said = cast("dict[str, Any]", message)
        assert (said["type"] == "http.response.start") is not bool(told), said
        assert told[-1:] != [b""], "something follows the end"
        told.append(said["body"] if told else said["status"])
        if len(told) > 1 and not said.get("more_body"):
            told.append(b"")

    scope: dict[str, Any] = {
        "method": "POST",
        "path": CHAT,
        "query_string": b"",
        "headers": [],
        "state": {"fields": []},
    }
    await routes.handle(scope, receive, send)
    await asyncio.sleep(KEEPALIVE_S * 3)
    assert told[-1] == b""
    return told[:-1]


def stamp() -> Stamp:
    """Nothing is translated here."""
    return Stamp("1", 1)


def data_routes(pipeline: Pipeline, metrics: Metrics, keepalive_s: float) -> DataRoutes:
    """Without keys."""
    return DataRoutes(
        pipeline,
        Access(Config()),
        metrics,
        max_body_bytes=1000,
        max_upload_bytes=1000,
        keepalive_s=keepalive_s,
        stamp=stamp,
        progress=lambda _: None,
        recorder=Recorder(Activity(), Rates(), Minutes(), Costs(lambda: Catalog([]), lambda _: True)),
    )


@pytest.mark.parametrize("after_turns", range(5))
def test_failure_in_the_moment_of_a_comment_is_told_once(after_turns: int) -> None:
    """Either as a real HTTP error, or as an event after the comment; never as both, never mixed."""

    @on_virtual_time
    async def scenario() -> None:
        world = World(names="")
        pipeline = Pipeline(
            lambda: Catalog([Model("m", (Target("up/m", "up", "m"),))]),
            nothing,
            world.manager,
            {"up": Upstream(Failing(KEEPALIVE_S, after_turns), None, None, None)},
            60.0,
            {},
            stamp,
            Toll(Access(Config()), lambda _target, _usage: None),
        )
        metrics = Metrics(lambda: ())
        told = await exchange(data_routes(pipeline, metrics, KEEPALIVE_S))
        status, *pieces = told
        if status == 200:
            comment, event = pieces
            assert comment == KEEP_ALIVE
            assert isinstance(event, bytes)
            assert json.loads(event.removeprefix(b"data: "))["error"]["code"] == "upstream_unreachable"
        else:
            (body,) = pieces
            assert isinstance(body, bytes)
            assert (status, json.loads(body)["error"]["code"]) == (502, "upstream_unreachable")
        assert metrics.in_flight == 0
        await world.close()

    scenario()


@pytest.mark.parametrize("keepalive_s", [0.0, float("inf")])
def test_no_comment_comes_when_they_are_switched_off(keepalive_s: float) -> None:
    """By "never" or by 0, which is no comment in every turn of the loop."""

    @on_virtual_time
    async def scenario() -> None:
        world = World(names="")
        pipeline = Pipeline(
            lambda: Catalog([Model("m", (Target("up/m", "up", "m"),))]),
            nothing,
            world.manager,
            {"up": Upstream(Failing(1000.0, 0), None, None, None)},
            60.0,
            {},
            stamp,
            Toll(Access(Config()), lambda _target, _usage: None),
        )
        routes = data_routes(pipeline, Metrics(lambda: ()), keepalive_s)
        assert (await exchange(routes))[0] == 502
        await world.close()

    scenario()
