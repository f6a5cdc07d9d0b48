"""What the fake upstreams answer with: a model that understands just enough, the same every time.

The law: what it says can be foretold from what it is asked, so a test can tell what a client must see; and everything that a real
model can do on a client's behalf (call tools, several at once, obey a schema, stop, think) it does.

- It calls a tool when it has to, or when the last message has a word of the tool's name; numbers, quoted words and places of that
  message become the arguments.
- It tells the results of tools back in words, and fills a schema with what the message holds.
- Otherwise it repeats what was said.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any, cast

Json = dict[str, Any]


def under(body: Json, name: str) -> Json:
    """An object in another one; {} where there is none."""
    return cast("Json", body.get(name) or {})


def listed(body: Json, name: str) -> list[Json]:
    """A list of objects in an object; [] where there is none."""
    return cast("list[Json]", body.get(name) or [])


_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
# an apostrophe within a word quotes nothing
_QUOTED = re.compile(r"(?<!\w)'([^']+)'(?!\w)|\"([^\"]+)\"")
_PLACE = re.compile(r"\b(?:in|for|of) ([A-Z]\w+(?: [A-Z]\w+)*)")
_NOT_TELLING = frozenset(("tool", "function", "the", "and", "with", "make", "final", "result"))


@dataclass(slots=True)
class Tool:
    """One that it may call."""

    name: str
    schema: Json


@dataclass(slots=True)
class Call:
    """One that it makes; `arguments` as JSON text."""

    id: str
    name: str
    arguments: str


@dataclass(slots=True)
class Asked:
    """A request, whatever API it came by.

    `said`: the last message of the user; `results`: of the tools that were called after it. `choice`: auto, none, required, or a
    tool's name. `schema`: what the answer must obey; {}: any object; None: it is prose.
    """

    said: str
    results: list[str] = field(default_factory=list[str])
    pictures: int = 0
    tools: list[Tool] = field(default_factory=list[Tool])
    choice: str = "auto"
    parallel: bool = True
    schema: Json | None = None
    stop: list[str] = field(default_factory=list[str])
    max_tokens: int | None = None
    thinking: bool = False


@dataclass(slots=True)
class Answer:
    """`ended`: stop, length or tools."""

    text: str = ""
    calls: list[Call] = field(default_factory=list[Call])
    thoughts: str = ""
    ended: str = "stop"

    @property
    def tokens(self) -> list[str]:
        """The text in pieces, as a stream has it."""
        return pieces(self.text)


def pieces(text: str) -> list[str]:
    """A few letters each."""
    return [text[at : at + 5] for at in range(0, len(text), 5)]


def answer(asked: Asked) -> Answer:
    """Think."""
    thoughts = f"They say {asked.said!r}." if asked.thinking else ""
    called = _called(asked)
    if called:
        return Answer("", called, thoughts, "tools")
    if asked.schema is not None:
        text = json.dumps(_object(asked), ensure_ascii=False)
    elif asked.results:
        text = "The tools say: " + "; ".join(asked.results)
    else:
        text = f"You said: {asked.said}" + (f" ({asked.pictures} pictures)" if asked.pictures else "")
    return _limited(text, asked, thoughts)


def _limited(text: str, asked: Asked, thoughts: str) -> Answer:
    for stop in asked.stop:
        text = text.partition(stop)[0]
    allowed = pieces(text)[: asked.max_tokens]
    whole = "".join(allowed) == text
    return Answer("".join(allowed), [], thoughts, "stop" if whole else "length")


def _called(asked: Asked) -> list[Call]:
    if not asked.tools or asked.choice == "none":
        return []
    named = [tool for tool in asked.tools if tool.name == asked.choice]
    if not named and asked.results and asked.choice == "auto":
        return []
    meant = named or [tool for tool in asked.tools if _is_meant(tool, asked.said)]
    if not meant and asked.choice == "required":
        # an output tool stands last
        meant = asked.tools[-1:]
    if asked.results and asked.choice == "required":
        meant = asked.tools[-1:]
    calls = [(tool.name, values) for tool in meant for values in _arguments(tool, asked)]
    calls = calls if asked.parallel else calls[:1]
    return [
        Call(f"call_{number}_{name}", name, json.dumps(values, ensure_ascii=False))
        for number, (name, values) in enumerate(calls)
    ]


def _is_meant(tool: Tool, said: str) -> bool:
    words = {word.lower() for word in re.findall(r"[A-Za-z]+", said)}
    telling = {word.lower() for word in re.findall(r"[A-Za-z]+", tool.name) if len(word) > 2} - _NOT_TELLING
    return tool.name in said or bool(telling & words)


def _arguments(tool: Tool, asked: Asked) -> list[Json]:
    """One set for each place that is named, where the tool takes one text; else one."""
    found = Found(asked.said, asked.results)
    properties = cast("Json", tool.schema.get("properties") or {})
    if len(properties) == 1 and len(found.places) > 1 and next(iter(properties.values())).get("type") == "string":
        return [{name: place} for name in properties for place in found.places]
    return [cast("Json", found.fill({"type": "object", **tool.schema}, tool.schema))]


def _object(asked: Asked) -> object:
    found = Found(asked.said, asked.results)
    if asked.schema:
        return found.fill(asked.schema, asked.schema)
    return {key: f"a {key}" for key in found.quoted} or {"said": asked.said}


class Found:
    """What a message holds that can fill a schema; each is used once, the last one again and again."""

    def __init__(self, said: str, results: list[str]) -> None:
        text = " ".join([said, *results])
        self.numbers = [float(number) for number in _NUMBER.findall(text)]
        self.quoted = [single or double for single, double in _QUOTED.findall(text)]
        self.places = _PLACE.findall(said)
        self._texts = [*self.quoted, *self.places] or [said or "nothing"]
        self._left = list(self.numbers) or [3.0]

    def fill(self, schema: Json, root: Json) -> object:
        """A value that obeys it."""
        schema = _resolved(schema, root)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return next((value for value in schema["enum"] if str(value) in self._texts), schema["enum"][0])
        kind: Any = schema.get("type", "object" if "properties" in schema else "string")
        kinds = cast("list[str]", kind if isinstance(kind, list) else [kind])
        match next((each for each in kinds if each != "null"), "null"):
            case "object":
                properties = cast("dict[str, Json]", schema.get("properties") or {})
                return {name: self.fill(inner, root) for name, inner in properties.items()}
            case "array":
                inner = cast("Json", schema.get("items") or {})
                return [self.fill(inner, root) for _ in range(max(1, int(schema.get("minItems", 1))))]
            case "integer":
                return int(self._number())
            case "number":
                return self._number()
            case "boolean":
                return True
            case "null":
                return None
            case _:
                return "2024-02-29" if schema.get("format") == "date" else self._text()

    def _number(self) -> float:
        return self._left.pop(0) if len(self._left) > 1 else self._left[0]

    def _text(self) -> str:
        return self._texts.pop(0) if len(self._texts) > 1 else self._texts[0]


def _resolved(schema: Json, root: Json) -> Json:
    """Without references and choices: the first that is not null."""
    while True:
        choices = schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf")
        if "$ref" in schema:
            place: Any = root
            for step in str(schema["$ref"]).removeprefix("#/").split("/"):
                place = place[step]
            schema = cast("Json", place)
        elif choices:
            schema = next((choice for choice in choices if choice.get("type") != "null"), choices[0])
        else:
            return schema
