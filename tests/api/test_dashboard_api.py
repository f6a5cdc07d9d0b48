"""The dashboard's API on a whole gateway: a request is seen coming, ending and afterwards; a load with its progress; settings."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest
import pytest_asyncio

from tests.fakes.processes import ENGINE
from tests.fakes.running import CHAT, Caller, Running, ask, chat, running
from tests.fakes.upstream import FakeUpstream

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def local(upstream: FakeUpstream, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Running, None]:
    """Two engines of which one fits at a time, and a model elsewhere that has a price."""
    toml = f"""
    [server]
    port = 0
    [memory.devices]
    ram = "50MiB"
    [residency]
    min_residency_s = 0
    [providers.rig]
    kind = "process"
    command = {json.dumps([*ENGINE, "--port", "${port}"])}
    [providers.up]
    kind = "openai"
    base_url = "{upstream.base_url}"
    models = ["echo"]
    prices = {{ "echo" = {{ prompt = "0.001", completion = "0.002" }} }}
    [models.a]
    targets = ["rig/a"]
    memory = "40MiB"
    [models.b]
    targets = ["rig/b"]
    memory = "40MiB"
    [models.echo]
    targets = ["up/echo"]
    """
    async with running(tmp_path_factory.mktemp("local"), toml) as found:
        yield found


async def told(caller: Caller, name: str, seen: list[tuple[str, Any]]) -> Any:
    """The next event of that name; those before it are in `seen`."""
    while True:
        for place, (each, data) in enumerate(seen):
            if each == name:
                del seen[: place + 1]
                return data
        for block in (await caller.piece()).decode().split("\n\n"):
            fields = [line.partition(": ") for line in block.split("\n")]
            said = {key: value for key, _, value in fields}
            if "event" in said:
                seen.append((said["event"], json.loads(said["data"])))


async def test_an_eviction_is_seen_live_in_words(local: Running) -> None:
    """And so are the request that caused it, its load, and the state before and after."""
    async with Caller(local.port) as caller:
        await caller.ask("GET", "/admin/live")
        assert (await caller.head())[0] == 200
        seen: list[tuple[str, Any]] = []
        assert (await told(caller, "state", seen))["devices"]["ram"]["budget_bytes"] == 50 << 20
        for name in ("a", "b"):
            assert (await ask(local.port, "POST", CHAT, chat(name))).status == 200
        words: list[str] = []
        while not words or not words[-1].startswith("loaded b in "):
            words.append((await told(caller, "happening", seen))["words"])
        assert any(line.startswith("evicted a for b: ram 40.0 MiB needed, ram 10.0 MiB free, a ") for line in words)
        entry = await told(caller, "request", seen)
        while "total_us" not in entry:
            entry = await told(caller, "request", seen)
        assert entry["model"] in ("a", "b")
        await caller.ask("GET", "/")  # leaves the stream; the server does not mind


async def test_a_request_is_found_afterwards(local: Running, upstream: FakeUpstream) -> None:
    """In the activity with its times, tokens and exact cost; by its id; and in the timeline's minutes."""
    fields = [("x-request-id", "mine-1"), ("user-agent", "tester/1")]
    assert (await ask(local.port, "POST", CHAT, chat("echo"), fields)).status == 200
    row = (await ask(local.port, "GET", "/admin/activity?q=mine-1")).json()["rows"][0]
    assert (row["model"], row["target"], row["status"], row["user_agent"]) == ("echo", "up/echo", 200, "tester/1")
    assert 0 < row["first_byte_us"] <= row["total_us"]
    assert (row["bytes_in"], row["bytes_out"]) == (len(chat("echo")), row["bytes_out"])
    assert row["bytes_out"] > 0
    if row["prompt"]:
        assert float(row["cost_usd"]) == pytest.approx(row["prompt"] * 0.001 + row["completion"] * 0.002)
    found = (await ask(local.port, "GET", "/admin/activity/mine-1")).json()
    assert (found["entry"], found["capture"]) == (row, None)
    assert any(each["model"] == "echo" for each in (await ask(local.port, "GET", "/admin/timeline")).json()["requests"])


async def test_failures_are_rows_too(local: Running) -> None:
    """With the code that the caller was told; an unknown name counts as no model."""
    assert (await ask(local.port, "POST", CHAT, chat("nobody"))).status == 404
    row = (await ask(local.port, "GET", "/admin/activity?status=error&limit=1")).json()["rows"][0]
    assert (row["asked"], row["model"], row["status"], row["code"]) == ("nobody", "", 404, "model_not_found")
    assert row["cost_usd"] == "0"


async def test_the_page_and_the_settings_are_there(local: Running) -> None:
    """The page for a browser, the index for a program, files without a key, and the configuration with its sources."""
    page = await ask(local.port, "GET", "/", None, [("accept", "text/html")])
    assert page.body.startswith(b"<!doctype html>")
    assert (await ask(local.port, "GET", "/", None, [("accept", "application/json")])).json()["name"] == "roundhouse"
    assert (await ask(local.port, "GET", "/dashboard/app.js")).status == 200
    values = (await ask(local.port, "GET", "/admin/config")).json()["values"]
    assert {"key": "server.port", "value": 0, "source": "file", "secret": False} in values
