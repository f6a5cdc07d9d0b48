"""An answer of OpenAI's Responses API: read, and written with every field that its clients' types ask for. Pure.

The law: one item of the answer is one item of `output`, numbered from 0 and named after that number, so that a stream, which writes
an item before it knows the next, ends in the very same object.

Reasoning is written as a summary: Codex shows `reasoning_summary_text`, and raw `reasoning_text` only where it is told to; the
openai package keeps both. A summary with an empty part stands for thoughts that were sealed but not withheld (`hidden` is false).
A stop by the model's refusal has no status here: with a refusal among the items it is "completed", without one "content_filter".
Sources: openai-python `types/responses/response.py` (3.54); Open Responses, `ResponseResource` (fields that may be null, but not
missing); openai/codex `codex-rs/codex-api/src/sse/responses.rs`; llama.cpp `server-task.cpp` and Ollama `openai/responses.go` (what
they leave out).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from .responses_request import BETWEEN_PARTS, arguments_text
from .responses_tools import Member, written_choice, written_form, written_tool
from .talk import Answer, Json, Message, Reasoning, Stamp, Stop, Talk, Text, Tool, ToolCall, Unreadable, Usage

AnswerItem = Message | Reasoning | ToolCall

_PREFIXES = {"message": "msg", "reasoning": "rs", "function_call": "fc", "custom_tool_call": "ctc"}


# ------------------------------------------------------------ writing


def write_answer(answer: Answer, talk: Talk, stamp: Stamp) -> bytes:
    """The whole answer."""
    paper = Paper(talk, stamp)
    status, reason = ending(answer.stop, answer.items)
    items = [piece for item in answer.items for piece in apart(item)]
    output = [
        paper.item(item, number, status if number == len(items) - 1 else "completed")
        for number, item in enumerate(items)
    ]
    return msgspec.json.encode(paper.response(status, output, usage=answer.usage, reason=reason))


def apart(item: AnswerItem) -> Sequence[AnswerItem]:
    """A message of several texts is several messages, as in a stream."""
    if not isinstance(item, Message):
        return (item,)
    return [Message("assistant", (part,), item.refusal) for part in item.parts if isinstance(part, Text)]


def ending(stop: Stop, items: Sequence[AnswerItem]) -> tuple[str, str | None]:
    """Status, and the reason of "incomplete"."""
    refused = any(isinstance(item, Message) and item.refusal for item in items)
    if stop == "length":
        return "incomplete", "max_output_tokens"
    if stop == "filter" or (stop == "refusal" and not refused):
        return "incomplete", "content_filter"
    return "completed", None


class Paper:
    """What all the objects of one response are written on: its names, and what it repeats of the request."""

    def __init__(self, talk: Talk, stamp: Stamp) -> None:
        self._stamp = stamp
        self._tools: dict[str, Tool] = {tool.name: tool for tool in talk.tools}
        self._choice = msgspec.Raw(
            msgspec.json.encode(written_choice(talk.choice, talk.tools) if talk.choice else "auto")
        )
        self._form = msgspec.Raw(msgspec.json.encode(written_form(talk.form)))
        self._offered = msgspec.Raw(msgspec.json.encode([written_tool(tool) for tool in talk.tools]))
        self._talk = talk

    def id_of(self, kind: str, number: int) -> str:
        """Of an output item."""
        return f"{_PREFIXES[kind]}_{self._stamp.id}_{number}"

    def is_free_form(self, name: str) -> bool:
        """Whether the caller's tool of that name takes any text."""
        return name in self._tools and self._tools[name].free_form

    def item(self, item: AnswerItem, number: int, status: str) -> dict[str, Json]:
        """As it stands in `output`."""
        match item:
            case Message():
                text = "".join(part.text for part in item.parts if isinstance(part, Text))
                return self.message(number, status, [content_part(text, refusal=item.refusal)])
            case Reasoning():
                empty = not item.text and (item.hidden or not item.seal)
                parts = [] if empty else [{"type": "summary_text", "text": item.text}]
                return self.reasoning(number, status, parts, item.seal)
            case ToolCall():
                if item.free_form:
                    return self.call(number, status, item.id, item.name, item.arguments, free_form=True)
                if self.is_free_form(item.name):
                    return self.call(number, status, item.id, item.name, free_text(item.arguments), free_form=True)
                return self.call(number, status, item.id, item.name, item.arguments or "{}")

    def message(self, number: int, status: str, content: list[Json]) -> dict[str, Json]:
        """An item that says something."""
        name = self.id_of("message", number)
        return {"id": name, "type": "message", "status": status, "role": "assistant", "content": content}

    def reasoning(self, number: int, status: str, summary: list[Json], seal: str) -> dict[str, Json]:
        """An item of thoughts."""
        written: dict[str, Json] = {"id": self.id_of("reasoning", number), "type": "reasoning", "status": status}
        written["summary"] = summary
        return {**written, "encrypted_content": seal} if seal else written

    def call(
        self, number: int, status: str, call_id: str, name: str, arguments: str, *, free_form: bool = False
    ) -> dict[str, Json]:
        """An item that asks for a tool, under the name that the caller gave it."""
        kind = "custom_tool_call" if free_form else "function_call"
        written: dict[str, Json] = {"id": self.id_of(kind, number), "type": kind, "status": status, "call_id": call_id}
        tool = self._tools.get(name)
        if isinstance(tool, Member):
            written |= {"name": tool.bare, "namespace": tool.namespace}
        else:
            written["name"] = name
        return {**written, "input" if free_form else "arguments": arguments}

    def response(
        self,
        status: str,
        output: Sequence[Json],
        *,
        usage: Usage | None = None,
        reason: str | None = None,
        error: dict[str, Json] | None = None,
    ) -> dict[str, Json]:
        """The object itself."""
        talk = self._talk
        return {
            "id": f"resp_{self._stamp.id}",
            "object": "response",
            "created_at": self._stamp.created,
            "completed_at": None,
            "status": status,
            "background": False,
            "error": error,
            "incomplete_details": None if reason is None else {"reason": reason},
            "instructions": None,
            "max_output_tokens": talk.max_tokens,
            "max_tool_calls": None,
            "metadata": {},
            "model": talk.model,
            "output": output,
            "parallel_tool_calls": talk.parallel_calls is not False,
            "previous_response_id": None,
            "prompt_cache_key": None,
            "presence_penalty": talk.presence_penalty or 0.0,
            "frequency_penalty": talk.frequency_penalty or 0.0,
            "reasoning": {"effort": talk.effort or None, "summary": None},
            "safety_identifier": None,
            "service_tier": "default",
            "store": False,
            "temperature": 1.0 if talk.temperature is None else talk.temperature,
            "text": {"format": self._form, "verbosity": talk.verbosity or "medium"},
            "tool_choice": self._choice,
            "tools": self._offered,
            "top_logprobs": 0,
            "top_p": 1.0 if talk.top_p is None else talk.top_p,
            "truncation": "disabled",
            "usage": None if usage is None else write_usage(usage),
            "user": talk.user or None,
        }


