"""Requests of Anthropic's Messages API: what clients send is understood, and what is written is what Anthropic takes."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from gateway.dialects.messages_request import MAX_TOKENS, OPENING, read_request, write_request
from gateway.dialects.talk import (
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

from .talks import Speech, junk, spoilt, talks

MESSAGES = Speech(
    result_pictures=True,
    details=False,
    documents=True,
    seals=True,
    refusals=False,
    failures=True,
    many_parts=True,
    mixed=True,
    named_forms=False,
    plain_json=False,
    always_usage=True,
    fields=("effort", "max_tokens", "stop", "user", "form", "parallel_calls"),
)
RICHEST = "claude-opus-4-6"  # the only generation that knows an effort, a budget and sampling
USER = Message("user", (Text("Hi"),))
TOOL = Tool("t", "", {"type": "object"})


def talk(*items: Item, model: str = RICHEST, **said: Any) -> Talk:
    """A request with a limit, as everybody who speaks this dialect sends one."""
    fields: dict[str, Any] = {"max_tokens": 4096, **said}
    return Talk(model=model, items=items or (USER,), usage_asked=True, **fields)


def written(asked: Talk) -> dict[str, Any]:
    """The body that goes upstream."""
    return msgspec.json.decode(write_request(asked)[0])


def unsaid(asked: Talk) -> tuple[str, ...]:
    """What it does not say."""
    return write_request(asked)[1]


def read(**fields: object) -> Talk:
    """A client's request."""
    usual = {"model": "m", "max_tokens": 64, "messages": [{"role": "user", "content": "Hi"}]}
    return read_request(msgspec.json.encode(usual | fields))


def said_by_user(*blocks: object) -> tuple[Item, ...]:
    """The items of one turn of the user's."""
    return read(messages=[{"role": "user", "content": list(blocks)}]).items


# ------------------------------------------------------------------ the law: what is written is read again


def _by_model(item: Item) -> bool:
    return isinstance(item, Reasoning | ToolCall) or (isinstance(item, Message) and item.role == "assistant")


def _merged(items: Iterable[Item]) -> list[Item]:
    """Messages of one role that stand together are one."""
    merged: list[Item] = []
    for item in items:
        last = merged[-1] if merged else None
        if isinstance(item, Message) and isinstance(last, Message) and item.role == last.role:
            merged[-1] = replace(last, parts=(*last.parts, *item.parts))
        else:
            merged.append(item)
    return merged


def _spoken(parts: tuple[Part, ...]) -> tuple[Part, ...]:
    return tuple(part for part in parts if not isinstance(part, Text) or part.text.strip())


def normal_items(items: tuple[Item, ...]) -> tuple[Item, ...]:
    """Blank texts are gone, each side's items stand together, results first, a user begins and no assistant ends in white space."""
    kept = [
        replace(item, parts=_spoken(item.parts)) if isinstance(item, Message | ToolResult) else item for item in items
    ]
    kept = [item for item in kept if not isinstance(item, Message) or item.parts]
    systems = [item for item in kept if isinstance(item, Message) and item.role == "system"]
    turns = [list(turn) for _, turn in groupby(kept[len(systems) :], _by_model)]
    if not turns or _by_model(turns[0][0]):
        turns.insert(0, [Message("user", (Text(OPENING),))])
    for turn in turns:
        turn.sort(key=lambda item: not isinstance(item, ToolResult) and not _by_model(item))
    normal = [*_merged(systems), *(item for turn in turns for item in _merged(turn))]
    last = normal[-1]
    if isinstance(last, Message) and last.role == "assistant":
        ending = last.parts[-1]
        assert isinstance(ending, Text)
        normal[-1] = replace(last, parts=(*last.parts[:-1], Text(ending.text.rstrip())))
    return tuple(normal)


