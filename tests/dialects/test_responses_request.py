"""Requests of the Responses API: what Codex and the openai package send, what is left out, what is refused, and there and back."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.dialects.responses_request import read_request, write_request
from gateway.dialects.responses_tools import NAME_CHARS_MAX, Member
from gateway.dialects.talk import (
    Audio,
    Choice,
    Document,
    Image,
    Item,
    Message,
    OutputForm,
    Part,
    Reasoning,
    Talk,
    Text,
    Tool,
    ToolCall,
    ToolResult,
)
from gateway.errors import InvalidRequest, NotTranslatable
from tests.dialects.talks import GRAMMAR, Speech, junk, spoilt, talks

HELD = Speech(
    result_pictures=True,
    sounds=True,
    documents=True,
    seals=True,
    free_form=True,
    systems=2,
    many_parts=True,
    mixed=True,
    always_usage=True,
    fields=("effort", "verbosity", "max_tokens", "temperature", "top_p", "user", "form", "parallel_calls"),
)
SCHEMA: dict[str, Any] = {"type": "object", "properties": {"path": {"type": "string"}}}
CODEX: dict[str, Any] = {
    "model": "qwen3-coder",
    "instructions": "You are Codex.",
    "input": [
        {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "sandbox: read-only"}]},
        {
            "type": "message",
            "role": "user",
            "content": [
                {"type": "input_text", "text": "look"},
                {"type": "input_image", "image_url": "data:image/png;base64,AAAA"},
            ],
        },
        {
            "type": "reasoning",
            "summary": [{"type": "summary_text", "text": "**A**"}, {"type": "summary_text", "text": "b"}],
            "content": None,
            "encrypted_content": "c2VhbA==",
        },
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Looking."}]},
        {"type": "function_call", "name": "shell", "arguments": '{"command":["ls"]}', "call_id": "call_1"},
        {"type": "function_call", "name": "read", "namespace": "mcp__files", "arguments": "{}", "call_id": "call_2"},
        {"type": "function_call_output", "call_id": "call_1", "output": "a.py"},
        {
            "type": "function_call_output",
            "call_id": "call_2",
            "output": [{"type": "input_text", "text": "x"}, {"type": "input_image", "image_url": "https://h/i.png"}],
        },
        {"type": "custom_tool_call", "call_id": "call_3", "name": "apply_patch", "input": "*** Begin Patch"},
        {"type": "custom_tool_call_output", "call_id": "call_3", "output": "Done"},
        {"type": "web_search_call", "status": "completed", "action": {"type": "search", "query": "q"}},
    ],
    "tools": [
        {"type": "function", "name": "shell", "description": "Runs", "strict": False, "parameters": SCHEMA},
        {"type": "custom", "name": "apply_patch", "description": "Patches", "format": GRAMMAR},
        {"type": "web_search", "external_web_access": True},
        {"type": "local_shell"},
        {
            "type": "namespace",
            "name": "mcp__files",
            "description": "Files",
            "tools": [
                {"type": "function", "name": "read", "description": "Reads", "strict": False, "parameters": SCHEMA},
                {"type": "image_generation"},
                {"type": "namespace", "name": "deeper", "tools": []},
            ],
        },
    ],
    "tool_choice": "auto",
    "parallel_tool_calls": True,
    "reasoning": {"effort": "medium", "summary": "auto"},
    "store": False,
    "stream": True,
    "include": ["reasoning.encrypted_content"],
    "service_tier": None,
    "prompt_cache_key": "0199-thread",
    "text": {"verbosity": "low", "format": {"type": "json_schema", "strict": True, "schema": SCHEMA, "name": "out"}},
    "client_metadata": {"x": "y"},
}


def read(**fields: object) -> Talk:
    """A request with these fields, read."""
    return read_request(json.dumps({"model": "m", "input": "hi", **fields}).encode())


def written(talk: Talk) -> dict[str, Any]:
    """Its body."""
    return json.loads(write_request(talk)[0])


def test_everything_that_codex_sends_is_read() -> None:
    """Items, tools and fields of a real turn; what only OpenAI's servers can do is left out by name."""
    talk = read_request(json.dumps(CODEX).encode())
    assert talk.items == (
        Message("system", (Text("You are Codex."),)),
        Message("system", (Text("sandbox: read-only"),)),
        Message("user", (Text("look"), Image("data:image/png;base64,AAAA"))),
        Reasoning("**A**\n\nb", "c2VhbA=="),
        Message("assistant", (Text("Looking."),)),
        ToolCall("call_1", "shell", '{"command":["ls"]}'),
        ToolCall("call_2", "mcp__files__read", "{}"),
        ToolResult("call_1", (Text("a.py"),)),
        ToolResult("call_2", (Text("x"), Image("https://h/i.png"))),
        ToolCall("call_3", "apply_patch", "*** Begin Patch", free_form=True),
        ToolResult("call_3", (Text("Done"),), free_form=True),
    )
    assert talk.tools == (
        Tool("shell", "Runs", SCHEMA, strict=False),
        Tool("apply_patch", "Patches", free_form=True, grammar=GRAMMAR),
        Member("mcp__files__read", "Reads", SCHEMA, strict=False, namespace="mcp__files", bare="read"),
    )
    assert talk.form == OutputForm(SCHEMA, "out", strict=True)
    assert (talk.effort, talk.verbosity, talk.choice, talk.parallel_calls) == ("medium", "low", Choice("auto"), True)
    assert (talk.stream, talk.usage_asked) == (True, True)
    assert set(talk.left_out) == {
        *("include", "prompt_cache_key", "client_metadata"),
        *("tools[2]", "tools[3]", "tools[4].tools[1]", "tools[4].tools[2]", "input[10]"),
    }


