"""Streams of the Responses API: valid, equal to the whole, and accumulated by the openai client itself."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, get_args

from hypothesis import given, settings
from hypothesis import strategies as st
from openai import AsyncOpenAI, pydantic_function_tool
from openai.types.responses import ResponseStreamEvent
from pydantic import BaseModel

from gateway.dialects.responses_answer import apart, read_answer, write_answer
from gateway.dialects.responses_request import read_request
from gateway.dialects.responses_stream import Reader, Writer
from gateway.dialects.sse import Event, EventParser
from gateway.dialects.talk import (
    Answer,
    Began,
    Closed,
    Delta,
    Finished,
    Grew,
    Message,
    Opened,
    Reasoning,
    SaidError,
    Stamp,
    Talk,
    Text,
    Tool,
    ToolCall,
    Unreadable,
    Usage,
    as_answer,
    as_deltas,
)
from tests.dialects.talks import Speech, answers, cut, junk, pieces_of, spoilt
from tests.fakes.upstream import FakeUpstream

STAMP = Stamp("0a-1", 1_700_000_000)
TALK = Talk(model="gpt-x", items=())
FREE = Talk(model="gpt-x", items=(), tools=(Tool("apply_patch", free_form=True),))
SPOKEN = Speech(seals=True, free_form=True, mixed=True, many_parts=True, stops=("stop", "length", "filter", "refusal"))
EVENT_TYPES: Mapping[str, type[BaseModel]] = {
    get_args(kind.model_fields["type"].annotation)[0]: kind for kind in get_args(get_args(ResponseStreamEvent)[0])
}
ANSWER = Answer(
    model="gpt-x",
    items=(
        Reasoning("Let me see.", "c2VhbA=="),
        Message("assistant", (Text("The weather:"),)),
        ToolCall("call_1", "get_weather", '{"city":"Köln"}'),
        ToolCall("call_2", "apply_patch", "*** Begin Patch\n", free_form=True),
    ),
    stop="tools",
    usage=Usage(input=10, output=7, cached=4, written=1, reasoning=3),
)


def streamed(deltas: Iterable[Delta], talk: Talk = TALK) -> bytes:
    """What a caller gets."""
    writer = Writer(talk, STAMP)
    return b"".join(map(writer.write, deltas))


def events_of(stream: bytes) -> list[Event]:
    """As one piece."""
    return EventParser().feed(stream)


def told(stream: bytes) -> list[dict[str, Any]]:
    """The data of its events."""
    return [json.loads(event.data) for event in events_of(stream)]


def read(events: Iterable[Event]) -> list[Delta]:
    """By one reader, which must come to its end."""
    reader = Reader()
    deltas = [delta for event in events for delta in reader.feed(event)]
    assert reader.done
    return deltas


# ------------------------------------------------------------ laws


@settings(max_examples=30, deadline=None)
@given(
    answers(SPOKEN).flatmap(lambda answer: st.tuples(st.just(answer), pieces_of(answer))), st.sampled_from((TALK, FREE))
)
def test_a_stream_amounts_to_the_whole(drawn: tuple[Answer, list[Delta]], talk: Talk) -> None:
    """Law: read piece by piece it is what the whole reads as, and its last event holds the very same object."""
    answer, deltas = drawn
    stream = streamed(deltas, talk)
    whole = write_answer(answer, talk, STAMP)
    assert as_answer(read(events_of(stream))) == read_answer(whole)
    assert told(stream)[-1]["response"] == json.loads(whole)


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_a_stream_may_be_cut_anywhere(data: st.DataObject) -> None:
    """Law: sockets know no events."""
    stream = streamed(as_deltas(data.draw(answers(SPOKEN))))
    parser = EventParser()
    pieces = [event for piece in data.draw(cut(stream)) for event in parser.feed(piece)]
    assert pieces == events_of(stream)
    read(pieces)


@settings(max_examples=15, deadline=None)
@given(answers(SPOKEN).flatmap(pieces_of), st.sampled_from((TALK, FREE)))
def test_every_event_is_valid_for_the_openai_package(deltas: list[Delta], talk: Talk) -> None:
    """Law: its pydantic types take each; numbers without a gap; `event:` and `type` alike."""
    events = events_of(streamed(deltas, talk))
    for number, event in enumerate(events):
        data = json.loads(event.data)
        assert (event.name, number) == (data["type"], data["sequence_number"])
        EVENT_TYPES[event.name].model_validate(data)


@settings(max_examples=50, deadline=None)
@given(
    junk()
    | st.sampled_from(told(streamed(as_deltas(ANSWER)))).map(lambda data: json.dumps(data).encode()).flatmap(spoilt)
)
def test_an_event_that_nobody_meant_never_breaks_the_reader(data: bytes) -> None:
    """Law: pieces, Unreadable or SaidError; at any place of a stream."""
    for before in (0, 3, 6, 12):
        reader = Reader()
        for event in events_of(streamed(as_deltas(ANSWER)))[:before]:
            reader.feed(event)
        try:
            reader.feed(Event("message", data.decode("utf-8", "replace")))
        except (Unreadable, SaidError):
            continue


# ------------------------------------------------------------ what is written


def test_the_sequence_of_events_is_openais() -> None:
    """Every event that a client may wait for, in its order."""
    names = [event.name.removeprefix("response.") for event in events_of(streamed(as_deltas(ANSWER)))]
    assert names == [
        *("created", "in_progress"),
        *("output_item.added", "reasoning_summary_part.added", "reasoning_summary_text.delta"),
        *("reasoning_summary_text.done", "reasoning_summary_part.done", "output_item.done"),
        *("output_item.added", "content_part.added", "output_text.delta", "output_text.done", "content_part.done"),
        *("output_item.done",),
        *("output_item.added", "function_call_arguments.delta", "function_call_arguments.done", "output_item.done"),
        *("output_item.added", "custom_tool_call_input.delta", "custom_tool_call_input.done", "output_item.done"),
        "completed",
    ]


def test_pieces_go_out_at_once() -> None:
    """Only an item's end waits, for what comes next; an empty piece says nothing."""
    writer = Writer(TALK, STAMP)
    assert [name(writer.write(delta)) for delta in (Began("m"), Opened("text"), Grew("a"), Grew(""), Closed())] == [
        ["response.created", "response.in_progress"],
        ["response.output_item.added", "response.content_part.added"],
        ["response.output_text.delta"],
        [],
        [],
    ]
    last = name(writer.write(Finished("stop")))
    assert last == [
        *("response.output_text.done", "response.content_part.done", "response.output_item.done"),
        "response.completed",
    ]


