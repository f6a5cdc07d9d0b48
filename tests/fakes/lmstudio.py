"""An LM Studio for tests: its model list, loading and unloading (REST v1, or REST v0 alone), and its OpenAI-compatible API.

Law: as strict as the documented API, and as odd: an unknown path is answered with 200 and an error; a load always makes a new
copy ("model:2"); an inference request loads what is not loaded. Nothing waits for a time: loads and unloads are held by gates.

    async with FakeLmStudio() as studio:
        studio.add("qwen3-4b", size_bytes=4000)
        studio.load_gate = asyncio.Event()      # loads wait until it is set
        studio.load_behind("qwen3-4b")          # somebody else loads it
        studio.lies["/api/v1/models"] = handler # that path is answered by a handler of the test's own
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .upstream import Exchange, FakeUpstream, Handler, speak_openai

JIT_TTL_S = 3600  # its own default for models that a request has loaded
_EMBEDDING_DIMENSIONS = 4
_LOAD_KEYS = frozenset(
    (
        "model",
        "context_length",
        "eval_batch_size",
        "flash_attention",
        "num_experts",
        "offload_kv_cache_to_gpu",
        "echo_load_config",
    )
)


@dataclass(slots=True)
class Copy:
    """One instance in its memory."""

    context_length: int
    ttl_s: int | None = None  # None: stays until it is unloaded


@dataclass(slots=True)
class Model:
    """One model on its disk."""

    key: str
    size_bytes: int
    kind: str = "llm"  # or "embedding"
    architecture: str = "llama"
    parameters: str | None = "4B"
    quantization: str = "Q4_K_M"
    max_context_length: int = 8192
    vision: bool = False
    tools: bool = True
    reasoning: bool = False
    copies: dict[str, Copy] = field(default_factory=dict[str, Copy])


class FakeLmStudio(FakeUpstream):
    """Change its attributes at any time.

    Args:
        rest: "v1" (0.4.0: both REST APIs), "v0" (0.3.6 to 0.3.39), "" (before that: OpenAI's API alone).
        jit: requests load what is not loaded; switched off, REST v0 lists only what is loaded.
        api_key: demanded where set.
        unknown_status: how it answers a path that it does not have.
    """

    def __init__(self, *, rest: str = "v1", jit: bool = True, api_key: str = "", unknown_status: int = 200) -> None:
        super().__init__()
        self.rest = rest
        self.jit = jit
        self.api_key = api_key
        self.unknown_status = unknown_status
        self.models: dict[str, Model] = {}
        self.load_gate: asyncio.Event | None = None  # loads wait for it
        self.unload_gate: asyncio.Event | None = None  # unloads are answered, but happen only then
        self.load_error: tuple[int, str] | None = None  # status, words: every load ends so
        self.unload_error: tuple[int, str] | None = None
        self.load_ends_with_caller = False  # True: a load is given up when its caller leaves
        self.lies: dict[str, Handler] = {}
        self.loads: list[str] = []  # keys, as begun
        self._work: set[asyncio.Task[None]] = set()
        self.script(self._answer)

    # what a test may do behind everybody's back

    def add(self, key: str, size_bytes: int = 1000, **facts: Any) -> Model:
        """Put a model on its disk."""
        self.models[key] = Model(key, size_bytes, **facts)
        return self.models[key]

    def load_behind(self, key: str, *, context_length: int = 4096, name: str = "", ttl_s: int | None = None) -> str:
        """Somebody loads a copy of it, in the application. Returns the instance's id."""
        model = self.models[key]
        taken = {one for each in self.models.values() for one in each.copies}
        numbered = (key if number == 1 else f"{key}:{number}" for number in range(1, len(taken) + 2))
        instance = name or next(one for one in numbered if one not in taken)
        model.copies[instance] = Copy(min(context_length, model.max_context_length), ttl_s)
        self.changed()
        return instance

    def unload_behind(self, key: str) -> None:
        """Somebody ejects all copies of it."""
        self.models[key].copies.clear()
        self.changed()

    def loaded(self, key: str) -> Sequence[str]:
        """The ids of its copies in memory."""
        return list(self.models[key].copies)

    def asked(self, path: str) -> list[dict[str, Any]]:
        """The bodies of all requests to a path."""
        return [one.json() for one in self.requests if one.path == path]

    async def stop(self) -> None:
        """As `FakeUpstream.stop`; what it was loading ends, too."""
        for task in self._work:
            task.cancel()
        await asyncio.gather(*self._work, return_exceptions=True)
        await super().stop()

    # the API

    async def _answer(self, exchange: Exchange) -> None:
        await exchange.body()
        request = exchange.request
        if request.path in self.lies:
            await self.lies[request.path](exchange)
        elif self.api_key and request.header("authorization") != f"Bearer {self.api_key}":
            await _refuse(exchange, 401, "invalid_api_key", "An LM Studio API token is required to make requests")
        elif (handler := self._routes().get(f"{request.method} {request.path}")) is not None:
            await handler(exchange)
        else:
            said = {"error": f"Unexpected endpoint or method. ({request.method} {request.path})"}
            await exchange.answer(self.unknown_status, said)

    def _routes(self) -> Mapping[str, Handler]:
        routes: dict[str, Handler] = {
            "GET /v1/models": self._list_openai,
            "POST /v1/chat/completions": self._chat,
            "POST /v1/embeddings": self._embed,
        }
        if self.rest:
            routes["GET /api/v0/models"] = self._list_v0
            routes["POST /api/v0/chat/completions"] = self._chat
            routes["POST /api/v0/embeddings"] = self._embed
        if self.rest == "v1":
            routes["GET /api/v1/models"] = self._list_v1
            routes["POST /api/v1/models/load"] = self._load
            routes["POST /api/v1/models/unload"] = self._unload
        return routes

    async def _list_v1(self, exchange: Exchange) -> None:
        await exchange.answer(200, {"models": [_v1(model) for model in self.models.values()]})

    async def _list_v0(self, exchange: Exchange) -> None:
        data = [entry for model in self.models.values() for entry in _v0(model) if self.jit or model.copies]
        await exchange.answer(200, {"object": "list", "data": data})

    async def _list_openai(self, exchange: Exchange) -> None:
        keys = [key for key, model in self.models.items() if self.jit or model.copies]
        data = [{"id": key, "object": "model", "owned_by": "organization_owner"} for key in keys]
        await exchange.answer(200, {"object": "list", "data": data})

    async def _load(self, exchange: Exchange) -> None:
        body = exchange.request.json()
        if unknown := sorted(set(body) - _LOAD_KEYS):
            await _refuse(exchange, 400, "unrecognized_keys", f"Unrecognized key(s) in object: {unknown}")
        elif not isinstance(key := body.get("model"), str):
            await _refuse(exchange, 400, "missing_required_parameter", "'model' is required")
        elif key not in self.models:
            await _refuse(exchange, 404, "model_not_found", f"Model '{key}' not found")
        else:
            await self._load_and_answer(exchange, key, body.get("context_length", 4096))

    async def _load_and_answer(self, exchange: Exchange, key: str, context_length: int) -> None:
        self.loads.append(key)
        self.changed()
        if not await self._work_on(self._loading(key, context_length, None)):
            assert self.load_error is not None
            status, said = self.load_error
            await _refuse(exchange, status, "model_load_failed", said)
            return
        kind = self.models[key].kind
        instance = list(self.models[key].copies)[-1]
        answer = {"type": kind, "instance_id": instance, "load_time_seconds": 0.01, "status": "loaded"}
        await exchange.answer(200, answer)

    async def _loading(self, key: str, context_length: int, ttl_s: int | None) -> None:
        if self.load_gate is not None:
            await self.load_gate.wait()
        if self.load_error is None:
            self.load_behind(key, context_length=context_length, ttl_s=ttl_s)

    async def _work_on(self, work: Any) -> bool:
        """Do it, and go on with it when the caller leaves, unless `load_ends_with_caller`. False: it has failed."""
        task = asyncio.ensure_future(work)
        self._work.add(task)
        task.add_done_callback(self._work.discard)
        await (task if self.load_ends_with_caller else asyncio.shield(task))
        return self.load_error is None

    async def _unload(self, exchange: Exchange) -> None:
        body = exchange.request.json()
        instance = body.get("instance_id")
        if set(body) != {"instance_id"} or not isinstance(instance, str):
            await _refuse(exchange, 400, "invalid_request", "'instance_id' is required, and nothing else")
        elif self.unload_error is not None:
            await _refuse(exchange, self.unload_error[0], "internal_error", self.unload_error[1])
        elif (model := self._holder(instance)) is None:
            await _refuse(exchange, 404, "model_not_found", f"Model instance '{instance}' is not loaded")
        else:
            if self.unload_gate is None:
                del model.copies[instance]
            else:
                task = asyncio.ensure_future(self._unload_later(model, instance, self.unload_gate))
                self._work.add(task)
                task.add_done_callback(self._work.discard)
            await exchange.answer(200, {"instance_id": instance})

    async def _unload_later(self, model: Model, instance: str, gate: asyncio.Event) -> None:
        await gate.wait()
        model.copies.pop(instance, None)
        self.changed()

    def _holder(self, instance: str) -> Model | None:
        return next((model for model in self.models.values() if instance in model.copies), None)

    # inference

    async def _chat(self, exchange: Exchange) -> None:
        if await self._in_memory(exchange, "llm"):
            await speak_openai(exchange)

    async def _embed(self, exchange: Exchange) -> None:
        if not await self._in_memory(exchange, "embedding"):
            return
        asked = exchange.request.json()
        vector = {"object": "embedding", "embedding": [0.5] * _EMBEDDING_DIMENSIONS, "index": 0}
        usage = {"prompt_tokens": 1, "total_tokens": 1}
        await exchange.answer(200, {"object": "list", "data": [vector], "model": asked["model"], "usage": usage})

    async def _in_memory(self, exchange: Exchange, kind: str) -> bool:
        """Load the model that a request names where it is not loaded. False: refused."""
        asked = exchange.request.json()
        name = asked.get("model", "")
        model = self.models.get(name) or self._holder(name)
        if model is None:
            await _refuse(exchange, 404, "model_not_found", f"Model '{name}' not found")
        elif model.kind != kind:
            await _refuse(exchange, 400, "invalid_request", f"Model '{name}' is no {kind} model")
        elif not model.copies and not self.jit:
            await _refuse(exchange, 404, "model_not_found", f"Model '{name}' is not loaded")
        elif model.copies:
            return True
        else:
            self.loads.append(model.key)
            self.changed()
            if await self._work_on(self._loading(model.key, 4096, asked.get("ttl", JIT_TTL_S))):
                return True
            assert self.load_error is not None
            await exchange.answer(self.load_error[0], {"error": f"Failed to load model: {self.load_error[1]}"})
        return False


async def _refuse(exchange: Exchange, status: int, code: str, message: str) -> None:
    error = {"type": "invalid_request", "code": code, "message": message, "param": None}
    await exchange.answer(status, {"error": error})


def _v1(model: Model) -> dict[str, object]:
    entry: dict[str, object] = {
        "type": model.kind,
        "publisher": "fake",
        "key": model.key,
        "display_name": model.key.title(),
        "quantization": {"name": model.quantization, "bits_per_weight": 4},
        "size_bytes": model.size_bytes,
        "params_string": model.parameters,
        "loaded_instances": [
            {"id": instance, "config": {"context_length": copy.context_length}}
            for instance, copy in model.copies.items()
        ],
        "max_context_length": model.max_context_length,
        "format": "gguf",
    }
    if model.kind == "llm":
        can: dict[str, object] = {"vision": model.vision, "trained_for_tool_use": model.tools}
        if model.reasoning:
            can["reasoning"] = {"allowed_options": ["off", "on"], "default": "on"}
        entry |= {"architecture": model.architecture, "capabilities": can, "description": None}
    return entry


def _v0(model: Model) -> list[dict[str, object]]:
    """One entry for the model, and one for each further copy."""
    kind = "embeddings" if model.kind == "embedding" else "vlm" if model.vision else "llm"
    entry: dict[str, object] = {
        "id": model.key,
        "object": "model",
        "type": kind,
        "publisher": "fake",
        "arch": model.architecture,
        "compatibility_type": "gguf",
        "quantization": model.quantization,
        "state": "not-loaded",
        "max_context_length": model.max_context_length,
    }
    if model.kind == "llm":
        entry["capabilities"] = ["tool_use"] if model.tools else []
    loaded = [
        {**entry, "id": instance, "state": "loaded", "loaded_context_length": copy.context_length}
        for instance, copy in model.copies.items()
    ]
    return loaded if model.key in model.copies else [entry, *loaded]
