"""Children: noticed when they die, gone when they are stopped, and never left behind."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import uvloop

from providers.childlog import LINE_CHARS, LINES_KEPT, ChildLog
from providers.contract import ProcessExit
from providers.ports import Ports, free_port
from providers.process import Child, engine_environment, spawn, watch_exit
from providers.sweep import OWNER, find_marked, kill_marked, mark
from providers.warden import Warden
from tests.fakes.processes import ENGINE, ROOT, alive, pids, until

NOTICED_S = 0.5  # a poll by seconds would be later; two busy cores are not


def start(*flags: str, stop_timeout_s: float = 5.0) -> Child:
    """A fake engine on a port of its own choice."""
    env = engine_environment(os.environ, owner="test")
    return spawn([*ENGINE, "--port", "0", *flags], env=env, stop_timeout_s=stop_timeout_s)


def exits_with(code: int) -> subprocess.Popen[bytes]:
    """A process that does nothing else."""
    return subprocess.Popen([sys.executable, "-I", "-S", "-c", f"raise SystemExit({code})"])


async def up(child: Child) -> list[int]:
    """Wait until it is ready; the ids of all its processes."""
    await until(lambda: any(line.startswith("engine ready") for line in child.log_lines()))
    return pids(child.log_lines())


@pytest.fixture
async def warden() -> AsyncIterator[Warden]:
    """One that is gone after the test."""
    made = Warden()
    yield made
    await made.aclose()


async def test_death_is_noticed_at_once_when_the_child_is_killed() -> None:
    """No poll stands between a death and its report."""
    child = start()
    await up(child)
    ends: list[ProcessExit] = []
    child.when_gone(ends.append)
    killed_s = time.monotonic()
    os.kill(child.pid, signal.SIGKILL)
    end = await child.gone()
    assert time.monotonic() - killed_s < NOTICED_S
    assert (end.exit_code, end.asked) == (-signal.SIGKILL, False)
    await until(lambda: bool(ends))
    assert ends == [end]


@pytest.mark.parametrize("pidfd", [True, False])
async def test_exit_is_told_when_the_kernel_has_no_pidfds_too(pidfd: bool) -> None:
    """The thread that stands in for a pidfd tells the same, and leaves the reaping to us."""
    with exits_with(7) as process:
        told = asyncio.Event()
        watch_exit(process, told.set, pidfd=pidfd)
        async with asyncio.timeout(10):
            await told.wait()
        assert process.poll() == 7


async def test_death_is_noticed_when_a_grandchild_holds_the_pipe() -> None:
    """Not the end of the output but the end of the process counts; its last words are kept all the same."""
    child = start("--grandchild", "setsid", "--say", "last words", "--fail-code", "3")
    end = await asyncio.wait_for(child.gone(), 10)
    assert end.exit_code == 3
    assert "last words" in end.log_lines
    assert not any(map(alive, pids(end.log_lines)))


async def test_grandchildren_are_killed_when_the_root_dies_by_itself() -> None:
    """An engine whose root is gone is no engine: what it left gives its memory back."""
    child = start("--grandchild", "plain", "--grandchild", "setsid")
    everyone = await up(child)
    os.kill(child.pid, signal.SIGKILL)
    await asyncio.wait_for(child.gone(), 10)
    assert len(everyone) == 3
    assert not any(map(alive, everyone))


async def test_stop_leaves_no_process_when_grandchildren_made_their_own_session() -> None:
    """The mark in the environment finds what the process group does not."""
    child = start("--grandchild", "plain", "--grandchild", "setsid")
    everyone = await up(child)
    assert all(map(alive, everyone))
    await child.stop()
    assert not any(map(alive, everyone))
    end = await child.gone()
    assert (end.exit_code, end.asked) == (0, True)


async def test_stop_kills_when_the_engine_ignores_term() -> None:
    """TERM first, KILL after the limit."""
    child = start("--ignore-term", stop_timeout_s=0.2)
    everyone = await up(child)
    began_s = time.monotonic()
    await child.stop()
    assert 0.2 <= time.monotonic() - began_s < 5
    assert (await child.gone()).exit_code == -signal.SIGKILL
    assert not any(map(alive, everyone))


async def test_stop_is_one_when_called_twice_at_once() -> None:
    """Every caller returns after the end, and a call afterwards returns at once."""
    child = start("--stop-s", "0.05")
    await up(child)
    await asyncio.gather(child.stop(), child.stop())
    assert not alive(child.pid)
    await child.stop()


async def test_stop_finishes_when_it_is_cancelled() -> None:
    """The canceller gets its cancellation, but only after nothing is left."""
    child = start("--ignore-term", stop_timeout_s=0.3)
    await up(child)
    stopping = asyncio.ensure_future(child.stop())
    await asyncio.sleep(0)  # it has begun
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    assert not alive(child.pid)
    assert (await child.gone()).asked


def test_child_is_killed_when_the_loop_is_torn_down() -> None:
    """A loop that ends without stopping its children does not leave them running."""

    async def forget() -> int:
        child = start("--ignore-term")
        await up(child)
        return child.pid

    assert not alive(asyncio.run(forget()))


def test_supervision_works_when_the_loop_is_uvloop() -> None:
    """Pidfd, pipe and sweep are watched by libuv as well."""

    async def live() -> tuple[ProcessExit, ProcessExit, list[int]]:
        killed, stopped = start("--grandchild", "setsid"), start()
        everyone = [*await up(killed), *await up(stopped)]
        os.kill(killed.pid, signal.SIGKILL)
        await stopped.stop()
        return await killed.gone(), await stopped.gone(), everyone

    first, second, everyone = uvloop.run(live())
    assert (first.asked, second.asked) == (False, True)
    assert not any(map(alive, everyone))


async def test_log_is_bounded_when_the_child_prints_without_end() -> None:
    """32 MiB without a newline take no memory, and the loop goes on turning meanwhile."""
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    turning = asyncio.ensure_future(turn())
    child = start("--flood-mb", "32", "--fail-code", "5")
    end = await asyncio.wait_for(child.gone(), 30)
    turning.cancel()
    assert end.exit_code == 5
    assert len(end.log_lines[-1]) == LINE_CHARS
    assert turns > 32  # a reader that drained the pipe to its end in one callback would allow far fewer


def test_log_keeps_the_last_lines_when_there_are_many() -> None:
    """Oldest first, whatever pieces they come in."""
    log = ChildLog()
    text = b"".join(b"line %d\n" % i for i in range(1000))
    for at in range(0, len(text), 7):
        log.feed(text[at : at + 7])
    assert log.lines() == tuple(f"line {i}" for i in range(1000 - LINES_KEPT, 1000))


def test_log_line_is_plain_text_when_it_was_for_a_terminal() -> None:
    """Escapes, control characters and overwritten progress go; what is no UTF-8 is replaced, nothing is raised."""
    seen: list[str] = []
    log = ChildLog(seen.append)
    log.feed(b"\x1b[1;31mred\x1b[0m \x1b]0;title\x07text\r\n 10%\r 99%\rdone\nbad \xff\xfe\x00byte\n" + b"y" * 9000)
    assert seen == ["red text", "done", "bad \ufffd\ufffdbyte"]
    assert log.lines()[-1] == "y" * LINE_CHARS


def test_environment_holds_no_secret_of_ours_when_an_engine_is_started() -> None:
    """Keys of upstreams are not for engines; the engine's own settings win over the operator's."""
    base = {"PATH": "/bin", "OPENROUTER_API_KEY": "hidden", "LEVEL": "1"}
    env = engine_environment(base, owner="me", secret_env=frozenset({"OPENROUTER_API_KEY"}), extra={"LEVEL": "2"})
    assert env == {"PATH": "/bin", "LEVEL": "2", "OMP_WAIT_POLICY": "passive", OWNER: "me"}


def test_port_is_kept_when_it_was_found_free() -> None:
    """The kernel refuses it to a plain bind, as it would to `bind(0)`, and lets a server with SO_REUSEADDR in."""
    port = free_port()
    with socket.socket() as stranger, pytest.raises(OSError, match=os.strerror(errno.EADDRINUSE)):
        stranger.bind(("127.0.0.1", port))
    for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
        with socket.socket() as server:
            server.setsockopt(socket.SOL_SOCKET, option, 1)
            server.bind(("127.0.0.1", port))
            server.listen()


def test_ports_are_distinct_until_given_back() -> None:
    """Two engines never get the same."""
    ports = Ports()
    taken = {ports.take() for _ in range(50)}
    assert len(taken) == 50
    assert ports.held() == taken
    ports.give_back(min(taken))
    assert ports.held() == taken - {min(taken)}


def test_sweep_kills_only_what_carries_the_mark() -> None:
    """A name that begins alike is another name; a descendant with an emptied environment belongs to it."""
    family = "import subprocess, sys; subprocess.run([sys.executable, '-I', '-S', '-c', 'input()'], env={})"
    command = [sys.executable, "-I", "-S", "-c"]
    entry = mark(OWNER, "sweep-test")
    with (
        subprocess.Popen([*command, family], env={OWNER: "sweep-test"}, stdin=subprocess.PIPE) as marked,
        subprocess.Popen([*command, "input()"], env={OWNER: "sweep-test-2"}, stdin=subprocess.PIPE) as other,
    ):
        deadline_s = time.monotonic() + 10
        while len(found := find_marked(entry)) < 2:
            assert time.monotonic() < deadline_s
        assert marked.pid in found
        assert other.pid not in found
        assert kill_marked(entry, bound_s=5.0) == set()
        assert not any(map(alive, found))
        assert alive(other.pid)
        other.kill()


GATEWAY = """
import asyncio, os, sys
from providers.process import engine_environment, spawn
from providers.warden import Warden

