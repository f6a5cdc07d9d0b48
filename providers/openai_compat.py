"""Any OpenAI-compatible API: one endpoint, its own key, names passed on as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast
from urllib.parse import urlsplit

import msgspec

from config.schema import ProviderConfig

from .contract import Offer, Request, Response
from .errors import UpstreamBroke, UpstreamRefused
from .llama_routes import LLAMA_SERVER_ROUTES
from .openai_models import Entry, ModelList, is_roundhouse, offers_of
from .remote import Remote, Site, bearer

_VERSION = "/v1"  # what the paths of our own API begin with, and mostly the upstream's
_LISTED = cast("type[ModelList | list[Entry]]", ModelList | list[Entry])


class OpenAICompat(Remote):
    """Kind `openai`.

    Args:
        config: `base_url` as OpenAI's SDKs take it, in one of three forms: a host; a path that ends with /v1; any other path,
            which then stands where others have /v1 ("https://host/v1beta/openai").
    """

    kind = "openai"
    routes: frozenset[bytes] | None = None

    def __init__(self, name: str, config: ProviderConfig, _: Site) -> None:
        url = config.base_url.rstrip("/")
        root = url.removesuffix(_VERSION)
        super().__init__(name, config, base_url=root, headers=bearer(config))
        self._models = config.models
        self._preset = config.preset
        if config.preset == "llama_server":
            self.routes = LLAMA_SERVER_ROUTES
        self._models_path = f"{_VERSION}/models"
        if root == url and urlsplit(url).path:
            self._models_path = "/models"
            self.send = self._send_below  # decided once: the usual upstreams pay nothing for the third form

    async def catalogue(self) -> Sequence[Offer]:
        """The configured names, else what the upstream lists. Raises: ProviderError."""
        if self._models:
            return [Offer(name=name, price=self.prices.get(name)) for name in self._models]
        try:
            listed = await self.ask("GET", self._models_path, _LISTED)
        except UpstreamRefused as refused:
            if refused.status != 404:
                raise
            advice = f"is base_url right? If it has no list of models, name them in providers.{self.name}.models"
            raise UpstreamRefused(
                f"{refused.message}: {advice}", source=self.name, status=refused.status, body=refused.body
            ) from None
        if self._preset and is_roundhouse(listed):
            raise UpstreamBroke(
                f"{self.name} is a Roundhouse, and not {self._preset}: to chain them leave the preset out",
                source=self.name,
            )
        return offers_of(listed, self.prices)

    async def _send_below(self, request: Request) -> Response:
        path = request.path.removeprefix(_VERSION.encode())
        return await self.endpoint.send(msgspec.structs.replace(request, path=path))
