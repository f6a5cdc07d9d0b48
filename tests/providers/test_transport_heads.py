"""A head that comes again: read as llhttp would read it, in whatever pieces and company."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from providers.transport_heads import body_of, cut, with_length

HEAD = b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nAccept: */*\r\n\r\n"
FIELDS = [(b"host", b"x"), (b"content-length", b"2"), (b"accept", b"*/*")]


def test_a_head_comes_again_with_another_length() -> None:
    """Only the digits differ."""
    known = cut(HEAD + b"{}", FIELDS)
    assert known is not None
    assert known.place == 1
    assert body_of(known, HEAD + b"[]") == (b"2", b"[]")
    assert body_of(known, HEAD.replace(b": 2", b": 11") + b"hello there") == (b"11", b"hello there")
    assert body_of(known, HEAD.replace(b": 2", b": 0")) == (b"0", b"")


@pytest.mark.parametrize(
    "data",
    [
        HEAD + b"{",  # not all of it
        HEAD + b"{}x",  # more than it
        HEAD[:-1],
        HEAD.replace(b": 2", b": +2") + b"{}",
        HEAD.replace(b": 2", b": 2 ") + b"{}",
        HEAD.replace(b": 2", b": ") + b"{}",
        HEAD.replace(b": 2", b": 0x2") + b"{}",
        HEAD.replace(b": 2", b": 2\n") + b"{}",
        HEAD.replace(b": 2", b": 1234567890123") + b"{}",
        HEAD.replace(b"/a", b"/b") + b"{}",
        HEAD.replace(b"*/*", b"*/x") + b"{}",
        HEAD.replace(b"Host", b"host") + b"{}",
        HEAD + b"{}" + HEAD + b"{}",
        b"",
    ],
)
def test_what_differs_is_left_to_the_parser(data: bytes) -> None:
    """By a byte, by a piece, by company."""
    known = cut(HEAD + b"{}", FIELDS)
    assert known is not None
    assert body_of(known, data) is None


@pytest.mark.parametrize(
    "head",
    [
        HEAD.replace(b"\r\n", b"\n"),
        HEAD.replace(b"x\r\n", b"x\n"),
        HEAD.replace(b"Content-Length: 2\r\n", b""),
        HEAD[:-2],
        HEAD.replace(b": 2", b":\t2"),
    ],
)
def test_what_is_not_plain_is_not_studied(head: bytes) -> None:
    """Other line ends, no length, a length that is written oddly."""
    fields = [field for field in FIELDS if field[0] in head.lower()]
    assert cut(head + b"{}", fields) is None


def test_a_blank_line_in_the_body_is_none_in_the_head() -> None:
    """Where lines end in a bare LF the first CRLF CRLF may lie in the body: the number of lines tells."""
    data = HEAD.replace(b"\r\n", b"\n") + b"a\r\n\r\n"
    assert cut(data, FIELDS) is None


@settings(max_examples=200)
@given(body=st.binary(max_size=60), other=st.binary(max_size=60))
def test_any_body_passes_whole(body: bytes, other: bytes) -> None:
    """Whatever is in it, be it a head."""
    head = HEAD.replace(b": 2", b": %d" % len(body))
    known = cut(head + body, FIELDS)
    assert known is not None
    again = HEAD.replace(b": 2", b": %d" % len(other))
    assert body_of(known, again + other) == (b"%d" % len(other), other)


def test_the_length_stands_where_it_stood() -> None:
    """The fields of the one that came again; the first one's own are left alone."""
    again = with_length(FIELDS, 1, b"11")
    assert again == [(b"host", b"x"), (b"content-length", b"11"), (b"accept", b"*/*")]
    assert FIELDS[1] == (b"content-length", b"2")
    assert with_length(FIELDS, 1, b"2") is FIELDS
