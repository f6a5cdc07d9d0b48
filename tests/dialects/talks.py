"""Conversations, answers and their pieces as Hypothesis draws them: what the laws of every dialect are tried on.

    talks(Speech(documents=True))      requests            answers(Speech(mixed=True))     whole answers
    pieces_of(answer)                  an answer's deltas, its texts cut anywhere
    cut(data)                          the same bytes as a socket may give them
    junk(), spoilt(body)               JSON that nobody meant, and a good body with one thing wrong

`Speech` says what a dialect can hold; what it does not name is not drawn. Without `mixed` an assistant's turn is in the order that
every dialect keeps: reasoning, text, refusal, calls, each at most once but the calls; then every call's result, in their order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, cast

import msgspec
from hypothesis import strategies as st

from gateway.dialects.talk import (
    Answer,
    Audio,
    Choice,
    Delta,
    Document,
    Grew,
    Image,
    Item,
    Json,
    Message,
    OutputForm,
    Part,
    Reasoning,
    Stop,
    Talk,
    Text,
    Tool,
    ToolCall,
    ToolResult,
    Usage,
    as_deltas,
)

AnswerItem = Message | Reasoning | ToolCall

# What says something to parsers of lines, of events and of JSON is drawn often.
SPECIAL = (
    *(
        "yes",
        "Hello, world!",
        "two\nlines",
        "a\r\nb\rc",
        "data: [DONE]\n\n",
        '"',
        "\\",
        "\0",
        "\u2028",
        "é",
        "😀",
        "{}",
        " ",
    ),
    *(
        "<think>no</think>",
        '{"input":"x"}',
        '"}',
        "event: message_stop\ndata: {}\n\n",
        "*** Begin Patch\n+é\n*** End Patch\n",
    ),
)
LETTERS = st.characters(exclude_categories=["Cs"])
FORM_SCHEMA: Json = {"type": "object", "properties": {"b": {"type": "string"}, "a": {"type": "integer"}}}
SCHEMAS: Sequence[Json] = (
    {"type": "object", "properties": {}},
    FORM_SCHEMA,
    {"type": "object", "properties": {"n": {"type": "integer", "maximum": 2**53 + 1}}, "required": ["n"]},
)
GRAMMAR: Json = {"type": "grammar", "syntax": "lark", "definition": 'start: "a"+'}
TOOL_NAMES = ("get_weather", "apply_patch", "Bash", "mcp__files__read", "a-b", "x")


class Speech(msgspec.Struct, frozen=True, kw_only=True):
    """What a dialect can hold."""

    pictures: bool = True  # in a user's message
    result_pictures: bool = False  # in a tool's result
    details: bool = True  # a picture's `detail`
    sounds: bool = False
    documents: bool = False
    reasoning: bool = True
    seals: bool = False  # reasoning has one, and may be hidden
    refusals: bool = True
    free_form: bool = False
    failures: bool = False  # of tools
    systems: int = 1  # how many system messages may stand at the beginning
    many_parts: bool = False  # a message or a result may have several, and an assistant's message too
    mixed: bool = False  # an assistant's items in any order and number
    named_forms: bool = True  # an output form with a schema has a name
    plain_json: bool = True  # an output form may do without a schema
    stop_texts: bool = True
    stops: tuple[Stop, ...] = ("stop", "length", "filter")  # beside "tools" and "refusal", which follow from the items
    written: bool = True  # usage tells what was written to a cache
    reasoned: bool = True  # usage tells what of the output was reasoning
    always_usage: bool = False  # of a talk: usage_asked always; otherwise at most of a stream
    fields: tuple[str, ...] = (  # of a talk, that it may say something about
        "effort",
        "verbosity",
        "max_tokens",
        "temperature",
        "top_p",
        "stop",
        "seed",
        "frequency_penalty",
        "presence_penalty",
        "logit_bias",
        "user",
        "form",
        "parallel_calls",
    )


EVERYDAY = Speech()


def texts(*, least: int = 1) -> st.SearchStrategy[str]:
    """A text, short, with what hurts in it."""
    return st.sampled_from(SPECIAL) | st.text(LETTERS, min_size=least, max_size=8)


def values() -> st.SearchStrategy[Json]:
    """Any JSON value without fractions, which may be written in more than one way."""
    leaf = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | texts(least=0)
    keys = st.sampled_from(("input", "a", "é", "type", "text", ""))
    return st.recursive(
        leaf, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3), max_leaves=6
    )


def arguments() -> st.SearchStrategy[str]:
    """A call's: a JSON object without white space around its parts."""
    objects = st.dictionaries(st.sampled_from(("input", "path", "é", "n")), values(), max_size=3)
    return objects.map(lambda value: msgspec.json.encode(value).decode())


