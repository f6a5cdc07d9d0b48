"""What passes the meter: everything but the usage chunk, byte for byte, at once, however the stream is cut."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.metering.usage import Usage
from gateway.proxy.meter import HELD_MAX_BYTES, LONG_BYTES, Meter

SAID = {"prompt_tokens": 19, "completion_tokens": 10, "total_tokens": 29}
TOLD = Usage(prompt=19, completion=10, total_told=29)
HEAD = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1700000000, "model": "m"}
DELTA = {"index": 0, "delta": {"content": "x"}, "logprobs": None, "finish_reason": None}


def compact(payload: object) -> bytes:
    """As Go, JavaScript and C++ write it."""
    return b"data: " + json.dumps(payload, separators=(",", ":")).encode() + b"\n\n"


def spaced(payload: object) -> bytes:
    """As Python writes it."""
    return b"data: " + json.dumps(payload).encode() + b"\n\n"


# The usage chunk as it is sent.
USAGE = {
    "openai": compact({**HEAD, "service_tier": "default", "choices": [], "usage": SAID, "obfuscation": "kY7b"}),
    "vllm": compact({**HEAD, "choices": [], "usage": {**SAID, "prompt_tokens_details": None}}),
    "llama.cpp": compact(
        {
            "choices": [],
            **HEAD,
            "usage": {**SAID, "prompt_tokens_details": {"cached_tokens": 0}},
            "timings": {"cache_n": 0, "prompt_n": 19, "prompt_ms": 12.25, "predicted_n": 10},
        }
    ),
    "ollama": compact({**HEAD, "system_fingerprint": "fp_ollama", "choices": [], "usage": SAID}),
    "python": spaced({**HEAD, "choices": [], "usage": SAID}),
    "no space after the field": compact({**HEAD, "choices": [], "usage": SAID}).replace(b"data: ", b"data:"),
}
# What looks like it, or tells of usage, and stays.
OTHERS = {
    "chunk": compact({**HEAD, "choices": [DELTA]}),
    "chunk without usage": compact({**HEAD, "choices": [DELTA], "usage": None}),
    "spaced chunk": spaced({**HEAD, "choices": [DELTA]}),
    "finish with usage": compact({**HEAD, "choices": [{**DELTA, "finish_reason": "stop"}], "usage": SAID}),
    "lists in it": compact({**HEAD, "choices": [{**DELTA, "annotations": list[str]()}], "usage": None}),
    "azure": compact({"choices": [], "created": 0, "id": "", "prompt_filter_results": [{"prompt_index": 0}]}),
    "azure with usage": compact({"choices": [], "usage": SAID, "prompt_filter_results": [{"prompt_index": 0}]}),
    "error": compact({"choices": [], "usage": SAID, "error": {"message": "no"}}),
    "no usage yet": compact({**HEAD, "choices": [], "usage": None}),
    "no choices": compact({"usage": SAID}),
    "content": compact({**HEAD, "choices": [{"delta": {"content": '"choices":[],"usage":{"prompt_tokens":1}'}}]}),
    "not JSON": b'data: {"choices":[],"usage":{oops}\n\n',
    "comment": b": OPENROUTER PROCESSING\n\n",
    "commented usage": b': {"choices":[],"usage":{}}\n\n',
    "named": b'event: ping\ndata: {"type": "ping"}\n\n',
    "blank": b"\n",
    "two lines": b"data: one\ndata: two\n\n",
    "other field": b"data\nid: 7\nretry: 10\n\n",
    "done": b"data: [DONE]\n\n",
}


def through(meter: Meter, pieces: Iterable[bytes]) -> bytes:
    """All that comes out."""
    return b"".join([*(meter.feed(piece) for piece in pieces), meter.end()])


def cut(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    """The pieces between."""
    places = [0, *sorted(place % (len(data) + 1) for place in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(places)]


@pytest.mark.parametrize("usage", USAGE.values(), ids=USAGE)
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"], ids=["lf", "crlf", "cr"])
def test_usage_chunk_is_taken_out_at_every_cut(usage: bytes, end: bytes) -> None:
    """Of each sender, in two pieces; what is before and behind it passes."""
    before, done = OTHERS["chunk"] + OTHERS["comment"], OTHERS["done"]
    before, usage, done = (part.replace(b"\n", end) for part in (before, usage, done))
    whole = before + usage + done
    for place in range(len(whole) + 1):
        meter = Meter(hide=True)
        assert through(meter, (whole[:place], whole[place:])) == before + done, place
        assert meter.usage is not None
        assert (meter.usage.prompt, meter.usage.completion) == (19, 10), place


@pytest.mark.parametrize("usage", USAGE.values(), ids=USAGE)
def test_usage_chunk_passes_when_the_caller_asked_for_it(usage: bytes) -> None:
    """Nothing is held, and it is remembered all the same."""
    whole = OTHERS["chunk"] * 100 + usage + OTHERS["done"]
    meter = Meter(hide=False)
    for start in range(0, len(whole), 7):
        assert meter.feed(whole[start : start + 7]) == whole[start : start + 7]
    assert meter.end() == b""
    assert meter.usage == TOLD


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_other_event_passes_at_every_cut_as_soon_as_it_is_whole(other: bytes) -> None:
    """After an ordinary one, whose beginning is known."""
    for place in range(len(other) + 1):
        meter = Meter(hide=True)
        assert meter.feed(OTHERS["chunk"]) == OTHERS["chunk"]
        assert meter.feed(other[:place]) + meter.feed(other[place:]) == other, place
        assert meter.end() == b""


@pytest.mark.parametrize(
    "beginning",
    [
        b": keep",
        b"event: mess",
        b"data: [DO",
        b"data: text",
        b'data: {"id":"1","choices":[{',
        b'data: {"id":"1","choices": [ 1',
        b'data: {"id":"1","choices":null',
        b'data: {"id":"' + b"x" * HELD_MAX_BYTES,
    ],
)
def test_beginning_passes_when_it_can_be_no_usage_chunk(beginning: bytes) -> None:
    """And the rest of its line, whatever it holds."""
    meter = Meter(hide=True)
    assert meter.feed(OTHERS["chunk"] + beginning) == OTHERS["chunk"] + beginning
    rest = b'"choices":[],"usage":{"prompt_tokens":1}}'
    assert meter.feed(rest) == rest
    assert meter.feed(b"\n\n") == b"\n\n"


def test_beginning_is_held_while_it_may_be_the_usage_chunk() -> None:
    """At most a line; what remains at the end is handed on, unless it is the usage chunk after all."""
    line = USAGE["openai"].rstrip()
    for place in range(1, len(line)):
        meter = Meter(hide=True)
        assert meter.feed(line[:place]) == b""
        assert meter.end() == line[:place]
        assert meter.end() == b""
    meter = Meter(hide=True)
    assert meter.feed(line) == b""
    assert meter.end() == b""
    assert meter.usage == TOLD


def test_comment_in_the_same_event_stays() -> None:
    """The line is taken out, and the blank line that ends the event remains for what else it holds."""
    usage = USAGE["vllm"]
    assert through(Meter(hide=True), [b": hello\n" + usage + OTHERS["done"]]) == b": hello\n\n" + OTHERS["done"]
    assert through(Meter(hide=True), [b": hello\n", usage, OTHERS["done"]]) == b": hello\n\n" + OTHERS["done"]
    after = usage[:-1] + b"id: 5\n\n"
    assert through(Meter(hide=True), [after, OTHERS["done"]]) == b"id: 5\n\n" + OTHERS["done"]


@pytest.mark.parametrize("hide", [True, False])
def test_memory_is_bounded_and_keeps_what_counts(hide: bool) -> None:
    """Messages tell of the input first, a megabyte before the output."""
    start = compact({"type": "message_start", "message": {"usage": {"input_tokens": 7, "output_tokens": 1}}})
    delta = compact({"type": "message_delta", "usage": {"output_tokens": 99}})
    meter = Meter(hide=hide)
    meter.feed(b"event: message_start\n" + start)
    for _ in range(10_000):
        meter.feed(OTHERS["chunk"])
    for _ in range(4):
        meter.feed(OTHERS["chunk"] * 500)
    kept = sum(map(len, meter._pieces))  # pyright: ignore[reportPrivateUsage] - what it holds is the matter of this test
    assert kept <= 2 * LONG_BYTES
    meter.feed(delta + compact({"type": "message_stop"}))
    assert meter.usage == Usage(prompt=7, completion=99)


def test_usage_is_found_in_an_event_larger_than_the_memory() -> None:
    """Responses repeat the whole answer in their last event."""
    response = {"output": [{"text": "y" * 300_000}], "usage": {"input_tokens": 3, "output_tokens": 4}, "metadata": {}}
    whole = compact({"type": "response.completed", "response": response})
    meter = Meter(hide=False)
    for start in range(0, len(whole), 65536):
        meter.feed(whole[start : start + 65536])
    assert meter.usage == Usage(prompt=3, completion=4)


def test_usage_is_none_when_nothing_was_told() -> None:
    """An empty stream, and one without."""
    assert Meter(hide=True).usage is None
    meter = Meter(hide=True)
    assert through(meter, [OTHERS["chunk"], b"", OTHERS["done"]]) == OTHERS["chunk"] + OTHERS["done"]
    assert meter.usage is None


EVENTS = st.lists(st.sampled_from(sorted(USAGE.values()) + sorted(OTHERS.values())), max_size=12)
ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])
CUTS = st.lists(st.integers(0, 1 << 16), max_size=20)


@given(EVENTS, ENDS, CUTS)
@example([USAGE["vllm"], OTHERS["blank"], OTHERS["chunk"]], b"\r\n", [])
def test_output_is_the_input_without_the_usage_chunks(events: list[bytes], end: bytes, cuts: list[int]) -> None:
    """However it is cut; and once an event is whole, all that is to come of it has come."""
    events = [event.replace(b"\n", end) for event in events]
    hidden = {usage.replace(b"\n", end) for usage in USAGE.values()}
    meter = Meter(hide=True)
    given_bytes, out = 0, b""
    for piece in cut(b"".join(events), cuts):
        out += meter.feed(piece)
        given_bytes += len(piece)
        due, passed = b"", 0
        for event in events:
            passed += len(event)
            if passed <= given_bytes and event not in hidden:
                due += event
        assert out.startswith(due)
    expected = b"".join(event for event in events if event not in hidden)
    assert out == expected
    assert meter.end() == b""


@given(EVENTS, ENDS, CUTS, st.integers(0, 1 << 16))
def test_nothing_is_lost_when_the_stream_breaks_off(
    events: list[bytes], end: bytes, cuts: list[int], length: int
) -> None:
    """What comes out is the beginning of what would have."""
    whole = b"".join(events).replace(b"\n", end)
    broken = whole[: length % (len(whole) + 1)]
    full = through(Meter(hide=True), [whole])
    out = through(Meter(hide=True), cut(broken, cuts))
    lines = broken.splitlines(keepends=True)
    last = lines[-1] if lines else b""
    # an incomplete line at the end is handed on, though it might have become the usage chunk
    assert full.startswith(out) or out == through(Meter(hide=True), [broken[: len(broken) - len(last)]]) + last


@given(st.lists(st.binary(max_size=30) | st.sampled_from(sorted(USAGE.values())), max_size=10), CUTS)
def test_output_does_not_depend_on_the_cuts(parts: list[bytes], cuts: list[int]) -> None:
    """Whatever the bytes are."""
    whole = b"".join(parts)
    assert through(Meter(hide=True), cut(whole, cuts)) == through(Meter(hide=True), [whole])
    assert through(Meter(hide=True), [whole[i : i + 1] for i in range(len(whole))]) == through(
        Meter(hide=True), [whole]
    )
