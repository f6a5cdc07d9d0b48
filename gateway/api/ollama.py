"""Ollama's own reading routes: what there is, what it can do, what is in memory. From catalogue and residency; loads nothing.

The law: fields are Ollama's, their values are ours or left empty. What Ollama does to its own disk is not done here: it is refused,
with the command that does it.

Source: Ollama, docs/api.md, api/types.go, server/routes.go.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from litestar import Request, get, head, post, route
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath
from litestar.types import Method

from gateway.dialects.ollama_answer import rfc3339
from gateway.dialects.ollama_request import Fields
from gateway.errors import InvalidRequest, RouteNotServed
from gateway.residency.events import ResidentView
from gateway.residency.manager import ResidencyManager
from gateway.routing.catalog import Catalog, Model
from gateway.routing.listings import Listings

from .models import named
from .session import asker_of

# What clients ask before they use a feature: VS Code wants 0.6.4 (capabilities in /api/show), Codex 0.13.4 (/v1/responses), others
# 0.14 (/v1/messages); all of these are served. From 0.34 on some look for what only Ollama's own disk can do. Three numbers and no
# more: VS Code reads each as an integer.
VERSION = "0.14.2"

# The contract's word → Ollama's; others (rerank, structured_output) it has none for.
_CAPABILITIES: Mapping[str, str] = {
    "chat": "completion",
    "completion": "completion",
    "tools": "tools",
    "vision": "vision",
    "audio": "audio",
    "embedding": "embedding",
    "reasoning": "thinking",
    "insert": "insert",
}
# Of a model of which nothing is said: clients hide what cannot complete, and VS Code what takes no tools; the upstream refuses by
# itself what it cannot do.
_PRESUMED = ("completion", "tools")
_UNNAMED_FAMILY = "unknown"  # clients look for `model_info["<architecture>.context_length"]`
_NEVER = timedelta(days=106_751)  # Go's longest duration: how Ollama writes the end of what stays

_REFUSED: Mapping[str, tuple[str, Sequence[Method]]] = {
    "/api/pull": ("Models are not fetched over this API: `roundhouse pull NAME` does it", ("POST",)),
    "/api/delete": ("Models are not deleted over this API: `roundhouse rm PROVIDER/MODEL` does it", ("DELETE",)),
    "/api/copy": ("Models are not copied: give one a further name with `aliases` in the configuration", ("POST",)),
    "/api/create": ("Models are not created over this API: add a [models.NAME] to the configuration", ("POST",)),
    "/api/push": ("Models are not published from here: push with the Ollama that has it", ("POST",)),
    "/api/blobs/{digest:str}": (
        "No files are taken over this API: `roundhouse pull ./path/of/a/file.gguf` brings weights in",
        ("POST", "HEAD"),
    ),
}


class Entries:
    """Makes the entries of one answer."""

    def __init__(self, catalog: Catalog, residency: ResidencyManager) -> None:
        self._catalog = catalog
        self._residency = residency

    def tag(self, model: Model) -> dict[str, Any]:
        """One entry of /api/tags."""
        size_bytes = (model.offer.size_bytes if model.offer is not None else None) or 0
        return {
            **self._named(model),
            "modified_at": _modified_at(model),
            "size": size_bytes,
            "digest": digest(model),
            "details": self._details(model),
        }

    def show(self, model: Model) -> dict[str, Any]:
        """POST /api/show. There is no license to show, and no template: prompts are put together by the engine."""
        offer, length = model.offer, _context_length(model)
        family = (offer.family if offer is not None else "") or _UNNAMED_FAMILY
        info: dict[str, Any] = {"general.architecture": family, "general.basename": model.name}
        if length is not None:
            info[f"{family}.context_length"] = length
        return {
            "modelfile": f"# Served by Roundhouse; it was not made from a Modelfile\nFROM {model.name}\n",
            "parameters": "" if length is None else f"num_ctx {length}",
            "template": "",
            "details": self._details(model),
            "model_info": info,
            "capabilities": capabilities(model),
            "modified_at": _modified_at(model),
        }

    def running(self, resident: ResidentView, now_s: float) -> dict[str, Any]:
        """One entry of /api/ps; also of what loads or leaves, as Ollama has it."""
        managed = self._residency.managed.get(resident.target)
        model = self._catalog.by_target.get(resident.target)
        idle_s = math.inf if managed is None else managed.idle_s
        used_s = round(now_s - resident.idle_s)
        entry: dict[str, Any] = {
            **(self._named(model) if model is not None else {"name": resident.target, "model": resident.target}),
            "size": sum(resident.footprint.values()),
            "digest": _digest(resident.target),
            "details": {} if model is None else self._details(model),
            "expires_at": _time(used_s, None if math.isinf(idle_s) or resident.pinned else idle_s),
            "size_vram": sum(size for device, size in resident.footprint.items() if device != "ram"),
        }
        length = None if model is None else _context_length(model)
        if length is not None and managed is not None and managed.server is None:  # a server's own choice is not known
            entry["context_length"] = length
        return entry

    def _named(self, model: Model) -> dict[str, str]:
        return {"name": model.name, "model": model.name}

    def _details(self, model: Model) -> dict[str, Any]:
        offer = model.offer
        family = offer.family if offer is not None else ""
        managed = self._residency.managed.get(model.targets[0].key)
        source = managed.spec.source if managed is not None else None
        return {
            "parent_model": "",
            "format": "gguf" if source is not None and source.suffix == ".gguf" else "",
            "family": family,
            "families": [family] if family else None,
            "parameter_size": offer.parameters if offer is not None else "",
            "quantization_level": offer.quantization if offer is not None else "",
        }


def capabilities(model: Model) -> list[str]:
    """In Ollama's words, each once."""
    said = model.offer.capabilities if model.offer is not None else ()
    return list(dict.fromkeys(_CAPABILITIES[word] for word in said if word in _CAPABILITIES)) or list(_PRESUMED)


