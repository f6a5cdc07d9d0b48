"""An event stream, cut into events: the WHATWG algorithm, fed with whatever pieces a socket gives. Pure.

Source: WHATWG HTML §9.2.6 (interpreting an event stream).
"""

from __future__ import annotations

import re

import msgspec

# Nothing may grow without end: the longest real event is an answer's last one with a picture in it.
EVENT_MAX_BYTES = 16 << 20
_LINE_END = re.compile(rb"\r\n|\n|\r")
_BOM = b"\xef\xbb\xbf"


class Event(msgspec.Struct, frozen=True):
    """One event. Lines of data are joined by a line feed; what is not UTF-8 is replaced."""

    name: str  # "message" where the stream names none
    data: str
    id: str = ""


class TooLong(ValueError):
    """An event without an end."""


class EventParser:
    """Feed it; it gives back the events that are complete. What has no blank line after it never comes."""

    __slots__ = ("_begun", "_data", "_id", "_name", "_parts", "_size")

    def __init__(self) -> None:
        self._parts: list[bytes] = []  # of a line without an end
        self._size = 0  # of what is kept: these, and the data of the event so far
        self._begun = False
        self._name = ""
        self._data: list[str] = []
        self._id = ""

    def feed(self, piece: bytes) -> list[Event]:
        """Raises: TooLong."""
        self._size += len(piece)
        parts = self._parts
        after_cr = bool(parts) and parts[-1].endswith(b"\r")  # which waits for what follows
        parts.append(piece)
        if self._begun and not after_cr and _LINE_END.search(piece) is None:
            self._limit()
            return []
        buffer = b"".join(parts)
        looked_at = max(0, len(buffer) - len(piece) - 1) if self._begun else 0
        if not self._begun:
            if len(buffer) < len(_BOM) and _BOM.startswith(buffer):
                return []
            self._begun = True
            buffer = buffer.removeprefix(_BOM)
        events: list[Event] = []
        start = 0
        for end in _LINE_END.finditer(buffer, looked_at):
            if end.group() == b"\r" and end.end() == len(buffer):
                break  # a line feed may follow, which belongs to it
            self._line(buffer[start : end.start()], events)
            start = end.end()
        parts[:] = [buffer[start:]] if start < len(buffer) else []
        self._size = len(buffer) - start + sum(map(len, self._data))
        self._limit()
        return events

    def _limit(self) -> None:
        if self._size > EVENT_MAX_BYTES:
            raise TooLong(f"an event of more than {EVENT_MAX_BYTES} bytes")

    def end(self) -> list[Event]:
        """The stream has ended: a carriage return at its very end was a line end by itself."""
        events: list[Event] = []
        rest = b"".join(self._parts)
        if rest.endswith(b"\r"):
            self._line(rest[:-1], events)
        self._parts.clear()
        return events

    def _line(self, line: bytes, events: list[Event]) -> None:
        if not line:
            if self._data:
                events.append(Event(self._name or "message", "\n".join(self._data), self._id))
            self._name, self._data = "", []
            return
        field, colon, value = line.partition(b":")
        if colon and value[:1] == b" ":
            value = value[1:]
        if field == b"data":
            self._data.append(value.decode("utf-8", "replace"))
        elif field == b"event":
            self._name = value.decode("utf-8", "replace")
        elif field == b"id" and b"\0" not in value:
            self._id = value.decode("utf-8", "replace")
