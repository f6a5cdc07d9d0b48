"""What a conversation, its answer and the pieces of a streamed answer are, whichever API they are spoken in. Pure.

A dialect (`chat`, `responses`, `messages`, `ollama`) reads its own wire form into these values and writes it from them, so that
every pair of dialects can be translated. What no value here can hold is either of no consequence for the answer (`metadata`), then
it is left out and named to the caller; or it is not (`n`: 2), then the request is refused: `NotTranslatable`.

A conversation is a flat sequence of items, in order. Dialects that group them (chat's assistant message with its tool calls,
Anthropic's blocks) are cut apart when read and put together when written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec

Json = Any  # what msgspec.json.decode gives without a type


class Unreadable(ValueError):
    """What an upstream said is not what its dialect says. The message is for the log: it may repeat the upstream's words."""


class SaidError(Exception):
    """The upstream's stream holds an error in place of an answer's next piece.

    Args:
        error: the error object as the upstream wrote it: {"message": …, "type": …, "code": …}.
    """

    def __init__(self, error: Mapping[str, Json]) -> None:
        super().__init__(str(error.get("message", "")))
        self.error = error


class Text(msgspec.Struct, frozen=True, tag=True):
    """A piece of text."""

    text: str


class Image(msgspec.Struct, frozen=True, tag=True):
    """A picture: `data:MEDIA/TYPE;base64,…`, or an address that the upstream fetches itself."""

    url: str
    detail: str = ""  # OpenAI's "low", "high", "auto"; "": not said


class Audio(msgspec.Struct, frozen=True, tag=True):
    """Sound in a message: base64 and its format ("wav", "mp3")."""

    data: str
    format: str


class Document(msgspec.Struct, frozen=True, tag=True):
    """A file in a message: `data:application/pdf;base64,…` or an address."""

    url: str
    name: str = ""


Part = Text | Image | Audio | Document


class Message(msgspec.Struct, frozen=True, tag=True):
    """Something said. The assistant's parts are texts; `refusal`: it is the model's refusal to answer."""

    role: Literal["system", "user", "assistant"]
    parts: tuple[Part, ...]
    refusal: bool = False


class Reasoning(msgspec.Struct, frozen=True, tag=True):
    """What a model thought before it spoke.

    `seal` proves to its own maker that it is unchanged, and means nothing to others: Anthropic's `signature`, its redacted
    thinking's `data`, Responses' `encrypted_content`.
    """

    text: str = ""
    seal: str = ""
    hidden: bool = False  # there is a seal only, no text (redacted thinking)


class ToolCall(msgspec.Struct, frozen=True, tag=True):
    """The model asks for a tool."""

    id: str
    name: str
    arguments: str  # JSON text as the model wrote it; of a free-form tool any text
    free_form: bool = False  # Responses' custom tools


class ToolResult(msgspec.Struct, frozen=True, tag=True):
    """What a tool gave back."""

    call_id: str
    parts: tuple[Part, ...]
    failed: bool = False
    free_form: bool = False


Item = Message | Reasoning | ToolCall | ToolResult


class Tool(msgspec.Struct, frozen=True):
    """A tool of the caller's that the model may ask for."""

    name: str
    description: str = ""
    schema: Json = None  # JSON Schema of its arguments; None: it takes none, or is free-form
    strict: bool | None = None
    free_form: bool = False
    grammar: Json = None  # of a free-form tool: Responses' `format`, as it came


class Choice(msgspec.Struct, frozen=True):
    """Which tool the model may or must ask for. `name`: this one, with mode "required"."""

    mode: Literal["auto", "none", "required"]
    name: str = ""


class OutputForm(msgspec.Struct, frozen=True):
    """The answer is to be JSON; with a schema where one is given."""

    schema: Json = None
    name: str = ""
    strict: bool | None = None
    description: str = ""


