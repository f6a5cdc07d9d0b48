"""Any OpenAI-compatible API: one endpoint, its own key, names passed on as they are.

The caller's key never goes here; this provider's own does, and it stands only in the endpoint's header fields.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence

import msgspec

from config.schema import ProviderConfig

from .contract import Loader, Offer, Request, Response
from .errors import UpstreamBroke, UpstreamUnreachable
from .transport import Endpoint

# A catalogue of several hundred models with descriptions is about 1 MB.
CATALOGUE_MAX_BYTES = 16 << 20
CATALOGUE_TIMEOUT_S = 10.0


class _Entry(msgspec.Struct):
    id: str


class _List(msgspec.Struct):
    data: list[_Entry]


class OpenAICompat:
    """Kind `openai`.

    Args:
        config: `base_url` as OpenAI's SDKs take it, with or without its `/v1`.
    """

    kind = "openai"
    loader: Loader | None = None

    def __init__(self, name: str, config: ProviderConfig) -> None:
        self.name = name
        self._models = config.models
        key = config.api_key
        self._endpoint = Endpoint(
            config.base_url.removesuffix("/v1"),
            source=name,
            headers=() if key is None else ((b"authorization", b"Bearer " + key.reveal().encode()),),
            connect_timeout_s=config.connect_timeout_s,
            ssl_context=ssl.create_default_context() if config.base_url.startswith("https:") else None,
        )

    async def catalogue(self) -> Sequence[Offer]:
        """The configured names, else what `GET /v1/models` lists. Raises: ProviderError."""
        if self._models:
            return [Offer(name=name) for name in self._models]
        request = Request(
            method=b"GET",
            path=b"/v1/models",
            headers=((b"accept", b"application/json"),),
            body=b"",
            first_byte_s=CATALOGUE_TIMEOUT_S,
            idle_s=CATALOGUE_TIMEOUT_S,
        )
        response = await self._endpoint.send(request)
        try:
            if response.status != 200:
                raise UpstreamUnreachable(
                    f"{self.name} answered its catalogue with {response.status}", source=self.name
                )
            body = await response.read(CATALOGUE_MAX_BYTES)
            return [Offer(name=entry.id) for entry in msgspec.json.decode(body, type=_List).data]
        except msgspec.MsgspecError as error:
            raise UpstreamBroke(f"{self.name}'s catalogue is not OpenAI's list: {error}", source=self.name) from None
        finally:
            response.close()

    async def send(self, request: Request) -> Response:
        """Raises: UpstreamUnreachable, UpstreamTimeout, UpstreamBroke."""
        return await self._endpoint.send(request)

    async def aclose(self) -> None:
        await self._endpoint.aclose()
