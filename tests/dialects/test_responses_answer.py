"""Answers of the Responses API: valid for the openai package's own types, there and back, and as others than OpenAI write them."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from openai.types.responses import Response

from gateway.dialects.responses_answer import read_answer, write_answer
from gateway.dialects.responses_request import read_request
from gateway.dialects.talk import (
    Answer,
    Message,
    OutputForm,
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
from tests.dialects.talks import GRAMMAR, Speech, answers, junk, spoilt, talks

STAMP = Stamp("0a-1", 1_700_000_000)
HELD = Speech(seals=True, free_form=True, mixed=True, stop_texts=False)
WHOLE = Speech(
    seals=True, free_form=True, mixed=True, many_parts=True, stops=("stop", "length", "filter", "pause", "refusal")
)
TALK = Talk(model="alias", items=())


def written(answer: Answer, talk: Talk = TALK) -> dict[str, Any]:
    """As JSON."""
    return json.loads(write_answer(answer, talk, STAMP))


@settings(max_examples=30, deadline=None)
@given(answers(HELD))
def test_what_is_written_reads_as_the_same_answer(answer: Answer) -> None:
    """Law: there and back, usage too."""
    assert read_answer(write_answer(answer, Talk(model=answer.model, items=()), STAMP)) == answer


@settings(max_examples=20, deadline=None)
@given(answers(WHOLE), talks(Speech(free_form=True)))
def test_every_answer_is_valid_for_the_openai_package(answer: Answer, talk: Talk) -> None:
    """Law: its pydantic types take it, whatever was asked and answered."""
    response = Response.model_validate_json(write_answer(answer, talk, STAMP))
    texts = [
        part.text
        for item in answer.items
        if isinstance(item, Message) and not item.refusal
        for part in item.parts
        if isinstance(part, Text)
    ]
    assert response.output_text == "".join(texts)
    assert [tool.type for tool in response.tools] == ["custom" if tool.free_form else "function" for tool in talk.tools]
    assert len({item.id for item in response.output}) == len(response.output)


def test_an_answer_is_written_item_by_item() -> None:
    """Names are made of the stamp and the number; the model's name is the caller's."""
    items = (
        Reasoning("Hm", "seal"),
        Message("assistant", (Text("a"), Text("b"))),
        ToolCall("call_1", "f", '{"x":1}'),
        ToolCall("call_2", "patch", "*** Begin", free_form=True),
        Message("assistant", (Text("No."),), refusal=True),
    )
    usage = Usage(input=10, output=7, cached=4, written=2, reasoning=3)
    response = written(Answer(model="upstreams-own", items=items, stop="tools", usage=usage))
    assert (response["id"], response["model"], response["status"]) == ("resp_0a-1", "alias", "completed")
    assert (response["object"], response["created_at"], response["error"]) == ("response", 1_700_000_000, None)
    done = {"status": "completed"}
    said = {"type": "message", "role": "assistant", **done}
    assert response["output"] == [
        {
            "id": "rs_0a-1_0",
            "type": "reasoning",
            **done,
            "summary": [{"type": "summary_text", "text": "Hm"}],
            "encrypted_content": "seal",
        },
        {"id": "msg_0a-1_1", **said, "content": [text_part("a")]},
        {"id": "msg_0a-1_2", **said, "content": [text_part("b")]},
        {"id": "fc_0a-1_3", "type": "function_call", **done, "call_id": "call_1", "name": "f", "arguments": '{"x":1}'},
        {
            "id": "ctc_0a-1_4",
            "type": "custom_tool_call",
            **done,
            "call_id": "call_2",
            "name": "patch",
            "input": "*** Begin",
        },
        {"id": "msg_0a-1_5", **said, "content": [{"type": "refusal", "refusal": "No."}]},
    ]
    assert response["usage"] == {
        "input_tokens": 10,
        "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 2},
        "output_tokens": 7,
        "output_tokens_details": {"reasoning_tokens": 3},
        "total_tokens": 17,
    }


def text_part(text: str) -> dict[str, object]:
    """As the API writes it."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


@pytest.mark.parametrize(
    ("stop", "refused", "status", "reason"),
    [
        ("stop", False, "completed", None),
        ("tools", False, "completed", None),
        ("pause", False, "completed", None),
        ("refusal", True, "completed", None),
        ("refusal", False, "incomplete", "content_filter"),
        ("filter", False, "incomplete", "content_filter"),
        ("length", False, "incomplete", "max_output_tokens"),
    ],
)
def test_every_stop_has_a_status(stop: Stop, refused: bool, status: str, reason: str | None) -> None:
    """An answer that was cut off says why, and so does its last item; what was whole before stays whole."""
    items = (Reasoning("Hm"), Message("assistant", (Text("a"),), refusal=refused))
    response = written(Answer(model="m", items=items, stop=stop))
    assert response["status"] == status
    assert response["incomplete_details"] == (reason and {"reason": reason})
    assert [item["status"] for item in response["output"]] == ["completed", status]


