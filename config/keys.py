"""What no single key of [keys] and [tenants] can say: that secrets differ, and that tenants are there. Pure."""

from __future__ import annotations

import msgspec

from config.forms import ANY_TENANT, is_tenant_id
from config.schema import Config


class Complaint(msgspec.Struct, frozen=True):
    """What is wrong, and where. It shows no secret."""

    key: tuple[str | int, ...]
    expected: str
    got: str


def complaint(config: Config) -> Complaint | None:
    """The first thing that is wrong."""
    for name in config.tenants:
        if not is_tenant_id(name):
            return Complaint(("tenants", name), "a tenant's id: 3 to 50 of a-z, 0-9 and -", f'"{name}"')
    owners = {secret.reveal(): "server.api_keys" for secret in config.server.api_keys}
    owners |= {secret.reveal(): "server.admin_keys" for secret in config.server.admin_keys}
    for name, key in config.keys.items():
        secret = key.key.reveal()
        if secret in owners:
            return Complaint(("keys", name, "key"), "a key that nobody else has", f"the one of {owners[secret]}")
        owners[secret] = f"keys.{name}"
        if key.tenant and key.tenants:
            return Complaint(("keys", name, "tenants"), "tenant or tenants, not both", "both")
        for tenant in filter(None, (key.tenant, *key.tenants)):
            if tenant not in config.tenants and tenant != ANY_TENANT:
                where = "tenant" if key.tenant else "tenants"
                return Complaint(
                    ("keys", name, where), f"a tenant that is configured: [tenants.{tenant}]", f'"{tenant}"'
                )
    return None