def content_part(text: str, *, refusal: bool) -> dict[str, Json]:
    """Of a message."""
    if refusal:
        return {"type": "refusal", "refusal": text}
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def free_text(arguments: str) -> str:
    """What a free-form tool is given, where the upstream knows only functions: the one text in an object around it."""
    try:
        given = msgspec.json.decode(arguments, type=dict[str, str])
    except (msgspec.MsgspecError, RecursionError):
        return arguments
    return next(iter(given.values())) if len(given) == 1 else arguments


def write_usage(usage: Usage) -> dict[str, Json]:
    """As `usage` has it."""
    return {
        "input_tokens": usage.input,
        "input_tokens_details": {"cached_tokens": usage.cached, "cache_write_tokens": usage.written},
        "output_tokens": usage.output,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.input + usage.output,
    }


# ------------------------------------------------------------ reading


class _Reason(msgspec.Struct):
    reason: str | None = None


class _Response(msgspec.Struct):
    model: str | None = None
    status: str | None = None
    output: list[Any] | None = None
    usage: dict[str, Any] | None = None
    incomplete_details: _Reason | None = None
    error: Any = None


class _InputDetails(msgspec.Struct):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None


class _OutputDetails(msgspec.Struct):
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct):
    input_tokens: int | None = None
    output_tokens: int | None = None
    input_tokens_details: _InputDetails | None = None
    output_tokens_details: _OutputDetails | None = None


