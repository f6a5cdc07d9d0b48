"""Builds and runs rig.c and rig_serve.c: the load and the upstream.

Law: nothing is measured with a stale build, and a machine that cannot build it is told in one line what is missing.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec

SOURCES = [Path(__file__).with_name(name) for name in ("rig.c", "rig_serve.c", "rig.h")]
BUILT = Path(__file__).with_name("build") / "rig"
PATH = "/v1/chat/completions"
_UP_WITHIN_S = 20.0


class Missing(Exception):
    """Something this machine lacks; str() says what, and how to get it."""


class Spread(msgspec.Struct, frozen=True):
    """Of one quantity, in microseconds."""

    p50: float
    p99: float
    p90: float = 0.0


class Load(msgspec.Struct, frozen=True):
    """What one run of the load saw. Rates and spreads leave out its first 15 %; `requests` and `events` do not."""

    requests_per_s: float
    events_per_s: float
    requests: int
    events: int
    errors: int
    non_200: int
    reconnects: int
    latency_us: Spread
    delay_us: Spread
    first_event_us: Spread

    @property
    def failures(self) -> int:
        """Answers that were none."""
        return self.errors + self.non_200


def build() -> Path:
    """The program, compiled when a source is newer. Raises: Missing: no C compiler, or not on Linux."""
    if sys.platform != "linux":
        raise Missing("the load needs Linux (epoll): run it in a Linux container or virtual machine")
    if BUILT.is_file() and BUILT.stat().st_mtime >= max(source.stat().st_mtime for source in SOURCES):
        return BUILT
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CC", "cc"), "gcc", "clang"))), None)
    if compiler is None:
        raise Missing("no C compiler, so there is no load to measure with: install one (apt install gcc), or set CC")
    BUILT.parent.mkdir(exist_ok=True)
    sources = [str(source) for source in SOURCES if source.suffix == ".c"]
    subprocess.run([compiler, "-O2", "-o", str(BUILT), *sources], check=True)
    return BUILT


class Route(msgspec.Struct, frozen=True):
    """Where to ask, for what, and with which more header fields (whole lines)."""

    port: int
    model: str
    fields: str = ""


class Pace(msgspec.Struct, frozen=True):
    """How a stream comes."""

    events: int
    interval_us: int


def start_load(
    route: Route, mode: str, *, connections: int, seconds: float, core: int, key: str = "", body_bytes: int = 0
) -> subprocess.Popen[bytes]:
    """Start the load against 127.0.0.1; `finish` waits for it.

    Args:
        mode: "unary" or "stream".
    """
    arguments = ["127.0.0.1", route.port, PATH, connections, seconds, mode, route.model, body_bytes]
    return subprocess.Popen(
        [str(BUILT), "load", *map(str, arguments)],
        stdout=subprocess.PIPE,
        env={**os.environ, "RIG_CPU": str(core), "RIG_KEY": key, "RIG_FIELDS": route.fields},
    )


def finish(running: subprocess.Popen[bytes]) -> Load:
    """Wait for a load. Raises: RuntimeError: it could not even connect."""
    out, _ = running.communicate()
    if running.returncode:
        raise RuntimeError("the load could not reach the proxy: see above")
    return msgspec.json.decode(out, type=Load)


@contextmanager
def upstream(port: int, pace: Pace, slow: Pace, *, core: int) -> Generator[None]:
    """An OpenAI-like upstream on 127.0.0.1:port for as long as the block runs.

    Args:
        slow: of the model of that name.
    """
    env = {"RIG_CPU": str(core), "RIG_SLOW_EVENTS": str(slow.events), "RIG_SLOW_US": str(slow.interval_us)}
    process = subprocess.Popen(
        [str(BUILT), "serve", str(port), str(pace.events), str(pace.interval_us)], env={**os.environ, **env}
    )
    try:
        until_listening(port, process)
        yield
    finally:
        process.terminate()
        process.wait()


def until_listening(port: int, process: subprocess.Popen[bytes], within_s: float = _UP_WITHIN_S) -> None:
    """Raises: RuntimeError: it has ended, or does not listen in time."""
    deadline_s = time.monotonic() + within_s
    while time.monotonic() < deadline_s:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended with {process.returncode}")
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise RuntimeError(f"{process.args!r} does not listen on port {port}")


def free_port() -> int:
    """A port nobody listens on at this moment."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def engine_command(pace: Pace) -> list[str]:
    """The argv of an engine of kind `process`."""
    return [str(BUILT), "serve", "${port}", str(pace.events), str(pace.interval_us)]


def toml_string(text: str) -> str:
    """A TOML basic string: JSON's is one."""
    return msgspec.json.encode(text).decode()


def toml_table(values: Mapping[str, str]) -> str:
    """An inline table of strings."""
    return "{ " + ", ".join(f"{key} = {toml_string(value)}" for key, value in values.items()) + " }"