# ------------------------------------------------------------------ items


def parts(speech: Speech = EVERYDAY, *, pictures: bool) -> st.SearchStrategy[tuple[Part, ...]]:
    """Of a user's message or of a tool's result."""
    kinds: list[st.SearchStrategy[Part]] = [texts().map(Text)]
    if pictures:
        details = st.sampled_from(("", "low", "high", "auto")) if speech.details else st.just("")
        urls = st.sampled_from(("data:image/png;base64,AAAA", "data:image/jpeg;base64,/9j/", "https://host/a.png"))
        kinds.append(st.builds(Image, urls, details))
    if pictures and speech.sounds:
        kinds.append(st.builds(Audio, st.sampled_from(("AAAA", "////")), st.sampled_from(("wav", "mp3"))))
    if pictures and speech.documents:
        kinds.append(st.builds(Document, st.just("data:application/pdf;base64,JVBERi0="), st.just("a.pdf")))
    one = st.one_of(kinds)
    return st.lists(one, min_size=1, max_size=3 if speech.many_parts else 1).map(lambda drawn: tuple(drawn))


def thoughts(speech: Speech = EVERYDAY) -> st.SearchStrategy[Reasoning]:
    """Reasoning; with a seal where the dialect has one."""
    if not speech.seals:
        return texts().map(Reasoning)
    seals = st.sampled_from(("c2VhbA==", "x" * 40))
    return st.builds(Reasoning, texts(), seals) | st.builds(Reasoning, st.just(""), seals, st.just(True))


def said(speech: Speech = EVERYDAY, *, refusal: bool = False) -> st.SearchStrategy[Message]:
    """A message of the assistant's."""
    several = st.lists(texts().map(Text), min_size=1, max_size=3 if speech.many_parts and not refusal else 1)
    return several.map(lambda drawn: Message("assistant", tuple(drawn), refusal=refusal))


def calls(speech: Speech = EVERYDAY) -> st.SearchStrategy[ToolCall]:
    """A tool call, its id to be given later."""
    names = st.sampled_from(TOOL_NAMES)
    ordinary = st.builds(ToolCall, st.just(""), names, arguments())
    return ordinary | st.builds(ToolCall, st.just(""), names, texts(), st.just(True)) if speech.free_form else ordinary


@st.composite
def turns(draw: st.DrawFn, speech: Speech = EVERYDAY, *, first_id: int = 0) -> tuple[AnswerItem, ...]:
    """What the assistant says in one turn; ids of calls count up from `first_id`."""
    call_lists = st.lists(calls(speech), max_size=3)
    items: list[AnswerItem] = []
    if speech.mixed:
        kinds: list[st.SearchStrategy[AnswerItem]] = [said(speech), calls(speech)]
        if speech.reasoning:
            kinds.append(thoughts(speech))
        if speech.refusals:
            kinds.append(said(speech, refusal=True))
        items = draw(st.lists(st.one_of(kinds), min_size=1, max_size=5))
    else:
        if speech.reasoning and draw(st.booleans()):
            items.append(draw(thoughts(speech)))
        if draw(st.booleans()):
            items.append(draw(said(speech)))
        if speech.refusals and draw(st.booleans()):
            items.append(draw(said(speech, refusal=True)))
        items += draw(call_lists)
        if not any(isinstance(item, Message | ToolCall) for item in items):
            items.append(draw(said(speech)))
    prefix = draw(st.sampled_from(("call_", "toolu_0", "fc-")))
    numbered: list[AnswerItem] = []
    for item in items:
        given = isinstance(item, ToolCall)
        numbered.append(msgspec.structs.replace(item, id=f"{prefix}{first_id + len(numbered)}") if given else item)
    return tuple(numbered)


