"""ollama-python: Ollama's own API over upstreams that have never heard of it."""

from __future__ import annotations

import json

import ollama
import pytest
from ollama import AsyncClient, Client
from pydantic import BaseModel

from tests.clients.gateways import API_KEY, MODELS

BOTH = pytest.mark.parametrize("model", ["talker", "claude"])
SAID = [{"role": "user", "content": "hello"}]
KEY = {"Authorization": f"Bearer {API_KEY}"}


class Person(BaseModel):
    """What is asked for."""

    name: str
    age: int


def get_weather(city: str) -> str:
    """The weather of a city.

    Args:
        city: which one.
    """
    return f"sun in {city}"


@pytest.fixture(scope="module")
def client(gateway: str) -> Client:
    """With the key in a header, as its users do."""
    return Client(host=gateway, headers=KEY)


@BOTH
def test_chat(client: Client, model: str) -> None:
    """Whole, and streamed."""
    done = client.chat(model=model, messages=SAID, options={"num_ctx": 2048, "temperature": 0})
    pieces = list(client.chat(model=model, messages=SAID, stream=True))

    assert done.message.content == "You said: hello"
    assert (done.done, done.done_reason, done.model) == (True, "stop", model)
    assert done.eval_count == 3
    assert "".join(piece.message.content or "" for piece in pieces) == "You said: hello"
    assert [piece.done for piece in pieces].index(True) == len(pieces) - 1
    assert pieces[-1].eval_count == 3


@BOTH
def test_generate(client: Client, model: str) -> None:
    """The older route, with a limit."""
    done = client.generate(model=model, prompt="hello", options={"num_predict": 1})
    pieces = list(client.generate(model=model, prompt="hello", stream=True))

    assert (done.response, done.done_reason) == ("You s", "length")
    assert "".join(piece.response for piece in pieces) == "You said: hello"


@BOTH
@pytest.mark.parametrize("streamed", [False, True])
def test_tools_and_their_results(client: Client, model: str, streamed: bool) -> None:
    """A Python function as a tool, called for two places."""
    messages: list = [{"role": "user", "content": "the weather in Paris and in New York"}]
    if streamed:
        calls = [
            call
            for piece in client.chat(model=model, messages=messages, tools=[get_weather], stream=True)
            for call in piece.message.tool_calls or ()
        ]
        messages.append({"role": "assistant", "content": "", "tool_calls": calls})
    else:
        message = client.chat(model=model, messages=messages, tools=[get_weather]).message
        calls = list(message.tool_calls or ())
        messages.append(message)

    assert [call.function.arguments for call in calls] == [{"city": "Paris"}, {"city": "New York"}]
    for call in calls:
        said = get_weather(**call.function.arguments)
        messages.append({"role": "tool", "tool_name": call.function.name, "content": said})
    told = client.chat(model=model, messages=messages, tools=[get_weather])
    assert told.message.content == "The tools say: sun in Paris; sun in New York"


@BOTH
def test_a_schema(client: Client, model: str) -> None:
    """As `format`."""
    done = client.chat(
        model=model, messages=[{"role": "user", "content": "'Ann' is 41"}], format=Person.model_json_schema()
    )

    assert Person.model_validate_json(done.message.content or "") == Person(name="Ann", age=41)


def test_any_json(client: Client) -> None:
    """`format` json."""
    done = client.generate(model="talker", prompt="the 'name' and the 'age'", format="json")

    assert json.loads(done.response) == {"name": "a name", "age": "a age"}


@BOTH
def test_pictures(client: Client, model: str) -> None:
    """Bare base64, without a type."""
    picture = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII="
    done = client.chat(model=model, messages=[{"role": "user", "content": "look", "images": [picture]}])

    assert done.message.content == "You said: look (1 pictures)"


def test_thoughts(client: Client) -> None:
    """In their own field."""
    done = client.chat(model="thinker", messages=SAID, think=True)
    pieces = list(client.chat(model="thinker", messages=SAID, think=True, stream=True))

    assert done.message.thinking == "They say 'hello'."
    assert "".join(piece.message.thinking or "" for piece in pieces) == "They say 'hello'."


def test_embeddings(client: Client) -> None:
    """The present route and the former one."""
    many = client.embed(model="vectors", input=["one", "two"])
    one = client.embeddings(model="vectors", prompt="one")

    assert len(many.embeddings) == 2
    assert list(one.embedding) == pytest.approx(list(many.embeddings[0]))


def test_what_there_is(client: Client) -> None:
    """Lists, details, and what is in memory: of other people's machines nothing is."""
    names = {model.model for model in client.list().models}
    shown = client.show("talker")

    assert set(MODELS) <= names
    assert "completion" in (shown.capabilities or ())
    assert client.ps().models == []


async def test_asynchronous(gateway: str) -> None:
    """Whole, and streamed."""
    client = AsyncClient(host=gateway, headers=KEY)
    done = await client.chat(model="talker", messages=SAID)
    text = "".join(
        [piece.message.content or "" async for piece in await client.chat(model="talker", messages=SAID, stream=True)]
    )

    assert done.message.content == text == "You said: hello"


def test_refusals(client: Client, gateway: str) -> None:
    """With a message that the client shows."""
    with pytest.raises(ollama.ResponseError, match="nobody") as caught:
        client.chat(model="nobody", messages=SAID)
    assert caught.value.status_code == 404
    with pytest.raises(ollama.ResponseError) as caught:
        list(client.chat(model="nobody", messages=SAID, stream=True))
    assert caught.value.status_code == 404
    with pytest.raises(ollama.ResponseError, match="roundhouse pull"):
        client.pull("nobody")
    with pytest.raises(ollama.ResponseError) as caught:
        Client(host=gateway).chat(model="talker", messages=SAID)
    assert caught.value.status_code == 401