class Talk(msgspec.Struct, frozen=True, kw_only=True):
    """A request for the next turn of a conversation. None and "": the caller says nothing about it."""

    model: str
    items: tuple[Item, ...]
    tools: tuple[Tool, ...] = ()
    choice: Choice | None = None
    parallel_calls: bool | None = None
    form: OutputForm | None = None
    effort: str = ""  # of reasoning: "none", "minimal", "low", "medium", "high", "xhigh", "max"
    thinking_tokens: int | None = None  # Anthropic's budget; 0: thinking is switched off
    verbosity: str = ""
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: Mapping[str, float] | None = None
    user: str = ""
    stream: bool = False
    usage_asked: bool = False  # chat's stream_options.include_usage; true for dialects that always tell
    left_out: tuple[str, ...] = ()  # fields of the request that no value here holds: "metadata", "tools[2]"


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens of one answer. `input` counts all of the prompt, `cached` among them; `output` all that was made, `reasoning` too."""

    input: int = 0
    output: int = 0
    cached: int = 0  # of the input, read from a cache
    written: int = 0  # of the input, written to a cache (Anthropic)
    reasoning: int = 0  # of the output


# "filter": withheld by a content filter; "pause": Anthropic's pause_turn
Stop = Literal["stop", "length", "tools", "filter", "refusal", "pause"]


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A whole answer: items of the assistant's side."""

    model: str
    items: tuple[Message | Reasoning | ToolCall, ...]
    stop: Stop = "stop"
    stop_text: str = ""  # the stop sequence that was met, where the upstream tells
    usage: Usage | None = None


# ------------------------------------------------------------ a streamed answer: one after the other, an item at a time


class Began(msgspec.Struct, frozen=True):
    """The first of all."""

    model: str
    usage: Usage | None = None  # of the input, where it is told first (Anthropic)


class Opened(msgspec.Struct, frozen=True):
    """An item begins; the one before it has been closed. `id`, `name`: of a call."""

    kind: Literal["text", "refusal", "reasoning", "call"]
    id: str = ""
    name: str = ""
    free_form: bool = False


class Grew(msgspec.Struct, frozen=True):
    """The open item goes on: its text, or a call's arguments."""

    text: str


class Closed(msgspec.Struct, frozen=True):
    """The open item is whole. `seal`, `hidden`: of reasoning."""

    seal: str = ""
    hidden: bool = False


class Finished(msgspec.Struct, frozen=True):
    """The last of all."""

    stop: Stop
    stop_text: str = ""
    usage: Usage | None = None


Delta = Began | Opened | Grew | Closed | Finished


class Stamp(msgspec.Struct, frozen=True):
    """What an answer carries that cannot be worked out from another: the shell gives it, so that the dialects stay pure."""

    id: str  # letters, digits and "-" only; a dialect puts its prefix before it: "resp_", "msg_", "chatcmpl-"
    created: int  # seconds since the epoch
    clock: Callable[[], float] = float  # seconds of any origin; as it stands here, it never moves


def as_answer(deltas: list[Delta]) -> Answer:
    """What a stream amounts to. The law that tests hold: translating the pieces gives what translating the whole gives."""
    items: list[Message | Reasoning | ToolCall] = []
    model, usage, stop, stop_text = "", None, "stop", ""
    opened = Opened("text")
    text: list[str] = []
    for delta in deltas:
        match delta:
            case Began():
                model, usage = delta.model, delta.usage
            case Opened():
                opened, text = delta, []
            case Grew():
                text.append(delta.text)
            case Closed():
                items.append(_item(opened, "".join(text), delta))
            case Finished():
                stop, stop_text, usage = delta.stop, delta.stop_text, delta.usage or usage
    return Answer(model=model, items=tuple(items), stop=stop, stop_text=stop_text, usage=usage)


def _item(opened: Opened, text: str, closed: Closed) -> Message | Reasoning | ToolCall:
    match opened.kind:
        case "reasoning":
            return Reasoning(text, closed.seal, closed.hidden)
        case "call":
            return ToolCall(opened.id, opened.name, text, opened.free_form)
        case kind:
            return Message("assistant", (Text(text),), refusal=kind == "refusal")


def as_deltas(answer: Answer) -> list[Delta]:
    """A whole answer as a stream of its pieces, each item in one."""
    deltas: list[Delta] = [Began(answer.model)]
    for item in answer.items:
        match item:
            case Reasoning():
                deltas += [Opened("reasoning"), Grew(item.text), Closed(item.seal, item.hidden)]
            case ToolCall():
                deltas += [Opened("call", item.id, item.name, item.free_form), Grew(item.arguments), Closed()]
            case Message():
                for part in item.parts:
                    if isinstance(part, Text):
                        kind = "refusal" if item.refusal else "text"
                        deltas += [Opened(kind), Grew(part.text), Closed()]
    return [*deltas, Finished(answer.stop, answer.stop_text, answer.usage)]
