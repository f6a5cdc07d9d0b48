"""One budget over everybody's memory: an engine of ours, a model in Ollama, a model in LM Studio, room for two of the three."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.cli.gateways import served
from tests.fakes.lmstudio import FakeLmStudio
from tests.fakes.ollama import FakeModel, FakeOllama
from tests.fakes.running import CHAT, Running, ask, chat, running
from tests.fakes.upstream import FakeUpstream
from tests.journeys.models import ENGINE

MIB = 1 << 20
SIZE = 300 * MIB
# LM Studio tells the size of the weights only; what is expected beside them makes 300 MiB of these.
WEIGHTS = SIZE * 10 // 12
NOTICED_WITHIN_S = 2.0


class Stage:
    """The three, and what each of them says of its memory."""

    def __init__(self, gateway: Running, ollama: FakeOllama, studio: FakeLmStudio) -> None:
        self.gateway = gateway
        self.ollama = ollama
        self.studio = studio

    async def one(self, model: str) -> None:
        """A plain answer, which must be a good one; afterwards everybody agrees on what is in memory."""
        answer = await ask(self.gateway.port, "POST", CHAT, chat(model))
        assert answer.status == 200, answer.body
        await self.agreed()

    async def agreed(self) -> None:
        """What `/admin/residency` says is what Ollama's `/api/ps` and LM Studio's list say."""
        told = (await ask(self.gateway.port, "GET", "/admin/residency")).json()
        ready = {resident["target"] for resident in told["residents"] if resident["phase"] == "ready"}
        listed = (await ask(self.ollama.port, "GET", "/api/ps")).json()["models"]
        in_ollama = {f"ollama/{model['name']}" for model in listed}
        models = (await ask(self.studio.port, "GET", "/api/v1/models")).json()["models"]
        in_studio = {f"studio/{model['key']}" for model in models if model["loaded_instances"]}
        assert {target for target in ready if target.startswith("ollama/")} == in_ollama
        assert {target for target in ready if target.startswith("studio/")} == in_studio
        assert told["devices"]["ram"]["committed_bytes"] <= told["devices"]["ram"]["budget_bytes"]

    def ready(self) -> set[str]:
        return {target for target, phase in self.gateway.phases().items() if phase == "ready"}

    def evictions(self) -> list[tuple[str, str]]:
        """(victim, for whom), in order."""
        told = self.gateway.parts.residency.journal.since(0)
        return [
            (entry.target, entry.for_target) for entry in told if entry.what == "draining" and entry.why == "evicted"
        ]


@asynccontextmanager
async def stage(folder: Path, budget: str = "700MiB", more: str = "") -> AsyncGenerator[Stage]:
    """All three, up."""
    async with (
        FakeOllama(FakeModel("llama3.2:1b", size_bytes=SIZE)) as ollama,
        FakeLmStudio() as studio,
    ):
        studio.add("qwen", size_bytes=WEIGHTS)
        toml = f"""
        [server]
        port = 0
        [memory]
        budget = "{budget}"
        [residency]
        min_residency_s = 0
        [providers.ours]
        kind = "process"
        command = {json.dumps([*ENGINE, "--port", "${port}"])}
        [providers.ollama]
        kind = "ollama"
        base_url = "{ollama.base_url}"
        [providers.studio]
        kind = "lmstudio"
        base_url = "{studio.base_url}"
        [models.own]
        targets = ["ours/own"]
        memory = "300MiB"
        {more}
        """
        async with running(folder, toml) as gateway:
            yield Stage(gateway, ollama, studio)


async def test_alternating_requests_evict_across_providers_in_lru_order(tmp_path: Path) -> None:
    """Whoever was used longest ago leaves, wherever it lives; all three say the same after every step."""
    async with stage(tmp_path) as scene:
        own, llama, qwen = "ours/own", "ollama/llama3.2:1b", "studio/qwen"
        steps: list[tuple[str, set[str]]] = [
            ("own", {own}),
            ("llama3.2:1b", {own, llama}),
            ("qwen", {llama, qwen}),
            ("own", {qwen, own}),
            ("llama3.2:1b", {own, llama}),
            ("own", {own, llama}),
            ("qwen", {own, qwen}),
            ("ollama/llama3.2:1b", {qwen, llama}),
        ]
        for model, left in steps:
            await scene.one(model)
            assert scene.ready() == left
        assert scene.evictions() == [(own, qwen), (llama, own), (qwen, llama), (llama, qwen), (own, llama)]


async def test_unload_behind_our_back_is_noticed_and_the_next_request_reloads(tmp_path: Path) -> None:
    """Within two seconds, in Ollama and in LM Studio."""
    async with stage(tmp_path) as scene:
        await scene.one("llama3.2:1b")
        await scene.one("qwen")
        scene.ollama.unload_behind("llama3.2:1b")
        await scene.gateway.until(lambda: "ollama/llama3.2:1b" not in scene.gateway.phases(), NOTICED_WITHIN_S)
        scene.studio.unload_behind("qwen")
        await scene.gateway.until(lambda: "studio/qwen" not in scene.gateway.phases(), NOTICED_WITHIN_S)
        assert sum((await devices(scene.gateway))["ram"].values()) == 0
        await scene.one("qwen")
        await scene.one("llama3.2:1b")
        assert scene.ollama.counts.loads == ["llama3.2:1b", "llama3.2:1b"]
        assert scene.gateway.happened("vanished") == ["ollama/llama3.2:1b", "studio/qwen"]


async def test_load_behind_our_back_counts_and_may_be_evicted(tmp_path: Path) -> None:
    """What somebody else loaded takes its room in the budget, and leaves when its turn comes."""
    async with stage(tmp_path) as scene:
        scene.ollama.load_behind("llama3.2:1b")
        await scene.gateway.until(lambda: scene.ready() == {"ollama/llama3.2:1b"}, NOTICED_WITHIN_S)
        assert (await devices(scene.gateway))["ram"]["committed_bytes"] == SIZE
        await scene.one("own")
        await scene.one("qwen")
        assert scene.ready() == {"ours/own", "studio/qwen"}
        assert scene.ollama.loaded == {}


async def test_model_in_use_in_another_server_is_not_unloaded_under_its_answer(tmp_path: Path) -> None:
    """Its stream ends first; the one that needs its room waits."""
    async with stage(tmp_path, budget="400MiB") as scene:
        await scene.one("llama3.2:1b")
        scene.ollama.answering.clear()
        streaming = asyncio.ensure_future(ask(scene.gateway.port, "POST", CHAT, chat("llama3.2:1b")))
        await scene.gateway.until(lambda: scene.gateway.leases() == 1)
        waiting = asyncio.ensure_future(ask(scene.gateway.port, "POST", CHAT, chat("qwen")))
        await scene.gateway.until(lambda: scene.gateway.phases() == {"ollama/llama3.2:1b": "draining"})
        assert "llama3.2:1b" in scene.ollama.loaded
        scene.ollama.answering.set()
        assert (await streaming).status == 200
        assert (await waiting).status == 200
        assert scene.ready() == {"studio/qwen"}


async def test_pinned_model_of_another_server_stays(tmp_path: Path) -> None:
    """Loaded at the start because the configuration pins it, never evicted, by whatever name it is asked for."""
    more = '[models.keeper]\ntargets = ["ollama/llama3.2:1b"]\npinned = true'
    async with stage(tmp_path, more=more) as scene:
        await scene.gateway.until(lambda: scene.ready() == {"ollama/llama3.2:1b"})
        await scene.one("own")
        await scene.one("qwen")
        await scene.one("keeper")
        assert scene.ready() == {"ollama/llama3.2:1b", "studio/qwen"}
        assert scene.ollama.counts.unloads == []


async def test_what_we_loaded_is_gone_when_the_gateway_ends(tmp_path: Path) -> None:
    """Nothing of ours is left in anybody's memory."""
    async with stage(tmp_path) as scene:
        await scene.one("llama3.2:1b")
        await scene.one("qwen")
        await scene.gateway.parts.residency.aclose(1.0)
        assert scene.ollama.loaded == {}
        assert scene.studio.loaded("qwen") == []


