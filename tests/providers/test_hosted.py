"""Servers started by the operator's command: up, up again after every death, and nothing left of them afterwards."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from config.forms import Secret
from config.schema import ProviderConfig
from providers.contract import Request
from providers.hosted import HostedServer, HostedView, Limits, pause_of
from providers.sweep import OWNER, find_marked, mark
from providers.transport import Endpoint
from providers.warden import Warden
from tests.fakes.ollama import FakeModel, FakeOllama
from tests.fakes.processes import ENGINE, alive, pids, until

OLLAMA = (sys.executable, "-m", "tests.fakes.ollama", "--models", "a:latest", "--port", "${port}")
PLAIN = (*ENGINE, "--port", "${port}")  # "/" is 404 there, which is an answer
PYTHON = Path(sys.executable).resolve()
SCRIPT = (sys.executable, "-I", "-S", "-c")
QUICK = Limits(pause_first_s=0.01, pause_max_s=0.02, look_s=0.01)
PATIENT = Limits(pause_first_s=3600.0, pause_max_s=3600.0)  # after a failure it stays as it is


class Bench:
    """Servers, each with its running task; the clock stands still until it is moved."""

    def __init__(self) -> None:
        self.warden = Warden()
        self.now_s = 1000.0
        self._runs: list[asyncio.Task[None]] = []

    def make(self, *command: str, limits: Limits = QUICK, **keys: Any) -> HostedServer:
        """One that is not run yet."""
        config = ProviderConfig(kind="ollama", command=command, **keys)
        return HostedServer(
            "box",
            config,
            self.warden,
            frozenset({"UPSTREAM_KEY"}),
            clock=lambda: self.now_s,
            jitter=lambda: 0.5,
            limits=limits,
        )

    def run(self, *command: str, **keys: Any) -> HostedServer:
        """One that runs."""
        server = self.make(*command, **keys)
        self.start(server)
        return server

    def start(self, server: HostedServer) -> None:
        """Run it until the test is over, or `cancel`."""
        self._runs.append(asyncio.ensure_future(server.run()))

    async def cancel(self) -> None:
        """End all; they end by their cancellation and by nothing else, and leave no process."""
        runs, self._runs = self._runs, []
        for run in runs:
            run.cancel()
        ends = await asyncio.gather(*runs, return_exceptions=True)
        assert [type(end) for end in ends] == [asyncio.CancelledError] * len(runs)
        assert self.left() == set()

    def left(self) -> set[int]:
        """The processes of all servers."""
        return find_marked(mark(OWNER, self.warden.owner))


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    """Every test ends with the check that nothing is left."""
    made = Bench()
    try:
        yield made
        await made.cancel()
    finally:
        await made.warden.aclose()


def is_up(server: HostedServer, restarts: int = 0) -> Callable[[], bool]:
    """The condition to wait for."""
    return lambda: server.state == "up" and server.view().restarts == restarts


async def failed(server: HostedServer) -> HostedView:
    """Wait for its next failure."""
    await until(lambda: server.state == "failed")
    return server.view()


async def ask(base_url: str, path: bytes) -> Any:
    """One GET; the answer's JSON."""
    endpoint = Endpoint(base_url, source="test")
    try:
        response = await endpoint.send(Request(method=b"GET", path=path, headers=[], body=b""))
        return json.loads(await response.read(1 << 20))
    finally:
        await endpoint.aclose()


def port_of(server: HostedServer) -> int:
    """Of its address."""
    return int(server.base_url.rpartition(":")[2])


async def test_ollama_is_started_on_a_port_of_ours_and_killed_and_started_again_there(bench: Bench) -> None:
    """Its whole life: the address stays the same, whoever holds it speaks to the next server."""
    server = bench.make(*OLLAMA)
    assert server.view() == HostedView(
        state="stopped", base_url=server.base_url, pid=None, restarts=0, failures=0, reason="", log_lines=()
    )
    bench.start(server)
    await until(is_up(server))
    first = server.pid
    assert first is not None
    assert server.log_lines() == (str(port_of(server)),)
    assert [each["name"] for each in (await ask(server.base_url, b"/api/tags"))["models"]] == ["a:latest"]
    os.kill(first, signal.SIGKILL)
    await until(is_up(server, restarts=1))
    assert server.pid not in (None, first)
    assert not alive(first)
    assert (await ask(server.base_url, b"/api/tags"))["models"]
    assert (server.view().reason, server.view().failures) == ("", 1)
    await bench.cancel()
    assert (server.state, server.pid) == ("stopped", None)


