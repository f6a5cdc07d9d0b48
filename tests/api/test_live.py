"""The live stream: what is told, to how many, how it is taken up again, and that nobody holds up anybody."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any, cast

import pytest

from gateway.api import live
from gateway.api.live import ENDED_MAX, QUEUED, Hub, live_routes
from gateway.metering.activity import Activity, Begun
from gateway.residency.journal import KEPT, Journal
from tests.fakes.running import Caller
from tests.metering.entries import entry
from tests.residency.shell import on_virtual_time, turns

from .small import small

Event = tuple[str, str, Any]  # name, id, data


class Asking:
    """A request in progress."""

    def __init__(self, id: str) -> None:
        self.id = id
        self.answering = False

    def begun(self) -> Begun:
        return Begun(
            id=self.id,
            at_us=1,
            principal="",
            key_id="",
            tenant="",
            asked="m",
            model="m",
            target="up/m",
            route="/v1/chat/completions",
            streamed=True,
            phase="answering" if self.answering else "queued",
        )


class Stage:
    """A hub and what it looks at. `loads` is what is loading; `states` counts how often the state was asked for."""

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        self.journal = Journal(lambda: 1.0)
        self.activity = Activity()
        self.loads: dict[str, Mapping[str, Any]] = {}
        self.states = 0
        self.hub = Hub(
            self.journal,
            self.activity,
            state=self.state,
            loads=lambda: self.loads,
            name_of=lambda target: target.upper(),
            clock=clock or asyncio.get_running_loop().time,
        )

    def state(self) -> Mapping[str, Any]:
        self.states += 1
        return {"state": self.states}

    def ask(self, id: str, *, end: bool = True) -> int:
        """A request, that ends at once unless said otherwise."""
        number = self.activity.begin(Asking(id))
        if end:
            self.activity.end(number, entry(id, number))
        return number


def read(piece: bytes) -> list[Event]:
    """The events in a piece; `retry` and comments are none."""
    events: list[Event] = []
    for block in piece.decode().split("\n\n")[:-1]:
        lines = [line.partition(": ") for line in block.split("\n")]
        fields = {name: value for name, _, value in lines}
        if "event" in fields:
            events.append((fields["event"], fields.get("id", ""), json.loads(fields["data"])))
    return events


def on_stage(test: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    """On virtual time, with a few turns of the loop for what was just cancelled."""

    @functools.wraps(test)
    async def whole() -> None:
        await test()
        await turns(8)

    return on_virtual_time(whole)


async def until(following: AsyncGenerator[bytes, None], enough: Callable[[list[Event]], bool]) -> list[Event]:
    """Events, until there are enough."""
    events: list[Event] = []
    while not enough(events):
        events += read(await anext(following))
    return events


def names(events: list[Event], name: str) -> list[Any]:
    """The data of those of one name."""
    return [data for each, _, data in events if each == name]


def following(stage: Stage, last_id: str = "") -> AsyncGenerator[bytes, None]:
    return cast("AsyncGenerator[bytes, None]", stage.hub.follow(last_id))


@on_stage
async def test_at_first_there_is_all_one_needs_to_see() -> None:
    """The last happenings with their words, what is being asked, and the state; nothing that ended before."""
    stage = Stage()
    stage.journal.note("pinned", "up/m")
    stage.ask("old")
    stage.ask("running", end=False)
    async with aclosing(following(stage)) as stream:
        assert await anext(stream) == b"retry: 1000\n\n"
        events = read(await anext(stream))
    assert [name for name, _, _ in events] == ["happening", "request", "state"]
    assert (events[0][2]["words"], events[0][2]["model"], events[0][2]["seq"]) == ("pinned UP/M", "UP/M", 1)
    assert (events[1][2]["id"], events[1][2]["phase"]) == ("running", "queued")
    assert stage.hub.watched == 0


@on_stage
async def test_happenings_and_requests_are_told_as_they_come() -> None:
    """In order; a request at its beginning, when its answer begins, and at its end with all of its fields."""
    stage = Stage()
    async with aclosing(following(stage)) as stream:
        await until(stream, lambda events: bool(names(events, "state")))
        stage.journal.note("load_started", "up/m", why="requested")
        asking = Asking("slow")
        number = stage.activity.begin(asking)
        events = await until(stream, lambda events: bool(names(events, "request")))
        assert names(events, "happening")[0]["words"] == "loading UP/M"
        assert names(events, "request")[0]["phase"] == "queued"
        asking.answering = True
        events = await until(stream, lambda events: bool(names(events, "request")))
        assert names(events, "request")[0]["phase"] == "answering"
        stage.activity.end(number, entry("slow", 5, completion=7))
        events = await until(stream, lambda events: bool(names(events, "request")))
        assert names(events, "request") == [{**names(events, "request")[0], "id": "slow", "completion": 7}]
        assert "phase" not in names(events, "request")[0]


@on_stage
async def test_states_come_on_change_at_most_five_a_second_and_every_two_seconds() -> None:
    """Whatever goes on; and one computation serves all who look."""
    stage = Stage()
    clock = asyncio.get_running_loop().time
    streams = [following(stage) for _ in range(20)]
    for stream in streams:
        await until(stream, lambda events: bool(names(events, "state")))
    begun_s, before = clock(), stage.states
    while clock() < begun_s + 4.0:
        stage.ask("busy")
        await asyncio.sleep(0.01)
    busy = stage.states - before
    assert 15 <= busy <= 21
    before = stage.states
    await asyncio.sleep(10.5)
    assert 5 <= stage.states - before <= 6
    seen = [names(await until(stream, lambda events: bool(names(events, "state"))), "state")[-1] for stream in streams]
    assert seen == [{"state": stage.states}] * 20  # each the newest only, however long it did not read
    for stream in streams:
        await stream.aclose()
    assert stage.hub.watched == 0


@on_stage
async def test_nobody_looks_nothing_is_done() -> None:
    """No task, no state, before the first and after the last has left."""
    stage = Stage()
    before = len(asyncio.all_tasks())
    stage.ask("unseen")
    stream = following(stage)
    await anext(stream)
    assert len(asyncio.all_tasks()) > before
    await stream.aclose()
    await turns(3)
    told, tasks = stage.states, len(asyncio.all_tasks())
    await asyncio.sleep(10.0)
    assert (stage.states, tasks) == (told, before)


@on_stage
async def test_who_comes_as_the_last_one_leaves_is_told_everything() -> None:
    """A page that is reloaded: what ends with the former one must not end the new one."""
    stage = Stage()
    former = following(stage)
    await until(former, lambda events: bool(names(events, "state")))
    await asyncio.sleep(1.0)
    await former.aclose()
    async with aclosing(following(stage)) as stream:  # in the same turn of the loop
        await until(stream, lambda events: bool(names(events, "state")))
        stage.journal.note("loaded", "up/m")
        assert await until(stream, lambda events: bool(names(events, "happening")))
        assert await until(stream, lambda events: bool(names(events, "state")))


@on_stage
async def test_loads_are_told_while_they_last() -> None:
    """The newest of each target, with every beat."""
    stage = Stage()
    async with aclosing(following(stage)) as stream:
        await until(stream, lambda events: bool(names(events, "state")))
        stage.loads["up/m"] = {"target": "up/m", "percent": 10}
        stage.journal.note("load_started", "up/m")
        events = await until(stream, lambda events: bool(names(events, "load")))
        assert names(events, "load")[-1]["percent"] == 10
        stage.loads["up/m"] = {"target": "up/m", "percent": 20}
        events = await until(stream, lambda events: any(load["percent"] == 20 for load in names(events, "load")))
        del stage.loads["up/m"]
        stage.journal.note("loaded", "up/m")
        await until(stream, lambda events: bool(names(events, "happening") and names(events, "state")))
        events = read(await anext(stream)) + read(await anext(stream))
        assert names(events, "load") == []


@on_stage
async def test_who_comes_back_is_told_what_was_missed() -> None:
    """Each once, from the very event that was had last; states have no gap."""
    stage = Stage()
    async with aclosing(following(stage)) as stream:
        await until(stream, lambda events: bool(names(events, "state")))
        stage.journal.note("loaded", "up/m")
        stage.ask("one")
        events = await until(stream, lambda events: bool(names(events, "request")))
        last_id = events[-1][1]
    stage.ask("two")
    stage.journal.note("gone", "up/m")
    stage.ask("three")
    async with aclosing(following(stage, last_id)) as stream:
        events = await until(stream, lambda events: bool(names(events, "state")))
    assert names(events, "reset") == []
    assert [each["what"] for each in names(events, "happening")] == ["gone"]
    assert [each["id"] for each in names(events, "request")] == ["two", "three"]
    async with aclosing(following(stage, names_of_ids(events)[0])) as stream:  # after the happening only
        events = await until(stream, lambda events: bool(names(events, "state")))
    assert [each["what"] for each in names(events, "happening")] == []
    assert [each["id"] for each in names(events, "request")] == ["two", "three"]


def names_of_ids(events: list[Event]) -> list[str]:
    """Their ids."""
    return [id for _, id, _ in events]


@pytest.mark.parametrize("last_id", ["deadbeef.1.1", "nonsense", "\xb2", "9" * 5000, "{run}.999.0", "{run}.0.999"])
def test_what_cannot_be_taken_up_is_said(last_id: str) -> None:
    """Another run's id, nonsense, and numbers not reached: a reset, then as for who comes anew."""

    @on_stage
    async def told() -> None:
        stage = Stage()
        stage.journal.note("loaded", "up/m")
        async with aclosing(following(stage)) as stream:
            run = (await until(stream, lambda events: bool(names(events, "state"))))[-1][1].partition(".")[0]
        async with aclosing(following(stage, last_id.replace("{run}", run))) as stream:
            events = await until(stream, lambda events: bool(names(events, "state")))
        assert [name for name, _, _ in events] == ["reset", "happening", "state"]

    told()


