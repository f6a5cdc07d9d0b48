"""A real gateway that a browser looks at, and the other client that does something meanwhile.

Its models are engines that take a second to load, each of 300 MiB under a budget of 700; and SmolLM2 where its weights are found.
"""

from __future__ import annotations

import json
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.cli.gateways import ADMIN_KEY, API_KEY, KEYS, Served, served
from tests.fakes.processes import ENGINE

from .devtools import Tab

LOAD_S = 1.2  # long enough to be seen
PAGES = ("now", "models", "activity", "usage", "timeline", "playground", "settings")
MODELS = f"""
[memory]
budget = "700MiB"
[residency]
min_residency_s = 0
[providers.rig]
kind = "process"
command = {json.dumps([*ENGINE, "--port", "${port}", "--boot-s", str(LOAD_S), "--gap-s", "0.02", "--tokens", "20"])}
"""
NAMES = ("alpha", "beta", "gamma")


def configuration(weights: Path | None = None, more: str = "") -> str:
    """Three engines, and a real one."""
    models = [f'[models.{name}]\ntargets = ["rig/{name}"]\nmemory = "300MiB"\n' for name in NAMES]
    if weights is not None:
        models.append(f'[models.small]\nsource = {json.dumps(str(weights))}\ncontext = 2048\nmemory = "300MiB"\n')
    return KEYS + MODELS + "\n".join(models) + more


class House:
    """The gateway, and somebody else who uses it."""

    def __init__(self, gateway: Served) -> None:
        self.url = gateway.url
        self.admin = _client(gateway.url, ADMIN_KEY)
        self.caller = _client(gateway.url, API_KEY)
        self._others = ThreadPoolExecutor(2)

    def close(self) -> None:
        """Wait for what was begun."""
        self._others.shutdown()
        self.admin.close()
        self.caller.close()

    def residency(self) -> dict[str, Any]:
        """`/admin/residency`."""
        return self.admin.get("/admin/residency").raise_for_status().json()

    def phases(self) -> dict[str, str]:
        """Model → phase."""
        return {one["model"]: one["phase"] for one in self.residency()["residents"]}

    def leases(self) -> int:
        """How many requests hold a model."""
        return sum(one["leases"] for one in self.residency()["residents"])

    def act(self, model: str, verb: str) -> None:
        """The operator's hand, from elsewhere: load, unload, pin, unpin."""
        self.admin.post(f"/admin/models/{model}/{verb}").raise_for_status()

    def chat(self, model: str, key: str = API_KEY, **more: Any) -> httpx.Response:
        """A plain answer."""
        body = {"model": model, "messages": [{"role": "user", "content": "hi"}], **more}
        return self.caller.post("/v1/chat/completions", json=body, headers={"authorization": f"Bearer {key}"})

    def chat_meanwhile(self, model: str, **more: Any) -> Future[httpx.Response]:
        """The same, while the browser looks."""
        return self._others.submit(self.chat, model, **more)


@contextmanager
def house(folder: Path, toml: str) -> Generator[House]:
    """Start the gateway as a process, and end it with the block."""
    with served(folder, toml) as gateway:
        found = House(gateway)
        try:
            yield found
        finally:
            found.close()


def enter(tab: Tab, page: str = "now") -> None:
    """Log in and go there."""
    tab.open("/")
    tab.fill("input[name=key]", ADMIN_KEY)
    tab.press("Enter")
    tab.until("document.getElementById('link').textContent === 'Live'")
    tab.go(page)
    tab.rest()


def _client(url: str, key: str) -> httpx.Client:
    return httpx.Client(base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=30, trust_env=False)
