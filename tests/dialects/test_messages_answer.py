"""Answers of Anthropic's Messages API: read as it writes them, written as its documentation has them."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from gateway.dialects.messages_answer import read_answer, write_answer
from gateway.dialects.talk import (
    Answer,
    Message,
    Reasoning,
    Stamp,
    Stop,
    Talk,
    Text,
    Tool,
    ToolCall,
    Unreadable,
    Usage,
)

from .talks import Speech, answers, junk, spoilt

STAMP = Stamp("7f-3", 1_700_000_000)
TALK = Talk(model="gpt-x", items=(), tools=(Tool("apply_patch", free_form=True),))
HEARD = Speech(seals=True, mixed=True, many_parts=True)


# ------------------------------------------------------------------ the documented shape, and nothing beside it


class TextBlock(msgspec.Struct, tag="text", forbid_unknown_fields=True):
    """Source: platform.claude.com/docs/en/api/messages, as all of these."""

    text: str


class ThinkingBlock(msgspec.Struct, tag="thinking", forbid_unknown_fields=True):
    """The signature is not optional."""

    thinking: str
    signature: str


class RedactedBlock(msgspec.Struct, tag="redacted_thinking", forbid_unknown_fields=True):
    """No text at all."""

    data: str


class ToolUseBlock(msgspec.Struct, tag="tool_use", forbid_unknown_fields=True):
    """The input is an object, always."""

    id: str
    name: str
    input: dict[str, Any]


class ShapeOfDetails(msgspec.Struct, forbid_unknown_fields=True):
    """A part of the output."""

    thinking_tokens: int


class ShapeOfUsage(msgspec.Struct, forbid_unknown_fields=True):
    """Clients add these counts up."""

    input_tokens: int
    output_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens_details: ShapeOfDetails | None = None


Reason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use", "pause_turn", "refusal"]


class ShapeOfAnswer(msgspec.Struct, forbid_unknown_fields=True):
    """Every field is there, null or not."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[TextBlock | ThinkingBlock | RedactedBlock | ToolUseBlock]
    stop_reason: Reason | None
    stop_sequence: str | None
    usage: ShapeOfUsage


def normal_answer(answer: Answer) -> Answer:
    """What this dialect can hold: a message has one part, a refusal is a reason to stop, and usage is always told."""
    items: list[Message | Reasoning | ToolCall] = []
    refused = False
    for item in answer.items:
        if isinstance(item, Message):
            refused = refused or item.refusal
            items += [Message("assistant", (part,)) for part in item.parts]
        else:
            items.append(item)
    refusal = answer.stop == "filter" or (refused and answer.stop == "stop")
    return replace(
        answer, items=tuple(items), stop="refusal" if refusal else answer.stop, usage=answer.usage or Usage()
    )


# ------------------------------------------------------------------ laws


@given(answers(HEARD))
@settings(max_examples=60)
def test_what_is_written_is_read_again(answer: Answer) -> None:
    """And its shape is the documented one."""
    body = write_answer(answer, TALK, STAMP)
    said = msgspec.json.decode(body, type=ShapeOfAnswer)

    assert (said.id, said.model, said.stop_reason is None) == ("msg_7f-3", "gpt-x", False)
    assert read_answer(body) == normal_answer(answer)


@given(answers(replace(HEARD, free_form=True)))
@settings(max_examples=40)
def test_a_free_form_tools_input_is_found_again(answer: Answer) -> None:
    """For a caller who gave such tools."""
    names = {item.name for item in answer.items if isinstance(item, ToolCall) and item.free_form}
    items = tuple(item for item in answer.items if not isinstance(item, ToolCall) or item.free_form)
    answer = replace(answer, items=items)
    talk = replace(TALK, tools=tuple(Tool(name, free_form=True) for name in names))

    assert read_answer(write_answer(answer, talk, STAMP), talk) == normal_answer(answer)


@given(junk())
def test_junk_is_unreadable(body: bytes) -> None:
    """An upstream may say anything; only an answer without content has the form of one."""
    try:
        answer = read_answer(body)
    except Unreadable:
        return
    assert answer.items == ()