def normal_form(asked: Talk) -> Talk:
    """What this dialect can hold of a request."""
    choice, alone = asked.choice, asked.parallel_calls is False and bool(asked.tools)
    effort = {"minimal": "low"}.get(asked.effort, asked.effort)
    return replace(
        asked,
        items=normal_items(asked.items),
        choice=Choice("auto") if alone and choice is None else choice,
        parallel_calls=False if alone and choice != Choice("none") else None,
        effort=effort,
        thinking_tokens=0 if effort == "none" else None,
        max_tokens=MAX_TOKENS if asked.max_tokens is None else asked.max_tokens,
        stop=tuple(text for text in asked.stop if text.strip()),
    )


@given(talks(MESSAGES))
@settings(max_examples=50)
def test_what_is_written_is_read_again(asked: Talk) -> None:
    """In the dialect's normal form, and the normal form is written as the request itself."""
    asked = replace(asked, model=RICHEST)
    normal = normal_form(asked)

    assert read_request(write_request(asked)[0]) == normal
    assert write_request(normal)[0] == write_request(asked)[0]


@given(talks(replace(MESSAGES, refusals=True, free_form=True, sounds=False, seals=False, systems=3)))
@settings(max_examples=40)
def test_turns_are_what_anthropic_takes(asked: Talk) -> None:
    """They alternate, the user begins, results come first, no text is blank, every tool's input is an object."""
    turns = written(asked)["messages"]

    assert [turn["role"] for turn in turns] == [("user", "assistant")[i % 2] for i in range(len(turns))]
    for turn in turns:
        kinds = [block["type"] for block in turn["content"]]
        results = kinds.count("tool_result")
        assert kinds
        assert kinds[:results] == ["tool_result"] * results
        for block in turn["content"]:
            assert block.get("text", "x").strip()
            assert isinstance(block.get("input", {}), dict)


@given(junk())
def test_junk_is_refused(body: bytes) -> None:
    """With a clear error, whatever it is."""
    with pytest.raises((InvalidRequest, NotTranslatable)):
        read_request(body)


@given(st.data())
@settings(max_examples=40)
def test_a_request_with_one_thing_wrong_is_read_or_refused(data: st.DataObject) -> None:
    """Nothing else ever comes of it."""
    body = data.draw(spoilt(write_request(data.draw(talks(MESSAGES)))[0]))
    try:
        asked = read_request(body)
    except (InvalidRequest, NotTranslatable):
        return
    write_request(asked)


# ------------------------------------------------------------------ reading


