"""Whole answers of chat completions: what upstreams say is read, whatever they leave out, and what callers get is OpenAI's."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion

from gateway.dialects.chat_answer import read_answer, write_answer
from gateway.dialects.talk import (
    Answer,
    Json,
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

STAMP = Stamp("a1b2", 1_700_000_000)
ASKED = Talk(model="gpt-x", items=(Message("user", (Text("Hello"),)),))
FREE = msgspec.structs.replace(ASKED, tools=(Tool("patch", free_form=True), Tool("f")))
EVERYTHING = Speech(
    seals=True, free_form=True, many_parts=True, mixed=True, stops=("stop", "length", "filter", "pause")
)


def completion(message: Json, reason: str | None = "stop", **fields: Json) -> bytes:
    """An upstream's answer."""
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": reason}
    return msgspec.json.encode({"id": "chatcmpl-1", "model": "up", "choices": [choice], **fields})


def called(name: str, arguments: Json, call_id: str | None = "c1") -> dict[str, Json]:
    """A message with one call."""
    return {"content": None, "tool_calls": [{"id": call_id, "function": {"name": name, "arguments": arguments}}]}


def said(text: str, *, refusal: bool = False) -> Message:
    """A message of the model's."""
    return Message("assistant", (Text(text),), refusal=refusal)


# ------------------------------------------------------------------ laws


@settings(max_examples=30, deadline=None)
@given(answers(Speech(free_form=True)))
def test_what_is_written_is_read_as_it_was(answer: Answer) -> None:
    """Everything that chat can hold; the model is called what its caller called it."""
    assert read_answer(write_answer(answer, ASKED, STAMP)) == answer


@settings(max_examples=30, deadline=None)
@given(answers(EVERYTHING))
def test_whatever_is_written_is_openais_and_stays_itself(answer: Answer) -> None:
    """The client library's own types take it, and what is read of it is written alike."""
    wire = write_answer(answer, ASKED, STAMP)
    taken = ChatCompletion.model_validate(msgspec.json.decode(wire))
    assert (taken.id, taken.created, taken.model) == ("chatcmpl-a1b2", STAMP.created, "gpt-x")
    assert write_answer(read_answer(wire), ASKED, STAMP) == wire


@settings(max_examples=60, deadline=None)
@given(junk())
def test_junk_is_unreadable(wire: bytes) -> None:
    """Never a failure of ours."""
    with pytest.raises(Unreadable):
        read_answer(wire)


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_what_is_almost_right_is_read_or_unreadable(data: st.DataObject) -> None:
    """One thing wrong anywhere in an answer that says much."""
    with suppress(Unreadable):
        write_answer(read_answer(data.draw(spoilt(MUCH)), FREE), FREE, STAMP)


MUCH = completion(
    {
        "content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "A"}],
        "refusal": "No",
        "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "patch", "arguments": '{"input":"x"}'}},
            {"id": "c2", "type": "custom", "custom": {"name": "g", "input": "y"}},
            {"function": {"name": "f", "arguments": {"a": 1}}},
        ],
    },
    "tool_calls",
    usage={
        "prompt_tokens": 9,
        "completion_tokens": 8,
        "total_tokens": 17,
        "prompt_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 2},
        "completion_tokens_details": {"reasoning_tokens": 4},
    },
)


# ------------------------------------------------------------------ read


def test_an_answer_is_read_as_its_items() -> None:
    """In chat's order, with everything that upstreams put into one."""
    assert read_answer(MUCH, FREE) == Answer(
        model="up",
        items=(
            Reasoning("hm"),
            said("A"),
            said("No", refusal=True),
            ToolCall("c1", "patch", "x", free_form=True),
            ToolCall("c2", "g", "y", free_form=True),
            ToolCall("call_chatcmpl-1_2", "f", '{"a":1}'),
        ),
        stop="tools",
        usage=Usage(input=9, output=8, cached=3, written=2, reasoning=4),
    )


@pytest.mark.parametrize(
    ("message", "items"),
    [
        ({"content": "A", "reasoning_content": "hm"}, (Reasoning("hm"), said("A"))),
        ({"content": "A", "reasoning": "hm"}, (Reasoning("hm"), said("A"))),
        ({"content": "A", "reasoning": "hm", "reasoning_content": "hm"}, (Reasoning("hm"), said("A"))),
        ({"content": "<think>hm</think>A"}, (said("<think>hm</think>A"),)),
        ({"content": None}, ()),
        ({"content": "", "refusal": None, "tool_calls": None}, ()),
        (called("f", ""), (ToolCall("c1", "f", "{}"),)),
        (called("f", None, ""), (ToolCall("call_chatcmpl-1_0", "f", "{}"),)),
        (called("f", '{"n":123456789012345678901}'), (ToolCall("c1", "f", '{"n":123456789012345678901}'),)),
    ],
)
def test_a_message_is_read(message: dict[str, Json], items: tuple[Any, ...]) -> None:
    """Forms that upstreams really use."""
    assert read_answer(completion(message)).items == items


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ('{"input":"a\\n\\"b\\""}', 'a\n"b"'),
        ('{"patch":"x"}', "x"),
        ("{}", ""),
        ("", ""),
        ("*** Begin Patch", "*** Begin Patch"),
        ('{"input":1}', '{"input":1}'),
        ('{"a":"x","b":"y"}', '{"a":"x","b":"y"}'),
        ('["x"]', '["x"]'),
    ],
)
def test_a_free_form_call_comes_back_bare(arguments: str, text: str) -> None:
    """Whatever the model made of the function with one text."""
    wire = completion(called("patch", arguments))
    assert read_answer(wire, FREE).items == (ToolCall("c1", "patch", text, free_form=True),)


