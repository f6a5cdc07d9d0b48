"""Streams of the Responses API as others than OpenAI tell them: fewer events, other names, no numbers, errors of several forms."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest

from gateway.dialects.responses_stream import Reader, Writer
from gateway.dialects.sse import Event, EventParser
from gateway.dialects.talk import (
    Answer,
    Began,
    Delta,
    Finished,
    Message,
    Reasoning,
    SaidError,
    Stamp,
    Talk,
    Text,
    ToolCall,
    Unreadable,
    Usage,
    as_answer,
)


def read(events: Iterable[Event]) -> list[Delta]:
    """By one reader, which must come to its end."""
    reader = Reader()
    deltas = [delta for event in events for delta in reader.feed(event)]
    assert reader.done
    return deltas


def sse(*said: dict[str, Any]) -> list[Event]:
    """Events as an upstream tells them."""
    return [Event(data["type"], json.dumps(data)) for data in said]


DONE: dict[str, Any] = {
    "type": "response.completed",
    "response": {"id": "r", "model": "m", "status": "completed", "output": []},
}


def item_events(item: dict[str, Any], number: int, *between: dict[str, Any]) -> list[dict[str, Any]]:
    """An item added, told and done."""
    begun = {key: item[key] for key in ("id", "type", "call_id", "name") if key in item}
    added = {"type": "response.output_item.added", "output_index": number, "item": begun}
    return [
        added,
        *({"output_index": number, **said} for said in between),
        {**added, "type": "response.output_item.done", "item": item},
    ]


def test_llama_cpps_unnumbered_items_are_told_apart_by_name() -> None:
    """No output_index, no numbers; all items end at the end, in a row."""
    thought: dict[str, Any] = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": ""}
    message = {"type": "message", "id": "msg_1", "role": "assistant"}
    call = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "f"}
    added, done = "response.output_item.added", "response.output_item.done"
    events = sse(
        {"type": "response.created", "response": {"id": "r", "model": "m"}},
        {"type": added, "item": {**thought, "content": []}},
        {"type": "response.reasoning_text.delta", "item_id": "rs_1", "delta": "H"},
        {"type": "response.reasoning_text.delta", "item_id": "rs_1", "delta": "m"},
        {"type": added, "item": {**message, "content": []}},
        {"type": "response.content_part.added", "item_id": "msg_1", "part": {"type": "output_text", "text": ""}},
        {"type": "response.output_text.delta", "item_id": "msg_1", "delta": "Hi"},
        {"type": added, "item": {**call, "arguments": ""}},
        {"type": "response.function_call_arguments.delta", "item_id": "fc_1", "delta": "{}"},
        {"type": done, "item": {**thought, "content": [{"type": "reasoning_text", "text": "Hm"}]}},
        {"type": "response.output_text.done", "item_id": "msg_1", "text": "Hi"},
        {"type": "response.content_part.done", "item_id": "msg_1", "part": {"type": "output_text", "text": "Hi"}},
        {"type": done, "item": {**message, "content": [{"type": "output_text", "text": "Hi"}]}},
        {"type": done, "item": {**call, "arguments": "{}"}},
        {
            "type": "response.completed",
            "response": {"status": "completed", "usage": {"input_tokens": 3, "output_tokens": 2}},
        },
    )
    assert as_answer(read(events)) == Answer(
        model="m",
        items=(Reasoning("Hm"), Message("assistant", (Text("Hi"),)), ToolCall("call_1", "f", "{}")),
        stop="tools",
        usage=Usage(input=3, output=2),
    )


def test_vllms_call_is_opened_with_what_its_first_piece_repeats() -> None:
    """The arguments come once all the same."""
    call = {"type": "function_call", "id": "x", "call_id": "call_1", "name": "f"}
    events = sse(
        {"type": "response.output_item.added", "output_index": 0, "item": {**call, "arguments": '{"a"'}},
        {"type": "response.function_call_arguments.delta", "output_index": 0, "item_id": "x", "delta": '{"a"'},
        {"type": "response.function_call_arguments.delta", "output_index": 0, "item_id": "x", "delta": ":1}"},
        {"type": "response.output_item.done", "output_index": 0, "item": {**call, "arguments": '{"a":1}'}},
        DONE,
    )
    assert as_answer(read(events)).items == (ToolCall("call_1", "f", '{"a":1}'),)


def test_ollamas_summary_comes_without_parts() -> None:
    """Deltas right after the item; its seal is told at the end."""
    thought: dict[str, Any] = {
        "type": "reasoning",
        "id": "rs_1",
        "summary": [{"type": "summary_text", "text": "Hm"}],
        "encrypted_content": "Hm",
    }
    delta = {"type": "response.reasoning_summary_text.delta", "item_id": "rs_1", "summary_index": 0, "delta": "Hm"}
    events = sse(*item_events(thought, 0, delta), DONE)
    assert as_answer(read(events)).items == (Reasoning("Hm", "Hm"),)


def test_parts_of_a_summary_are_set_apart_and_told_once() -> None:
    """Several summaries are paragraphs; where raw text is told too, the first kind to come is it."""
    thought: dict[str, Any] = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "s"}
    kind = "response.reasoning_summary_text.delta"
    events = sse(
        *item_events(
            thought,
            0,
            {"type": kind, "summary_index": 0, "delta": "a"},
            {"type": "response.reasoning_text.delta", "content_index": 0, "delta": "raw"},
            {"type": kind, "summary_index": 1, "delta": "b"},
        ),
        DONE,
    )
    assert as_answer(read(events)).items == (Reasoning("a\n\nb", "s"),)


def test_a_message_of_several_parts_is_several() -> None:
    """Text, then a refusal; what has no pieces is taken from its end."""
    content = [
        {"type": "output_text", "text": "ab"},
        {"type": "refusal", "refusal": "No"},
        {"type": "output_text", "text": "c"},
    ]
    events = sse(
        *item_events(
            {"type": "message", "id": "m", "content": content},
            0,
            {"type": "response.output_text.delta", "content_index": 0, "delta": "a"},
            {"type": "response.output_text.done", "content_index": 0, "text": "ab"},
            {"type": "response.refusal.delta", "content_index": 1, "delta": "N"},
        ),
        DONE,
    )
    answer = as_answer(read(events))
    assert answer.items == (
        Message("assistant", (Text("ab"),)),
        Message("assistant", (Text("No"),), refusal=True),
        Message("assistant", (Text("c"),)),
    )
    assert answer.stop == "refusal"


ITEMS: list[dict[str, Any]] = [
    {"type": "reasoning", "id": "rs", "summary": [], "encrypted_content": "s"},
    {"type": "web_search_call", "id": "ws", "status": "completed"},
    {"type": "message", "id": "msg", "content": [{"type": "output_text", "text": "Hi"}]},
    {"type": "function_call", "id": "fc", "call_id": "c", "name": "f", "arguments": "{}"},
    {"type": "custom_tool_call", "id": "ctc", "call_id": "d", "name": "g", "input": "x"},
]
WHOLE_ITEMS = (
    Reasoning("", "s", hidden=True),
    Message("assistant", (Text("Hi"),)),
    ToolCall("c", "f", "{}"),
    ToolCall("d", "g", "x", free_form=True),
)


@pytest.mark.parametrize("way", ["only the last event", "only finished items", "items without pieces"])
def test_fewer_events_tell_the_same(way: str) -> None:
    """Finished items, or the finished response, are enough."""
    last = {**DONE, "response": {**DONE["response"], "output": ITEMS}}
    match way:
        case "only the last event":
            events = sse(last)
        case "only finished items":
            events = sse(*({"type": "response.output_item.done", "item": item} for item in ITEMS), DONE)
        case _:
            events = sse(*(said for number, item in enumerate(ITEMS) for said in item_events(item, number)), last)
    deltas = read(events)
    assert isinstance(deltas[0], Began)
    assert as_answer(deltas).items == WHOLE_ITEMS
    assert [type(delta) for delta in deltas].count(Finished) == 1


def test_a_call_without_arguments_is_an_empty_object() -> None:
    """Whether its end says so or not."""
    call = {"type": "function_call", "id": "a", "call_id": "c", "name": "f"}
    added = {"type": "response.output_item.added", "output_index": 0, "item": call}
    assert as_answer(read(sse(added, DONE))).items == (ToolCall("c", "f", "{}"),)


def test_unknown_events_comments_and_a_done_marker_are_passed_over() -> None:
    """New events come every month; `[DONE]` without a response's end is no end."""
    reader = Reader()
    for data in (
        "",
        "[DONE]",
        '{"type":"response.web_search_call.searching","output_index":0}',
        '{"type":"keepalive"}',
    ):
        assert reader.feed(Event("message", data)) == []
    assert not reader.done
    assert len(reader.feed(Event("response.completed", json.dumps(DONE)))) == 2
    assert reader.done
    assert reader.feed(Event("message", json.dumps(DONE))) == []