@settings(max_examples=40, deadline=None)
@given(talks(HELD))
def test_what_is_written_reads_as_the_same_talk(talk: Talk) -> None:
    """Law: there and back, but for what one dialect says without words."""
    body, missing = write_request(talk)
    assert missing == ()
    assert read_request(body) == as_it_comes_back(talk)


def as_it_comes_back(talk: Talk) -> Talk:
    """A picture's detail is always told, and so is whether a tool is strict."""
    items = tuple(
        msgspec.structs.replace(item, parts=tuple(map(_told, item.parts)))
        if isinstance(item, Message | ToolResult)
        else item
        for item in talk.items
    )
    tools = tuple(
        tool if tool.free_form else msgspec.structs.replace(tool, strict=tool.strict is True) for tool in talk.tools
    )
    return msgspec.structs.replace(talk, items=items, tools=tools)


def _told(part: Part) -> Part:
    return Image(part.url, part.detail or "auto") if isinstance(part, Image) else part


@settings(max_examples=50, deadline=None)
@given(junk() | spoilt(json.dumps(CODEX).encode()))
def test_a_body_that_nobody_meant_is_refused_and_never_breaks_the_reader(body: bytes) -> None:
    """Law: any JSON whatever is read, or gives one of two errors."""
    try:
        talk = read_request(body)
    except (InvalidRequest, NotTranslatable):
        return
    write_request(talk)


WRONG_FIELDS: list[tuple[dict[str, Any], str]] = [
    ({"model": 3}, "model"),
    ({"model": None}, "model"),
    ({"input": None}, "input"),
    ({"input": 3}, "input"),
    ({"input": ["hi"]}, "input[0]"),
    ({"input": [{}]}, "input[0]"),
    ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role"),
    ({"input": [{"role": "user"}]}, "input[0]"),
    ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input[0].content[0].text"),
    ({"input": [{"role": "user", "content": [{"type": "input_text", "text": 1}]}]}, "input[0].content[0].text"),
    ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0]"),
    ({"input": [{"type": "function_call", "name": "f"}]}, "input[0]"),
    ({"input": [{"type": "function_call_output", "call_id": "c", "output": 3}]}, "input[0].output"),
    ({"tools": [{"name": "f"}]}, "tools[0].type"),
    ({"tools": [{"type": "function"}]}, "tools[0]"),
    ({"tools": [{"type": "namespace", "name": "n", "tools": [3]}]}, "tools[0].tools[0]"),
    ({"tool_choice": "maybe"}, "tool_choice"),
    ({"tool_choice": {"type": "function"}}, "tool_choice"),
    ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
    ({"text": {"format": {}}}, "text.format"),
    ({"max_output_tokens": "many"}, "max_output_tokens"),
    ({"temperature": True}, "temperature"),
    ({"stream": "yes"}, "stream"),
]


