"""The few things a gateway writes into, or must know of, an event stream that otherwise passes as bytes. Pure.

Source: WHATWG HTML §9.2 (server-sent events); OpenAI's streams end with `data: [DONE]`.
"""

from __future__ import annotations

import re

import msgspec

KEEP_ALIVE = b": keep-alive\n\n"
# Enough for the last event of a stream to be recognised: "data: [DONE]" with its line ends, or an upstream's own error.
TAIL_BYTES = 512
_ERROR = (b'data: {"error"', b'data:{"error"', b'data: {"type":"error"', b'data: {"type": "error"')
# OpenRouter's is an ordinary chunk with an `error`, which it ends with this reason; nobody else has that reason.
_OPENROUTER_ERROR = re.compile(rb'"finish_reason": ?"error"')
_MESSAGE_STOP = b'"message_stop"'  # Anthropic's streams end with this event and say no `[DONE]`
_ERROR_MAX_BYTES = 64 << 10  # of a first event that is looked at for an error
_STATUS = re.compile(r"[45][0-9]{2}")
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
        """Whether the last event was an error of the upstream's own; of one longer than the tail only OpenRouter's is seen."""
        last = self._last_event()
        return last.startswith(_ERROR) or _OPENROUTER_ERROR.search(last) is not None

    def _last_event(self) -> bytes:
        end = self._end.rstrip(b"\r\n")
        return end[max(end.rfind(b"\n"), end.rfind(b"\r")) + 1 :]

    @property
    def done(self) -> bool:
        """Whether the last thing said is that there is no more: `[DONE]`, or `message_stop`."""
        return _DONE.search(self._end, max(0, len(self._end) - 64)) is not None or _MESSAGE_STOP in self._last_event()


def first_error(data: bytes) -> tuple[int, bytes] | None:
    """The status and body of the error that a stream begins with, None where it begins with something else.

    An upstream that had sent its 200 before it failed can only say so in the stream (OpenRouter, vLLM); as long as nothing has
    been handed on, that is an ordinary refusal. The status is the error's own `code`, 502 where it has none.
    """
    if b'"error"' not in data[:_ERROR_MAX_BYTES]:
        return None
    line = next((line for line in data[:_ERROR_MAX_BYTES].splitlines() if line.startswith(b"data:")), b"")
    try:
        said = msgspec.json.decode(line[5:], type=_First)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    if not said.error:
        return None
    code = str(said.error.get("code")) if isinstance(said.error, dict) else ""
    status = int(code) if _STATUS.fullmatch(code) else 502
    return status, msgspec.json.encode({"error": said.error})


class _First(msgspec.Struct):
    error: dict[str, object] | str | None = None


def event(payload: object) -> bytes:
    """One event with a JSON payload on one line."""
    return b"data: " + msgspec.json.encode(payload) + b"\n\n"


def is_event_stream(content_type: bytes | None) -> bool:
    """Whether a Content-Type says server-sent events, parameters aside."""
    return content_type is not None and content_type.partition(b";")[0].strip().lower() == b"text/event-stream"
