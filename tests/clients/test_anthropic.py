"""anthropic-sdk-python: Messages over Anthropic's own API, and by translation over an upstream that knows chat only."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator

import anthropic
import pytest
from anthropic import Anthropic, AsyncAnthropic
from pydantic import BaseModel

from tests.clients.gateways import API_KEY

BOTH = pytest.mark.parametrize("model", ["claude", "talker"])
WEATHER = {
    "name": "get_weather",
    "description": "The weather of a city",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
PIXEL = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}}


class Person(BaseModel):
    """What is asked for."""

    name: str
    age: int


@pytest.fixture(scope="module")
def client(gateway: str) -> Generator[Anthropic]:
    """Without retries."""
    with Anthropic(base_url=gateway, api_key=API_KEY, max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
async def aclient(gateway: str) -> AsyncGenerator[AsyncAnthropic]:
    """The same, asynchronous."""
    async with AsyncAnthropic(base_url=gateway, api_key=API_KEY, max_retries=0) as client:
        yield client


def user(content: object) -> list:
    """One message."""
    return [{"role": "user", "content": content}]


@BOTH
def test_a_whole_message(client: Anthropic, model: str) -> None:
    """Text, end and usage; the system's words as a list of blocks."""
    system = [{"type": "text", "text": "Be kind", "cache_control": {"type": "ephemeral"}}]
    done = client.messages.create(model=model, max_tokens=100, messages=user("Grüße, 你好"), system=system)

    assert [block.type for block in done.content] == ["text"]
    assert done.content[0].text == "You said: Grüße, 你好"
    assert (done.stop_reason, done.type, done.role) == ("end_turn", "message", "assistant")
    assert done.usage.output_tokens > 0
    assert done.usage.cache_read_input_tokens == 2


@BOTH
def test_a_stream(client: Anthropic, model: str) -> None:
    """The helper puts it together."""
    with client.messages.stream(model=model, max_tokens=100, messages=user("hello")) as stream:
        texts = list(stream.text_stream)
        done = stream.get_final_message()

    assert "".join(texts) == done.content[0].text == "You said: hello"
    assert len(texts) > 2
    assert done.stop_reason == "end_turn"
    assert done.usage.output_tokens == 3


@BOTH
def test_raw_events(client: Anthropic, model: str) -> None:
    """In the order that is documented."""
    kinds = [
        event.type for event in client.messages.create(model=model, max_tokens=9, messages=user("hi"), stream=True)
    ]
    without_pings = [kind for kind in kinds if kind != "ping"]

    assert without_pings[:2] == ["message_start", "content_block_start"]
    assert without_pings[-3:] == ["content_block_stop", "message_delta", "message_stop"]


@BOTH
def test_the_limit_of_an_answer(client: Anthropic, model: str) -> None:
    """Told as max_tokens."""
    done = client.messages.create(model=model, max_tokens=1, messages=user("hello"))

    assert (done.content[0].text, done.stop_reason) == ("You s", "max_tokens")


@BOTH
@pytest.mark.parametrize("streamed", [False, True])
def test_tools_and_their_results(client: Anthropic, model: str, streamed: bool) -> None:
    """Two at once, answered in one turn, and told back."""
    messages = user("the weather in Paris and in New York")
    asking = {"model": model, "max_tokens": 100, "messages": messages, "tools": [WEATHER]}
    if streamed:
        with client.messages.stream(**asking) as stream:
            done = stream.get_final_message()
    else:
        done = client.messages.create(**asking)
    calls = [block for block in done.content if block.type == "tool_use"]

    assert done.stop_reason == "tool_use"
    assert [call.input for call in calls] == [{"city": "Paris"}, {"city": "New York"}]
    messages += [{"role": "assistant", "content": done.content}]
    messages += user(
        [
            {"type": "tool_result", "tool_use_id": calls[0].id, "content": "sun"},
            {"type": "tool_result", "tool_use_id": calls[1].id, "content": [{"type": "text", "text": "rain"}]},
        ]
    )
    told = client.messages.create(**asking)
    assert told.content[0].text == "The tools say: sun; rain"


@BOTH
def test_choices_of_tools(client: Anthropic, model: str) -> None:
    """Any, that one, one at a time, none."""
    asking = {"model": model, "max_tokens": 100, "tools": [WEATHER]}
    places = user("the weather in Paris and in Rome")
    must = client.messages.create(**asking, messages=user("hello"), tool_choice={"type": "any"})
    that = client.messages.create(**asking, messages=user("hello"), tool_choice={"type": "tool", "name": "get_weather"})
    one = client.messages.create(
        **asking, messages=places, tool_choice={"type": "auto", "disable_parallel_tool_use": True}
    )
    none = client.messages.create(**asking, messages=places, tool_choice={"type": "none"})

    assert [block.type for block in must.content] == [block.type for block in that.content] == ["tool_use"]
    assert len(one.content) == 1
    assert [block.type for block in none.content] == ["text"]


