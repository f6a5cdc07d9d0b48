"""Streamed answers of Anthropic's Messages API: whatever the pieces, they amount to the whole."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from gateway.dialects.messages_answer import read_answer, write_answer
from gateway.dialects.messages_stream import Reader, Writer
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
    Text,
    Tool,
    ToolCall,
    Unreadable,
    Usage,
    as_answer,
    as_deltas,
)

from .talks import answers, cut, junk, pieces_of, spoilt
from .test_messages_answer import HEARD, STAMP, TALK, ShapeOfAnswer, normal_answer


def stream_of(deltas: list[Delta]) -> bytes:
    """As a caller gets it."""
    return b"".join(map(Writer(TALK, STAMP).write, deltas))


def events_of(stream: bytes) -> list[Event]:
    """As a client sees it."""
    return EventParser().feed(stream)


def deltas_of(events: list[Event], reader: Reader | None = None) -> list[Delta]:
    """As an upstream's stream is read."""
    reader = reader or Reader()
    return [delta for event in events for delta in reader.feed(event)]


def event(kind: str, **fields: object) -> Event:
    """One of an upstream's."""
    return Event(kind, msgspec.json.encode({"type": kind, **fields}).decode())


def heard_by_the_client(events: list[Event]) -> dict[str, Any]:
    """What Anthropic's client libraries make of a stream; they fail where this fails.

    Source: anthropic-sdk-python, lib/streaming.
    """
    message: dict[str, Any] = {}
    inputs: dict[int, str] = {}
    for number, arrived in enumerate(events):
        said = msgspec.json.decode(arrived.data)
        assert said["type"] == arrived.name
        assert (arrived.name == "message_start") == (number == 0)
        assert (arrived.name == "message_stop") == (number == len(events) - 1)
        if arrived.name == "message_start":
            message = said["message"]
            msgspec.convert(message, ShapeOfAnswer)
        elif arrived.name == "content_block_start":
            assert said["index"] == len(message["content"])
            message["content"].append(said["content_block"])
        elif arrived.name == "content_block_delta":
            block, piece = message["content"][said["index"]], said["delta"]
            match piece["type"], block["type"]:
                case "text_delta", "text":
                    block["text"] += piece["text"]
                case "thinking_delta", "thinking":
                    block["thinking"] += piece["thinking"]
                case "signature_delta", "thinking":
                    block["signature"] = piece["signature"]
                case "input_json_delta", "tool_use":
                    inputs[said["index"]] = inputs.get(said["index"], "") + piece["partial_json"]
                case pair:
                    raise AssertionError(pair)
        elif arrived.name == "message_delta":
            message |= said["delta"]
            message["usage"] |= said["usage"]
    for index, written in inputs.items():
        message["content"][index]["input"] = msgspec.json.decode(written)
    return message


# ------------------------------------------------------------------ laws


@given(st.data())
@settings(max_examples=50)
def test_the_pieces_amount_to_the_whole(data: st.DataObject) -> None:
    """However they are cut; and the client library makes of them what the whole answer says."""
    answer = data.draw(answers(HEARD))
    stream = stream_of(data.draw(pieces_of(answer)))
    whole = write_answer(answer, TALK, STAMP)
    parser, reader = EventParser(), Reader()
    arrived = [event for piece in data.draw(cut(stream)) for event in parser.feed(piece)]

    assert as_answer(deltas_of(arrived, reader)) == read_answer(whole) == normal_answer(answer)
    assert reader.done
    assert heard_by_the_client(arrived) == msgspec.json.decode(whole)


@given(st.data())
@settings(max_examples=30)
def test_a_free_form_tools_input_is_found_again(data: st.DataObject) -> None:
    """Its pieces stand in JSON; what is read from them is the text."""
    answer = data.draw(answers(replace(HEARD, free_form=True)))
    items = tuple(item for item in answer.items if not isinstance(item, ToolCall) or item.free_form)
    answer = replace(answer, items=items)
    tools = tuple(Tool(item.name, free_form=True) for item in items if isinstance(item, ToolCall))
    stream = stream_of(data.draw(pieces_of(answer)))

    assert as_answer(deltas_of(events_of(stream), Reader(replace(TALK, tools=tools)))) == normal_answer(answer)


@given(st.lists(junk(), max_size=3), st.sampled_from(["message", "message_start", "content_block_delta", "error"]))
def test_junk_is_unreadable_or_an_error(bodies: list[bytes], name: str) -> None:
    """Or passed over, as an event of a kind that is not known; it never ends a stream."""
    reader = Reader()
    try:
        deltas = deltas_of([Event(name, body.decode("utf-8", "replace")) for body in bodies], reader)
    except (Unreadable, SaidError):
        return
    assert all(isinstance(delta, Began) for delta in deltas)
    assert not reader.done


