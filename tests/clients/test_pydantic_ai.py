"""Pydantic AI's agents over all three of its models: chat, Responses, Anthropic; each natively where there is a native one, and
translated."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from anthropic import AsyncAnthropic
from pydantic import BaseModel
from pydantic_ai import Agent, BinaryContent, NativeOutput
from pydantic_ai.models import Model
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.profiles import ModelProfile
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider

from tests.clients.gateways import API_KEY


class Person(BaseModel):
    """What is asked for."""

    name: str
    age: int


@pytest.fixture(
    params=[
        "chat-talker",
        "chat-claude",
        "responses-talker",
        "responses-claude",
        "anthropic-claude",
        "anthropic-talker",
    ]
)
def model(request: pytest.FixtureRequest, gateway: str) -> Model:
    """API and model."""
    api, _, name = request.param.partition("-")
    if api == "anthropic":
        client = AsyncAnthropic(base_url=gateway, api_key=API_KEY)
        # by their names it would not know that these models have schemas
        able = ModelProfile(supports_json_schema_output=True)
        return AnthropicModel(name, provider=AnthropicProvider(anthropic_client=client), profile=able)
    provider = OpenAIProvider(base_url=f"{gateway}/v1", api_key=API_KEY)
    return OpenAIChatModel(name, provider=provider) if api == "chat" else OpenAIResponsesModel(name, provider=provider)


async def test_text(model: Model) -> None:
    """With what it cost."""
    done = await Agent(model, instructions="Be kind").run("hello")

    assert done.output == "You said: hello"
    assert done.usage.output_tokens > 0
    assert done.usage.cache_read_tokens == 2


async def test_streamed_text(model: Model) -> None:
    """Piece by piece."""
    async with Agent(model).run_stream("hello") as stream:
        pieces = [piece async for piece in stream.stream_text(delta=True, debounce_by=None)]

    assert "".join(pieces) == "You said: hello"
    assert len(pieces) > 2


async def test_a_conversation(model: Model) -> None:
    """What was said before goes along."""
    agent = Agent(model)
    first = await agent.run("hello")
    second = await agent.run("again", message_history=first.all_messages())

    assert second.output == "You said: again"
    assert len(second.all_messages()) == 4


@pytest.mark.parametrize("streamed", [False, True])
async def test_tools(model: Model, streamed: bool) -> None:
    """Called for two places at once; their results are told back."""
    agent = Agent(model)
    asked: list[str] = []

    @agent.tool_plain
    def get_weather(city: str) -> str:
        """The weather of a city."""
        asked.append(city)
        return f"sun in {city}"

    if streamed:
        async with agent.run_stream("the weather in Paris and in New York") as stream:
            output = await stream.get_output()
    else:
        output = (await agent.run("the weather in Paris and in New York")).output

    assert sorted(asked) == ["New York", "Paris"]
    assert output == "The tools say: sun in Paris; sun in New York"


@pytest.mark.parametrize("how", [lambda kind: kind, NativeOutput], ids=["tool", "native"])
async def test_an_object(model: Model, how: Callable[[type[Person]], object]) -> None:
    """By a tool that must be called, and by the API's own schemas."""
    done = await Agent(model, output_type=how(Person)).run("'Ann' is 41")

    assert done.output == Person(name="Ann", age=41)


async def test_an_object_after_tools(model: Model) -> None:
    """First the tool, then the object, streamed."""
    agent = Agent(model, output_type=Person)

    @agent.tool_plain
    def find_age(name: str) -> int:
        """The age of somebody."""
        return 41

    async with agent.run_stream("find the age of 'Ann'") as stream:
        output = await stream.get_output()

    assert output == Person(name="Ann", age=41)


async def test_pictures(model: Model) -> None:
    """As bytes."""
    done = await Agent(model).run(["look", BinaryContent(data=b"\x89PNG\r\n\x1a\n", media_type="image/png")])

    assert done.output == "You said: look (1 pictures)"
