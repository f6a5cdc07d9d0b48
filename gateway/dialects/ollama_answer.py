"""Ollama's own chat and generate answers, written. Pure.

The law: every written object stands on one line, whatever it holds, for clients cut streams at line ends; and at more of them than
JSON knows. What is not known (counts, times) is left out, as Ollama leaves out its zeros.

Source: Ollama, docs/api.md, api/types.go; `ollama` for Python, ollama/_types.py (its lines are cut by httpx, with str.splitlines).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from .talk import Answer, Message, Reasoning, Stamp, Stop, Talk, Text, ToolCall, Usage

# There is no reason of its own for calls. Source: llm/server.go, DoneReason.
_DONE_REASONS: Mapping[Stop, str] = {"length": "length"}
# Characters that JSON lets stand and at which str.splitlines cuts a line; Go's encoder writes the last two so, too.
_LINE_ENDS = (
    (b"\xc2\x85", rb"\u0085"),
    (b"\xe2\x80\xa8", rb"\u2028"),
    (b"\xe2\x80\xa9", rb"\u2029"),
)
_DAY_S = 86_400


class Durations(msgspec.Struct, frozen=True):
    """How long an answer took, in nanoseconds; 0: not known."""

    total: int = 0
    load: int = 0  # until the model was in memory
    prompt_eval: int = 0  # from then to the first token
    eval: int = 0  # from the first token to the last


NOT_MEASURED = Durations()


def write_chat(answer: Answer, talk: Talk, stamp: Stamp, durations: Durations = NOT_MEASURED) -> bytes:
    """The whole answer of POST /api/chat."""
    return encoded(
        {**_head(talk.model, stamp), "message": _message(answer), **tail(answer.stop, answer.usage, durations)}
    )


def write_generate(answer: Answer, talk: Talk, stamp: Stamp, durations: Durations = NOT_MEASURED) -> bytes:
    """The whole answer of POST /api/generate. Without `context`: no tokens are kept."""
    message = _message(answer)
    said = {"response": message.pop("content"), **message}
    del said["role"]
    return encoded({**_head(talk.model, stamp), **said, **tail(answer.stop, answer.usage, durations)})


def write_loaded(
    model: str, stamp: Stamp, done_reason: str, *, chat: bool, durations: Durations = NOT_MEASURED
) -> bytes:
    """The answer to who only wants the model in memory, or out of it; a single object, also where a stream was asked for.

    Args:
        done_reason: as `is_load_only` gives it.
    """
    nothing: dict[str, Any] = {"message": {"role": "assistant", "content": ""}} if chat else {"response": ""}
    told = {"done": True, "done_reason": done_reason, **_times(durations)}
    return encoded({**_head(model, stamp), **nothing, **told})


# ------------------------------------------------------------------ what the stream shares


def piece(talk: Talk, stamp: Stamp, said: Mapping[str, Any]) -> dict[str, Any]:
    """An object of an answer that goes on.

    Args:
        said: fields of a chat's message, or of a generated response.
    """
    return {**_head(talk.model, stamp), **said, "done": False}


def tail(stop: Stop, usage: Usage | None, durations: Durations) -> dict[str, Any]:
    """The fields of a finished answer."""
    told: dict[str, Any] = {"done": True, "done_reason": _DONE_REASONS.get(stop, "stop")}
    if usage is not None:
        told |= {"prompt_eval_count": usage.input, "eval_count": usage.output}
    return told | _times(durations)


def last(talk: Talk, stamp: Stamp, said: Mapping[str, Any], told: Mapping[str, Any]) -> dict[str, Any]:
    """The last object of a stream: it says nothing more, and that it is done."""
    return {**_head(talk.model, stamp), **said, **told}


def call_of(call: ToolCall, index: int) -> dict[str, Any]:
    """A call's arguments are an object here; what is none is {}, for nothing else can be said."""
    arguments = msgspec.Raw(b"{}")
    try:
        msgspec.json.decode(call.arguments, type=dict[str, Any])
        arguments = msgspec.Raw(msgspec.json.format(call.arguments.encode(), indent=-1))  # on one line
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        pass
    return {"id": call.id, "function": {"index": index, "name": call.name, "arguments": arguments}}


def encoded(value: Mapping[str, Any]) -> bytes:
    """JSON, on one line for everybody."""
    text = msgspec.json.encode(value)
    for character, escaped in _LINE_ENDS:
        text = text.replace(character, escaped)
    return text


def rfc3339(seconds: int) -> str:
    """A time in seconds since the epoch. Days are counted from a 1 March, so that a leap day is a year's last.

    Source: H. Hinnant, "chrono-Compatible Low-Level Date Algorithms", civil_from_days.
    """
    days, rest_s = divmod(seconds, _DAY_S)
    era, day_of_era = divmod(days + 719_468, 146_097)
    year_of_era = (day_of_era - day_of_era // 1_460 + day_of_era // 36_524 - day_of_era // 146_096) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    from_march = (5 * day_of_year + 2) // 153
    day = day_of_year - (153 * from_march + 2) // 5 + 1
    month = from_march + 3 if from_march < 10 else from_march - 9
    year = year_of_era + era * 400 + (month <= 2)
    return f"{year:04}-{month:02}-{day:02}T{rest_s // 3600:02}:{rest_s // 60 % 60:02}:{rest_s % 60:02}Z"


# ------------------------------------------------------------------ parts


def _head(model: str, stamp: Stamp) -> dict[str, Any]:
    return {"model": model, "created_at": rfc3339(stamp.created)}


def _message(answer: Answer) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": _text(answer.items)}
    if thinking := "".join(item.text for item in answer.items if isinstance(item, Reasoning)):
        message["thinking"] = thinking
    calls = [item for item in answer.items if isinstance(item, ToolCall)]
    if calls:
        message["tool_calls"] = [call_of(call, index) for index, call in enumerate(calls)]
    return message


def _text(items: Sequence[Message | Reasoning | ToolCall]) -> str:
    parts = (part for item in items if isinstance(item, Message) for part in item.parts)
    return "".join(part.text for part in parts if isinstance(part, Text))


def _times(durations: Durations) -> dict[str, int]:
    told = {
        "total_duration": durations.total,
        "load_duration": durations.load,
        "prompt_eval_duration": durations.prompt_eval,
        "eval_duration": durations.eval,
    }
    return {name: nanoseconds for name, nanoseconds in told.items() if nanoseconds > 0}
