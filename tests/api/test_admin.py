"""The operator's surface on the wire: names of every shape, actions, plans, what is in memory, and events as they happen."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator

import psutil
import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families

from tests.fakes.processes import ENGINE
from tests.fakes.running import CHAT, Caller, Running, ask, chat, running
from tests.fakes.upstream import FakeUpstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

MIB = 1 << 20
NAMES = ["plain", "org/name:7b", "größe", "a b", "100%"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def local(upstream: FakeUpstream, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Running, None]:
    """Engines under names of every shape, of which two fit at once; one that fits never; one broken; one served elsewhere."""
    models = "\n".join(
        f'[models.{json.dumps(name, ensure_ascii=False)}]\ntargets = ["rig/{number}"]\nmemory = "40MiB"'
        for number, name in enumerate(NAMES)
    )
    toml = f"""
    [server]
    port = 0
    [memory.devices]
    ram = "100MiB"
    [residency]
    min_residency_s = 0
    [providers.rig]
    kind = "process"
    command = {json.dumps([*ENGINE, "--port", "${port}"])}
    [providers.up]
    kind = "openai"
    base_url = "{upstream.base_url}"
    {models}
    [models.huge]
    targets = ["rig/huge"]
    memory = "200MiB"
    [models.broken]
    targets = ["rig/broken"]
    memory = "10MiB"
    args = ["--fail-code", "9", "--say", "out of luck"]
    [models.remote]
    targets = ["up/echo"]
    """
    async with running(tmp_path_factory.mktemp("local"), toml) as found:
        yield found


async def post(gateway: Running, path: str) -> dict[str, object]:
    """An action that must succeed."""
    answer = await ask(gateway.port, "POST", path, b"")
    assert answer.status == 200, answer.body
    return answer.json()


def spellings(name: str) -> list[str]:
    """A name in a path: all but the plainest characters encoded, and raw where that is one line of ASCII."""
    encoded = "".join(f"%{byte:02X}" for byte in name.encode())
    partly = "".join(c if c.isascii() and c.isalnum() else "".join(f"%{b:02x}" for b in c.encode()) for c in name)
    raw = [name] if name.isascii() and " " not in name and "%" not in name else []
    return [encoded, partly, *raw]


@pytest.mark.parametrize("name", NAMES)
async def test_names_of_every_shape_are_found_in_paths(local: Running, name: str) -> None:
    """With slashes and colons raw and percent-encoded, by name and by target; reading loads nothing."""
    before = len(local.happened("load_started"))
    for spelling in [*spellings(name), f"rig/{NAMES.index(name)}", f"rig%2F{NAMES.index(name)}"]:
        answer = await ask(local.port, "GET", f"/v1/models/{spelling}")
        assert (answer.status, answer.json().get("id")) == (200, name), spelling
    assert len(local.happened("load_started")) == before


@pytest.mark.parametrize("name", NAMES)
async def test_actions_take_names_of_every_shape(local: Running, name: str) -> None:
    """Load, pin, unpin, unload."""
    target = f"rig/{NAMES.index(name)}"
    for spelling in spellings(name):
        told = await post(local, f"/admin/models/{spelling}/load")
        assert told == {"model": name, "target": target, "phase": "ready", "pinned": False}
        assert (await post(local, f"/admin/models/{spelling}/pin"))["pinned"] is True
        assert (await post(local, f"/admin/models/{spelling}/unpin"))["pinned"] is False
        await post(local, f"/admin/models/{spelling}/unload")
        await local.until(lambda: target not in local.phases())


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/admin/models/nix/load", 404, "model_not_found"),
        ("/admin/models/plain/explode", 404, "not_found"),
        ("/admin/models/load", 404, "not_found"),
        ("/admin/models/remote/load", 400, "invalid_request"),
        ("/admin/models/huge/load", 400, "larger_than_budget"),
        ("/admin/models/broken/load", 503, "load_failed"),
    ],
)
async def test_action_that_cannot_be_done_says_why(local: Running, path: str, status: int, code: str) -> None:
    """In the envelope, as for any caller."""
    answer = await ask(local.port, "POST", path, b"")
    assert (answer.status, answer.error["code"]) == (status, code)


async def test_unknown_model_in_a_path_is_404(local: Running) -> None:
    """The name is in the message."""
    answer = await ask(local.port, "GET", "/v1/models/nix%2Fnix")
    assert (answer.status, answer.error["code"]) == (404, "model_not_found")
    assert "'nix/nix'" in answer.error["message"]


async def test_list_of_models_tells_where_each_stands(local: Running) -> None:
    """OpenAI's form, with ours beside it."""
    await post(local, "/admin/models/plain/load")
    listed = (await ask(local.port, "GET", "/v1/models")).json()
    assert listed["object"] == "list"
    models = {model["id"]: model for model in listed["data"]}
    assert set(models) == {*NAMES, "huge", "broken", "remote", "up/fake"}  # the last is what the upstream lists
    assert {model["object"] for model in models.values()} == {"model"}
    assert models["plain"]["owned_by"] == "rig"
    assert models["plain"]["roundhouse"]["state"] == "ready"
    assert models["plain"]["roundhouse"]["bytes"] == {"ram": 40 * MIB}
    assert models["huge"]["roundhouse"]["state"] == "cold"
    assert models["remote"]["roundhouse"]["state"] == "remote"


