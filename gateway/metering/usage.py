"""How many tokens an answer took, as the upstream itself says, and what it charged where it tells that too. Pure.

The law: no answer is parsed for it. The object behind the key `"usage"` is looked for near the end of an answer, then near its
beginning, and only that object is decoded. It counts only where it stands at an answer's top level (in an event: there, or one
level down, in `response`, `message` or `x_groq`): a caller's own tool with a property "usage", repeated by the upstream, is none.
What cannot be read is None, never an exception.

Sources: OpenAI API reference (chat `usage`, `prompt_tokens_details`; Responses `input_tokens_details`; embeddings); Anthropic API
reference (`usage` of Messages: `input_tokens` counts neither what was read from the cache nor what was written to it;
`message_delta` holds cumulative counts); OpenRouter, usage accounting (`cost`, in credits, which are dollars); Jina's rerank
(`total_tokens` alone); llama.cpp tools/server/server-task.cpp (`timings`, on the last chunk of every stream); Ollama API
reference (`prompt_eval_count`, `eval_count`).
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, cast

import msgspec

# From the key to the end of an answer: OpenAI's Responses have 16 metadata of 500 characters at most behind it.
WINDOW_BYTES = 8 << 10
# The objects named "usage" that are looked at before it is given up: real answers have one.
_CANDIDATES_MAX = 8
# More than any model reads in a lifetime; a greater number is nobody's count, and would not fit into a ledger's column.
_COUNT_MAX = 1 << 48

_KEY = b'"usage"'
_TIMINGS = b'"timings"'
# What follows a key: an object, three levels deep at most (Anthropic's `iterations` have a `cache_creation`). No string inside of
# it is thought to hold a brace.
_FLAT = rb"\{[^{}]*+\}"
_NESTED = rb"\{[^{}]*+(?:%b[^{}]*+)*+\}"
_OBJECT = re.compile(rb"\s*:\s*(%b)" % (_NESTED % (_NESTED % _FLAT)))
_LINE_END = re.compile(rb"[\r\n]")
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_NO_BRACKETS = bytes(set(range(256)) - set(b"{}[]"))
_EVALUATED = re.compile(rb'"(prompt_eval_count|eval_count)"\s*:\s*([0-9]{1,14})(?![0-9.eE])')


class Usage(msgspec.Struct, frozen=True):
    """Tokens of one answer. `prompt` counts all of it, `cached` and `written` among it; `completion` what was thought, too."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0  # of the prompt, read from the upstream's cache
    written: int = 0  # of the prompt, written to it (Anthropic)
    reasoning: int = 0
    cost: Decimal | None = None  # USD, where the upstream says what it charged (OpenRouter)
    total_told: int = 0

    @property
    def total(self) -> int:
        """The upstream's own sum where it is greater: some count what was thought there and not in `completion` (xAI, Gemini)."""
        return max(self.total_told, self.prompt + self.completion)


def merged(earlier: Usage | None, later: Usage | None) -> Usage | None:
    """Two words on the same answer: of each count the later one, unless it is silent on it."""
    if earlier is None or later is None:
        return earlier or later
    return Usage(
        prompt=later.prompt or earlier.prompt,
        completion=later.completion or earlier.completion,
        cached=later.cached or earlier.cached,
        written=later.written or earlier.written,
        reasoning=later.reasoning or earlier.reasoning,
        cost=earlier.cost if later.cost is None else later.cost,
        total_told=later.total_told or earlier.total_told,
    )


