"""Requests of Anthropic's Messages API, read into a Talk and written from one. Pure.

The law: what is written is what Anthropic takes. Where it refuses a value that others know, the nearest one is sent, or none, and
the caller is told; where that would change what is asked for, the request is refused.

Turns. Items of one side are put together in one turn, a user's with the tool results first. System messages at the beginning are
`system`; later ones are the user's words, because most models refuse them within a conversation. A turn of the user must come
first: where none does, OPENING stands there. Blank texts are left out, as is white space at the end of a last turn of the
assistant's, and reasoning without a seal: all of them are refused. So is the seal of another maker, but that cannot be seen.

Thinking. Others know an effort, so a budget is read as that effort too (BUDGET_MAX): Claude Code's three words ask for 4,000,
10,000 and 31,999 tokens, and stand for low, medium and high. Claude models since 4.6 are told the effort and think adaptively;
older ones, and models of other makers behind this API, know a budget only (BUDGETS). A budget is not compatible with a forced
call, nor with an open round of tools that did not begin with a sealed thought.

Sampling. Claude models since 4.7 refuse temperature, top_p and top_k; older ones take temperature or top_p, and hardly any beside
thinking.

Source: platform.claude.com/docs: api/messages; build-with-claude: thinking, thinking-troubleshooting, thinking-tool-workflows,
effort, structured-outputs, mid-conversation-system-messages.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Literal, cast

import msgspec

from gateway.errors import InvalidRequest, NotTranslatable

from .messages_blocks import Block, Body, Role, decode, turn_items, written_item
from .talk import Choice, Item, Json, Message, OutputForm, Reasoning, Talk, Tool, ToolCall

# Anthropic must be told a maximum, most others need not be. The largest that every model it still serves accepts (Opus 4.1 gives
# no more): an agent without a limit of its own writes whole files, and 8,192 would cut them. Nothing is paid for what is not used.
MAX_TOKENS = 32_000
BUDGET_LEAST = 1024
BUDGET_MAX = (("low", 4096), ("medium", 16_384))  # more is "high"
BUDGETS = {"minimal": 1024, "low": 4000, "medium": 10_000, "high": 31_999, "xhigh": 31_999, "max": 31_999}
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
OPENING = "(The conversation begins here.)"

_ADAPTIVE_SINCE = (4, 6)
_NO_BUDGET_SINCE = _NO_SAMPLING_SINCE = (4, 7)
_LATEST = (99, 0)  # a Claude without a number: "claude-mythos-preview"
_VERSION = re.compile(r"claude-(?:[a-z]+-)*(\d{1,2})(?:[-.](\d)(?!\d))?")  # not the date in claude-opus-4-20250514
_TOP_P_LEAST = 0.95  # beside thinking
_UNKNOWN = ("seed", "frequency_penalty", "presence_penalty", "logit_bias", "verbosity")


# ------------------------------------------------------------------ the wire form, as far as we read it


class _Turn(msgspec.Struct):
    role: Role
    content: Body


class _Choice(msgspec.Struct):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class _Thinking(msgspec.Struct):
    type: str
    budget_tokens: int | None = None


class _Format(msgspec.Struct):
    type: str
    schema: dict[str, Json] | None = None


class _OutputConfig(msgspec.Struct):
    effort: str | None = None
    format: _Format | None = None


class _Metadata(msgspec.Struct):
    user_id: str | None = None


class _Request(msgspec.Struct):
    model: str
    messages: list[_Turn]
    max_tokens: int
    system: Body | None = None
    tools: list[msgspec.Raw] | None = None
    tool_choice: _Choice | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop_sequences: list[str] | None = None
    thinking: _Thinking | None = None
    output_config: _OutputConfig | None = None
    output_format: _Format | None = None  # where `output_config.format` stood while it was a beta
    metadata: _Metadata | None = None
    stream: bool | None = None


class _ToolKind(msgspec.Struct):
    type: str | None = None


class _Tool(msgspec.Struct):
    name: str
    description: str | None = None
    input_schema: dict[str, Json] | None = None
    strict: bool | None = None


# ------------------------------------------------------------------ reading


def read_request(body: bytes) -> Talk:
    """Raises: InvalidRequest, NotTranslatable."""
    try:
        body.decode()  # what is kept as it came is not looked at otherwise
    except UnicodeDecodeError as error:
        message = f"The body is not valid UTF-8 at byte {error.start}"
        raise InvalidRequest(message, code="invalid_json") from None
    fields = decode(body, dict[str, msgspec.Raw])
    asked = decode(body, _Request)
    left_out = [name for name, value in fields.items() if name not in _FIELDS and bytes(value) != b"null"]
    if not asked.model:
        raise InvalidRequest("'model' must be a non-empty string", param="model")
    if not asked.messages:
        raise InvalidRequest("'messages' must hold at least one message", param="messages")
    if asked.max_tokens < 0:
        raise InvalidRequest("'max_tokens' must be a positive number", param="max_tokens")
    if asked.max_tokens == 0:
        raise NotTranslatable("'max_tokens' of 0 fills Anthropic's prompt cache, which is not here", param="max_tokens")
    items: list[Item] = []
    if asked.system:
        items += turn_items("system", asked.system, "system", left_out)
    for i, turn in enumerate(asked.messages):
        items += turn_items(turn.role, turn.content, f"messages[{i}].content", left_out)
    tools = tuple(_read_tools(asked.tools or [], left_out))
    config = asked.output_config or _OutputConfig()
    effort, thinking_tokens = _read_thinking(asked.thinking, config.effort, left_out)
    return Talk(
        model=asked.model,
        items=tuple(items),
        tools=tools,
        choice=_read_choice(asked.tool_choice, tools),
        parallel_calls=False if asked.tool_choice and asked.tool_choice.disable_parallel_tool_use else None,
        form=_read_format(config.format or asked.output_format, left_out),
        effort=effort,
        thinking_tokens=thinking_tokens,
        max_tokens=asked.max_tokens,
        temperature=asked.temperature,
        top_p=asked.top_p,
        top_k=asked.top_k,
        stop=tuple(asked.stop_sequences or ()),
        user=(asked.metadata and asked.metadata.user_id) or "",
        stream=bool(asked.stream),
        usage_asked=True,
        left_out=tuple(left_out),
    )


_FIELDS = _Request.__struct_fields__


def _read_tools(tools: list[msgspec.Raw], left_out: list[str]) -> Iterator[Tool]:
    for i, raw in enumerate(tools):
        if decode(raw, _ToolKind, f"tools[{i}]").type in (None, "custom"):
            tool = decode(raw, _Tool, f"tools[{i}]")
            yield Tool(tool.name, tool.description or "", tool.input_schema, tool.strict)
        else:
            left_out.append(f"tools[{i}]")


def _read_choice(choice: _Choice | None, tools: Sequence[Tool]) -> Choice | None:
    """Where all tools have been left out there is nothing to choose, and a call that is asked for cannot be had."""
    if choice is None:
        return None
    if choice.type in ("auto", "none"):
        return Choice("auto" if choice.type == "auto" else "none") if tools else None
    if choice.type == "tool" and not choice.name:
        raise InvalidRequest("'tool_choice.name' is missing", param="tool_choice.name")
    name = (choice.name or "") if choice.type == "tool" else ""
    if not any(name in ("", tool.name) for tool in tools):
        message = "'tool_choice' asks for a tool that is not in 'tools', or that only Anthropic's servers have"
        raise NotTranslatable(message, param="tool_choice")
    return Choice("required", name)


def _read_format(form: _Format | None, left_out: list[str]) -> OutputForm | None:
    if form is None:
        return None
    if form.type != "json_schema":
        left_out.append("output_config.format")
        return None
    if form.schema is None:
        raise InvalidRequest("'output_config.format.schema' is missing", param="output_config.format.schema")
    return OutputForm(schema=form.schema)


def _read_thinking(thinking: _Thinking | None, effort: str | None, left_out: list[str]) -> tuple[str, int | None]:
    """Effort and budget. An effort beside thinking that is switched off is about the answer's length: nobody else knows that."""
    if effort and effort not in EFFORTS:
        left_out.append("output_config.effort")
        effort = ""
    budget = thinking and thinking.budget_tokens
    if budget and budget < 0:
        raise InvalidRequest("'thinking.budget_tokens' must be a positive number", param="thinking.budget_tokens")
    if thinking and (thinking.type == "disabled" or (thinking.type == "enabled" and budget == 0)):
        if effort:
            left_out.append("output_config.effort")
        return "none", 0
    if thinking and thinking.type == "enabled" and budget:
        return effort or _effort_of(budget), budget
    return effort or "", None  # adaptive: what every other upstream does without being told


