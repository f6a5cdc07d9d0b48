"""Engines by the operator's own command: up when they say so, and nothing left when they do not come up."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from providers.command import UNKNOWN_BYTES, CommandProvider
from providers.contract import EngineSpec, Loader, ProcessExit, Provider, Request
from providers.engine import ProcessEngine
from providers.errors import LoadFailed, UpstreamUnreachable
from providers.listeners import is_ours, listening_sockets
from providers.readiness import health_status
from providers.sweep import OWNER, find_marked, mark
from providers.vllm import LOAD_TIMEOUT_S, VllmProvider
from providers.warden import Warden
from tests.fakes.processes import ENGINE, alive, pids, ready_at_s, until

PLAIN = (*ENGINE, "--port", "${port}", "--model", "${alias}")


def spec(*flags: str, **fields: Any) -> EngineSpec:
    """The fake engine as target "own/tiny"."""
    plain: dict[str, Any] = {"target": "own/tiny", "alias": "tiny", "command": PLAIN, "args": flags}
    return EngineSpec(**plain | fields)


class Bench:
    """A provider, and what became of its engines."""

    def __init__(self) -> None:
        self.warden = Warden()
        self.provider = CommandProvider("own", {}, self.warden, frozenset({"UPSTREAM_KEY"}))
        self.exits: list[ProcessExit] = []

    async def load(self, *flags: str, **fields: Any) -> ProcessEngine:
        """Bring one up."""
        return await self.provider.load(spec(*flags, **fields), self.exits.append)

    async def fails(self, *flags: str, **fields: Any) -> LoadFailed:
        """Try to; no process is left, and nobody is told of an exit."""
        with pytest.raises(LoadFailed) as caught:
            await self.load(*flags, **fields)
        assert self.left() == set()
        assert self.exits == []
        assert caught.value.source == "own"
        return caught.value

    def left(self) -> set[int]:
        """The processes of all its engines."""
        return find_marked(mark(OWNER, self.warden.owner))


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    """Its warden kills what a failed test leaves."""
    made = Bench()
    yield made
    await made.warden.aclose()


async def ask(engine: ProcessEngine, path: bytes, body: object = None) -> Any:
    """One exchange; the answer's JSON."""
    method, raw = (b"GET", b"") if body is None else (b"POST", json.dumps(body).encode())
    response = await engine.send(Request(method=method, path=path, headers=[], body=raw))
    try:
        return json.loads(await response.read(1 << 20))
    finally:
        response.close()


def test_it_is_a_provider_and_a_loader(bench: Bench) -> None:
    """Both contracts, as the type checker sees them."""
    provider: Provider = bench.provider
    loader: Loader | None = provider.loader
    assert loader is bench.provider


async def test_engine_answers_under_its_public_name_when_loaded(bench: Bench) -> None:
    """Loaded, spoken to, stopped: the whole life of an engine, and one report at its end."""
    engine = await bench.load("--grandchild", "setsid")
    answer = await ask(engine, b"/v1/chat/completions", {"max_tokens": 2})
    assert answer["model"] == "tiny"
    assert answer["choices"][0]["message"]["content"] == "token0 token1 "
    everyone = pids(engine.log_lines())
    assert engine.pid == everyone[0]
    await asyncio.gather(engine.stop(), engine.stop())
    assert not any(map(alive, everyone))
    await until(lambda: bool(bench.exits))
    await engine.stop()
    assert [(end.exit_code, end.asked) for end in bench.exits] == [(0, True)]
    with pytest.raises(UpstreamUnreachable):
        await ask(engine, b"/health")


async def test_readiness_is_seen_within_20_ms_of_the_engine_s_own(bench: Bench) -> None:
    """The best of three: a busy machine may delay one, a slower poll would delay all."""
    late_s: list[float] = []
    for _ in range(3):
        engine = await bench.load("--boot-s", "0.1")
        late_s.append(time.monotonic() - ready_at_s(engine.log_lines()))
        await engine.stop()
    assert min(late_s) < 0.02


async def test_load_waits_when_health_is_not_200_yet(bench: Bench) -> None:
    """An engine that listens while it loads is not taken for ready."""
    engine = await bench.load("--listen-first", "--boot-s", "0.2")
    assert any(line.startswith("engine ready") for line in engine.log_lines())
    await engine.stop()


async def test_failure_tells_code_and_lines_when_the_engine_exits_in_its_boot(bench: Bench) -> None:
    """The last line is in the message, without the folders of this machine; all are beside it."""
    lines = ("loading", "cannot open '/srv/models/secret/tiny.bin': no such file")
    began_s = time.monotonic()
    error = await bench.fails("--say", lines[0], "--say", lines[1], "--fail-code", "3")
    assert time.monotonic() - began_s < 5
    assert error.exit_code == 3
    assert error.log_lines[-2:] == lines
    assert error.message == (
        "engine for 'tiny' exited with code 3 before it was ready: cannot open 'tiny.bin': no such file"
    )


