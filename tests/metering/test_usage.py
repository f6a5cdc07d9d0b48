"""What answers say of their tokens, in the words of every kind of upstream; and what looks like it and is not."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.metering.usage import WINDOW_BYTES, Usage, merged, usage_in_events, usage_of_body

OPENAI = {
    "prompt_tokens": 1117,
    "completion_tokens": 46,
    "total_tokens": 1163,
    "prompt_tokens_details": {"cached_tokens": 1024, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 12, "accepted_prediction_tokens": 0},
}
CHOICE = {"index": 0, "message": {"role": "assistant", "content": 'she said "usage":{ }'}, "finish_reason": "stop"}
MESSAGES = {
    "input_tokens": 10,
    "cache_creation_input_tokens": 200,
    "cache_read_input_tokens": 3000,
    "cache_creation": {"ephemeral_5m_input_tokens": 200, "ephemeral_1h_input_tokens": 0},
    "output_tokens": 25,
    "service_tier": "standard",
}
RESPONSES = {
    "input_tokens": 36,
    "input_tokens_details": {"cached_tokens": 30},
    "output_tokens": 87,
    "output_tokens_details": {"reasoning_tokens": 64},
    "total_tokens": 123,
}
# A tool of the caller's, as Responses repeat it: its schema, and a default, are no usage of this answer.
TOOL = {
    "type": "function",
    "name": "f",
    "parameters": {"properties": {"usage": {"prompt_tokens": 5, "type": "object"}}},
}

BODIES: list[tuple[str, Any, Usage]] = [
    (
        "chat",
        {"id": "x", "choices": [CHOICE], "usage": OPENAI, "service_tier": "default", "system_fingerprint": "fp{"},
        Usage(prompt=1117, completion=46, cached=1024, reasoning=12, total_told=1163),
    ),
    (
        "llama.cpp",
        {
            "choices": [CHOICE],
            "usage": {"completion_tokens": 3, "prompt_tokens": 9, "total_tokens": 12},
            "id": "chatcmpl-x",
            "timings": {"cache_n": 0, "prompt_n": 9, "predicted_n": 3, "prompt_ms": 1.5},
        },
        Usage(prompt=9, completion=3, total_told=12),
    ),
    (
        "embeddings",
        {
            "object": "list",
            "data": [{"embedding": [0.5]}],
            "model": "m",
            "usage": {"prompt_tokens": 8, "total_tokens": 8},
        },
        Usage(prompt=8, total_told=8),
    ),
    (
        "responses",
        {"id": "resp_1", "tools": [TOOL], "usage": RESPONSES, "user": None, "metadata": {"usage": "{}"}},
        Usage(prompt=36, completion=87, cached=30, reasoning=64, total_told=123),
    ),
    (
        "responses, tools last",
        {"id": "resp_1", "usage": RESPONSES, "tools": [TOOL], "metadata": {"usage": {"input_tokens": 1}}},
        Usage(prompt=36, completion=87, cached=30, reasoning=64, total_told=123),
    ),
    (
        "messages",
        {"type": "message", "content": [], "stop_reason": "end_turn", "usage": MESSAGES},
        Usage(prompt=3210, completion=25, cached=3000, written=200),
    ),
    ("rerank", {"results": [{"index": 0}], "usage": {"total_tokens": 815}}, Usage(prompt=815, total_told=815)),
    (
        "openrouter",
        {"choices": [CHOICE], "usage": {**OPENAI, "cost": 0.00014, "cost_details": {"upstream_inference_cost": None}}},
        Usage(prompt=1117, completion=46, cached=1024, reasoning=12, total_told=1163, cost=Decimal("0.00014")),
    ),
    (
        "xai",
        {"usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 115}},
        Usage(prompt=10, completion=5, total_told=115),
    ),
    (
        "ollama",
        {"model": "m", "message": {"content": "hi"}, "done": True, "prompt_eval_count": 26, "eval_count": 259},
        Usage(prompt=26, completion=259),
    ),
    ("ollama, prompt cached", {"done": True, "eval_count": 7, "eval_duration": 1}, Usage(completion=7)),
    ("nothing generated", {"usage": {"prompt_tokens": 0, "completion_tokens": 0}}, Usage()),
    (
        "strange details",
        {"usage": {"prompt_tokens": 3.0, "completion_tokens": 4, "prompt_tokens_details": [], "cost": {"total": 1}}},
        Usage(prompt=3, completion=4),
    ),
]


@pytest.mark.parametrize(("body", "expected"), [row[1:] for row in BODIES], ids=[row[0] for row in BODIES])
@pytest.mark.parametrize("style", ["compact", "spaced", "indented"])
def test_body_tells_its_usage_however_it_is_written(body: object, expected: Usage, style: str) -> None:
    """As Go and JavaScript write JSON, as Python does, and for people."""
    text = {
        "compact": json.dumps(body, separators=(",", ":")),
        "spaced": json.dumps(body),
        "indented": json.dumps(body, indent=2),
    }[style]
    assert usage_of_body(text.encode()) == expected


def test_total_is_the_greater_of_the_upstreams_sum_and_ours() -> None:
    """What was thought may be in the one and not in the other."""
    assert Usage(prompt=10, completion=5, total_told=115).total == 115
    assert Usage(prompt=10, completion=5).total == 15


@pytest.mark.parametrize("first", [True, False])
def test_body_of_embeddings_is_not_parsed(first: bool) -> None:
    """Its end and its beginning are looked at: what is in between need not even be JSON."""
    data = b'"data":[{"embedding":[' + b"0.123456, oops, " * 65536 + b"]}]"
    usage = b'"usage":{"prompt_tokens":5,"total_tokens":5}'
    body = b'{"model":"m",' + (usage + b"," + data if first else data + b"," + usage) + b"}"
    assert len(body) > 1 << 20
    assert usage_of_body(body) == Usage(prompt=5, total_told=5)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff\xfe",
        b'"usage"',
        b'{"usage":null}',
        b'{"usage":[]}',
        b'{"usage":{}}',
        b'{"usage":{"prompt_tokens":-1}}',
        b'{"usage":{"prompt_tokens":true,"completion_tokens":"7"}}',
        b'{"usage":{"prompt_tokens":1e400,"completion_tokens":99999999999999999999999}}',
        b'{"usage":{"prompt_tokens":1.5}}',
        b'{"usage":{"prompt_tokens":oops}}',
        b'{"usage":{"prompt_tokens":1',
        b'{"usage":' + b"{" * 3000,
        b'{"usage":{"type":"duration","seconds":3}}',
        b'{"choices":[{"message":{"content":"\\"usage\\":{\\"prompt_tokens\\":1}"}}]}',
        b'{"arguments":{"usage":{"prompt_tokens":1}}}',
        b'{"tools":[{"usage":{"prompt_tokens":1}}]}',
        b'{"eval_count":1.5}',
    ],
)
def test_body_is_none_when_it_tells_nothing_readable(body: bytes) -> None:
    """None, whatever it is."""
    assert usage_of_body(body) is None
    assert usage_in_events(b"data: " + body[:20]) is None


@pytest.mark.parametrize("cost", ["null", '"much"', '{"total":1}', "-1", "1e400", "true"])
def test_cost_is_left_out_when_it_is_no_amount(cost: str) -> None:
    """The tokens count all the same."""
    assert usage_of_body(f'{{"usage":{{"prompt_tokens":1,"cost":{cost}}}}}'.encode()) == Usage(prompt=1)


# ---------------------------------------------------------------- events


def event(payload: object, name: str = "", end: str = "\n") -> bytes:
    """One event."""
    head = f"event: {name}{end}" if name else ""
    return f"{head}data: {json.dumps(payload, separators=(',', ':'))}{end}{end}".encode()


def chunk(**more: object) -> bytes:
    """An ordinary one of chat."""
    choice = {"index": 0, "delta": {"content": "x"}, "finish_reason": None}
    return event({"id": "c", "object": "chat.completion.chunk", "choices": [choice], **more})


DONE = b"data: [DONE]\n\n"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_events_tell_it_in_the_usage_chunk(end: str) -> None:
    """OpenAI's way: null in every other chunk."""
    before = chunk(usage=None).replace(b"\n", end.encode()) * 30
    data = before + event({"choices": [], "usage": OPENAI, "obfuscation": "a{b"}, end=end) + DONE
    assert usage_in_events(data) == Usage(prompt=1117, completion=46, cached=1024, reasoning=12, total_told=1163)


