"""Anthropic's API for tests, as documented: models page by page, messages plain and streamed, token counts, its error envelope.

Law: it is strict. A request without the version of the API, without the key, or to another path is refused as the original does.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qs

from .upstream import Exchange, FakeUpstream

VERSION = "2023-06-01"
_TYPES = {400: "invalid_request_error", 401: "authentication_error", 404: "not_found_error", 529: "overloaded_error"}
_SUPPORTED = {"supported": True}


def model(name: str, **fields: object) -> dict[str, object]:
    """One entry of the list of models."""
    usual = {"type": "model", "id": name, "display_name": name.title(), "created_at": "2025-02-19T00:00:00Z"}
    return {**usual, **fields}


SEEING = model(
    "claude-seeing",
    max_input_tokens=200_000,
    max_tokens=64_000,
    capabilities={
        "batch": _SUPPORTED,
        "image_input": _SUPPORTED,
        "structured_outputs": {"supported": False},
        "thinking": {"supported": True, "types": {"adaptive": _SUPPORTED, "enabled": {"supported": False}}},
    },
)


class FakeAnthropic(FakeUpstream):
    """Args: key: what x-api-key must hold; page_max: models on one page, whatever `limit` asks for."""

    def __init__(
        self,
        *,
        key: str = "sk-ant-test",
        models: Sequence[dict[str, object]] = (SEEING, model("claude-plain")),
        page_max: int = 1000,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__(ssl_context=ssl_context)
        self.key = key
        self.models = list(models)
        self.page_max = page_max
        self.script(self._speak)

    async def _speak(self, exchange: Exchange) -> None:
        await exchange.body()
        request = exchange.request
        path, _, query = request.path.partition("?")
        if request.header("x-api-key") != self.key:
            await refuse(exchange, 401, "invalid x-api-key")
        elif request.header("anthropic-version") is None:
            await refuse(exchange, 400, "anthropic-version: header is required")
        elif (request.method, path) == ("GET", "/v1/models"):
            await self._list(exchange, parse_qs(query))
        elif (request.method, path) == ("POST", "/v1/messages/count_tokens"):
            await exchange.answer(200, {"input_tokens": 7})
        elif (request.method, path) == ("POST", "/v1/messages"):
            await self._message(exchange, request.json())
        else:
            await refuse(exchange, 404, f"Not found: {path}")

    async def _list(self, exchange: Exchange, query: dict[str, list[str]]) -> None:
        names = [str(entry["id"]) for entry in self.models]
        after = query.get("after_id", [""])[0]
        begin = names.index(after) + 1 if after else 0
        end = begin + min(self.page_max, int(query.get("limit", ["20"])[0]))
        page = self.models[begin:end]
        first, last = (page[0]["id"], page[-1]["id"]) if page else (None, None)
        body = {"data": page, "has_more": end < len(names), "first_id": first, "last_id": last}
        await exchange.answer(200, body)

    async def _message(self, exchange: Exchange, asked: dict[str, Any]) -> None:
        if "max_tokens" not in asked:
            await refuse(exchange, 400, "max_tokens: Field required")
            return
        message: dict[str, object] = {
            "id": "msg_fake",
            "type": "message",
            "role": "assistant",
            "model": asked["model"],
            "stop_sequence": None,
        }
        usage = {"input_tokens": 7, "output_tokens": self.events}
        words = [f"w{number} " for number in range(self.events)]
        if asked.get("stream"):
            await self._stream(exchange, message, words)
            return
        content = [{"type": "text", "text": "".join(words)}]
        await exchange.answer(200, {**message, "content": content, "stop_reason": "end_turn", "usage": usage})

    async def _stream(self, exchange: Exchange, message: dict[str, object], words: list[str]) -> None:
        start: dict[str, object] = {
            **message,
            "content": [],
            "stop_reason": None,
            "usage": {"input_tokens": 7, "output_tokens": 1},
        }
        await exchange.start_stream()
        await _event(exchange, "message_start", message=start)
        await _event(exchange, "content_block_start", index=0, content_block={"type": "text", "text": ""})
        await _event(exchange, "ping")
        for word in words:
            await _event(exchange, "content_block_delta", index=0, delta={"type": "text_delta", "text": word})
        await _event(exchange, "content_block_stop", index=0)
        ended = {"stop_reason": "end_turn", "stop_sequence": None}
        await _event(exchange, "message_delta", delta=ended, usage={"output_tokens": len(words)})
        await _event(exchange, "message_stop")
        await exchange.end()


async def refuse(exchange: Exchange, status: int, message: str) -> None:
    """An error in Anthropic's envelope."""
    error = {"type": _TYPES.get(status, "api_error"), "message": message}
    await exchange.answer(status, {"type": "error", "error": error, "request_id": "req_fake"})


async def _event(exchange: Exchange, kind: str, **fields: object) -> None:
    """With its name in a line of its own, and again in the data."""
    data = json.dumps({"type": kind, **fields})
    await exchange.chunk(f"event: {kind}\ndata: {data}\n\n".encode())
