"""An event stream, cut into events: the WHATWG algorithm, fed with whatever pieces a socket gives. Pure.

Source: WHATWG HTML §9.2.6 (interpreting an event stream).
"""

from __future__ import annotations

import re

import msgspec

# Between two line ends nothing may grow without end: the longest real line is an answer's last event with a picture in it.
LINE_MAX_BYTES = 16 << 20
_LINE_END = re.compile(rb"\r\n|\n|\r")
_BOM = b"\xef\xbb\xbf"


class Event(msgspec.Struct, frozen=True):
    """One event. Lines of data are joined by a line feed; what is not UTF-8 is replaced."""

    name: str  # "message" where the stream names none
    data: str
    id: str = ""


class TooLong(ValueError):
    """A line without an end."""


class EventParser:
    """Feed it; it gives back the events that are complete. What has no blank line after it never comes."""

    __slots__ = ("_begun", "_data", "_id", "_name", "_rest")

    def __init__(self) -> None:
        self._rest = b""
        self._begun = False
        self._name = ""
        self._data: list[str] = []
        self._id = ""

    def feed(self, piece: bytes) -> list[Event]:
        """Raises: TooLong."""
        looked_at = max(0, len(self._rest) - 1)  # its last byte may be a carriage return that waits for what follows
        buffer = self._rest + piece if self._rest else piece
        if not self._begun:
            if len(buffer) < len(_BOM) and _BOM.startswith(buffer):
                self._rest = buffer
                return []
            self._begun = True
            if buffer.startswith(_BOM):
                buffer, looked_at = buffer[len(_BOM) :], 0
        events: list[Event] = []
        start = 0
        for end in _LINE_END.finditer(buffer, looked_at):
            if end.group() == b"\r" and end.end() == len(buffer):
                break  # a line feed may follow, which belongs to it
            self._line(buffer[start : end.start()], events)
            start = end.end()
        self._rest = buffer[start:]
        if len(self._rest) > LINE_MAX_BYTES:
            raise TooLong(f"a line of more than {LINE_MAX_BYTES} bytes")
        return events

    def end(self) -> list[Event]:
        """The stream has ended: a carriage return at its very end was a line end by itself."""
        events: list[Event] = []
        if self._rest.endswith(b"\r"):
            self._line(self._rest[:-1], events)
        self._rest = b""
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
