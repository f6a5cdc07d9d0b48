"""`/admin/tenants`: to whom use belongs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from litestar import Request, delete, get, patch, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, FromQuery

from config.schema import TenantConfig
from gateway.access.door import Access

from .terms import changed_terms, display_name_from, read, said, shown_tenant, tenant_id_from, terms_from


def tenant_routes(access: Access) -> list[HTTPRouteHandler]:
    """All of them need an admin's key where keys are configured."""

    @get("/admin/tenants", sync_to_thread=False)
    def list_tenants() -> Mapping[str, Any]:
        return {"tenants": [shown_tenant(access, record) for record in access.all_tenants()]}

    @post("/admin/tenants", status_code=201)
    async def create_tenant(request: Request[Any, Any, Any]) -> Mapping[str, Any]:
        found = read(await said(request), TenantConfig, frozenset(("id",)))
        record = await access.create_tenant(tenant_id_from(found), display_name_from(found), terms_from(found))
        return shown_tenant(access, record)

    @get("/admin/tenants/{tenant_id:str}", sync_to_thread=False)
    def read_tenant(tenant_id: FromPath[str]) -> Mapping[str, Any]:
        return shown_tenant(access, access.tenant(tenant_id))

    @patch("/admin/tenants/{tenant_id:str}")
    async def change_tenant(tenant_id: FromPath[str], request: Request[Any, Any, Any]) -> Mapping[str, Any]:
        wanted, former = await said(request), access.tenant(tenant_id)
        found = read(wanted, TenantConfig, frozenset())
        name = display_name_from(found) if "display_name" in wanted else former.display_name
        record = await access.change_tenant(tenant_id, name, changed_terms(former.terms, wanted, found))
        return shown_tenant(access, record)

    @delete("/admin/tenants/{tenant_id:str}", status_code=204)
    async def delete_tenant(tenant_id: FromPath[str], force: FromQuery[bool] = False) -> None:
        await access.delete_tenant(tenant_id, force=force)

    return [list_tenants, create_tenant, read_tenant, change_tenant, delete_tenant]