@given(st.data())
@settings(max_examples=40)
def test_an_answer_with_one_thing_wrong_is_read_or_unreadable(data: st.DataObject) -> None:
    """Nothing else ever comes of it."""
    body = data.draw(spoilt(write_answer(data.draw(answers(HEARD)), TALK, STAMP)))
    try:
        read_answer(body, TALK)
    except Unreadable:
        return


# ------------------------------------------------------------------ as others write it


def answered(**fields: object) -> Answer:
    """An upstream's answer."""
    return read_answer(msgspec.json.encode({"content": [], "model": "claude-x", **fields}), TALK)


def test_an_answer_of_the_original_is_read() -> None:
    """With what it adds: searches, citations, callers, details."""
    usage = {
        "input_tokens": 10,
        "cache_read_input_tokens": 100,
        "cache_creation_input_tokens": 1000,
        "output_tokens": 7,
        "output_tokens_details": {"thinking_tokens": 3},
        "cache_creation": {"ephemeral_5m_input_tokens": 1000},
        "service_tier": "standard",
    }
    answer = answered(
        content=[
            {"type": "thinking", "thinking": "", "signature": "c2ln"},
            {"type": "redacted_thinking", "data": "aGlkZGVu"},
            {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "x"}},
            {"type": "web_search_tool_result", "tool_use_id": "s", "content": [{"type": "web_search_result"}]},
            {"type": "text", "text": "Found", "citations": [{"type": "char_location"}]},
            {"type": "tool_use", "id": "t", "name": "Bash", "input": {"n": 1.50}, "caller": {"type": "direct"}},
        ],
        stop_reason="tool_use",
        stop_sequence=None,
        stop_details=None,
        usage=usage,
    )

    assert answer == Answer(
        model="claude-x",
        items=(
            Reasoning("", "c2ln"),
            Reasoning("", "aGlkZGVu", hidden=True),
            Message("assistant", (Text("Found"),)),
            ToolCall("t", "Bash", '{"n":1.5}'),
        ),
        stop="tools",
        usage=Usage(input=1110, output=7, cached=100, written=1000, reasoning=3),
    )


@pytest.mark.parametrize(
    ("reason", "stop"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("tool_use", "tools"),
        ("refusal", "refusal"),
        ("pause_turn", "pause"),
        ("of tomorrow", "stop"),
        (None, "stop"),
    ],
)
def test_reasons_to_stop_are_read(reason: str | None, stop: Stop) -> None:
    """What is new is taken for an end."""
    assert answered(stop_reason=reason).stop == stop


def test_without_a_reason_calls_are_one() -> None:
    """Imitations leave it out."""
    assert answered(content=[{"type": "tool_use", "id": "i", "name": "n", "input": None}]) == Answer(
        model="claude-x", items=(ToolCall("i", "n", "{}"),), stop="tools"
    )


@pytest.mark.parametrize("given_", ['{"input":1}', '{"patch":"x"}', "{}"])
def test_what_a_free_form_tool_is_given_in_another_way_is_kept(given_: str) -> None:
    """All that the model wrote is what there is."""
    call = {"type": "tool_use", "id": "i", "name": "apply_patch", "input": msgspec.Raw(given_.encode())}

    assert answered(content=[call]).items == (ToolCall("i", "apply_patch", given_, free_form=True),)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Answer(model="", items=(), stop="stop", stop_text="END"), "stop_sequence"),
        (Answer(model="", items=(Message("assistant", (Text("No"),), refusal=True),)), "refusal"),
        (Answer(model="", items=(), stop="filter"), "refusal"),
        (Answer(model="", items=(), stop="length"), "max_tokens"),
    ],
)
def test_reasons_to_stop_are_written(answer: Answer, reason: str) -> None:
    """In Anthropic's words."""
    assert msgspec.json.decode(write_answer(answer, TALK, STAMP))["stop_reason"] == reason


def test_counts_of_tokens_never_fall_below_nothing() -> None:
    """Where an upstream counts what it had cached, but not among its input."""
    body = write_answer(Answer(model="", items=(), usage=Usage(input=5, cached=9)), TALK, STAMP)

    assert msgspec.json.decode(body)["usage"]["input_tokens"] == 0
