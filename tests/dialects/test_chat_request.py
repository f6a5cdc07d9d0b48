"""Requests for chat completions: what callers say is read, and what upstreams hear is what was said."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming
from pydantic import TypeAdapter

from gateway.dialects.chat_request import read_request, write_request
from gateway.dialects.talk import (
    Audio,
    Choice,
    Document,
    Image,
    Json,
    Message,
    OutputForm,
    Reasoning,
    Talk,
    Text,
    Tool,
    ToolCall,
    ToolResult,
)
from gateway.errors import InvalidRequest, NotTranslatable

from .talks import GRAMMAR, Speech, junk, spoilt, talks

# All that chat says without changing it, and all that there is.
CHAT = Speech(sounds=True, documents=True)
EVERYTHING = Speech(
    result_pictures=True,
    sounds=True,
    documents=True,
    seals=True,
    free_form=True,
    failures=True,
    systems=3,
    many_parts=True,
    mixed=True,
    fields=(*Speech().fields, "thinking_tokens", "top_k"),
)
HELLO: list[Json] = [{"role": "user", "content": "Hello"}]
PICTURE = Image("data:image/png;base64,AAAA")
CREATE = TypeAdapter[Any](CompletionCreateParamsNonStreaming)


def body(messages: list[Json] | None = None, **fields: Json) -> bytes:
    """A caller's request."""
    return msgspec.json.encode({"model": "m", "messages": messages or HELLO, **fields})


def talk_of(*messages: Json, **fields: Json) -> Talk:
    """What is read of it."""
    return read_request(body(list(messages), **fields))


def talk(*items: Message | Reasoning | ToolCall | ToolResult, **fields: Any) -> Talk:
    """A request in no API's words."""
    return Talk(model="m", items=items or (user("Hello"),), **fields)


def user(text: str) -> Message:
    """A user's message."""
    return Message("user", (Text(text),))


def written(said: Talk) -> dict[str, Json]:
    """The body for the upstream."""
    return msgspec.json.decode(write_request(said)[0])


def consumed(value: Any) -> None:
    """Look at everything: what is iterable is only checked when it is iterated."""
    if isinstance(value, Mapping):
        value = cast("Mapping[str, Any]", value).values()
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        for inner in cast("Iterable[Any]", value):
            consumed(inner)


# ------------------------------------------------------------------ laws


@settings(max_examples=20, deadline=None)
@given(talks(CHAT))
def test_what_is_written_is_read_as_it_was(said: Talk) -> None:
    """Everything that chat can hold."""
    wire, unsaid = write_request(said)
    assert unsaid == ()
    assert read_request(wire) == said


@settings(max_examples=20, deadline=None)
@given(talks(EVERYTHING))
def test_whatever_is_written_is_openais_and_stays_itself(said: Talk) -> None:
    """OpenAI's own types take it, and what is read of it is written alike."""
    wire, _ = write_request(said)
    consumed(CREATE.validate_python({**msgspec.json.decode(wire), "stream": False}))
    assert write_request(read_request(wire))[0] == wire


@settings(max_examples=60, deadline=None)
@given(junk())
def test_junk_is_refused(wire: bytes) -> None:
    """With a reason, never a failure of ours."""
    with pytest.raises(InvalidRequest):
        read_request(wire)


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_what_is_almost_right_is_read_or_refused(data: st.DataObject) -> None:
    """One thing wrong anywhere in a request that says much."""
    wire = data.draw(spoilt(MUCH))
    with suppress(InvalidRequest, NotTranslatable):
        write_request(read_request(wire))


MUCH = body(
    [
        {"role": "developer", "content": [{"type": "text", "text": "Be brief"}]},
        {
            "role": "user",
            "name": "ann",
            "content": [
                {"type": "text", "text": "What is this?"},
                {"type": "image_url", "image_url": {"url": "https://host/a.png", "detail": "low"}},
                {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
                {"type": "file", "file": {"file_data": "data:application/pdf;base64,JVBERi0=", "filename": "a.pdf"}},
            ],
        },
        {
            "role": "assistant",
            "content": None,
            "reasoning_content": "hm",
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}},
                {"id": "c2", "type": "custom", "custom": {"name": "g", "input": "x"}},
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "1"},
        {"role": "tool", "tool_call_id": "c2", "content": [{"type": "text", "text": "2"}]},
        {"role": "assistant", "content": "Done", "refusal": None, "function_call": {"name": "h", "arguments": "{}"}},
        {"role": "function", "name": "h", "content": "3"},
    ],
    tools=[
        {"type": "function", "function": {"name": "f", "description": "d", "parameters": {}, "strict": True}},
        {"type": "custom", "custom": {"name": "g", "format": {"type": "grammar", "grammar": GRAMMAR}}},
        {"type": "web_search"},
    ],
    tool_choice={"type": "function", "function": {"name": "f"}},
    response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": {}, "strict": True}},
    stop=["a", "b"],
    n=1,
    logprobs=False,
    modalities=["text"],
    logit_bias={"1": -100},
    stream=True,
    stream_options={"include_usage": True},
    metadata={"a": "b"},
    reasoning_effort="low",
)