@BOTH
def test_parse_gives_an_object(client: Anthropic, model: str) -> None:
    """A pydantic model as the output's format."""
    done = client.messages.parse(model=model, max_tokens=100, messages=user("'Ann' is 41"), output_format=Person)

    assert done.parsed_output == Person(name="Ann", age=41)


@BOTH
def test_pictures(client: Anthropic, model: str) -> None:
    """Beside text."""
    done = client.messages.create(model=model, max_tokens=100, messages=user([{"type": "text", "text": "look"}, PIXEL]))

    assert done.content[0].text == "You said: look (1 pictures)"


@BOTH
def test_stop_sequences(client: Anthropic, model: str) -> None:
    """Taken by either."""
    done = client.messages.create(model=model, max_tokens=100, messages=user("hello"), stop_sequences=["said"])

    assert done.content[0].text == "You "


@pytest.mark.parametrize(
    ("model", "thinking"), [("claude", {"type": "enabled", "budget_tokens": 1024}), ("thinker", None)]
)
def test_thoughts(client: Anthropic, model: str, thinking: object) -> None:
    """A block before the text, whole and streamed, and taken back in the next turn."""
    more = {} if thinking is None else {"thinking": thinking}
    messages = user("hello")
    done = client.messages.create(model=model, max_tokens=2048, messages=messages, **more)
    with client.messages.stream(model=model, max_tokens=2048, messages=messages, **more) as stream:
        streamed = stream.get_final_message()

    for each in (done, streamed):
        assert [block.type for block in each.content] == ["thinking", "text"]
        assert each.content[0].thinking == "They say 'hello'."
    messages += [{"role": "assistant", "content": done.content}, *user("again")]
    assert (
        client.messages.create(model=model, max_tokens=2048, messages=messages, **more).content[-1].text
        == "You said: again"
    )


@BOTH
async def test_asynchronous(aclient: AsyncAnthropic, model: str) -> None:
    """Whole, and by the helper."""
    done = await aclient.messages.create(model=model, max_tokens=100, messages=user("hello"))
    async with aclient.messages.stream(model=model, max_tokens=100, messages=user("hello")) as stream:
        streamed = await stream.get_final_message()

    assert done.content[0].text == streamed.content[0].text == "You said: hello"


def test_tokens_are_counted_where_they_can_be(client: Anthropic) -> None:
    """By Anthropic; elsewhere a clear error: where it is known that there is no such route, and where it turns out."""
    assert client.messages.count_tokens(model="claude", messages=user("hello")).input_tokens == 7
    for model in ("narrow", "talker"):
        with pytest.raises(anthropic.APIStatusError, match="does not serve /v1/messages/count_tokens") as caught:
            client.messages.count_tokens(model=model, messages=user("hello"))
        assert caught.value.status_code == 501
        assert caught.value.body["type"] == "error"
        assert caught.value.response.headers["x-should-retry"] == "false"


def test_refusals(client: Anthropic, gateway: str) -> None:
    """As the exceptions that its users catch, in Anthropic's envelope; streamed or not."""
    for stream in (False, True):
        with pytest.raises(anthropic.NotFoundError, match="nobody") as caught:
            client.messages.create(model="nobody", max_tokens=9, messages=user("hello"), stream=stream)
        assert caught.value.body["type"] == "error"
    with pytest.raises(anthropic.BadRequestError, match="max_tokens"):
        client.post("/v1/messages", cast_to=object, body={"model": "talker", "messages": user("hello")})
    with pytest.raises(anthropic.BadRequestError, match="wished"):
        client.messages.create(model="talker", max_tokens=9, messages=user("refuse with 400"))
    wrong = Anthropic(base_url=gateway, api_key="wrong")
    with pytest.raises(anthropic.AuthenticationError):
        wrong.messages.create(model="claude", max_tokens=9, messages=user("hello"))


@pytest.mark.parametrize(
    "field", [{"X-Api-Key": API_KEY}, {"Authorization": f"Bearer {API_KEY}"}], ids=lambda each: next(iter(each))
)
def test_either_field_for_the_key(gateway: str, field: dict[str, str]) -> None:
    """This client's versions, and other clients of the same API, differ in it."""
    client = Anthropic(base_url=gateway, api_key=None, auth_token=None, default_headers=field)

    assert client.messages.create(model="claude", max_tokens=9, messages=user("hi")).type == "message"
