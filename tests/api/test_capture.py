"""Bodies are kept for keys that have it switched on, cut and without what looks like a key; for nobody else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.fakes.running import CHAT, Running, ask, chat, running
from tests.fakes.upstream import FakeUpstream

TOML = """
[server]
admin_keys = ["admin-key-1234567890"]
[ledger]
capture_max_bytes = 200
[keys.seen]
key = "seen-key-1234567890"
capture = true
[keys.unseen]
key = "unseen-key-1234567890"
[providers.up]
kind = "openai"
base_url = "%s"
models = ["m"]
"""
ADMIN = [("authorization", "Bearer admin-key-1234567890")]


async def shown(gateway: Running, key: str, body: bytes) -> dict[str, Any]:
    """What the admin sees of a request made with this key, once it is written."""
    fields = [("authorization", f"Bearer {key}")]
    answer = await ask(gateway.port, "POST", CHAT, body, fields)
    path = f"/admin/activity/{answer.field('x-request-id')}"
    found: dict[str, Any] = {}
    for _ in range(100):
        found = (await ask(gateway.port, "GET", path, fields=ADMIN)).json()
        if found.get("capture") or key.startswith("unseen"):
            break
    return found


async def test_bodies_are_kept_where_the_key_says_so(tmp_path: Path) -> None:
    """Plain and streamed; what looks like a key is masked, and what is too long is cut."""
    async with FakeUpstream() as upstream, running(tmp_path, TOML % upstream.base_url) as gateway:
        for stream in (False, True):
            body = chat("m", stream=stream, user="sk-abcdefghijklmnopqrstuvwxyz")
            kept = (await shown(gateway, "seen-key-1234567890", body))["capture"]
            assert '"model": "m"' in kept["request"]
            assert "sk-abcdef" not in str(kept)
            assert len(kept["response"]) <= 200
            assert kept["response_cut"] is True
        assert (await shown(gateway, "unseen-key-1234567890", chat("m")))["capture"] is None