def test_other_calls_stay_as_they_are() -> None:
    """Those of tools that were functions to begin with."""
    wire = completion(called("f", '{"input":"x"}'))
    assert read_answer(wire, FREE).items == read_answer(wire).items == (ToolCall("c1", "f", '{"input":"x"}'),)


@pytest.mark.parametrize(
    ("message", "reason", "stop"),
    [
        ({"content": "A"}, "stop", "stop"),
        ({"content": "A"}, None, "stop"),
        ({"content": "A"}, "eos", "stop"),
        ({"content": "A"}, "tool_calls", "stop"),
        ({"content": "A"}, "length", "length"),
        ({"content": "A"}, "content_filter", "filter"),
        ({"refusal": "No"}, "stop", "refusal"),
        (called("f", "{}"), "tool_calls", "tools"),
        (called("f", "{}"), "stop", "tools"),
        (called("f", "{"), "length", "length"),
    ],
)
def test_why_it_ended_is_read(message: dict[str, Json], reason: str | None, stop: Stop) -> None:
    """Calls end an answer, whatever the upstream calls it; and nothing else does."""
    assert read_answer(completion(message, reason)).stop == stop


@pytest.mark.parametrize(
    ("told", "usage"),
    [
        ({"prompt_tokens": 3, "completion_tokens": 2}, Usage(input=3, output=2)),
        ({"prompt_tokens": 3, "prompt_tokens_details": None, "cost": 0.1}, Usage(input=3)),
        ({"prompt_tokens": 3, "prompt_cache_hit_tokens": 1}, Usage(input=3, cached=1)),
        (None, None),
    ],
)
def test_usage_is_read(told: Json, usage: Usage | None) -> None:
    """Also of upstreams that tell little."""
    assert read_answer(completion({"content": "A"}, usage=told)).usage == usage


@pytest.mark.parametrize(
    "wire",
    [
        b"",
        b"[]",
        b'{"error":{"message":"overloaded","code":502}}',
        b'{"model":"up","choices":[]}',
        b'{"model":"up","choices":[{"finish_reason":"stop"}]}',
        completion({"content": "A"}, "error"),
        completion({"tool_calls": [{"id": "c"}]}),
        completion({"content": 1}),
        b"[" * 100_000,
    ],
)
def test_what_is_no_answer_is_unreadable(wire: bytes) -> None:
    """An upstream's error with the status of a success among it."""
    with pytest.raises(Unreadable):
        read_answer(wire)


# ------------------------------------------------------------------ written


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Answer(model="", items=(said("No", refusal=True),), stop="refusal"), "stop"),
        (Answer(model="", items=(), stop="refusal"), "content_filter"),
        (Answer(model="", items=(said("A"),), stop="pause"), "stop"),
        (Answer(model="", items=(ToolCall("c", "f", "{}"),), stop="tools"), "tool_calls"),
    ],
)
def test_why_it_ended_is_written(answer: Answer, reason: str) -> None:
    """Endings of others in OpenAI's words."""
    assert msgspec.json.decode(write_answer(answer, ASKED, STAMP))["choices"][0]["finish_reason"] == reason


def test_an_answer_looks_as_openais() -> None:
    """Byte for byte, so that a change of it is seen."""
    answer = Answer(
        model="up",
        items=(Reasoning("hm", "seal"), said("A"), ToolCall("c1", "f", "{}"), ToolCall("c2", "g", "x", free_form=True)),
        stop="tools",
        usage=Usage(input=3, output=2, reasoning=1),
    )
    assert msgspec.json.decode(write_answer(answer, ASKED, STAMP)) == {
        "id": "chatcmpl-a1b2",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "gpt-x",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "A",
                    "refusal": None,
                    "reasoning_content": "hm",
                    "tool_calls": [
                        {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}},
                        {"id": "c2", "type": "custom", "custom": {"name": "g", "input": "x"}},
                    ],
                },
                "logprobs": None,
                "finish_reason": "tool_calls",
            }
        ],
        "usage": {
            "prompt_tokens": 3,
            "completion_tokens": 2,
            "total_tokens": 5,
            "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 1},
        },
    }