async def test_death_of_a_server_is_told_when_it_was_up(bench: Bench) -> None:
    """How it ended and its last words, while nobody has started it again yet."""
    server = bench.run(*PLAIN, "--say", "out of memory", limits=PATIENT)
    await until(is_up(server))
    pid = server.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    view = await failed(server)
    assert view.reason.startswith("the server was killed by signal 9: engine ready port=")
    assert view.pid is None
    assert "out of memory" in view.log_lines


async def test_grandchildren_end_with_the_server_when_it_dies_by_itself(bench: Bench) -> None:
    """Runners of a dead Ollama would hold the memory that the next one needs."""
    server = bench.run(*PLAIN, "--grandchild", "setsid", "--grandchild", "plain", limits=PATIENT)
    await until(is_up(server))
    everyone = pids(server.log_lines())
    assert len(everyone) == 3
    os.kill(everyone[0], signal.SIGKILL)
    await failed(server)
    await until(lambda: not any(map(alive, everyone)))


async def test_failures_in_a_row_are_counted_and_forgotten_after_a_steady_minute(bench: Bench) -> None:
    """A server that dies once a day is started again at once each day."""
    server = bench.run(*PLAIN)
    for restarts, up_s, failures in ((0, 1.0, 1), (1, 59.0, 2), (2, 60.0, 1)):
        await until(is_up(server, restarts))
        bench.now_s += up_s
        pid = server.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await until(is_up(server, restarts + 1))
        assert server.view().failures == failures


def test_pauses_grow_from_a_second_to_a_minute() -> None:
    """Jittered by a quarter; bounded however often it failed."""
    limits = Limits()
    assert [pause_of(failures, 0.5, limits) for failures in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert (pause_of(0, 0.0, limits), pause_of(10**9, 0.0, limits)) == (0.75, 45.0)
    assert pause_of(0, 0.999, limits) < 1.25


async def test_reason_and_last_lines_are_told_when_the_command_exits_at_once(bench: Bench) -> None:
    """What it said last is in the reason; and it is tried again."""
    server = bench.run(*PLAIN, "--say", "loading", "--say", "no such volume", "--fail-code", "125")
    await until(lambda: server.view().restarts >= 2)
    view = await failed(server)
    assert view.reason == "engine for 'box' exited with code 125 before it was ready: no such volume"
    assert view.log_lines[-2:] == ("loading", "no such volume")
    assert view.failures >= 2


async def test_hint_is_given_when_the_command_goes_into_the_background(bench: Bench) -> None:
    """Exit code 0 before any answer: what it left behind is gone, and the operator is told why."""
    daemon = (
        "import subprocess, sys; subprocess.Popen([sys.executable, '-I', '-S', '-c', 'import time; time.sleep(3600)'])"
    )
    server = bench.run(*SCRIPT, daemon, "${port}", limits=PATIENT)
    view = await failed(server)
    assert view.reason.endswith("exited with code 0 before it was ready; it must stay in the foreground")
    assert bench.left() == set()


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("no-such-program", "${port}"), "cannot start 'no-such-program' for 'box': No such file or directory"),
        (("true\0", "${port}"), "the command of 'box' is empty or malformed"),
    ],
)
async def test_reason_is_told_when_the_command_cannot_be_started(
    bench: Bench, command: tuple[str, ...], said: str
) -> None:
    """An operator's mistake is a state to show; it does not end the task."""
    assert said in (await failed(bench.run(*command, limits=PATIENT))).reason


async def test_server_that_never_answers_is_stopped_and_told(bench: Bench) -> None:
    """The limit holds although TERM is ignored, and its last line is in the reason."""
    limits = Limits(ready_s=0.3, stop_s=0.05, pause_first_s=3600.0)
    server = bench.run(
        *SCRIPT,
        "import signal, time; signal.signal(15, signal.SIG_IGN); print('pulling', flush=True); time.sleep(3600)",
        "${port}",
        limits=limits,
    )
    await until(lambda: bool(bench.left()))
    view = await failed(server)
    assert view.reason == (
        f"the server runs but did not answer at {server.base_url}/ within 0.3 s "
        "(does its command make it listen there?): pulling"
    )
    assert bench.left() == set()


