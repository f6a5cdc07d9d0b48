"""An Ollama that Roundhouse starts itself: there when the gateway is up, started again when it dies, gone when the gateway is."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from tests.fakes.processes import ROOT, alive
from tests.fakes.running import CHAT, Running, ask, chat, running

COMMAND = [sys.executable, "-m", "tests.fakes.ollama", "--port", "${port}", "--models", "a:latest=1000"]
TOML = f"""
[server]
port = 0
[providers.box]
kind = "ollama"
command = {json.dumps(COMMAND)}
env = {{ PYTHONPATH = "{ROOT}" }}
"""


async def view(gateway: Running) -> dict[str, Any]:
    """What `/admin/providers` says of the server."""
    return (await ask(gateway.port, "GET", "/admin/providers/box")).json()["hosted"]


async def test_server_is_started_restarted_and_stopped(tmp_path: Path) -> None:
    """Its model is served, through its death too; no process of it is left at the end."""
    async with running(tmp_path, TOML) as gateway:
        shelf = gateway.parts.listings.shelves["box"]
        await gateway.until(lambda: len(shelf.offers) == 1, 20.0)
        assert (await ask(gateway.port, "POST", CHAT, chat("a"))).status == 200
        first = await view(gateway)
        assert (first["state"], first["restarts"]) == ("up", 0)
        os.kill(first["pid"], signal.SIGKILL)
        await gateway.until(lambda: gateway.phases() == {})
        async with asyncio.timeout(20.0):
            while (second := await view(gateway))["state"] != "up" or second["pid"] == first["pid"]:
                pass
        assert second["restarts"] == 1
        assert (await ask(gateway.port, "POST", CHAT, chat("a"))).status == 200
        assert second["pid"] != first["pid"]
    assert not alive(second["pid"])
