"""The pretended gateway says what the real one says: pages that work with it must work with the gateway."""

from __future__ import annotations

import asyncio
import json

import msgspec

from gateway.metering.entry import Entry
from gateway.residency.events import Plan, ResidentView, WaitingView
from gateway.residency.journal import Happening
from gateway.routing.health import HealthView

from .fake_admin import Admin, serving
from .fake_world import Json, World


def _fields(kind: type[msgspec.Struct]) -> set[str]:
    return set(kind.__struct_fields__)


def _lived(seconds: int = 60) -> World:
    """A world after a while: something waits, something was evicted."""
    world = World(models=120, rows=20)
    for quarter in range(seconds * 4):
        world.tick(world.now_s + 0.25 if quarter else world.now_s)
    return world


def test_it_uses_the_words_of_the_real_one() -> None:
    """Residents, queue, happenings, plans, health and the ledger's rows have exactly the real fields."""
    world = _lived()
    for name in world.local:
        world.want(name)
    state = world.state()

    assert set(state["residents"][0]) == _fields(ResidentView) | {"model"}
    assert set(state["queue"][0]) == _fields(WaitingView)
    assert set(world.providers()[0]["health"]) == _fields(HealthView)
    assert set(world.plan(world.local[0])) == _fields(Plan) | {"model", "expected_load_s"}
    assert set(world.rows[0]) == _fields(Entry)
    assert {key for one in world.happenings for key in one} <= _fields(Happening)


def test_it_is_alive_and_keeps_within_its_budget() -> None:
    """Models come and go, the pinned one stays, no device is ever overfull."""
    world = World(models=120, rows=0)
    seen: set[str] = set()
    for _ in range(1200):
        world.tick(world.now_s + 0.25)
        assert all(held <= world.budget[device] for device, held in world.committed().items())
        seen |= {one["what"] for one in world.happenings}

    assert {"queued", "granted", "load_started", "loaded", "draining", "unload_started", "gone"} <= seen
    assert world.local[0] in world.residents


async def _ask(address: str, path: str, cookie: str = "") -> tuple[int, Json]:
    host, _, port = address.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET {path} HTTP/1.1\r\nhost: {host}\r\ncookie: {cookie}\r\n\r\n".encode())
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    return int(head.split(b" ")[1]), json.loads(body)


async def test_its_doors_are_the_gateways() -> None:
    """With a key nothing but the session is told without the cookie; unknown paths have the envelope."""
    async with serving(Admin(World(models=30, rows=1), key="k")) as address:
        assert await _ask(address, "/admin/session") == (
            200,
            {"needed": True, "name": "", "admin": False, "version": "0.5.0"},
        )
        assert (await _ask(address, "/admin/residency"))[0] == 401
        status, said = await _ask(address, "/admin/residency", cookie="rh_session=open")
        assert (status, set(said["devices"])) == (200, {"cuda:0", "ram"})
        status, said = await _ask(address, "/dashboard/../app.py")
        assert (status, said["error"]["code"]) == (404, "not_found")
