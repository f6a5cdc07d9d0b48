"""An Ollama for tests: its own API and the OpenAI-compatible one, with real states behind them. Source: Ollama's docs/api.md.

Law: it is strict where Ollama is (404 for what is not on its disk, `{"error": …}`), and lists a model while it loads, as it does.
Nothing waits for a time: `loading` and `answering` are gates, and keep-alives run out by `clock`, looked at with every request.

    async with FakeOllama(FakeModel("llama3.2:1b", size_bytes=1_000_000)) as ollama:
        ollama.loading.clear()                            # loads wait from now on
        ollama.lies["/api/ps"] = html                     # see tests/fakes/lies.py
    python -m tests.fakes.ollama --port 0 --models a:latest,b:1b=500000     # prints its port
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import re
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, cast

from tests.fakes.upstream import Exchange, FakeUpstream, Handler, speak_openai

DEFAULT_KEEP_S = 300.0  # OLLAMA_KEEP_ALIVE
FOREVER_S = (
    9_223_372_036.0  # Go's longest duration: so a model that is to stay has an end, too, which moves when it is used
)
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(h|m(?!s)|s|ms)")
_UNIT_S = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


@dataclass(slots=True)
class FakeModel:
    """A model on its disk. `memory_bytes`: loaded; 0: as `size_bytes`. Of that `vram_bytes` are on a GPU."""

    name: str
    size_bytes: int = 1_000_000
    memory_bytes: int = 0
    vram_bytes: int = 0
    capabilities: tuple[str, ...] | None = ("completion", "tools")  # None: an Ollama before 0.6.4
    context_length: int = 8192
    family: str = "llama"
    parameters: str = "1.2B"
    quantization: str = "Q4_K_M"
    modified_at: str = "2024-05-10T08:06:48.639712648-07:00"
    digest: str = ""
    remote_host: str = ""

    def __post_init__(self) -> None:
        self.name = listed_as(self.name)
        self.digest = self.digest or hashlib.sha256(self.name.encode()).hexdigest()
        self.memory_bytes = self.memory_bytes or self.size_bytes


@dataclass(slots=True)
class Loaded:
    """A model in its memory, under the name it was loaded by."""

    model: FakeModel
    keep_s: float
    expires_s: float = 0.0  # 0: the first request that uses it has not ended
    users: int = 0
    ready: bool = False
    settled: asyncio.Event = field(default_factory=asyncio.Event)  # loaded, or given up


@dataclass(slots=True)
class Refusal(Exception):
    """What its handlers answer with instead."""

    status: int
    message: str


@dataclass(slots=True)
class Trouble:
    """What goes wrong."""

    load: tuple[int, str] | None = None  # every load fails so: status and Ollama's words
    survives_cut: bool = False  # a load that is cut is complete nevertheless: the cut came too late
    forgets: int = 0  # so many times it says "loaded" and holds nothing


@dataclass(slots=True)
class Counts:
    """What happened, oldest first."""

    loads: list[str] = field(default_factory=list[str])
    unloads: list[str] = field(default_factory=list[str])
    abandoned: list[str] = field(default_factory=list[str])  # loads that were cut


class FakeOllama(FakeUpstream):
    """A server on a free port of the loopback.

    Args:
        models: what it has on its disk.
        registry: what can be pulled beside.
        max_loaded: it evicts by itself above that (OLLAMA_MAX_LOADED_MODELS); 0: no limit.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        *models: FakeModel,
        registry: Sequence[FakeModel] = (),
        max_loaded: int = 0,
        clock: Callable[[], float] = time.time,
        port: int = 0,
    ) -> None:
        super().__init__()
        self.port = port
        self.models = {model.name: model for model in models}
        self.registry = {model.name: model for model in registry}
        self.loaded: dict[str, Loaded] = {}
        self.max_loaded = max_loaded
        self.clock = clock
        self.counts = Counts()
        self.trouble = Trouble()
        self.lies: dict[str, Handler] = {}  # path → who answers instead
        self.pull_lines: list[Mapping[str, Any]] | None = None  # in place of the usual ones
        self.pulling, self.loading, self.answering = (asyncio.Event() for _ in range(3))
        for gate in (self.pulling, self.loading, self.answering):
            gate.set()
        self.script(self._answer)

    # what tests do behind our back

    def load_behind(self, name: str, keep_s: float = DEFAULT_KEEP_S) -> None:
        """Somebody else has it loaded."""
        model = self.models[listed_as(name)]
        self.loaded[model.name] = Loaded(model, keep_s, self.clock() + keep_s, ready=True)
        self.changed()

    def unload_behind(self, name: str) -> None:
        """Somebody else has it unloaded."""
        self._drop(self.loaded[listed_as(name)])

    def asked(self, path: str) -> int:
        """How many requests came for it."""
        return sum(request.path.partition("?")[0] == path for request in self.requests)

    # its memory

    def find(self, name: object) -> FakeModel:
        """Names are compared without regard to case. Raises: Refusal 404."""
        if not isinstance(name, str) or not name:
            raise Refusal(400, "model is required")
        found = next((model for model in self.models.values() if model.name.lower() == listed_as(name).lower()), None)
        if found is None:
            raise Refusal(404, f"model '{name}' not found")
        return found

    def running(self, model: FakeModel) -> Loaded | None:
        """One copy serves all names of a digest."""
        return next((loaded for loaded in self.loaded.values() if loaded.model.digest == model.digest), None)

    async def hold(self, model: FakeModel, keep_s: float | None) -> Loaded:
        """Bring it into memory for one request; `release` it afterwards. None: as it was, or the default."""
        while (loaded := self.running(model)) is not None and not loaded.ready:
            await loaded.settled.wait()
        if loaded is None:
            loaded = await self._load(model, DEFAULT_KEEP_S if keep_s is None else keep_s)
        if keep_s is not None:
            loaded.keep_s = keep_s
        loaded.users += 1
        return loaded

    async def _load(self, model: FakeModel, keep_s: float) -> Loaded:
        self._make_room()
        if self.trouble.load is not None:
            raise Refusal(*self.trouble.load)
        loaded = self.loaded[model.name] = Loaded(model, keep_s)
        self.changed()
        try:
            await self.loading.wait()
        except asyncio.CancelledError:
            self.counts.abandoned.append(model.name)
            if self.trouble.survives_cut:
                self._complete(loaded)
                self.release(loaded)
            else:
                self._drop(loaded, counted=False)
            raise
        finally:
            loaded.settled.set()
        self._complete(loaded)
        return loaded

    def release(self, loaded: Loaded) -> None:
        """A request has ended."""
        loaded.users = max(0, loaded.users - 1)
        loaded.expires_s = self.clock() + loaded.keep_s
        forgotten = self.trouble.forgets > 0
        self.trouble.forgets -= forgotten
        if forgotten or (loaded.keep_s <= 0 and loaded.users == 0):
            self._drop(loaded)
        self.changed()

    def expire(self) -> None:
        """Drop what nobody has used for its time."""
        for loaded in list(self.loaded.values()):
            if loaded.ready and loaded.users == 0 and loaded.expires_s <= self.clock():
                self._drop(loaded)

    def _complete(self, loaded: Loaded) -> None:
        loaded.ready = True
        self.counts.loads.append(loaded.model.name)

    def _make_room(self) -> None:
        while self.max_loaded and len(self.loaded) >= self.max_loaded:
            idle = [loaded for loaded in self.loaded.values() if loaded.users == 0 and loaded.ready]
            if not idle:
                raise Refusal(503, "server busy, please try again.  maximum pending requests exceeded")
            self._drop(min(idle, key=lambda loaded: loaded.expires_s))

    def _drop(self, loaded: Loaded, *, counted: bool = True) -> None:
        if self.loaded.get(loaded.model.name) is loaded:
            del self.loaded[loaded.model.name]
            if counted:
                self.counts.unloads.append(loaded.model.name)
            self.changed()

    # its answers

    async def _answer(self, exchange: Exchange) -> None:
        await exchange.body()
        self.expire()
        path = exchange.request.path.partition("?")[0]
        if (liar := self.lies.get(path)) is not None:
            await liar(exchange)
            return
        try:
            if path.startswith("/v1/"):
                await self._speak_openai(exchange, path)
            else:
                await self._speak_ollama(exchange, path)
        except Refusal as refusal:
            await exchange.answer(refusal.status, _error(refusal, openai=path.startswith("/v1/")))

    async def _speak_ollama(self, exchange: Exchange, path: str) -> None:
        routes: dict[tuple[str, str], Handler] = {
            ("GET", "/"): self._root,
            ("HEAD", "/"): self._root,
            ("GET", "/api/version"): self._version,
            ("GET", "/api/tags"): self._tags,
            ("POST", "/api/show"): self._show,
            ("GET", "/api/ps"): self._ps,
            ("POST", "/api/generate"): self._generate,
            ("POST", "/api/embed"): self._embed,
            ("POST", "/api/pull"): self._pull,
            ("DELETE", "/api/delete"): self._delete,
        }
        handler = routes.get((exchange.request.method, path))
        if handler is not None:
            await handler(exchange)
        elif any(path == known for _, known in routes):
            await exchange.answer(405, b"405 method not allowed", {"content-type": "text/plain"})
        else:
            await exchange.answer(404, b"404 page not found", {"content-type": "text/plain"})

    async def _root(self, exchange: Exchange) -> None:
        text = b"Ollama is running"
        if exchange.request.method == "HEAD":
            await exchange.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(text))
        else:
            await exchange.answer(200, text, {"content-type": "text/plain; charset=utf-8"})

    async def _version(self, exchange: Exchange) -> None:
        await exchange.answer(200, {"version": "0.12.3"})

    async def _tags(self, exchange: Exchange) -> None:
        await exchange.answer(200, {"models": [_tag(model) for model in self.models.values()]})

    async def _show(self, exchange: Exchange) -> None:
        model = self.find(exchange.request.json().get("model"))
        answer: dict[str, object] = {
            "license": "fake",
            "modelfile": f"# Modelfile\nFROM {model.name}\n",
            "template": "{{ .Prompt }}",
            "details": _details(model),
            "model_info": {
                "general.architecture": model.family,
                f"{model.family}.context_length": model.context_length,
                "tokenizer.ggml.tokens": None,
            },
            "modified_at": model.modified_at,
        }
        if model.capabilities is not None:
            answer["capabilities"] = list(model.capabilities)
        await exchange.answer(200, answer)

    async def _ps(self, exchange: Exchange) -> None:
        listed = [
            {
                **_tag(loaded.model),
                "size": loaded.model.memory_bytes,
                "size_vram": loaded.model.vram_bytes,
                "expires_at": _time(loaded.expires_s or self.clock() + loaded.keep_s),
                "context_length": 4096,
            }
            for loaded in self.loaded.values()
        ]
        await exchange.answer(200, {"models": listed})

    async def _generate(self, exchange: Exchange) -> None:
        asked = exchange.request.json()
        model, keep_s = self.find(asked.get("model")), seconds_of(asked.get("keep_alive"))
        common = {"model": asked["model"], "created_at": _time(self.clock()), "response": ""}
        if not asked.get("prompt") and keep_s == 0:
            if (loaded := self.running(model)) is not None:
                loaded.keep_s = 0
                if loaded.users == 0 and loaded.ready:
                    self._drop(loaded)
            await exchange.answer(200, {**common, "done": True, "done_reason": "unload"})
            return
        if "completion" not in (model.capabilities or ("completion",)):
            raise Refusal(400, f'"{asked["model"]}" does not support generate')
        self.release(await self.hold(model, keep_s))
        if asked.get("prompt"):
            common["response"] = "w0 w1 w2"
        reason = "stop" if asked.get("prompt") else "load"
        await exchange.answer(200, {**common, "done": True, "done_reason": reason})

    async def _embed(self, exchange: Exchange) -> None:
        asked = exchange.request.json()
        given = asked.get("input")
        if given is not None and not isinstance(given, str | list):
            raise Refusal(400, "invalid input type")
        count = len(cast("list[object]", given)) if isinstance(given, list) else int(bool(given))
        self.release(await self.hold(self.find(asked.get("model")), seconds_of(asked.get("keep_alive"))))
        await exchange.answer(200, {"model": asked["model"], "embeddings": [[0.1, 0.2]] * count})

    async def _pull(self, exchange: Exchange) -> None:
        name = exchange.request.json().get("model")
        if not isinstance(name, str) or not name:
            raise Refusal(400, "model is required")
        model = self.registry.get(listed_as(name))
        lines = self.pull_lines
        if lines is None:
            lines = _pull_lines(model) if model else [_STARTED, {"error": "pull model manifest: file does not exist"}]
        await exchange.start_stream({"content-type": "application/x-ndjson"})
        for line in lines:
            await exchange.chunk(_json_line(line))
            await self.pulling.wait()
        if model is not None and lines[-1] == {"status": "success"}:
            self.models[model.name] = model
        await exchange.end()

    async def _delete(self, exchange: Exchange) -> None:
        model = self.find(exchange.request.json().get("model"))
        del self.models[model.name]
        await exchange.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    async def _speak_openai(self, exchange: Exchange, path: str) -> None:
        if path == "/v1/models":
            data = [{"id": name, "object": "model", "created": 1, "owned_by": "library"} for name in self.models]
            await exchange.answer(200, {"object": "list", "data": data})
            return
        if path not in ("/v1/chat/completions", "/v1/embeddings"):
            await exchange.answer(404, b"404 page not found", {"content-type": "text/plain"})
            return
        loaded = await self.hold(self.find(exchange.request.json().get("model")), None)
        try:
            await self.answering.wait()
            if path == "/v1/embeddings":
                item = {"object": "embedding", "index": 0, "embedding": [0.1, 0.2]}
                usage = {"prompt_tokens": 1, "total_tokens": 1}
                await exchange.answer(
                    200, {"object": "list", "data": [item], "model": loaded.model.name, "usage": usage}
                )
            else:
                await speak_openai(exchange)
        finally:
            self.release(loaded)


