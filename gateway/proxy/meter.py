"""What a stream's bytes pass on their way to the caller: it remembers the usage, and takes out the chunk only we asked for. Pure.

The law: an ordinary event costs a look or two and is not copied; what is remembered is bounded, however long the stream and its
events are; of an event that is not the usage chunk nothing is held back once it is known, nor once its line is complete.

The usage chunk, as it is sent: an event with `"choices":[]` and an object in `usage`, before `[DONE]`; by OpenAI with fields behind
it (`obfuscation`), by llama.cpp with `timings`, by Python servers with a space after each colon. Azure's first event has empty
choices, too, and tells of the prompt's filtering: it stays.

Sources: OpenAI API reference, `stream_options.include_usage`; vLLM entrypoints/openai/serving_chat.py; llama.cpp
tools/server/server-task.cpp; Ollama openai/openai.go; Azure OpenAI, content filtering of streams (`prompt_filter_results`);
WHATWG HTML §9.2 (line ends of an event stream).
"""

from __future__ import annotations

import re

import msgspec

from gateway.metering.usage import Usage, merged, usage_in_events

# A line that is longer is no usage chunk: the longest seen has some 900 bytes.
HELD_MAX_BYTES = 8 << 10
# From the usage to the end of a stream: a completion's last chunk and `[DONE]` have some 1,000 bytes, behind the usage of Responses
# there are 16 metadata of 500 characters at most. Every open stream keeps up to twice as much.
SHORT_BYTES = 2 << 10
LONG_BYTES = 8 << 10
_BETWEEN = (b"\n\n", b"\r\n\r\n")
_LF = 10
_LINE_END = re.compile(rb"\r\n|\n|\r")
_DATA = b"data:"
# How each chunk of a stream begins that has choices: with the same id, model and time.
_ORDINARY = re.compile(rb'data: ?\{[^{}\[\]]*"choices": ?\[\{')
_UNKNOWN = b"\0"  # no event begins with this
# What has begun like this, and what goes on like this behind the key `choices`, may be the usage chunk.
_OBJECT = re.compile(rb"data:\s*(?:\{|\Z)")
_CHOICES = b'"choices"'
_EMPTY = re.compile(rb"\s*(?:\Z|:\s*(?:\Z|\[\s*(?:\Z|\])))")


