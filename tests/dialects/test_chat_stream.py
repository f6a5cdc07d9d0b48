"""Streamed answers of chat completions: piece by piece they amount to the whole, whatever the upstream's habits."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletionChunk

from gateway.dialects.chat_answer import read_answer, write_answer
from gateway.dialects.chat_stream import Reader, Writer
from gateway.dialects.sse import Event, EventParser
from gateway.dialects.talk import (
    Answer,
    Began,
    Closed,
    Delta,
    Finished,
    Grew,
    Json,
    Message,
    Opened,
    Reasoning,
    SaidError,
    Stamp,
    Stop,
    Talk,
    Text,
    Tool,
    ToolCall,
    Unreadable,
    Usage,
    as_answer,
    as_deltas,
)

from .talks import Speech, answers, cut, junk, pieces_of, spoilt

STAMP = Stamp("a1b2", 1_700_000_000)
ASKED = Talk(model="gpt-x", items=(Message("user", (Text("Hello"),)),), stream=True, usage_asked=True)
FREE = msgspec.structs.replace(ASKED, tools=(Tool("patch", free_form=True), Tool("f")))
DONE = Event("message", "[DONE]")
END = Finished("stop")


def written(deltas: Iterable[Delta], talk: Talk = ASKED) -> bytes:
    """The caller's stream."""
    writer = Writer(talk, STAMP)
    return b"".join(map(writer.write, deltas))


def events_of(pieces: Iterable[bytes]) -> list[Event]:
    """As a socket gives them."""
    parser = EventParser()
    return [event for piece in pieces for event in parser.feed(piece)]


def read(events: Iterable[Event], talk: Talk | None = None) -> list[Delta]:
    """What a reader makes of them all."""
    reader = Reader(talk)
    return [delta for event in events for delta in reader.feed(event)]


def event(payload: Json, name: str = "message") -> Event:
    """One with JSON in it."""
    return Event(name, msgspec.json.encode(payload).decode())


def chunk(delta: Json = None, reason: str | None = None, **fields: Json) -> Event:
    """An upstream's."""
    return event(
        {"id": "chatcmpl-1", "model": "up", "choices": [{"delta": delta or {}, "finish_reason": reason}], **fields}
    )


def piece(
    index: int | None = None, call_id: str | None = None, name: str | None = None, arguments: Json = None
) -> Event:
    """One of a call, with what it says and nothing else."""
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    said = {"index": index, "id": call_id, "function": function}
    return chunk({"tool_calls": [{key: value for key, value in said.items() if value is not None}]})


def answer_of(*events: Event, reason: str = "stop", talk: Talk | None = None) -> Answer:
    """What chunks amount to, once they have ended as they should."""
    return as_answer(read([*events, chunk(reason=reason), DONE], talk))


def chunks_of(stream: bytes) -> list[dict[str, Json]]:
    """Every chunk written; the last word must stand behind them."""
    *chunks, last = events_of([stream])
    assert last == DONE
    return [msgspec.json.decode(said.data) for said in chunks]


def said(text: str) -> Message:
    """A message of the model's."""
    return Message("assistant", (Text(text),))


# ------------------------------------------------------------------ laws


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_the_pieces_amount_to_the_whole(data: st.DataObject) -> None:
    """Texts cut anywhere, the stream's bytes cut anywhere."""
    answer = data.draw(answers(Speech(free_form=True)))
    stream = written(data.draw(pieces_of(answer)))
    assert as_answer(read(events_of(data.draw(cut(stream))))) == read_answer(write_answer(answer, ASKED, STAMP))


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_in_any_order_the_pieces_amount_to_the_whole(data: st.DataObject) -> None:
    """Items that chat would rather have in another order, with seals and parts that it does not know."""
    speech = Speech(seals=True, free_form=True, many_parts=True, mixed=True, stops=("stop", "length", "pause"))
    answer = data.draw(answers(speech))
    streamed = as_answer(read(events_of([written(data.draw(pieces_of(answer)))])))
    assert write_answer(streamed, ASKED, STAMP) == write_answer(answer, ASKED, STAMP)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_the_client_library_puts_it_together_again(data: st.DataObject) -> None:
    """Every chunk is of its type, and its own accumulation gives the answer."""
    answer = data.draw(answers(Speech(reasoning=False, stops=("stop",))))
    state = ChatCompletionStreamState()
    for said_chunk in chunks_of(written(data.draw(pieces_of(answer)))):
        state.handle_chunk(ChatCompletionChunk.model_validate(said_chunk))
    final = state.get_final_completion()
    whole = msgspec.json.decode(write_answer(answer, ASKED, STAMP))
    message = whole["choices"][0]["message"]
    assert (final.choices[0].message.content or None) == (message["content"] or None)
    assert final.choices[0].message.refusal == message["refusal"]
    assert final.choices[0].finish_reason == whole["choices"][0]["finish_reason"]
    told = [
        (call.id, call.function.name, call.function.arguments) for call in final.choices[0].message.tool_calls or ()
    ]
    assert told == [(item.id, item.name, item.arguments) for item in answer.items if isinstance(item, ToolCall)]
    assert (final.usage is None) == (answer.usage is None)


