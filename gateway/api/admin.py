"""`/admin/*`: what is in memory and why, and the operator's hand on it."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Any

import msgspec
from litestar import Request, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, FromQuery
from litestar.response import Stream

from gateway.access.door import Access
from gateway.errors import InvalidRequest, UnknownModel
from gateway.residency.manager import ResidencyManager
from gateway.routing.catalog import Catalog
from gateway.routing.resolve import resolve

from .session import while_admin

Action = Callable[[str], Awaitable[None]]
_SEQ = re.compile(r"[0-9]{1,15}")


def target_of(catalog: Catalog, residency: ResidencyManager, name: str) -> str:
    """The target of a model that lives in our memory. Raises: UnknownModel, InvalidRequest."""
    model = resolve(catalog, name)
    for target in model.targets:
        if target.key in residency.managed:
            return target.key
    raise InvalidRequest(f"'{model.name}' is served elsewhere: it is not in this gateway's memory", param="model")


def snapshot(catalog: Catalog, residency: ResidencyManager) -> Mapping[str, Any]:
    """Devices, residents and queue, as the operator's surface fixes them."""
    names = {target: model.name for target, model in catalog.by_target.items()}
    committed = residency.committed_bytes()
    residents = [
        msgspec.structs.asdict(resident) | {"model": names.get(resident.target, resident.target)}
        for resident in residency.residents()
    ]
    cooling = {target: residency.failure(target) for target in residency.managed}
    return {
        "devices": {
            device: {
                "budget_bytes": budget.budget_bytes,
                **({"total_bytes": budget.total_bytes} if budget.total_bytes else {}),
                "committed_bytes": committed.get(device, 0),
                "measured_bytes": budget.measured_bytes,
                "strangers_bytes": budget.strangers_bytes,
            }
            for device, budget in residency.budgets.items()
        },
        "residents": residents,
        "queue": residency.waiting(),
        "cooling_down": {target: str(error) for target, error in cooling.items() if error is not None},
    }


async def event_lines(residency: ResidencyManager, last_seq: int) -> AsyncGenerator[bytes, None]:
    """Every decision with its reason, as server-sent events whose id is the sequence number."""
    yield b": decisions as they are taken\n\n"
    async for happening in residency.journal.follow(last_seq):
        yield b"id: %d\ndata: %b\n\n" % (happening.seq, msgspec.json.encode(happening))


def admin_routes(
    catalog: Callable[[], Catalog], residency: ResidencyManager, patience_s: float, access: Access
) -> list[HTTPRouteHandler]:
    """All of them need an admin's key where keys are configured."""

    async def load(target: str) -> None:
        await residency.load(target, patience_s)

    async def unload(target: str) -> None:
        if not residency.can_unload(target):
            raise InvalidRequest(
                f"'{target}' lives in a server that cannot be told to unload; it leaves by itself when it is not used",
                param="model",
            )
        residency.unload(target)

    async def pin(target: str) -> None:
        await residency.pin(target, pinned=True)

    async def unpin(target: str) -> None:
        await residency.pin(target, pinned=False)

    actions: Mapping[str, Action] = {"load": load, "unload": unload, "pin": pin, "unpin": unpin}

    @get("/admin/residency")
    async def read_residency() -> Mapping[str, Any]:
        return snapshot(catalog(), residency)

    @post("/admin/models/{rest:path}", status_code=200)
    async def act(rest: FromPath[str]) -> Mapping[str, Any]:
        name, _, verb = rest.removeprefix("/").rpartition("/")
        if verb not in actions or not name:
            raise UnknownModel(f"No such action: {verb!r}; there are {', '.join(actions)}", code="not_found")
        target = target_of(catalog(), residency, name)
        await actions[verb](target)
        phase = next((str(r.phase) for r in residency.residents() if r.target == target), "cold")
        return {"model": name, "target": target, "phase": phase, "pinned": residency.is_pinned(target)}

    @get("/admin/plan")
    async def read_plan(model: FromQuery[str]) -> Mapping[str, Any]:
        target = target_of(catalog(), residency, model)
        plan = await residency.plan(target)
        return msgspec.structs.asdict(plan) | {"model": model, "expected_load_s": residency.load_s(target)}

    @get("/admin/events")
    async def follow_events(request: Request[Any, Any, Any], after: FromQuery[int | None] = None) -> Stream:
        last = request.headers.get("last-event-id", "")
        seq = int(last) if _SEQ.fullmatch(last) else after or 0
        return Stream(
            while_admin(access, request.scope["headers"], event_lines(residency, seq)),
            media_type="text/event-stream",
            headers={"cache-control": "no-cache"},
        )

    @get("/admin/logs")
    async def read_logs(model: FromQuery[str]) -> Mapping[str, Any]:
        target = target_of(catalog(), residency, model)
        engine = residency.engines.get(target)
        failed = residency.failure(target)
        lines = engine.log_lines() if engine is not None else failed.log_lines if failed is not None else ()
        return {"model": model, "target": target, "lines": lines}

    return [read_residency, act, read_plan, follow_events, read_logs]
