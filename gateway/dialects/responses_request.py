"""A request of OpenAI's Responses API: read, and written for an upstream that serves nothing else. Pure.

The law: what shapes the answer is held or refused (`NotTranslatable`); what only its server could do (to keep things, tools of its
own) is left out and named. Nothing is stored here, so a request that leans on something stored is refused.

Sources: openai-python `types/responses` (3.54); openai/codex `codex-rs/protocol/src/models.rs` (what Codex sends); llama.cpp
`tools/server/server-chat.cpp` (it wants `content` in reasoning items, and takes every message's content as a plain text).
"""

from __future__ import annotations

from itertools import groupby
from typing import Any, Literal, TypeVar, cast

import msgspec

from gateway.errors import InvalidRequest, NotTranslatable

from .responses_tools import (
    Format,
    Names,
    read_choice,
    read_form,
    read_tools,
    typed,
    written_choice,
    written_form,
    written_tool,
)
from .talk import (
    Audio,
    Document,
    Image,
    Item,
    Json,
    Message,
    Part,
    Reasoning,
    Talk,
    Text,
    ToolCall,
    ToolResult,
)

T = TypeVar("T")

BETWEEN_PARTS = "\n\n"  # of a summary in several parts

# Saying these is saying nothing.
_OF_COURSE: dict[str, Json] = {
    "include": [],
    "metadata": {},
    "service_tier": "auto",
    "store": False,
    "truncation": "disabled",
}
_NEEDS_STORE = ("previous_response_id", "conversation", "prompt")
# They stand for a part of the conversation that is kept by somebody else, or sealed.
_STAND_INS = frozenset(
    {"item_reference", "compaction", "compaction_summary", "compaction_trigger", "context_compaction"}
)
_TEXTS = frozenset({"input_text", "output_text", "text", "summary_text", "reasoning_text"})
_UNSAYABLE = ("top_k", "stop", "seed", "frequency_penalty", "presence_penalty", "logit_bias")


class _TextOptions(msgspec.Struct):
    format: Format | None = None
    verbosity: str | None = None


class _ReasoningOptions(msgspec.Struct):
    effort: str | None = None


class _Body(msgspec.Struct):
    model: str
    input: str | list[Any] | None = None
    instructions: str | None = None
    tools: list[Any] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    text: _TextOptions | None = None
    reasoning: _ReasoningOptions | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stream: bool | None = None
    user: str | None = None
    top_logprobs: int | None = None
    background: bool | None = None
    # Not OpenAI's; local servers and the Open Responses specification have them.
    top_k: int | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None


_READ = frozenset(_Body.__struct_fields__)


class _Message(msgspec.Struct):
    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[Any]


class _Call(msgspec.Struct):
    name: str
    call_id: str
    namespace: str | None = None
    arguments: str | dict[str, Any] | None = None
    input: str | None = None


class _Result(msgspec.Struct):
    call_id: str
    output: str | list[Any] | None = None


class _Thought(msgspec.Struct):
    text: str


class _Reasoning(msgspec.Struct):
    summary: list[_Thought] | None = None
    content: list[_Thought] | None = None
    encrypted_content: str | None = None


class _Sound(msgspec.Struct):
    data: str
    format: str


class _Part(msgspec.Struct):
    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: str | None = None
    detail: str | None = None
    file_id: str | None = None
    file_data: str | None = None
    file_url: str | None = None
    filename: str | None = None
    input_audio: _Sound | None = None


# ------------------------------------------------------------ reading


def read_request(body: bytes) -> Talk:
    """Raises: InvalidRequest, NotTranslatable."""
    fields = _object(body)
    asked = typed(_Body, fields, "")
    _refuse_what_is_kept_elsewhere(fields, asked)
    left_out = [
        name
        for name, value in fields.items()
        if value is not None and name not in _READ and value != _OF_COURSE.get(name)
    ]
    if asked.input is None:
        raise InvalidRequest("'input' is missing: send a text or a list of items", param="input")
    spoken: list[Json] = [{"role": "user", "content": asked.input}] if isinstance(asked.input, str) else asked.input
    tools = read_tools(asked.tools or [], "tools", left_out)
    for number, item in enumerate(spoken):
        if isinstance(item, dict) and cast("dict[str, Json]", item).get("type") == "additional_tools":
            more = typed(list[Any], cast("dict[str, Json]", item).get("tools") or [], f"input[{number}].tools")
            tools += read_tools(more, f"input[{number}].tools", left_out)
    names = Names(tools)
    items: list[Item] = [Message("system", (Text(asked.instructions),))] if asked.instructions else []
    for number, item in enumerate(spoken):
        items += _items(item, f"input[{number}]", names, left_out)
    choice, tools = read_choice(asked.tool_choice, tools, names)
    text = asked.text or _TextOptions()
    return Talk(
        model=asked.model,
        items=tuple(items),
        tools=tuple(tools),
        choice=choice,
        parallel_calls=asked.parallel_tool_calls,
        form=read_form(text.format),
        effort=(asked.reasoning and asked.reasoning.effort) or "",
        verbosity=text.verbosity or "",
        max_tokens=asked.max_output_tokens,
        temperature=asked.temperature,
        top_p=asked.top_p,
        top_k=asked.top_k,
        stop=(asked.stop,) if isinstance(asked.stop, str) else tuple(asked.stop or ()),
        seed=asked.seed,
        frequency_penalty=asked.frequency_penalty,
        presence_penalty=asked.presence_penalty,
        user=asked.user or "",
        stream=asked.stream is True,
        usage_asked=True,
        left_out=tuple(left_out),
    )


