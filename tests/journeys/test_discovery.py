"""Without a configuration: what is on this machine is found, listed and served; what is not there is no trouble."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.cli.gateways import environment
from tests.fakes.lmstudio import FakeLmStudio
from tests.fakes.ollama import FakeModel, FakeOllama
from tests.fakes.processes import ROOT
from tests.fakes.running import CHAT, ask, chat

OLLAMA_PORT = 11434
STARTED_S = 20.0


@asynccontextmanager
async def served(folder: Path, **environ: str) -> AsyncGenerator[tuple[int, list[str]]]:
    """`roundhouse serve` in an empty folder, as a process; its port, and the two lines it printed."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", "serve", "--port", "0"),
        cwd=folder,
        env=environment(folder, PYTHONPATH=str(ROOT), **environ),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(STARTED_S):
            lines = [(await process.stdout.readline()).decode().rstrip("\n") for _ in range(2)]
        yield int(lines[0].partition("http://127.0.0.1:")[2].partition("/")[0]), lines
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


def free(port: int) -> bool:
    """Whether nobody listens there on loopback."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


async def models(port: int) -> Mapping[str, Mapping[str, Any]]:
    """Id → what is said of it."""
    listed = (await ask(port, "GET", "/v1/models")).json()["data"]
    return {model["id"]: model["roundhouse"] for model in listed}


async def once_known(port: int, model: str) -> None:
    """Ask for it until it is known; then the answer must be a good one."""
    answer = await ask(port, "POST", CHAT, chat(model))
    async with asyncio.timeout(STARTED_S):
        while answer.status == 404:
            answer = await ask(port, "POST", CHAT, chat(model))
    assert answer.status == 200


async def test_ollama_at_its_usual_port_is_listed_and_served(tmp_path: Path) -> None:
    """Nobody told us of it. Where a real one has the port, the fake takes another and OLLAMA_HOST says so."""
    port = OLLAMA_PORT if free(OLLAMA_PORT) else 0
    async with FakeOllama(FakeModel("llama3.2:1b", context_length=4096), FakeModel("qwen:latest"), port=port) as ollama:
        told = {} if port else {"OLLAMA_HOST": f"127.0.0.1:{ollama.port}"}
        async with served(tmp_path, **told) as (gateway, lines):
            assert "2 models" in lines[0]
            listed = await models(gateway)
            assert set(listed) == {"ollama/llama3.2:1b", "ollama/qwen:latest"}
            assert listed["ollama/llama3.2:1b"]["context_length"] == 4096
            assert listed["ollama/llama3.2:1b"]["state"] == "cold"
            assert ollama.counts.loads == []
            answer = await ask(gateway, "POST", CHAT, chat("qwen"))
            assert answer.status == 200
            assert ollama.counts.loads == ["qwen:latest"]
            streamed = await ask(gateway, "POST", CHAT, chat("llama3.2:1b", stream=True))
            assert streamed.events()[-1] == "[DONE]"
        assert ollama.loaded == {}


async def test_server_that_comes_later_is_found_by_the_request_for_it(tmp_path: Path) -> None:
    """It is looked for again; a request for a name nobody knows does not wait for that."""
    async with FakeOllama(FakeModel("llama3.2:1b")) as ollama:
        port = ollama.port
    async with served(tmp_path, OLLAMA_HOST=f"127.0.0.1:{port}") as (gateway, lines):
        assert "0 models" in lines[0]
        assert (await ask(gateway, "POST", CHAT, chat("llama3.2:1b"))).status == 404
        assert (await ask(gateway, "GET", "/admin/providers")).json() == {"providers": []}
        async with FakeOllama(FakeModel("llama3.2:1b"), port=port) as ollama:
            await once_known(gateway, "llama3.2:1b")
            assert ollama.counts.loads == ["llama3.2:1b"]
            assert "ollama/llama3.2:1b" in await models(gateway)


async def test_model_pulled_a_moment_ago_is_there(tmp_path: Path) -> None:
    """The request that names it has the list asked anew."""
    async with (
        FakeOllama(FakeModel("old:latest")) as ollama,
        served(tmp_path, OLLAMA_HOST=f"127.0.0.1:{ollama.port}") as (gateway, _),
    ):
        assert set(await models(gateway)) == {"ollama/old:latest"}
        ollama.models["new:latest"] = FakeModel("new:latest")
        await once_known(gateway, "new")


async def test_lm_studio_is_found_by_its_variable(tmp_path: Path) -> None:
    """LM_STUDIO_BASE_URL, with or without /v1."""
    async with FakeLmStudio() as studio:
        studio.add("qwen3-4b")
        async with served(tmp_path, LM_STUDIO_BASE_URL=f"{studio.base_url}/v1") as (gateway, _):
            assert set(await models(gateway)) == {"lmstudio/qwen3-4b"}
            assert (await ask(gateway, "POST", CHAT, chat("qwen3-4b"))).status == 200


async def test_keys_in_the_environment_are_kept_to_their_owner(tmp_path: Path) -> None:
    """A key found there is not shown anywhere, and an upstream that cannot be reached does not delay the start for long."""
    async with served(tmp_path, OPENROUTER_API_KEY="sk-or-s3cret", HTTPS_PROXY="http://127.0.0.1:9") as (
        gateway,
        lines,
    ):
        told = (await ask(gateway, "GET", "/admin/providers")).body + (await ask(gateway, "GET", "/metrics")).body
        assert b"s3cret" not in told
        assert "s3cret" not in json.dumps(lines)