@settings(max_examples=60, deadline=None)
@given(junk())
def test_junk_is_unreadable_or_nothing(wire: bytes) -> None:
    """Never a failure of ours, and never an ending."""
    reader = Reader()
    with suppress(Unreadable, SaidError):
        assert not any(
            isinstance(delta, Finished) for delta in reader.feed(Event("message", wire.decode("utf-8", "replace")))
        )
    assert not reader.done


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_what_is_almost_right_is_read_or_unreadable(data: st.DataObject) -> None:
    """One thing wrong anywhere in chunks that say much; an ending is told once at most."""
    deltas: list[Delta] = []
    reader = Reader(FREE)
    with suppress(Unreadable, SaidError):
        for good in MUCH:
            deltas += reader.feed(Event("message", data.draw(spoilt(good.data.encode())).decode()))
        deltas += reader.feed(DONE)
    assert sum(isinstance(delta, Finished) for delta in deltas) == reader.done
    written(deltas, FREE)


MUCH = (
    chunk({"role": "assistant", "content": "", "reasoning_content": "hm"}),
    chunk({"content": "A", "refusal": "No"}),
    piece(0, "c1", "patch", '{"input":"x"}'),
    piece(1, "c2", "f", "{"),
    piece(1, arguments="}"),
    chunk({}, "tool_calls", usage={"prompt_tokens": 3, "completion_tokens": 2}),
)


# ------------------------------------------------------------------ read


def test_a_stream_is_read_as_it_comes() -> None:
    """Each piece with its chunk; what was open is closed as soon as something else begins; the ending with the last word."""
    reader = Reader()
    assert reader.feed(chunk({"role": "assistant", "content": ""})) == [Began("up")]
    assert reader.feed(chunk({"reasoning": "h"})) == [Opened("reasoning"), Grew("h")]
    assert reader.feed(chunk({"reasoning": "m"})) == [Grew("m")]
    assert reader.feed(chunk({"content": "A"})) == [Closed(), Opened("text"), Grew("A")]
    assert reader.feed(piece(0, "c1", "f", "")) == [Closed(), Opened("call", "c1", "f")]
    assert reader.feed(piece(0, arguments='{"a"')) == [Grew('{"a"')]
    assert reader.feed(piece(0, "c1", "f", ":1}")) == [Grew(":1}")]
    assert reader.feed(piece(1, "c2", "f")) == [Closed(), Opened("call", "c2", "f")]
    assert reader.feed(chunk(reason="tool_calls")) == [Grew("{}"), Closed()]
    assert reader.feed(event({"choices": [], "usage": {"prompt_tokens": 3}})) == []
    assert not reader.done
    assert reader.feed(DONE) == [Finished("tools", usage=Usage(input=3))]
    assert reader.done
    assert reader.feed(DONE) == []