async def main():
    warden = Warden()
    await warden.ensure()
    env = engine_environment(os.environ, owner=warden.owner)
    child = spawn(sys.argv[1:], env=env, stop_timeout_s=5.0)
    while not any(line.startswith("engine ready") for line in child.log_lines()):
        await asyncio.sleep(0.002)
    print("warden pid=%d" % warden.pid, *child.log_lines(), sep="\\n", flush=True)
    await child.gone()

asyncio.run(main())
"""


def run_gateway(tmp_path: Path) -> tuple[subprocess.Popen[str], int, list[int]]:
    """A process that holds one engine with two grandchildren: it, its warden, the engine's processes."""
    script = tmp_path / "gateway.py"
    script.write_text(GATEWAY)
    flags = ("--port", "0", "--grandchild", "plain", "--grandchild", "setsid", "--ignore-term")
    gateway = subprocess.Popen(
        [sys.executable, str(script), *ENGINE, *flags],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert gateway.stdout is not None
    lines: list[str] = []
    while not lines or not lines[-1].startswith("engine ready"):
        lines.append(gateway.stdout.readline().strip())
        assert lines[-1], lines
    return gateway, pids(lines, "warden")[0], pids(lines)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_nothing_is_left_when_the_gateway_is_killed(tmp_path: Path, number: signal.Signals) -> None:
    """Neither engine nor grandchild nor warden outlives a gateway that had no time to stop them."""
    gateway, warden_pid, everyone = run_gateway(tmp_path)
    with gateway:
        assert len(everyone) == 3
        assert all(map(alive, [warden_pid, *everyone]))
        gateway.send_signal(number)
        await until(lambda: not any(map(alive, [warden_pid, *everyone])))


async def test_warden_is_replaced_when_it_dies(warden: Warden) -> None:
    """Engines are not unguarded for longer than it takes to start another."""
    await warden.ensure()
    first = warden.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    await until(lambda: warden.pid not in (None, first))
    second = warden.pid
    await warden.ensure()
    assert warden.pid == second


async def test_warden_stays_when_it_is_asked_to_end(warden: Warden) -> None:
    """Signals that are sent to a whole session or service do not make it leave its post."""
    await warden.ensure()
    pid = warden.pid
    assert pid is not None
    # Until Python runs its first lines, the signals still have their default effect.
    await until(lambda: _ignores(pid, signal.SIGHUP, signal.SIGINT, signal.SIGTERM))
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        os.kill(pid, number)
    await warden.ensure()
    assert alive(pid)
    assert warden.pid == pid


def _ignores(pid: int, *numbers: signal.Signals) -> bool:
    """Whether it ignores all of them."""
    status = Path(f"/proc/{pid}/status").read_text()
    mask = int(next(line for line in status.splitlines() if line.startswith("SigIgn:")).split()[1], 16)
    return all(mask >> (number - 1) & 1 for number in numbers)


async def test_engines_end_when_the_warden_is_closed() -> None:
    """What residency forgot to stop does not outlive the gateway's orderly end either."""
    warden = Warden()
    await warden.ensure()
    warden_pid = warden.pid
    assert warden_pid is not None
    env = engine_environment(os.environ, owner=warden.owner)
    child = spawn([*ENGINE, "--port", "0", "--ignore-term"], env=env, stop_timeout_s=5.0)
    await up(child)
    await asyncio.gather(warden.aclose(), warden.aclose())
    assert not alive(warden_pid)
    assert (await asyncio.wait_for(child.gone(), 10)).exit_code == -signal.SIGKILL


async def test_pipe_of_the_warden_is_not_inherited_by_engines(warden: Warden) -> None:
    """An engine that held it would keep the warden from ever noticing the gateway's end."""
    await warden.ensure()
    child = start()
    await up(child)
    pipes = {os.readlink(f"/proc/{child.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{child.pid}/fd")}
    warden_pid = warden.pid
    assert os.readlink(f"/proc/{warden_pid}/fd/0") not in pipes
    await child.stop()