async def test_failure_explains_the_signal_when_the_engine_is_killed_in_its_boot(bench: Bench) -> None:
    """SIGILL is a build for another CPU: say so."""
    command = (sys.executable, "-c", "import os; os.kill(os.getpid(), 4)", "${port}")
    error = await bench.fails(command=command)
    assert error.exit_code == -signal.SIGILL
    assert "signal 4 (SIGILL)" in error.message
    assert "CPU instruction" in error.message


async def test_failure_comes_in_time_when_the_engine_is_never_ready(bench: Bench) -> None:
    """The limit of the load holds, and the engine that ignores TERM is gone too."""
    error = await bench.fails(
        "--never-ready", "--ignore-term", "--grandchild", "setsid", load_timeout_s=0.4, stop_timeout_s=0.1
    )
    assert error.exit_code is None
    assert "not ready after 0.4 s" in error.message
    assert pids(error.log_lines)


async def test_nothing_is_left_when_the_load_is_cancelled(bench: Bench) -> None:
    """Also when the engine has grandchildren already."""
    loading = asyncio.ensure_future(bench.load("--never-ready", "--grandchild", "setsid", "--grandchild", "plain"))
    await until(lambda: len(bench.left()) == 3)
    loading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loading
    assert bench.left() == set()
    assert bench.exits == []


async def test_engine_killed_while_loading_fails_the_load_at_once(bench: Bench) -> None:
    """A death ends the wait, not the time limit."""
    loading = asyncio.ensure_future(bench.load("--never-ready"))
    await until(lambda: bool(bench.left()))
    os.kill(next(iter(bench.left())), signal.SIGKILL)
    with pytest.raises(LoadFailed) as caught:
        await asyncio.wait_for(loading, 5)
    assert caught.value.exit_code == -signal.SIGKILL
    assert "lack of memory" in caught.value.message


async def test_loads_do_not_disturb_each_other_when_concurrent(bench: Bench) -> None:
    """Every engine has its own port and its own mark; stopping one leaves the others."""
    engines = await asyncio.gather(*(bench.load(alias=f"m{i}") for i in range(5)))
    answers = await asyncio.gather(*(ask(engine, b"/v1/models") for engine in engines))
    assert [answer["data"][0]["id"] for answer in answers] == [f"m{i}" for i in range(5)]
    await engines[0].stop()
    assert [alive(engine.pid) for engine in engines] == [False, True, True, True, True]
    await asyncio.gather(*(engine.stop() for engine in engines))
    assert bench.left() == set()


async def test_exit_is_told_once_when_the_engine_dies_by_itself(bench: Bench) -> None:
    """An engine may die on its first request; what it said is kept."""
    engine = await bench.load("--die-after-requests", "1", "--die-code", "9")
    await ask(engine, b"/v1/chat/completions", {})
    await until(lambda: bool(bench.exits))
    await engine.stop()
    assert [(end.exit_code, end.asked) for end in bench.exits] == [(9, False)]
    assert bench.exits[0].log_lines == engine.log_lines()


async def test_environment_reaches_the_engine_as_configured(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our keys are held back, the GPU is chosen by the device, and the spec's own variables are filled in."""
    monkeypatch.setenv("UPSTREAM_KEY", "hidden")
    monkeypatch.setenv("OPERATORS", "own")
    engine = await bench.load(device="gpu1", env={"PORT": "${port}", "INDEX": "${device_index}"})
    env = await ask(engine, b"/env")
    port = next(line for line in engine.log_lines() if line.startswith("engine ready")).split()[2].removeprefix("port=")
    await engine.stop()
    assert "UPSTREAM_KEY" not in env
    shown = {name: env.get(name) for name in ("OPERATORS", "CUDA_VISIBLE_DEVICES", "PORT", "INDEX", "OMP_WAIT_POLICY")}
    assert shown == {
        "OPERATORS": "own",
        "CUDA_VISIBLE_DEVICES": "1",
        "PORT": port,
        "INDEX": "1",
        "OMP_WAIT_POLICY": "passive",
    }


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"command": ("no-such-program", "${port}")}, "cannot start 'no-such-program' for 'tiny': No such file"),
        ({"command": ("/", "${port}")}, "Permission denied"),
        ({"command": ()}, "not told its port"),
        ({"command": ("sleep", "60")}, "put ${port} into its command, args or env"),
        ({"args": ("${prot}",)}, "${prot} in the command of 'tiny' is not known; there are: alias, context"),
        ({"args": ("${source}",)}, "needs a source"),
        ({"args": ("${device_index}",)}, 'needs device = "gpuN"'),
        ({"args": ("a\0b",)}, "malformed"),
    ],
)
async def test_failure_says_what_to_do_when_the_command_cannot_be_run(
    bench: Bench, fields: dict[str, Any], said: str
) -> None:
    """Nothing is started with nonsense in its arguments."""
    assert said in (await bench.fails(**fields)).message