def _object(body: bytes) -> dict[str, Json]:
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except RecursionError:
        raise InvalidRequest("The body is nested too deeply", code="invalid_json") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"The body is not a JSON object: {error}", code="invalid_json") from None


def _refuse_what_is_kept_elsewhere(fields: dict[str, Json], asked: _Body) -> None:
    for name in _NEEDS_STORE:
        if fields.get(name) is not None:
            raise NotTranslatable(
                f"'{name}' needs a server that keeps responses; this model's does not: send the whole conversation in 'input'",
                param=name,
            )
    if asked.background:
        raise NotTranslatable("'background' needs a server that keeps responses: leave it out", param="background")
    if asked.top_logprobs:
        raise NotTranslatable("'top_logprobs' cannot be had of this model's server: leave it out", param="top_logprobs")


# ------------------------------------------------------------ reading: items


def _items(item: Json, at: str, names: Names, left_out: list[str]) -> list[Item]:
    fields = typed(dict[str, Any], item, at)
    kind = fields.get("type") or ("message" if "role" in fields else None)
    match kind:
        case "message":
            return _messages(typed(_Message, fields, at), at)
        case "function_call" | "custom_tool_call":
            return [_call(typed(_Call, fields, at), kind == "custom_tool_call", names)]
        case "function_call_output" | "custom_tool_call_output":
            result = typed(_Result, fields, at)
            parts = _parts(result.output or "", f"{at}.output")
            return [ToolResult(result.call_id, tuple(parts), free_form=kind == "custom_tool_call_output")]
        case "reasoning":
            return [_reasoning(typed(_Reasoning, fields, at))]
        case "additional_tools":
            return []
        case str() if kind in _STAND_INS:
            raise NotTranslatable(
                f"'{at}' is of type '{kind}' and stands for what only its own server knows: send the items themselves",
                param=at,
            )
        case str():
            left_out.append(at)  # what a tool of OpenAI's servers did
            return []
        case _:
            raise InvalidRequest(f"'{at}' needs a 'type' or a 'role'", param=at)


def _messages(message: _Message, at: str) -> list[Item]:
    role = "system" if message.role == "developer" else message.role
    if role != "assistant" or isinstance(message.content, str) or not message.content:
        return [Message(role, tuple(_parts(message.content, f"{at}.content")))]
    runs = groupby(enumerate(message.content), key=lambda numbered: _is_refusal(numbered[1]))
    return [
        Message(role, tuple(_part(part, f"{at}.content[{number}]") for number, part in run), refusal=refusal)
        for refusal, run in runs
    ]


def _is_refusal(part: Json) -> bool:
    return isinstance(part, dict) and cast("dict[str, Json]", part).get("type") == "refusal"


def _parts(content: str | list[Json], at: str) -> list[Part]:
    if isinstance(content, str):
        return [Text(content)]
    return [_part(part, f"{at}[{number}]") for number, part in enumerate(content)]


def _part(given: Json, at: str) -> Part:
    part = typed(_Part, given, at)
    match part.type:
        case kind if kind in _TEXTS:
            return Text(_there(part.text, f"{at}.text"))
        case "refusal":
            return Text(_there(part.refusal, f"{at}.refusal"))
        case "input_image" if part.image_url is not None:
            return Image(part.image_url, part.detail or "")
        case "input_file" if part.file_url is not None:
            return Document(part.file_url, part.filename or "")
        case "input_file" if part.file_data is not None:
            return Document(_as_address(part.file_data, part.filename or ""), part.filename or "")
        case "input_image" | "input_file" if part.file_id is not None:
            raise NotTranslatable(
                f"'{at}.file_id' is a file that OpenAI keeps: send its content as 'image_url' or 'file_data'",
                param=f"{at}.file_id",
            )
        case "input_image" | "input_file":
            raise InvalidRequest(f"'{at}' holds neither an address nor data", param=at)
        case "input_audio":
            sound = _there(part.input_audio, f"{at}.input_audio")
            return Audio(sound.data, sound.format)
        case _:
            raise NotTranslatable(f"'{at}' of type '{part.type}' cannot be said to this model", param=at)


def _there(value: T | None, at: str) -> T:
    if value is None:
        raise InvalidRequest(f"'{at}' is missing", param=at)
    return value


def _as_address(data: str, name: str) -> str:
    if data.startswith("data:"):
        return data
    return f"data:application/{'pdf' if name.lower().endswith('.pdf') else 'octet-stream'};base64,{data}"