async def test_health_of_its_own_must_answer_200(bench: Bench) -> None:
    """A path that the operator names means "ready"; without one any answer does."""
    other = bench.run(*PLAIN, health="/no-such-page", limits=Limits(ready_s=0.3, pause_first_s=3600.0))
    server = bench.run(*PLAIN, health="/v1/models")
    await until(is_up(server))
    assert f"did not answer at {other.base_url}/no-such-page" in (await failed(other)).reason


async def test_nothing_is_left_when_it_is_cancelled_in_any_state(bench: Bench) -> None:
    """Starting, up, ignoring TERM, between two starts, before its first step: at once, or after the limit by KILL."""
    limits = Limits(stop_s=0.05, pause_first_s=3600.0)
    family = ("--grandchild", "setsid", "--grandchild", "plain", "--ignore-term")
    starting = bench.run(*PLAIN, *family, health="/no-such-page", limits=limits)
    up = bench.run(*PLAIN, *family, limits=limits)
    pausing = bench.run(*PLAIN, *family, "--fail-code", "3", limits=limits)
    await until(is_up(up))
    await failed(pausing)
    await until(lambda: len(bench.left()) == 6)
    assert starting.state == "starting"
    bench.run(*PLAIN, *family, limits=limits)
    await bench.cancel()
    assert (starting.state, up.state, pausing.state) == ("stopped", "stopped", "stopped")
    assert not any(map(alive, pids((*starting.log_lines(), *up.log_lines(), *pausing.log_lines()))))


