"""An upstream that speaks OpenAI's older half: chat, completions, embeddings, sound, pictures; neither Responses nor Messages.

Law: it is strict. A wrong key, an unknown model, a field the original does not know, a tool's result that nobody asked for:
refused. So whatever a client gets through here, the gateway has worded well.

Source: OpenAI's API reference (chat, completions, embeddings, audio, images, moderations); llama.cpp, tools/server/README.md
(rerank, tokenize, reasoning_content).
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import struct
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, cast

from tests.clients import fake_media
from tests.clients.mind import Answer, Asked, Json, Tool, answer, listed, pieces, under
from tests.fakes.upstream import Exchange, FakeUpstream

KEY = "sk-upstream"
MODELS = ("mind-1", "mind-thinking", "embed-1", "speak-1", "listen-1", "paint-1", "guard-1", "rank-1", "write-1")
DIMENSIONS = 8

_CHAT_FIELDS = frozenset(
    [
        "model",
        "messages",
        "stream",
        "stream_options",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "response_format",
        "stop",
        "max_tokens",
        "max_completion_tokens",
        "temperature",
        "top_p",
        "n",
        "seed",
        "user",
        "logprobs",
        "top_logprobs",
        "presence_penalty",
        "frequency_penalty",
        "logit_bias",
        "reasoning_effort",
        "metadata",
        "store",
        "service_tier",
        "modalities",
        "prompt_cache_key",
        "safety_identifier",
        "verbosity",
    ]
)
_COMPLETION_FIELDS = frozenset(
    ["model", "prompt", "suffix", "stream", "stream_options", "stop", "max_tokens", "temperature", "top_p", "n", "seed"]
)
_EMBEDDING_FIELDS = frozenset(["model", "input", "encoding_format", "dimensions", "user"])
_ROLES = frozenset(("system", "developer", "user", "assistant", "tool"))


class Refused(Exception):
    """What it does not take."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.error = {"message": message, "type": "invalid_request_error", "param": param, "code": code}


