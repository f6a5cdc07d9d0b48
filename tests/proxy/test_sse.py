"""The end of a stream, however its bytes are cut into pieces."""

from __future__ import annotations

import json

import pytest

from gateway.dialects.spoken import Spoken
from gateway.proxy.sse import TAIL_BYTES, Tail, event, is_stream
from gateway.proxy.sse import tail_of as tail_for

EVENT = b'data: {"choices":[{"delta":{"content":"[DONE] data: [DONE]"}}]}'
LINE_ENDS = (b"\n", b"\r\n", b"\r")


def tail_of(*pieces: bytes) -> Tail:
    """What is remembered after these."""
    tail = Tail()
    for piece in pieces:
        tail.add(piece)
    return tail


def stream(end: bytes, last: bytes) -> bytes:
    """Three events and a last one."""
    return (EVENT + end * 2) * 3 + last + end * 2


@pytest.mark.parametrize("end", LINE_ENDS)
@pytest.mark.parametrize("last", [b"data: [DONE]", b"data:[DONE]"])
def test_tail_is_done_at_every_cut(end: bytes, last: bytes) -> None:
    """Two pieces, cut anywhere: done after the last, never before the word is complete."""
    whole = stream(end, last)
    word_ends = len(whole) - 2 * len(end)
    for cut in range(len(whole) + 1):
        tail = tail_of(whole[:cut])
        assert tail.done is (cut >= word_ends), cut
        tail.add(whole[cut:])
        assert tail.done, cut
        assert tail.between_events, cut


@pytest.mark.parametrize("end", LINE_ENDS)
def test_tail_is_done_byte_by_byte(end: bytes) -> None:
    """The smallest pieces there are."""
    whole = stream(end, b"data: [DONE]")
    assert tail_of(*(whole[i : i + 1] for i in range(len(whole)))).done


@pytest.mark.parametrize("end", LINE_ENDS)
def test_tail_is_between_events_only_at_a_blank_line(end: bytes) -> None:
    """Anywhere else a comment of ours would break an event in two."""
    whole = stream(end, b"data: [DONE]")
    boundaries = {0}
    at = 0
    while (at := whole.find(end * 2, at)) >= 0:
        at += 2 * len(end)
        boundaries.add(at)
    for cut in range(len(whole) + 1):
        assert tail_of(whole[:cut]).between_events is (cut in boundaries), cut


@pytest.mark.parametrize(
    "text",
    [
        b'data: {"x":"data: [DONE]"}\n\n',
        b'data: {"x":"\\ndata: [DONE]"}\n\n',
        b"data: DONE\n\n",
        b": data: [DONE]\n\n",
        b"x-data: [DONE]\n\n",
        b"event: [DONE]\n\n",
        b"",
    ],
)
def test_tail_is_not_done_when_only_a_content_says_so(text: bytes) -> None:
    """The word counts as a line of its own only."""
    assert not tail_of(text).done


def test_tail_is_not_done_when_more_followed() -> None:
    """`[DONE]` must be the last thing said, but for a comment."""
    assert not tail_of(b"data: [DONE]\n\n" + (EVENT + b"\n\n") * 2).done
    assert tail_of(b"data: [DONE]\n\n: bye\n\n").done


@pytest.mark.parametrize("size", [TAIL_BYTES - 1, TAIL_BYTES, TAIL_BYTES + 1, 10 * TAIL_BYTES])
def test_tail_stays_small_when_much_passes(size: int) -> None:
    """Pieces around its own size lose nothing of the end."""
    tail = tail_of(b"x" * size, b"\n\ndata: [DONE]\n\n")
    assert tail.done
    assert tail.between_events
    assert tail_of(b"x" * size + b"\n\n").between_events


@pytest.mark.parametrize("lead", [b"", EVENT + b"\n\n"])
def test_tail_has_failed_at_every_cut_when_the_last_event_is_an_error(lead: bytes) -> None:
    """The upstream's own error is the last word; ours must not follow it."""
    whole = lead + b'data: {"error":{"message":"no"}}\n\n'
    for cut in range(len(whole) + 1):
        assert tail_of(whole[:cut], whole[cut:]).failed, cut
    assert tail_of(lead + b'event: error\r\ndata:{"error":{"message":"no"}}\r\n\r\n').failed


@pytest.mark.parametrize(
    "text", [b"", EVENT + b"\n\n", b'data: {"error":1}\n\n' + EVENT + b"\n\n", b'data: {"x":{"error":1}}\n\n']
)
def test_tail_has_not_failed_when_the_last_event_is_none(text: bytes) -> None:
    """An error that is not the last, or not the event itself, is content."""
    assert not tail_of(text).failed


def test_event_is_one_line_and_a_blank_one() -> None:
    """Line breaks in the payload are escaped: one event stays one event."""
    data = event({"error": {"message": "a\nb\r\nc"}})
    assert data.startswith(b"data: {")
    assert data.endswith(b"}\n\n")
    assert data.count(b"\n") == 2
    assert b"\r" not in data
    assert json.loads(data[6:])["error"]["message"] == "a\nb\r\nc"


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        (b"text/event-stream", True),
        (b"text/event-stream; charset=utf-8", True),
        (b"Text/Event-Stream ;x=y", True),
        (b"application/json", False),
        (b"text/event-streams", False),
        (b"", False),
        (None, False),
    ],
)
def test_is_stream_reads_the_media_type_only(content_type: bytes | None, expected: bool) -> None:
    """Parameters and case aside."""
    assert is_stream(content_type) is expected


COMPLETED = (
    b'event: response.completed\ndata: {"type":"response.completed","response":{"output":[' + b"1," * 2000 + b"]}}\n\n"
)


@pytest.mark.parametrize("name", [b"completed", b"incomplete", b"failed"])
@pytest.mark.parametrize("named", [True, False], ids=["named", "unnamed"])
def test_responses_are_done_after_their_last_event_at_every_cut(name: bytes, *, named: bool) -> None:
    """It is longer than what is remembered; its name is seen as it passes. A text that quotes it is none."""
    quoted = b'data: {"type":"response.output_text.delta","delta":"\\"type\\":\\"response.completed\\""}\n\n'
    last = COMPLETED.replace(b"response.completed", b"response." + name)
    if not named:
        last = last.partition(b"\n")[2]
    for cut in range(len(quoted) + 120):
        tail = tail_for(Spoken.RESPONSES)()
        tail.add((quoted + last)[:cut])
        assert cut > len(quoted) or not tail.done
        tail.add((quoted + last)[cut:])
        assert tail.done, cut


def test_lines_are_done_after_the_line_that_says_so() -> None:
    """And failed after one that is an error."""
    tail = tail_for(Spoken.OLLAMA)()
    tail.add(b'{"message":{"content":"\\"done\\":true"},"done":false}\n')
    assert tail.between_events
    assert not tail.done
    tail.add(b'{"done":tr')
    assert not tail.between_events
    tail.add(b"ue}\n")
    assert tail.done
    assert not tail.failed
    tail.add(b'{"error":"x"}\n')
    assert tail.failed


def test_streams_without_a_last_word_are_done_between_two_events() -> None:
    """Speech and pictures."""
    tail = tail_for(Spoken.PLAIN)()
    tail.add(b"data: {}\n\n")
    assert tail.done
    tail.add(b"data: {")
    assert not tail.done
