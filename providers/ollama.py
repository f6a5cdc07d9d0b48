"""Ollama: its models are listed, loaded and unloaded over its own API, and talked to over its OpenAI-compatible one.

Law: what is in its memory is what /api/ps says, never what we have asked for: a load counts when the model is listed, an unload
when it no longer is. A load that is given up leaves nothing behind: the connection is cut and the model told to go.

Ollama keeps one copy of a model that has several names (`llama3.2:latest` and `llama3.2:3b` are one digest) and lists it under the
name it was loaded by; so names are compared by digest, too. Sources: Ollama's docs/api.md, docs/faq.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from urllib.parse import urlsplit

import cachetools
import msgspec
import psutil

from config.schema import ProviderConfig, split_target

from .contract import (
    Engine,
    EngineSpec,
    Footprint,
    Held,
    Loader,
    Offer,
    ProcessExit,
    Pulling,
    Request,
    Response,
    Server,
)
from .errors import (
    LoadFailed,
    ProviderError,
    PullFailed,
    UpstreamBroke,
    UpstreamKeyRefused,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from .listeners import is_unused, listener_pid
from .ndjson import read_lines
from .ollama_names import canonical
from .ollama_wire import Done, Embedded, Ps, PullLine, PullProgress, Running, Show, Tag, Tags, Version, offer
from .placement import placement_of
from .pricing import FREE
from .process import outlast
from .remote import ANSWER_WITHIN_S, Remote, Site, bearer, words_of
from .served import ServedEngine

_FOREVER = -1  # keep_alive: until told otherwise; when it goes is residency's decision
_NOW = 0
_DETAILS_KEPT = 1024  # models whose details are remembered, by digest; each is some hundred bytes
_SHOWS_AT_ONCE = 4  # each reads a file's header on its side
_HELD_WITHIN_S = 2.0  # the gateway looks every second
_LOOK_AGAIN_S = 0.05  # Ollama tells nobody when a model has gone; its own unloading takes some 100 ms
_TAKE_BACK_S = 3.0  # whoever cancels a load waits for it
_SILENT_S = 60.0  # while downloading it reports several times a second, also when its own source stalls
_HASHING_S = 600.0  # while verifying it is silent: 60 GB from a disk of 100 MB/s
_NOT_BEGUN = (UpstreamRefused, UpstreamUnreachable, UpstreamKeyRefused)  # answers to a load after which nothing loads
_JSON = ((b"accept", b"application/json"), (b"content-type", b"application/json"))


class OllamaProvider(Remote):
    """Kind `ollama`. Implements contract.Provider, Server and Puller.

    Args:
        config: `base_url` is Ollama's own address; with a trailing /v1 or /api it is understood, too.
    """

    kind = "ollama"
    # Its own API beside OpenAI's and Anthropic's; older ones lack some of the latter, which turns out.
    routes: frozenset[bytes] | None = frozenset(
        (
            b"/v1/chat/completions",
            b"/v1/completions",
            b"/v1/embeddings",
            b"/v1/responses",
            b"/v1/messages",
            b"/v1/images/generations",
            b"/api/chat",
            b"/api/generate",
            b"/api/embed",
            b"/api/embeddings",
        )
    )
    tagged = True
    unloads = True

    def __init__(self, name: str, config: ProviderConfig, site: Site) -> None:
        super().__init__(name, config, base_url=_root(config.base_url), headers=bearer(config))
        self.loader: Loader | None = self
        self.server: Server | None = self
        self._placement = placement_of(name, config, site.gpus)
        self._port = _port(config.base_url)
        self._models = tuple(dict.fromkeys(canonical(model) for model in config.models))
        self._tags: dict[str, Tag] | None = None  # by name in lower case; None: never read
        self._shows: cachetools.LRUCache[str, Show] = cachetools.LRUCache(_DETAILS_KEPT)
        self._measured: dict[str, Footprint] = {}  # by name, as last seen in its memory
        # What residency holds of ours. Weak: an engine that it has let go of needs no word from us.
        self._engines: weakref.WeakValueDictionary[str, ServedEngine] = weakref.WeakValueDictionary()

    # ------------------------------------------------------------ what it offers

    async def version(self) -> str:
        """Its version: the cheapest question that only an Ollama answers. Raises: ProviderError."""
        return (await self.ask("GET", "/api/version", Version)).version

    async def catalogue(self) -> Sequence[Offer]:
        """What it has on its disk; where names are configured those only, whether it has them or not. Loads nothing.

        Models that it only passes on to its cloud are left out: they are never in its memory.

        Raises: ProviderError. A model that it lists but does not describe is offered without details.
        """
        tags = await self._read_tags()
        wanted = self._models or tuple(canonical(tag.name) for tag in tags.values() if not tag.remote_host)
        await self._read_shows(tag for model in wanted if (tag := tags.get(model.lower())) is not None)
        return [self._offer(model, tags.get(model.lower())) for model in wanted]

    async def _read_tags(self) -> Mapping[str, Tag]:
        listed = (await self.ask("GET", "/api/tags", Tags)).models or ()
        self._tags = {canonical(tag.name).lower(): tag for tag in listed}
        self._measured = {model: size for model, size in self._measured.items() if model.lower() in self._tags}
        return self._tags

    async def _read_shows(self, tags: Iterable[Tag]) -> None:
        """Ask for what is not known yet; what does not come within the time of one call is asked for at the next reading."""
        places = asyncio.Semaphore(_SHOWS_AT_ONCE)
        missing = {tag.digest: tag for tag in tags if tag.digest and tag.digest not in self._shows}
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ANSWER_WITHIN_S), asyncio.TaskGroup() as group:
                for tag in missing.values():
                    group.create_task(self._read_show(tag, places))

    async def _read_show(self, tag: Tag, places: asyncio.Semaphore) -> None:
        async with places:
            with contextlib.suppress(ProviderError):  # listed without details
                self._shows[tag.digest] = await self.ask("POST", "/api/show", Show, {"model": tag.name})

    def _offer(self, model: str, tag: Tag | None) -> Offer:
        if tag is None:
            return Offer(name=model, price=self.prices.get(model, FREE))
        offered = offer(model, tag, self._shows.get(tag.digest))
        return msgspec.structs.replace(offered, price=self.prices.get(model, FREE))

    # ------------------------------------------------------------ what it loads

    def specs(self) -> Mapping[str, EngineSpec]:
        """{}: its models are known from its catalogue."""
        return {}

    def estimate(self, spec: EngineSpec) -> Footprint:
        """As it was when last seen in memory; else by the size of its weights. No I/O.

        Raises: LoadFailed: Ollama does not have it, or was never asked.
        """
        model = _model(spec)
        if (measured := self._measured.get(model)) is not None:
            return measured
        tag = (self._tags or {}).get(model.lower())
        if tag is not None and tag.size:
            return self._placement.expected(tag.size)
        if spec.declared is not None:
            return spec.declared
        if self._tags is None:
            raise LoadFailed(f"{self.name} has not told yet which models it has: try again", source=self.name)
        raise self._absent(model)

    async def load(self, spec: EngineSpec, on_exit: Callable[[ProcessExit], None]) -> Engine:
        """Returns once Ollama lists it in its memory, to stay there until told otherwise.

        No options are sent: a request to its /v1 with others would make it load anew.

        Raises: LoadFailed, with Ollama's own words.
        """
        model = _model(spec)
        try:
            for last in (False, True):
                await self._bring(model, spec.load_timeout_s)
                if await self._is_there(model, last=last):
                    break
        except asyncio.CancelledError:
            await self._take_back(model)
            raise
        except ProviderError as error:
            if not isinstance(error, _NOT_BEGUN):
                await self._take_back(model)
            raise self._load_failed(model, error) from error
        return self.adopt(spec)

    def place(self, size_bytes: int) -> Footprint:
        """On which devices of ours so many bytes count."""
        return self._placement.placed(size_bytes)

    def adopt(self, spec: EngineSpec) -> Engine:
        """The engine of a model that is in its memory already."""
        model = _model(spec)

        async def stop() -> None:
            await self._unload(model, spec.stop_timeout_s)

        engine = ServedEngine(spec, self.endpoint, stop)
        self._engines[model] = engine
        return engine

    async def _bring(self, model: str, within_s: float) -> None:
        """Raises: ProviderError."""
        tag = (self._tags or {}).get(model.lower())
        show = self._shows.get(tag.digest) if tag else None
        if show is None or show.capabilities is None or "completion" in show.capabilities:
            body = {"model": model, "keep_alive": _FOREVER, "stream": False}
            try:
                await self.ask("POST", "/api/generate", Done, body, within_s=within_s)
            except UpstreamRefused as refused:
                if "does not support generate" not in words_of(refused.body):
                    raise
            else:
                return
        # Models for embeddings know no prompt. An empty input loads and computes nothing.
        body = {"model": model, "input": "", "keep_alive": _FOREVER}
        await self.ask("POST", "/api/embed", Embedded, body, within_s=within_s)

    async def _is_there(self, model: str, *, last: bool) -> bool:
        """Whether it is in memory, whatever was answered. Another load may have pushed it out again: that is tried anew, once.

        Raises: LoadFailed: it does not say, or the `last` try brought nothing either.
        """
        try:
            there = await self._has(model)
        except ProviderError as error:
            text = f"{self.name} has loaded {model}, but does not say what it holds: {error.message}"
            raise LoadFailed(text, source=self.name, detail=error.detail) from error
        if last and not there:
            raise LoadFailed(
                f"{self.name} says it has loaded {model}, but does not hold it: something else there pushed it out "
                "(OLLAMA_MAX_LOADED_MODELS), or it runs elsewhere",
                source=self.name,
            )
        return there

    async def _take_back(self, model: str) -> None:
        """A load given up: Ollama stops loading when the connection is cut, and unloads what was complete already."""

        async def tell() -> None:
            with contextlib.suppress(ProviderError):
                await self._tell_to_go(model, _TAKE_BACK_S)

        await outlast(asyncio.get_running_loop().create_task(tell(), name=f"take back {self.name}/{model}"))

    def _load_failed(self, model: str, error: ProviderError) -> LoadFailed:
        match error:
            case LoadFailed():
                return error
            case UpstreamRefused(status=404):
                return self._absent(model, error.message)
            case UpstreamRefused():
                words = words_of(error.body) or f"status {error.status}"
                advice = "; unload something there, or take a smaller model" if "memory" in words else ""
                text = f"{self.name} could not load {model}: {words}{advice}"
            case UpstreamUnreachable():
                text = f"{error.message}: is Ollama running there?"
            case _:
                text = f"{self.name} could not load {model}: {error.message}"
        return LoadFailed(text, source=self.name, detail=error.detail or error.message)

    def _absent(self, model: str, detail: str = "") -> LoadFailed:
        return LoadFailed(
            f"{self.name} has no model {model}: roundhouse pull {self.name}/{model}", source=self.name, detail=detail
        )

    # ------------------------------------------------------------ what it holds

    async def held(self) -> Sequence[Held]:
        """What /api/ps lists: one call. A model that is just loading is among them.

        One copy that we hold under several names is one `Held` for each; the first has all its bytes.
        """
        found: dict[str, Held] = {}
        for running in await self._running():
            for place, model in enumerate(self._names_of(running)):
                found[model] = self._held(model, running, counts=place == 0)
        self._measured |= {model: item.footprint for model, item in found.items() if item.exact and item.footprint}
        return list(found.values())

    async def _running(self) -> Sequence[Running]:
        return (await self.ask("GET", "/api/ps", Ps, within_s=_HELD_WITHIN_S)).models or ()

    def _names_of(self, running: Running) -> Sequence[str]:
        """Those we hold it by; else the one it was loaded by, in the spelling of the catalogue."""
        ours = [model for model in self._engines if self._means(model, running)]
        if ours:
            return ours
        listed = canonical(running.name)
        configured = next((model for model in self._models if model.lower() == listed.lower()), None)
        tag = (self._tags or {}).get(listed.lower())
        return [configured or (canonical(tag.name) if tag else listed)]

    def _means(self, model: str, running: Running) -> bool:
        if model.lower() == canonical(running.name).lower():
            return True
        tag = (self._tags or {}).get(model.lower())
        return tag is not None and tag.digest != "" and tag.digest == running.digest

    def _held(self, model: str, running: Running, *, counts: bool) -> Held:
        tag = (self._tags or {}).get(model.lower())
        if not counts:
            size: Footprint = {}
        elif running.size:
            size = self._placement.footprint(max(0, running.size - running.size_vram), running.size_vram)
        else:  # not known yet: it has just begun to load
            size = self._placement.expected(tag.size) if tag else {}
        return Held(
            name=model,
            footprint=size,
            exact=running.size > 0,
            used=running.expires_at,
            context_length=running.context_length or None,
        )

    async def _has(self, model: str) -> bool:
        running = await self._running()
        if any(self._means(model, item) for item in running):
            return True
        if running:  # under another name, of a digest that came after the catalogue was read
            await self._read_tags()
        return any(self._means(model, item) for item in running)

    async def _unload(self, model: str, within_s: float) -> None:
        """Returns when /api/ps no longer lists it, or nobody listens. Raises: ProviderError."""
        try:
            async with asyncio.timeout(within_s):
                try:
                    await self._tell_to_go(model, within_s)
                except UpstreamRefused as refused:
                    if refused.status != 404:  # deleted meanwhile: it may be in memory all the same
                        raise
                while any(self._means(model, running) for running in await self._running()):  # noqa: ASYNC110 - no event
                    await asyncio.sleep(_LOOK_AGAIN_S)
        except UpstreamUnreachable:
            return
        except TimeoutError:
            raise UpstreamTimeout(
                f"{self.name} still has {model} in its memory after {within_s:g} s: somebody else uses it",
                source=self.name,
            ) from None

    async def _tell_to_go(self, model: str, within_s: float) -> None:
        body = {"model": model, "keep_alive": _NOW, "stream": False}
        await self.ask("POST", "/api/generate", Done, body, within_s=within_s)

    def root_pid(self) -> int | None:
        """Who listens on its port; else, where that is not to be seen (another user's process), the only `ollama serve` here."""
        if self._placement.own is not None or is_unused(self._port):
            return None
        return listener_pid(self._port) or _serving_pid()

    # ------------------------------------------------------------ what it fetches

    async def pull(self, name: str) -> AsyncGenerator[Pulling, None]:
        """Fetch a model; the bytes are those of all its layers that are known so far.

        No limit on the whole: hundreds of GB over a slow line take days. Abandoned, the connection is cut; Ollama keeps what it
        has and goes on there at the next try.

        Raises: PullFailed, with Ollama's own words; ProviderError.
        """
        name = name.strip()
        progress = PullProgress(self.name, name)
        response = await self._send_pull(name)
        try:
            kind = next((value for key, value in response.headers if key == b"content-type"), b"")
            lines = read_lines(
                response, source=self.name, silence_s=lambda: _HASHING_S if progress.hashing else _SILENT_S
            )
            async with contextlib.aclosing(lines):
                async for line in lines:
                    yield progress.take(self._read(line, kind, PullLine, "POST /api/pull"))
            progress.end()
        finally:
            response.close()

    async def _send_pull(self, name: str) -> Response:
        body = msgspec.json.encode({"model": name, "stream": True})
        response = await self.endpoint.send(
            Request(method=b"POST", path=b"/api/pull", headers=_JSON, body=body, first_byte_s=_SILENT_S)
        )
        if response.status == 200:
            return response
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                data = await response.read(1 << 20)
        except TimeoutError:
            data = b""
        finally:
            response.close()
        if response.status in (401, 403):
            raise self._refusal(response.status, data, "POST /api/pull")
        words = words_of(data) or f"status {response.status}"
        raise PullFailed(f"{self.name} could not fetch {name}: {words}", source=self.name)

    async def delete(self, name: str) -> None:
        """Delete it from its disk, and from its memory first: what has no file any more could not be told to go.

        Raises: ProviderError; UpstreamRefused: it has no such model.
        """
        model = canonical(name)
        with contextlib.suppress(ProviderError):  # not there, in use, or down: the next answer tells
            await self._tell_to_go(model, _TAKE_BACK_S)
        what = "DELETE /api/delete"
        request = Request(
            method=b"DELETE", path=b"/api/delete", headers=_JSON, body=msgspec.json.encode({"model": model})
        )
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                status, kind, data = await self._exchange(request)
        except TimeoutError:
            raise UpstreamTimeout(
                f"{self.name} did not answer {what} within {ANSWER_WITHIN_S:g} s", source=self.name
            ) from None
        if status >= 400:
            raise self._refusal(status, data, what)
        if status != 200:
            raise UpstreamBroke(
                f"{self.name} answered {what} with status {status}: is base_url right?", source=self.name
            )
        if data.strip():  # Ollama says nothing at all
            self._read(data, kind, dict[str, object], what)


def _model(spec: EngineSpec) -> str:
    return canonical(split_target(spec.target)[1])


def _root(base_url: str) -> str:
    """Ollama's own address of what people write for it."""
    url = base_url.rstrip("/")
    return url.removesuffix("/v1").removesuffix("/api").rstrip("/")


def _port(base_url: str) -> int:
    parts = urlsplit(base_url)
    return parts.port or (443 if parts.scheme == "https" else 80)


def _serving_pid() -> int | None:
    """The process of `ollama serve`; None where there are several: which of them has the port cannot be seen."""
    found = [
        process.pid
        for process in psutil.process_iter(["name", "cmdline"])
        if process.info["name"] == "ollama" and "serve" in (process.info["cmdline"] or ())
    ]
    return found[0] if len(found) == 1 else None