def _effort_of(budget: int) -> str:
    return next((effort for effort, most in BUDGET_MAX if budget <= most), "high")


# ------------------------------------------------------------------ writing


def write_request(talk: Talk) -> tuple[bytes, tuple[str, ...]]:
    """The body, and the names of what it does not say.

    Args:
        talk: its model is the upstream's own name, for models differ in what they take.
    Raises: InvalidRequest, NotTranslatable.
    """
    unsaid = [name for name in _UNKNOWN if getattr(talk, name) not in (None, "")]
    system, turns = _written_turns(talk.items, unsaid)
    most = MAX_TOKENS if talk.max_tokens is None else talk.max_tokens
    thinking, effort = _written_thinking(talk, most, turns, unsaid)
    config: Block = {"effort": effort} if effort else {}
    if talk.form is not None and talk.form.schema is None:
        unsaid.append("response_format")
    elif talk.form is not None:
        config["format"] = {"type": "json_schema", "schema": talk.form.schema}
    stops = [text for text in talk.stop if text.strip()]
    if len(stops) < len(talk.stop):
        unsaid.append("stop")
    body: Block = {
        "model": talk.model,
        "max_tokens": most,
        "system": system,
        "messages": turns,
        "tools": [_written_tool(tool) for tool in talk.tools],
        "tool_choice": _written_choice(talk, unsaid),
        "thinking": thinking,
        "output_config": config,
        **_written_sampling(talk, thinks=bool(thinking) and thinking["type"] != "disabled", unsaid=unsaid),
        "stop_sequences": stops,
        "metadata": {"user_id": talk.user} if talk.user else None,
        "stream": talk.stream or None,
    }
    said = {name: value for name, value in body.items() if value not in (None, {}, [])}
    return msgspec.json.encode(said), tuple(dict.fromkeys(unsaid))


