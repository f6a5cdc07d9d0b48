"""A real gateway for the commands to talk to: `python -m gateway serve` with fake engines, as a process of its own."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from click.testing import CliRunner, Result

from gateway.cli.commands import roundhouse
from tests.fakes.processes import ENGINE, ROOT

STARTED_S = 20.0  # a second on a quiet machine
ADMIN_KEY = "an-admin-key"
API_KEY = "an-api-key"

KEYS = f"""
[server]
port = 0
api_keys = ["{API_KEY}"]
admin_keys = ["{ADMIN_KEY}"]
"""
MODELS = f"""
[memory]
budget = "300MiB"
[residency]
min_residency_s = 0
[providers.rig]
kind = "process"
command = {[*ENGINE, "--port", "${port}"]}
[models.tiny]
targets = ["rig/tiny"]
aliases = ["default"]
memory = "200MiB"
[models."org/name:7b"]
targets = ["rig/b"]
memory = "200MiB"
[models.broken]
targets = ["rig/broken"]
memory = "10MiB"
args = ["--say", "out of luck", "--fail-code", "3"]
[models.huge]
targets = ["rig/huge"]
memory = "1GiB"
[models."größe"]
targets = ["rig/g"]
"""


def environment(folder: Path, **more: str) -> dict[str, str]:
    """This process's own (see conftest.py), without anything of Roundhouse's or of the user's home."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ROUNDHOUSE_")}
    folders = {"HOME": str(folder), "XDG_DATA_HOME": str(folder / "data"), "XDG_STATE_HOME": str(folder / "state")}
    return {**kept, **folders, **more}


def command(*arguments: str) -> list[str]:
    """The argv of a real call."""
    return [sys.executable, "-m", "gateway", *arguments]


class Served:
    """A gateway that takes requests."""

    def __init__(self, process: subprocess.Popen[str], hint: Sequence[str], log: Path, config: Path) -> None:
        self.process = process
        self.hint = hint
        self.log = log
        self.config = config
        found = re.search(r"(http://\S+)/v1", hint[0])
        assert found is not None, hint
        self.url = found[1]

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Signal it and give back its exit code."""
        self.process.send_signal(number)
        return self.process.wait(STARTED_S)


@contextmanager
def served(folder: Path, toml: str, *arguments: str) -> Generator[Served]:
    """Start one with this configuration, and end it with the block."""
    folder.mkdir(exist_ok=True)
    config, log = folder / "roundhouse.toml", folder / "log"
    config.write_text(toml, encoding="utf-8")
    with log.open("w") as stderr:
        process = subprocess.Popen(
            command("serve", "--config", str(config), *arguments),
            cwd=ROOT,
            env=environment(folder),
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
    try:
        assert process.stdout is not None
        yield Served(process, [_line(process, log), _line(process, log)], log, config)
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _line(process: subprocess.Popen[str], log: Path) -> str:
    """The next line it prints. Raises: AssertionError: it ended, or prints nothing for too long."""
    assert process.stdout is not None
    text, deadline_s = "", time.monotonic() + STARTED_S
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while not text.endswith("\n"):
            assert selector.select(deadline_s - time.monotonic()), f"nothing printed in time: {log.read_text()}"
            read = os.read(process.stdout.fileno(), 1).decode()
            assert read, f"it ended: {log.read_text()}"
            text += read
    return text.rstrip("\n")


def call(folder: Path, *arguments: str, env: Mapping[str, str] | None = None) -> Result:
    """One command in this process, with an environment that knows nothing but `env`."""
    forgotten: dict[str, str | None] = {name: None for name in os.environ if name.startswith("ROUNDHOUSE_")}
    clean = {**forgotten, "HOME": str(folder), "ROUNDHOUSE_CONFIG": str(folder / "roundhouse.toml"), **(env or {})}
    return CliRunner().invoke(roundhouse, list(arguments), env=clean, catch_exceptions=False)


def on_terminal(folder: Path, *arguments: str, **more: str) -> tuple[int, str]:
    """One command as a process on a terminal: its exit code, and everything it wrote there."""
    master, slave = pty.openpty()
    env = environment(folder, TERM="xterm-256color", COLUMNS="100", **more)
    with subprocess.Popen(command(*arguments), cwd=ROOT, env=env, stdin=slave, stdout=slave, stderr=slave) as process:
        os.close(slave)
        written = b""
        with contextlib.suppress(OSError):  # EIO: Linux's way to say that the other end of a terminal is closed
            while piece := os.read(master, 65536):
                written += piece
        code = process.wait(20)
    os.close(master)
    return code, written.decode()


def run(folder: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """One command as a process."""
    return subprocess.run(
        command(*arguments),
        cwd=ROOT,
        env=environment(folder, **more),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
