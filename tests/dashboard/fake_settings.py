"""What a pretended gateway says on the page Settings: keys, tenants, configuration."""

from __future__ import annotations

from .fake_world import Json

CONFIG: list[Json] = [
    {"key": "server.host", "value": "127.0.0.1", "source": "default", "secret": False},
    {"key": "server.port", "value": 8080, "source": "command line", "secret": False},
    {"key": "server.admin_keys", "value": "set", "source": "environment", "secret": True},
    {"key": "memory.budget", "value": "48GiB", "source": "file", "secret": False},
    {"key": "residency.policy", "value": "lru", "source": "default", "secret": False},
    {"key": "models.qwen.aliases", "value": ["default", "chat"], "source": "file", "secret": False},
    {"key": "providers.openrouter.api_key", "value": "set", "source": "environment", "secret": True},
]


def key_entry(number: str, name: str, **more: object) -> Json:
    """As /admin/keys lists one."""
    made: Json = {
        "id": number, "name": name, "prefix": f"rh-{number}c0", "tenant": "", "tenants": [], "capture": False,
        "models": [], "rpm": 0, "tpm": 0, "concurrent": 0,
        "budget_usd_day": None, "budget_usd_month": None, "expires": None, "admin": False, "source": "database",
        "created": "2026-11-18T11:06:40Z", "revoked": None,
        "used": {"requests_minute": 12, "tokens_minute": 3400, "concurrent": 1, "usd_day": "0.4200", "usd_month": "3.1000"},
    }  # fmt: skip
    return made | more


def tenant_entry(id: str, **more: object) -> Json:
    """As /admin/tenants lists one."""
    limits: Json = {"models": [], "rpm": 0, "tpm": 0, "concurrent": 0, "budget_usd_day": None, "budget_usd_month": None}
    made: Json = {
        "id": id,
        "display_name": "",
        **limits,
        "source": "database",
        "created": None,
        "keys": 0,
        "used": None,
    }
    return made | more