# ------------------------------------------------------------ its words

_STARTED: Mapping[str, Any] = {"status": "pulling manifest"}


def listed_as(name: str) -> str:
    """With the tag that Ollama adds."""
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def seconds_of(keep_alive: object) -> float | None:
    """A keep_alive: seconds as a number, or Go's way of writing durations; negative: for ever. Raises: Refusal 400."""
    if keep_alive is None:
        return None
    if isinstance(keep_alive, int | float) and not isinstance(keep_alive, bool):
        return FOREVER_S if keep_alive < 0 else float(keep_alive)
    text = keep_alive if isinstance(keep_alive, str) else ""
    parts = _DURATION_PART.findall(text.lstrip("-"))
    if text.lstrip("-") != "".join(number + unit for number, unit in parts) or not parts:
        raise Refusal(400, f'time: invalid duration "{keep_alive}"')
    return FOREVER_S if text.startswith("-") else sum(float(number) * _UNIT_S[unit] for number, unit in parts)


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def _details(model: FakeModel) -> dict[str, object]:
    return {
        "parent_model": "",
        "format": "gguf",
        "family": model.family,
        "families": None,
        "parameter_size": model.parameters,
        "quantization_level": model.quantization,
    }


def _tag(model: FakeModel) -> dict[str, object]:
    tag: dict[str, object] = {
        "name": model.name,
        "model": model.name,
        "modified_at": model.modified_at,
        "size": model.size_bytes,
        "digest": model.digest,
        "details": _details(model),
    }
    return {**tag, "remote_host": model.remote_host, "remote_model": model.name} if model.remote_host else tag


