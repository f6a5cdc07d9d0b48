"""OpenAI's chat completions: the request, read and written. Pure.

The law: a request that is read says all that could change its answer, or is refused; `left_out` names the rest. What is written is
the plainest form of it, which every server that calls itself OpenAI-compatible understands: `max_tokens`, texts as one string, one
assistant message per turn, one system message at the beginning (chat templates refuse a second), free-form tools as functions with
one text, pictures that a tool gave back in a user's message after all results.

Source: OpenAI's API reference, "Create chat completion"; `reasoning_content` in messages: DeepSeek's API, llama.cpp, vLLM.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import groupby

import msgspec

from gateway.errors import InvalidRequest, NotTranslatable

from . import chat_wire as wire
from .chat_answer import as_input
from .talk import (
    Audio,
    Choice,
    Document,
    Image,
    Item,
    Json,
    Message,
    OutputForm,
    Part,
    Reasoning,
    Talk,
    Text,
    Tool,
    ToolCall,
    ToolResult,
)

_BETWEEN = "\n\n"  # texts that are one string on the wire
_NO_ARGUMENTS: Json = {"type": "object", "properties": {}}
_INPUT: Json = {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}
_ELSEWHERE = "(see the next message)"  # a result that is nothing but pictures


_PLACE = re.compile(r"(.*?)(?: - at `\$\.?(.*)`)?", re.DOTALL)
_decode = msgspec.json.Decoder(wire.Request).decode
_decode_names = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_READ = frozenset(wire.Request.__struct_fields__)


# ------------------------------------------------------------------ read


def read_request(body: bytes) -> Talk:
    """Raises: InvalidRequest, NotTranslatable."""
    try:
        said = _decode(body)
        names = [name for name, value in _decode_names(body).items() if bytes(value) != b"null"]
    except msgspec.ValidationError as error:
        place = _PLACE.fullmatch(str(error))
        what, param = place.groups() if place else (str(error), None)
        raise InvalidRequest(f"{what} in {param!r}" if param else what, param=param or None) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"The body is not valid JSON: {error}", code="invalid_json") from None
    except RecursionError:
        raise InvalidRequest("The body is nested too deeply", code="invalid_json") from None
    _refuse(said)
    left_out = [name for name in names if name not in _READ]
    if any(message.name and message.role != "function" for message in said.messages):
        left_out.append("messages[*].name")
    items = _Items()
    for index, message in enumerate(said.messages):
        items.add(message, f"messages[{index}]")
    most = said.max_tokens if said.max_completion_tokens is None else said.max_completion_tokens
    return Talk(
        model=said.model,
        items=tuple(items.items),
        tools=_tools(said, left_out),
        choice=_choice(said, left_out),
        parallel_calls=said.parallel_tool_calls,
        form=_form(said.response_format),
        effort=said.reasoning_effort or "",
        verbosity=said.verbosity or "",
        max_tokens=most,
        temperature=said.temperature,
        top_p=said.top_p,
        top_k=said.top_k,
        stop=(said.stop,) if isinstance(said.stop, str) else tuple(said.stop or ()),
        seed=said.seed,
        frequency_penalty=said.frequency_penalty,
        presence_penalty=said.presence_penalty,
        logit_bias=said.logit_bias,
        user=said.user or "",
        stream=bool(said.stream),
        usage_asked=bool(said.stream and said.stream_options and said.stream_options.include_usage),
        left_out=tuple(left_out),
    )


def _refuse(said: wire.Request) -> None:
    """What would change the answer, and no talk can hold."""
    if not said.messages:
        raise InvalidRequest("'messages' must hold at least one message", param="messages")
    if said.n is not None and said.n < 1:
        raise InvalidRequest("'n' must be at least 1", param="n")
    asked = {
        "n": said.n not in (None, 1),
        "logprobs": bool(said.logprobs),
        "modalities": any(kind != "text" for kind in said.modalities or ()),
        "web_search_options": said.web_search_options is not None,
    }
    for name, is_asked in asked.items():
        if is_asked:
            raise _untold(f"'{name}'", name)


def _untold(what: str, param: str) -> NotTranslatable:
    return NotTranslatable(f"{what} cannot be translated for this model's provider: leave it out", param=param)


class _Items:
    """Messages, one after the other, as a flat sequence of items."""

    def __init__(self) -> None:
        self.items: list[Item] = []
        self._free: set[str] = set()  # ids of free-form calls
        self._functions: dict[str, str] = {}  # of the legacy form, which has no ids: name → the last call's id

    def add(self, message: wire.Message, param: str) -> None:
        match message.role:
            case "system" | "developer":
                self.items.append(Message("system", _texts(message.content, f"{param}.content")))
            case "user":
                self.items.append(Message("user", _parts(message.content, f"{param}.content")))
            case "assistant":
                self._assistant(message, param)
            case _:
                self._result(message, param)

    def _result(self, message: wire.Message, param: str) -> None:
        call_id = message.tool_call_id
        if message.role == "function" and message.name:
            call_id = self._functions.get(message.name, f"function_call_{len(self.items)}")
        if not call_id:
            missing = "tool_call_id" if message.role == "tool" else "name"
            raise InvalidRequest(f"'{param}.{missing}' is missing", param=f"{param}.{missing}")
        parts = _parts(message.content, f"{param}.content")
        self.items.append(ToolResult(call_id, parts, free_form=call_id in self._free))

    def _assistant(self, message: wire.Message, param: str) -> None:
        if message.audio is not None:
            raise _untold(f"'{param}.audio'", f"{param}.audio")
        before = len(self.items)
        thought = message.reasoning_content or message.reasoning
        if thought:
            self.items.append(Reasoning(thought))
        content = message.content
        refusals = [message.refusal] if message.refusal else []
        if isinstance(content, list):
            refusals += [part.refusal for part in content if part.type == "refusal" and part.refusal]
            content = [part for part in content if part.type != "refusal"]
        texts = _texts(content, f"{param}.content")
        if texts:
            self.items.append(Message("assistant", texts))
        if refusals:
            self.items.append(Message("assistant", tuple(map(Text, refusals)), refusal=True))
        for index, call in enumerate(message.tool_calls or ()):
            self._call(call, f"{param}.tool_calls[{index}]")
        if message.function_call:
            call_id = f"function_call_{len(self.items)}"
            self._functions[message.function_call.name] = call_id
            self.items.append(ToolCall(call_id, message.function_call.name, _arguments(message.function_call)))
        if len(self.items) == before:
            self.items.append(Message("assistant", ()))  # it said nothing, and users still take turns

    def _call(self, call: wire.Call, param: str) -> None:
        if call.function:
            self.items.append(ToolCall(call.id, call.function.name, _arguments(call.function)))
        elif call.custom:
            self._free.add(call.id)
            self.items.append(ToolCall(call.id, call.custom.name, call.custom.input or "", free_form=True))
        else:
            raise InvalidRequest(f"'{param}.function' is missing", param=f"{param}.function")


def _arguments(called: wire.Called) -> str:
    said = called.arguments
    return msgspec.json.encode(said).decode() if isinstance(said, dict) else said or "{}"


def _texts(content: str | list[wire.Part] | None, param: str) -> tuple[Text, ...]:
    """Of a role that only has texts."""
    texts: list[Text] = []
    for index, part in enumerate(_parts(content, param)):
        if not isinstance(part, Text):
            raise _untold(f"'{param}[{index}]', which is no text,", f"{param}[{index}]")
        texts.append(part)
    return tuple(texts)


def _parts(content: str | list[wire.Part] | None, param: str) -> tuple[Part, ...]:
    """An empty text is no part: some APIs refuse it."""
    if not isinstance(content, list):
        return (Text(content),) if content else ()
    parts = [_part(part, f"{param}[{index}]") for index, part in enumerate(content)]
    return tuple(part for part in parts if part != Text(""))


def _part(part: wire.Part, param: str) -> Part:
    match part.type:
        case "text" if part.text is not None:
            return Text(part.text)
        case "image_url" if part.image_url is not None:
            image = part.image_url
            return Image(image) if isinstance(image, str) else Image(image.url, image.detail or "")
        case "input_audio" if part.input_audio is not None:
            return Audio(part.input_audio.data, part.input_audio.format)
        case "file" if part.file is not None:
            if not part.file.file_data:
                raise _untold(f"'{param}.file' without 'file_data'", f"{param}.file")
            url = part.file.file_data
            return Document(url if ":" in url else f"data:application/pdf;base64,{url}", part.file.filename or "")
        case "text" | "image_url" | "input_audio" | "file":
            raise InvalidRequest(f"'{param}.{part.type}' is missing", param=f"{param}.{part.type}")
        case _:
            raise _untold(f"'{param}' of type '{part.type}'", param)


def _tools(said: wire.Request, left_out: list[str]) -> tuple[Tool, ...]:
    tools = [_tool(function) for function in said.functions or ()]
    for index, tool in enumerate(said.tools or ()):
        if tool.function:
            tools.append(_tool(tool.function))
        elif tool.custom:
            custom, form = tool.custom, tool.custom.format
            grammar = {"type": "grammar", **msgspec.to_builtins(form.grammar)} if form and form.grammar else None
            tools.append(Tool(custom.name, custom.description or "", free_form=True, grammar=grammar))
        elif tool.type in ("function", "custom", None):
            param = f"tools[{index}].{tool.type or 'type'}"
            raise InvalidRequest(f"'{param}' is missing", param=param)
        else:
            left_out.append(f"tools[{index}]")  # one that the upstream itself would run
    return tuple(tools)


def _tool(function: wire.Function) -> Tool:
    return Tool(function.name, function.description or "", function.parameters, function.strict)


def _choice(said: wire.Request, left_out: list[str]) -> Choice | None:
    chosen = said.function_call if said.tool_choice is None else said.tool_choice
    param = "function_call" if said.tool_choice is None else "tool_choice"
    match chosen:
        case None:
            return None
        case "auto" | "none" | "required":
            return Choice(chosen)
        case "any":  # Mistral's word
            return Choice("required")
        case str():
            raise InvalidRequest(f'\'{param}\' must be "auto", "none", "required" or an object', param=param)
        case wire.Named():
            return Choice("required", chosen.name)
        case _:
            pass
    if chosen.allowed_tools:
        left_out.append("tool_choice.allowed_tools")
        return Choice(chosen.allowed_tools.mode)
    named = chosen.function or chosen.custom
    if not named:
        left_out.append("tool_choice")
    return Choice("required", named.name) if named else None


def _form(said: wire.ResponseFormat | None) -> OutputForm | None:
    if said is None or said.type == "text":
        return None
    if said.type == "json_object":
        return OutputForm()
    if said.type != "json_schema":
        raise _untold(f"'response_format' of type '{said.type}'", "response_format")
    if said.json_schema is None:
        raise InvalidRequest("'response_format.json_schema' is missing", param="response_format.json_schema")
    schema = said.json_schema
    return OutputForm(schema.schema, schema.name or "", schema.strict, schema.description or "")


# ------------------------------------------------------------------ written


def write_request(talk: Talk) -> tuple[bytes, tuple[str, ...]]:
    """The body, and the names of what could not be said. Raises: NotTranslatable."""
    tools = [_tool_written(tool) for tool in talk.tools]
    body: dict[str, Json] = {
        "model": talk.model,
        "messages": _messages(talk.items),
        "tools": tools or None,
        "tool_choice": _choice_written(talk.choice) if tools and talk.choice else None,
        "parallel_tool_calls": talk.parallel_calls if tools else None,
        "response_format": _form_written(talk.form) if talk.form else None,
        "reasoning_effort": talk.effort or None,
        "verbosity": talk.verbosity or None,
        "max_tokens": talk.max_tokens,
        "temperature": talk.temperature,
        "top_p": talk.top_p,
        "stop": talk.stop or None,
        "seed": talk.seed,
        "frequency_penalty": talk.frequency_penalty,
        "presence_penalty": talk.presence_penalty,
        "logit_bias": {token: _whole(bias) for token, bias in talk.logit_bias.items()} if talk.logit_bias else None,
        "user": talk.user or None,
        "stream": talk.stream or None,
        "stream_options": {"include_usage": True} if talk.stream and talk.usage_asked else None,
    }
    try:
        written = msgspec.json.encode({name: value for name, value in body.items() if value is not None})
    except RecursionError:
        raise NotTranslatable("A tool's or the answer's schema is nested too deeply") from None
    failed = any(isinstance(item, ToolResult) and item.failed for item in talk.items)
    unsaid = {
        "top_k": talk.top_k is not None,
        "thinking": talk.thinking_tokens is not None and not talk.effort,
        "tool_choice": not tools and talk.choice is not None and talk.choice.mode == "required",
        "is_error": failed,
    }
    return written, tuple(name for name, is_unsaid in unsaid.items() if is_unsaid)


def _whole(number: float) -> float:
    """Integers where they are: OpenAI takes no others here."""
    return int(number) if number == int(number) else number


def _side(item: Item) -> str:
    """Whose item it is; what is of one side and stands together is written together."""
    match item:
        case Message():
            return item.role
        case ToolResult():
            return "tool"
        case _:
            return "assistant"


def _messages(items: Sequence[Item]) -> list[Json]:
    messages: list[Json] = []
    held: list[Part] = []  # pictures and the like that tools gave back
    for side, group in groupby(items, _side):
        if held and side != "user":
            messages.append({"role": "user", "content": _content(held)})
            held = []
        if side == "assistant":
            messages += _assistant(group)
            continue
        if side == "system" and not messages:
            texts = [_content(item.parts) for item in group if isinstance(item, Message)]
            messages.append({"role": "system", "content": _BETWEEN.join(texts)})
            continue
        for item in group:
            if isinstance(item, ToolResult):
                messages.append({"role": "tool", "tool_call_id": item.call_id, "content": _result(item, held)})
            elif isinstance(item, Message):
                messages.append({"role": item.role, "content": _content([*held, *item.parts])})
                held = []
    if held:
        messages.append({"role": "user", "content": _content(held)})
    return messages


def _assistant(group: Iterable[Item]) -> list[Json]:
    """One message, or none where there is nothing that chat has words for."""
    thoughts: list[str] = []
    texts: list[str] = []
    refusals: list[str] = []
    calls: list[Json] = []
    spoke = False
    for item in group:
        match item:
            case Reasoning():
                thoughts += [item.text] if item.text else []
            case ToolCall():
                arguments = as_input(item.arguments) if item.free_form else item.arguments
                called = {"name": item.name, "arguments": arguments}
                calls.append({"id": item.id, "type": "function", "function": called})
            case Message():
                spoke = True
                text = "".join(part.text for part in item.parts if isinstance(part, Text))
                (refusals if item.refusal else texts).append(text)
            case _:
                pass
    text = _BETWEEN.join(filter(None, texts))
    message: dict[str, Json] = {"role": "assistant", "content": text or (None if calls or refusals else "")}
    if thoughts:
        message["reasoning_content"] = _BETWEEN.join(thoughts)
    if refusals:
        message["refusal"] = _BETWEEN.join(refusals)
    if calls:
        message["tool_calls"] = calls
    return [message] if spoke or thoughts or calls else []


def _result(item: ToolResult, held: list[Part]) -> str:
    """The text; everything else is put with what is `held` for the next message."""
    texts = [part for part in item.parts if isinstance(part, Text)]
    others = [part for part in item.parts if not isinstance(part, Text)]
    if others:
        held += [Text(f"From the result of the tool call {item.call_id}:"), *others]
    return _content(texts) or (_ELSEWHERE if others else "")


def _content(parts: Sequence[Part]) -> Json:
    """One string as long as there are only texts."""
    if all(isinstance(part, Text) for part in parts):
        return _BETWEEN.join(part.text for part in parts if isinstance(part, Text))
    return [_part_written(part) for part in parts]


def _part_written(part: Part) -> Json:
    match part:
        case Text():
            return {"type": "text", "text": part.text}
        case Image():
            detail = {"detail": part.detail} if part.detail else {}
            return {"type": "image_url", "image_url": {"url": part.url, **detail}}
        case Audio():
            return {"type": "input_audio", "input_audio": {"data": part.data, "format": part.format}}
        case Document():
            return {"type": "file", "file": {"filename": part.name or "document", "file_data": part.url}}


def _tool_written(tool: Tool) -> Json:
    description, schema = tool.description, tool.schema
    if tool.free_form:
        schema = _INPUT
        if tool.grammar:  # nothing can hold the model to it, but it can be told
            form = msgspec.json.encode(tool.grammar).decode()
            description = _BETWEEN.join(filter(None, (description, f"The input has this form: {form}")))
    function: dict[str, Json] = {"name": tool.name}
    if description:
        function["description"] = description
    function["parameters"] = _NO_ARGUMENTS if schema is None else schema
    if tool.strict is not None:
        function["strict"] = tool.strict
    return {"type": "function", "function": function}


def _choice_written(choice: Choice) -> Json:
    return {"type": "function", "function": {"name": choice.name}} if choice.name else choice.mode


def _form_written(form: OutputForm) -> Json:
    if form.schema is None:
        return {"type": "json_object"}
    schema: dict[str, Json] = {"name": form.name or "answer", "schema": form.schema}
    if form.strict is not None:
        schema["strict"] = form.strict
    if form.description:
        schema["description"] = form.description
    return {"type": "json_schema", "json_schema": schema}