async def test_what_somebody_else_loaded_stays_when_the_gateway_ends(tmp_path: Path) -> None:
    """It was there before us."""
    async with stage(tmp_path) as scene:
        scene.ollama.load_behind("llama3.2:1b")
        await scene.gateway.until(lambda: scene.ready() == {"ollama/llama3.2:1b"}, NOTICED_WITHIN_S)
        await scene.one("llama3.2:1b")
        await scene.gateway.parts.residency.aclose(1.0)
        assert list(scene.ollama.loaded) == ["llama3.2:1b"]


@pytest.mark.parametrize("name", ["llama3.2:1b", "ollama/llama3.2:1b", "llama3.2", "ollama/llama3.2"])
async def test_every_way_to_name_it_is_one_resident(tmp_path: Path, name: str) -> None:
    """Bare, with its provider, without its tag."""
    async with stage(tmp_path) as scene:
        await scene.one(name)
        assert scene.ready() == {"ollama/llama3.2:1b"}
        request = next(r for r in scene.ollama.requests if r.path == "/v1/chat/completions")
        assert request.json()["model"] == "llama3.2:1b"


async def devices(gateway: Running) -> Mapping[str, Mapping[str, int]]:
    """`/admin/residency`'s word on each device."""
    told = (await ask(gateway.port, "GET", "/admin/residency")).json()["devices"]
    return {name: {"committed_bytes": said["committed_bytes"]} for name, said in told.items()}


