"""A message's head that was there before: what it says is known, and is not parsed again. Pure.

Both sides of a connection send the same header fields with message after message; only the body's length differs. llhttp has read
exactly these bytes and found a sound head in them, so it would do so again. Whatever differs in a single byte, comes in more than
one piece, or has company is left to llhttp. It serves requests (`gateway/server`) and answers (`transport_connection`) alike.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

_DIGITS_MAX = 12
_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]{1,12})(?=\r\n)", re.IGNORECASE)
_END = b"\r\n\r\n"


class Cut(NamedTuple):
    """One head, cut where its body's length stands. `place`: of the length among its header fields."""

    before: bytes
    after: bytes
    place: int


def cut(data: bytes, fields: Sequence[tuple[bytes, bytes]]) -> Cut | None:
    """What can be known again of a message that is all of `data`. None: it is not, or it has not all that it takes.

    Args:
        fields: what llhttp has read in it; names in lower case.
    """
    end = data.find(_END) + len(_END)
    head = data[:end]
    length = _LENGTH.search(head)
    lines = head.count(b"\r\n")
    if end < len(_END) or length is None or lines != len(fields) + 2 or head.count(b"\n") != lines:
        return None
    if len(data) - end != int(length.group(1)):
        return None  # not all of it, or another one behind it, whose fields these may be
    place = [name for name, _ in fields].index(b"content-length")
    return Cut(head[: length.start(1)], head[length.end(1) :], place)


def body_of(known: Cut, data: bytes) -> tuple[bytes, bytes] | None:
    """The digits of the length and the body, of a whole message with that head and nothing else; None: it is something else."""
    before, after, _ = known  # names of a tuple's fields are looked up slowly
    if not data.startswith(before):
        return None
    head, end, body = data.partition(after)  # it ends with the blank line, so in this head it is nowhere else
    digits = head[len(before) :]
    if end and digits.isdigit() and len(digits) <= _DIGITS_MAX and len(body) == int(digits):
        return digits, body
    return None


def with_length(fields: list[tuple[bytes, bytes]], place: int, digits: bytes) -> list[tuple[bytes, bytes]]:
    """The fields with this length; the same list where it is theirs."""
    if fields[place][1] == digits:
        return fields
    fields = [*fields]
    fields[place] = (b"content-length", digits)
    return fields