async def test_load_fails_when_a_stranger_answers_on_the_port(bench: Bench, tmp_path: Path) -> None:
    """What answers must be our child: else the model's callers would talk to another program."""
    wrapper = tmp_path / "wrapper.py"
    wrapper.write_text("import subprocess, sys\nsubprocess.run(sys.argv[1:])\n")
    engine = await bench.load(command=(sys.executable, str(wrapper), *PLAIN))  # its child listens: that is ours too
    port = int(next(line for line in engine.log_lines() if "port=" in line).split()[2].removeprefix("port="))
    assert await asyncio.to_thread(is_ours, port, engine.pid, b"NOT=marked")
    await engine.stop()
    with socket.create_server(("127.0.0.1", 0)) as ours:
        threading.Thread(target=_answer_forever, args=(ours,), daemon=True).start()
        stranger = str(ours.getsockname()[1])
        assert await health_status(int(stranger), "/health") == 200
        assert not await asyncio.to_thread(is_ours, int(stranger), 1, b"NOT=marked")


def _answer_forever(listener: socket.socket) -> None:
    """A server that knows nothing but 200."""
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")


def test_listening_sockets_are_found_on_both_families() -> None:
    """An engine may listen on IPv6 only; connections that are no listeners do not count."""
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with socket.socket(family) as server:
            server.bind((host, 0))
            port = server.getsockname()[1]
            assert listening_sockets(port) == set()
            server.listen()
            with socket.create_connection((host, port)):
                assert listening_sockets(port) == {os.readlink(f"/proc/self/fd/{server.fileno()}")}


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (b"HTTP/1.1 503 Busy\r\n\r\n", 503),
        (b"HTTP/1.0 200 OK\r\n\r\n", 200),
        (b"SSH-2.0-x\r\n", 0),
        (b"HTTP/1.1 2", 0),
        (b"", 0),
    ],
)
async def test_health_status_is_0_when_the_answer_is_no_http(answer: bytes, status: int) -> None:
    """Whatever a port says, the question ends."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        assert await health_status(server.sockets[0].getsockname()[1], "/health") == status


async def test_health_status_is_0_when_nobody_answers_in_time() -> None:
    """A listener that is silent is asked anew by the caller, not waited for."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert await health_status(silent.getsockname()[1], "/health", answer_s=0.05) == 0


def test_estimate_is_the_operator_s_word_else_the_weights_else_the_default(bench: Bench, tmp_path: Path) -> None:
    """In this order; on the device where the weights go."""
    weights = tmp_path / "weights"
    weights.mkdir()
    for part in ("a.safetensors", "b.safetensors"):
        (weights / part).write_bytes(bytes(500))
    estimate = bench.provider.estimate
    assert estimate(spec(declared={"gpu0": 7})) == {"gpu0": 7}
    assert estimate(spec(source=weights, device="gpu0")) == {"gpu0": 1100}
    assert estimate(spec(source=weights / "a.safetensors")) == {"ram": 550}
    assert estimate(spec()) == {"ram": UNKNOWN_BYTES}
    with pytest.raises(LoadFailed, match=re.escape("the weights of 'tiny' cannot be read: gone.bin")) as caught:
        estimate(spec(source=weights / "gone.bin"))
    assert str(tmp_path) not in caught.value.message


async def test_catalogue_is_what_is_configured() -> None:
    """Without starting anything; and there is no upstream to send to."""
    warden = Warden()
    provider = CommandProvider("own", {"own/org/tiny:1": spec(target="own/org/tiny:1", context=512)}, warden)
    (offer,) = await provider.catalogue()
    assert (offer.name, offer.context_length) == ("org/tiny:1", 512)
    with pytest.raises(UpstreamUnreachable):
        await provider.send(Request(method=b"GET", path=b"/", headers=[], body=b""))
    assert warden.pid is None


def test_vllm_is_a_command_written_for_the_operator() -> None:
    """The weights by path or by name, our alias, and limits that fit how long it takes."""
    plain = EngineSpec(target="v/Qwen/Qwen3-8B", alias="qwen", context=8192, device="gpu0", args=("--enforce-eager",))
    own = msgspec.structs.replace(plain, target="v/own", command=("my-vllm", "${port}"), load_timeout_s=60.0)
    provider = VllmProvider("v", {plain.target: plain, own.target: own}, Warden(), binary="/opt/vllm")
    made = provider.specs()[plain.target]
    assert made.command[:3] == ("/opt/vllm", "serve", "${model}")
    assert "--max-num-seqs" not in made.command
    assert made.args == plain.args
    assert made.load_timeout_s == LOAD_TIMEOUT_S
    assert provider.specs()[own.target] == own