def _written_turns(items: Sequence[Item], unsaid: list[str]) -> tuple[list[Block], list[Block]]:
    """`system` and `messages`."""
    system: list[Block] = []
    turns: list[Block] = []
    begun = False
    for item in items:
        begun = begun or not (isinstance(item, Message) and item.role == "system")
        blocks = written_item(item, unsaid)
        if not begun:
            system += blocks
            continue
        by_model = isinstance(item, Reasoning | ToolCall) or (isinstance(item, Message) and item.role == "assistant")
        role = "assistant" if by_model else "user"
        if blocks and turns and turns[-1]["role"] == role:
            turns[-1]["content"] += blocks
        elif blocks:
            turns.append({"role": role, "content": blocks})
    if not turns or turns[0]["role"] == "assistant":
        turns.insert(0, {"role": "user", "content": [{"type": "text", "text": OPENING}]})
    for turn in turns:
        if turn["role"] == "user":
            turn["content"].sort(key=_after_results)
    last = turns[-1]["content"][-1]
    if turns[-1]["role"] == "assistant" and last["type"] == "text":
        last["text"] = last["text"].rstrip()
    return system, turns


def _after_results(block: Block) -> bool:
    return block["type"] != "tool_result"


def _written_tool(tool: Tool) -> Block:
    """A free-form tool has one parameter, `input`; its grammar is told in words, as there is no field for it."""
    written: Block = {"name": tool.name, "input_schema": tool.schema or {"type": "object"}}
    description = tool.description
    if tool.free_form:
        text = {"type": "string", "description": "All that the tool is given, as it is"}
        written["input_schema"] = {"type": "object", "properties": {"input": text}, "required": ["input"]}
        grammar = cast("dict[str, Json] | None", tool.grammar)
        if isinstance(grammar, dict) and "definition" in grammar:
            description += f"\n\nThe input keeps to this {grammar.get('syntax')} grammar:\n{grammar['definition']}"
    if description:
        written["description"] = description
    if tool.strict is not None and not tool.free_form:
        written["strict"] = tool.strict
    return written


