"""`/admin/activity`: the last requests, page by page, and each one by itself.

The law: what has just ended is there at once, also where the ledger is off, behind or broken: the last requests come from memory,
the others from the ledger, each once, in one order.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol, cast, get_args

import msgspec
from litestar import Response, get
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, FromQuery

from gateway.errors import GatewayError, InvalidRequest, UnknownModel
from gateway.metering.activity import LIMIT_MAX, Activity, Outcome, Wanted, page_of, read_cursor, row_of
from gateway.metering.entry import Entry


class Bodies(Protocol):
    """What was kept of a request's bodies. `…_cut`: there was more of it."""

    @property
    def request(self) -> bytes: ...

    @property
    def request_cut(self) -> bool: ...

    @property
    def response(self) -> bytes: ...

    @property
    def response_cut(self) -> bool: ...


class Archive(msgspec.Struct, frozen=True):
    """What the ledger is asked for. All of them may raise GatewayError while its database is away.

    `older`: the newest rows of those wanted, so many at most. `one`: the last of this id. `capture`: what was kept of its bodies.
    """

    older: Callable[[Wanted, int], Awaitable[list[Entry]]]
    one: Callable[[str], Awaitable[Entry | None]]
    capture: Callable[[str], Awaitable[Bodies | None]] | None = None


async def page(activity: Activity, archive: Archive | None, wanted: Wanted, limit: int) -> Mapping[str, Any]:
    """One page, newest first; the first one tells those in progress, too."""
    rows = activity.matching(wanted)
    whole = True
    if archive is not None:
        try:
            rows += await archive.older(wanted, limit + 1)
        except GatewayError:  # the ledger's own banner says so
            whole = False
    found = page_of(rows, limit)
    said: dict[str, Any] = {"rows": [row_of(entry) for entry in found.rows], "next": found.next, "whole": whole}
    if wanted.before is None:
        said["running"] = [begun for _, begun in activity.in_progress()]
    return said


async def detail(activity: Activity, archive: Archive | None, id: str) -> Mapping[str, Any]:
    """One request. Raises: UnknownModel: there is none of that id."""
    entry, capture = activity.one(id), None
    if archive is not None:
        try:
            entry = entry or await archive.one(id)
            capture = None if archive.capture is None or entry is None else await archive.capture(id)
        except GatewayError:
            if entry is None:
                raise
    if entry is None:
        raise UnknownModel(f"No request '{id}' is known (any more)", code="not_found")
    return {"entry": row_of(entry), "capture": None if capture is None else _shown(capture)}


def _shown(bodies: Bodies) -> Mapping[str, Any]:
    """As text; what was cut says so."""
    shown: dict[str, Any] = {
        "request": bodies.request.decode("utf-8", "replace"),
        "response": bodies.response.decode("utf-8", "replace"),
    }
    cut = {"request_cut": bodies.request_cut, "response_cut": bodies.response_cut}
    return shown | {name: True for name, is_cut in cut.items() if is_cut}


def _wanted(before: str, status: str, **words: str) -> Wanted:
    """Raises: InvalidRequest."""
    place = read_cursor(before) if before else None
    if before and place is None:
        raise InvalidRequest("'before' must be the 'next' of an earlier page", param="before")
    if status not in get_args(Outcome):
        raise InvalidRequest("'status' must be ok, error or left", param="status")
    return Wanted(before=place, outcome=cast("Outcome", status), **words)


def activity_routes(activity: Activity, archive: Archive | None) -> list[HTTPRouteHandler]:
    """Both need an admin's key where keys are configured. `archive` is None where the ledger is off."""

    @get("/admin/activity")
    async def read_activity(
        limit: FromQuery[int] = 100,
        before: FromQuery[str] = "",
        model: FromQuery[str] = "",
        key: FromQuery[str] = "",
        tenant: FromQuery[str] = "",
        status: FromQuery[str] = "",
        q: FromQuery[str] = "",
    ) -> Response[bytes]:
        if not 1 <= limit <= LIMIT_MAX:
            raise InvalidRequest(f"'limit' must be 1 to {LIMIT_MAX}", param="limit")
        wanted = _wanted(before, status, model=model, key=key, tenant=tenant, q=q)
        return _json(await page(activity, archive, wanted, limit))

    @get("/admin/activity/{id:path}")
    async def read_request(id: FromPath[str]) -> Response[bytes]:
        return _json(await detail(activity, archive, id.removeprefix("/")))

    return [read_activity, read_request]


def _json(said: object) -> Response[bytes]:
    return Response(msgspec.json.encode(said), media_type="application/json")
