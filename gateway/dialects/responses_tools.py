"""What a model may use and must give: tools, the choice among them, the form of its text; of OpenAI's Responses API. Pure.

A namespace's tools get one flat name each, for models know no namespaces; `Member` remembers where it came from, so that a call
goes back under both of its names. Codex looks calls up by namespace and name, and refuses a flat one.
Sources: openai-python `types/responses` (3.54); openai/codex `codex-rs/core/src/tools/router.rs`, jundot/omlx issue 3371.
"""

from __future__ import annotations

import zlib
from typing import Any, Literal, TypeVar

import msgspec

from gateway.errors import InvalidRequest, NotTranslatable

from .talk import Choice, Json, OutputForm, Tool

T = TypeVar("T")

NAME_CHARS_MAX = 64  # of a function's name, in OpenAI's API and in others that follow it
_NOTHING: dict[str, Json] = {"type": "object", "properties": {}}  # the schema of no arguments


class Member(Tool, frozen=True, kw_only=True):
    """A tool of a namespace. `name` is the flat one."""

    namespace: str
    bare: str


class Format(msgspec.Struct):
    """`text.format`."""

    type: str
    name: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None
    description: str | None = None


class _Tool(msgspec.Struct):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    format: dict[str, Any] | None = None


class _Namespace(msgspec.Struct):
    name: str
    tools: list[Any] | None = None


class _Allowed(msgspec.Struct):
    mode: Literal["auto", "required"]
    tools: list[dict[str, Any]]


class _Named(msgspec.Struct):
    name: str
    namespace: str | None = None


def typed(kind: type[T], value: Json, at: str) -> T:
    """Raises: InvalidRequest, naming the very field."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        said, _, path = str(error).partition(" - at `$")
        where = (at + path.rstrip("`")).lstrip(".")
        raise InvalidRequest(f"'{where}': {said}" if where else said, param=where or None) from None


def read_form(form: Format | None) -> OutputForm | None:
    """Raises: InvalidRequest, NotTranslatable."""
    if form is None or form.type == "text":
        return None
    if form.type == "json_object":
        return OutputForm()
    if form.type != "json_schema":
        raise NotTranslatable(f"'text.format' of type '{form.type}' cannot be said to this model", param="text.format")
    if form.schema is None:
        raise InvalidRequest("'text.format.schema' is missing", param="text.format.schema")
    return OutputForm(form.schema, form.name or "", form.strict, form.description or "")


def flat_name(namespace: str, name: str) -> str:
    """One name for both, as MCP tools are commonly called: `mcp__files` and `read` make `mcp__files__read`."""
    joined = namespace + name if namespace.endswith("__") else f"{namespace}__{name}"
    if len(joined) <= NAME_CHARS_MAX:
        return joined
    return f"{joined[: NAME_CHARS_MAX - 9]}_{zlib.crc32(joined.encode()):08x}"


class Names:
    """What the tools are called here."""

    def __init__(self, tools: list[Tool]) -> None:
        self._flat = {(tool.namespace, tool.bare): tool.name for tool in tools if isinstance(tool, Member)}
        self._plain = {tool.name for tool in tools if not isinstance(tool, Member)}

    def of(self, namespace: str | None, name: str) -> str:
        """A tool's name here. A top-level one may carry a namespace too: the API's default, or its own name."""
        known = self._flat.get((namespace or "", name))
        if known is not None or not namespace or name in self._plain:
            return known or name
        return flat_name(namespace, name)


def read_tools(offered: list[Json], at: str, left_out: list[str], *, inner: bool = False) -> list[Tool]:
    """The caller's own; what its server would have to bring is left out. A namespace stands in no other."""
    tools: list[Tool] = []
    for number, tool in enumerate(offered):
        here = f"{at}[{number}]"
        kind = typed(dict[str, Any], tool, here).get("type")
        if kind in ("function", "custom"):
            tools.append(_tool(tool, here))
        elif kind == "namespace" and not inner:
            space = typed(_Namespace, tool, here)
            members = read_tools(space.tools or [], f"{here}.tools", left_out, inner=True)
            tools += [_member(tool, space.name) for tool in members]
        elif isinstance(kind, str):
            left_out.append(here)  # its server's own: a web search, a computer
        else:
            raise InvalidRequest(f"'{here}.type' is missing", param=f"{here}.type")
    return tools


def _tool(tool: Json, at: str) -> Tool:
    asked = typed(_Tool, tool, at)
    if tool["type"] == "custom":
        return Tool(asked.name, asked.description or "", free_form=True, grammar=asked.format)
    return Tool(asked.name, asked.description or "", asked.parameters, asked.strict)


def _member(tool: Tool, namespace: str) -> Tool:
    return Member(
        flat_name(namespace, tool.name),
        tool.description,
        tool.schema,
        tool.strict,
        tool.free_form,
        tool.grammar,
        namespace=namespace,
        bare=tool.name,
    )


def read_choice(
    choice: str | dict[str, Json] | None, tools: list[Tool], names: Names
) -> tuple[Choice | None, list[Tool]]:
    """The choice, and the tools that it leaves. Raises: InvalidRequest, NotTranslatable."""
    match choice:
        case None:
            return None, tools
        case "auto" | "none" | "required":
            return Choice(choice), tools
        case str():
            raise InvalidRequest("'tool_choice' must be 'auto', 'none', 'required' or an object", param="tool_choice")
        case {"type": "function" | "custom"}:
            named = typed(_Named, choice, "tool_choice")
            return Choice("required", names.of(named.namespace, named.name)), tools
        case {"type": "allowed_tools"}:
            allowed = typed(_Allowed, choice, "tool_choice")
            called = [tool.get("name") for tool in allowed.tools]
            return Choice(allowed.mode), [t for t in tools if t.name in called or getattr(t, "bare", "") in called]
        case _:
            raise NotTranslatable(
                "'tool_choice' asks for a tool of OpenAI's servers, which this model does not have", param="tool_choice"
            )


# ------------------------------------------------------------ writing


def written_tool(tool: Tool) -> dict[str, Json]:
    """`strict` is said always: left out it means "as strict as can be" here, and "not strict" in every other dialect."""
    written: dict[str, Json] = {"type": "custom" if tool.free_form else "function", "name": tool.name}
    if tool.description:
        written["description"] = tool.description
    if tool.free_form:
        return {**written, "format": tool.grammar} if tool.grammar is not None else written
    schema = _NOTHING if tool.schema is None else tool.schema
    return {**written, "parameters": schema, "strict": tool.strict is True}


def written_choice(choice: Choice, tools: tuple[Tool, ...]) -> Json:
    """As `tool_choice` has it."""
    if not choice.name:
        return choice.mode
    free_form = any(tool.name == choice.name and tool.free_form for tool in tools)
    return {"type": "custom" if free_form else "function", "name": choice.name}


def written_form(form: OutputForm | None) -> dict[str, Json]:
    """As `text.format` has it."""
    if form is None:
        return {"type": "text"}
    if form.schema is None:
        return {"type": "json_object"}
    written: dict[str, Json] = {"type": "json_schema", "name": form.name or "answer", "schema": form.schema}
    if form.description:
        written["description"] = form.description
    return written if form.strict is None else {**written, "strict": form.strict}
