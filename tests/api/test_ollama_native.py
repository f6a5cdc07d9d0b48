"""Ollama's own routes at an Ollama: the caller's bytes go on, but how long a model stays is residency's to decide."""

from __future__ import annotations

from pathlib import Path

from tests.fakes.ollama import FakeModel, FakeOllama
from tests.fakes.running import ask, running


async def test_a_caller_cannot_send_a_model_away(tmp_path: Path) -> None:
    """`keep_alive` is said to the upstream in our words, whatever the caller says; the rest is the caller's."""
    async with FakeOllama(FakeModel("m:latest", size_bytes=1 << 20)) as ollama:
        toml = f'[providers.ollama]\nkind = "ollama"\nbase_url = "{ollama.base_url}"\n'
        async with running(tmp_path, toml) as gateway:
            body = {"model": "m", "prompt": "hi", "keep_alive": 0, "stream": False, "options": {"seed": 1}}
            answer = await ask(gateway.port, "POST", "/api/generate", body)
            assert answer.status == 200, answer.body
            said = ollama.requests[-1].json()
            assert (said["keep_alive"], said["options"], said["model"]) == (-1, {"seed": 1}, "m:latest")
            assert gateway.phases() == {"ollama/m:latest": "ready"}
            nothing = await ask(gateway.port, "POST", "/api/generate", {"model": "m", "keep_alive": 0})
            assert (nothing.json()["done_reason"], gateway.phases()) == ("unload", {"ollama/m:latest": "ready"})
