"""LM Studio: a server whose models we load and unload, and whose requests go over its OpenAI-compatible API.

The law: looking never loads (its inference endpoints load by themselves, so nothing here asks one in order to look); a load makes a
new copy each time, so none is asked for while the list shows one; gone is what its list no longer shows.

Which API it has is found out by asking: REST v1 (LM Studio 0.4.0) loads and unloads. With REST v0 alone (0.3.6) a model is loaded
by a first tiny request with a TTL, and leaves when nobody has used it for that long; it cannot be told to unload.
"""

from __future__ import annotations

import asyncio
import difflib
import logging
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from functools import partial
from urllib.parse import urlsplit

import msgspec

from config.schema import ProviderConfig, split_target

from .contract import Engine, EngineSpec, Footprint, Held, Loader, Offer, ProcessExit, Server
from .errors import (
    LoadFailed,
    ProviderError,
    UpstreamBroke,
    UpstreamKeyRefused,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from .listeners import listener_pid
from .lmstudio_wire import Completion, Embedding, Instance, Loaded, Seen, Unloaded, V0List, V1List
from .placement import placement_of
from .pricing import FREE
from .process import outlast
from .remote import Remote, Site, bearer, words_of
from .served import ServedEngine

_log = logging.getLogger(__name__)

# After how long unused a model leaves an LM Studio that cannot be told to unload. As [residency] idle_s by default: such a model
# stays for as long as another one would.
TTL_S = 600
_POLL_S = (
    0.1  # between two looks at its list while a model leaves: ten a second are nothing to it, and nobody waits longer
)
_TAKE_BACK_S = 3.0  # for what an abandoned load still brings; whoever cancels it waits for this
_NO_SUCH_PATH = (404, 405)
_OWN_PATHS = ("/api/v1", "/api/v0", "/v1")  # what people paste as its address; ours begin below


class Api(Enum):
    """Its ways of listing models, by path."""

    V1 = "/api/v1/models"
    V0 = "/api/v0/models"


class LmStudioProvider(Remote):
    """Kind `lmstudio`. Implements `contract.Provider` and `contract.Server`.

    Args:
        config: `base_url` as LM Studio shows it, with or without an API's path.
    """

    kind = "lmstudio"
    # It answers 200 with an error on paths that it does not have, so only those go to it that it has.
    routes: frozenset[bytes] | None = frozenset(
        (b"/v1/chat/completions", b"/v1/completions", b"/v1/embeddings", b"/v1/responses", b"/v1/messages")
    )

    unloads = True  # until it turns out to have REST v0 alone

    def __init__(self, name: str, config: ProviderConfig, site: Site) -> None:
        url = config.base_url
        url = next((url.removesuffix(path) for path in _OWN_PATHS if url.endswith(path)), url)
        super().__init__(name, config, base_url=url, headers=bearer(config))
        self.loader: Loader | None = self
        self.server: Server | None = self
        self._port = urlsplit(url).port or (443 if url.startswith("https:") else 80)
        self._models = frozenset(config.models)
        self._placement = placement_of(name, config, site.gpus)
        self._api: Api | None = None  # the last one found
        self._certain = False  # False: after an error it may be another LM Studio, so ask again which API it has
        self._seen: Mapping[str, Seen] | None = None
        self._sizes: dict[str, int] = {}  # bytes of weights, by name; kept, since REST v0 does not tell them
        self._ours: dict[str, str] = {}  # name → the instance that our last load of it brought

    # ------------------------------------------------------------ what it offers and holds

    async def catalogue(self) -> Sequence[Offer]:
        """What is on its disk, or those of it that the configuration names. Raises: ProviderError."""
        return [
            msgspec.structs.replace(model.offer, price=self.prices.get(name, FREE))
            for name, model in (await self._look()).items()
            if not self._models or name in self._models
        ]

    async def held(self) -> Sequence[Held]:
        """What is in its memory: the copies of one model together. Sizes are worked out; it tells none. Raises: ProviderError."""
        return [
            Held(
                name=name,
                footprint=self._footprint(name, len(model.instances)),
                exact=False,
                # What every copy takes: nobody can tell which one a request meets.
                context_length=min((one.context_length for one in model.instances if one.context_length), default=None),
            )
            for name, model in (await self._look()).items()
            if model.instances
        ]

    def specs(self) -> Mapping[str, EngineSpec]:
        """{}: its models are known from its catalogue."""
        return {}

    def estimate(self, spec: EngineSpec) -> Footprint:
        """From the size of its weights. {} where nobody has ever told it (REST v0): then it is not counted.

        Raises: LoadFailed: it is not on its list.
        """
        name = _upstream_name(spec)
        if self._seen is None:
            raise LoadFailed(f"{self.name} has not told yet which models it has: is it running?", source=self.name)
        if name not in self._seen:
            raise self._unknown(name, self._seen)
        return self._footprint(name, 1) if name in self._sizes else spec.declared or {}

    def root_pid(self) -> int | None:
        """The process that listens on its port, where its memory is ours; its runners are that one's children."""
        return None if self._placement.own is not None else listener_pid(self._port)

    def _footprint(self, name: str, copies: int) -> Footprint:
        size = self._sizes.get(name)
        return {} if size is None else self._placement.expected(size * copies)

    # ------------------------------------------------------------ loading

    async def load(self, spec: EngineSpec, on_exit: Callable[[ProcessExit], None]) -> Engine:
        """Bring it into memory with the context that LM Studio's own settings give it; return once it is there.

        Given up half-way, it is unloaded again if LM Studio shows it soon. (Whether it goes on loading for nobody, its
        documentation does not say.)

        Raises: LoadFailed, with LM Studio's own words.
        """
        name = _upstream_name(spec)
        try:
            async with asyncio.timeout(spec.load_timeout_s):
                await self._bring_in(name, spec)
        except TimeoutError:
            raise LoadFailed(
                f"{self.name} had not loaded '{name}' after {spec.load_timeout_s:g} s; "
                "raise load_timeout_s if it needs longer",
                source=self.name,
            ) from None
        except LoadFailed:
            raise
        except ProviderError as error:
            said = words_of(error.body) if isinstance(error, UpstreamRefused) else ""
            raise self._failed(name, said or error.message, error.detail) from error
        return self.adopt(spec)

    def place(self, size_bytes: int) -> Footprint:
        """On which devices of ours so many bytes count."""
        return self._placement.placed(size_bytes)

    def adopt(self, spec: EngineSpec) -> Engine:
        """The engine of a model that is in its memory already, whoever loaded it."""
        return ServedEngine(spec, self.endpoint, partial(self._stop, spec))

    async def _bring_in(self, name: str, spec: EngineSpec) -> None:
        seen = await self._look()
        if (model := seen.get(name)) is None:
            raise self._unknown(name, seen)
        if model.instances:
            return
        if self._api is Api.V0:
            await self._load_by_request(name, model, spec.load_timeout_s)
            return
        # Should its list not show what we have loaded, a second copy would fill the memory: ours leaves first.
        await self._unload_ours(name, {})
        try:
            loaded = await self.ask(
                "POST", "/api/v1/models/load", Loaded, {"model": name}, within_s=spec.load_timeout_s
            )
            if said := loaded.said():
                raise self._failed(name, said)
            if loaded.instance_id is None:
                raise UpstreamBroke(f"{self.name} does not say what it has loaded", source=self.name)
        except (LoadFailed, UpstreamUnreachable, UpstreamKeyRefused, UpstreamRefused):
            raise  # by its own word nothing was loaded
        except BaseException:  # cancelled, too late, or cut off: it may be loading still
            clean_up = self._take_back(name, min(_TAKE_BACK_S, spec.stop_timeout_s))
            await outlast(asyncio.get_running_loop().create_task(clean_up, name=f"take back {spec.target}"))
            raise
        self._ours[name] = loaded.instance_id

    async def _load_by_request(self, name: str, model: Seen, within_s: float) -> None:
        """Just-in-time loading, LM Studio's own: the first request brings the model in. Cut off, it leaves after its TTL."""
        common = {"model": name, "ttl": TTL_S}
        if model.embedding:
            vector = await self.ask("POST", "/v1/embeddings", Embedding, {**common, "input": "."}, within_s=within_s)
            done, said = vector.data is not None, vector.said()
        else:
            body = {**common, "messages": [{"role": "user", "content": "."}], "max_tokens": 1}
            answer = await self.ask("POST", "/api/v0/chat/completions", Completion, body, within_s=within_s)
            done, said = answer.choices is not None, answer.said()
        if said or not done:
            raise self._failed(name, said or "its answer is neither a completion nor an error")

    # ------------------------------------------------------------ unloading

    async def _stop(self, spec: EngineSpec) -> None:
        """Unload every copy of it; return when its list shows none. Nobody listening any more is as good.

        Raises: ProviderError: it cannot be told, refuses, or still shows it after `stop_timeout_s`.
        """
        name = _upstream_name(spec)
        told: dict[str, str] = {}
        try:
            async with asyncio.timeout(spec.stop_timeout_s):
                await self._unload_ours(name, told)
                await self._unload_all(name, told)
        except UpstreamUnreachable:
            return
        except TimeoutError:
            said = next(filter(None, told.values()), "")
            raise UpstreamTimeout(
                f"{self.name} still has '{name}' in memory {spec.stop_timeout_s:g} s after it was told to unload it"
                + (f": {said}" if said else ""),
                source=self.name,
            ) from None

    async def _take_back(self, name: str, within_s: float) -> None:
        """Unload what an abandoned load has brought, or still brings within this time. What comes later, `held` shows."""
        try:
            async with asyncio.timeout(within_s):
                told: dict[str, str] = {}
                while not told:
                    await self._unload_all(name, told)
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            pass
        except ProviderError as error:
            _log.warning("%s: whether the abandoned load of '%s' has ended is unknown: %s", self.name, name, error)

    async def _unload_all(self, name: str, told: dict[str, str]) -> None:
        """Until its list shows no copy of it. `told`: instance → what it said where it did not obey."""
        while copies := await self._copies(name):
            if self._api is Api.V0:
                raise ProviderError(
                    f"{self.name} cannot be told to unload '{name}': it leaves by itself when unused for its TTL "
                    f"({TTL_S} s where we loaded it); LM Studio 0.4.0 and newer unload when told",
                    source=self.name,
                )
            fresh = [copy.id for copy in copies if copy.id not in told]
            for instance in fresh:
                told[instance] = await self._unload(instance)
            if not fresh:
                await asyncio.sleep(_POLL_S)

    async def _unload_ours(self, name: str, told: dict[str, str]) -> None:
        """What we loaded and its list may not show."""
        if (instance := self._ours.pop(name, None)) is not None:
            told[instance] = await self._unload(instance)

    async def _unload(self, instance: str) -> str:
        """Its words where it would not: no such instance, most likely. Its list has the last word. Raises: ProviderError."""
        try:
            answer = await self.ask("POST", "/api/v1/models/unload", Unloaded, {"instance_id": instance})
        except UpstreamRefused as error:
            if error.status >= 500:
                raise
            return words_of(error.body) or f"status {error.status}"
        return answer.said()

    async def _copies(self, name: str) -> tuple[Instance, ...]:
        model = (await self._look()).get(name)
        return model.instances if model else ()

    # ------------------------------------------------------------ its list

    async def _look(self) -> Mapping[str, Seen]:
        """All it has, by name, from whichever API it has: one GET once that is known. Raises: ProviderError."""
        try:
            if not self._certain or self._api is None or (seen := await self._list(self._api)) is None:
                seen = await self._find()
        except ProviderError:
            self._certain = False
            raise
        self._seen = seen
        self._sizes.update(
            {name: model.offer.size_bytes for name, model in seen.items() if model.offer.size_bytes is not None}
        )
        return seen

    async def _find(self) -> Mapping[str, Seen]:
        """Raises: UpstreamBroke: this is no LM Studio."""
        for api in Api:
            if (seen := await self._list(api)) is not None:
                self._api = api
                self._certain = True
                self.unloads = api is Api.V1
                return seen
        raise UpstreamBroke(
            f"{self.name} is no LM Studio: it has neither {Api.V1.value} nor {Api.V0.value} (LM Studio 0.3.6 and newer); "
            f'is base_url right? Other OpenAI-compatible servers are of kind "openai"',
            source=self.name,
        )

    async def _list(self, api: Api) -> Mapping[str, Seen] | None:
        """None: it has no such API. Any other failure says nothing of that, and is raised."""
        try:
            answer = await self.ask("GET", api.value, V1List if api is Api.V1 else V0List)
        except UpstreamRefused as error:
            if error.status in _NO_SUCH_PATH:
                return None
            raise
        return answer.seen()

    # ------------------------------------------------------------ what goes wrong

    def _unknown(self, name: str, seen: Mapping[str, Seen]) -> LoadFailed:
        near = difflib.get_close_matches(name, seen, n=3)
        hint = f" (it has {', '.join(near)})" if near else ""
        # Without just-in-time loading REST v0 lists only what is loaded (lmstudio-bug-tracker #726).
        advice = "download it there first" + (
            ", or switch on just-in-time loading in its server settings" if self._api is Api.V0 else ""
        )
        return LoadFailed(f"{self.name} has no model '{name}'{hint}: {advice}", source=self.name)

    def _failed(self, name: str, said: str, detail: str = "") -> LoadFailed:
        return LoadFailed(f"{self.name} could not load '{name}': {said}", source=self.name, detail=detail)


def _upstream_name(spec: EngineSpec) -> str:
    return split_target(spec.target)[1]