def _written_choice(talk: Talk, unsaid: list[str]) -> Block | None:
    choice = talk.choice or Choice("auto")
    if not talk.tools:
        if choice.mode == "required":
            unsaid.append("tool_choice")
        return None
    if choice.mode == "none":
        return {"type": "none"}
    written: Block = {"type": "auto"}
    if choice.mode == "required":
        written = {"type": "tool", "name": choice.name} if choice.name else {"type": "any"}
    if talk.parallel_calls is False:
        written["disable_parallel_tool_use"] = True
    return written if talk.choice or talk.parallel_calls is False else None


def _version(model: str) -> tuple[int, int] | None:
    """Of a Claude model, whoever serves it; None: it is another maker's."""
    found = _VERSION.search(model)
    if found:
        return int(found[1]), int(found[2] or 0)
    return _LATEST if "claude" in model else None


def _written_thinking(talk: Talk, most: int, turns: Sequence[Block], unsaid: list[str]) -> tuple[Block | None, str]:
    """`thinking` and `output_config.effort`."""
    tokens, effort = talk.thinking_tokens, talk.effort
    if tokens is None and not effort:
        return None, ""
    if tokens == 0 or (tokens is None and effort == "none"):
        return {"type": "disabled"}, ""
    effort = "low" if effort == "minimal" else effort.replace("none", "")
    version = _version(talk.model)
    adaptive = version is not None and version >= _ADAPTIVE_SINCE
    if version is None or version < (_NO_BUDGET_SINCE if tokens else _ADAPTIVE_SINCE):
        budget = _budget(tokens or BUDGETS.get(talk.effort, 0), most)
        if budget and _may_have_budget(talk, turns):
            implied = not adaptive or effort == _effort_of(budget)
            return {"type": "enabled", "budget_tokens": budget}, "" if implied else effort
    if adaptive:
        # Since 4.7 nothing is shown of the thinking unless one asks for it: there would be no reasoning to translate.
        return {"type": "adaptive", "display": "summarized"}, effort or _effort_of(tokens or 0)
    unsaid.append("thinking" if tokens else "effort")
    return None, ""


def _budget(asked: int, most: int) -> int:
    """Below `max_tokens`, which it counts towards; else half of that, so that there is room for an answer. 0: no room."""
    budget = max(asked, BUDGET_LEAST)
    budget = budget if budget < most else most // 2
    return budget if asked and budget >= BUDGET_LEAST else 0


def _may_have_budget(talk: Talk, turns: Sequence[Block]) -> bool:
    if talk.choice is not None and talk.choice.mode == "required" and talk.tools:
        return False
    start = len(turns) - 1
    while start >= 2 and turns[start]["content"][0]["type"] == "tool_result":
        start -= 2
    begins = [turn["content"][0]["type"] for turn in turns[start:] if turn["role"] == "assistant"]
    return not begins or begins[0] in ("thinking", "redacted_thinking")


def _written_sampling(talk: Talk, *, thinks: bool, unsaid: list[str]) -> Block:
    temperature = None if talk.temperature is None else min(max(talk.temperature, 0), 1)
    asked: Block = {"temperature": temperature, "top_p": talk.top_p, "top_k": talk.top_k}
    version = _version(talk.model)
    refused: set[str] = set()
    if version is not None and version >= _NO_SAMPLING_SINCE:
        refused |= set(asked)
    if thinks:
        refused.add("top_k")
        refused |= {"temperature"} if temperature != 1 else set()
        refused |= {"top_p"} if (talk.top_p or 0) < _TOP_P_LEAST else set()
    if version is not None and temperature is not None and "temperature" not in refused:
        refused.add("top_p")
    unsaid += [name for name, value in asked.items() if value is not None and name in refused]
    return {name: value for name, value in asked.items() if name not in refused}