async def test_residency_shows_what_is_in_memory(local: Running) -> None:
    """The fields that the operator's surface fixes."""
    await post(local, "/admin/models/plain/load")
    shown = (await ask(local.port, "GET", "/admin/residency")).json()
    ram = shown["devices"]["ram"]
    assert set(ram) == {"budget_bytes", "total_bytes", "committed_bytes", "measured_bytes", "strangers_bytes"}
    assert ram["total_bytes"] == psutil.virtual_memory().total
    assert (ram["budget_bytes"], ram["committed_bytes"]) == (100 * MIB, 40 * MIB)
    (resident,) = shown["residents"]
    assert {"model", "target", "phase", "epoch", "leases", "pinned", "footprint", "footprint_source"} <= set(resident)
    assert {"idle_s", "resident_s"} <= set(resident)
    assert (resident["model"], resident["target"], resident["phase"]) == ("plain", "rig/0", "ready")
    assert (resident["footprint"], resident["footprint_source"]) == ({"ram": 40 * MIB}, "declared")
    assert shown["queue"] == []


async def test_plan_says_what_would_happen_and_changes_nothing(local: Running) -> None:
    """Ready, fits, evicts, refused; a model's name may hold anything here too."""
    await post(local, "/admin/models/plain/load")
    before = local.phases()
    plans = {
        name: (await ask(local.port, "GET", f"/admin/plan?model={spelling}")).json()
        for name, spelling in (("plain", "plain"), ("org/name:7b", "org%2Fname%3A7b"), ("huge", "huge"))
    }
    assert [plan["outcome"] for plan in plans.values()] == ["ready", "fits", "refused"]
    assert plans["huge"]["refusal"] == "larger_than_budget"
    assert plans["plain"]["expected_load_s"] > 0
    await post(local, "/admin/models/org/name:7b/load")
    evicts = (await ask(local.port, "GET", "/admin/plan?model=100%25")).json()
    assert (evicts["outcome"], evicts["victims"]) == ("evicts", ["rig/0"])
    assert {**before, "rig/1": "ready"} == local.phases()
    missing = await ask(local.port, "GET", "/admin/plan")
    assert (missing.status, missing.error["code"]) == (400, "invalid_request")


async def test_logs_show_an_engines_last_lines(local: Running) -> None:
    """Of one that runs, and of one that did not come up."""
    await post(local, "/admin/models/plain/load")
    lines = (await ask(local.port, "GET", "/admin/logs?model=plain")).json()["lines"]
    assert any(line.startswith("engine ready") for line in lines)
    await ask(local.port, "POST", "/admin/models/broken/load", b"")
    assert "out of luck" in (await ask(local.port, "GET", "/admin/logs?model=broken")).json()["lines"]