def test_a_coding_agents_request_is_read() -> None:
    """As Claude Code sends it: blocks everywhere, cache marks, thinking with its seal, results as text and as blocks."""
    cached = {"cache_control": {"type": "ephemeral"}}
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
    turns: list[object] = [
        {"role": "user", "content": [{"type": "text", "text": "List files", **cached}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "ls", "signature": "c2ln"},
                {"type": "redacted_thinking", "data": "aGlkZGVu"},
                {"type": "text", "text": "I look."},
                {
                    "type": "tool_use",
                    "id": "toolu_1",
                    "name": "Bash",
                    "input": {"command": "ls", "n": 12345678901234567890123},
                },
                {"type": "tool_use", "id": "toolu_2", "name": "Shot", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "toolu_1", "content": "a.py", "is_error": False},
                {"type": "tool_result", "tool_use_id": "toolu_2", "content": [image], "is_error": True, **cached},
                {"type": "text", "text": "Go on"},
            ],
        },
        {"role": "system", "content": "Be quick."},
    ]
    accounting = {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1.39; cch=56445;"}
    asked = read(
        system=[accounting, {"type": "text", "text": "You are an agent.", **cached}],
        messages=turns,
        tools=[{"name": "Bash", "description": "Runs", "input_schema": {"type": "object"}, **cached}],
        thinking={"type": "enabled", "budget_tokens": 31999},
        metadata={"user_id": "u"},
        context_management={"edits": []},
        service_tier=None,
        stream=True,
    )

    assert asked.items == (
        Message("system", (Text("You are an agent."),)),
        Message("user", (Text("List files"),)),
        Reasoning("ls", "c2ln"),
        Reasoning("", "aGlkZGVu", hidden=True),
        Message("assistant", (Text("I look."),)),
        ToolCall("toolu_1", "Bash", '{"command":"ls","n":12345678901234567890123}'),
        ToolCall("toolu_2", "Shot", "{}"),
        ToolResult("toolu_1", (Text("a.py"),)),
        ToolResult("toolu_2", (Image("data:image/png;base64,AAAA"),), failed=True),
        Message("user", (Text("Go on"),)),
        Message("system", (Text("Be quick."),)),
    )
    assert asked.tools == (Tool("Bash", "Runs", {"type": "object"}),)
    assert (asked.user, asked.stream, asked.effort, asked.thinking_tokens) == ("u", True, "high", 31999)
    assert asked.left_out == ("context_management", "system[0]")


def test_a_tools_input_passes_letter_by_letter() -> None:
    """Spaces, fractions and their order too, both ways."""
    given_ = b'{ "b" : 1.50, "a": 1e999, "n": 12345678901234567890123 }'
    call = b'{"type":"tool_use","id":"i","name":"n","input":%s}' % given_
    body = b'{"model":"m","max_tokens":1,"messages":[{"role":"assistant","content":[%s]}]}' % call

    asked = read_request(body)

    assert asked.items == (ToolCall("i", "n", given_.decode()),)
    assert given_ in write_request(asked)[0]


PDF = {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}
PLAIN = {"type": "text", "media_type": "text/plain", "data": "one\ntwo"}


@pytest.mark.parametrize(
    ("source", "about", "part"),
    [
        (PDF, {"title": "a.pdf"}, Document("data:application/pdf;base64,JVBERi0=", "a.pdf")),
        ({"type": "url", "url": "https://host/a.pdf"}, {"title": None}, Document("https://host/a.pdf")),
        (PLAIN, {"title": "a.txt"}, Text("a.txt\none\ntwo")),
        ({"type": "content", "content": [{"type": "text", "text": "one"}]}, {}, Text("one")),
    ],
)
def test_documents_are_read(source: object, about: dict[str, object], part: Part) -> None:
    """What is text becomes text, with its name."""
    assert said_by_user({"type": "document", "source": source, **about}) == (Message("user", (part,)),)


def test_a_search_result_becomes_text() -> None:
    """It is what a tool gave back, and others have no form for it."""
    found = {"type": "search_result", "source": "s", "title": "t", "content": [{"type": "text", "text": "x"}]}

    assert said_by_user({"type": "tool_result", "tool_use_id": "i", "content": [found]}) == (
        ToolResult("i", (Text("t\ns\nx"),)),
    )


HOSTED = {"type": "web_search_20250305", "name": "web_search", "max_uses": 5}


def test_what_only_anthropics_servers_can_do_is_left_out_and_named() -> None:
    """Hosted tools, their calls and results, and fields that nobody else knows."""
    asked = read(
        messages=[
            {"role": "user", "content": "Hi"},
            {
                "role": "assistant",
                "content": [
                    {"type": "server_tool_use", "id": 1, "name": "web_search", "input": "any"},
                    {"type": "web_search_tool_result", "tool_use_id": "i", "content": {"type": "error"}},
                    {"type": "text", "text": "Found"},
                ],
            },
        ],
        tools=[HOSTED, {"type": "custom", "name": "t", "input_schema": {"type": "object"}}],
        thinking={"type": "adaptive"},
        output_config={"effort": "enormous"},
        mcp_servers=[{"type": "url"}],
        cache_control={"type": "ephemeral"},
    )

    assert asked.items[1:] == (Message("assistant", (Text("Found"),)),)
    assert asked.tools == (TOOL,)
    assert set(asked.left_out) == {
        "mcp_servers",
        "cache_control",
        "messages[1].content[0]",
        "messages[1].content[1]",
        "tools[0]",
        "output_config.effort",
    }


def turn(role: str, *blocks: object) -> dict[str, object]:
    """The only turn of a request."""
    return {"messages": [{"role": role, "content": list(blocks)}]}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"model": ""}, "model"),
        ({"messages": ()}, "messages"),
        (turn("tool"), "messages[0].role"),
        (turn("user", {"type": "text"}), "messages[0].content[0].text"),
        (turn("user", {"type": "tool_use"}), "messages[0].content[0]"),
        (turn("assistant", {"type": "tool_use", "id": "i", "name": "n", "input": "x"}), "messages[0].content[0].input"),
        (turn("user", {"type": "image", "source": {"type": "ftp"}}), "messages[0].content[0].source.type"),
        ({"tools": [{"description": ""}]}, "tools[0].name"),
        ({"tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"thinking": {"type": "enabled", "budget_tokens": -1}}, "thinking.budget_tokens"),
        ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema"),
    ],
)
def test_what_is_wrong_is_named(fields: dict[str, object], param: str) -> None:
    """The field, so that the caller finds it."""
    with pytest.raises(InvalidRequest) as refused:
        read(**fields)

    assert refused.value.param == param
    assert param in refused.value.message


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        (turn("user", {"type": "image", "source": {"type": "file", "file_id": "f"}}), "messages[0].content[0]"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"tool_choice": {"type": "tool", "name": "web_search"}, "tools": [HOSTED]}, "tool_choice"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
    ],
)
def test_what_would_change_the_answer_is_refused(fields: dict[str, object], param: str) -> None:
    """Uploaded files, filling a cache, and a call that cannot be made."""
    with pytest.raises(NotTranslatable) as refused:
        read(**fields)

    assert refused.value.param == param