@given(st.data())
@settings(max_examples=40)
def test_a_stream_with_one_thing_wrong_is_read_or_unreadable(data: st.DataObject) -> None:
    """What is read has one beginning, and one end at most."""
    events = events_of(stream_of(as_deltas(data.draw(answers(HEARD)))))
    at = data.draw(st.integers(0, len(events) - 1))
    events[at] = replace(events[at], data=data.draw(spoilt(events[at].data.encode())).decode())
    try:
        deltas = deltas_of(events, Reader(TALK))
    except (Unreadable, SaidError):
        return
    assert [isinstance(delta, Began) for delta in deltas].count(True) <= 1
    assert [isinstance(delta, Finished) for delta in deltas].count(True) <= 1


# ------------------------------------------------------------------ reading what others write


START = event("message_start", message={"model": "claude-x", "usage": {"input_tokens": 25, "output_tokens": 1}})
STOP = event("message_stop")
CALL: dict[str, object] = {"type": "tool_use", "id": "t", "name": "Bash", "input": {}}
TEXT = event("content_block_start", index=0, content_block={"type": "text", "text": ""})
HI = event("content_block_delta", index=0, delta={"type": "text_delta", "text": "Hi"})
ENDED = event("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 15})


def test_a_stream_of_the_original_is_read() -> None:
    """With pings, a search in between, citations, and counts that come in two places."""
    search = {"type": "server_tool_use", "id": "s", "name": "web_search"}
    reader = Reader()
    deltas = deltas_of(
        [
            START,
            event("content_block_start", index=0, content_block={"type": "thinking", "thinking": "", "signature": ""}),
            event("ping"),
            event("content_block_delta", index=0, delta={"type": "thinking_delta", "thinking": "hm"}),
            event("content_block_delta", index=0, delta={"type": "signature_delta", "signature": "c2ln"}),
            event("content_block_stop", index=0),
            event("content_block_start", index=1, content_block=search),
            event("content_block_delta", index=1, delta={"type": "input_json_delta", "partial_json": "{}"}),
            event("content_block_stop", index=1),
            event("content_block_start", index=2, content_block=CALL),
            event("content_block_delta", index=2, delta={"type": "input_json_delta", "partial_json": ""}),
            event("content_block_delta", index=2, delta={"type": "input_json_delta", "partial_json": '{"a":'}),
            event("content_block_delta", index=2, delta={"type": "input_json_delta", "partial_json": " 1}"}),
            event("content_block_stop", index=2),
            event(
                "message_delta", delta={"stop_reason": "tool_use", "stop_sequence": None}, usage={"output_tokens": 15}
            ),
        ],
        reader,
    )

    assert not reader.done
    assert deltas == [
        Began("claude-x", Usage(input=25, output=1)),
        Opened("reasoning"),
        Grew("hm"),
        Closed("c2ln"),
        Opened("call", "t", "Bash"),
        Grew('{"a":'),
        Grew(" 1}"),
        Closed(),
    ]
    assert reader.feed(STOP) == [Finished("tools", usage=Usage(input=25, output=15))]
    assert reader.done
    assert reader.feed(HI) == []


@pytest.mark.parametrize(
    ("events", "items"),
    [
        ([TEXT, HI], (Message("assistant", (Text("Hi"),)),)),
        (
            [
                event("content_block_start", content_block={"type": "text", "text": "H"}),
                event("content_block_delta", delta={"type": "text_delta", "text": "i"}),
                Event("message", "[DONE]"),
            ],
            (Message("assistant", (Text("Hi"),)),),
        ),
        (
            [
                event("content_block_start", index=0, content_block={**CALL, "input": {"a": 1}}),
                event("content_block_start", index=1, content_block={**CALL, "id": "j"}),
            ],
            (ToolCall("t", "Bash", '{"a":1}'), ToolCall("j", "Bash", "{}")),
        ),
        (
            [
                event("content_block_start", content_block={"type": "server_tool_use"}),
                event("content_block_delta", delta={"type": "input_json_delta", "partial_json": "{}"}),
                event("content_block_start", content_block=CALL),
                event("content_block_delta", delta={"type": "input_json_delta", "partial_json": ""}),
            ],
            (ToolCall("t", "Bash", "{}"),),
        ),
        (
            [event("content_block_start", index=0, content_block={"type": "redacted_thinking", "data": "d"})],
            (Reasoning("", "d", hidden=True),),
        ),
    ],
)
def test_imitations_are_read(events: list[Event], items: object) -> None:
    """Without names, without ends of blocks, with everything in a block's beginning."""
    nameless = [replace(one, name="message") for one in [START, *events, ENDED, STOP]]

    assert as_answer(deltas_of(nameless)).items == items


@pytest.mark.parametrize(
    "events",
    [
        [TEXT],
        [START, START],
        [START, HI],
        [START, TEXT, event("content_block_delta", index=1, delta={"type": "text_delta", "text": "x"})],
        [START, Event("content_block_delta", "{")],
        [START, event("content_block_start", index=0)],
    ],
)
def test_what_is_no_stream_is_unreadable(events: list[Event]) -> None:
    """Pieces without a beginning, twice begun, of a block that is not there, or cut short."""
    with pytest.raises(Unreadable):
        deltas_of(events)


def test_a_stream_without_its_last_word_has_no_end() -> None:
    """The end is never made up."""
    reader = Reader()

    assert not any(isinstance(delta, Finished) for delta in deltas_of([START, TEXT, HI, ENDED], reader))
    assert not reader.done


@pytest.mark.parametrize("name", ["error", "message"])
@pytest.mark.parametrize(
    ("data", "message"),
    [
        ('{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}', "Overloaded"),
        ('{"error":{"message":"Out of memory"}}', "Out of memory"),
        ('{"error":"Out of memory"}', "Out of memory"),
    ],
)
def test_an_error_in_a_stream_is_told(name: str, data: str, message: str) -> None:
    """Whether or not its event is named, at any time."""
    for before in ([], [START], [START, TEXT, HI]):
        with pytest.raises(SaidError, match=message) as said:
            deltas_of([*before, Event(name, data)])

        assert said.value.error["message"] == message


def test_a_ping_may_be_empty() -> None:
    """It says nothing, and some say it without data."""
    assert deltas_of([START, Event("ping", "")]) == deltas_of([START])


def test_an_error_need_not_be_json() -> None:
    """A proxy's, for instance."""
    with pytest.raises(SaidError, match="Bad gateway"):
        deltas_of([START, Event("error", "Bad gateway")])


# ------------------------------------------------------------------ writing


def test_an_error_ends_a_stream() -> None:
    """As Anthropic's clients expect it: in an event of its own name."""
    writer = Writer(TALK, STAMP)
    stream = writer.write(Began("m")) + writer.failed({"type": "api_error", "message": "It broke"})

    with pytest.raises(SaidError, match="It broke"):
        deltas_of(events_of(stream))
    assert events_of(stream)[-1].name == "error"


@pytest.mark.parametrize(
    ("pieces", "heard"),
    [
        (["", ""], {}),
        ([" ", "\n"], {}),
        (["[1", "]"], {}),
        (["no", 'ne {"a":1}'], {}),
        ([" ", '{"a"', ":1}"], {"a": 1}),
    ],
)
def test_clients_are_never_given_arguments_that_are_no_object(pieces: list[str], heard: object) -> None:
    """Their libraries would fail on them; a whole answer says the same."""
    call = [Opened("call", "i", "n"), *map(Grew, pieces), Closed()]
    events = events_of(stream_of([Began("m"), *call, Finished("tools")]))
    whole = Answer(model="m", items=(ToolCall("i", "n", "".join(pieces)),), stop="tools")

    assert heard_by_the_client(events)["content"][0]["input"] == heard
    assert msgspec.json.decode(write_answer(whole, TALK, STAMP))["content"][0]["input"] == heard


@pytest.mark.parametrize("thought", [Reasoning("", "c2ln"), Reasoning(), Reasoning("", "d", hidden=True)])
def test_a_thought_without_words_stays_what_it_is(thought: Reasoning) -> None:
    """A model may keep its thinking to itself and still sign it."""
    answer = Answer(model="gpt-x", items=(thought,), usage=Usage())
    events = events_of(stream_of(as_deltas(answer)))

    assert as_answer(deltas_of(events)) == answer
    assert heard_by_the_client(events) == msgspec.json.decode(write_answer(answer, TALK, STAMP))


def test_each_piece_is_told_at_once() -> None:
    """But for reasoning's beginning, which waits for its first word; counts that are known early are told early."""
    writer = Writer(TALK, STAMP)

    assert b'"input_tokens":25' in writer.write(Began("m", Usage(input=25)))
    assert writer.write(Opened("reasoning")) == b""
    assert [one.name for one in events_of(writer.write(Grew("hm")))] == ["content_block_start", "content_block_delta"]
    assert writer.write(Closed()).count(b"event: content_block_stop") == 1
    assert b'"text":""' in writer.write(Opened("text"))
    assert writer.write(Grew("Hi")) == (
        b"event: content_block_delta\n"
        b'data: {"type":"content_block_delta","index":1,"delta":{"type":"text_delta","text":"Hi"}}\n\n'
    )