@st.composite
def conversations(draw: st.DrawFn, speech: Speech = EVERYDAY) -> tuple[Item, ...]:
    """System messages, then users and assistants by turns; after an assistant's calls their results, and maybe more of it."""
    items: list[Item] = []
    for _ in range(draw(st.integers(0, speech.systems))):
        items.append(Message("system", (Text(draw(texts())),)))
    for _ in range(draw(st.integers(1, 3))):
        items.append(Message("user", draw(parts(speech, pictures=speech.pictures))))
        for _ in range(draw(st.integers(0, 2))):
            turn = draw(turns(speech, first_id=len(items)))
            items += turn
            asked = [item for item in turn if isinstance(item, ToolCall)]
            for call in asked:
                given = draw(parts(speech, pictures=speech.result_pictures))
                failed = speech.failures and draw(st.booleans())
                items.append(ToolResult(call.id, given, failed, call.free_form))
            if not asked:
                break
    return tuple(items)


# ------------------------------------------------------------------ requests


@st.composite
def tools(draw: st.DrawFn, speech: Speech = EVERYDAY) -> tuple[Tool, ...]:
    """No two of one name; ordinary ones have a schema."""
    drawn: list[Tool] = []
    for name in draw(st.lists(st.sampled_from(TOOL_NAMES), unique=True, max_size=3)):
        description = draw(texts(least=0))
        if speech.free_form and draw(st.booleans()):
            grammar = draw(st.sampled_from((None, GRAMMAR)))
            drawn.append(Tool(name, description, free_form=True, grammar=grammar))
        else:
            drawn.append(Tool(name, description, draw(st.sampled_from(SCHEMAS)), draw(st.none() | st.booleans())))
    return tuple(drawn)


def forms(speech: Speech = EVERYDAY) -> st.SearchStrategy[OutputForm]:
    """The answer as JSON."""
    schema = st.just(FORM_SCHEMA)
    named = st.builds(OutputForm, schema, st.just("reply"), st.none() | st.booleans(), texts(least=0))
    with_schema = named if speech.named_forms else st.builds(OutputForm, schema)
    return with_schema | st.just(OutputForm()) if speech.plain_json else with_schema


def _fields(speech: Speech) -> Mapping[str, st.SearchStrategy[Json]]:
    shares = st.floats(0, 1, width=16)
    return {
        "effort": st.sampled_from(("none", "minimal", "low", "medium", "high", "xhigh", "max")),
        "thinking_tokens": st.sampled_from((0, 1024, 32000)),
        "verbosity": st.sampled_from(("low", "medium", "high")),
        "max_tokens": st.integers(1, 1 << 20),
        "temperature": shares,
        "top_p": shares,
        "top_k": st.integers(1, 100),
        "stop": st.lists(texts(), min_size=1, max_size=4).map(lambda drawn: tuple(drawn)),
        "seed": st.integers(-(2**63), 2**63 - 1),
        "frequency_penalty": st.floats(-2, 2, width=16),
        "presence_penalty": st.floats(-2, 2, width=16),
        "logit_bias": st.dictionaries(st.sampled_from(("1", "50256")), st.integers(-100, 100).map(float), min_size=1),
        "user": texts(),
        "form": forms(speech),
    }


@st.composite
def talks(draw: st.DrawFn, speech: Speech = EVERYDAY) -> Talk:
    """A request. It says who must be called, and whether at once, only where it has tools."""
    said_of = {
        name: draw(values) for name, values in _fields(speech).items() if name in speech.fields if draw(st.booleans())
    }
    offered = draw(tools(speech))
    if offered:
        named = st.sampled_from(offered).map(lambda tool: Choice("required", tool.name))
        plain = st.sampled_from((Choice("auto"), Choice("none"), Choice("required")))
        said_of["choice"] = draw(st.none() | plain | named)
        if "parallel_calls" in speech.fields:
            said_of["parallel_calls"] = draw(st.none() | st.booleans())
    stream = draw(st.booleans())
    return Talk(
        model=draw(st.sampled_from(("gpt-x", "provider/some-model:7b", "é"))),
        items=draw(conversations(speech)),
        tools=offered,
        stream=stream,
        usage_asked=speech.always_usage or (stream and draw(st.booleans())),
        **said_of,
    )


# ------------------------------------------------------------------ answers


