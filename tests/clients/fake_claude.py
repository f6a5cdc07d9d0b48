"""Anthropic's API with a mind: tools, schemas, pictures and thoughts, plain and streamed, over `tests.fakes.anthropic`.

Law: it is strict, as that one is. Turns alternate, every tool_use is answered in the very next turn, max_tokens is there.

Source: Anthropic's API reference (messages, streaming, tool use, structured outputs).
"""

from __future__ import annotations

import json
from typing import Any, cast

from tests.clients.mind import Answer, Asked, Json, Tool, answer, listed, pieces, under
from tests.fakes.anthropic import FakeAnthropic, refuse
from tests.fakes.upstream import Exchange

_FIELDS = frozenset(
    [
        "model",
        "messages",
        "max_tokens",
        "system",
        "stream",
        "tools",
        "tool_choice",
        "stop_sequences",
        "temperature",
        "top_p",
        "top_k",
        "metadata",
        "thinking",
        "output_config",
        "service_tier",
    ]
)


class FakeClaude(FakeAnthropic):
    """Answers with `mind`."""

    async def _message(self, exchange: Exchange, asked: Json) -> None:
        try:
            if "max_tokens" not in asked:
                raise _NotTaken("max_tokens: Field required")
            unknown = sorted(asked.keys() - _FIELDS)
            if unknown:
                raise _NotTaken(f"{unknown[0]}: Extra inputs are not permitted")
            said = answer(_asked_of(asked))
        except _NotTaken as error:
            await refuse(exchange, 400, str(error))
            return
        message = {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": asked["model"],
            "stop_sequence": None,
        }
        if asked.get("stream"):
            await _stream(exchange, message, said)
            return
        content = [block for block, _ in _blocks(said)]
        ended = {"content": content, "stop_reason": _ended(said), "usage": _usage(said)}
        await exchange.answer(200, {**message, **ended})


class _NotTaken(Exception):
    """str() says why."""


def _asked_of(body: Json) -> Asked:
    asked = Asked("", max_tokens=body["max_tokens"], stop=body.get("stop_sequences") or [])
    asked.thinking = under(body, "thinking").get("type", "disabled") != "disabled"
    owed: set[str] = set()
    role = "assistant"
    for number, message in enumerate(body["messages"]):
        if message["role"] == role or message["role"] not in ("user", "assistant"):
            raise _NotTaken(f"messages.{number}: roles must alternate")
        role = message["role"]
        content = message["content"]
        blocks = cast("list[Json]", [{"type": "text", "text": content}] if isinstance(content, str) else content)
        owed = _turn(asked, role, blocks, owed)
    for tool in listed(body, "tools"):
        asked.tools.append(Tool(tool["name"], tool["input_schema"]))
    choice = body.get("tool_choice") or {"type": "auto"}
    asked.choice = {"any": "required", "tool": choice.get("name", "")}.get(choice["type"], choice["type"])
    asked.parallel = not choice.get("disable_parallel_tool_use")
    wanted = under(under(body, "output_config"), "format")
    if wanted:
        asked.schema = wanted["schema"]
    return asked


def _turn(asked: Asked, role: str, blocks: list[Json], owed: set[str]) -> set[str]:
    """What this turn says; gives back the calls that the next one has to answer."""
    if not blocks or any(block["type"] == "text" and not block["text"] for block in blocks):
        raise _NotTaken("messages: text content blocks must be non-empty")
    if role == "assistant":
        return {block["id"] for block in blocks if block["type"] == "tool_use" and isinstance(block["input"], dict)}
    answered = {block["tool_use_id"] for block in blocks if block["type"] == "tool_result"}
    if answered != owed:
        raise _NotTaken("messages: each tool_use must have its tool_result in the next message")
    texts = [block["text"] for block in blocks if block["type"] == "text"]
    if texts:
        asked.said, asked.results, asked.pictures = " ".join(texts), [], 0
    asked.pictures += sum(block["type"] == "image" for block in blocks)
    for block in blocks:
        if block["type"] == "tool_result":
            inner = block.get("content") or ""
            asked.results.append(inner if isinstance(inner, str) else " ".join(each["text"] for each in inner))
    return set()


def _blocks(said: Answer) -> list[tuple[Json, list[Json]]]:
    """Each block as it stands in a whole answer, and its deltas in a stream."""
    blocks: list[tuple[Json, list[Json]]] = []
    if said.thoughts:
        deltas: list[Json] = [{"type": "thinking_delta", "thinking": piece} for piece in pieces(said.thoughts)]
        seal: Json = {"type": "signature_delta", "signature": "sealed"}
        blocks.append(({"type": "thinking", "thinking": said.thoughts, "signature": "sealed"}, [*deltas, seal]))
    if said.text:
        deltas = [{"type": "text_delta", "text": piece} for piece in said.tokens]
        blocks.append(({"type": "text", "text": said.text}, deltas))
    for call in said.calls:
        block = {"type": "tool_use", "id": call.id, "name": call.name, "input": json.loads(call.arguments)}
        blocks.append((block, [{"type": "input_json_delta", "partial_json": each} for each in pieces(call.arguments)]))
    return blocks


_EMPTY: dict[str, Json] = {
    "thinking": {"thinking": "", "signature": ""},
    "text": {"text": ""},
    "tool_use": {"input": {}},
}


async def _stream(exchange: Exchange, message: Json, said: Answer) -> None:
    begun: Json = {**message, "content": [], "stop_reason": None, "usage": {**_usage(said), "output_tokens": 1}}
    await exchange.start_stream()
    await _event(exchange, "message_start", message=begun)
    for index, (block, deltas) in enumerate(_blocks(said)):
        await _event(exchange, "content_block_start", index=index, content_block={**block, **_EMPTY[block["type"]]})
        await _event(exchange, "ping")
        for delta in deltas:
            await _event(exchange, "content_block_delta", index=index, delta=delta)
        await _event(exchange, "content_block_stop", index=index)
    ended = {"stop_reason": _ended(said), "stop_sequence": None}
    await _event(exchange, "message_delta", delta=ended, usage={"output_tokens": _usage(said)["output_tokens"]})
    await _event(exchange, "message_stop")
    await exchange.end()


async def _event(exchange: Exchange, kind: str, **fields: Any) -> None:
    data = json.dumps({"type": kind, **fields})
    await exchange.chunk(f"event: {kind}\ndata: {data}\n\n".encode())


def _ended(said: Answer) -> str:
    return {"stop": "end_turn", "length": "max_tokens", "tools": "tool_use"}[said.ended]


def _usage(said: Answer) -> Json:
    count = len(said.tokens) + sum(len(pieces(call.arguments)) for call in said.calls)
    return {"input_tokens": 7, "output_tokens": count, "cache_read_input_tokens": 2, "cache_creation_input_tokens": 0}
