"""Starts what the clients talk to: the fake upstreams and gateways before them, each a process of the gateway's own environment.

Law: the standard library only, since the clients' environment has nothing of ours; and every process ends with the block.
"""

from __future__ import annotations

import json
import os
import re
import selectors
import subprocess
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
# the gateway's environment, not the one that this runs in
PYTHON = os.environ.get("ROUNDHOUSE_PYTHON") or str(ROOT / ".venv" / "bin" / "python")
STARTED_S = 30.0
API_KEY = "a-clients-key"
# name of ours → name at the fake upstream: clients must see ours everywhere
MODELS: Mapping[str, str] = {
    "talker": "api/mind-1",
    "thinker": "api/mind-thinking",
    "vectors": "api/embed-1",
    "voice": "api/speak-1",
    "ears": "api/listen-1",
    "painter": "api/paint-1",
    "guard": "api/guard-1",
    "ranker": "api/rank-1",
    "writer": "api/write-1",
    "claude": "anthropic/claude-plain",
    "narrow": "known/mind-1",
}


@contextmanager
def upstreams() -> Generator[dict[str, str]]:
    """The fake upstreams' addresses by kind."""
    command = [PYTHON, "-m", "tests.clients.upstreams"]
    with _process(command, Path(os.devnull)) as process:
        yield json.loads(_line(process))


def over_fakes(addresses: Mapping[str, str]) -> str:
    """A gateway's configuration over them."""
    models = "\n".join(f'[models.{name}]\ntargets = ["{target}"]' for name, target in MODELS.items())
    return f"""
[server]
port = 0
api_keys = ["{API_KEY}"]
[providers.api]
kind = "openai"
base_url = "{addresses["openai"]}/v1"
api_key = "sk-upstream"
[providers.known]
kind = "openai"
base_url = "{addresses["openai"]}/v1"
api_key = "sk-upstream"
routes = ["/v1/chat/completions"]
[providers.anthropic]
kind = "anthropic"
base_url = "{addresses["anthropic"]}/v1"
api_key = "sk-ant-test"
{models}
"""


@contextmanager
def served(folder: Path, toml: str) -> Generator[str]:
    """A gateway with this configuration; its address."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "roundhouse.toml").write_text(toml, encoding="utf-8")
    command = [PYTHON, "-m", "gateway", "serve", "--config", str(folder / "roundhouse.toml")]
    with _process(command, folder / "log", home=folder) as process:
        hint = _line(process)
        found = re.search(r"(http://\S+)/v1", hint)
        assert found is not None, hint
        yield found[1]


@contextmanager
def _process(command: Sequence[str], log: Path, home: Path | None = None) -> Generator[subprocess.Popen[str]]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ROUNDHOUSE_", "OPENROUTER_"))}
    folders = {} if home is None else {"HOME": str(home), "XDG_STATE_HOME": str(home / "state")}
    with log.open("w") as stderr:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**kept, **folders},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr if home is not None else sys.stderr,
            text=True,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.communicate(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def _line(process: subprocess.Popen[str]) -> str:
    """The next line it prints. Raises: AssertionError: it ended, or prints nothing for too long."""
    assert process.stdout is not None
    text, deadline_s = "", time.monotonic() + STARTED_S
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while not text.endswith("\n"):
            assert selector.select(deadline_s - time.monotonic()), "nothing printed in time"
            read = os.read(process.stdout.fileno(), 1).decode()
            assert read, "it ended"
            text += read
    return text.rstrip("\n")
