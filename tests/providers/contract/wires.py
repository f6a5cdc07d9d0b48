"""How chats are asked for and streamed in OpenAI's and in Anthropic's API, and the ways an upstream can misbehave."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class Trouble(Enum):
    """What the next answer is like."""

    SILENT = "the request is taken and nothing is answered"
    LONG = "a stream that begins, and goes on for longer than any test"
    PAUSE = "one event, and nothing more until a gate opens"
    CUT = "closed before anything was answered"
    RESET = "reset before anything was answered"
    CUT_BODY = "closed in the middle of a stream"
    RESET_BODY = "reset in the middle of a stream"
    CUT_PLAIN = "closed in the middle of a plain answer"
    GARBAGE = "an answer that is not HTTP"
    GARBAGE_BODY = "a stream whose framing breaks"
    ENDLESS_HEAD = "header fields without end"


def _nothing() -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class Wire:
    """One API. This is OpenAI's."""

    path: bytes = b"/v1/chat/completions"
    last: bytes = b"data: [DONE]\n\n"  # what a stream ends with
    always: Mapping[str, Any] = field(default_factory=_nothing)  # in every body

    def body(self, model: str, prompt: str, *, stream: bool, **more: Any) -> bytes:
        """A request."""
        messages = [{"role": "user", "content": prompt}]
        return json.dumps({"model": model, "messages": messages, "stream": stream, **self.always, **more}).encode()

    def event(self, word: str) -> bytes:
        """One piece of a streamed text."""
        choice = {"index": 0, "delta": {"content": word}, "finish_reason": None}
        data = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
        return b"data: %b\n\n" % json.dumps(data).encode()

    def word(self, event: Mapping[str, Any]) -> str:
        """The text in one event; "": it has none."""
        choices: Any = event.get("choices") or [{}]
        return choices[0].get("delta", {}).get("content") or ""

    def text(self, answer: Mapping[str, Any]) -> str:
        """The text of a plain answer."""
        return answer["choices"][0]["message"]["content"]

    def words(self, stream: bytes) -> list[str]:
        """The pieces of text in a whole stream, in order."""
        lines = [line for line in stream.split(b"\n") if line.startswith(b"data: {")]
        found = (self.word(json.loads(line.removeprefix(b"data: "))) for line in lines)
        return [word for word in found if word]


@dataclass(frozen=True)
class Messages(Wire):
    """Anthropic's."""

    path: bytes = b"/v1/messages"
    last: bytes = b'data: {"type": "message_stop"}\n\n'

    def event(self, word: str) -> bytes:
        data = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": word}}
        return b"event: content_block_delta\ndata: %b\n\n" % json.dumps(data).encode()

    def word(self, event: Mapping[str, Any]) -> str:
        return event.get("delta", {}).get("text") or ""

    def text(self, answer: Mapping[str, Any]) -> str:
        return answer["content"][0]["text"]


OPENAI = Wire()
ANTHROPIC = Messages(always={"max_tokens": 64})
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