# ------------------------------------------------------------------ read


def test_a_conversation_is_read_as_its_items() -> None:
    """Every role; the assistant's message falls into what it consists of, in order."""
    assert read_request(MUCH).items == (
        Message("system", (Text("Be brief"),)),
        Message(
            "user",
            (
                Text("What is this?"),
                Image("https://host/a.png", "low"),
                Audio("AAAA", "wav"),
                Document("data:application/pdf;base64,JVBERi0=", "a.pdf"),
            ),
        ),
        Reasoning("hm"),
        ToolCall("c1", "f", "{}"),
        ToolCall("c2", "g", "x", free_form=True),
        ToolResult("c1", (Text("1"),)),
        ToolResult("c2", (Text("2"),), free_form=True),
        Message("assistant", (Text("Done"),)),
        ToolCall("function_call_8", "h", "{}"),
        ToolResult("function_call_8", (Text("3"),)),
    )


def test_what_is_of_no_consequence_is_named() -> None:
    """Unknown fields too; null is absent, and what is as it always is has not been left out."""
    assert read_request(MUCH).left_out == ("metadata", "messages[*].name", "tools[2]")
    assert talk_of(*HELLO, metadata=None, n=None, store=False, cache_prompt=True).left_out == ("store", "cache_prompt")


@pytest.mark.parametrize(
    ("message", "item"),
    [
        ({"role": "system", "content": "s"}, Message("system", (Text("s"),))),
        ({"role": "user", "content": ""}, Message("user", ())),
        ({"role": "user", "content": [{"type": "text", "text": ""}]}, Message("user", ())),
        ({"role": "user", "content": [{"type": "image_url", "image_url": PICTURE.url}]}, Message("user", (PICTURE,))),
        (
            {"role": "user", "content": [{"type": "file", "file": {"file_data": "JVBERi0="}}]},
            Message("user", (Document("data:application/pdf;base64,JVBERi0="),)),
        ),
        ({"role": "assistant", "content": None}, Message("assistant", ())),
        ({"role": "assistant", "content": "a", "tool_calls": []}, Message("assistant", (Text("a"),))),
        ({"role": "assistant", "refusal": "No"}, Message("assistant", (Text("No"),), refusal=True)),
        (
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "No"}]},
            Message("assistant", (Text("No"),), refusal=True),
        ),
        ({"role": "assistant", "content": "", "reasoning": "hm"}, Reasoning("hm")),
        (
            {"role": "assistant", "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": ""}}]},
            ToolCall("c", "f", "{}"),
        ),
        (
            {"role": "assistant", "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": {"a": 1}}}]},
            ToolCall("c", "f", '{"a":1}'),
        ),
        ({"role": "tool", "tool_call_id": "c", "content": None}, ToolResult("c", ())),
    ],
)
def test_a_message_is_read(message: Json, item: Message) -> None:
    """Forms that clients really use."""
    assert talk_of(message).items == (item,)


