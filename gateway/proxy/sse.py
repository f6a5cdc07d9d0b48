"""The few things a gateway writes into, or must know of, an event stream that otherwise passes as bytes. Pure.

Source: WHATWG HTML §9.2 (server-sent events); OpenAI's streams end with `data: [DONE]`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from gateway.dialects.spoken import Spoken

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
    def end(self) -> bytes:
        """The last bytes, TAIL_BYTES at most."""
        return self._end

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


# What Responses' streams end with. In a text that quotes these words the quotation marks are escaped.
_RESPONSE_ENDED = re.compile(
    rb'(?:^|[\r\n])event: ?response\.(?:completed|incomplete|failed)[\r\n]|"type": ?"response\.(?:completed|incomplete|failed)"'
)
_JOINT_BYTES = 64  # of what may be cut in two: longer than any of these words
# In the last line only, before the tokens of `context`, which may be thousands.
_LAST_LINE = re.compile(rb'"done": ?true, ?"(?:done_reason|context|total_duration)"')
# The last line ends with it and the counts; a tool call's argument of that name stands deeper.
_LINES_ENDED = re.compile(rb'"done": ?true(?:, ?"[a-z_]+": ?(?:"[a-z]*"|\d+|\[[\d, ]*\]))*\}\s*$')


class _SeenTail(Tail):
    """Of streams whose last word may stand farther from the end than is remembered: it is looked for as it passes."""

    __slots__ = ("_said",)

    word: re.Pattern[bytes]

    def __init__(self) -> None:
        super().__init__()
        self._said = False

    def add(self, data: bytes) -> None:
        if not self._said and (
            self.word.search(data) or self.word.search(self._end[-_JOINT_BYTES:] + data[:_JOINT_BYTES])
        ):
            self._said = True
        super().add(data)


class ResponsesTail(_SeenTail):
    """Of OpenAI's Responses: the last event holds the whole answer."""

    __slots__ = ()

    word = _RESPONSE_ENDED

    @property
    def done(self) -> bool:
        return self._said


class EndlessTail(Tail):
    """Of streams without a last word (speech, pictures): they are done wherever they end between two events."""

    __slots__ = ()

    @property
    def done(self) -> bool:
        return self.between_events


class LinesTail(_SeenTail):
    """Of Ollama's streams: a JSON object on each line; the last may be long."""

    __slots__ = ()

    word = _LAST_LINE

    @property
    def between_events(self) -> bool:
        return not self._end or self._end.endswith(b"\n")

    @property
    def failed(self) -> bool:
        return self._last_event().startswith(b'{"error"')

    @property
    def done(self) -> bool:
        return (self._said and self._end.rstrip().endswith(b"}")) or _LINES_ENDED.search(self._last_event()) is not None


_TAILS: Mapping[Spoken, type[Tail]] = {
    Spoken.RESPONSES: ResponsesTail,
    Spoken.PLAIN: EndlessTail,
    Spoken.OLLAMA: LinesTail,
}


def tail_of(spoken: Spoken) -> type[Tail]:
    """What remembers the end of a stream on such a route."""
    return _TAILS.get(spoken, Tail)


def first_error(data: bytes) -> tuple[int, bytes] | None:
    """The status and body of the error that a stream begins with, None where it begins with something else.

    An upstream that had sent its 200 before it failed can only say so in the stream (OpenRouter, vLLM); as long as nothing has
    been handed on, that is an ordinary refusal. The status is the error's own `code`, 502 where it has none.
    """
    if b'"error"' not in data[:_ERROR_MAX_BYTES]:
        return None
    line = next((line for line in data[:_ERROR_MAX_BYTES].splitlines() if line.startswith(b"data:")), b"")
    return whole_error(line[5:])


def whole_error(body: bytes) -> tuple[int, bytes] | None:
    """The same of an answer that is an error in spite of its status."""
    try:
        said = msgspec.json.decode(body, type=_First)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    if not said.error:
        return None
    status = status_of(said.error) if isinstance(said.error, dict) else 502
    return status, msgspec.json.encode({"error": said.error})


def status_of(error: Mapping[str, object]) -> int:
    """The status that an error in a stream stands for: its own `code`, 502 where it has none."""
    code = str(error.get("code"))
    return int(code) if _STATUS.fullmatch(code) else 502


class _First(msgspec.Struct):
    error: dict[str, object] | str | None = None


def event(payload: object) -> bytes:
    """One event with a JSON payload on one line."""
    return b"data: " + msgspec.json.encode(payload) + b"\n\n"


def is_stream(content_type: bytes | None) -> bool:
    """Whether a Content-Type says that what follows comes piece by piece: events, or lines of JSON."""
    if content_type is None or content_type == b"application/json":
        return False
    return content_type.partition(b";")[0].strip().lower() in _STREAM_TYPES


_STREAM_TYPES = (b"text/event-stream", b"application/x-ndjson")
