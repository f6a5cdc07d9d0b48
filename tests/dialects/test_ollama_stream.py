"""Ollama's streams, written: whole lines, which together say what the whole answer says."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, cast

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.dialects.ollama_answer import Durations, write_chat, write_generate
from gateway.dialects.ollama_stream import KEEP_ALIVE, ChatWriter, GenerateWriter, Writer, failed
from gateway.dialects.talk import (
    Answer,
    Began,
    Closed,
    Delta,
    Finished,
    Grew,
    Message,
    Opened,
    Stamp,
    Talk,
    Text,
    Usage,
    as_answer,
    as_deltas,
)
from tests.dialects.talks import Speech, answers, pieces_of

TALK = Talk(model="m", items=(), stream=True)
STAMP = Stamp("x", 1_700_000_000)
TOOK = Durations(total=9, load=1, prompt_eval=3, eval=5)
Lines = list[dict[str, Any]]


def lines(writer: Writer, deltas: Sequence[Delta]) -> Lines:
    """What a client reads: each line by itself, cut as Python cuts lines."""
    written = [writer.write(delta) for delta in deltas]
    assert all(piece == b"" or piece.endswith(b"\n") for piece in written)
    return [cast("dict[str, Any]", json.loads(line)) for line in b"".join(written).decode().splitlines()]


def together(read: Lines, at: str) -> dict[str, Any]:
    """The whole answer, as a client adds it up. `at`: the field of a chat's message, or "" for a response."""
    whole = dict(read[-1])
    said = [cast("dict[str, Any]", line[at] if at else line) for line in read]
    text = "content" if at else "response"
    total: dict[str, Any] = {text: "".join(part[text] for part in said)}
    if thinking := "".join(part.get("thinking", "") for part in said):
        total["thinking"] = thinking
    if calls := [call for part in said for call in part.get("tool_calls", [])]:
        total["tool_calls"] = calls
    return {**whole, at: {"role": "assistant", **total}} if at else {**whole, **total}


def test_a_stream_as_ollama_writes_it() -> None:
    """A line for each piece, a call in one, and at the end the counts and times."""
    deltas = [
        *(Began("theirs", Usage(input=7)), Opened("reasoning"), Grew("hm"), Closed(), Opened("text"), Grew("He")),
        *(Grew(""), Grew("llo"), Closed(), Opened("call", "t1", "f"), Grew('{"a":'), Grew("1}"), Closed()),
        Finished("tools", usage=Usage(input=7, output=5)),
    ]
    read = lines(ChatWriter(TALK, STAMP, lambda: TOOK), deltas)
    assert all(line["model"] == "m" and line["created_at"] == "2023-11-14T22:13:20Z" for line in read)
    assert [line["done"] for line in read] == [False] * 4 + [True]
    call = {"id": "t1", "function": {"index": 0, "name": "f", "arguments": {"a": 1}}}
    assert [line["message"] for line in read] == [
        {"role": "assistant", "content": "", "thinking": "hm"},
        {"role": "assistant", "content": "He"},
        {"role": "assistant", "content": "llo"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "assistant", "content": ""},
    ]
    last = read[-1]
    assert (last["done_reason"], last["prompt_eval_count"], last["eval_count"]) == ("stop", 7, 5)
    assert (last["total_duration"], last["load_duration"], last["eval_duration"]) == (9, 1, 5)


def test_nothing_but_whole_lines_is_ever_written() -> None:
    """What says nothing by itself writes nothing, and the first word is the model's."""
    writer = GenerateWriter(TALK, STAMP)
    assert [writer.write(delta) for delta in (Began("m"), Opened("text"), Grew(""), Closed())] == [b""] * 4
    assert lines(writer, [Opened("text"), Grew("x")])[0]["response"] == "x"


def test_counts_that_came_first_are_told_at_the_end() -> None:
    """Where the end brings none of its own."""
    read = lines(ChatWriter(TALK, STAMP), [Began("m", Usage(input=3, output=1)), Finished("length")])
    assert (read[-1]["prompt_eval_count"], read[-1]["done_reason"]) == (3, "length")


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_pieces_amount_to_the_whole(data: st.DataObject) -> None:
    """However its texts are cut, and in both forms."""
    answer = data.draw(answers(Speech(mixed=True)))
    deltas = data.draw(pieces_of(answer))
    whole = as_answer(deltas)
    read = lines(ChatWriter(TALK, STAMP, lambda: TOOK), deltas)
    assert together(read, "message") == json.loads(write_chat(whole, TALK, STAMP, TOOK))
    read = lines(GenerateWriter(TALK, STAMP, lambda: TOOK), deltas)
    assert together(read, "") == json.loads(write_generate(whole, TALK, STAMP, TOOK))


@settings(max_examples=40, deadline=None)
@given(answers(Speech(mixed=True)))
def test_calls_are_never_in_pieces(answer: Answer) -> None:
    """Every line's calls are complete, one a line, counted through."""
    read = lines(ChatWriter(TALK, STAMP), as_deltas(answer))
    calls = [line["message"]["tool_calls"] for line in read if "tool_calls" in line["message"]]
    assert [call["function"]["index"] for (call,) in calls] == list(range(len(calls)))


def test_a_stream_that_breaks_off_says_why_on_a_line_of_its_own() -> None:
    """The message is a text, whatever is in it."""
    line = failed('it "broke"\n off\u2028')
    assert line.endswith(b"\n")
    assert len(line.decode().splitlines()) == 1
    assert json.loads(line) == {"error": 'it "broke"\n off\u2028'}


def test_what_keeps_a_silent_stream_alive_is_no_line() -> None:
    """White space before the next object: every client that parses lines reads on."""
    line = ChatWriter(TALK, STAMP).write(Finished("stop"))
    text = (KEEP_ALIVE * 3 + line).decode()
    assert len(text.splitlines()) == 1
    assert json.loads(text) == json.loads(line)


def test_the_writer_does_not_mix_texts_into_calls() -> None:
    """An answer that speaks after a call begins a piece of its own."""
    answer = Answer(
        model="m", items=(Message("assistant", (Text("a"),)), Message("assistant", (Text("b"),), refusal=True))
    )
    read = lines(ChatWriter(TALK, STAMP), as_deltas(answer))
    assert [line["message"]["content"] for line in read] == ["a", "b", ""]