def _pull_lines(model: FakeModel) -> list[Mapping[str, Any]]:
    """Two layers: the weights and a template of 100 bytes."""
    weights, template = f"sha256:{model.digest}", "sha256:7e3"
    half, whole = model.size_bytes // 2, model.size_bytes
    return [
        _STARTED,
        {"status": f"pulling {model.digest[:12]}", "digest": weights, "total": whole},
        {"status": f"pulling {model.digest[:12]}", "digest": weights, "total": whole, "completed": half},
        {"status": f"pulling {model.digest[:12]}", "digest": weights, "total": whole, "completed": whole},
        {"status": "pulling 7e3", "digest": template, "total": 100, "completed": 100},
        {"status": "verifying sha256 digest"},
        {"status": "writing manifest"},
        {"status": "success"},
    ]


def _json_line(line: Mapping[str, Any]) -> bytes:
    return json.dumps(line).encode() + b"\n"


def _error(refusal: Refusal, *, openai: bool) -> object:
    if not openai:
        return {"error": refusal.message}
    kind = {400: "invalid_request_error", 404: "not_found_error"}.get(refusal.status, "api_error")
    return {"error": {"message": refusal.message, "type": kind, "param": None, "code": None}}


# ------------------------------------------------------------ as a process


def _parse_model(text: str) -> FakeModel:
    name, _, size = text.partition("=")
    return FakeModel(name, size_bytes=int(size) if size else 1_000_000)


async def _serve(port: int, models: Sequence[FakeModel]) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with FakeOllama(*models, port=port) as ollama:
        sys.stdout.write(f"{ollama.port}\n")
        sys.stdout.flush()
        await stopped.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--models", default="", help="name[=bytes], with commas between")
    given = parser.parse_args()
    asyncio.run(_serve(given.port, [_parse_model(text) for text in given.models.split(",") if text]))