def test_what_was_asked_is_repeated() -> None:
    """Tools, choice, form and limits of the caller's; instructions are not, they may be long."""
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    body = {
        "model": "alias",
        "input": "hi",
        "instructions": "Be brief",
        "tools": [{"type": "function", "name": "f", "parameters": schema, "strict": True, "description": "d"}],
        "tool_choice": {"type": "function", "name": "f"},
        "text": {
            "format": {"type": "json_schema", "name": "out", "schema": schema, "strict": True},
            "verbosity": "low",
        },
        "temperature": 0.5,
        "top_p": 0.25,
        "max_output_tokens": 9,
        "parallel_tool_calls": False,
        "reasoning": {"effort": "high"},
    }
    response = written(Answer(model="m", items=()), read_request(json.dumps(body).encode()))
    for name in ("tools", "tool_choice", "text", "temperature", "top_p", "max_output_tokens", "parallel_tool_calls"):
        assert response[name] == body[name]
    assert response["reasoning"]["effort"] == "high"
    assert (response["instructions"], response["store"]) == (None, False)
    assert written(Answer(model="m", items=()), Talk(model="a", items=(), form=OutputForm()))["text"]["format"] == {
        "type": "json_object"
    }


def test_a_call_of_a_namespaces_tool_goes_back_under_both_names() -> None:
    """Codex looks it up so; the model knew one flat name only."""
    inner = [{"type": "function", "name": "read"}]
    body = {"model": "m", "input": "hi", "tools": [{"type": "namespace", "name": "mcp__files", "tools": inner}]}
    talk = read_request(json.dumps(body).encode())
    [item] = written(Answer(model="m", items=(ToolCall("c", "mcp__files__read", "{}"),)), talk)["output"]
    assert (item["name"], item["namespace"]) == ("read", "mcp__files")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ('{"input":"*** Begin\\n"}', "*** Begin\n"),
        ('{"patch":""}', ""),
        ("*** Begin", "*** Begin"),
        ('{"a":"x","b":"y"}', '{"a":"x","b":"y"}'),
        ('{"a":1}', '{"a":1}'),
        ("{}", "{}"),
    ],
)
def test_a_free_form_tool_called_as_a_function_gets_its_text(arguments: str, text: str) -> None:
    """Upstreams without such tools are given a function of one text."""
    talk = Talk(model="m", items=(), tools=(Tool("patch", free_form=True, grammar=GRAMMAR),))
    [item] = written(Answer(model="m", items=(ToolCall("c", "patch", arguments),)), talk)["output"]
    assert (item["type"], item["input"]) == ("custom_tool_call", text)


@pytest.mark.parametrize(
    ("reasoning", "back"),
    [
        (Reasoning("", "x", hidden=True), Reasoning("", "x", hidden=True)),
        (Reasoning("", "x"), Reasoning("", "x")),
        (Reasoning("t", "x"), Reasoning("t", "x")),
        (Reasoning(""), Reasoning("")),
    ],
)
def test_a_seal_comes_back_as_what_it_was(reasoning: Reasoning, back: Reasoning) -> None:
    """Hidden thoughts and those whose text is merely not shown are different things to their maker."""
    answer = Answer(model="m", items=(reasoning,))
    assert read_answer(write_answer(answer, TALK, STAMP)).items == (back,)


def test_what_llama_cpp_leaves_out_is_done_without() -> None:
    """No details of usage, no status of items, content in reasoning; a web search is nothing to a caller."""
    response = {
        "id": "resp_1",
        "object": "response",
        "model": "m",
        "status": "completed",
        "output": [
            {
                "type": "reasoning",
                "summary": [],
                "content": [{"type": "reasoning_text", "text": "Hm"}],
                "encrypted_content": "",
            },
            {"type": "web_search_call", "id": "ws_1"},
            {
                "type": "message",
                "content": [{"type": "output_text", "text": "Hi"}, {"type": "refusal", "refusal": "No"}],
            },
            {"type": "function_call", "id": "fc_1", "name": "f", "arguments": ""},
        ],
        "usage": {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5},
    }
    assert read_answer(json.dumps(response).encode()) == Answer(
        model="m",
        items=(
            Reasoning("Hm"),
            Message("assistant", (Text("Hi"),)),
            Message("assistant", (Text("No"),), refusal=True),
            ToolCall("fc_1", "f", "{}"),
        ),
        stop="tools",
        usage=Usage(input=3, output=2),
    )


@pytest.mark.parametrize(
    ("response", "words"),
    [
        ({"status": "failed", "error": {"code": "server_error", "message": "boom"}, "output": []}, "boom"),
        ({"status": "in_progress", "output": []}, "in_progress"),
        ({"status": "completed"}, "output"),
        ({"output": "x"}, "output"),
        ({"output": [], "usage": {"input_tokens": "x"}}, "usage"),
    ],
)
def test_what_is_no_answer_is_unreadable(response: dict[str, object], words: str) -> None:
    """A failed response tells why."""
    with pytest.raises(Unreadable, match=words):
        read_answer(json.dumps(response).encode())


GOOD = write_answer(
    Answer(
        model="m",
        items=(
            Reasoning("Hm", "s"),
            Message("assistant", (Text("a"),)),
            Message("assistant", (Text("No"),), refusal=True),
            ToolCall("c", "f", "{}"),
            ToolCall("d", "g", "x", free_form=True),
        ),
        stop="length",
        usage=Usage(input=1),
    ),
    TALK,
    STAMP,
)


@settings(max_examples=30, deadline=None)
@given(junk() | spoilt(GOOD))
def test_a_body_that_nobody_meant_never_breaks_the_reader(body: bytes) -> None:
    """Law: an answer, or Unreadable."""
    try:
        answer = read_answer(body)
    except Unreadable:
        return
    assert msgspec.json.decode(write_answer(answer, TALK, STAMP))["object"] == "response"
