"""Answers of Anthropic's Messages API, read and written; its usage and its reasons to stop. Pure.

The law: `input_tokens` counts what was neither read from the cache nor written to it; Usage.input counts all of the prompt.

A block of text is a message of its own, as it is in a stream. Blocks that only Anthropic's own servers make (searches and their
results) are left out. A refusal has no block: its words are text, and `stop_reason` says what they are. What a content filter
withheld is a refusal too.

Source: platform.claude.com/docs: api/messages; build-with-claude: handling-stop-reasons, prompt-caching.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

import msgspec

from .messages_blocks import Block, Given, call_block, thought_block
from .talk import Answer, Message, Reasoning, Stamp, Stop, Talk, Text, ToolCall, Unreadable, Usage

_STOPS: Mapping[str, Stop] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tools",
    "refusal": "refusal",
    "pause_turn": "pause",
}
_REASONS: Mapping[Stop, str] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tools": "tool_use",
    "filter": "refusal",
    "refusal": "refusal",
    "pause": "pause_turn",
}


# ------------------------------------------------------------------ the wire form, as far as we read it


class _OutputDetails(msgspec.Struct):
    thinking_tokens: int | None = None


class WireUsage(msgspec.Struct):
    """What is not said stays None: in a stream each event tells what it knows."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    output_tokens_details: _OutputDetails | None = None


class WireBlock(msgspec.Struct):
    """Any block of an answer, whole or as a stream begins it."""

    type: str
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None
    id: str | None = None
    name: str | None = None


class _Kind(msgspec.Struct):
    type: str


class _Answer(msgspec.Struct):
    content: list[msgspec.Raw]
    model: str | None = None
    stop_reason: str | None = None
    stop_sequence: str | None = None
    usage: WireUsage | None = None


READ_BLOCKS = frozenset(("text", "thinking", "redacted_thinking", "tool_use"))


# ------------------------------------------------------------------ reading


def read_answer(body: bytes, talk: Talk | None = None) -> Answer:
    """Args: talk: the request it answers, for its free-form tools. Raises: Unreadable."""
    free = free_form_tools(talk)
    try:
        body.decode()  # what is kept as it came is not looked at otherwise
        said = msgspec.json.decode(body, type=_Answer)
        items = [item for raw in said.content for item in _read_block(raw, free)]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Unreadable(f"not an answer of the Messages API: {error}") from None
    return Answer(
        model=said.model or "",
        items=tuple(items),
        stop=read_stop(said.stop_reason, calls=any(isinstance(item, ToolCall) for item in items)),
        stop_text=said.stop_sequence or "",
        usage=None if said.usage is None else read_usage(said.usage),
    )


def _read_block(raw: msgspec.Raw, free: frozenset[str]) -> tuple[Message | Reasoning | ToolCall, ...]:
    """Raises: msgspec.DecodeError."""
    kind = msgspec.json.decode(raw, type=_Kind).type
    if kind not in READ_BLOCKS:
        return ()
    block = msgspec.json.decode(raw, type=WireBlock)
    if kind == "text":
        return (Message("assistant", (Text(block.text or ""),)),)
    if kind == "tool_use":
        return (read_call(block, read_input(raw), free),)
    if kind == "redacted_thinking":
        return (Reasoning("", block.data or "", hidden=True),)
    return (Reasoning(block.thinking or "", block.signature or ""),)


def read_input(raw: msgspec.Raw) -> str:
    """Of a block that asks for a tool; "{}" where it is null, or not there. Raises: msgspec.DecodeError."""
    given = bytes(msgspec.json.decode(raw, type=Given).input).decode()
    return "{}" if given == "null" else given


def read_call(block: WireBlock, arguments: str, free: frozenset[str]) -> ToolCall:
    """Args: free: tools whose one parameter is what they are given as it is."""
    name = block.name or ""
    if name not in free:
        return ToolCall(block.id or "", name, arguments)
    with suppress(msgspec.DecodeError, RecursionError):  # then what the model wrote instead is all there is
        arguments = msgspec.json.decode(arguments, type=_FreeForm).input
    return ToolCall(block.id or "", name, arguments, free_form=True)


class _FreeForm(msgspec.Struct):
    input: str


def free_form_tools(talk: Talk | None) -> frozenset[str]:
    """Their names."""
    return frozenset(tool.name for tool in talk.tools if tool.free_form) if talk else frozenset()


def read_stop(reason: str | None, *, calls: bool) -> Stop:
    """A reason we do not know, or none, is told by what there is. Args: calls: tools are asked for."""
    return _STOPS.get(reason or "", "tools" if calls else "stop")


def read_usage(said: WireUsage) -> Usage:
    """What is not said is 0."""
    cached, written = said.cache_read_input_tokens or 0, said.cache_creation_input_tokens or 0
    return Usage(
        input=(said.input_tokens or 0) + cached + written,
        output=said.output_tokens or 0,
        cached=cached,
        written=written,
        reasoning=(said.output_tokens_details and said.output_tokens_details.thinking_tokens) or 0,
    )


# ------------------------------------------------------------------ writing


def write_answer(answer: Answer, talk: Talk, stamp: Stamp) -> bytes:
    """Args: talk: the caller's request."""
    content: list[Block] = []
    refused = False
    for item in answer.items:
        match item:
            case Message():
                refused = refused or item.refusal
                content += [{"type": "text", "text": part.text} for part in item.parts if isinstance(part, Text)]
            case Reasoning():
                content.append(thought_block(item))
            case ToolCall():
                content.append(call_block(item))
    body = envelope(talk, stamp, content, answer.usage)
    return msgspec.json.encode(body | write_stop(answer.stop, answer.stop_text, refused=refused))


def envelope(talk: Talk, stamp: Stamp, content: list[Block], usage: Usage | None) -> Block:
    """An answer that has not been ended yet."""
    return {
        "id": f"msg_{stamp.id}",
        "type": "message",
        "role": "assistant",
        "model": talk.model,
        "content": content,
        "stop_reason": None,
        "stop_sequence": None,
        "usage": write_usage(usage or Usage()),
    }


def write_stop(stop: Stop, stop_text: str, *, refused: bool) -> Block:
    """`stop_reason` and `stop_sequence`. Args: refused: the answer holds a refusal."""
    reason = "refusal" if refused and stop == "stop" else _REASONS[stop]
    if reason == "end_turn" and stop_text:
        reason = "stop_sequence"
    return {"stop_reason": reason, "stop_sequence": stop_text or None}


def write_usage(usage: Usage) -> Block:
    """Clients need all four counts."""
    written: Block = {
        "input_tokens": max(usage.input - usage.cached - usage.written, 0),
        "cache_creation_input_tokens": usage.written,
        "cache_read_input_tokens": usage.cached,
        "output_tokens": usage.output,
    }
    if usage.reasoning:
        written["output_tokens_details"] = {"thinking_tokens": usage.reasoning}
    return written
