"""What the state says of a real gateway, the timeline on the wire, and what telling the state of 500 models costs."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator

import msgspec
import pytest
import pytest_asyncio

from gateway.api.live import BEAT_S
from gateway.api.standing import LedgerWords, Standing
from gateway.api.timeline import timeline_routes
from gateway.metering.activity import Activity
from gateway.metering.rates import Minutes, Rates
from gateway.residency.timeline import Timeline
from tests.fakes.processes import ENGINE
from tests.fakes.running import CHAT, Caller, Running, ask, chat, running

from .small import small

pytestmark = pytest.mark.asyncio(loop_scope="module")

MODELS = 500


class Away(msgspec.Struct):
    """A ledger whose database is gone."""

    ok: bool = False
    error: str = "the disk is full"
    buffered: int = 7
    dropped: int = 1


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def crowd(dead_port: int, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Running, None]:
    """Very many models, of which one is in memory; and a provider that is down."""
    models = "\n".join(f'[models."m-{n}"]\ntargets = ["rig/{n}"]\nmemory = "1MiB"' for n in range(MODELS))
    toml = f"""
    [server]
    port = 0
    [providers.rig]
    kind = "process"
    command = {json.dumps([*ENGINE, "--port", "${port}"])}
    [providers.dead]
    kind = "openai"
    base_url = "http://127.0.0.1:{dead_port}"
    {models}
    [models.slow]
    targets = ["rig/slow"]
    memory = "1MiB"
    args = ["--never-ready"]
    """
    async with running(tmp_path_factory.mktemp("crowd"), toml) as found:
        assert (await ask(found.port, "POST", CHAT, chat("m-7"))).status == 200
        yield found


def standing(crowd: Running, ledger: LedgerWords | None = None) -> Standing:
    parts = crowd.parts
    return Standing(
        lambda: parts.directory.catalog,
        parts.residency,
        parts.listings,
        parts.upstreams,
        Activity(),
        Rates(),
        lambda: ledger,
        parts.residency.clock,
    )


async def test_the_state_is_that_of_residency_and_more(crowd: Running) -> None:
    """The same object as at /admin/residency, with providers, rates and the ledger."""
    state = json.loads(msgspec.json.encode(standing(crowd).state()))
    residency = (await ask(crowd.port, "GET", "/admin/residency")).json()
    assert set(residency) <= set(state)
    assert state["devices"].keys() == residency["devices"].keys()
    assert [resident["model"] for resident in state["residents"]] == ["m-7"]
    dead = next(provider for provider in state["providers"] if provider["name"] == "dead")
    assert (dead["kind"], dead["healthy"]) == ("openai", False)
    assert dead["reason"]
    assert state["rates"]["rss_bytes"] > 1 << 20
    assert state["ledger"] == {"on": False, "ok": True, "error": "", "buffered": 0, "dropped": 0}
    assert standing(crowd).loads() == {}


async def test_a_load_and_who_waits_for_it_are_told(crowd: Running) -> None:
    """A request waits for a model that takes its time: its place, and how far the load is; nothing is made up."""
    async with Caller(crowd.port) as caller:
        await caller.ask("POST", CHAT, chat("slow"))
        await crowd.until(lambda: crowd.phases().get("rig/slow") == "loading")
        shown = standing(crowd)
        waiting = json.loads(msgspec.json.encode(shown.state()))["queue"]
        assert [(each["model"], each["target"], each["position"]) for each in waiting] == [("slow", "rig/slow", 1)]
        assert waiting[0]["expected_s"] is None  # it has never been loaded
        load = shown.loads()["rig/slow"]
        assert (load["model"], load["percent"], load["eta_s"]) == ("slow", None, None)
        assert load["elapsed_s"] >= 0
    await crowd.until(lambda: not crowd.parts.residency.waiting())
    assert (await ask(crowd.port, "POST", "/admin/models/slow/unload", b"")).status == 200
    await crowd.until(lambda: "rig/slow" not in crowd.phases())


async def test_a_ledger_that_is_away_says_so(crowd: Running) -> None:
    """In the ledger's own words."""
    assert standing(crowd, Away()).state()["ledger"] == {
        "on": True,
        "ok": False,
        "error": "the disk is full",
        "buffered": 7,
        "dropped": 1,
    }


async def test_with_hundreds_of_models_a_state_stays_small_and_quick(crowd: Running) -> None:
    """It tells what is in memory and in the queue, not all there is; five a second are a small part of one core."""
    shown = standing(crowd)
    best_s = 1.0
    for _ in range(20):
        began_s = time.process_time()
        size = len(msgspec.json.encode(shown.state()))
        best_s = min(best_s, time.process_time() - began_s)
        assert size < 8 << 10
    assert best_s < BEAT_S / 20


async def test_the_timeline_on_the_wire(crowd: Running) -> None:
    """Spans, marks in words, and requests by the minute, of the hours that are asked for."""
    timeline, minutes = Timeline(), Minutes()
    for happening in crowd.parts.residency.journal.since(0):
        timeline.heed(happening)
    now_s = time.time()
    minutes.count(int((now_s - 7200) * 1e6), "early")
    minutes.count(int(now_s * 1e6), "m-7")
    async with small(timeline_routes(timeline, minutes, standing(crowd).name_of)) as port:
        said = (await ask(port, "GET", "/admin/timeline?hours=1")).json()
        assert said["to_s"] - said["from_s"] == pytest.approx(3600)
        spans = [span for span in said["spans"] if span["model"] == "m-7"]
        assert [span["phase"] for span in spans] == ["loading", "ready"]
        assert (spans[-1]["to_s"], spans[-1]["why"]) == (None, "requested")
        assert [mark["what"] for mark in said["marks"] if mark["model"] == "m-7"] == ["load_started", "loaded"]
        assert said["marks"][1]["words"].startswith("loaded m-7 in ")
        assert [(each["model"], each["count"]) for each in said["requests"]] == [("m-7", 1)]
        for hours in ("0", "25", "nan", "x"):
            assert (await ask(port, "GET", f"/admin/timeline?hours={hours}")).status == 400
