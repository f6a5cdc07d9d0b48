"""The few things a gateway writes into, or must know of, an event stream that otherwise passes as bytes. Pure.

Source: WHATWG HTML §9.2 (server-sent events); OpenAI's streams end with `data: [DONE]`.
"""

from __future__ import annotations

import re

import msgspec

KEEP_ALIVE = b": keep-alive\n\n"
# Enough for the last event of a stream to be recognised: "data: [DONE]" with its line ends, or an upstream's own error.
TAIL_BYTES = 512
_ERROR = (b'data: {"error"', b'data:{"error"')
_DONE = re.compile(rb"(?:^|[\r\n])data: ?\[DONE\]")
_BOUNDARY = (b"\n\n", b"\r\n\r\n", b"\r\r")


class Tail:
    """The end of what has passed: whether the stream is between two events, and whether it has said it is done."""

    __slots__ = ("_end",)

    def __init__(self) -> None:
        self._end = b""

    def add(self, data: bytes) -> None:
        self._end = data[-TAIL_BYTES:] if len(data) >= TAIL_BYTES else (self._end + data)[-TAIL_BYTES:]

    @property
    def between_events(self) -> bool:
        """Only here may a comment or an event of ours be put in."""
        return not self._end or self._end.endswith(_BOUNDARY)

    @property
    def failed(self) -> bool:
        """Whether the last event was an error of the upstream's own; only one that fits into the tail is recognised."""
        return self._last_event().startswith(_ERROR)

    def _last_event(self) -> bytes:
        end = self._end.rstrip(b"\r\n")
        return end[max(end.rfind(b"\n"), end.rfind(b"\r")) + 1 :]

    @property
    def done(self) -> bool:
        """Whether `[DONE]` was the last thing said."""
        return _DONE.search(self._end, max(0, len(self._end) - 64)) is not None


def event(payload: object) -> bytes:
    """One event with a JSON payload on one line."""
    return b"data: " + msgspec.json.encode(payload) + b"\n\n"


def is_event_stream(content_type: bytes | None) -> bool:
    """Whether a Content-Type says server-sent events, parameters aside."""
    return content_type is not None and content_type.partition(b";")[0].strip().lower() == b"text/event-stream"