async def test_environment_reaches_the_server_as_configured(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our keys are held back, its own variables are filled in, and it is shown the GPU that residency counts on."""
    monkeypatch.setenv("UPSTREAM_KEY", "hidden")
    monkeypatch.setenv("OPERATORS", "own")
    env = {"OLLAMA_HOST": Secret("127.0.0.1:${port}"), "TOKEN": Secret("its own")}
    server = bench.make(*ENGINE, args=("--port", "${port}"), env=env, device="gpu1")
    assert "its own" not in repr(server.view())
    bench.start(server)
    await until(is_up(server))
    seen = await ask(server.base_url, b"/env")
    assert "UPSTREAM_KEY" not in seen
    assert {name: seen.get(name) for name in ("OLLAMA_HOST", "TOKEN", "OPERATORS", "CUDA_VISIBLE_DEVICES")} == {
        "OLLAMA_HOST": f"127.0.0.1:{port_of(server)}",
        "TOKEN": "its own",
        "OPERATORS": "own",
        "CUDA_VISIBLE_DEVICES": "1",
    }


async def test_port_may_stand_in_the_environment_alone(bench: Bench) -> None:
    """As `ollama serve` takes it."""
    listen = (
        "import http.server, os; host, _, port = os.environ['OLLAMA_HOST'].partition(':'); "
        "http.server.HTTPServer((host, int(port)), http.server.BaseHTTPRequestHandler).serve_forever()"
    )
    answers_501 = bench.run(*SCRIPT, listen, env={"OLLAMA_HOST": Secret("127.0.0.1:${port}")}, limits=PATIENT)
    listen_200 = listen.replace("BaseHTTP", "SimpleHTTP")
    server = bench.run(*SCRIPT, listen_200, env={"OLLAMA_HOST": Secret("127.0.0.1:${port}")})
    await until(is_up(server))
    await until(lambda: sum("code 501" in line for line in answers_501.log_lines()) > 1)
    assert answers_501.state == "starting"  # a server that breaks at "/" is not up


async def test_reason_is_told_when_the_machine_has_no_descriptor_left(bench: Bench) -> None:
    """It is tried again like any other failure; the task does not end."""
    usual = resource.getrlimit(resource.RLIMIT_NOFILE)
    server = bench.make(*ENGINE, "--port", "11434", base_url="http://127.0.0.1:11434", limits=PATIENT)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1, usual[1]))
    try:
        bench.start(server)
        view = await failed(server)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, usual)
    assert view.reason == "the server cannot be looked at: [Errno 24] Too many open files"


async def test_somebody_s_own_server_is_used_until_it_goes_away(bench: Bench) -> None:
    """The operator's Ollama runs already: it is not doubled; when it ends, ours takes its address, and is ours to restart."""
    async with FakeOllama(FakeModel("own:latest")) as own:
        base_url = f"http://localhost:{own.port}"
        command = (*ENGINE, "--port", str(own.port))
        server = bench.run(*command, base_url=base_url)
        await until(is_up(server))
        assert bench.left() == set()
        view = server.view()
        assert (view.base_url, view.pid, view.restarts, view.log_lines) == (base_url, None, 0, ())
        assert view.reason == f"somebody serves at {base_url} already: that server is used, and none is started"
        other = bench.run(*command, base_url=base_url)
        await until(is_up(other))
        await bench.cancel()
        assert (await ask(own.base_url, b"/api/tags"))["models"]  # it has not been touched
        server = bench.run(*command, base_url=base_url)
        await until(is_up(server))
    await until(lambda: server.pid is not None and server.state == "up")
    assert server.view().reason == ""
    assert (await ask(server.base_url, b"/v1/models"))["object"] == "list"


async def test_somebody_s_own_server_may_miss_one_look(bench: Bench) -> None:
    """It is being restarted, or busy: ours would take its address from under it."""
    looks = 0

    async def answer_every_other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal looks
        looks += 1
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 503 Loading\r\ncontent-length: 0\r\n\r\n" if looks % 2 else b"")
        writer.close()

    async with await asyncio.start_server(answer_every_other, "127.0.0.1", 0) as own:
        port = own.sockets[0].getsockname()[1]
        server = bench.run(*ENGINE, "--port", str(port), base_url=f"http://127.0.0.1:{port}")
        await until(lambda: looks >= 6)
        assert (server.state, server.view().failures, server.log_lines()) == ("up", 0, ())
        await bench.cancel()


async def test_stranger_on_a_port_of_ours_is_not_taken_for_the_server(bench: Bench, tmp_path: Path) -> None:
    """Requests would go to another program. Of a container the client cannot be seen to listen, and is believed."""
    idle = ("-I", "-S", "-c", "import time; time.sleep(3600)", "${port}")
    docker = tmp_path / "docker"
    docker.symlink_to(PYTHON)
    server = bench.make(sys.executable, *idle, limits=PATIENT)
    container = bench.make(str(docker), *idle)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    async with (
        await asyncio.start_server(answer, "127.0.0.1", port_of(server)),
        await asyncio.start_server(answer, "127.0.0.1", port_of(container)),
    ):
        bench.start(server)
        bench.start(container)
        view = await failed(server)
        assert (
            view.reason == f"another process answers on port {port_of(server)} that was meant for the engine; try again"
        )
        assert not view.pid
        await until(is_up(container))


async def test_servers_have_ports_of_their_own(bench: Bench) -> None:
    """Several Ollama instances side by side; a port of ours is refused to others meanwhile."""
    servers = [bench.make(*PLAIN) for _ in range(20)]
    assert len({server.base_url for server in servers}) == 20
    with socket.socket() as stranger, pytest.raises(OSError, match="in use"):
        stranger.bind(("127.0.0.1", port_of(servers[0])))


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"command": ()}, "providers.box: a server that is started here needs a command"),
        ({"command": ("x", "${prot}", "${port}")}, "providers.box: ${prot} in the command of 'box' is not known"),
        ({"command": ("x", "${alias}", "${port}")}, "${alias} in the command of 'box' is not known; there are: port"),
        ({"command": ("x", "${port}"), "env": {"A": Secret("${context}")}}, "${context} in the command of 'box'"),
        ({"command": ("x",)}, "base_url must be http://127.0.0.1:PORT, or the command must hold ${port}"),
        ({"command": ("x",), "base_url": "http://10.0.0.5:11434"}, "the server runs on this machine"),
        ({"command": ("x",), "base_url": "https://127.0.0.1:11434"}, "base_url must be http://"),
    ],
)
async def test_configuration_is_refused_when_it_can_never_work(bench: Bench, keys: dict[str, Any], said: str) -> None:
    """At the start, with the provider's name, rather than at every try."""
    with pytest.raises(ValueError, match=r"^providers\.box: ") as caught:
        bench.make(*keys["command"], **{key: value for key, value in keys.items() if key != "command"})
    assert said in str(caught.value)