@pytest.mark.parametrize(("fields", "param"), WRONG_FIELDS)
def test_a_wrong_field_is_named(fields: dict[str, object], param: str) -> None:
    """400 says which field it is, down to the part."""
    with pytest.raises(InvalidRequest) as caught:
        read(**fields)
    assert (caught.value.param or "model") == param
    assert caught.value.message


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"background": True}, "background"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0]"),
        ({"input": [{"type": "compaction", "encrypted_content": "x"}]}, "input[0]"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "file-1"}]}]},
            "input[0].content[0].file_id",
        ),
        ({"input": [{"role": "user", "content": [{"type": "input_video"}]}]}, "input[0].content[0]"),
        ({"tool_choice": {"type": "file_search"}}, "tool_choice"),
        ({"text": {"format": {"type": "grammar"}}}, "text.format"),
    ],
)
def test_what_would_change_the_answer_and_cannot_be_said_is_refused(fields: dict[str, object], param: str) -> None:
    """501, and the field: nothing of consequence is dropped in silence."""
    with pytest.raises(NotTranslatable) as caught:
        read(**fields)
    assert caught.value.param == param


def test_defaults_that_say_nothing_are_not_named_as_left_out() -> None:
    """store: false is what happens anyway; null means absent everywhere; but what is meant is named."""
    nothing: list[Any] = []
    talk = read(
        store=False,
        background=False,
        truncation="disabled",
        metadata=None,
        previous_response_id=None,
        conversation=None,
        top_logprobs=0,
        include=nothing,
        tools=None,
        text=None,
        reasoning=None,
    )
    assert talk.left_out == ()
    assert read(store=True, metadata={"a": "b"}, truncation="auto").left_out == ("store", "metadata", "truncation")


def test_a_plain_text_is_what_the_user_says() -> None:
    """`input` may be a string, instructions stand before it."""
    talk = read(input="hi", instructions="Be brief", temperature=1, max_output_tokens=5, stop="x", seed=3)
    assert talk.items == (Message("system", (Text("Be brief"),)), Message("user", (Text("hi"),)))
    assert (talk.temperature, talk.max_tokens, talk.stop, talk.seed) == (1.0, 5, ("x",), 3)


