"""Any OpenAI-compatible API: one endpoint, its own key, names passed on as they are."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from config.schema import ProviderConfig

from .contract import Offer
from .remote import Remote, Site, bearer


class _Entry(msgspec.Struct):
    id: str
    created: int = 0
    max_model_len: int | None = None  # vLLM, SGLang
    context_length: int | None = None  # Together, and others
    context_window: int | None = None  # Groq


class _List(msgspec.Struct):
    data: list[_Entry]


class OpenAICompat(Remote):
    """Kind `openai`.

    Args:
        config: `base_url` as OpenAI's SDKs take it, with or without its `/v1`.
    """

    kind = "openai"

    def __init__(self, name: str, config: ProviderConfig, _: Site) -> None:
        super().__init__(name, config, base_url=config.base_url.removesuffix("/v1"), headers=bearer(config))
        self._models = config.models

    async def catalogue(self) -> Sequence[Offer]:
        """The configured names, else what `GET /v1/models` lists. Raises: ProviderError."""
        if self._models:
            return [Offer(name=name, price=self.prices.get(name)) for name in self._models]
        listed = await self.ask("GET", "/v1/models", _List)
        return [
            Offer(
                name=entry.id,
                created=entry.created,
                context_length=entry.max_model_len or entry.context_length or entry.context_window,
                price=self.prices.get(entry.id),
            )
            for entry in listed.data
        ]
