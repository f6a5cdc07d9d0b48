"""Ollama's whole answers, written."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.dialects.ollama_answer import Durations, rfc3339, write_chat, write_generate, write_loaded
from gateway.dialects.talk import Answer, Message, Reasoning, Stamp, Stop, Talk, Text, ToolCall, Usage
from tests.dialects.talks import Speech, answers

TALK = Talk(model="asked:latest", items=())
STAMP = Stamp("x", 1_700_000_000)
TOOK = Durations(total=5_000, load=1_000, prompt_eval=1_500, eval=2_500)
HI = Answer(model="theirs", items=(Message("assistant", (Text("hi"),)),), usage=Usage(input=26, output=2, cached=20))


def written(answer: Answer, took: Durations = TOOK) -> dict[str, Any]:
    """A chat's answer, as a client parses it."""
    return cast("dict[str, Any]", json.loads(write_chat(answer, TALK, STAMP, took)))


def test_a_chats_answer_has_ollamas_fields() -> None:
    """The name that was asked for, counts, times in nanoseconds."""
    assert written(HI) == {
        "model": "asked:latest",
        "created_at": "2023-11-14T22:13:20Z",
        "message": {"role": "assistant", "content": "hi"},
        "done": True,
        "done_reason": "stop",
        "prompt_eval_count": 26,
        "eval_count": 2,
        "total_duration": 5_000,
        "load_duration": 1_000,
        "prompt_eval_duration": 1_500,
        "eval_duration": 2_500,
    }


def test_what_is_not_known_is_left_out() -> None:
    """No counts, no times: no zeros that a client would divide by."""
    said = json.loads(write_chat(Answer(model="m", items=()), TALK, STAMP))
    assert set(said) == {"model", "created_at", "message", "done", "done_reason"}
    assert said["message"] == {"role": "assistant", "content": ""}


def test_a_generated_response_is_flat() -> None:
    """Thinking beside it; no `context`."""
    answer = Answer(model="m", items=(Reasoning("hm"), *HI.items), stop="length")
    said = json.loads(write_generate(answer, TALK, STAMP, TOOK))
    assert (said["response"], said["thinking"], said["done_reason"]) == ("hi", "hm", "length")
    assert not {"message", "role", "content", "context"} & set(said)


def test_calls_have_objects_as_arguments() -> None:
    """Exactly as the model wrote them; what is no object is an empty one."""
    arguments = ('{"n": 12345678901234567890123, "x":\n 1.10}', "", "[1]", '{"a":', '"text"')
    calls = tuple(ToolCall(f"id{n}", "f", text) for n, text in enumerate(arguments))
    raw = write_chat(Answer(model="m", items=calls, stop="tools"), TALK, STAMP)
    assert b'"arguments":{"n":12345678901234567890123,"x":1.10}' in raw
    said = json.loads(raw)
    assert said["done_reason"] == "stop"
    assert said["message"]["content"] == ""
    told = said["message"]["tool_calls"]
    assert [call["id"] for call in told] == ["id0", "id1", "id2", "id3", "id4"]
    assert [call["function"]["index"] for call in told] == [0, 1, 2, 3, 4]
    assert [call["function"]["arguments"] for call in told[1:]] == [{}, {}, {}, {}]


@pytest.mark.parametrize(
    ("stop", "reason"),
    [
        ("stop", "stop"),
        ("length", "length"),
        ("tools", "stop"),
        ("filter", "stop"),
        ("refusal", "stop"),
        ("pause", "stop"),
    ],
)
def test_reasons(stop: Stop, reason: str) -> None:
    """Ollama knows two of them."""
    assert written(Answer(model="m", items=(), stop=stop))["done_reason"] == reason


@pytest.mark.parametrize("reason", ["load", "unload"])
def test_who_only_wants_the_model_is_answered_without_a_word(reason: str) -> None:
    """In the fields of the route that was asked."""
    said = json.loads(write_loaded("m", STAMP, reason, chat=True, durations=Durations(total=7)))
    assert said["message"] == {"role": "assistant", "content": ""}
    assert (said["done"], said["done_reason"], said["total_duration"]) == (True, reason, 7)
    assert json.loads(write_loaded("m", STAMP, reason, chat=False))["response"] == ""


@settings(max_examples=60, deadline=None)
@given(answers(Speech(mixed=True, many_parts=True)))
def test_any_answer_is_one_line_that_holds_it_all(answer: Answer) -> None:
    """For everybody who cuts lines, also at what only Python calls a line's end."""
    for write in (write_chat, write_generate):
        text = write(answer, TALK, STAMP).decode()
        assert text.splitlines() == [text]
    message = written(answer)["message"]
    texts = [part for item in answer.items if isinstance(item, Message) for part in item.parts]
    assert message["content"] == "".join(part.text for part in texts if isinstance(part, Text))
    assert message.get("thinking", "") == "".join(item.text for item in answer.items if isinstance(item, Reasoning))
    calls = [item for item in answer.items if isinstance(item, ToolCall)]
    told = [(call["function"]["name"], call["function"]["arguments"]) for call in message.get("tool_calls", [])]
    assert told == [(call.name, json.loads(call.arguments)) for call in calls]


def test_a_line_is_not_cut_at_exotic_line_ends() -> None:
    """They come back as they were."""
    text = "a\x85b\u2028c\u2029d\x0be\x1cf\r\n\\\u2028"
    raw = write_chat(Answer(model="m", items=(Message("assistant", (Text(text),)),)), TALK, STAMP)
    assert raw.decode().splitlines() == [raw.decode()]
    assert json.loads(raw)["message"]["content"] == text


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 253_402_300_799) | st.sampled_from([951_782_399, 951_782_400, 951_868_800, 4_107_542_400]))
def test_times_are_those_of_the_calendar(seconds: int) -> None:
    """Every day of ten thousand years, leap days among them."""
    assert rfc3339(seconds) == datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ").rjust(20, "0")