FIELDS: list[tuple[dict[str, Json], str, Json]] = [
    ({"max_tokens": 5}, "max_tokens", 5),
    ({"max_tokens": 5, "max_completion_tokens": 7}, "max_tokens", 7),
    ({"stop": "x"}, "stop", ("x",)),
    ({"stop": []}, "stop", ()),
    ({"temperature": 1}, "temperature", 1.0),
    ({"top_k": 4}, "top_k", 4),
    ({"stream": True}, "usage_asked", False),
    ({"stream": True, "stream_options": {"include_usage": True}}, "usage_asked", True),
    ({"response_format": {"type": "text"}}, "form", None),
    ({"response_format": {"type": "json_object"}}, "form", OutputForm()),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"a": 1}}}},
        "form",
        OutputForm({"a": 1}, "n"),
    ),
    ({"tool_choice": "none"}, "choice", Choice("none")),
    ({"tool_choice": "any"}, "choice", Choice("required")),
    ({"tool_choice": {"type": "custom", "custom": {"name": "g"}}}, "choice", Choice("required", "g")),
    ({"tool_choice": {"type": "web_search"}}, "left_out", ("tool_choice",)),
    ({"function_call": {"name": "f"}}, "choice", Choice("required", "f")),
    ({"functions": [{"name": "f", "parameters": {}}]}, "tools", (Tool("f", schema={}),)),
    ({"tools": [{"function": {"name": "f"}}]}, "tools", (Tool("f"),)),
    (
        {"tools": [{"type": "custom", "custom": {"name": "g", "format": {"type": "grammar", "grammar": GRAMMAR}}}]},
        "tools",
        (Tool("g", free_form=True, grammar=GRAMMAR),),
    ),
]


@pytest.mark.parametrize(("fields", "name", "value"), FIELDS)
def test_a_field_is_read(fields: dict[str, Json], name: str, value: Json) -> None:
    """In each of its forms."""
    assert getattr(talk_of(*HELLO, **fields), name) == value


def test_some_of_the_tools_allowed_is_left_out() -> None:
    """Its mode is kept."""
    allowed = {"mode": "required", "tools": [{"type": "function", "function": {"name": "f"}}]}
    read = talk_of(*HELLO, tool_choice={"type": "allowed_tools", "allowed_tools": allowed})
    assert (read.choice, read.left_out) == (Choice("required"), ("tool_choice.allowed_tools",))


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"response_format": {"type": "grammar"}}, "response_format"),
        ({"messages": [{"role": "assistant", "audio": {"id": "a"}}]}, "messages[0].audio"),
        ({"messages": [{"role": "user", "content": [{"type": "video_url"}]}]}, "messages[0].content[0]"),
        (
            {"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]}]},
            "messages[0].content[0].file",
        ),
        (
            {"messages": [{"role": "system", "content": [{"type": "image_url", "image_url": "u"}]}]},
            "messages[0].content[0]",
        ),
    ],
)
def test_what_changes_the_answer_is_not_left_out(fields: dict[str, Json], param: str) -> None:
    """It is refused, and named."""
    with pytest.raises(NotTranslatable) as caught:
        read_request(msgspec.json.encode({"model": "m", "messages": HELLO, **fields}))
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "Hello"}, "messages"),
        ({"messages": [{"role": "robot"}]}, "messages[0].role"),
        ({"messages": [{"content": "x"}]}, "messages[0]"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
        ({"messages": [{"role": "function", "content": "x"}]}, "messages[0].name"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"id": "c"}]}]}, "messages[0].tool_calls[0].function"),
        ({"n": 0}, "n"),
        ({"max_tokens": "many"}, "max_tokens"),
        ({"temperature": True}, "temperature"),
        ({"reasoning_effort": "utmost"}, "reasoning_effort"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tool_choice": "maybe"}, "tool_choice"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    ],
)
def test_what_the_api_does_not_take_is_refused(fields: dict[str, Json], param: str) -> None:
    """With the place it is in."""
    with pytest.raises(InvalidRequest) as caught:
        read_request(msgspec.json.encode({"model": "m", "messages": HELLO, **fields}))
    assert caught.value.param == param
    assert param in caught.value.message


