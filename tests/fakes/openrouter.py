"""OpenRouter as its API reference describes it, on a real port: catalogue, key, chat plain and streamed, and its ways to refuse.

async with FakeOpenRouter([entry("a/b", "0.000001", "0.000002")]) as router:
    router.base_url                    # ".../api/v1", as an operator writes it
    router.refusal = Refusal(429, "slow down", {"retry-after": "7"})
    router.upstream.requests           # the journal
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self, cast

from tests.fakes.upstream import Exchange, FakeUpstream

PROCESSING = b": OPENROUTER PROCESSING\n\n"
KEY = "sk-or-v1-0123456789abcdef"

Entry = dict[str, Any]


def entry(
    name: str,
    prompt: str | None = "0.000001",
    completion: str | None = "0.000002",
    *,
    inputs: Sequence[str] = ("text",),
    outputs: Sequence[str] = ("text",),
    parameters: Sequence[str] = ("max_tokens", "temperature"),
    pricing: Mapping[str, object] | None = None,
    **more: object,
) -> Entry:
    """One entry of the catalogue; prices are strings, in USD per token."""
    prices = {"prompt": prompt, "completion": completion, "request": "0", "image": "0", **(pricing or {})}
    return {
        "id": name,
        "canonical_slug": name.partition(":")[0],
        "name": name.title(),
        "created": 1_700_000_000,
        "description": f"The model {name}.",
        "context_length": 8192,
        "architecture": {
            "modality": "text->text",
            "input_modalities": list(inputs),
            "output_modalities": list(outputs),
            "tokenizer": "Other",
            "instruct_type": None,
        },
        "pricing": {word: price for word, price in prices.items() if price is not None},
        "top_provider": {"context_length": 8192, "max_completion_tokens": 4096, "is_moderated": False},
        "per_request_limits": None,
        "supported_parameters": list(parameters),
        "default_parameters": None,
        **more,
    }


@dataclass
class Refusal:
    """An error as a whole answer: `{"error": {"code", "message"}}` with the code as its status."""

    status: int
    message: str
    headers: dict[str, str] = field(default_factory=dict[str, str])


class FakeOpenRouter:
    """Change its attributes at any time; `upstream` is the server behind it.

    Args:
        entries: the catalogue; anything JSON can write, so that an entry may be broken.
        page: entries per page; 0: all at once.
    """

    def __init__(self, entries: Sequence[object] = (), *, page: int = 0) -> None:
        self.entries: list[Any] = list(entries)
        self.page = page
        self.key_info: dict[str, object] = {
            "label": "production",
            "limit": 5,
            "limit_remaining": 4.8984355238,
            "usage": 0.1015644762,
            "is_free_tier": False,
        }
        self.refusal: Refusal | None = None  # of everything
        self.stream: list[bytes] | None = None  # a streamed answer's chunks; None: comments, two words and the end
        self.upstream = FakeUpstream()
        self.upstream.script(self._answer)

    @property
    def base_url(self) -> str:
        return f"{self.upstream.base_url}/api/v1"

    def asked(self, path: str) -> int:
        """How often, whatever the query."""
        return sum(request.path.partition("?")[0] == path for request in self.upstream.requests)

    async def __aenter__(self) -> Self:
        await self.upstream.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.upstream.__aexit__(*exc_info)

    async def _answer(self, exchange: Exchange) -> None:
        await exchange.body()
        path, _, query = exchange.request.path.partition("?")
        authorised = exchange.request.header("authorization") == f"Bearer {KEY}"
        if self.refusal is not None:
            refusal = self.refusal
            await _refuse(exchange, refusal.status, refusal.message, refusal.headers)
        elif path == "/api/v1/models":
            await exchange.answer(200, self._models(query))
        elif not authorised:
            await _refuse(exchange, 401, "No auth credentials found")
        elif path == "/api/v1/key":
            await exchange.answer(200, {"data": self.key_info})
        elif path != "/api/v1/chat/completions":
            await _refuse(exchange, 404, f"no such path: {path}")
        elif exchange.request.json().get("stream"):
            await self._stream(exchange)
        else:
            await exchange.answer(200, _completion(exchange.request.json()))

    def _models(self, query: str) -> dict[str, object]:
        if not self.page:
            return {"data": self.entries}
        words = dict(word.split("=") for word in query.split("&"))
        start = int(words.get("offset", "0"))
        end = start + self.page
        more = f"/api/v1/models?offset={end}&limit={self.page}" if end < len(self.entries) else None
        return {"data": self.entries[start:end], "links": {"next": more}, "total_count": len(self.entries)}

    async def _stream(self, exchange: Exchange) -> None:
        await exchange.start_stream()
        for chunk in usual_stream() if self.stream is None else self.stream:
            await exchange.chunk(chunk)
        await exchange.end()


def usual_stream() -> list[bytes]:
    """Two comments while nobody has answered, then two words, the usage and the end."""
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5, "cost": 0.000007}
    return [
        PROCESSING,
        PROCESSING,
        word_event("Hello"),
        PROCESSING + word_event(" there"),
        _event({**_COMMON, "choices": [], "usage": usage}),
        b"data: [DONE]\n\n",
    ]


def word_event(text: str) -> bytes:
    """One content chunk."""
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None, "native_finish_reason": None}
    return _event({**_COMMON, "choices": [choice]})


def error_event() -> bytes:
    """What a stream says where the provider behind it fails in the middle; it ends after it, with the status still 200."""
    error = {"code": "server_error", "message": "Provider disconnected unexpectedly"}
    choice = {"index": 0, "delta": {"content": ""}, "finish_reason": "error"}
    return _event({**_COMMON, "error": error, "choices": [choice]})


_COMMON: dict[str, object] = {
    "id": "gen-fake",
    "object": "chat.completion.chunk",
    "created": 1_700_000_000,
    "model": "a/b",
    "provider": "Fake",
}


def _event(payload: object) -> bytes:
    return b"data: " + json.dumps(payload).encode() + b"\n\n"


def _completion(asked: Mapping[str, object]) -> dict[str, object]:
    choice = {"index": 0, "message": {"role": "assistant", "content": "Hello there"}, "finish_reason": "stop"}
    common = {**_COMMON, "object": "chat.completion", "model": cast(str, asked.get("model"))}
    return {**common, "choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}}


async def _refuse(exchange: Exchange, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
    await exchange.answer(status, {"error": {"code": status, "message": message}}, headers)
