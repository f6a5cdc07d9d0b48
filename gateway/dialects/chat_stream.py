"""OpenAI's chat completions: the streamed answer, read and written. Pure.

The law: one thing at a time. A chunk may hold a piece of anything; what is open is closed as soon as something else begins, and a
piece for what has been closed cannot be put anywhere any more: `Unreadable`. An ending is never invented: there is one only after
the upstream gave a `finish_reason` and its last word, `[DONE]`; what comes between them is its usage.

Source: OpenAI's API reference, "The chat completion chunk object"; calls that all have index 0: ollama/ollama#15457; errors in the
stream: OpenRouter's API reference, "Errors" (`finish_reason` "error"), vLLM ({"object": "error", …}).
"""

from __future__ import annotations

from typing import Any, Literal, cast

import msgspec

from .chat_answer import (
    Called,
    Content,
    UsageSaid,
    as_text,
    bare,
    call_id,
    call_written,
    free_names,
    head,
    read_usage,
    reason_of,
    stop_of,
    thought_and_text,
    write_usage,
)
from .sse import Event
from .talk import (
    Began,
    Closed,
    Delta,
    Finished,
    Grew,
    Json,
    Opened,
    SaidError,
    Stamp,
    Talk,
    ToolCall,
    Unreadable,
    Usage,
)

_DONE = "[DONE]"
_SAID_CHARS = 300  # of what cannot be read, for the log


class _Piece(msgspec.Struct):
    """Of a call."""

    index: int | None = None
    id: str | None = None
    function: Called | None = None
    custom: Called | None = None


class _Growth(msgspec.Struct):
    content: Content = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[_Piece] | None = None


class _Choice(msgspec.Struct):
    index: int | None = None
    delta: _Growth | None = None
    finish_reason: str | None = None
    stop_reason: object = None  # vLLM: a string, or a token's number
    error: object = None  # OpenRouter


class _Chunk(msgspec.Struct):
    id: str | None = None
    model: str | None = None
    choices: list[_Choice] | None = None
    usage: UsageSaid | None = None
    error: object = None
    kind: str | None = msgspec.field(default=None, name="object")


class _Open(msgspec.Struct):
    """The call that is being told."""

    index: int | None
    id: str  # as the upstream said it, maybe not at all
    free: bool = False  # a function for the upstream, a free-form tool for the caller
    custom: bool = False  # free-form for the upstream, too
    arguments: list[str] = []


_decode = msgspec.json.Decoder(_Chunk).decode


# ------------------------------------------------------------------ read


class Reader:
    """Reads an upstream's stream, event by event.

    Args:
        talk: what was asked: calls of its free-form tools, which were functions for the upstream, become free-form again.
    """

    def __init__(self, talk: Talk | None = None) -> None:
        self.done = False
        self._free = free_names(talk)
        self._began = False
        self._open: Literal["text", "refusal", "reasoning", "call"] | None = None
        self._call: _Open | None = None
        self._calls = 0
        self._told: set[int | None] = set()  # indices of calls that are whole
        self._told_ids: set[str] = set()
        self._refused = False
        self._reason = ""  # why it ended, once it has
        self._stop_text = ""
        self._usage: Usage | None = None

    def feed(self, event: Event) -> list[Delta]:
        """Raises: Unreadable, SaidError."""
        if self.done or not event.data:
            return []
        if event.data.strip() == _DONE:
            return self._end()
        chunk = _chunk_of(event)
        deltas: list[Delta] = [] if self._began else [Began(chunk.model or "")]
        self._began = True
        if chunk.usage:
            self._usage = read_usage(chunk.usage)
        for choice in chunk.choices or ():
            if not choice.index:  # others are answers that nobody asked for
                self._grow(choice.delta or _Growth(), chunk.id, deltas)
                self._finish(choice, deltas)
        return deltas

    def _end(self) -> list[Delta]:
        stop = stop_of(self._reason, called=self._calls > 0, refused=self._refused) if self._reason else None
        if stop is None:
            raise Unreadable(f"{_DONE} without a finish_reason before it")
        self.done = True
        return [Finished(stop, self._stop_text, self._usage)]

    def _finish(self, choice: _Choice, deltas: list[Delta]) -> None:
        if not choice.finish_reason or self._reason:
            return
        if choice.finish_reason == "error":
            raise _said(choice.error or "The upstream ended its answer with an error")
        self._reason = choice.finish_reason
        if isinstance(choice.stop_reason, str):
            self._stop_text = choice.stop_reason
        self._close(deltas)

    def _grow(self, growth: _Growth, answer_id: str | None, deltas: list[Delta]) -> None:
        thought, text = thought_and_text(growth.content)
        self._say("reasoning", growth.reasoning_content or growth.reasoning or thought, deltas)
        self._say("text", text, deltas)
        self._say("refusal", growth.refusal or "", deltas)
        for piece in growth.tool_calls or ():
            self._hear(piece, answer_id, deltas)

    def _say(self, kind: Literal["text", "refusal", "reasoning"], text: str, deltas: list[Delta]) -> None:
        if not text:
            return
        self._still_open()
        if self._open != kind:
            self._close(deltas)
            self._open = kind
            deltas.append(Opened(kind))
        self._refused = self._refused or kind == "refusal"
        deltas.append(Grew(text))

    def _still_open(self) -> None:
        if self._reason:
            raise Unreadable(f"the answer goes on after its finish_reason, {self._reason!r}")

    def _hear(self, piece: _Piece, answer_id: str | None, deltas: list[Delta]) -> None:
        said = piece.function or piece.custom or Called()
        text = (piece.custom.input or "") if piece.custom else as_text(said.arguments)
        call = self._call
        if call is None or not _of(piece, call, said.name):
            late = piece.id in self._told_ids if piece.id else piece.index is not None and piece.index in self._told
            if not said.name or late:
                if not text:
                    return  # nothing is said of anything
                raise Unreadable(f"a piece of a tool call that is closed or never began: {piece}")
            call = self._begin(piece, said.name, answer_id, deltas)
        if text:
            call.arguments.append(text)
            if not call.free:
                deltas.append(Grew(text))

    def _begin(self, piece: _Piece, name: str, answer_id: str | None, deltas: list[Delta]) -> _Open:
        self._still_open()
        self._close(deltas)
        free = piece.custom is None and name in self._free
        call = self._call = _Open(piece.index, piece.id or "", free, piece.custom is not None)
        given_id = call_id(piece.id, answer_id, self._calls)
        self._open = "call"
        self._calls += 1
        deltas.append(Opened("call", given_id, name, free or piece.custom is not None))
        return call

    def _close(self, deltas: list[Delta]) -> None:
        call = self._call
        if call:
            if call.free:
                deltas.append(Grew(bare("".join(call.arguments) or "{}")))
            elif not call.arguments and not call.custom:
                deltas.append(Grew("{}"))
            self._told.add(call.index)
            self._told_ids.add(call.id)
        if self._open:
            deltas.append(Closed())
        self._open = self._call = None


