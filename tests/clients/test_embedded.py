"""The clients over a real model: the embedded engine with SmolLM2. Only that sensible words come is held; it is a small one."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path

import anthropic
import ollama
import openai
import pytest
from langchain_openai import ChatOpenAI
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from tests.clients import gateways
from tests.clients.gateways import API_KEY

pytestmark = pytest.mark.engine
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
QUESTION = "What is the capital of France? Answer in one short sentence."
SAID = [{"role": "user", "content": QUESTION}]


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    """A gateway's address over it."""
    named = os.environ.get("ROUNDHOUSE_TEST_GGUF")
    source = Path(named) if named else Path.home() / ".local/share/roundhouse/models" / FILE
    if not source.is_file():
        pytest.skip("no default model: `roundhouse pull` fetches it, or set ROUNDHOUSE_TEST_GGUF")
    folder = tmp_path_factory.mktemp("real")
    keys = f'[server]\nport = 0\napi_keys = ["{API_KEY}"]\n'
    with gateways.served(folder, f'{keys}[models.smol]\nsource = "{source}"\ncontext = 2048\n') as address:
        yield address


def test_openai(real: str) -> None:
    """Chat and Responses, whole and streamed."""
    with openai.OpenAI(base_url=f"{real}/v1", api_key=API_KEY, max_retries=0) as client:
        whole = client.chat.completions.create(model="smol", messages=SAID, temperature=0, max_tokens=40)
        chunks = client.chat.completions.create(model="smol", messages=SAID, temperature=0, max_tokens=40, stream=True)
        streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        response = client.responses.create(model="smol", input=QUESTION, temperature=0, max_output_tokens=40)
        with client.responses.stream(model="smol", input=QUESTION, temperature=0, max_output_tokens=40) as stream:
            response_streamed = stream.get_final_response()

    for text in (whole.choices[0].message.content, streamed, response.output_text, response_streamed.output_text):
        assert "Paris" in (text or "")
    assert whole.usage is not None
    assert whole.usage.completion_tokens > 3
    assert response_streamed.usage is not None


def test_anthropic(real: str) -> None:
    """Messages, whole and streamed."""
    with anthropic.Anthropic(base_url=real, api_key=API_KEY, max_retries=0) as client:
        # the client has no word for it any more, the route has
        cool = {"temperature": 0}
        whole = client.messages.create(model="smol", messages=SAID, max_tokens=40, extra_body=cool)
        with client.messages.stream(model="smol", messages=SAID, max_tokens=40, extra_body=cool) as stream:
            streamed = stream.get_final_text()

    assert "Paris" in whole.content[0].text
    assert "Paris" in streamed
    assert whole.usage.input_tokens + (whole.usage.cache_read_input_tokens or 0) > 5


def test_ollama(real: str) -> None:
    """Chat and generate; the model is listed, shown, and in memory."""
    client = ollama.Client(host=real, headers={"Authorization": f"Bearer {API_KEY}"})
    options = {"temperature": 0, "num_predict": 40}
    chat = client.chat(model="smol", messages=SAID, options=options)
    generated = "".join(piece.response for piece in client.generate("smol", QUESTION, options=options, stream=True))

    assert "Paris" in (chat.message.content or "")
    assert "Paris" in generated
    assert "smol" in [model.model for model in client.list().models]
    assert client.show("smol").details is not None
    assert [model.model for model in client.ps().models] == ["smol"]
    assert (client.ps().models[0].size or 0) > 50_000_000


def test_langchain(real: str) -> None:
    """Whole and streamed."""
    model = ChatOpenAI(base_url=f"{real}/v1", api_key=API_KEY, model="smol", temperature=0, max_completion_tokens=40)

    assert "Paris" in model.invoke(QUESTION).text
    assert "Paris" in "".join(chunk.text for chunk in model.stream(QUESTION))


async def test_pydantic_ai(real: str) -> None:
    """An agent without tools."""
    model = OpenAIChatModel("smol", provider=OpenAIProvider(base_url=f"{real}/v1", api_key=API_KEY))

    assert "Paris" in (await Agent(model, model_settings={"temperature": 0, "max_tokens": 40}).run(QUESTION)).output
