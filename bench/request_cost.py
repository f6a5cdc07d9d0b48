"""What one plain request costs in our own process: sockets, the upstream and the load left out.

    python -m bench.request_cost [--json] [--passes N]

The law: the whole gateway is there as the command line builds it, with an engine that it has started; only the two sockets are
replaced by transports that answer at once. So what is left is Python's work, which is what a change to the data path changes; the
kernel's part is `bench.proxies`' to measure. CPU time of the whole process, threads too. Ways take turns in processes of their own;
the cheapest turn counts, since the machine is shared.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import uvloop

from config.load import load
from gateway.app import gateway
from gateway.serving import server_config

from . import contenders, machine, rig

PASSES = 4
TURNS, REQUESTS = 12, 800
_OFF = "[ledger]\nenabled = false\n"
# What is added to the configuration of `bench.proxies`, which has a key and the ledger.
WAYS: Mapping[str, str] = {
    "key, metrics, ledger": "",
    "… and limits": '[keys.k]\nkey = "sk-limited"\nrpm = 1000000000\ntpm = 1000000000\nconcurrent = 1000\n',
    "key, metrics": _OFF,
    "no key, metrics": _OFF,
}
_BODY = b'{"model": "echo", "messages": [{"role": "user", "content": "What is a roundhouse?"}], "max_tokens": 64}'
_SAID = (
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1700000000,"model":"echo","choices":[{"index":0,"message":'
    b'{"role":"assistant","content":"A building for locomotives, around a turntable."},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":12,"completion_tokens":10,"total_tokens":22}}'
)
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(_SAID) + _SAID


def question(key: str) -> bytes:
    """A request as an SDK sends it, with fewer fields."""
    lines = [b"POST /v1/chat/completions HTTP/1.1", b"Host: 127.0.0.1:8080"]
    lines += [b"Authorization: Bearer " + key.encode()] if key else []
    lines += [b"Content-Type: application/json", b"Accept: application/json", b"User-Agent: bench/1"]
    return b"\r\n".join([*lines, b"Content-Length: %d" % len(_BODY), b"", _BODY])


class Wire(asyncio.Transport):
    """A transport that hands what is written to a function."""

    def __init__(self, written: Callable[[bytes], object]) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self._written = written

    def write(self, data: Any) -> None:
        self._written(data)

    def get_write_buffer_size(self) -> int:
        return 0

    def close(self) -> None:
        pass

    def abort(self) -> None:
        pass

    def is_closing(self) -> bool:
        return False


class Loop(uvloop.Loop):
    """Whoever connects gets an upstream that answers every write in the loop's next turn."""

    async def create_connection(self, protocol_factory: Callable[[], Any], *_: Any, **__: Any) -> Any:
        protocol = protocol_factory()
        wire = Wire(lambda _: self.call_soon(protocol.data_received, _ANSWER))
        protocol.connection_made(wire)
        return wire, protocol


class ServerState:
    """As uvicorn's server keeps it."""

    def __init__(self) -> None:
        self.connections: set[Any] = set()
        self.tasks: set[asyncio.Task[None]] = set()
        self.default_headers = [(b"date", b"Sun, 22 Nov 2026 12:00:00 GMT")]


class Caller:
    """One connection that asks again as soon as it is answered."""

    def __init__(self, make: Callable[..., Any], asked: bytes) -> None:
        self._loop = asyncio.get_running_loop()
        self._asked = asked
        self._left = 0
        self._done: asyncio.Future[bytes] = self._loop.create_future()
        self._connection = make(None, ServerState(), {}, self._loop)
        self._connection.connection_made(Wire(self._answered))

    async def ask(self, times: int) -> bytes:
        """The last answer."""
        self._left, self._done = times, self._loop.create_future()
        self._connection.data_received(self._asked)
        return await self._done

    def _answered(self, data: bytes) -> None:
        self._left -= 1
        if self._left:
            self._loop.call_soon(self._connection.data_received, self._asked)
        else:
            self._done.set_result(data)


async def measured_us(way: str) -> float:
    """CPU µs of one request."""
    with tempfile.TemporaryDirectory(prefix="rh-bench-") as folder:
        toml = contenders.configuration(Path(folder), 0, machine.cores())
        if way == "no key, metrics":
            toml = toml.replace(f"api_keys = [{rig.toml_string(contenders.KEY)}]\n", "")
        path = Path(folder) / "roundhouse.toml"
        path.write_text(toml + WAYS[way])
        async with gateway(load(path, dict(os.environ))) as parts:
            config = server_config(parts, 1)
            key = "" if way == "no key, metrics" else "sk-limited" if way == "… and limits" else contenders.KEY
            caller = Caller(cast("Callable[..., Any]", config.http), question(key))
            answer = await caller.ask(200)
            assert b" 200 " in answer[:20], answer
            lowest = float("inf")
            for _ in range(TURNS):
                before_s = time.process_time()
                await caller.ask(REQUESTS)
                await asyncio.sleep(0)
                lowest = min(lowest, (time.process_time() - before_s) / REQUESTS * 1e6)
            return lowest


def all_ways(passes: int) -> dict[str, float]:
    """By way, the cheapest of so many turns."""
    found = dict.fromkeys(WAYS, float("inf"))
    for number in range(passes):
        for way in list(WAYS) if number % 2 == 0 else reversed(list(WAYS)):
            argv = [sys.executable, "-m", "bench.request_cost", "--way", way]
            done = subprocess.run(argv, check=True, capture_output=True, text=True)
            found[way] = min(found[way], float(done.stdout))
    return found


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.request_cost", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--passes", type=int, default=PASSES)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--way", choices=WAYS, help="only this one, in this process")
    options = parser.parse_args()
    rig.build()
    if options.way:
        with asyncio.Runner(loop_factory=Loop) as runner:
            print(runner.run(measured_us(options.way)))
        return 0
    found = all_ways(options.passes)
    if options.json:
        print(json.dumps(found, ensure_ascii=False))
    else:
        print("CPU µs of a plain request in our process, sockets left out")
        for way, cost_us in found.items():
            print(f"  {way:24} {cost_us:6.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