class FakeOpenAI(FakeUpstream):
    """Answers with `mind`. GET /journal tells what it has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.script(self._speak)
        self._routes: Mapping[str, Callable[[Exchange, Json], Awaitable[None]]] = {
            "/v1/chat/completions": chat,
            "/v1/completions": completions,
            "/v1/embeddings": embeddings,
            "/v1/moderations": fake_media.moderations,
            "/v1/rerank": fake_media.rerank,
            "/tokenize": fake_media.tokenize,
            "/detokenize": fake_media.detokenize,
            "/v1/audio/speech": fake_media.speech,
            "/v1/images/generations": fake_media.generations,
        }

    async def _speak(self, exchange: Exchange) -> None:
        body = await exchange.body()
        request = exchange.request
        path = request.path.partition("?")[0]
        try:
            if path == "/journal":
                seen = [f"{each.method} {each.path}" for each in self.requests]
                await exchange.answer(200, {"in_flight": self.in_flight - 1, "aborted": self.aborted, "seen": seen})
            elif request.header("authorization") != f"Bearer {KEY}":
                raise Refused(401, "Incorrect API key provided", code="invalid_api_key")
            elif (request.method, path) == ("GET", "/v1/models"):
                models = [
                    {"id": name, "object": "model", "created": 1_700_000_000, "owned_by": "us"} for name in MODELS
                ]
                await exchange.answer(200, {"object": "list", "data": models})
            elif request.method == "POST" and path in fake_media.FORMS:
                await fake_media.FORMS[path](exchange, fake_media.form_of(request.header("content-type"), body))
            elif request.method == "POST" and path in self._routes:
                await self._routes[path](exchange, _known(request.json()))
            else:
                raise Refused(404, f"Invalid URL ({request.method} {path})")
        except Refused as refused:
            await exchange.answer(refused.status, {"error": refused.error})
        except fake_media.NotTaken as error:
            refused = Refused(400, str(error))
            await exchange.answer(400, {"error": refused.error})


def _known(body: Json) -> Json:
    if body.get("model") not in MODELS:
        message = f"The model '{body.get('model')}' does not exist"
        raise Refused(404, message, param="model", code="model_not_found")
    return body


def _no_others(body: Json, known: frozenset[str]) -> None:
    unknown = sorted(body.keys() - known)
    if unknown:
        raise Refused(400, f"Unrecognized request argument supplied: {', '.join(unknown)}", param=unknown[0])


def asked_of(body: Json) -> Asked:
    """What a chat request asks. Raises: Refused."""
    asked = Asked("", thinking=body["model"] == "mind-thinking")
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise Refused(400, "'messages' must be a list with one message at least", param="messages")
    owed: set[str] = set()
    for number, message in enumerate(cast("list[Json]", messages)):
        role = message.get("role")
        if role not in _ROLES:
            raise Refused(400, f"Invalid role {role!r}", param=f"messages[{number}].role")
        if role == "tool":
            if message.get("tool_call_id") not in owed:
                raise Refused(
                    400, "a tool's message answers a call that was made just before", param=f"messages[{number}]"
                )
            owed.discard(message["tool_call_id"])
            asked.results.append(_text(message.get("content"), asked))
            continue
        if owed:
            raise Refused(400, f"tool calls were not answered: {', '.join(sorted(owed))}", param=f"messages[{number}]")
        if role == "assistant":
            owed = {_checked(call)["id"] for call in listed(message, "tool_calls")}
            if not owed and message.get("content") is None:
                raise Refused(400, "an assistant's message has content or tool calls", param=f"messages[{number}]")
        elif role == "user":
            asked.pictures, asked.results = 0, []
            asked.said = _text(message.get("content"), asked)
    asked.tools = [_tool(tool, number) for number, tool in enumerate(listed(body, "tools"))]
    _choose(asked, body)
    stop: Any = body.get("stop") or []
    asked.stop = [stop] if isinstance(stop, str) else stop
    asked.max_tokens = body.get("max_completion_tokens") or body.get("max_tokens")
    return asked


def _choose(asked: Asked, body: Json) -> None:
    choice: Any = body.get("tool_choice") or "auto"
    if choice != "auto" and choice != "none" and not asked.tools:
        raise Refused(400, "'tool_choice' is only allowed when 'tools' are specified", param="tool_choice")
    asked.choice = choice["function"]["name"] if isinstance(choice, dict) else choice
    asked.parallel = body.get("parallel_tool_calls") is not False
    wanted = under(body, "response_format")
    if wanted.get("type") == "json_schema":
        asked.schema = wanted["json_schema"]["schema"]
        if not wanted["json_schema"].get("name"):
            raise Refused(400, "Missing required parameter", param="response_format.json_schema.name")
    elif wanted.get("type") == "json_object":
        asked.schema = cast("Json", {})


def _checked(call: Json) -> Json:
    if call.get("type") != "function" or not isinstance(call["function"].get("arguments"), str):
        raise Refused(400, "a tool call is a function with its arguments as text", param="tool_calls")
    return call


def _tool(tool: Json, number: int) -> Tool:
    if tool.get("type") != "function" or not tool.get("function", {}).get("name"):
        raise Refused(400, "a tool is a function with a name", param=f"tools[{number}]")
    return Tool(tool["function"]["name"], tool["function"].get("parameters") or {})


def _text(content: object, asked: Asked) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    texts: list[str] = []
    for part in cast("list[Json]", content):
        match part.get("type"):
            case "text":
                texts.append(part["text"])
            case "image_url":
                asked.pictures += 1
                url = part["image_url"]["url"]
                if not url.startswith(("http", "data:image/")):
                    raise Refused(400, "Invalid image URL", param="messages")
            case kind:
                raise Refused(400, f"Invalid content type {kind!r}", param="messages")
    return " ".join(texts)


async def chat(exchange: Exchange, body: Json) -> None:
    """POST /v1/chat/completions. "refuse with 429" is refused so, "go on" goes on until the caller has left."""
    _no_others(body, _CHAT_FIELDS)
    asked = asked_of(body)
    if asked.said.startswith("refuse with "):
        raise Refused(int(asked.said.removeprefix("refuse with ")), "Refused, as you wished", code="as_wished")
    if body.get("stream"):
        await _stream(exchange, body, asked)
        return
    choices = [_choice(index, answer(asked), body) for index in range(body.get("n") or 1)]
    await exchange.answer(200, {**_common(body, "chat.completion"), "choices": choices, "usage": _usage(answer(asked))})


def _choice(index: int, said: Answer, body: Json) -> Json:
    message: Json = {"role": "assistant", "content": said.text or None, "refusal": None}
    if said.thoughts:
        message["reasoning_content"] = said.thoughts
    if said.calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in said.calls
        ]
    logprobs = (
        {"content": [_logprob(token) for token in said.tokens], "refusal": None} if body.get("logprobs") else None
    )
    return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": _ended(said)}


def _ended(said: Answer) -> str:
    return "tool_calls" if said.ended == "tools" else said.ended


def _logprob(token: str) -> Json:
    return {"token": token, "logprob": -0.5, "bytes": list(token.encode()), "top_logprobs": []}


def _usage(said: Answer) -> Json:
    count = len(said.tokens) + sum(len(pieces(call.arguments)) for call in said.calls)
    thought = len(pieces(said.thoughts))
    return {
        "prompt_tokens": 7,
        "completion_tokens": count + thought,
        "total_tokens": 7 + count + thought,
        "prompt_tokens_details": {"cached_tokens": 2, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": thought, "audio_tokens": 0},
    }


def _common(body: Json, kind: str) -> Json:
    return {
        "id": "chatcmpl-1",
        "object": kind,
        "created": 1_700_000_000,
        "model": body["model"],
        "system_fingerprint": "fp",
    }


async def _stream(exchange: Exchange, body: Json, asked: Asked) -> None:
    common = _common(body, "chat.completion.chunk")
    counts = bool(under(body, "stream_options").get("include_usage"))

    async def say(delta: Json, ended: str | None = None, logprobs: Json | None = None) -> None:
        choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": ended}
        await exchange.event({**common, "choices": [choice], **({"usage": None} if counts else {})})

    await exchange.start_stream()
    await say({"role": "assistant", "content": "", "refusal": None})
    while asked.said == "go on":
        await say({"content": "and "})
        await asyncio.sleep(0.005)
    said = answer(asked)
    for piece in pieces(said.thoughts):
        await say({"reasoning_content": piece})
    for token in said.tokens:
        await say(
            {"content": token},
            logprobs={"content": [_logprob(token)], "refusal": None} if body.get("logprobs") else None,
        )
    for index, call in enumerate(said.calls):
        begun: Any = {
            "index": index,
            "id": call.id,
            "type": "function",
            "function": {"name": call.name, "arguments": ""},
        }
        await say({"tool_calls": [begun]})
        for piece in pieces(call.arguments):
            await say({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
    await say({}, _ended(said))
    if counts:
        await exchange.event({**common, "choices": [], "usage": _usage(said)})
    await exchange.event("[DONE]")
    await exchange.end()


async def completions(exchange: Exchange, body: Json) -> None:
    """POST /v1/completions."""
    _no_others(body, _COMPLETION_FIELDS)
    said = answer(Asked(str(body["prompt"]), max_tokens=body.get("max_tokens")))
    common = {**_common(body, "text_completion"), "id": "cmpl-1"}

    def choice(text: str, ended: str | None) -> Json:
        return {"index": 0, "text": text, "logprobs": None, "finish_reason": ended}

    if not body.get("stream"):
        await exchange.answer(200, {**common, "choices": [choice(said.text, said.ended)], "usage": _usage(said)})
        return
    await exchange.start_stream()
    for token in said.tokens:
        await exchange.event({**common, "choices": [choice(token, None)]})
    await exchange.event({**common, "choices": [choice("", said.ended)]})
    if under(body, "stream_options").get("include_usage"):
        await exchange.event({**common, "choices": [], "usage": _usage(said)})
    await exchange.event("[DONE]")
    await exchange.end()


def vector(text: object, dimensions: int) -> list[float]:
    """Of length 1, and only of this text."""
    raw = [byte - 127.5 for byte in hashlib.sha256(str(text).encode()).digest()[:dimensions]]
    length = sum(value * value for value in raw) ** 0.5
    return [struct.unpack("<f", struct.pack("<f", value / length))[0] for value in raw]


async def embeddings(exchange: Exchange, body: Json) -> None:
    """POST /v1/embeddings, as numbers or as base64 of little-endian floats."""
    _no_others(body, _EMBEDDING_FIELDS)
    given: Any = body.get("input")
    if not given:
        raise Refused(400, "'input' must not be empty", param="input")
    many = isinstance(given, list) and not isinstance(given[0], int)  # a list of numbers is one text, as tokens
    texts = cast("list[object]", given if many else [given])
    vectors = [vector(text, body.get("dimensions") or DIMENSIONS) for text in texts]
    packed: list[Any] = list(vectors)
    if body.get("encoding_format") == "base64":
        packed = [base64.b64encode(struct.pack(f"<{len(each)}f", *each)).decode() for each in vectors]
    data = [{"object": "embedding", "index": index, "embedding": each} for index, each in enumerate(packed)]
    usage = {"prompt_tokens": len(texts), "total_tokens": len(texts)}
    await exchange.answer(200, {"object": "list", "model": body["model"], "data": data, "usage": usage})