@on_stage
async def test_too_long_away_is_a_reset() -> None:
    """More has happened than is kept."""
    stage = Stage()
    stage.journal.note("loaded", "up/m")
    async with aclosing(following(stage)) as stream:
        last_id = (await until(stream, lambda events: bool(names(events, "state"))))[-1][1]
    for _ in range(KEPT + 1):
        stage.journal.note("pinned", "up/m")
    async with aclosing(following(stage, last_id)) as stream:
        events = await until(stream, lambda events: bool(names(events, "state")))
    assert events[0][0] == "reset"
    assert len(names(events, "happening")) == live.TOLD_AT_FIRST


@on_stage
async def test_who_reads_slowly_loses_the_oldest_and_is_told_so() -> None:
    """Memory is bounded, nobody waits for it, and another reader has them all."""
    stage = Stage()
    slow, quick = following(stage), following(stage)
    for stream in (slow, quick):
        await until(stream, lambda events: bool(names(events, "state")))
    seen = 0
    for _ in range(QUEUED + 100):
        stage.journal.note("pinned", "up/m")
        if stage.journal.since(0)[-1].seq % 50 == 0:
            seen += len(names(await until(quick, lambda events: len(events) > 0), "happening"))
    await asyncio.sleep(1.0)
    seen += len(names(read(await anext(quick)), "happening"))
    events = read(await anext(slow))
    assert seen == QUEUED + 100
    assert events[0][0] == "reset"
    assert len(names(events, "happening")) == QUEUED
    assert names(events, "happening")[-1]["seq"] == QUEUED + 100
    assert names(events, "state") == [{"state": stage.states}]
    for stream in (slow, quick):
        await stream.aclose()