def test_events_tell_it_in_the_chunk_that_finishes() -> None:
    """DeepSeek's way, and Groq's, one level down; and in each chunk, where the last one counts."""
    said = {"prompt_tokens": 4, "completion_tokens": 2, "total_tokens": 6}
    expected = Usage(prompt=4, completion=2, total_told=6)
    assert usage_in_events(chunk() + chunk(usage=said) + DONE) == expected
    assert usage_in_events(chunk() + chunk(x_groq={"id": "r", "usage": said}) + DONE) == expected
    assert usage_in_events(chunk(usage={**said, "completion_tokens": 1}) + chunk(usage=said) + DONE) == expected


def test_events_tell_it_in_llama_cpps_timings() -> None:
    """Of a stream whose usage nobody asked for: what was read from the cache is not in `prompt_n`."""
    timings = {"cache_n": 30, "prompt_n": 12, "prompt_ms": 10.5, "predicted_n": 7, "predicted_ms": 1.0}
    assert usage_in_events(chunk() + chunk(timings=timings) + DONE) == Usage(prompt=42, completion=7, cached=30)


def test_events_of_messages_tell_input_first_and_output_last() -> None:
    """The last event's counts are cumulative; what it does not repeat stands in the first."""
    start = event(
        {"type": "message_start", "message": {"id": "m", "usage": {**MESSAGES, "output_tokens": 1}}}, "message_start"
    )
    text = event({"type": "content_block_delta", "delta": {"text": "message_start usage"}}, "content_block_delta") * 50
    stop = event({"type": "message_stop"}, "message_stop")
    brief = event({"type": "message_delta", "delta": {}, "usage": {"output_tokens": 25}}, "message_delta")
    full = event({"type": "message_delta", "delta": {}, "usage": MESSAGES}, "message_delta")
    expected = Usage(prompt=3210, completion=25, cached=3000, written=200)
    assert usage_in_events(start + text + brief + stop) == expected
    assert usage_in_events(start + text + full + stop) == expected
    assert merged(usage_in_events(start), usage_in_events(brief + stop)) == expected


