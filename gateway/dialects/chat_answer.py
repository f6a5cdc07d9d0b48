"""OpenAI's chat completions: the whole answer, read and written. Pure.

The law: what is read is what the upstream said, in the one order that chat has: reasoning, text, refusal, calls. Upstreams differ
in what they call an ending and in what they leave out; what an answer amounts to (`stop_of`) is decided here for streams too.

Source: OpenAI's API reference, "The chat completion object"; `reasoning_content`: DeepSeek, llama.cpp, vLLM; `reasoning`:
OpenRouter, newer vLLM; `stop_reason` (the stop sequence that was met): vLLM; parts of content: Mistral's reasoning models.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from .talk import Answer, Json, Message, Reasoning, Stamp, Stop, Talk, Text, ToolCall, Unreadable, Usage

_SAID_CHARS = 300  # of what cannot be read, for the log


# ------------------------------------------------------------------ the wire's form


class _OfPrompt(msgspec.Struct):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None


class _OfCompletion(msgspec.Struct):
    reasoning_tokens: int | None = None


class UsageSaid(msgspec.Struct):
    """What an answer took."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _OfPrompt | None = None
    completion_tokens_details: _OfCompletion | None = None
    prompt_cache_hit_tokens: int | None = None  # DeepSeek


class Called(msgspec.Struct):
    """A function or a custom tool, in whole or in pieces."""

    name: str | None = None
    arguments: str | dict[str, Any] | None = None
    input: str | None = None


class ContentPart(msgspec.Struct):
    """Of an upstream whose content is no string."""

    type: str
    text: str | None = None
    thinking: str | list[ContentPart] | None = None


Content = str | list[ContentPart] | None


class _Call(msgspec.Struct):
    id: str | None = None
    function: Called | None = None
    custom: Called | None = None


class _Message(msgspec.Struct):
    content: Content = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[_Call] | None = None


class _Choice(msgspec.Struct):
    message: _Message
    finish_reason: str | None = None
    stop_reason: object = None  # a string, or a token's number


class _Completion(msgspec.Struct):
    id: str | None = None
    model: str | None = None
    choices: list[_Choice] | None = None
    usage: UsageSaid | None = None
    error: object = None


_decode = msgspec.json.Decoder(_Completion).decode


# ------------------------------------------------------------------ read


def read_answer(body: bytes, talk: Talk | None = None) -> Answer:
    """
    Args:
        talk: what was asked: calls of its free-form tools, which were functions for the upstream, become free-form again.
    Raises: Unreadable.
    """
    try:
        said = _decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Unreadable(f"no chat completion: {error}: {body[:_SAID_CHARS]!r}") from None
    if said.error or not said.choices:
        raise Unreadable(f"no choice in the chat completion: {body[:_SAID_CHARS]!r}")
    choice, free = said.choices[0], free_names(talk)
    message = choice.message
    thought, text = thought_and_text(message.content)
    items: list[Message | Reasoning | ToolCall] = []
    if thought := message.reasoning_content or message.reasoning or thought:
        items.append(Reasoning(thought))
    if text:
        items.append(Message("assistant", (Text(text),)))
    if message.refusal:
        items.append(Message("assistant", (Text(message.refusal),), refusal=True))
    calls = [_call(call, call_id(call.id, said.id, at), free) for at, call in enumerate(message.tool_calls or ())]
    stop = stop_of(choice.finish_reason or "stop", called=bool(calls), refused=bool(message.refusal))
    if stop is None:
        raise Unreadable(f"the answer ended with an error: {body[:_SAID_CHARS]!r}")
    return Answer(
        model=said.model or "",
        items=(*items, *calls),
        stop=stop,
        stop_text=choice.stop_reason if isinstance(choice.stop_reason, str) else "",
        usage=read_usage(said.usage) if said.usage else None,
    )


def _call(call: _Call, given_id: str, free: frozenset[str]) -> ToolCall:
    if call.custom and call.custom.name:
        return ToolCall(given_id, call.custom.name, call.custom.input or "", free_form=True)
    if not call.function or not call.function.name:
        raise Unreadable(f"a tool call without a name: {call}")
    arguments = as_text(call.function.arguments) or "{}"
    if call.function.name in free:
        return ToolCall(given_id, call.function.name, bare(arguments), free_form=True)
    return ToolCall(given_id, call.function.name, arguments)


def call_id(said: str | None, answer_id: str | None, at: int) -> str:
    """Some upstreams give calls no ids: then one that is no other answer's."""
    of_answer = "".join(char for char in answer_id or "" if char.isascii() and (char.isalnum() or char in "-_"))
    return said or f"call_{of_answer}_{at}"


def as_text(arguments: str | dict[str, Any] | None) -> str:
    """A call's arguments, which some upstreams say as an object."""
    return msgspec.json.encode(arguments).decode() if isinstance(arguments, dict) else arguments or ""


