"""Ollama's own chat and generate requests, read. Pure; nobody is spoken to in this dialect, so nothing is written.

The law: what Ollama takes is taken, and refused where it refuses. What belongs to a server's own runner (`keep_alive`, `num_ctx`,
`num_gpu`, samplers nobody else has) is left out and named: residency and the model's configuration decide about it. What asks for
another way of prompting (`raw`, `template`, `suffix`, `context`) cannot be said elsewhere and is refused.

Calls need ids elsewhere, and Ollama's have none: they are counted through the conversation, so that the same conversation gives
the same ids and an upstream's prompt cache stays warm.

Source: Ollama, docs/api.md, docs/capabilities/tool-calling, api/types.go; `ollama` for Python, ollama/_types.py.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, cast

import msgspec

from gateway.errors import InvalidRequest, NotTranslatable

from .talk import Image, Item, Json, Message, OutputForm, Part, Reasoning, Talk, Text, Tool, ToolCall, ToolResult

_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_T = TypeVar("_T")

# Of the answer's making what other APIs know, too: Ollama's word → Talk's.
# True: an integer.
_NUMBERS: Mapping[str, tuple[str, bool]] = {
    "temperature": ("temperature", False),
    "top_p": ("top_p", False),
    "top_k": ("top_k", True),
    "seed": ("seed", True),
    "presence_penalty": ("presence_penalty", False),
    "frequency_penalty": ("frequency_penalty", False),
    "num_predict": ("max_tokens", True),
}
_EFFORTS = ("low", "medium", "high", "max")
_ZERO = re.compile(
    r"[+-]?0|[+-]?(?:0+(?:\.0*)?|\.0+)(?:ns|us|µs|ms|s|m|h)(?:(?:0+(?:\.0*)?|\.0+)(?:ns|us|µs|ms|s|m|h))*"
)
_BASE64 = re.compile(r"[A-Za-z0-9+/]*={0,2}")
_LINE_ENDS = str.maketrans("", "", "\r\n")
_EMPTY = re.compile(rb'(?:null|""|\[\s*\])?')
_SNIFFED_CHARS = 32  # of base64: 24 bytes
# A picture's first bytes → what it is. `.` is any byte.
_PICTURES = (
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "image/png"),
    (re.compile(rb"\xff\xd8\xff"), "image/jpeg"),
    (re.compile(rb"GIF8[79]a"), "image/gif"),
    (re.compile(rb"RIFF.{4}WEBP", re.DOTALL), "image/webp"),
    (re.compile(rb"BM"), "image/bmp"),
    (re.compile(rb"II\*\x00|MM\x00\*"), "image/tiff"),
    (re.compile(rb".{4}ftypavi[fs]", re.DOTALL), "image/avif"),
    (re.compile(rb".{4}ftyp(?:heic|heix|mif1|msf1)", re.DOTALL), "image/heic"),
)


class _Function(msgspec.Struct):
    name: str
    arguments: msgspec.Raw = msgspec.Raw(b"null")


class _Call(msgspec.Struct):
    function: _Function
    id: str | None = None


class _Message(msgspec.Struct):
    role: str
    content: str | None = None
    thinking: str | None = None
    images: list[str] | None = None
    tool_calls: list[_Call] | None = None
    tool_name: str | None = None
    name: str | None = None  # what `tool_name` was called by some before there was one
    tool_call_id: str | None = None


class _ToolFunction(msgspec.Struct):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None


class _Tool(msgspec.Struct):
    type: str | None = None
    function: _ToolFunction | None = None


# ------------------------------------------------------------------ the two requests


def read_chat(body: bytes) -> Talk:
    """POST /api/chat. Raises: InvalidRequest, NotTranslatable."""
    fields = Fields(body)
    said = _common(fields)
    listed = fields.take("messages", list[_Message]) or []
    if not listed:
        raise InvalidRequest("messages is empty, which asks for the model to be loaded only", param="messages")
    conversation = _Conversation(listed)
    for place, message in enumerate(listed):
        conversation.add(place, message)
    tools, foreign = _tools(fields.take("tools", list[_Tool]) or [])
    left_out = (*said.pop("left_out"), *conversation.left_out, *foreign, *fields.rest())
    return Talk(items=tuple(conversation.items), tools=tools, left_out=left_out, **said)


def read_generate(body: bytes) -> Talk:
    """POST /api/generate. Raises: InvalidRequest, NotTranslatable."""
    fields = Fields(body)
    said = _common(fields)
    prompt = fields.take("prompt", str)
    if not prompt:
        raise InvalidRequest("prompt is empty, which asks for the model to be loaded only", param="prompt")
    if fields.take("raw", bool):
        raise _untranslatable(
            "raw", "the prompt is put into the model's own template: use /v1/completions for a raw one"
        )
    if fields.take("template", str):
        raise _untranslatable("template", "a model's own template is used: leave it out")
    if fields.take("suffix", str):
        raise _untranslatable("suffix", "filling in the middle is not served here: ask /v1/completions of the upstream")
    if fields.take("context", list[int]):
        raise _untranslatable("context", "no tokens of earlier answers are kept: use /api/chat with all messages")
    items: list[Item] = []
    if system := fields.take("system", str):
        items.append(Message("system", (Text(system),)))
    pictures = fields.take("images", list[str]) or []
    items.append(Message("user", (*_images(pictures, "images"), Text(prompt))))
    return Talk(items=tuple(items), left_out=(*said.pop("left_out"), *fields.rest()), **said)


def is_load_only(body: bytes) -> Literal["", "load", "unload"]:
    """Whether it asks for nothing but the model's presence, which is then the answer's `done_reason`; "": it asks for an answer.

    Of every route here: no messages, no prompt and no input mean load, or with a `keep_alive` of 0 unload. Also "" for what is no
    request at all; reading it tells.
    """
    try:
        fields = Fields(body)
        if not all(map(fields.empty, ("messages", "prompt", "input"))) or not fields.take("model", str):
            return ""
        keep_alive = fields.look("keep_alive")
    except InvalidRequest:
        return ""
    if isinstance(keep_alive, str):
        return "unload" if _ZERO.fullmatch(keep_alive) else "load"
    zero = isinstance(keep_alive, int | float) and not isinstance(keep_alive, bool) and keep_alive == 0
    return "unload" if zero else "load"


def _untranslatable(field: str, why: str) -> NotTranslatable:
    return NotTranslatable(f"{field} cannot be passed on: {why}", param=field)


# ------------------------------------------------------------------ fields


class Fields:
    """A body's fields, each read once as what it must be; `rest` names those that nobody read.

    Raises: InvalidRequest: it is no JSON object.
    """

    def __init__(self, body: bytes, within: str = "") -> None:
        self._within = within and f"{within}."
        try:
            self._raw = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
        except _UNREADABLE as error:
            raise InvalidRequest(
                f"{within or 'The body'} is not a JSON object: {error}", param=within or None
            ) from None

    def take(self, name: str, kind: type[_T]) -> _T | None:
        """None where it is absent or null. Raises: InvalidRequest, naming the place."""
        raw = self.raw(name)
        if not raw:
            return None
        try:
            return msgspec.json.decode(raw, type=kind)
        except _UNREADABLE as error:
            words, _, path = str(error).partition(" - at `$")
            place = f"{self._within}{name}{path.rstrip('`')}"
            raise InvalidRequest(f"{place}: {words[:1].lower()}{words[1:]}", param=place) from None

    def look(self, name: str) -> Json:
        """The same, whatever it is."""
        return self.take(name, cast("type[Json]", Any))

    def raw(self, name: str) -> bytes:
        """As it came; b"" where it is absent or null."""
        raw = bytes(self._raw.pop(name, b""))
        return b"" if raw == b"null" else raw

    def empty(self, name: str) -> bool:
        """Whether it is absent, or holds nothing. It is not taken."""
        return _EMPTY.fullmatch(self._raw.get(name, b"")) is not None

    def rest(self) -> list[str]:
        """The names of what was not taken and says something."""
        return [self._within + name for name, raw in self._raw.items() if bytes(raw) != b"null"]


def model_of(fields: Fields) -> str:
    """Raises: InvalidRequest."""
    model = fields.take("model", str)
    if not model:
        raise InvalidRequest("model is required", param="model")
    return model


def _common(fields: Fields) -> dict[str, Any]:
    """What both requests have, as Talk's fields. Raises: InvalidRequest, NotTranslatable."""
    said: dict[str, Any] = {"model": model_of(fields), "usage_asked": True, "left_out": ()}
    stream = fields.take("stream", bool)
    said["stream"] = True if stream is None else stream
    if fields.take("logprobs", bool):
        raise _untranslatable("logprobs", "leave it out")
    said["form"] = _form(fields.look("format"))
    said["effort"] = _effort(fields.look("think"))
    options = fields.raw("options")
    return said | _options(Fields(options, "options")) if options else said