def test_depth_is_refused() -> None:
    """A body as deep as no decoder goes."""
    with pytest.raises(InvalidRequest, match="deep"):
        read_request(b'{"model":"m","messages":[],"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}")


# ------------------------------------------------------------------ written


def test_an_assistants_turn_is_one_message() -> None:
    """Whatever it consists of, until somebody else speaks."""
    said = talk(
        user("Hello"),
        Reasoning("hm", "c2VhbA=="),
        Message("assistant", (Text("I "), Text("look."))),
        ToolCall("c1", "f", '{"a":1}'),
        Message("assistant", (Text("And then"),)),
        ToolCall("c2", "g", "{}"),
        ToolResult("c1", (Text("1"), Text("2"))),
        ToolResult("c2", ()),
        Reasoning("", "c2VhbA==", hidden=True),
        user("Go on"),
    )
    assert written(said)["messages"] == [
        {"role": "user", "content": "Hello"},
        {
            "role": "assistant",
            "content": "I look.\n\nAnd then",
            "reasoning_content": "hm",
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}},
                {"id": "c2", "type": "function", "function": {"name": "g", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "1\n\n2"},
        {"role": "tool", "tool_call_id": "c2", "content": ""},
        {"role": "user", "content": "Go on"},
    ]


def test_pictures_of_results_come_after_all_results() -> None:
    """In the user's next message, or in one of their own; with the call that they are of."""
    results = ToolResult("c1", (Text("seen"), PICTURE)), ToolResult("c2", (PICTURE,))
    asked = ToolCall("c1", "f", "{}"), ToolCall("c2", "f", "{}")
    image = {"type": "image_url", "image_url": {"url": PICTURE.url}}
    pictures = [
        {"type": "text", "text": "From the result of the tool call c1:"},
        image,
        {"type": "text", "text": "From the result of the tool call c2:"},
        image,
    ]
    texts = [
        {"role": "tool", "tool_call_id": "c1", "content": "seen"},
        {"role": "tool", "tool_call_id": "c2", "content": "(see the next message)"},
    ]
    for follows, more in ((user("So?"), [{"type": "text", "text": "So?"}]), (Message("assistant", (Text("A"),)), [])):
        messages = written(talk(user("Hello"), *asked, *results, follows))["messages"]
        assert messages[2:5] == [*texts, {"role": "user", "content": [*pictures, *more]}]
    assert written(talk(user("Hello"), *asked, *results))["messages"][2:] == [
        *texts,
        {"role": "user", "content": pictures},
    ]


def test_there_is_one_system_message_at_the_beginning() -> None:
    """Chat templates refuse a second one there; what comes later stays where it is."""
    one, two, three = (Message("system", (Text(text),)) for text in ("1", "2", "3"))
    assert written(talk(one, two, user("Hello"), three))["messages"] == [
        {"role": "system", "content": "1\n\n2"},
        {"role": "user", "content": "Hello"},
        {"role": "system", "content": "3"},
    ]


def test_a_free_form_tool_is_a_function_with_one_text() -> None:
    """Hardly any upstream knows the other kind. Its grammar is told in its description."""
    said = talk(
        ToolCall("c", "patch", 'a "b"', free_form=True),
        ToolResult("c", (Text("ok"),), free_form=True),
        tools=(Tool("patch", "Patches.", free_form=True, grammar=GRAMMAR),),
        choice=Choice("required", "patch"),
    )
    wire = written(said)
    function = wire["tools"][0]["function"]
    assert wire["messages"][0]["tool_calls"][0]["function"] == {"name": "patch", "arguments": '{"input":"a \\"b\\""}'}
    assert function["parameters"] == {
        "type": "object",
        "properties": {"input": {"type": "string"}},
        "required": ["input"],
    }
    assert function["description"].startswith("Patches.\n\n")
    assert "lark" in function["description"]
    assert wire["tool_choice"] == {"type": "function", "function": {"name": "patch"}}


def test_a_function_without_arguments_has_a_schema_all_the_same() -> None:
    """Some servers do without everything but that."""
    assert written(talk(tools=(Tool("f"),)))["tools"] == [
        {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    ]


def test_what_chat_has_no_words_for_is_named() -> None:
    """And what OpenAI refuses without tools is not said without tools."""
    failed = ToolResult("c", (Text("no"),), failed=True)
    said = talk(failed, top_k=3, thinking_tokens=1024, choice=Choice("required"), parallel_calls=False)
    wire, unsaid = write_request(said)
    assert unsaid == ("top_k", "thinking", "tool_choice", "is_error")
    assert set(msgspec.json.decode(wire)) == {"model", "messages"}
    assert write_request(talk(choice=Choice("auto")))[1] == ()


def test_a_stream_is_asked_for_with_its_usage() -> None:
    """Without a stream OpenAI refuses `stream_options`."""
    assert written(talk(stream=True, usage_asked=True))["stream_options"] == {"include_usage": True}
    assert "stream_options" not in written(talk(usage_asked=True))


def test_a_schema_too_deep_to_write_is_refused() -> None:
    """One that could just be read."""
    deep: Json = {}
    for _ in range(20_000):
        deep = {"a": deep}
    with pytest.raises(NotTranslatable, match="deep"):
        write_request(talk(tools=(Tool("f", schema=deep),)))