CALLS = (ToolCall("c1", "f", '{"a":1}'), ToolCall("c2", "g", "{}"))
HABITS: dict[str, list[Event]] = {
    "whole calls": [piece(0, "c1", "f", '{"a":1}'), piece(1, "c2", "g", "{}")],
    "whole calls, all at once": [
        chunk(
            {
                "tool_calls": [
                    {"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}},
                    {"index": 1, "id": "c2", "type": "function", "function": {"name": "g", "arguments": ""}},
                ]
            }
        )
    ],
    "arguments that are objects": [piece(0, "c1", "f", {"a": 1}), piece(1, "c2", "g", {})],
    "every call has the index 0": [piece(0, "c1", "f", '{"a":'), piece(0, "c1", "", "1}"), piece(0, "c2", "g", "{}")],
    "no call has an index": [
        piece(None, "c1", "f", '{"a"'),
        piece(None, arguments=":1}"),
        piece(None, "c2", "g", "{}"),
    ],
    "ids and names in every piece": [
        piece(0, "c1", "f", '{"a"'),
        piece(0, "c1", "f", ":1}"),
        piece(1, "c2", "g", "{}"),
    ],
    "indices begin anywhere": [piece(3, "c1", "f", '{"a":1}'), piece(7, "c2", "g")],
    "an empty piece afterwards": [piece(0, "c1", "f", '{"a":1}'), piece(1, "c2", "g", "{}"), piece(0, "c1", "f", "")],
}


@pytest.mark.parametrize("events", HABITS.values(), ids=HABITS.keys())
@pytest.mark.parametrize("reason", ["tool_calls", "stop"])
def test_calls_are_read_whatever_the_upstreams_habits(events: list[Event], reason: str) -> None:
    """Calls end the answer even where the upstream says otherwise."""
    answer = answer_of(*events, reason=reason)
    assert (answer.items, answer.stop) == (CALLS, "tools")


@pytest.mark.parametrize("indices", [(0, 1), (None, None)])
def test_calls_without_ids_get_some(indices: tuple[int | None, int | None]) -> None:
    """Ones that no other answer has."""
    first, second = indices
    items = answer_of(piece(first, None, "f", "{"), piece(first, arguments="}"), piece(second, "", "g", "{}")).items
    assert items == (ToolCall("call_chatcmpl-1_0", "f", "{}"), ToolCall("call_chatcmpl-1_1", "g", "{}"))


def test_a_custom_call_of_the_upstreams_stays_free_form() -> None:
    """Also one that says nothing: no JSON is made of it."""
    events = [
        chunk({"tool_calls": [{"index": at, "id": f"c{at}", "custom": {"name": "patch", "input": text}}]})
        for at, text in enumerate(("x", ""))
    ]
    assert answer_of(*events).items == tuple(
        ToolCall(f"c{at}", "patch", text, True) for at, text in enumerate(("x", ""))
    )


@pytest.mark.parametrize(
    "events",
    [
        [piece(0, "c1", "f", "{"), piece(1, "c2", "f", "{}"), piece(0, arguments="}")],
        [piece(0, "c1", "f", "{"), piece(1, "c2", "f", "{}"), piece(0, "c1", "f", "}")],
        [piece(0, None, "f", "{"), piece(1, None, "g", "{}"), piece(0, None, "f", "}")],
        [piece(0, "c1", "f", "{"), chunk({"content": "A"}), piece(0, arguments="}")],
        [piece(0, "c1", arguments="{}")],
        [chunk({"content": "A"}, "stop"), chunk({"content": "B"})],
        [chunk({"content": "A"}, "stop"), piece(0, "c1", "f", "{}")],
        [chunk({"content": "A"}), DONE],
        [DONE],
        [chunk({"content": 1})],
        [event([])],
        [Event("message", "{")],
    ],
)
def test_what_cannot_be_put_anywhere_is_unreadable(events: list[Event]) -> None:
    """Pieces of what is closed, answers that go on after their ending, last words without one."""
    with pytest.raises(Unreadable):
        read(events)


@pytest.mark.parametrize(
    ("said_event", "error"),
    [
        (event({"error": {"message": "overloaded", "code": 502}}), {"message": "overloaded", "code": 502}),
        (event({"error": "overloaded"}), {"message": "overloaded"}),
        (event({"message": "overloaded"}, "error"), {"message": "overloaded"}),
        (event({"object": "error", "message": "no", "code": 400}), {"object": "error", "message": "no", "code": 400}),
        (chunk({"content": ""}, "error", error={"message": "gone", "code": 502}), {"message": "gone", "code": 502}),
        (chunk({"content": ""}, "error"), {"message": "The upstream ended its answer with an error"}),
    ],
)
def test_an_error_in_the_stream_is_the_upstreams_own(said_event: Event, error: Json) -> None:
    """However it says it."""
    reader = Reader()
    reader.feed(chunk({"content": "A"}))
    with pytest.raises(SaidError) as caught:
        reader.feed(said_event)
    assert caught.value.error == error


TOLD = {"prompt_tokens": 3, "completion_tokens": 2}


@pytest.mark.parametrize(
    ("events", "usage"),
    [
        ([chunk(reason="stop"), event({"choices": [], "usage": TOLD})], Usage(input=3, output=2)),
        ([chunk(reason="stop", usage=TOLD)], Usage(input=3, output=2)),
        ([chunk(reason="stop"), chunk({"content": ""}, "stop", usage=TOLD)], Usage(input=3, output=2)),
        ([chunk({}, usage={"prompt_tokens": 3}), chunk(reason="stop", usage=TOLD)], Usage(input=3, output=2)),
        ([chunk(reason="stop", usage=None)], None),
    ],
)
def test_usage_is_told_when_the_upstream_likes(events: list[Event], usage: Usage | None) -> None:
    """After its ending, with it, all the time or never."""
    assert read([chunk({"content": "A"}), *events, DONE])[-1] == Finished("stop", usage=usage)


@pytest.mark.parametrize(
    ("events", "items"),
    [
        ([chunk({"content": "<think>hm</think>A"})], (said("<think>hm</think>A"),)),
        (
            [chunk({"reasoning_content": "hm", "reasoning": "hm"}), chunk({"content": "A"})],
            (Reasoning("hm"), said("A")),
        ),
        ([chunk({"reasoning_content": "hm", "content": "A"})], (Reasoning("hm"), said("A"))),
        (
            [event({"choices": []}), chunk({"content": None}), Event("message", ""), chunk({"content": "A"})],
            (said("A"),),
        ),
        ([event({"choices": [{"index": 1, "delta": {"content": "B"}}]}), chunk({"content": "A"})], (said("A"),)),
        ([chunk({"content": [{"type": "text", "text": "A"}]})], (said("A"),)),
        ([chunk({"tool_calls": None, "content": "A"})], (said("A"),)),
    ],
)
def test_pieces_are_read_whatever_the_upstreams_habits(events: list[Event], items: tuple[Any, ...]) -> None:
    """What is empty opens nothing; what is not the first choice is nobody's."""
    assert answer_of(*events).items == items


@pytest.mark.parametrize(("reason", "stop"), [("length", "length"), ("content_filter", "filter"), ("eos", "stop")])
def test_why_it_ended_is_read(reason: str, stop: Stop) -> None:
    """As of a whole answer."""
    assert answer_of(chunk({"content": "A"}), reason=reason).stop == stop


def test_a_free_form_call_comes_back_bare() -> None:
    """Its JSON is taken away once it is whole; the other tools' calls go on as they come."""
    events = [piece(0, "c1", "patch", '{"in'), piece(0, arguments='put":"a\\n"}'), piece(1, "c2", "f", '{"input":"x"}')]
    assert read(events, FREE)[1:] == [
        Opened("call", "c1", "patch", free_form=True),
        Grew("a\n"),
        Closed(),
        Opened("call", "c2", "f"),
        Grew('{"input":"x"}'),
    ]


# ------------------------------------------------------------------ written


def test_a_stream_looks_as_openais() -> None:
    """Chunk by chunk, so that a change of it is seen."""
    answer = Answer(
        model="up",
        items=(Reasoning("hm", "seal"), said("A"), ToolCall("c1", "f", "{}"), ToolCall("c2", "g", "x", free_form=True)),
        stop="tools",
        usage=Usage(input=3, output=2),
    )
    *chunks, usage = chunks_of(written(as_deltas(answer)))
    for one in chunks:
        assert (one["id"], one["object"], one["model"]) == ("chatcmpl-a1b2", "chat.completion.chunk", "gpt-x")
        assert (one["created"], one["usage"]) == (STAMP.created, None)
    first = [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": ""}}]
    second = [{"id": "c2", "type": "custom", "custom": {"name": "g", "input": ""}}]
    assert [one["choices"][0]["delta"] for one in chunks] == [
        {"role": "assistant", "content": ""},
        {"reasoning_content": "hm"},
        {"content": "A"},
        {"tool_calls": [{"index": 0, **first[0]}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]},
        {"tool_calls": [{"index": 1, **second[0]}]},
        {"tool_calls": [{"index": 1, "custom": {"input": "x"}}]},
        {},
    ]
    assert [one["choices"][0]["finish_reason"] for one in chunks] == [*([None] * 7), "tool_calls"]
    assert (usage["choices"], usage["usage"]["total_tokens"]) == ([], 5)


def test_usage_is_told_to_those_who_asked() -> None:
    """And to nobody where the upstream does not tell; what it told at the beginning counts."""
    asked, not_asked = ASKED, msgspec.structs.replace(ASKED, usage_asked=False)
    told = Finished("stop", usage=Usage(input=3))
    assert len(chunks_of(written([Began("up"), told], asked))) == 3
    assert len(chunks_of(written([Began("up"), told], not_asked))) == 2
    assert "usage" not in chunks_of(written([Began("up"), told], not_asked))[0]
    assert len(chunks_of(written([Began("up"), END], asked))) == 2
    assert len(chunks_of(written([Began("up", Usage(input=3)), END], asked))) == 3


def test_every_delta_is_complete_events_at_once() -> None:
    """Nothing waits for the next one."""
    writer = Writer(ASKED, STAMP)
    for delta in as_deltas(
        Answer(model="up", items=(Reasoning("hm"), said("A"), ToolCall("c", "f", "{}")), stop="tools")
    ):
        wire = writer.write(delta)
        assert not wire or wire.endswith(b"\n\n")
        assert bool(wire) or not isinstance(delta, Grew)
