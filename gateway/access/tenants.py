"""To whom a request belongs: what its key says, and what `X-Tenant-ID` says. Pure.

the key            the header     then
has a tenant       absent         that tenant
                   the same       that tenant
                   another        403 invalid_tenant: nobody's use is booked to somebody else
may name tenants   absent         400 tenant_required
                   one of them    that one, if it is there
                   any other      403 invalid_tenant
neither            absent         none
                   anything       403 invalid_tenant
"""

from __future__ import annotations

from collections.abc import Container

from config.forms import ANY_TENANT
from gateway.errors import Forbidden, InvalidRequest

HEADER = b"x-tenant-id"
_PARAM = "X-Tenant-ID"


def tenant_of(own: str, may_name: tuple[str, ...], named: str | None, known: Container[str]) -> str:
    """The tenant's id, "" for none. Raises: InvalidRequest, Forbidden."""
    if not named:
        if may_name:
            raise InvalidRequest("X-Tenant-ID header is required", param=_PARAM, code="tenant_required")
        if own and own not in known:
            raise Forbidden(f"The tenant of this key, '{own}', does not exist", param=_PARAM, code="invalid_tenant")
        return own
    allowed = (named in may_name or ANY_TENANT in may_name) if may_name else named == own
    if not allowed or named not in known:
        # which of these it is would tell who else is here
        raise Forbidden("Invalid tenant ID", param=_PARAM, code="invalid_tenant")
    return named