def name(stream: bytes) -> list[str]:
    """Of its events."""
    return [event.name for event in events_of(stream)]


def test_a_cut_off_answer_ends_incomplete_and_so_does_its_last_item() -> None:
    """No client may take half a call for a whole one."""
    answer = Answer(model="m", items=(Message("assistant", (Text("a"),)), ToolCall("c", "f", '{"x"')), stop="length")
    *_, done, last = told(streamed(as_deltas(answer)))
    assert (last["type"], last["response"]["incomplete_details"]) == (
        "response.incomplete",
        {"reason": "max_output_tokens"},
    )
    assert (done["type"], done["item"]["status"]) == ("response.output_item.done", "incomplete")
    assert [item["status"] for item in last["response"]["output"]] == ["completed", "incomplete"]


def test_a_free_form_tools_text_is_told_when_it_is_whole() -> None:
    """A function's arguments around it cannot be taken off piece by piece."""
    deltas = [
        Began("m"),
        Opened("call", "c", "apply_patch"),
        Grew('{"in'),
        Grew('put":"*** é"}'),
        Closed(),
        Finished("tools"),
    ]
    events = told(streamed(deltas, FREE))
    assert [event["delta"] for event in events if event["type"].endswith(".delta")] == ["*** é"]
    assert events[2]["item"]["type"] == "custom_tool_call"
    assert events[-1]["response"]["output"][0]["input"] == "*** é"


def test_a_failure_keeps_what_was_whole() -> None:
    """`response.failed` is a last word that clients understand, before the beginning too."""
    writer = Writer(TALK, STAMP)
    stream = b"".join(map(writer.write, as_deltas(ANSWER)[:6]))
    events = told(stream + writer.failed("It broke", "server_error"))
    for event in events:
        EVENT_TYPES[event["type"]].model_validate(event)
    assert events[-1]["type"] == "response.failed"
    assert events[-1]["response"]["error"] == {"code": "server_error", "message": "It broke"}
    assert [item["type"] for item in events[-1]["response"]["output"]] == ["reasoning"]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert name(Writer(TALK, STAMP).failed("x")) == ["response.created", "response.in_progress", "response.failed"]


# ------------------------------------------------------------ the openai client's own accumulation