def thought_and_text(content: Content) -> tuple[str, str]:
    """Content, with the reasoning that some have in it."""
    if not isinstance(content, list):
        return "", content or ""
    thoughts: list[str] = []
    for part in content:
        thought, text = thought_and_text(part.thinking)
        thoughts.append(thought + text)
    return "".join(thoughts), "".join(part.text or "" for part in content)


def free_names(talk: Talk | None) -> frozenset[str]:
    """The free-form tools of a request."""
    return frozenset(tool.name for tool in talk.tools if tool.free_form) if talk else frozenset()


def as_input(text: str) -> str:
    """The arguments of the function that a free-form tool is written as."""
    return msgspec.json.encode({"input": text}).decode()


def bare(arguments: str) -> str:
    """The text in such arguments. A model may have left the JSON away, or called its one field otherwise."""
    try:
        said = msgspec.json.decode(arguments, type=dict[str, Json])
    except (msgspec.MsgspecError, RecursionError):
        return arguments
    text = said.get("input", next(iter(said.values()), "") if len(said) <= 1 else None)
    return text if isinstance(text, str) else arguments


_STOPS: dict[str, Stop] = {
    "length": "length",
    "max_tokens": "length",
    "model_length": "length",  # Mistral: the context is full
    "content_filter": "filter",
}


def stop_of(reason: str, *, called: bool, refused: bool) -> Stop | None:
    """Why an answer ended; None: with an error (OpenRouter). Upstreams say "stop" of calls, and "tool_calls" of none."""
    if reason == "error":
        return None
    cut: Stop | None = _STOPS.get(reason)
    if cut:
        return cut
    return "tools" if called else "refusal" if refused else "stop"


def read_usage(said: UsageSaid) -> Usage:
    """What is not told is nought."""
    of_input = said.prompt_tokens_details or _OfPrompt()
    of_output = said.completion_tokens_details or _OfCompletion()
    return Usage(
        input=said.prompt_tokens or 0,
        output=said.completion_tokens or 0,
        cached=of_input.cached_tokens or said.prompt_cache_hit_tokens or 0,
        written=of_input.cache_write_tokens or 0,
        reasoning=of_output.reasoning_tokens or 0,
    )


# ------------------------------------------------------------------ written


def write_answer(answer: Answer, talk: Talk, stamp: Stamp) -> bytes:
    """Items of one kind become one: text after text, with nothing between, as in a stream."""
    thoughts = [item.text for item in answer.items if isinstance(item, Reasoning)]
    spoken = [item for item in answer.items if isinstance(item, Message)]
    text, refusal = ("".join(_text(item) for item in spoken if item.refusal is kind) for kind in (False, True))
    calls = [call_written(item) for item in answer.items if isinstance(item, ToolCall)]
    message: dict[str, Json] = {"role": "assistant", "content": text or (None if calls or refusal else "")}
    message["refusal"] = refusal or None
    if thought := "".join(thoughts):
        message["reasoning_content"] = thought
    if calls:
        message["tool_calls"] = calls
    choice: dict[str, Json] = {"index": 0, "message": message, "logprobs": None}
    choice["finish_reason"] = reason_of(answer.stop, called=bool(calls), refused=bool(refusal))
    if answer.stop_text:
        choice["stop_reason"] = answer.stop_text
    body = {**head(talk, stamp, "chat.completion"), "choices": [choice]}
    if answer.usage:
        body["usage"] = write_usage(answer.usage)
    return msgspec.json.encode(body)


def _text(message: Message) -> str:
    return "".join(part.text for part in message.parts if isinstance(part, Text))


def head(talk: Talk, stamp: Stamp, kind: Literal["chat.completion", "chat.completion.chunk"]) -> dict[str, Json]:
    """What every answer and every chunk begins with."""
    return {"id": f"chatcmpl-{stamp.id}", "object": kind, "created": stamp.created, "model": talk.model}


def call_written(call: ToolCall) -> dict[str, Json]:
    """A free-form call is its caller's custom tool's."""
    if call.free_form:
        return {"id": call.id, "type": "custom", "custom": {"name": call.name, "input": call.arguments}}
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def reason_of(stop: Stop, *, called: bool, refused: bool) -> str:
    """The `finish_reason`: the other way round, and of the same mind (`stop_of`).

    A refusal that has words is an ordinary ending, as OpenAI has it; one without was withheld.
    """
    match stop:
        case "length":
            return "length"
        case "filter":
            return "content_filter"
        case "refusal" if not refused:
            return "content_filter"
        case _:
            return "tool_calls" if called else "stop"


def write_usage(usage: Usage) -> Json:
    """As OpenAI has it."""
    cached: dict[str, int] = {"cached_tokens": usage.cached}
    if usage.written:
        cached["cache_write_tokens"] = usage.written
    return {
        "prompt_tokens": usage.input,
        "completion_tokens": usage.output,
        "total_tokens": usage.input + usage.output,
        "prompt_tokens_details": cached,
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
    }