def test_parts_of_every_kind_are_read() -> None:
    """Files as data, bare data or address; sound; a refusal apart from the text beside it; parts of other generations."""
    parts = [
        {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,QQ=="},
        {"type": "input_file", "filename": "b.PDF", "file_data": "QQ=="},
        {"type": "input_file", "file_url": "https://h/c"},
        {"type": "input_audio", "input_audio": {"data": "QQ==", "format": "wav"}},
        {"type": "input_image", "image_url": "https://h/i", "detail": "low", "file_id": None},
    ]
    reply: list[dict[str, Any]] = [
        {"type": "output_text", "text": "a", "annotations": []},
        {"type": "refusal", "refusal": "No."},
    ]
    talk = read(input=[{"role": "user", "content": parts}, {"role": "assistant", "content": reply}])
    assert talk.items == (
        Message(
            "user",
            (
                Document("data:application/pdf;base64,QQ==", "a.pdf"),
                Document("data:application/pdf;base64,QQ==", "b.PDF"),
                Document("https://h/c"),
                Audio("QQ==", "wav"),
                Image("https://h/i", "low"),
            ),
        ),
        Message("assistant", (Text("a"),)),
        Message("assistant", (Text("No."),), refusal=True),
    )


def test_reasoning_is_read_from_whichever_place_it_stands_in() -> None:
    """Raw text before its summary; a seal alone is hidden; a seal with an empty summary is not."""
    thought = {"type": "summary_text", "text": "s"}
    items: list[dict[str, Any]] = [
        {"type": "reasoning", "summary": [thought], "content": [{"type": "reasoning_text", "text": "raw"}]},
        {"type": "reasoning", "summary": [], "encrypted_content": "x"},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": ""}], "encrypted_content": "x"},
    ]
    assert read(input=items).items == (Reasoning("raw"), Reasoning("", "x", hidden=True), Reasoning("", "x"))


def test_a_call_without_arguments_has_an_empty_object() -> None:
    """Empty, null or an object itself: JSON text in a talk; big integers stay exact."""
    items = [
        {"type": "function_call", "call_id": "a", "name": "f", "arguments": ""},
        {"type": "function_call", "call_id": "b", "name": "f", "arguments": {"n": 2**70}},
    ]
    assert read(input=items).items == (ToolCall("a", "f", "{}"), ToolCall("b", "f", f'{{"n":{2**70}}}'))


def test_only_allowed_tools_are_offered() -> None:
    """`allowed_tools` leaves the others out; members of a namespace go by either name."""
    tools = [
        {"type": "function", "name": "a"},
        {"type": "function", "name": "b"},
        {"type": "namespace", "name": "n", "tools": [{"type": "function", "name": "c"}]},
    ]
    allowed = {"type": "allowed_tools", "mode": "required", "tools": [{"name": "b"}, {"name": "c"}, {"type": "mcp"}]}
    talk = read(tools=tools, tool_choice=allowed)
    assert [tool.name for tool in talk.tools] == ["b", "n__c"]
    assert talk.choice == Choice("required")


def test_a_chosen_tool_is_named_as_it_is_called_here() -> None:
    """A function, a custom tool, and one of a namespace."""
    tools = [{"type": "namespace", "name": "n", "tools": [{"type": "custom", "name": "c"}]}]
    chosen = {"type": "custom", "name": "c", "namespace": "n"}
    talk = read(tools=tools, tool_choice=chosen)
    assert talk.choice == Choice("required", "n__c")
    assert written(talk)["tool_choice"] == {"type": "custom", "name": "n__c"}
    assert read(tool_choice={"type": "function", "name": "f"}).choice == Choice("required", "f")


def test_a_namespaces_long_names_stay_apart_and_short_enough() -> None:
    """64 characters are what APIs take; the history's calls get the very names of the tools."""
    long = "x" * 60
    inner = [{"type": "function", "name": long + end} for end in "ab"]
    call = {"type": "function_call", "call_id": "1", "name": long + "b", "namespace": "mcp__s__", "arguments": "{}"}
    talk = read(tools=[{"type": "namespace", "name": "mcp__s__", "tools": inner}], input=[call])
    names = [tool.name for tool in talk.tools]
    assert len(set(names)) == 2
    assert all(len(name) <= NAME_CHARS_MAX for name in names)
    assert talk.items == (ToolCall("1", names[1], "{}"),)


def test_a_top_level_tools_call_may_carry_a_namespace() -> None:
    """The API's default one, or its own name: it is the top-level tool all the same."""
    call = {"type": "function_call", "call_id": "1", "name": "f", "namespace": "functions", "arguments": "{}"}
    assert read(tools=[{"type": "function", "name": "f"}], input=[call]).items == (ToolCall("1", "f", "{}"),)


def test_tools_that_an_item_brings_are_offered_too() -> None:
    """`additional_tools` of the developer's."""
    item = {"type": "additional_tools", "role": "developer", "tools": [{"type": "function", "name": "late"}]}
    talk = read(input=[item, {"role": "user", "content": "hi"}])
    assert [tool.name for tool in talk.tools] == ["late"]
    assert talk.items == (Message("user", (Text("hi"),)),)


def test_what_no_request_here_can_say_is_named() -> None:
    """Fields of other dialects, a tool's failure, pictures of an assistant's."""
    items: tuple[Item, ...] = (
        Message("assistant", (Text("a"), Image("https://h/i"))),
        ToolResult("c", (Text("bad"),), failed=True),
    )
    talk = Talk(model="m", items=items, top_k=3, stop=("x",), seed=0, thinking_tokens=1024)
    assert write_request(talk)[1] == ("top_k", "stop", "seed", "items[0]", "items[1].failed", "thinking_tokens")


def test_nothing_is_stored_and_thinking_can_be_switched_off() -> None:
    """store: false always; a budget of 0 is the effort "none"; no field is written that was not said."""
    talk = Talk(model="m", items=(Message("user", (Text("hi"),)),), thinking_tokens=0)
    assert written(talk) == {
        "model": "m",
        "store": False,
        "input": [{"type": "message", "role": "user", "content": "hi"}],
        "reasoning": {"effort": "none"},
    }


@settings(max_examples=50, deadline=None)
@given(st.sampled_from((b"", b"{", b"[]", b"null", b'{"model":"\xff"}', b"[" * 100_000)))
def test_a_body_that_is_no_object_is_invalid_json(body: bytes) -> None:
    """400 with the code that the rest of the gateway uses."""
    with pytest.raises(InvalidRequest) as caught:
        read_request(body)
    assert caught.value.code == "invalid_json"