def _call(call: _Call, free_form: bool, names: Names) -> ToolCall:
    name = names.of(call.namespace, call.name)
    if free_form:
        return ToolCall(call.call_id, name, call.input or "", free_form=True)
    return ToolCall(call.call_id, name, arguments_text(call.arguments))


def arguments_text(arguments: Json) -> str:
    """A call's arguments as JSON text; some servers send the object itself."""
    if not arguments:
        return "{}"
    return arguments if isinstance(arguments, str) else msgspec.json.encode(arguments).decode()


def _reasoning(given: _Reasoning) -> Reasoning:
    thoughts = given.content or given.summary or []
    seal = given.encrypted_content or ""
    return Reasoning(BETWEEN_PARTS.join(thought.text for thought in thoughts), seal, hidden=bool(seal) and not thoughts)


# ------------------------------------------------------------ writing


def write_request(talk: Talk) -> tuple[bytes, tuple[str, ...]]:
    """The body for the upstream, and names of what could not be said."""
    items, missing = list(talk.items), [name for name in _UNSAYABLE if getattr(talk, name) not in (None, ())]
    body: dict[str, Json] = {"model": talk.model, "store": False}
    match items[:1]:
        case [Message(role="system", parts=(Text(text=text),))] if text:
            body["instructions"] = text
            items = items[1:]
        case _:
            pass
    first = len(talk.items) - len(items)
    body["input"] = [_written(item, f"items[{first + n}]", missing) for n, item in enumerate(items)]
    if talk.tools:
        body["tools"] = [written_tool(tool) for tool in talk.tools]
    if talk.choice is not None:
        body["tool_choice"] = written_choice(talk.choice, talk.tools)
    text_options = _written_text_options(talk)
    if text_options:
        body["text"] = text_options
    effort = talk.effort or ("none" if talk.thinking_tokens == 0 else "")
    if effort:
        body["reasoning"] = {"effort": effort}
    if talk.thinking_tokens:
        missing.append("thinking_tokens")
    said = {
        "parallel_tool_calls": talk.parallel_calls,
        "max_output_tokens": talk.max_tokens,
        "temperature": talk.temperature,
        "top_p": talk.top_p,
        "user": talk.user or None,
        "stream": talk.stream or None,
    }
    body |= {name: value for name, value in said.items() if value is not None}
    return msgspec.json.encode(body), tuple(missing)


def _written_text_options(talk: Talk) -> dict[str, Json]:
    written: dict[str, Json] = {} if talk.form is None else {"format": written_form(talk.form)}
    return {**written, "verbosity": talk.verbosity} if talk.verbosity else written


def _written(item: Item, at: str, missing: list[str]) -> dict[str, Json]:
    match item:
        case Message():
            return _written_message(item, at, missing)
        case Reasoning(text=text, seal=""):
            return {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": text}]}
        case Reasoning(text=text, seal=seal, hidden=hidden):
            summary = [] if hidden and not text else [{"type": "summary_text", "text": text}]
            return {"type": "reasoning", "summary": summary, "encrypted_content": seal}
        case ToolCall(free_form=True):
            return {"type": "custom_tool_call", "call_id": item.id, "name": item.name, "input": item.arguments}
        case ToolCall():
            return {"type": "function_call", "call_id": item.id, "name": item.name, "arguments": item.arguments}
        case ToolResult():
            if item.failed:
                missing.append(f"{at}.failed")
            kind = "custom_tool_call_output" if item.free_form else "function_call_output"
            return {"type": kind, "call_id": item.call_id, "output": _written_parts(item.parts) or ""}


def _written_message(message: Message, at: str, missing: list[str]) -> dict[str, Json]:
    written: dict[str, Json] = {"type": "message", "role": message.role}
    if message.role != "assistant":
        return {**written, "content": _written_parts(message.parts)}
    texts = [part.text for part in message.parts if isinstance(part, Text)]
    if len(texts) < len(message.parts):
        missing.append(at)
    if message.refusal:
        return {**written, "content": [{"type": "refusal", "refusal": text} for text in texts]}
    if len(texts) == 1:
        return {**written, "content": texts[0]}
    return {**written, "content": [{"type": "output_text", "text": text, "annotations": []} for text in texts]}


def _written_parts(parts: tuple[Part, ...]) -> str | list[Json]:
    match parts:
        case (Text(text=text),):
            return text
        case _:
            return [_written_part(part) for part in parts]


def _written_part(part: Part) -> dict[str, Json]:
    match part:
        case Text():
            return {"type": "input_text", "text": part.text}
        case Image():
            return {"type": "input_image", "image_url": part.url, "detail": part.detail or "auto"}
        case Audio():
            return {"type": "input_audio", "input_audio": {"data": part.data, "format": part.format}}
        case Document():
            kind = "file_data" if part.url.startswith("data:") else "file_url"
            return {"type": "input_file", kind: part.url, **({"filename": part.name} if part.name else {})}