def _options(fields: Fields) -> dict[str, Any]:
    """Numbers may be written as Go reads them: 40.0 is an integer."""
    said: dict[str, Any] = {}
    for name, (ours, whole) in _NUMBERS.items():
        number = fields.look(name)
        if number is None:
            continue
        if isinstance(number, bool) or not isinstance(number, int | float) or (whole and number != number // 1):
            kind = "an integer" if whole else "a number"
            raise InvalidRequest(f"options.{name} must be {kind}", param=f"options.{name}")
        said[ours] = int(number) if whole else number
    if said.get("seed") == -1:
        del said["seed"]  # any
    if said.get("max_tokens", 1) <= 0:
        del said["max_tokens"]  # until the model ends
    stop = fields.look("stop")
    texts = cast("list[Json]", stop if isinstance(stop, list) else [] if stop is None else [stop])
    if not all(isinstance(text, str) for text in texts):
        raise InvalidRequest("options.stop must be an array of strings", param="options.stop")
    return said | {"stop": tuple(texts), "left_out": tuple(fields.rest())}


def _form(said: Json) -> OutputForm | None:
    """Raises: InvalidRequest."""
    if said is None or said == "":
        return None
    if said == "json":
        return OutputForm()
    if isinstance(said, dict):
        return OutputForm(schema=said)
    raise InvalidRequest('format must be "json" or a JSON schema', param="format")


def _effort(think: Json) -> str:
    """Thinking in general is asked for at its middle. Raises: InvalidRequest."""
    if think is None or think == "":
        return ""
    if isinstance(think, bool):
        return "medium" if think else "none"
    if think in _EFFORTS:
        return cast("str", think)
    raise InvalidRequest(f"think must be true, false or one of {', '.join(_EFFORTS)}", param="think")


def _tools(offered: list[_Tool]) -> tuple[tuple[Tool, ...], list[str]]:
    """Those that are functions, and the places of others. Raises: InvalidRequest."""
    tools: list[Tool] = []
    foreign: list[str] = []
    for place, tool in enumerate(offered):
        function = tool.function
        if tool.type and tool.type != "function":
            foreign.append(f"tools[{place}]")
        elif function is None or not function.name:
            raise InvalidRequest(f"tools[{place}] has no function with a name", param=f"tools[{place}].function")
        else:
            tools.append(Tool(function.name, function.description or "", function.parameters))
    return tuple(tools), foreign


# ------------------------------------------------------------------ the conversation


class _Conversation:
    """Messages, one after the other, as items.

    A result belongs to the call it names by id; else to the first call since the user last spoke that waits for one and has its
    name; else to the first that waits.
    """

    def __init__(self, messages: list[_Message]) -> None:
        self.items: list[Item] = []
        self.left_out: list[str] = []
        self._given = {call.id for message in messages for call in message.tool_calls or () if call.id}
        self._calls = 0
        self._waiting: list[ToolCall] = []

    def add(self, place: int, message: _Message) -> None:
        """Raises: InvalidRequest."""
        where = f"messages[{place}]"
        text = (Text(message.content),) if message.content else ()
        match message.role:
            case "system" | "developer":
                self._only_text(where, message)
                self.items += [Message("system", text)] if text else []
            case "user":
                self._waiting = []
                parts: tuple[Part, ...] = (*_images(message.images or [], f"{where}.images"), *text)
                self.items.append(Message("user", parts))
            case "assistant":
                self._only_text(where, message)
                self.items += [Reasoning(message.thinking)] if message.thinking else []
                if text or not (message.thinking or message.tool_calls):
                    self.items.append(Message("assistant", text))  # also if it said nothing: users still take turns
                for number, call in enumerate(message.tool_calls or ()):
                    self._call(call, f"{where}.tool_calls[{number}].function.arguments")
            case "tool":
                parts = (*_images(message.images or [], f"{where}.images"), *text)
                self.items.append(ToolResult(self._answered(where, message), parts))
            case _:
                raise InvalidRequest(f"{where}.role must be system, user, assistant or tool", param=f"{where}.role")

    def _only_text(self, where: str, message: _Message) -> None:
        if message.images:
            self.left_out.append(f"{where}.images")

    def _call(self, call: _Call, where: str) -> None:
        written = bytes(call.function.arguments)
        try:
            said = msgspec.json.decode(written)
        except _UNREADABLE:
            raise InvalidRequest(f"{where} must be a JSON object", param=where) from None
        if isinstance(said, str):  # as OpenAI has it
            arguments = said
        elif said is None or isinstance(said, dict):
            arguments = "{}" if said is None else written.decode()
        else:
            raise InvalidRequest(f"{where} must be a JSON object", param=where)
        asked = ToolCall(call.id or self._next_id(), call.function.name, arguments or "{}")
        self._waiting.append(asked)
        self.items.append(asked)

    def _next_id(self) -> str:
        while True:
            self._calls += 1
            made = f"call_{self._calls}"
            if made not in self._given:
                return made

    def _answered(self, where: str, message: _Message) -> str:
        """The id of the call that this message answers. Raises: InvalidRequest."""
        given = message.tool_call_id
        if given and given in self._given:
            self._waiting = [call for call in self._waiting if call.id != given]
            return given
        name = message.tool_name or message.name
        found = next((call for call in self._waiting if call.name == name), None) or next(iter(self._waiting), None)
        if found is None:
            raise InvalidRequest(
                f"{where} is a tool's result, and no call before it waits for one: "
                "send the assistant's message with its tool_calls, too",
                param=where,
            )
        self._waiting.remove(found)
        return found.id


def _images(written: list[str], where: str) -> tuple[Image, ...]:
    """Raises: InvalidRequest."""
    return tuple(_image(image, f"{where}[{number}]") for number, image in enumerate(written))


def _image(written: str, where: str) -> Image:
    """Its kind is seen from its first bytes. Also takes what has a `data:` prefix already."""
    if written.startswith("data:image/"):
        return Image(written)
    text = written.translate(_LINE_ENDS)
    if not text or len(text) % 4 or not _BASE64.fullmatch(text):
        raise InvalidRequest(f"{where} is not base64", param=where)
    first = binascii.a2b_base64(text[:_SNIFFED_CHARS])
    kind = next((kind for pattern, kind in _PICTURES if pattern.match(first)), None)
    if kind is None:
        raise InvalidRequest(f"{where} is no picture of a kind that is known", param=where)
    return Image(f"data:{kind};base64,{text}")