class Weather(BaseModel):
    """A tool's arguments, and a form of the answer."""

    city: str


def http(stream: bytes) -> bytes:
    """An answer's bytes on the wire."""
    head = f"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: {len(stream)}\r\n\r\n"
    return head.encode() + stream


async def test_the_openai_client_accumulates_tools_reasoning_and_text() -> None:
    """responses.stream() over a real connection, with a tool whose arguments it parses; its request is one that can be read."""
    async with (
        FakeUpstream() as upstream,
        AsyncOpenAI(base_url=upstream.base_url, api_key="k", max_retries=0) as client,
    ):
        upstream.queue(http(streamed(pieces(ANSWER))))
        tools: list[Any] = [pydantic_function_tool(Weather, name="get_weather")]
        async with client.responses.stream(model="gpt-x", input="hi", tools=tools) as stream:
            seen = [event async for event in stream]
            final = await stream.get_final_response()
        talk = read_request(upstream.requests[0].body)
    deltas = [event.delta for event in seen if event.type == "response.output_text.delta"]
    assert deltas == list("The weather:")
    thoughts = [event.delta for event in seen if event.type == "response.reasoning_summary_text.delta"]
    assert "".join(thoughts) == "Let me see."
    assert final.output_text == "The weather:"
    call = final.output[2]
    assert call.type == "function_call"
    assert call.parsed_arguments == Weather(city="Köln")
    assert final.usage is not None
    assert (final.usage.total_tokens, final.usage.input_tokens_details.cached_tokens) == (17, 4)
    assert (talk.stream, talk.tools[0].name, talk.tools[0].strict) == (True, "get_weather", True)


def pieces(answer: Answer) -> list[Delta]:
    """Letter by letter."""
    return [
        piece
        for delta in as_deltas(answer)
        for piece in (map(Grew, delta.text) if isinstance(delta, Grew) else [delta])
    ]


async def test_the_openai_client_parses_an_answer_of_a_form() -> None:
    """text_format with a pydantic class, streamed and whole."""
    answer = Answer(model="gpt-x", items=(Message("assistant", (Text('{"city":"Köln"}'),)),))
    async with (
        FakeUpstream() as upstream,
        AsyncOpenAI(base_url=upstream.base_url, api_key="k", max_retries=0) as client,
    ):
        upstream.queue(http(streamed(pieces(answer))))
        async with client.responses.stream(model="gpt-x", input="hi", text_format=Weather) as stream:
            await stream.until_done()
            final = await stream.get_final_response()
        talk = read_request(upstream.requests[0].body)
        whole = write_answer(answer, talk, STAMP)
        upstream.queue(http(whole).replace(b"text/event-stream", b"application/json"))
        parsed = await client.responses.parse(model="gpt-x", input="hi", text_format=Weather)
    assert talk.form is not None
    assert (talk.form.name, talk.form.strict) == ("Weather", True)
    assert final.output_parsed == parsed.output_parsed == Weather(city="Köln")


async def test_the_openai_client_hears_of_a_refusal_and_of_a_failure() -> None:
    """Both are events, and neither is an exception out of the blue."""
    refused = Answer(model="gpt-x", items=(Message("assistant", (Text("No."),), refusal=True),), stop="refusal")
    writer = Writer(TALK, STAMP)
    broken = b"".join(map(writer.write, as_deltas(ANSWER)[:5])) + writer.failed("It broke")
    async with (
        FakeUpstream() as upstream,
        AsyncOpenAI(base_url=upstream.base_url, api_key="k", max_retries=0) as client,
    ):
        upstream.queue(http(streamed(pieces(refused))))
        async with client.responses.stream(model="gpt-x", input="hi") as stream:
            final = await stream.get_final_response()
        upstream.queue(http(broken))
        async with client.responses.stream(model="gpt-x", input="hi") as stream:
            seen = [event async for event in stream]
    message = final.output[0]
    assert message.type == "message"
    assert message.content[0].type == "refusal"
    last = seen[-1]
    assert last.type == "response.failed"
    assert last.response.error is not None
    assert last.response.error.message == "It broke"


def test_the_pieces_of_a_message_are_apart() -> None:
    """As `apart` has it, so that stream and whole agree about its items."""
    assert list(apart(Message("assistant", (Text("a"), Text("b"))))) == [
        Message("assistant", (Text("a"),)),
        Message("assistant", (Text("b"),)),
    ]