async def test_what_a_killed_gateway_left_in_a_server_is_taken_out_by_the_next(tmp_path: Path) -> None:
    """It was loaded to stay for ever. What somebody else has loaded stays."""
    async with FakeOllama(FakeModel("ours:latest"), FakeModel("theirs:latest")) as ollama:
        toml = f'[server]\nport = 0\n[providers.ollama]\nkind = "ollama"\nbase_url = "{ollama.base_url}"\n'
        with served(tmp_path, toml) as killed:
            port = int(killed.url.rpartition(":")[2])
            assert (await ask(port, "POST", CHAT, chat("ours"))).status == 200
            state = tmp_path / "state" / "roundhouse" / "in_servers.json"
            await ollama.until(lambda: state.is_file() and "ours" in state.read_text())
            killed.process.kill()
            killed.process.wait()
        assert list(ollama.loaded) == ["ours:latest"]
        ollama.load_behind("theirs")
        with served(tmp_path, toml):
            await ollama.until(lambda: list(ollama.loaded) == ["theirs:latest"])
        assert list(ollama.loaded) == ["theirs:latest"]


async def test_embedding_models_are_loaded_and_asked(tmp_path: Path) -> None:
    """They refuse a chat in their server's own words; looking at them loads nothing."""
    async with FakeOllama(FakeModel("nomic:latest", capabilities=("embedding",))) as ollama:
        toml = f'[server]\nport = 0\n[providers.ollama]\nkind = "ollama"\nbase_url = "{ollama.base_url}"\n'
        async with running(tmp_path, toml) as gateway:
            told = (await ask(gateway.port, "GET", "/v1/models/nomic")).json()["roundhouse"]
            assert (told["capabilities"], told["state"]) == (["embedding"], "cold")
            assert ollama.counts.loads == []
            answer = await ask(gateway.port, "POST", "/v1/embeddings", {"model": "nomic", "input": "hi"})
            assert (answer.status, answer.json()["object"]) == (200, "list")
            assert ollama.counts.loads == ["nomic:latest"]
            assert gateway.phases() == {"ollama/nomic:latest": "ready"}


async def test_text_completions_pass(tmp_path: Path) -> None:
    """Plain and streamed, by the same way."""
    async with FakeUpstream() as upstream:
        toml = f'[providers.up]\nkind = "openai"\nbase_url = "{upstream.base_url}"\nmodels = ["m"]\n'
        async with running(tmp_path, toml) as gateway:
            for stream in (False, True):
                body = {
                    "model": "up/m",
                    "prompt": "hi",
                    "stream": stream,
                    "provider": {"order": ["x"]},
                    "models": ["y"],
                }
                answer = await ask(gateway.port, "POST", "/v1/completions", body)
                assert answer.status == 200
                seen = upstream.requests[-1]
                assert seen.path == "/v1/completions"
                ours = {"stream_options": {"include_usage": True}} if stream else {}
                assert seen.json() == body | {"model": "m"} | ours


async def test_operators_word_on_a_size_counts_where_the_server_is(tmp_path: Path) -> None:
    """On the device of the server's own memory, before anything was loaded there."""
    async with FakeOllama(FakeModel("big:latest", size_bytes=10 * MIB)) as ollama:
        toml = f"""
        [server]
        port = 0
        [providers.box]
        kind = "ollama"
        base_url = "{ollama.base_url}"
        memory = "1GiB"
        [models.big]
        targets = ["box/big"]
        memory = "2GiB"
        """
        async with running(tmp_path, toml) as gateway:
            answer = await ask(gateway.port, "POST", CHAT, chat("big"))
            assert (answer.status, answer.error["code"]) == (400, "larger_than_budget")
            assert "box" in answer.error["message"]
            assert ollama.counts.loads == []