def usage_of_body(body: bytes) -> Usage | None:
    """Of a whole JSON answer: chat, completions, embeddings, rerank, Responses, Messages, Ollama's own."""
    if len(body) <= _WHOLE_BYTES:
        try:
            plain = _plain(body).usage
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            pass  # whatever it is, what follows looks closer
        else:
            if plain.cost is None and plain.input_tokens is None:
                asked, answered = plain.prompt_tokens_details, plain.completion_tokens_details
                return Usage(
                    plain.prompt_tokens,
                    plain.completion_tokens,
                    asked.cached_tokens if asked is not None else 0,
                    asked.cache_write_tokens if asked is not None else 0,
                    answered.reasoning_tokens if answered is not None else 0,
                    None,
                    plain.total_tokens,
                )
        try:
            said = _whole(body).usage
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            said = _NOTHING  # an error page, or Ollama's lines
        if said is not _NOTHING:
            return _read(said)
    end = body[-WINDOW_BYTES:]
    found = _last(end, _KEY, deepest=1, lines=False)
    if found is None and len(body) > WINDOW_BYTES:
        found = _first(body[:WINDOW_BYTES])
    if found is None and b"eval_count" in end:
        found = _evaluated(end)
    return found


def usage_in_events(data: bytes) -> Usage | None:
    """Of an event stream, or any part of one that may begin within an event; also of Ollama's lines.

    The last word counts, but for Messages, which tell of the input in their first event and of the output in one of the last.
    What stands in a line without an end counts only if the line is whole.
    """
    found = _last(data, _KEY, deepest=2, lines=True)
    if found is not None:
        begun = data.find(b'"message_start"')
        if begun >= 0:
            line_end = _LINE_END.search(data, begun)
            started = data[begun : line_end.start()] if line_end is not None else b""
            found = merged(_last(started, _KEY, deepest=2, lines=True, whole=True), found)
        return found
    if _TIMINGS in data:
        return _last(data, _TIMINGS, deepest=1, lines=True)
    return _evaluated(data) if b"eval_count" in data else None


# ---------------------------------------------------------------------- where it stands


def _last(data: bytes, key: bytes, *, deepest: int, lines: bool, whole: bool = False) -> Usage | None:
    """The last readable object behind `key` at the allowed depth.

    Args:
        lines: the JSON value that it stands in ends with the line, not with the data.
        whole: that line is known to have had an end.
    """
    at = len(data)
    for _ in range(_CANDIDATES_MAX):
        value = None
        while value is None:  # past every `"usage":null`
            at = data.rfind(key, 0, at)
            if at < 0:
                return None
            value = _OBJECT.match(data, at + len(key))
        end = value.end()
        stop = len(data)
        if lines:
            line_end = _LINE_END.search(data, end)
            if line_end is not None:
                stop = line_end.start()
            elif not whole and not _is_whole(data):
                continue
        if 1 <= _closed(data[end:stop]) <= deepest:
            found = _read(value.group(1))
            if found is not None:
                return found
    return None


def _first(data: bytes) -> Usage | None:
    """The object at the top level of an answer that begins with this: of embeddings, llama.cpp tells it before them."""
    at = data.find(_KEY)
    if at < 0:
        return None
    value = _OBJECT.match(data, at + len(_KEY))
    return None if value is None or _closed(data[:at]) != -1 else _read(value.group(1))


def _closed(data: bytes) -> int:
    """How many levels more end than begin in a part of a JSON value."""
    brackets = data.translate(None, _NO_BRACKETS)
    if brackets == b"}":  # nearly always; a string that holds a bracket makes two of them
        return 1
    data = _STRING.sub(b"", data)
    return data.count(b"}") + data.count(b"]") - data.count(b"{") - data.count(b"[")


def _is_whole(data: bytes) -> bool:
    """Whether the last line of the data, which has no end, lacks nothing."""
    begun = max(data.rfind(b"\n"), data.rfind(b"\r")) + 1
    return _closed(data[begun:]) == 0


# ---------------------------------------------------------------------- what it says


