"""`/admin/keys`: who may ask, made and taken back at run time. A key is told once, in the answer that makes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from litestar import Request, Response, delete, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

from gateway.access.door import Access
from gateway.access.terms import KeyRecord

from .terms import key_terms, name_from, said, shown_key, terms_from


def key_routes(access: Access) -> list[HTTPRouteHandler]:
    """All of them need an admin's key where keys are configured."""

    @get("/admin/keys", sync_to_thread=False)
    def list_keys() -> Mapping[str, Any]:
        return {"keys": [shown_key(access, record) for record in access.all_keys()]}

    @post("/admin/keys")
    async def create_key(request: Request[Any, Any, Any]) -> Response[Mapping[str, Any]]:
        found = key_terms(await said(request))
        record, key = await access.create_key(
            name_from(found),
            tenant=found.get("tenant", ""),
            admin=found.get("admin", False),
            terms=terms_from(found),
            expires_s=found.get("expires"),
        )
        return _told(access, record, key, 201)

    @post("/admin/keys/{key_id:str}/rotate")
    async def rotate_key(key_id: FromPath[str]) -> Response[Mapping[str, Any]]:
        record, key = await access.rotate_key(key_id)
        return _told(access, record, key, 200)

    @delete("/admin/keys/{key_id:str}", status_code=204)
    async def revoke_key(key_id: FromPath[str]) -> None:
        await access.revoke_key(key_id)

    return [list_keys, create_key, rotate_key, revoke_key]


def _told(access: Access, record: KeyRecord, key: str, status: int) -> Response[Mapping[str, Any]]:
    """With the key itself: no cache on the way may keep it."""
    body = {**shown_key(access, record), "key": key}
    return Response(body, status_code=status, headers={"cache-control": "no-store"})
