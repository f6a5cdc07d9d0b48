"""Anthropic's API: /v1/messages passed through as it is, its list of models page by page.

The law: bodies and answers are not touched. The version of the API is the caller's, and ours only where the caller names none.

Source: Anthropic's API documentation (versioning; Models API: `limit`, `after_id`, `has_more`, `last_id`, `capabilities`).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import cast
from urllib.parse import quote

import msgspec

from config.presets import BY_KIND
from config.schema import ProviderConfig

from .contract import Offer, Request, Response
from .errors import UpstreamBroke
from .remote import Remote, Site

_VERSION = (b"anthropic-version", b"2023-06-01")  # the newest that its documentation names
_PAGE_MODELS = 1000  # the most it gives at once; there are some dozens
_PAGES_MAX = 5
_WORDS = {"image_input": "vision", "structured_outputs": "structured_output", "thinking": "reasoning"}


class _Model(msgspec.Struct):
    id: str
    display_name: str = ""
    created_at: str = ""
    max_input_tokens: int | None = None
    capabilities: object = None  # {"image_input": {"supported": true}, …}; other APIs of this form leave it out


class _Page(msgspec.Struct):
    data: list[_Model]
    has_more: bool = False
    last_id: str | None = None


class AnthropicProvider(Remote):
    """Kind `anthropic`.

    Args:
        config: `base_url` as Anthropic's SDKs take it: what stands before /v1; "" for Anthropic's own.
    """

    kind = "anthropic"
    routes: frozenset[bytes] | None = frozenset((b"/v1/messages", b"/v1/messages/count_tokens"))

    def __init__(self, name: str, config: ProviderConfig, _: Site) -> None:
        url = config.base_url or BY_KIND["anthropic"].base_url
        key = config.api_key
        headers = () if key is None else ((b"x-api-key", key.reveal().encode()),)
        super().__init__(name, config, base_url=url.rstrip("/").removesuffix("/v1"), headers=headers)
        self._models = config.models

    async def send(self, request: Request) -> Response:
        """As `Remote.send`; with our version of the API where the request names none."""
        for field in request.headers:
            if field[0] == b"anthropic-version":
                break
        else:
            request = msgspec.structs.replace(request, headers=(*request.headers, _VERSION))
        return await self.endpoint.send(request)

    async def catalogue(self) -> Sequence[Offer]:
        """The configured names, else all that the upstream lists. Raises: ProviderError."""
        if self._models:
            return [self._offer(_Model(name)) for name in self._models]
        offers: list[Offer] = []
        path = f"/v1/models?limit={_PAGE_MODELS}"
        after = ""
        for _ in range(_PAGES_MAX):
            page = await self.ask("GET", path + after, _Page, headers=(_VERSION,))
            offers += map(self._offer, page.data)
            if not page.has_more or not page.last_id:
                return offers
            after = f"&after_id={quote(page.last_id, safe='')}"
        raise UpstreamBroke(f"{self.name} lists models without end", source=self.name)

    def _offer(self, model: _Model) -> Offer:
        return Offer(
            name=model.id,
            context_length=model.max_input_tokens,
            capabilities=("chat", *(ours for theirs, ours in _WORDS.items() if _supported(model.capabilities, theirs))),
            price=self.prices.get(model.id),
            description=model.display_name,
            created=_seconds(model.created_at),
        )


def _supported(capabilities: object, what: str) -> bool:
    return _part(_part(capabilities, what), "supported") is True


def _part(table: object, key: str) -> object:
    return cast("dict[str, object]", table).get(key) if isinstance(table, dict) else None


def _seconds(date: str) -> int:
    """Since the epoch; 0 where it is no date, or one of no time zone."""
    try:
        moment = datetime.fromisoformat(date)
    except ValueError:
        return 0
    return 0 if moment.tzinfo is None else max(0, int(moment.timestamp()))
