"""The event-stream parser: what an event is, however a socket cuts it."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.dialects.sse import EVENT_MAX_BYTES, Event, EventParser, TooLong

from .talks import cut


def said(data: str, name: str = "message", last_id: str = "") -> Event:
    """An event, most of which have no name and no id."""
    return Event(name, data, last_id)


# After WHATWG HTML §9.2.6; the same tuples are fed whole, byte by byte, and cut at every offset.
VECTORS: dict[str, tuple[bytes, list[Event]]] = {
    "one": (b"data: yes\n\n", [said("yes")]),
    "the space may be missing": (b"data:yes\n\n", [said("yes")]),
    "one space is the field's": (b"data:   two \n\n", [said("  two ")]),
    "a tab is the value's": (b"data:\tyes\n\n", [said("\tyes")]),
    "a field without a colon": (b"data\n\n", [said("")]),
    "an empty value": (b"data:\n\n", [said("")]),
    "two empty lines of data": (b"data\ndata:\n\n", [said("\n")]),
    "lines of data": (b"data: 1\ndata:2\ndata:  3\n\n", [said("1\n2\n 3")]),
    "lines end with CRLF": (b"data: 1\r\ndata: 2\r\n\r\ndata: 3\r\n\r\n", [said("1\n2"), said("3")]),
    "lines end with CR": (b"data: 1\rdata: 2\r\rdata: 3\r\r", [said("1\n2"), said("3")]),
    "lines end as they like": (b"data: 1\rdata: 2\r\ndata: 3\n\r\ndata: 4\n\r", [said("1\n2\n3"), said("4")]),
    "CR LF is one end": (b"data: 1\r\ndata: 2\r\n\r\n", [said("1\n2")]),
    "a comment": (b": keep-alive\n\ndata: 1\n:between\ndata: 2\n\n:\n\n", [said("1\n2")]),
    "blank lines": (b"\n\r\n\rdata: 1\n\n\n\n\r\r", [said("1")]),
    "no blank line, no event": (b"data: 1\n\ndata: lost\n", [said("1")]),
    "no line end, no event": (b"data: 1\n\ndata: lost", [said("1")]),
    "a name is of one event": (b"event: error\ndata: 1\n\ndata: 2\n\n", [said("1", "error"), said("2")]),
    "a name without data": (b"event: ping\n\ndata: 1\n\n", [said("1")]),
    "the last name counts": (b"event: a\ndata: 1\nevent: b\n\n", [said("1", "b")]),
    "an empty name is none": (b"event: a\nevent\ndata: 1\n\n", [said("1")]),
    "names are exact": (b"Data: 1\ndata : 2\n data: 3\ndatas: 4\ndata: 5\n\n", [said("5")]),
    "an id stays": (b"id: 7\ndata: 1\n\ndata: 2\n\n", [said("1", last_id="7"), said("2", last_id="7")]),
    "an id may be taken back": (b"id: 7\ndata: 1\n\nid:\ndata: 2\n\n", [said("1", last_id="7"), said("2")]),
    "an id alone is kept": (b"id: 7\n\ndata: 1\n\n", [said("1", last_id="7")]),
    "an id with NUL is none": (b"id: 7\nid: 8\0\ndata: 1\n\n", [said("1", last_id="7")]),
    "retry is nobody's": (b"retry: 10\n\nretry: x\ndata: 1\n\n", [said("1")]),
    "a mark at the beginning": (b"\xef\xbb\xbfdata: 1\n\n", [said("1")]),
    "a second mark is a name's": (b"\xef\xbb\xbf\xef\xbb\xbfdata: 1\n\ndata: 2\n\n", [said("2")]),
    "a mark in the data": (b"data: \xef\xbb\xbf1\n\n", [said("\ufeff1")]),
    "half a mark": (b"\xef\xbbdata: 1\n\ndata: 2\n\n", [said("2")]),
    "characters of many bytes": ("data: é€😀\n\n".encode(), [said("é€😀")]),
    "what only looks like a line end": (
        "data: a\u2028b\u2029c\u0085d\x0be\x0cf\x1cg\n\n".encode(),
        [said("a\u2028b\u2029c\u0085d\x0be\x0cf\x1cg")],
    ),
    "NUL": (b"data: a\0b\n\n", [said("a\0b")]),
    "no UTF-8": (b"data: a\xff\xc3b\n\n", [said("a\ufffd\ufffdb")]),
    "colons": (b"data: a:b: {c}\n\n", [said("a:b: {c}")]),
    "the last word of a chat": (b"data: {}\n\ndata: [DONE]\n\n", [said("{}"), said("[DONE]")]),
}


def parsed(pieces: Iterable[bytes]) -> list[Event]:
    """Everything that comes out, the end of the stream included."""
    parser = EventParser()
    return [event for piece in pieces for event in parser.feed(piece)] + parser.end()


@pytest.mark.parametrize(("stream", "events"), VECTORS.values(), ids=VECTORS.keys())
def test_an_event_however_it_is_cut(stream: bytes, events: list[Event]) -> None:
    """Whole, byte by byte, in two at every offset, and with empty pieces between."""
    assert parsed([stream]) == events
    assert parsed(stream[i : i + 1] for i in range(len(stream))) == events
    assert parsed([b"", stream, b""]) == events
    for at in range(len(stream) + 1):
        assert parsed([stream[:at], b"", stream[at:]]) == events, at


LINES = st.sampled_from(
    (b"data: 1", b"data", b"event: a", b"id: 1", b": x", b"", b"", b"data: \xc3\xa9", b"\xef\xbb\xbf")
)
ENDS = st.sampled_from((b"\n", b"\r", b"\r\n"))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_stream_cut_anywhere_is_the_same_stream(data: st.DataObject) -> None:
    """Lines and line ends in any order."""
    lines = data.draw(st.lists(st.tuples(LINES, ENDS), max_size=12))
    stream = b"".join(line + end for line, end in lines)
    assert parsed(data.draw(cut(stream))) == parsed([stream])


def test_an_event_comes_with_its_blank_line() -> None:
    """Not later: a token must not wait for the next one."""
    parser = EventParser()
    assert parser.feed(b"data: 1\n") == []
    assert parser.feed(b"\n") == [said("1")]
    assert parser.feed(b"data: 2\r\n\r\n") == [said("2")]


def test_a_line_without_an_end_is_given_up() -> None:
    """An upstream cannot fill the memory with what never becomes an event."""
    parser = EventParser()
    piece = b"x" * (EVENT_MAX_BYTES // 2)
    assert parser.feed(piece) == parser.feed(piece) == []
    with pytest.raises(TooLong):
        parser.feed(b"x")


def test_many_long_lines_are_no_long_line() -> None:
    """The limit is a line's, not a piece's."""
    line = b"data: " + b"x" * (EVENT_MAX_BYTES // 4) + b"\n\n"
    assert len(parsed([line * 5])) == 5
