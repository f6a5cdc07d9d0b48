"""Entries for tests: an ordinary answered request, but for what a test says."""

from __future__ import annotations

from typing import Any

from gateway.metering.entry import Entry


def entry(id: str = "req-1", at_us: int = 1_000_000, **said: Any) -> Entry:
    """One that ended well."""
    usual: dict[str, Any] = {
        "principal": "key-1",
        "key_id": "",
        "tenant": "",
        "asked": "m",
        "model": "m",
        "target": "up/m",
        "route": "/v1/chat/completions",
        "status": 200,
        "code": "",
        "streamed": False,
        "left": "",
        "prompt": 1,
        "completion": 2,
        "cached": 0,
        "reasoning": 0,
        "cost_usd": None,
        "queued_us": 0,
        "first_byte_us": 10,
        "total_us": 20,
        "load_us": 0,
        "bytes_in": 1,
        "bytes_out": 1,
        "user_agent": "test",
    }
    return Entry(id=id, at_us=at_us, **(usual | said))