class _Piece(msgspec.Struct):
    type: str | None = None
    text: str | None = None
    refusal: str | None = None


class _OutputItem(msgspec.Struct):
    type: str | None = None
    id: str | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | dict[str, Any] | None = None
    input: str | None = None
    content: str | list[_Piece] | None = None
    summary: list[_Piece] | None = None
    encrypted_content: str | None = None


def read_answer(body: bytes) -> Answer:
    """Raises: Unreadable; it says why where the response tells that it failed."""
    try:
        fields = msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Unreadable(f"the response is not a JSON object: {error}") from None
    return answer_of(fields)


def answer_of(response: Json) -> Answer:
    """A `response` object that is at its end. Raises: Unreadable."""
    try:
        told = msgspec.convert(response, _Response)
    except msgspec.ValidationError as error:
        raise Unreadable(f"the response is none: {error}") from None
    if told.status not in (None, "completed", "incomplete"):
        raise Unreadable(f"the response is '{told.status}': {msgspec.json.encode(told.error).decode()}")
    if told.output is None:
        raise Unreadable("the response has no 'output'")
    items = tuple(piece for item in told.output for piece in read_item(item))
    reason = told.incomplete_details and told.incomplete_details.reason
    return Answer(
        model=told.model or "",
        items=items,
        stop=read_stop(told.status or "completed", reason, items),
        usage=read_usage(told.usage),
    )


def read_stop(status: str, reason: str | None, items: Sequence[AnswerItem]) -> Stop:
    """Why the answer ended, which has to be gathered from several places."""
    if status == "incomplete":
        return "filter" if reason == "content_filter" else "length"
    if any(isinstance(item, ToolCall) for item in items):
        return "tools"
    return "refusal" if any(isinstance(item, Message) and item.refusal for item in items) else "stop"


def read_item(item: Json) -> list[AnswerItem]:
    """What one item of `output` amounts to; of a tool of the upstream's own, nothing. Raises: Unreadable."""
    try:
        told = msgspec.convert(item, _OutputItem)
    except msgspec.ValidationError as error:
        raise Unreadable(f"an output item is none: {error}") from None
    match told.type:
        case "message":
            parts = [_Piece("output_text", told.content)] if isinstance(told.content, str) else told.content or []
            return [message for part in parts for message in _message(part)]
        case "reasoning":
            return [_reasoning(told)]
        case "function_call":
            return [ToolCall(told.call_id or told.id or "", told.name or "", arguments_text(told.arguments))]
        case "custom_tool_call":
            return [ToolCall(told.call_id or told.id or "", told.name or "", told.input or "", free_form=True)]
        case _:
            return []


def _message(part: _Piece) -> list[AnswerItem]:
    if part.type == "refusal":
        return [Message("assistant", (Text(part.refusal or ""),), refusal=True)]
    return [Message("assistant", (Text(part.text),))] if part.text is not None else []


def _reasoning(told: _OutputItem) -> Reasoning:
    content = told.content if isinstance(told.content, list) else []
    thoughts = [part.text or "" for part in content or told.summary or []]
    seal = told.encrypted_content or ""
    return Reasoning(BETWEEN_PARTS.join(thoughts), seal, hidden=bool(seal) and not thoughts)


def read_usage(usage: Json) -> Usage | None:
    """Raises: Unreadable."""
    if usage is None:
        return None
    try:
        told = msgspec.convert(usage, _Usage, strict=False)
    except msgspec.ValidationError as error:
        raise Unreadable(f"'usage' is none: {error}") from None
    read, made = told.input_tokens_details or _InputDetails(), told.output_tokens_details or _OutputDetails()
    return Usage(
        input=told.input_tokens or 0,
        output=told.output_tokens or 0,
        cached=read.cached_tokens or 0,
        written=read.cache_write_tokens or 0,
        reasoning=made.reasoning_tokens or 0,
    )