def _of(piece: _Piece, call: _Open, name: str | None) -> bool:
    """Whether it goes on with this call. Some upstreams give every call the index 0, or none; then its id says, or its name."""
    if piece.id and call.id and piece.id != call.id:
        return False
    if piece.index is None:
        return bool(piece.id) or not name
    return piece.index == call.index


def _chunk_of(event: Event) -> _Chunk:
    try:
        chunk = _decode(event.data)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise Unreadable(f"no chunk of a chat completion: {error}: {event.data[:_SAID_CHARS]!r}") from None
    if chunk.error:
        raise _said(chunk.error)
    if chunk.kind == "error" or event.name == "error":
        raise SaidError(msgspec.json.decode(event.data, type=dict[str, Any]))
    return chunk


def _said(error: object) -> SaidError:
    return SaidError(cast("dict[str, Any]", error) if isinstance(error, dict) else {"message": str(error)})


# ------------------------------------------------------------------ written


class Writer:
    """Writes a caller's stream. Items of one kind follow each other with nothing between, as in a whole answer."""

    def __init__(self, talk: Talk, stamp: Stamp) -> None:
        self._usage_asked = talk.usage_asked
        self._head = head(talk, stamp, "chat.completion.chunk")
        self._open = Opened("text")
        self._calls = 0
        self._refused = False
        self._usage: Usage | None = None

    def write(self, delta: Delta) -> bytes:
        """Complete events; none where chat has no words."""
        match delta:
            case Began():
                self._usage = delta.usage
                return self._chunk({"role": "assistant", "content": ""})
            case Opened():
                self._open = delta
                return self._opened(delta) if delta.kind == "call" else b""
            case Grew():
                return self._grew(delta.text) if delta.text else b""
            case Closed():
                return b""
            case Finished():
                return self._finished(delta)

    def _opened(self, call: Opened) -> bytes:
        self._calls += 1
        written = call_written(ToolCall(call.id, call.name, "", call.free_form))
        return self._chunk({"tool_calls": [{"index": self._calls - 1, **written}]})

    def _grew(self, text: str) -> bytes:
        match self._open.kind:
            case "text":
                return self._chunk({"content": text})
            case "reasoning":
                return self._chunk({"reasoning_content": text})
            case "refusal":
                self._refused = True
                return self._chunk({"refusal": text})
            case "call":
                grown = {"custom": {"input": text}} if self._open.free_form else {"function": {"arguments": text}}
                return self._chunk({"tool_calls": [{"index": self._calls - 1, **grown}]})

    def _finished(self, finished: Finished) -> bytes:
        more: dict[str, Json] = {"stop_reason": finished.stop_text} if finished.stop_text else {}
        reason = reason_of(finished.stop, called=self._calls > 0, refused=self._refused)
        last = self._chunk({}, reason, more)
        usage = finished.usage or self._usage
        if self._usage_asked and usage:
            last += _event({**self._head, "choices": [], "usage": write_usage(usage)})
        return last + b"data: [DONE]\n\n"

    def _chunk(self, delta: Json, reason: str | None = None, more: dict[str, Json] | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason, **(more or {})}
        usage = {"usage": None} if self._usage_asked else {}
        return _event({**self._head, "choices": [choice], **usage})


def _event(payload: Json) -> bytes:
    return b"data: " + msgspec.json.encode(payload) + b"\n\n"
