"""openai-python: the Responses API, over upstreams that do not have it: translated into chat, and into Anthropic's messages."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Generator

import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

from tests.clients.gateways import API_KEY

BOTH = pytest.mark.parametrize("model", ["talker", "claude"])
WEATHER = {
    "type": "function",
    "name": "get_weather",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}


class Person(BaseModel):
    """What is asked for."""

    name: str
    age: int


@pytest.fixture(scope="module")
def client(v1: str) -> Generator[OpenAI]:
    """Without retries."""
    with OpenAI(base_url=v1, api_key=API_KEY, max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
async def aclient(v1: str) -> AsyncGenerator[AsyncOpenAI]:
    """The same, asynchronous."""
    async with AsyncOpenAI(base_url=v1, api_key=API_KEY, max_retries=0) as client:
        yield client


@BOTH
def test_a_whole_response(client: OpenAI, model: str) -> None:
    """Text, status, usage, and the name that was asked for."""
    done = client.responses.create(model=model, input="hello", instructions="Be kind", max_output_tokens=100)

    assert done.output_text == "You said: hello"
    assert (done.status, done.model, done.object) == ("completed", model, "response")
    assert done.usage is not None
    assert done.usage.total_tokens == done.usage.input_tokens + done.usage.output_tokens
    assert done.usage.input_tokens_details.cached_tokens == 2


@BOTH
def test_one_that_is_cut_short(client: OpenAI, model: str) -> None:
    """Told as incomplete, with its reason."""
    done = client.responses.create(model=model, input="hello", max_output_tokens=1)

    assert done.status == "incomplete"
    assert done.incomplete_details is not None
    assert done.incomplete_details.reason == "max_output_tokens"


@BOTH
def test_events(client: OpenAI, model: str) -> None:
    """In their order, numbered without a gap."""
    events = list(client.responses.create(model=model, input="hello", stream=True))
    kinds = [event.type for event in events]

    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert kinds[-1] == "response.completed"
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == "You said: hello"


@BOTH
def test_the_streaming_helper(client: OpenAI, model: str) -> None:
    """It puts the response together from the events."""
    with client.responses.stream(model=model, input="hello") as stream:
        for _ in stream:
            pass
        done = stream.get_final_response()

    assert done.output_text == "You said: hello"
    assert done.usage is not None


@BOTH
def test_parse_gives_an_object(client: OpenAI, model: str) -> None:
    """A pydantic model as the format, plain and streamed."""
    done = client.responses.parse(model=model, input="'Ann' is 41", text_format=Person)
    with client.responses.stream(model=model, input="'Ann' is 41", text_format=Person) as stream:
        streamed = stream.get_final_response()

    assert done.output_parsed == streamed.output_parsed == Person(name="Ann", age=41)


@BOTH
def test_tools_and_their_results(client: OpenAI, model: str) -> None:
    """Two calls, their outputs in the next input, and the answer."""
    said = {"role": "user", "content": "the weather in Paris and in New York"}
    asked = client.responses.create(model=model, input=[said], tools=[WEATHER])
    calls = [item for item in asked.output if item.type == "function_call"]

    assert [json.loads(call.arguments) for call in calls] == [{"city": "Paris"}, {"city": "New York"}]
    outputs = [
        {"type": "function_call_output", "call_id": call.call_id, "output": weather}
        for call, weather in zip(calls, ("sun", "rain"), strict=True)
    ]
    told = client.responses.create(model=model, input=[said, *asked.output, *outputs], tools=[WEATHER])
    assert told.output_text == "The tools say: sun; rain"


@BOTH
def test_streamed_calls(client: OpenAI, model: str) -> None:
    """Their arguments in pieces, and whole."""
    with client.responses.stream(model=model, input="the weather in Paris and in New York", tools=[WEATHER]) as stream:
        events = list(stream)
    whole = [event.arguments for event in events if event.type == "response.function_call_arguments.done"]
    pieces = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]

    assert whole == ['{"city": "Paris"}', '{"city": "New York"}']
    assert len(pieces) > 4
    assert "".join(pieces) == "".join(whole)


def test_thoughts(client: OpenAI) -> None:
    """An upstream's reasoning stands in an item of its own."""
    done = client.responses.create(model="thinker", input="hello")

    assert [item.type for item in done.output] == ["reasoning", "message"]
    assert done.output_text == "You said: hello"


def test_what_has_been_said_before(client: OpenAI) -> None:
    """The whole conversation as input, pictures too."""
    pixel = "data:image/png;base64,iVBORw0KGgo="
    parts = [{"type": "input_text", "text": "look"}, {"type": "input_image", "image_url": pixel, "detail": "auto"}]
    first = client.responses.create(model="talker", input="hello")
    items = [{"role": "user", "content": "hello"}, *first.output, {"role": "user", "content": parts}]
    done = client.responses.create(model="talker", input=items)

    assert done.output_text == "You said: look (1 pictures)"


@BOTH
async def test_asynchronous(aclient: AsyncOpenAI, model: str) -> None:
    """Whole, and by the helper."""
    done = await aclient.responses.create(model=model, input="hello")
    async with aclient.responses.stream(model=model, input="hello") as stream:
        streamed = await stream.get_final_response()

    assert done.output_text == streamed.output_text == "You said: hello"