def test_events_of_responses_tell_it_in_their_last() -> None:
    """The event is large, and repeats the caller's tools."""
    response = {"id": "r", "output": [{"text": "y" * 100_000}], "usage": RESPONSES, "tools": [TOOL], "metadata": {}}
    data = event({"type": "response.created", "response": {"usage": None}}, "response.created")
    data += event({"type": "response.completed", "response": response}, "response.completed")
    expected = Usage(prompt=36, completion=87, cached=30, reasoning=64, total_told=123)
    assert usage_in_events(data) == expected
    assert usage_in_events(data[-WINDOW_BYTES:]) == expected


def test_lines_of_ollama_tell_it_in_their_last() -> None:
    """No event stream, but a line for each piece."""
    lines = b'{"message":{"content":"x"},"done":false}\n' * 5
    assert usage_in_events(lines + b'{"done":true,"prompt_eval_count":26,"eval_count":5}\n') == Usage(
        prompt=26, completion=5
    )


def test_events_tell_nothing_of_a_line_that_is_cut_off() -> None:
    """Its depth cannot be known: what follows may close three levels. A line that is whole needs no end."""
    data = event({"type": "x", "tools": [{"parameters": {"usage": {"prompt_tokens": 9}}}]}).rstrip()
    for cut in range(len(data) + 1):
        assert usage_in_events(data[:cut]) is None, cut
    whole = event({"choices": [], "usage": {"prompt_tokens": 9}}).rstrip()
    assert usage_in_events(whole) == Usage(prompt=9)
    assert usage_in_events(whole[:-1]) is None


def test_merged_keeps_what_the_later_word_is_silent_on() -> None:
    """None is no word at all."""
    first = Usage(prompt=5, cached=2, completion=1, cost=Decimal(1))
    assert merged(first, Usage(completion=9)) == Usage(prompt=5, cached=2, completion=9, cost=Decimal(1))
    assert merged(None, first) == merged(first, None) == first
    assert merged(None, None) is None


@given(
    st.lists(
        st.sampled_from(
            [b'"usage"', b":", b"{", b"}", b'"prompt_tokens":1', b'"', b"\\", b"\n", b"[", b"]", b" ", b","]
        )
        | st.binary(max_size=4),
        max_size=40,
    )
)
def test_nothing_raises_whatever_it_is(pieces: list[bytes]) -> None:
    """Bytes of every kind."""
    data = b"".join(pieces)
    for told in (usage_of_body(data), usage_in_events(data), usage_in_events(b"data: " + data + b"\n\n")):
        assert told is None or told.prompt <= 1