@pytest.mark.parametrize(
    ("said", "message", "code"),
    [
        (
            {"type": "error", "code": "rate_limit_exceeded", "message": "slow", "sequence_number": 2},
            "slow",
            "rate_limit_exceeded",
        ),
        ({"type": "error", "error": {"message": "slow", "code": 429}}, "slow", 429),
        ({"error": {"message": "slow", "code": 500, "type": "server_error"}}, "slow", 500),
        (
            {"type": "response.failed", "response": {"error": {"code": "server_error", "message": "boom"}}},
            "boom",
            "server_error",
        ),
        ({"type": "response.completed", "response": {"status": "failed", "error": {"message": "boom"}}}, "boom", None),
        ({"type": "response.failed", "response": {}}, "the response has failed", None),
        ({"error": "no words"}, "no words", None),
    ],
)
def test_an_error_in_the_stream_is_said(said: dict[str, Any], message: str, code: object) -> None:
    """Flat, nested or within a failed response; after pieces too."""
    reader = Reader()
    [created, _] = EventParser().feed(Writer(Talk(model="m", items=()), Stamp("1", 1)).write(Began("m")))
    reader.feed(created)
    with pytest.raises(SaidError, match=message) as caught:
        reader.feed(Event("message", json.dumps(said)))
    assert caught.value.error.get("code") == code


def test_mixed_pieces_of_two_items_are_unreadable() -> None:
    """One after the other is all that a stream of pieces can hold: better none than the wrong text."""
    added = {"type": "response.output_item.added"}
    reader = Reader()
    for number in range(2):
        for event in sse({**added, "output_index": number, "item": {"type": "message", "id": f"m{number}"}}):
            reader.feed(event)
    with pytest.raises(Unreadable, match="mixed"):
        reader.feed(*sse({"type": "response.output_text.delta", "output_index": 0, "delta": "x"}))