class Meter:
    """One stream's.

    Args:
        hide: the caller did not ask for the usage chunk: it is taken out.
        window: how many bytes of a stream's end hold its usage.
    """

    __slots__ = (
        "_calm",
        "_condensed",
        "_dropped_cr",
        "_held",
        "_hide",
        "_inside",
        "_kept_cr",
        "_open",
        "_ordinary",
        "_pieces",
        "_removed",
        "_size",
        "_usage",
        "_window",
    )

    def __init__(self, *, hide: bool, window: int = LONG_BYTES) -> None:
        self._window = window
        self._hide = hide
        self._pieces: list[bytes] = []  # the last of what came
        self._size = 0
        self._condensed = False
        self._usage: Usage | None = None  # what was told at the beginning, where that is forgotten
        self._ordinary = _UNKNOWN
        self._calm = True  # between two events, with nothing held: none of the following is set
        self._held = b""  # the beginning of a line that may be the usage chunk
        self._inside = False  # the beginning of this line has been handed on
        self._open = False  # lines of this event have been handed on
        self._removed = False  # a line of this event has been taken out
        self._kept_cr = self._dropped_cr = (
            False  # the last line ended with a carriage return: a line feed belongs to it
        )

    def feed(self, data: bytes) -> bytes:
        """The next piece; what is to be handed on of it and of what was held. b"": nothing yet."""
        self._pieces.append(data)
        self._size += len(data)
        if self._size > 2 * self._window:
            self._condense()
        if not self._hide:
            return data
        if self._calm:
            # One event, and one that has choices. To look for two bytes in all of it would take longer than all of this.
            if (
                (data.startswith(self._ordinary) or self._is_ordinary(data))
                and data.find(b"\n") == len(data) - 2
                and data[-1] == _LF
            ):
                return data
            if data.endswith(_BETWEEN) and data.find(b"[]") < 0:
                return data
        return self._sift(data)

    def end(self) -> bytes:
        """No more comes: what is still held."""
        held, self._held = self._held, b""
        return b"" if _is_usage(held) else held

    @property
    def usage(self) -> Usage | None:
        """What has been told until now; None: nothing, or nothing readable."""
        return merged(self._usage, usage_in_events(b"".join(self._pieces)))

    def _is_ordinary(self, data: bytes) -> bool:
        """Whether the piece begins with a chunk that has choices; the next ones will begin likewise."""
        beginning = _ORDINARY.match(data)
        if beginning is not None:
            self._ordinary = beginning.group()
        return beginning is not None

    def _condense(self) -> None:
        """Keeps the end only: all tell it there, and Messages of the input in their first event."""
        kept = b"".join(self._pieces)
        if not self._condensed:
            self._condensed = True
            self._usage = usage_in_events(kept) if b'"message_start"' in kept else None
        self._pieces = [kept[-self._window :]]
        self._size = len(self._pieces[0])

    # ------------------------------------------------------------ the slow way

    def _sift(self, data: bytes) -> bytes:
        """Line by line, but for whole events at the beginning in which nothing is suspicious."""
        buffer = self._held + data if self._held else data
        out: list[bytes] = []
        at = 0
        if not (self._removed or self._dropped_cr):
            at = buffer.rfind(b"\n\n") + 2
            if at < 2 or _is_suspicious(buffer[:at]):
                at = 0
            else:
                out.append(buffer[:at])
                self._inside = self._open = self._kept_cr = False
        for end in _LINE_END.finditer(buffer, at):
            if self._passes(buffer[at : end.start()], end.group()):
                out.append(buffer[at : end.end()])
            at = end.end()
        self._held = buffer[at:]
        if self._held:
            self._kept_cr = self._dropped_cr = False
            if self._inside or not _may_be_usage(self._held):
                out.append(self._held)
                self._held = b""
                self._inside = self._open = True
        self._calm = not (
            self._held or self._inside or self._open or self._removed or self._kept_cr or self._dropped_cr
        )
        return b"".join(out)

    def _passes(self, line: bytes, end: bytes) -> bool:
        """Whether a line is handed on. Five cases: 1 the second half of a line end, 2 the rest of a line that has been begun,
        3 a blank line, which goes with an event of which nothing was handed on, 4 the usage chunk, 5 any other.
        """
        kept_cr, dropped_cr = self._kept_cr, self._dropped_cr
        self._kept_cr = self._dropped_cr = False
        if end == b"\n" and not line and (kept_cr or dropped_cr):  # 1
            return kept_cr
        if self._inside:  # 2
            self._inside = False
            passes = True
        elif not line:  # 3
            passes = self._open or not self._removed
            self._open = self._removed = False
        elif _is_usage(line):  # 4
            self._removed = True
            passes = False
        else:  # 5
            self._open = passes = True
        if end == b"\r":
            self._kept_cr, self._dropped_cr = passes, not passes
        return passes


def _is_suspicious(data: bytes) -> bool:
    return data.find(b"[]") >= 0 and data.find(b'"usage"') >= 0  # `in` takes an exception for bytes


def _may_be_usage(line: bytes) -> bool:
    """Whether the beginning of a line may be that of the usage chunk."""
    if len(line) < len(_DATA):
        return _DATA.startswith(line)
    if len(line) > HELD_MAX_BYTES or _OBJECT.match(line) is None:
        return False
    at = line.find(_CHOICES)
    return at < 0 or _EMPTY.match(line, at + len(_CHOICES)) is not None


class _Chunk(msgspec.Struct):
    choices: object = None
    usage: object = None
    error: object = None
    prompt_filter_results: object = None


_decode = msgspec.json.Decoder(_Chunk).decode


def _is_usage(line: bytes) -> bool:
    """Whether a line is the usage chunk, and tells nothing else that a caller waits for."""
    if not line.startswith(_DATA) or not _is_suspicious(line):
        return False
    try:
        chunk = _decode(line[len(_DATA) :])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    return chunk.choices == [] and isinstance(chunk.usage, dict) and not (chunk.error or chunk.prompt_filter_results)