@pytest.mark.parametrize(
    ("thinking", "effort", "is_read"),
    [
        (None, None, ("", None)),
        (None, "medium", ("medium", None)),
        ({"type": "adaptive"}, None, ("", None)),
        ({"type": "adaptive", "display": "omitted"}, "xhigh", ("xhigh", None)),
        ({"type": "enabled", "budget_tokens": 1024}, None, ("low", 1024)),
        ({"type": "enabled", "budget_tokens": 4000}, None, ("low", 4000)),
        ({"type": "enabled", "budget_tokens": 10_000}, None, ("medium", 10_000)),
        ({"type": "enabled", "budget_tokens": 31_999}, None, ("high", 31_999)),
        ({"type": "enabled", "budget_tokens": 31_999}, "low", ("low", 31_999)),
        ({"type": "enabled", "budget_tokens": 0}, None, ("none", 0)),
        ({"type": "disabled"}, "high", ("none", 0)),
    ],
)
def test_thinking_is_read(thinking: object, effort: object, is_read: tuple[str, int | None]) -> None:
    """A budget is an effort too, for those who know nothing else."""
    asked = read(thinking=thinking, output_config={"effort": effort})

    assert (asked.effort, asked.thinking_tokens) == is_read


def test_choices_and_forms_are_read() -> None:
    """Which tool, how many at once, and the answer's schema, where it stood before too."""
    schema = {"type": "object", "additionalProperties": False}
    tools = [{"name": "t", "input_schema": {"type": "object"}, "strict": True}]
    named = read(tools=tools, tool_choice={"type": "tool", "name": "t", "disable_parallel_tool_use": True})

    assert (named.choice, named.parallel_calls, named.tools[0].strict) == (Choice("required", "t"), False, True)
    assert read(tools=tools, tool_choice={"type": "any"}).choice == Choice("required")
    assert read(tools=tools, tool_choice={"type": "none"}).choice == Choice("none")
    assert read(tool_choice={"type": "auto"}).choice is None
    assert read(output_config={"format": {"type": "json_schema", "schema": schema}}).form == OutputForm(schema)
    assert read(output_format={"type": "json_schema", "schema": schema}).form == OutputForm(schema)