class _Said(msgspec.Struct):
    """As it came: a count of a strange type is no reason not to believe the others."""

    prompt_tokens: object = None
    completion_tokens: object = None
    total_tokens: object = None
    prompt_tokens_details: object = None
    completion_tokens_details: object = None
    input_tokens: object = None
    output_tokens: object = None
    input_tokens_details: object = None
    output_tokens_details: object = None
    cache_read_input_tokens: object = None
    cache_creation_input_tokens: object = None
    cost: object = None
    cache_n: object = None  # these three: llama.cpp's timings
    prompt_n: object = None
    predicted_n: object = None


_decode = msgspec.json.Decoder(_Said, float_hook=Decimal).decode


_NOTHING = msgspec.Raw()
_WHOLE_BYTES = 2 << 10  # up to here reading all of it is quicker than looking for the place


class _Whole(msgspec.Struct):
    usage: msgspec.Raw = _NOTHING


_whole = msgspec.json.Decoder(_Whole).decode


_Count = Annotated[int, msgspec.Meta(ge=0, le=_COUNT_MAX)]


class _Details(msgspec.Struct, gc=False):
    cached_tokens: _Count = 0
    cache_write_tokens: _Count = 0
    reasoning_tokens: _Count = 0


class _Usual(msgspec.Struct):
    """As nearly everybody tells it: read in one go."""

    prompt_tokens: _Count
    completion_tokens: _Count = 0
    total_tokens: _Count = 0
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None
    input_tokens: object = None
    cost: object = None


class _Plain(msgspec.Struct):
    usage: _Usual


_plain = msgspec.json.Decoder(_Plain).decode


def _read(data: bytes | msgspec.Raw) -> Usage | None:
    """None where it holds no count at all."""
    try:
        said = _decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    prompt, completion, total = _count(said.prompt_tokens), _count(said.completion_tokens), _count(said.total_tokens)
    cached = _part(said.prompt_tokens_details or said.input_tokens_details, "cached_tokens")
    written = _part(said.prompt_tokens_details, "cache_write_tokens")
    if prompt is None and (said.input_tokens is not None or said.output_tokens is not None):
        read, wrote = _count(said.cache_read_input_tokens), _count(said.cache_creation_input_tokens)
        prompt = _count(said.input_tokens)
        completion = _count(said.output_tokens)
        if read is not None or wrote is not None:  # Messages: beside what is new
            cached, written = read or 0, wrote or 0
            prompt = (prompt or 0) + cached + written
    elif prompt is None and said.predicted_n is not None:
        cached = _count(said.cache_n) or 0
        prompt, completion = (_count(said.prompt_n) or 0) + cached, _count(said.predicted_n)
    if prompt is None and completion is None:
        if total is None:
            return None
        prompt = total
    return Usage(
        prompt=prompt or 0,
        completion=completion or 0,
        cached=cached,
        written=written,
        reasoning=_part(said.completion_tokens_details or said.output_tokens_details, "reasoning_tokens"),
        cost=_amount(said.cost),
        total_told=total or 0,
    )


def _count(value: object) -> int | None:
    """A number of tokens; 12.0 is one, too."""
    if type(value) is int:
        return value if 0 <= value <= _COUNT_MAX else None
    if isinstance(value, Decimal) and 0 <= value <= _COUNT_MAX and value == int(value):
        return int(value)
    return None


def _part(details: object, name: str) -> int:
    return _count(cast("dict[str, object]", details).get(name)) or 0 if isinstance(details, dict) else 0


def _amount(value: object) -> Decimal | None:
    """Money: the digits that were sent, not a float's. Others have an object or a word there."""
    if type(value) is int:
        value = Decimal(value)
    return value if isinstance(value, Decimal) and value.is_finite() and 0 <= value <= _COUNT_MAX else None


def _evaluated(data: bytes) -> Usage | None:
    """Ollama's own words, the last of each. A prompt that was in its cache it may leave out."""
    said = {name: int(value) for name, value in _EVALUATED.findall(data)}
    if not said:
        return None
    return Usage(prompt=said.get(b"prompt_eval_count", 0), completion=said.get(b"eval_count", 0))
