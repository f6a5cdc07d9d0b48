"""OpenRouter: many vendors' models behind one key, with prices.

The law: nothing is shown that the filter forbids; when OpenRouter does not answer, its last catalogue stands in, and it can be
seen that it does. Prices and limits are exact. Its comments in streams reach nobody.

Source: OpenRouter's API reference (models, key, streaming, app attribution, model variants).
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import urlsplit

import msgspec

from config.schema import ProviderConfig

from . import price_filter
from .contract import Account, Offer, Request, Response
from .errors import ProviderError, UpstreamBroke, UpstreamKeyRefused
from .offer_cache import Kept, OfferCache
from .openrouter_stream import without_comments
from .openrouter_wire import KeyAnswer, Listing, choose, next_query, read_account, read_offers
from .price_filter import Settings
from .remote import Remote, Site, bearer

log = logging.getLogger("roundhouse.providers")

TITLE = "Roundhouse"
# Its present name and the one before, which it still takes. An app's page needs HTTP-Referer, too: that is the operator's.
_TITLE_FIELDS = ("x-openrouter-title", "x-title")
# Without `output_modalities` it lists only what writes text: no embeddings.
_MODELS = "/v1/models?output_modalities=all"
_PAGES_MAX = 20  # of 500 entries, as it pages today
_NAMES_LOGGED = 10


class OpenRouterProvider(Remote):
    """Kind `openrouter`. Without a key the catalogue works, and OpenRouter refuses what is sent.

    Args:
        config: `base_url` with or without its `/api` or `/api/v1`.
        environ: where the filter's variables are looked up; None: the process's own.
        clock: seconds since the epoch.
    """

    kind = "openrouter"
    # Those that may follow any name. `:free`, `:batch`, `:thinking` and `:extended` are entries of their own in the catalogue:
    # where a model has none, OpenRouter has nowhere to send such a request.
    variants = frozenset((":nitro", ":floor", ":exacto", ":online"))

    def __init__(
        self,
        name: str,
        config: ProviderConfig,
        site: Site,
        environ: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        base_url = api_base(config.base_url)
        super().__init__(name, config, base_url=base_url, headers=(*bearer(config), *_attribution(config)))
        self.trouble: ProviderError | None = None  # why the catalogue is an old one
        self._models = config.models
        self._clock = clock
        self._cache = OfferCache(site.state_dir, name, base_url, clock)
        self._kept: Kept | None = None
        self._filter, complaints = price_filter.settings_from(config, os.environ if environ is None else environ)
        self._filter_changed = False
        self._told: dict[str, object] = {}
        for complaint in complaints:
            log.warning("%s: %s", name, complaint)

    # ------------------------------------------------------------ the filter

    @property
    def filter(self) -> Settings:
        """What is shown."""
        return self._filter

    def set_filter(self, settings: Settings) -> None:
        """From the next `catalogue` on, which then asks nobody where a catalogue is at hand."""
        self._filter_changed = self._filter_changed or settings != self._filter
        self._filter = settings

    @property
    def listed(self) -> Sequence[Offer]:
        """All that OpenRouter lists, without filter and choice, as last seen; () before."""
        return () if self._kept is None else [self._priced(offer) for offer in self._kept.offers]

    # ------------------------------------------------------------ the catalogue

    @property
    def stale(self) -> bool:
        """Whether the catalogue is an old one, because OpenRouter did not give a new one."""
        return self.trouble is not None

    @property
    def cached_age_s(self) -> float | None:
        """How old it is then; None: it is OpenRouter's own answer to the last question."""
        return max(0.0, self._clock() - self._kept.at_s) if self.stale and self._kept is not None else None

    async def catalogue(self) -> Sequence[Offer]:
        """What is offered after choice and filter. Raises: ProviderError: no answer, and none kept; UpstreamKeyRefused always."""
        if self._filter_changed and self._kept is not None:
            self._filter_changed = False
            return self._shown(self._kept.offers)
        try:
            offers = await self._download()
        except UpstreamKeyRefused:
            raise
        except ProviderError as error:
            kept = self._kept or await asyncio.to_thread(self._cache.load)
            if kept is None:
                raise
            self._kept, self.trouble = kept, error
            self._tell("trouble", type(error), "%s: its last catalogue is used: %s", self.name, error.message)
        else:
            self._kept, self.trouble = Kept(tuple(offers), self._clock()), None
            self._told.pop("trouble", None)
            await self._keep(offers)
        self._filter_changed = False
        return self._shown(self._kept.offers)

    async def _download(self) -> list[Offer]:
        entries: list[msgspec.Raw] = []
        path = _MODELS
        for _ in range(_PAGES_MAX):
            listing = await self.ask("GET", path, Listing)
            entries += listing.data
            query = next_query(listing)
            if query is None or not listing.data or path.endswith(query):
                break
            path = f"/v1/models?{query}"
        offers, broken = read_offers(entries)
        if entries and not offers:
            raise UpstreamBroke(
                f"{self.name} answered GET /v1/models with entries that are no models: is base_url right?",
                source=self.name,
            )
        self._tell(
            "broken", broken, "%s: %d of its catalogue's entries make no sense and are left out", self.name, broken
        )
        return offers

    async def _keep(self, offers: Sequence[Offer]) -> None:
        if not offers:  # true or not, it is of no use later
            return
        try:
            await asyncio.to_thread(self._cache.save, offers)
        except OSError as error:
            self._tell("disk", error.errno, "%s: its catalogue cannot be kept: %s", self.name, error.strerror)

    def _shown(self, offers: Sequence[Offer]) -> Sequence[Offer]:
        chosen = choose(offers, self._models, self.variants) if self._models else offers
        shown = price_filter.apply([self._priced(offer) for offer in chosen], self._filter)
        if self._models:
            names = {offer.name for offer in shown}
            hidden = tuple(name for name in self._models if name not in names)
            words = ", ".join(hidden[:_NAMES_LOGGED])
            self._tell("hidden", hidden, "%s: configured, but hidden by its price filter: %s", self.name, words)
        return shown

    def _priced(self, offer: Offer) -> Offer:
        """With the operator's price where OpenRouter tells none."""
        if offer.price is None and (price := self.prices.get(offer.name)) is not None:
            return msgspec.structs.replace(offer, price=price)
        return offer

    def _tell(self, about: str, what: object, text: str, *words: object) -> None:
        """Say it once, and again when it has changed; nothing when there is nothing to say."""
        if self._told.get(about) != what:
            self._told[about] = what
            if what:
                log.warning(text, *words)

    # ------------------------------------------------------------ the rest

    async def account(self) -> Account:
        """Raises: ProviderError; UpstreamKeyRefused: we have no key, or it does not take ours."""
        answer = await self.ask("GET", "/v1/key", KeyAnswer)
        try:
            return read_account(answer)
        except ValueError as error:
            raise UpstreamBroke(f"{self.name} answered GET /v1/key with nonsense: {error}", source=self.name) from None

    async def send(self, request: Request) -> Response:
        """Raises: UpstreamUnreachable, UpstreamTimeout, UpstreamBroke."""
        return without_comments(await super().send(request))


def api_base(base_url: str) -> str:
    """What goes before our "/v1/…": of "https://openrouter.ai", with "/api" or "/api/v1" behind it or not, ".../api"."""
    url = base_url.rstrip("/")
    if url.endswith("/v1"):
        return url.removesuffix("/v1")
    return url if urlsplit(url).path else f"{url}/api"


def _attribution(config: ProviderConfig) -> tuple[tuple[bytes, bytes], ...]:
    """Who we are, unless the operator says it."""
    if {name.lower() for name in config.headers} & set(_TITLE_FIELDS):
        return ()
    return tuple((name.encode(), TITLE.encode()) for name in _TITLE_FIELDS)