async def test_cooling_model_is_shown_and_counted(local: Running) -> None:
    """Why it is not tried again, until when for its callers, and the failed load in the metrics."""
    await ask(local.port, "POST", "/admin/models/broken/load", b"")
    shown = (await ask(local.port, "GET", "/admin/residency")).json()
    assert "exited with code 9" in shown["cooling_down"]["rig/broken"]
    answer = await ask(local.port, "POST", CHAT, chat("broken"))
    assert (answer.status, answer.error["code"], answer.error["exit_code"]) == (503, "load_failed", 9)
    assert answer.error["log_lines"][-1] == "out of luck"
    assert int(str(answer.field("retry-after"))) >= 1
    assert answer.field("x-should-retry") == "false"
    text = (await ask(local.port, "GET", "/metrics")).body.decode()
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert samples["roundhouse_loads_total", "failed"] >= 1
    assert samples["roundhouse_loads_total", "ok"] == len(local.happened("loaded"))
    assert samples["roundhouse_budget_bytes", "ram"] == 100 * MIB


async def test_a_cold_model_tells_what_it_will_take(local: Running) -> None:
    """Its size, and how long its loads took, also while it is not there."""
    await post(local, "/admin/models/plain/load")
    await post(local, "/admin/models/plain/unload")
    await local.until(lambda: "rig/0" not in local.phases())
    told = (await ask(local.port, "GET", "/v1/models/plain")).json()["roundhouse"]
    assert (told["state"], told["bytes"]) == ("cold", None)
    assert told["expected_bytes"]["ram"] > 0
    assert told["load_s"] > 0


async def test_events_are_told_as_they_happen_and_taken_up_again(local: Running) -> None:
    """Each with its number; `Last-Event-ID` goes on after it, one from another run or nonsense starts anew."""
    await post(local, "/admin/models/plain/load")
    async with Caller(local.port) as caller:
        await caller.ask("GET", "/admin/events?after=999999999")
        status, fields = await caller.head()
        assert (status, dict(fields)["content-type"].partition(";")[0]) == (200, "text/event-stream")
        seen: list[dict[str, object]] = []
        await post(local, "/admin/models/plain/unload")
        while not seen or seen[-1]["what"] != "gone":
            piece = await caller.piece()
            if piece.startswith(b"id: "):
                number, _, data = piece.decode().partition("\ndata: ")
                seen.append(json.loads(data))
                assert int(number.removeprefix("id: ")) == seen[-1]["seq"]
        assert [entry["seq"] for entry in seen] == list(range(1, len(seen) + 1))
        assert [entry["what"] for entry in seen[-3:]] == ["draining", "unload_started", "gone"]
    for last, first in ((str(len(seen) - 1), len(seen)), ("\xb2", 1), ("x" * 30, 1), ("9" * 5000, 1)):
        async with Caller(local.port) as caller:
            await caller.ask("GET", "/admin/events", None, [("last-event-id", last)])
            assert (await caller.head())[0] == 200
            assert (await caller.piece()).startswith(b": ")
            assert (await caller.piece()).startswith(b"id: %d\n" % first)


async def test_health_tells_when_it_shuts_down(
    upstream: FakeUpstream, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Not ready any more; new requests are refused with a hint; who follows the events comes to their end."""
    toml = f"""
    [server]
    port = 0
    [providers.rig]
    kind = "process"
    command = {json.dumps([*ENGINE, "--port", "${port}"])}
    [models.a]
    targets = ["rig/a"]
    memory = "1MiB"
    """
    async with running(tmp_path_factory.mktemp("ending"), toml) as gateway:
        assert (await ask(gateway.port, "GET", "/health/ready")).status == 200
        assert (await ask(gateway.port, "POST", CHAT, chat("a"))).status == 200
        async with Caller(gateway.port) as caller:
            await caller.ask("GET", "/admin/events")
            await caller.head()
            gateway.parts.residency.begin_shutdown()
            told = await caller.rest()
        assert b'"what":"gone"' in told
        ready = await ask(gateway.port, "GET", "/health/ready")
        assert (ready.status, ready.json()) == (503, {"status": "shutting_down"})
        answer = await ask(gateway.port, "POST", CHAT, chat("a"))
        assert (answer.status, answer.error["code"]) == (503, "shutting_down")
        assert answer.field("retry-after")
