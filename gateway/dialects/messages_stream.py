"""Streamed answers of Anthropic's Messages API, read and written. Pure.

The law: what a stream amounts to is what the whole answer would have been. One exception: arguments that begin like a JSON object
and are none have been passed on when that is seen, where a whole answer says `{}`.

Read leniently: an event's name may be missing, a block may begin with its text in it or never be closed, `[DONE]` may follow.
Events, blocks and deltas of kinds we do not know are passed over, as Anthropic asks its clients to do. Written as the original
writes, because its client libraries look at the event's name, and take a signature from one delta only.

Source: platform.claude.com/docs/en/build-with-claude/streaming; the accumulation in anthropic-sdk-python's lib/streaming.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar, cast

import msgspec

from .messages_answer import (
    READ_BLOCKS,
    WireBlock,
    WireUsage,
    envelope,
    free_form_tools,
    read_call,
    read_input,
    read_stop,
    read_usage,
    write_stop,
    write_usage,
)
from .messages_blocks import Block
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
    Unreadable,
)

_T = TypeVar("_T")
_SPACE = " \t\r\n"


# ------------------------------------------------------------------ reading


class _Kind(msgspec.Struct):
    type: str | None = None
    error: Json = None


class _Message(msgspec.Struct):
    model: str | None = None
    usage: WireUsage | None = None


class _MessageStart(msgspec.Struct):
    message: _Message


class _BlockStart(msgspec.Struct):
    content_block: msgspec.Raw
    index: int | None = None


class _BlockKind(msgspec.Struct):
    type: str


class _Piece(msgspec.Struct):
    type: str
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    partial_json: str | None = None


class _BlockDelta(msgspec.Struct):
    delta: _Piece
    index: int | None = None


class _BlockStop(msgspec.Struct):
    index: int | None = None


class _Ending(msgspec.Struct):
    stop_reason: str | None = None
    stop_sequence: str | None = None


class _MessageDelta(msgspec.Struct):
    delta: _Ending = msgspec.field(default_factory=_Ending)
    usage: WireUsage | None = None


class _OpenBlock:
    """The block that the stream is in."""

    __slots__ = ("begun_with", "block", "free_form", "grown", "held", "index", "seal")

    def __init__(self, index: int | None, block: WireBlock, begun_with: str, *, free_form: bool) -> None:
        self.index = index
        self.block = block
        self.begun_with = begun_with  # a call's arguments, where no delta brings them
        self.free_form = free_form
        self.grown = False
        self.held: list[str] = []  # a free-form tool's input stands in JSON, which must be whole to be read
        self.seal = block.signature or ""


class Reader:
    """Reads an upstream's stream.

    Args:
        talk: the request it answers, for its free-form tools.
    """

    def __init__(self, talk: Talk | None = None) -> None:
        self.done = False
        self._free = free_form_tools(talk)
        self._begun = False
        self._open: _OpenBlock | None = None
        self._passed_over: set[int | None] = set()  # blocks
        self._called = False
        self._ending = _Ending()
        self._usage: WireUsage | None = None

    def feed(self, event: Event) -> list[Delta]:
        """Raises: Unreadable, SaidError."""
        if self.done or event.name == "ping" or event.data == "[DONE]":
            return []
        try:
            kind = msgspec.json.decode(event.data, type=_Kind)
        except (msgspec.DecodeError, RecursionError):
            if event.name == "error":
                raise SaidError({"message": event.data}) from None
            raise Unreadable(f"not an event of the Messages API: {event.data[:200]}") from None
        name = kind.type or event.name
        if name == "error" or (kind.type is None and kind.error is not None):
            said = kind.error if kind.error is not None else event.data
            raise SaidError(cast("Mapping[str, Json]", said) if isinstance(said, dict) else {"message": str(said)})
        try:
            return self._take(name, event.data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Unreadable(f"{name}: {error}") from None

    def _take(self, name: str, data: str) -> list[Delta]:
        if name == "message_start":
            return self._start(_read(data, _MessageStart).message)
        if name not in (
            "content_block_start",
            "content_block_delta",
            "content_block_stop",
            "message_delta",
            "message_stop",
        ):
            return []
        if not self._begun:
            raise Unreadable(f"{name} before message_start")
        if name == "content_block_start":
            return self._open_block(_read(data, _BlockStart))
        if name == "content_block_delta":
            return self._grow(_read(data, _BlockDelta))
        if name == "content_block_stop":
            return self._stop_block(_read(data, _BlockStop).index)
        if name == "message_delta":
            self._end(_read(data, _MessageDelta))
            return []
        return self._finish()

    def _start(self, message: _Message) -> list[Delta]:
        if self._begun:
            raise Unreadable("message_start twice")
        self._begun = True
        self._usage = message.usage
        return [Began(message.model or "", None if message.usage is None else read_usage(message.usage))]

    def _open_block(self, event: _BlockStart) -> list[Delta]:
        deltas = self._close()
        kind = _read(event.content_block, _BlockKind).type
        if kind not in READ_BLOCKS:
            self._passed_over.add(event.index)
            return deltas
        self._passed_over.discard(event.index)
        block = _read(event.content_block, WireBlock)
        if kind == "tool_use":
            self._called = True
            begun_with, free = read_input(event.content_block), block.name in self._free
            self._open = _OpenBlock(event.index, block, begun_with, free_form=free)
            return [*deltas, Opened("call", block.id or "", block.name or "", free)]
        self._open = _OpenBlock(event.index, block, "", free_form=False)
        deltas.append(Opened("text" if kind == "text" else "reasoning"))
        text = (block.text if kind == "text" else block.thinking) or ""
        return [*deltas, Grew(text)] if text and kind != "redacted_thinking" else deltas

    def _grow(self, event: _BlockDelta) -> list[Delta]:
        piece, block = event.delta, self._open
        if event.index in self._passed_over:
            return []
        if block is None or event.index not in (None, block.index):
            raise Unreadable("content_block_delta of a block that is not open")
        text = ""
        match piece.type, block.block.type:
            case "text_delta", "text":
                text = piece.text or ""
            case "thinking_delta", "thinking":
                text = piece.thinking or ""
            case "signature_delta", "thinking":
                block.seal = piece.signature or ""
            case "input_json_delta", "tool_use":
                text = piece.partial_json or ""
            case _:
                pass
        if block.free_form:
            block.held.append(text)
            return []
        block.grown = block.grown or bool(text.strip(_SPACE))
        return [Grew(text)] if text else []

    def _stop_block(self, index: int | None) -> list[Delta]:
        return self._close() if self._open is not None and index in (None, self._open.index) else []

    def _close(self) -> list[Delta]:
        block, self._open = self._open, None
        if block is None:
            return []
        kind = block.block.type
        if kind == "redacted_thinking":
            return [Closed(block.block.data or "", hidden=True)]
        if kind != "tool_use":
            return [Closed(block.seal)]
        if block.free_form:
            call = read_call(block.block, "".join(block.held) or block.begun_with, self._free)
            return [Grew(call.arguments), Closed()]
        return [Closed()] if block.grown else [Grew(block.begun_with), Closed()]

    def _end(self, event: _MessageDelta) -> None:
        """Counts are cumulative: a later one stands in place of an earlier one, and what is not told again stays."""
        if event.delta.stop_reason is not None:
            self._ending = event.delta
        if event.usage is None or self._usage is None:
            self._usage = event.usage or self._usage
            return
        for name in WireUsage.__struct_fields__:
            told = getattr(event.usage, name)
            if told is not None:
                setattr(self._usage, name, told)

    def _finish(self) -> list[Delta]:
        deltas = self._close()
        self.done = True
        stop = read_stop(self._ending.stop_reason, calls=self._called)
        usage = None if self._usage is None else read_usage(self._usage)
        return [*deltas, Finished(stop, self._ending.stop_sequence or "", usage)]


def _read(data: str | msgspec.Raw, form: type[_T]) -> _T:
    """Raises: msgspec.DecodeError."""
    return msgspec.json.decode(data, type=form)


# ------------------------------------------------------------------ writing


class Writer:
    """Writes the caller's stream.

    Args:
        talk: the caller's request.
    """

    def __init__(self, talk: Talk, stamp: Stamp) -> None:
        self._talk = talk
        self._stamp = stamp
        self._index = 0
        self._item = Opened("text")
        self._started = False  # the open item's block has been announced
        self._refused = False
        self._held: str | None = (
            ""  # a call's arguments, until it is seen whether they are an object; None: it has been
        )

    def write(self, delta: Delta) -> bytes:
        """Complete events; b"" where nothing is to be said yet."""
        match delta:
            case Began():
                return _event("message_start", message=envelope(self._talk, self._stamp, [], delta.usage))
            case Opened():
                return self._open(delta)
            case Grew():
                return self._grow(delta.text)
            case Closed():
                return self._close(delta)
            case Finished():
                ending = write_stop(delta.stop, delta.stop_text, refused=self._refused)
                usage = {"output_tokens": 0} if delta.usage is None else write_usage(delta.usage)
                return _event("message_delta", delta=ending, usage=usage) + _event("message_stop")

    def failed(self, error: Mapping[str, Json]) -> bytes:
        """The last event where the answer cannot be finished. Args: error: {"type": …, "message": …}."""
        return _event("error", error=error)

    def _open(self, item: Opened) -> bytes:
        self._item, self._started, self._held = item, False, ""
        if item.kind == "reasoning":
            return b""  # only at its end it is known whether it is hidden
        if item.kind == "call":
            started = self._start({"type": "tool_use", "id": item.id, "name": item.name, "input": {}})
            return started + (self._delta("input_json_delta", partial_json='{"input":"') if item.free_form else b"")
        self._refused = self._refused or item.kind == "refusal"
        return self._start({"type": "text", "text": ""})

    def _start(self, block: Block) -> bytes:
        self._started = True
        return _event("content_block_start", index=self._index, content_block=block)

    def _delta(self, kind: str, **fields: str) -> bytes:
        return _event("content_block_delta", index=self._index, delta={"type": kind, **fields})

    def _grow(self, text: str) -> bytes:
        if not text:
            return b""
        if self._item.kind == "reasoning":
            started = b"" if self._started else self._start({"type": "thinking", "thinking": "", "signature": ""})
            return started + self._delta("thinking_delta", thinking=text)
        if self._item.kind != "call":
            return self._delta("text_delta", text=text)
        if self._item.free_form:
            return self._delta("input_json_delta", partial_json=msgspec.json.encode(text)[1:-1].decode())
        if self._held is None:
            return self._delta("input_json_delta", partial_json=text)
        self._held += text
        if not self._held.lstrip(_SPACE).startswith("{"):
            return b""  # white space, or what is no object: clients get `{}`
        text, self._held = self._held, None
        return self._delta("input_json_delta", partial_json=text)

    def _close(self, closed: Closed) -> bytes:
        written = b""
        if self._item.kind == "reasoning" and not self._started and closed.hidden:
            written = self._start({"type": "redacted_thinking", "data": closed.seal})
        elif self._item.kind == "reasoning":
            if not self._started:
                written = self._start({"type": "thinking", "thinking": "", "signature": ""})
            if closed.seal:
                written += self._delta("signature_delta", signature=closed.seal)
        elif self._item.free_form:
            written = self._delta("input_json_delta", partial_json='"}')
        written += _event("content_block_stop", index=self._index)
        self._index += 1
        return written


def _event(kind: str, **fields: Json) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (kind.encode(), msgspec.json.encode({"type": kind, **fields}))