@st.composite
def usages(draw: st.DrawFn, speech: Speech = EVERYDAY) -> Usage:
    """Parts are not more than their whole."""
    of_input, of_output = draw(st.integers(0, 1 << 20)), draw(st.integers(0, 1 << 20))
    cached = draw(st.integers(0, of_input))
    return Usage(
        input=of_input,
        output=of_output,
        cached=cached,
        written=draw(st.integers(0, of_input - cached)) if speech.written else 0,
        reasoning=draw(st.integers(0, of_output)) if speech.reasoned else 0,
    )


@st.composite
def answers(draw: st.DrawFn, speech: Speech = EVERYDAY, *, model: str = "gpt-x") -> Answer:
    """A whole answer. Its stop follows from what it holds: calls, else a refusal; or it was cut short."""
    items = draw(turns(speech))
    stop: Stop = draw(st.sampled_from(speech.stops))
    if stop == "stop" and any(isinstance(item, ToolCall) for item in items):
        stop = "tools"
    elif stop == "stop" and any(isinstance(item, Message) and item.refusal for item in items):
        stop = "refusal"
    stop_text = draw(texts(least=0)) if speech.stop_texts and stop == "stop" else ""
    return Answer(model=model, items=items, stop=stop, stop_text=stop_text, usage=draw(st.none() | usages(speech)))


@st.composite
def pieces_of(draw: st.DrawFn, answer: Answer) -> list[Delta]:
    """Its deltas, each text in as many pieces as there happen to be. Together they are what `as_answer` makes of `as_deltas`."""
    deltas: list[Delta] = []
    for delta in as_deltas(answer):
        deltas += [Grew(piece) for piece in draw(cut_text(delta.text))] if isinstance(delta, Grew) else [delta]
    return deltas


# ------------------------------------------------------------------ cutting, and what nobody meant


@st.composite
def cut_text(draw: st.DrawFn, text: str, *, most: int = 4) -> list[str]:
    """A text in pieces, none of them empty."""
    at = sorted({0, len(text), *draw(st.lists(st.integers(0, len(text)), max_size=most))})
    return [text[start:end] for start, end in pairwise(at)]


@st.composite
def cut(draw: st.DrawFn, data: bytes, *, most: int = 8) -> list[bytes]:
    """Bytes as a socket may give them: in a few pieces, or one by one."""
    if len(data) <= 4096 and draw(st.integers(0, 9)) == 0:
        return [data[i : i + 1] for i in range(len(data))]
    at = sorted({0, len(data), *draw(st.lists(st.integers(0, len(data)), max_size=most))})
    return [data[start:end] for start, end in pairwise(at)]


def junk() -> st.SearchStrategy[bytes]:
    """Any JSON at all; sometimes not even that."""
    leaf = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts(least=0)
    keys = st.sampled_from(KEYS)
    value = st.recursive(leaf, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner), max_leaves=12)
    return value.map(msgspec.json.encode) | st.binary(max_size=12)


KEYS = (
    *("model", "messages", "input", "system", "role", "content", "type", "text", "tools", "function", "name", "id"),
    *("tool_calls", "arguments", "choices", "message", "delta", "index", "usage", "output", "finish_reason", "error"),
    *("stop_reason", "response", "item", "content_block", "call_id", "image_url", "source", "tool_choice", "thinking"),
)


WRONG: Sequence[Json] = (None, True, False, -1, 0, 2, 0.5, "", "x", [], {}, [[]], [{}], [None], {"type": "x"}, 2**70)


@st.composite
def spoilt(draw: st.DrawFn, body: bytes) -> bytes:
    """A good body with one value somewhere in it replaced, left out or put where it does not belong."""
    whole = msgspec.json.decode(body)
    wrong = draw(st.sampled_from(WRONG))
    places = list(_places(whole))
    if not places:
        return msgspec.json.encode(wrong)
    holder, key = places[draw(st.integers(0, len(places) - 1))]
    if isinstance(holder, dict) and draw(st.integers(0, 3)) == 0:
        del holder[key]
    else:
        holder[key] = wrong
    return msgspec.json.encode(whole)


def _places(value: Json) -> list[tuple[Json, Json]]:
    """Every (holder, key) in a JSON value."""
    found: list[tuple[Json, Json]] = []
    if isinstance(value, dict | list):
        holder = cast("Any", value)
        for key in holder if isinstance(value, dict) else range(len(holder)):
            found += [(holder, key), *_places(holder[key])]
    return found
