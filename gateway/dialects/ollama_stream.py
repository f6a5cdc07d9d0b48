"""Ollama's own streams, written: a JSON object on each line, the last one with `done` and the counts. Pure.

The law: what is written is whole lines. A call comes in one piece when it is complete, for Ollama never cuts one.

Source: Ollama, docs/api.md ("Streaming responses"), docs/capabilities/tool-calling; api/client.go (an `error` in a line ends it).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .ollama_answer import NOT_MEASURED, Durations, call_of, encoded, last, piece, tail
from .talk import Began, Closed, Delta, Finished, Grew, Opened, Stamp, Talk, ToolCall, Usage

NDJSON = b"application/x-ndjson"
# What may be written between two lines while nothing is to be said: white space before a line's object. An empty line would be
# read as an object by clients that parse every line, and fail.
KEEP_ALIVE = b" "

Measure = Callable[[], Durations]


def not_measured() -> Durations:
    """Nobody has looked at a clock."""
    return NOT_MEASURED


class Writer:
    """Lines of an answer's pieces. `ChatWriter` and `GenerateWriter` say in which fields.

    Args:
        measured: how long it has taken so far; asked when the last line is written.
    """

    def __init__(self, talk: Talk, stamp: Stamp, measured: Measure = not_measured) -> None:
        self._talk = talk
        self._stamp = stamp
        self._measured = measured
        self._usage: Usage | None = None
        self._opened = Opened("text")
        self._arguments: list[str] = []
        self._calls = 0

    def write(self, delta: Delta) -> bytes:
        """Whole lines; b"" for what says nothing by itself."""
        match delta:
            case Began():
                self._usage = delta.usage
            case Opened():
                self._opened, self._arguments = delta, []
            case Grew() if self._opened.kind == "call":
                self._arguments.append(delta.text)
            case Grew() if delta.text:
                thinking = self._opened.kind == "reasoning"
                return self._line(self.said("", thinking=delta.text) if thinking else self.said(delta.text))
            case Closed() if self._opened.kind == "call":
                call = ToolCall(self._opened.id, self._opened.name, "".join(self._arguments))
                self._calls += 1
                return self._line(self.said("", tool_calls=[call_of(call, self._calls - 1)]))
            case Finished():
                told = tail(delta.stop, delta.usage or self._usage, self._measured())
                return encoded(last(self._talk, self._stamp, self.said(""), told)) + b"\n"
            case _:
                pass
        return b""

    def _line(self, said: Mapping[str, Any]) -> bytes:
        return encoded(piece(self._talk, self._stamp, said)) + b"\n"

    def said(self, text: str, **more: Any) -> Mapping[str, Any]:
        """A piece of what the assistant says, in the route's own fields."""
        raise NotImplementedError


class ChatWriter(Writer):
    """Of POST /api/chat."""

    def said(self, text: str, **more: Any) -> Mapping[str, Any]:
        return {"message": {"role": "assistant", "content": text, **more}}


class GenerateWriter(Writer):
    """Of POST /api/generate."""

    def said(self, text: str, **more: Any) -> Mapping[str, Any]:
        return {"response": text, **more}


def failed(message: str) -> bytes:
    """The last line of a stream that broke off. It begins a line: what was written before it is whole lines."""
    return encoded({"error": message}) + b"\n"
