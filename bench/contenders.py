"""The proxies that are measured: each started on its own core, asked what it used, stopped.

Law: a proxy's cost is that of its whole process tree, less the engines it happens to have started: those are the upstream.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec
import psutil

from . import rig
from .machine import Cores
from .rig import Pace, Route

KEY = "sk-bench"
FAST = Pace(events=50, interval_us=20_000)  # a stream of one second, at the pace of a fast engine
SLOW = Pace(events=60, interval_us=1_000_000)  # so that a thousand open streams are no load by themselves
CROWD = 5000
_STOPPED_WITHIN_S = 30.0


class Upstreams(msgspec.Struct, frozen=True):
    """The ports of the two upstreams that proxies without engines of their own stand before."""

    fast: int
    slow: int


class Contender(msgspec.Struct, frozen=True):
    """One that is up and has answered."""

    name: str
    process: psutil.Process
    fast: Route
    slow: Route
    crowd: int = CROWD  # how many open streams it is asked to hold

    def tree(self) -> list[psutil.Process]:
        """Its processes, engines left out."""
        found = [self.process, *self.process.children(recursive=True)]
        return [process for process in found if process.is_running() and process.name() != rig.BUILT.name]

    def cpu_s(self) -> float:
        """User and system time of all of them."""
        times = [process.cpu_times() for process in self.tree()]
        return sum(time.user + time.system for time in times)

    def rss_bytes(self) -> int:
        """Pages that several of them share are counted for each."""
        return sum(process.memory_info().rss for process in self.tree())


def start(
    argv: list[str], *, core: int, folder: Path, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """A child on one core, its output in `folder`/log. `env`: on top of ours."""
    mine = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})  # inherited, threads and all
    try:
        with open(folder / "log", "wb") as log:
            return subprocess.Popen(
                argv,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=cwd,
                env={**os.environ, **(env or {})},
            )
    finally:
        os.sched_setaffinity(0, mine)


def stop(process: subprocess.Popen[bytes]) -> None:
    """TERM, and KILL for one that does not heed it."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(_STOPPED_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def nginx(folder: Path, cores: Cores, upstreams: Upstreams) -> Generator[Contender]:
    """nginx as it is set up for streams: no buffering, kept connections, no access log. Raises: Missing."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        raise rig.Missing("no nginx, the yardstick: install it (apt install nginx-light); measured without ratios")
    fast, slow = rig.free_port(), rig.free_port()
    folder.chmod(0o755)  # its worker may run as another user
    conf = folder / "nginx.conf"
    conf.write_text(_nginx_conf(folder, {fast: upstreams.fast, slow: upstreams.slow}))
    process = start([program, "-p", str(folder), "-c", str(conf)], core=cores.proxy, folder=folder)
    try:
        rig.until_listening(slow, process)
        yield Contender("nginx", psutil.Process(process.pid), Route(fast, "echo"), Route(slow, "echo"))
    finally:
        stop(process)


def _nginx_conf(folder: Path, routes: dict[int, int]) -> str:
    servers = "\n".join(
        f"""
    upstream u{port} {{ server 127.0.0.1:{target}; keepalive 2048; keepalive_requests 1000000000; }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://u{port};
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
            proxy_request_buffering off;
        }}
    }}"""
        for port, target in routes.items()
    )
    return f"""
daemon off;
worker_processes 1;
worker_rlimit_nofile 16384;
pid {folder}/pid;
error_log {folder}/errors;
events {{ worker_connections 16384; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    client_max_body_size 64m;
    client_body_temp_path {folder}/bodies;
    proxy_temp_path {folder}/answers;
    fastcgi_temp_path {folder}/f;
    uwsgi_temp_path {folder}/u;
    scgi_temp_path {folder}/s;{servers}
}}
"""


@contextmanager
def roundhouse(
    folder: Path, cores: Cores, tree: Path, name: str = "Roundhouse", remote: Upstreams | None = None
) -> Generator[Contender]:
    """Roundhouse from a working tree, everything on: keys, metrics, and a lease of a supervised engine per request.

    Args:
        remote: forward to these in place of engines: through a provider's door, its health kept and its places counted.
    Raises: RuntimeError: it does not come up; the message has the end of its log.
    """
    port = rig.free_port()
    conf = folder / "roundhouse.toml"
    conf.write_text(configuration(folder, port, cores) if remote is None else _remote_toml(folder, port, remote))
    argv = [sys.executable, "-m", "gateway", "serve", "--config", str(conf)]
    process = start(argv, core=cores.proxy, folder=folder, cwd=tree)
    try:
        try:
            rig.until_listening(port, process)
        except RuntimeError as error:
            log = (folder / "log").read_text(errors="replace")
            raise RuntimeError(f"{error}\n{log[-2000:]}") from None
        yield Contender(name, psutil.Process(process.pid), Route(port, "echo"), Route(port, "slow"))
    finally:
        stop(process)


def configuration(folder: Path, port: int, cores: Cores) -> str:
    def model(name: str, pace: Pace) -> str:
        command = ", ".join(map(rig.toml_string, rig.engine_command(pace)))
        return f"""
[models.{name}]
targets = ["rig/{name}"]
command = [{command}]
memory = "16MiB"
idle_s = "never"
"""

    return f"""
[server]
port = {port}
api_keys = [{rig.toml_string(KEY)}]
state_dir = {rig.toml_string(str(folder))}
[memory.devices]
ram = "64MiB"
[providers.rig]
kind = "process"
env = {rig.toml_table({"RIG_CPU": str(cores.upstream)})}
{model("echo", FAST)}{model("slow", SLOW)}"""


def _remote_toml(folder: Path, port: int, upstreams: Upstreams) -> str:
    def upstream(name: str, address: int) -> str:
        return f"""
[providers.up_{name}]
kind = "openai"
base_url = "http://127.0.0.1:{address}/v1"
models = ["{name}"]
max_concurrent = 100000
[models.{name}]
targets = ["up_{name}/{name}"]
"""

    return f"""
[server]
port = {port}
api_keys = [{rig.toml_string(KEY)}]
state_dir = {rig.toml_string(str(folder))}
{upstream("echo", upstreams.fast)}{upstream("slow", upstreams.slow)}"""
