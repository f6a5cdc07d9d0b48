"""A head that this connection has sent before: what it says is known, and is not parsed again. Pure.

Clients keep a connection and send the same header fields over it with every request; only the body's length differs. llhttp has
read exactly these bytes and found a sound request in them, so it would do so again. Whatever differs in a single byte, comes in
more than one piece, or has company is left to llhttp.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

# A connection whose heads all differ (a fresh trace id in each) is not studied for ever.
LESSONS_MAX = 4
_DIGITS_MAX = 12
_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]{1,12})(?=\r\n)", re.IGNORECASE)
_END = b"\r\n\r\n"


class Known(NamedTuple):
    """One head, cut where its body's length stands.

    `scope`: as it was made of it, not to be changed; `place`: of the length among its header fields; `learned`: what the
    application has found out about these header fields, the length aside, for the next time.
    """

    before: bytes
    after: bytes
    scope: dict[str, Any]
    place: int
    learned: dict[str, Any]


def study(data: bytes, scope: dict[str, Any]) -> Known | None:
    """What can be known again of a request that is all of `data`. None: it is not, or it has not all that it takes.

    Args:
        scope: of a POST that leaves the connection open, waits for no word before its body, and asks for no upgrade.
    """
    end = data.find(_END) + len(_END)
    head = data[:end]
    fields: list[tuple[bytes, bytes]] = scope["headers"]
    length = _LENGTH.search(head)
    lines = head.count(b"\r\n")
    if end < len(_END) or length is None or lines != len(fields) + 2 or head.count(b"\n") != lines:
        return None
    if len(data) - end != int(length.group(1)):
        return None  # not all of it, or another one behind it, whose scope this may be
    place = [name for name, _ in fields].index(b"content-length")
    return Known(head[: length.start(1)], head[length.end(1) :], scope, place, {})


def body_of(known: Known, data: bytes) -> tuple[bytes, bytes] | None:
    """The digits of the length and the body, of a whole request with that head and nothing else; None: it is something else."""
    before, after = known.before, known.after
    if not data.startswith(before):
        return None
    start = len(before)
    stop = data.find(b"\r", start, start + _DIGITS_MAX + 1)
    digits = data[start:stop]
    if stop < 0 or not digits.isdigit() or not data.startswith(after, stop):
        return None
    body = data[stop + len(after) :]
    return (digits, body) if len(body) == int(digits) else None
