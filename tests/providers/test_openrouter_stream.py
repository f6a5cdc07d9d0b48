"""Comments leave the stream; every byte of an event stays, and at once."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.contract import Sink
from providers.openrouter_stream import CommentFilter, CommentFree, without_comments
from tests.fakes.openrouter import PROCESSING

EVENT = b'data: {"a": ": no comment"}\n\n'


def fed(*pieces: bytes) -> bytes:
    comments = CommentFilter()
    return b"".join(comments.feed(piece) for piece in pieces)


def without(stream: bytes) -> bytes:
    """The same by whole lines, as a second opinion."""
    kept: list[bytes] = []
    block: list[bytes] = []
    for line, end in re.findall(rb"([^\r\n]*)(\r\n|\r|\n|\Z)", stream):
        if line:
            block.append(line)
            if not line.startswith(b":"):
                kept.append(line + end)
        elif not block or any(not each.startswith(b":") for each in block):
            kept.append(end)
            block = []
        else:
            block = []
    return b"".join(kept)


_LINES = st.sampled_from(
    [b"", b"", b": OPENROUTER PROCESSING", b":", b": x", b"data: a", b"data: a: b", b" : c", b"event: x", b"data:"]
)
_ENDS = st.sampled_from([b"\n", b"\n", b"\r\n", b"\r"])
_STREAMS = st.lists(st.tuples(_LINES, _ENDS), max_size=12).map(lambda pairs: b"".join(a + b for a, b in pairs))


@given(_STREAMS, st.lists(st.integers(0, 200), max_size=6))
def test_wherever_it_is_cut_only_comments_are_missing(stream: bytes, cuts: Sequence[int]) -> None:
    """And after each piece all is out that had come in: no event waits for the next piece."""
    comments = CommentFilter()
    places = sorted({0, len(stream), *(min(cut, len(stream)) for cut in cuts)})
    out = b""
    for start, end in itertools.pairwise(places):
        out += comments.feed(stream[start:end])
        assert out == without(stream[:end])
    assert out == without(stream)


@pytest.mark.parametrize("eol", [b"\n", b"\r\n", b"\r"])
def test_every_single_cut_of_a_stream(eol: bytes) -> None:
    """Comments first, between two events, inside an event and at the end; cut once anywhere, and byte by byte."""
    lines = [
        b": one",
        b"",
        b": two",
        b": three",
        b"",
        b"data: 1",
        b": inside",
        b"data: 2",
        b"",
        b": four",
        b"",
        b"data: 3",
    ]
    stream = eol.join([*lines, b"", b": five", b"", b""])
    expected = eol.join([b"data: 1", b"data: 2", b"", b"data: 3", b"", b""])
    assert fed(stream) == expected
    assert fed(*(stream[n : n + 1] for n in range(len(stream)))) == expected
    for cut in range(len(stream) + 1):
        assert fed(stream[:cut], stream[cut:]) == expected


def test_events_pass_as_the_very_same_bytes() -> None:
    """Without a comment in it a piece is not even copied."""
    comments = CommentFilter()
    for piece in (EVENT, EVENT + EVENT):
        assert comments.feed(piece) is piece
    assert comments.feed(PROCESSING) == b""
    assert comments.feed(EVENT) is EVENT


def test_a_comment_between_two_events_in_one_piece_goes() -> None:
    """The events keep their order and their blank lines."""
    assert fed(EVENT + PROCESSING + EVENT) == EVENT + EVENT
    assert fed(PROCESSING + PROCESSING + EVENT) == EVENT


def test_a_blank_line_of_its_own_stays() -> None:
    """Only the one that ends a block of comments belongs to them."""
    assert fed(b"\n" + EVENT + b"\n") == b"\n" + EVENT + b"\n"
    assert fed(b": c\n\n\n" + EVENT) == b"\n" + EVENT
    assert fed(b"\r", b"\n", b"\n", EVENT) == b"\r\n\n" + EVENT


def test_line_ends_of_all_kinds_may_be_mixed() -> None:
    """A CR ends a line as well, alone or with the LF that a later piece begins with."""
    assert fed(b"data: a\r\r: c\r\rdata: b\n\n") == b"data: a\r\rdata: b\n\n"
    assert fed(b": c\r\r", EVENT, b"\n") == EVENT + b"\n"
    assert fed(b": c\r\r", b"\n", EVENT) == EVENT
    assert fed(b": c\r", b"\n\r", b"\n", EVENT) == EVENT


def test_a_comment_at_the_end_without_its_line_end_goes() -> None:
    """The upstream may be cut off in the middle of it."""
    assert fed(EVENT, b": OPENROUTER PROC") == EVENT


# --- the response around it


class Arrived:
    """A response whose body is there, in these pieces."""

    def __init__(self, pieces: Sequence[bytes], *headers: tuple[bytes, bytes]) -> None:
        self.status = 200
        self.headers = list(headers)
        self.made: dict[object, Any] | None = None
        self.closed = 0
        self._pieces = pieces

    def whole(self) -> bytes | None:
        return b"".join(self._pieces)

    async def read(self, max_bytes: int) -> bytes:
        assert max_bytes == 1000
        return b"".join(self._pieces)

    async def pump(self, sink: Sink) -> None:
        for piece in self._pieces:
            await sink(piece)

    def close(self) -> None:
        self.closed += 1


STREAM = (b"content-type", b"text/event-stream; charset=utf-8")


async def test_all_three_ways_to_take_a_stream_leave_the_comments_out() -> None:
    """`whole` and `read` may be called again, and a length that would be wrong is not passed on."""
    inner = Arrived([PROCESSING, EVENT, PROCESSING], STREAM, (b"content-length", b"99"), (b"x-id", b"1"))
    response = without_comments(inner)
    assert isinstance(response, CommentFree)
    assert (response.status, response.headers) == (200, [STREAM, (b"x-id", b"1")])
    assert response.whole() == response.whole() == EVENT
    assert await response.read(1000) == await response.read(1000) == EVENT
    taken: list[bytes] = []

    async def sink(piece: bytes) -> None:
        taken.append(piece)

    await response.pump(sink)
    assert taken == [EVENT]  # nobody is called with nothing
    response.close()
    assert inner.closed == 1


@pytest.mark.parametrize(
    "headers",
    [
        [(b"content-type", b"application/json")],
        [],
        [STREAM, (b"content-encoding", b"gzip")],
        [(b"content-type", b"text/event-streams")],
    ],
)
def test_what_is_no_readable_stream_is_not_touched(headers: Sequence[tuple[bytes, bytes]]) -> None:
    """JSON costs nothing; compressed bytes are not ours to cut."""
    response = Arrived([b": x\n\n"], *headers)
    assert without_comments(response) is response


def test_identity_is_no_compression() -> None:
    """Some servers name it."""
    assert without_comments(Arrived([], STREAM, (b"content-encoding", b"identity"))).headers
    assert isinstance(without_comments(Arrived([], STREAM, (b"content-encoding", b"identity"))), CommentFree)
