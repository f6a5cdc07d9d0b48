"""Progress as callers see it: comments that are one line whatever a model is called, and fields for those who asked."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects.sse import EventParser
from gateway.proxy.progress import NAME_MAX, chunk, comment, fields
from gateway.residency.progress import Progress, Stage

HALF = Progress(stage=Stage.LOADING, elapsed_s=1.51, fraction=0.43, eta_s=1.99)
UNKNOWN = Progress(stage=Stage.LOADING, elapsed_s=3.9)
OVERDUE = Progress(stage=Stage.LOADING, elapsed_s=14.2, fraction=0.99)
AGAIN = Progress(stage=Stage.STARTING_OVER, elapsed_s=0.2, fraction=0.0, eta_s=3.0)
QUEUED = Progress(stage=Stage.WAITING, elapsed_s=8.0, place=2)


@pytest.mark.parametrize(
    ("progress", "text"),
    [
        (HALF, b": loading smollm2 43% eta 2s\n\n"),
        (UNKNOWN, b": loading smollm2 3s\n\n"),
        (OVERDUE, b": loading smollm2 99% 14s\n\n"),
        (AGAIN, b": starting over smollm2 0% eta 3s\n\n"),
        (QUEUED, b": waiting for smollm2, place 2\n\n"),
        (Progress(stage=Stage.WAITING, elapsed_s=0.0), b": waiting for smollm2\n\n"),
    ],
)
def test_comment_says_what_is_known(progress: Progress, text: bytes) -> None:
    """A person reads it."""
    assert comment("smollm2", progress) == text


def test_percent_is_not_rounded_up_nor_down_by_a_float() -> None:
    """0.29 times 100 is 28.999…; and 99 % is the most."""
    for percent in range(100):
        assert (
            f" {percent}% " in comment("m", Progress(stage=Stage.LOADING, elapsed_s=0, fraction=percent / 100)).decode()
        )
    assert b" 98% " in comment("m", Progress(stage=Stage.LOADING, elapsed_s=0, fraction=0.9899))


@given(st.text(max_size=300), st.sampled_from([HALF, UNKNOWN, OVERDUE, AGAIN, QUEUED]))
def test_comment_is_no_event_whatever_the_model_is_called(model: str, progress: Progress) -> None:
    """A line break in a name cannot begin an event, nor a field of one."""
    written = comment(model, progress)
    assert written.startswith(b": ")
    assert written.endswith(b"\n\n")
    assert not any(char in written[:-2] for char in b"\r\n\0\x1b")
    assert len(written.decode()) <= NAME_MAX + 40
    events = EventParser().feed(written + b"data: x\n\n")
    assert [event.data for event in events] == ["x"]


@pytest.mark.parametrize(
    ("model", "shown"),
    [
        ("org/model:7b-q4", "org/model:7b-q4"),
        ("a\n\ndata: {}\r\n", "a  data: {}  "),
        ("a\u2028b\x85c\x1b[2Jd\u202ee", "a b c [2Jd e"),
        ("\ud800", " "),
        ("模型", "模型"),
        ("x" * 200, "x" * 100),
    ],
)
def test_name_is_one_line_of_visible_characters(model: str, shown: str) -> None:
    """Cut at a hundred, in the comment and in the fields alike."""
    assert comment(model, QUEUED).decode() == f": waiting for {shown}, place 2\n\n"
    load = fields(model, QUEUED)["roundhouse"]
    assert isinstance(load, dict)
    assert json.loads(json.dumps(load))["load"]["model"] == shown


@pytest.mark.parametrize(
    ("progress", "load"),
    [
        (HALF, {"phase": "loading", "percent": 43, "eta_s": 2.0, "elapsed_s": 1.5, "place": None}),
        (UNKNOWN, {"phase": "loading", "percent": None, "eta_s": None, "elapsed_s": 3.9, "place": None}),
        (AGAIN, {"phase": "starting_over", "percent": 0, "eta_s": 3.0, "elapsed_s": 0.2, "place": None}),
        (QUEUED, {"phase": "waiting", "percent": None, "eta_s": None, "elapsed_s": 8.0, "place": 2}),
    ],
)
def test_fields_say_the_same(progress: Progress, load: dict[str, object]) -> None:
    """Every key is always there."""
    assert fields("smollm2", progress) == {"roundhouse": {"load": {"model": "smollm2", **load}}}


@pytest.mark.parametrize(("chat", "kind"), [(True, "chat.completion.chunk"), (False, "text_completion")])
def test_chunk_is_one_event_without_choices(chat: bool, kind: str) -> None:
    """As the usage's is: clients that know that one skip this one."""
    written = chunk("smollm2", HALF, id="chatcmpl-1", created=1700000000, chat=chat)
    (event,) = EventParser().feed(written)
    assert json.loads(event.data) == {
        "id": "chatcmpl-1",
        "object": kind,
        "created": 1700000000,
        "model": "smollm2",
        "choices": [],
        **fields("smollm2", HALF),
    }
