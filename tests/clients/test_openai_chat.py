"""openai-python: chat, completions, embeddings, models; chat also by translation, over Anthropic's API."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Generator

import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

from tests.clients.gateways import API_KEY, MODELS

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
BOTH = pytest.mark.parametrize("model", ["talker", "claude"])
# what passes unchanged has the upstream's own name in it, what is translated the one that was asked for
TOLD = {"talker": "mind-1", "claude": "claude"}
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII="
)


class Person(BaseModel):
    """What is asked for."""

    name: str
    age: int


@pytest.fixture(scope="module")
def client(v1: str) -> Generator[OpenAI]:
    """Without retries: what fails shall be seen."""
    with OpenAI(base_url=v1, api_key=API_KEY, max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
async def aclient(v1: str) -> AsyncGenerator[AsyncOpenAI]:
    """The same, asynchronous."""
    async with AsyncOpenAI(base_url=v1, api_key=API_KEY, max_retries=0) as client:
        yield client


def user(content: object) -> list:
    """One message."""
    return [{"role": "user", "content": content}]


@BOTH
def test_a_whole_answer(client: OpenAI, model: str) -> None:
    """Text, end, usage and a name."""
    done = client.chat.completions.create(model=model, messages=user("Grüße, 你好"), max_tokens=100)

    assert done.choices[0].message.content == "You said: Grüße, 你好"
    assert done.choices[0].finish_reason == "stop"
    assert done.model == TOLD[model]
    assert done.usage is not None
    assert done.usage.prompt_tokens in (7, 9)
    assert done.usage.total_tokens == done.usage.prompt_tokens + done.usage.completion_tokens
    assert done.usage.prompt_tokens_details is not None
    assert done.usage.prompt_tokens_details.cached_tokens == 2


@BOTH
def test_a_stream(client: OpenAI, model: str) -> None:
    """Piece by piece, with the usage that was asked for in the last chunk, and no usage where it was not."""
    chunks = list(
        client.chat.completions.create(
            model=model, messages=user("hello"), stream=True, stream_options={"include_usage": True}
        )
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "You said: hello"
    assert sum(bool(chunk.choices and chunk.choices[0].delta.content) for chunk in chunks) > 2
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert {chunk.model for chunk in chunks} == {TOLD[model]}

    plain = list(client.chat.completions.create(model=model, messages=user("hello"), stream=True))
    assert all(chunk.usage is None for chunk in plain)
    assert all(chunk.choices for chunk in plain)


@BOTH
async def test_asynchronous(aclient: AsyncOpenAI, model: str) -> None:
    """Whole, and streamed."""
    done = await aclient.chat.completions.create(model=model, messages=user("hello"))
    stream = await aclient.chat.completions.create(model=model, messages=user("hello"), stream=True)
    text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    assert done.choices[0].message.content == text == "You said: hello"


@BOTH
def test_the_limit_of_an_answer(client: OpenAI, model: str) -> None:
    """Told as length; a stop word as stop."""
    short = client.chat.completions.create(model=model, messages=user("hello"), max_completion_tokens=1)
    stopped = client.chat.completions.create(model=model, messages=user("hello"), stop=["said"])

    assert (short.choices[0].message.content, short.choices[0].finish_reason) == ("You s", "length")
    assert (stopped.choices[0].message.content, stopped.choices[0].finish_reason) == ("You ", "stop")


@BOTH
def test_tools_at_once_and_their_results(client: OpenAI, model: str) -> None:
    """Two calls in one answer, each answered, and told back."""
    messages = user("What is the weather in Paris and in New York?")
    asked = client.chat.completions.create(model=model, messages=messages, tools=[WEATHER])
    message = asked.choices[0].message

    assert asked.choices[0].finish_reason == "tool_calls"
    assert message.tool_calls is not None
    assert [json.loads(call.function.arguments) for call in message.tool_calls] == [
        {"city": "Paris"},
        {"city": "New York"},
    ]
    assert len({call.id for call in message.tool_calls}) == 2

    messages.append(message)
    for call, weather in zip(message.tool_calls, ("sun", "rain"), strict=True):
        messages.append({"role": "tool", "tool_call_id": call.id, "content": weather})
    told = client.chat.completions.create(model=model, messages=messages, tools=[WEATHER])
    assert told.choices[0].message.content == "The tools say: sun; rain"


@BOTH
def test_one_tool_at_a_time(client: OpenAI, model: str) -> None:
    """And one that must be called though nobody speaks of it."""
    said = user("the weather in Paris and in Rome")
    one = client.chat.completions.create(model=model, messages=said, tools=[WEATHER], parallel_tool_calls=False)
    must = client.chat.completions.create(
        model=model,
        messages=user("hello"),
        tools=[WEATHER],
        tool_choice={"type": "function", "function": {"name": "get_weather"}},
    )
    none = client.chat.completions.create(model=model, messages=said, tools=[WEATHER], tool_choice="none")

    assert len(one.choices[0].message.tool_calls or ()) == 1
    assert json.loads((must.choices[0].message.tool_calls or ())[0].function.arguments) == {"city": "hello"}
    assert none.choices[0].message.tool_calls is None


@BOTH
def test_the_streaming_helper_puts_calls_together(client: OpenAI, model: str) -> None:
    """`chat.completions.stream`: arguments in pieces, two calls, and the whole message at the end."""
    with client.chat.completions.stream(
        model=model, messages=user("the weather in Paris and in New York"), tools=[WEATHER]
    ) as stream:
        kinds = [event.type for event in stream]
        message = stream.get_final_completion().choices[0].message

    assert kinds.count("tool_calls.function.arguments.done") == 2
    assert kinds.count("tool_calls.function.arguments.delta") > 4
    assert message.tool_calls is not None
    assert [call.function.arguments for call in message.tool_calls] == ['{"city": "Paris"}', '{"city": "New York"}']


@BOTH
def test_the_streaming_helper_tells_text(client: OpenAI, model: str) -> None:
    """Its snapshots grow to the whole."""
    with client.chat.completions.stream(model=model, messages=user("hello")) as stream:
        deltas = [event for event in stream if event.type == "content.delta"]
        whole = stream.get_final_completion()

    assert "".join(event.delta for event in deltas) == deltas[-1].snapshot == "You said: hello"
    assert whole.choices[0].message.content == "You said: hello"


@BOTH
def test_parse_gives_an_object(client: OpenAI, model: str) -> None:
    """A pydantic model as the schema, plain and streamed."""
    said = user("'Ann' is 41")
    done = client.chat.completions.parse(model=model, messages=said, response_format=Person)
    with client.chat.completions.stream(model=model, messages=said, response_format=Person) as stream:
        streamed = stream.get_final_completion()

    assert done.choices[0].message.parsed == streamed.choices[0].message.parsed == Person(name="Ann", age=41)


async def test_asynchronous_parse(aclient: AsyncOpenAI) -> None:
    """As the other."""
    done = await aclient.chat.completions.parse(model="talker", messages=user("'Ann' is 41"), response_format=Person)

    assert done.choices[0].message.parsed == Person(name="Ann", age=41)


@BOTH
def test_pictures(client: OpenAI, model: str) -> None:
    """Beside text, as data."""
    parts = [{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {"url": PIXEL}}]
    done = client.chat.completions.create(model=model, messages=user(parts))

    assert done.choices[0].message.content == "You said: look (1 pictures)"


def test_logprobs_and_several_answers(client: OpenAI) -> None:
    """As the upstream gives them, plain and streamed."""
    done = client.chat.completions.create(model="talker", messages=user("hello"), logprobs=True, n=2)
    chunks = client.chat.completions.create(model="talker", messages=user("hello"), logprobs=True, stream=True)
    tokens = [
        each.token for chunk in chunks if chunk.choices[0].logprobs for each in chunk.choices[0].logprobs.content or ()
    ]

    assert [choice.index for choice in done.choices] == [0, 1]
    assert done.choices[0].logprobs is not None
    assert "".join(each.token for each in done.choices[0].logprobs.content or ()) == "You said: hello"
    assert "".join(tokens) == "You said: hello"


def test_thoughts(client: OpenAI) -> None:
    """In the field that llama.cpp, vLLM and DeepSeek have for them."""
    done = client.chat.completions.create(model="thinker", messages=user("hello"))
    chunks = client.chat.completions.create(model="thinker", messages=user("hello"), stream=True)
    thoughts = "".join(getattr(chunk.choices[0].delta, "reasoning_content", None) or "" for chunk in chunks)

    assert done.choices[0].message.reasoning_content == thoughts == "They say 'hello'."
    assert done.usage is not None
    assert done.usage.completion_tokens_details is not None
    assert done.usage.completion_tokens_details.reasoning_tokens == 4


def test_completions(client: OpenAI) -> None:
    """The old ones, plain and streamed."""
    done = client.completions.create(model="writer", prompt="Once")
    chunks = list(client.completions.create(model="writer", prompt="Once", stream=True))

    assert done.choices[0].text == "".join(chunk.choices[0].text for chunk in chunks) == "You said: Once"
    assert chunks[-1].choices[0].finish_reason == "stop"


@pytest.mark.parametrize("given", ["one", ["one", "two"], [[1, 2], [3]]])
def test_embeddings(client: OpenAI, given: object) -> None:
    """The client asks for base64 by itself; both ways give the same numbers."""
    packed = client.embeddings.create(model="vectors", input=given)
    plain = client.embeddings.create(model="vectors", input=given, encoding_format="float")

    assert [each.embedding for each in packed.data] == [each.embedding for each in plain.data]
    assert len(packed.data) == (1 if given == "one" else 2)
    assert len(packed.data[0].embedding) == 8
    assert packed.usage.total_tokens == len(packed.data)


async def test_shorter_embeddings(aclient: AsyncOpenAI) -> None:
    """`dimensions`, asynchronous."""
    done = await aclient.embeddings.create(model="vectors", input="one", dimensions=3)

    assert len(done.data[0].embedding) == 3


def test_the_models(client: OpenAI) -> None:
    """Listed, and each to be had alone; the upstream's own name with its slash, too."""
    names = {model.id for model in client.models.list()}

    assert set(MODELS) <= names
    assert client.models.retrieve("talker").id == "talker"
    assert client.models.retrieve("api/mind-1").object == "model"