def digest(model: Model) -> str:
    """Not of the weights, which may be anywhere: of the name of where it is served first, so that it is the same every time."""
    return _digest(model.targets[0].key)


def _digest(target: str) -> str:
    return hashlib.sha256(target.encode()).hexdigest()


def _context_length(model: Model) -> int | None:
    return model.context_length or (None if model.offer is None else model.offer.context_length)


def _modified_at(model: Model) -> str:
    return rfc3339((model.offer.created if model.offer is not None else 0) or model.created)


def _time(used_s: int, idle_s: float | None) -> str:
    """When it leaves if nobody asks for it again."""
    after = _NEVER if idle_s is None else timedelta(seconds=idle_s)
    return (datetime.fromtimestamp(used_s, UTC) + min(after, _NEVER)).isoformat().replace("+00:00", "Z")


def _asked(body: bytes) -> str:
    """The model that a body names, by its present or its former word. Raises: InvalidRequest."""
    fields = Fields(body)
    name = fields.take("model", str) or fields.take("name", str)
    if not name:
        raise InvalidRequest("model is required", param="model")
    return name


def ollama_routes(
    catalog: Callable[[], Catalog],
    residency: ResidencyManager,
    listings: Listings,
    clock: Callable[[], float] = time.time,
) -> list[HTTPRouteHandler]:
    """What can be read, and what is refused.

    Args:
        clock: seconds since the epoch.
    """

    @get("/api/version", sync_to_thread=False)
    def version() -> Mapping[str, str]:
        return {"version": VERSION}

    @head("/api/version", sync_to_thread=False)
    def version_head() -> None: ...

    @get("/api/tags", sync_to_thread=False)
    def tags(request: Request[Any, Any, Any]) -> Mapping[str, Any]:
        entries, asker = Entries(catalog(), residency), asker_of(request.scope)
        return {"models": [entries.tag(model) for model in catalog().models if asker.may(model.name)]}

    @head("/api/tags", sync_to_thread=False)
    def tags_head() -> None: ...

    @get("/api/ps", sync_to_thread=False)
    def ps(request: Request[Any, Any, Any]) -> Mapping[str, Any]:
        entries, now_s, asker = Entries(catalog(), residency), clock(), asker_of(request.scope)
        shown = [entries.running(resident, now_s) for resident in residency.residents()]
        return {"models": [entry for entry in shown if asker.may(entry["name"])]}

    @post("/api/show", status_code=200)
    async def show(request: Request[Any, Any, Any]) -> Mapping[str, Any]:
        model = await named(asker_of(request.scope), _asked(await request.body()), catalog, listings)
        return Entries(catalog(), residency).show(model)

    refusals = [_refusal(path, words, methods) for path, (words, methods) in _REFUSED.items()]
    return [version, version_head, tags, tags_head, ps, show, *refusals]


def _refusal(path: str, words: str, methods: Sequence[Method]) -> HTTPRouteHandler:
    if "{" in path:

        @route(path, http_method=methods, sync_to_thread=False)
        def refuse_one(digest: FromPath[str]) -> None:
            raise RouteNotServed(words)

        return refuse_one

    @route(path, http_method=methods, sync_to_thread=False)
    def refuse() -> None:
        raise RouteNotServed(words)

    return refuse