@on_stage
async def test_of_a_flood_of_requests_the_last_are_told_and_all_that_were_announced() -> None:
    """Otherwise one that was shown as running would run for ever."""
    stage = Stage()
    async with aclosing(following(stage)) as stream:
        await until(stream, lambda events: bool(names(events, "state")))
        number = stage.ask("announced", end=False)
        await until(stream, lambda events: bool(names(events, "request")))
        stage.activity.end(number, entry("announced"))
        for each in range(ENDED_MAX * 3):
            stage.ask(f"r{each}")
        events = await until(stream, lambda events: bool(names(events, "state")))
        ids = [each["id"] for each in names(events, "request")]
        assert ids == ["announced", *(f"r{each}" for each in range(ENDED_MAX * 2, ENDED_MAX * 3))]


@on_stage
async def test_it_ends_with_the_journal() -> None:
    """After the last happening and a last state, for those who read and for who comes then."""
    stage = Stage()
    stream = following(stage)
    await until(stream, lambda events: bool(names(events, "state")))
    stage.journal.note("gone", "up/m")
    stage.journal.close()
    events = [event async for piece in stream for event in read(piece)]
    assert [name for name, _, _ in events] == ["happening", "state"]
    late = [event async for piece in following(stage) for event in read(piece)]
    assert late[-1][0] == "state"


@on_stage
async def test_a_state_that_cannot_be_told_ends_the_stream() -> None:
    """Rather than leaving a page that shows nothing new for ever; the browser comes back."""
    stage = Stage()
    stream = following(stage)
    await until(stream, lambda events: bool(names(events, "state")))
    stage.loads = cast("dict[str, Mapping[str, Any]]", None)
    stage.journal.note("loaded", "up/m")
    stage.ask("one")
    assert names([event async for piece in stream for event in read(piece)], "happening") != []
    await stream.aclose()


async def test_it_is_a_stream_on_the_wire_and_leaving_frees_it() -> None:
    """Its fields; events as they come; and nothing is left of who closed the tab."""
    stage = Stage()
    async with small(live_routes(stage.hub)) as port:
        async with Caller(port) as caller:
            await caller.ask("GET", "/admin/live", None, [("last-event-id", "0")])
            status, fields = await caller.head()
            assert (status, dict(fields)["content-type"].partition(";")[0]) == (200, "text/event-stream")
            assert (dict(fields)["cache-control"], dict(fields)["x-accel-buffering"]) == ("no-cache", "no")
            told = b""
            stage.journal.note("pinned", "up/m")
            while b"pinned UP/M" not in told:
                told += await caller.piece()
            assert b"event: reset" not in told
            assert stage.hub.watched == 1
        for _ in range(1000):
            if not stage.hub.watched:
                break
            await asyncio.sleep(0.005)
        assert stage.hub.watched == 0
