"""Twenty thousand requests through a real gateway that is ended and begun again while they come, and whose database goes away.

The law: callers know nothing of any of it. They ask, over connections that they keep; where one ends without an answer, they ask
again, under another id, as soon as somebody listens. A request that was answered is in the ledger once, whatever the answer was;
one that was not is there at most once.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import pytest

from tests.cli.gateways import Served, served
from tests.fakes.postgres import missing as no_postgres
from tests.fakes.postgres import postgres
from tests.fakes.processes import ROOT, alive, until
from tests.fakes.running import CHAT, ask, chat
from tests.fakes.upstream import Exchange, FakeUpstream
from tests.metering.kept import locked

REQUESTS = 20_000
CALLERS = 32
WITHIN_S = 60.0  # six seconds on a quiet machine

BODY = chat("m")
HEAD = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(BODY)}\r\nx-request-id: "
ANSWER = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "yes"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 7, "completion_tokens": 1, "total_tokens": 8},
}
WORDS = json.dumps(ANSWER).encode()


async def speak(exchange: Exchange) -> None:
    """As short an answer as there can be."""
    await exchange.body()
    await exchange.answer(200, WORDS)


class Line(asyncio.Protocol):
    """A caller's connection: one request after the other. No more than twenty thousand of them need."""

    def __init__(self) -> None:
        self._said = b""
        self._heard: asyncio.Future[bytes] | None = None
        self._transport: asyncio.WriteTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._said += data
        head, found, body = self._said.partition(b"\r\n\r\n")
        if found and self._heard is not None and len(body) == int(field(head, b"content-length")):
            self._heard.set_result(self._said)
            self._heard = None

    def connection_lost(self, exc: Exception | None) -> None:
        if self._heard is not None:
            self._heard.set_exception(exc or ConnectionResetError())

    async def ask(self, name: str) -> bytes:
        """The answer, as it came. Raises: OSError: there is none."""
        if self._transport.is_closing():
            raise ConnectionResetError
        self._said, self._heard = b"", asyncio.get_running_loop().create_future()
        self._transport.write(f"{HEAD}{name}\r\n\r\n".encode() + BODY)
        return await self._heard

    def close(self) -> None:
        """Whatever is under way."""
        self._transport.abort()


def field(head: bytes, name: bytes) -> bytes:
    """Of an answer's header; b"": it has none."""
    return head.partition(b"\r\n" + name + b": ")[2].partition(b"\r\n")[0]


class House:
    """One gateway after the other, on the same state; and what its callers know."""

    def __init__(self, folder: Path, toml: str) -> None:
        self.asked: set[str] = set()
        self.answered: Counter[str] = Counter()
        self.done = 0  # numbers that got a good answer
        self._folder = folder
        self._toml = toml
        self._port = 0
        self._open = asyncio.Event()
        self._stack = ExitStack()
        self._gateway: Served

    async def start(self) -> None:
        """A gateway that takes requests; on another port than the one before."""
        self._gateway = await asyncio.to_thread(self._stack.enter_context, served(self._folder, self._toml))
        self._port = int(self._gateway.url.rpartition(":")[2])
        self._open.set()

    async def end(self) -> None:
        """By SIGTERM, while they ask."""
        self._open.clear()
        assert await asyncio.to_thread(self._gateway.stop) == 0, self._gateway.log.read_text()

    async def restart(self) -> None:
        """Ended, and begun again."""
        await self.end()
        await self.start()

    def close(self) -> None:
        """Nothing of it is left."""
        self._stack.close()

    async def reach(self, count: int) -> None:
        """Until so many numbers have got their answer."""
        await until(lambda: self.done >= count, WITHIN_S)

    # ------------------------------------------------------------ callers

    async def call(self, numbers: Iterator[int]) -> None:
        """One caller: a number at a time, until all are answered."""
        loop = asyncio.get_running_loop()
        number, tries, line = next(numbers, None), 0, None
        while number is not None:
            tries += 1
            try:
                if line is None:
                    await self._open.wait()
                    _, line = await loop.create_connection(Line, "127.0.0.1", self._port)
                good, last = self._take(f"n{number}.{tries}", await line.ask(self._named(f"n{number}.{tries}")))
            except OSError:
                good, last = False, True  # nobody listens any more, or nobody has answered
            if good:
                number, tries = next(numbers, None), 0
            if last and line is not None:
                line.close()
                line = None
        if line is not None:
            line.close()

    def _named(self, name: str) -> str:
        self.asked.add(name)
        return name

    def _take(self, name: str, answer: bytes) -> tuple[bool, bool]:
        """Whether it is a good answer, and whether it is the connection's last one."""
        head, _, body = answer.partition(b"\r\n\r\n")
        good = head.startswith(b"HTTP/1.1 200 ")
        assert field(head, b"x-request-id") == name.encode()
        assert body == WORDS if good else json.loads(body)["error"]["code"] == "shutting_down", answer
        self.answered[name] += 1
        self.done += good
        return good, field(head, b"connection") == b"close"

    # ------------------------------------------------------------ what the gateway says

    async def ledger(self) -> dict[str, float]:
        """How it stands, by the last words of its series' names."""
        text = (await ask(self._port, "GET", "/metrics")).body.decode()
        lines = [line.split() for line in text.splitlines() if line.startswith("roundhouse_ledger_")]
        return {name.removeprefix("roundhouse_ledger_"): float(value) for name, value in lines}

    async def stands(self, name: str, value: float) -> None:
        """Until that series says so."""
        async with asyncio.timeout(WITHIN_S):
            while (await self.ledger())[name] != value:
                await asyncio.wait((asyncio.get_running_loop().create_future(),), timeout=0.02)

    async def kept(self) -> Counter[str]:
        """The ids of all that is in the database."""
        await self.stands("buffered_rows", 0)
        exported = (await ask(self._port, "GET", "/admin/usage/export?format=jsonl")).body.splitlines()
        rows = (await ask(self._port, "GET", "/admin/usage?by=model")).json()["rows"]
        assert sum(row["requests"] for row in rows) == len(exported)
        return Counter(json.loads(line)["id"] for line in exported)


@asynccontextmanager
async def asked(folder: Path, url: str) -> AsyncGenerator[House, None]:
    """A gateway, its upstream, and callers that ask until every number is answered; in the end each is in the ledger once."""
    async with FakeUpstream() as upstream:
        upstream.script(speak)
        toml = f"""
        [server]
        port = 0
        [ledger]
        url = "{url}"
        [providers.up]
        kind = "openai"
        base_url = "{upstream.base_url}"
        models = ["m"]
        """
        house = House(folder, toml)
        try:
            await house.start()
            numbers = iter(range(REQUESTS))
            async with asyncio.TaskGroup() as callers:
                for _ in range(CALLERS):
                    callers.create_task(house.call(numbers))
                yield house
            kept, state = await house.kept(), await house.ledger()
        finally:
            house.close()
    assert house.done == REQUESTS
    assert set(house.answered.values()) == {1}
    assert set(kept.values()) == {1}
    assert set(house.answered) - set(kept) == set()
    assert set(kept) - house.asked == set()
    assert (state["ok"], state["dropped_rows_total"]) == (1, 0)


@pytest.mark.slow
async def test_no_request_is_lost_by_an_end_and_a_lock(tmp_path: Path) -> None:
    """SQLite: ended by SIGTERM and begun again, then locked by another program until the gateway says that it is behind."""
    database = tmp_path / "kept.sqlite3"
    async with asked(tmp_path / "gateway", f"sqlite:///{database}") as house:
        await house.reach(REQUESTS // 4)
        await house.restart()
        await house.reach(REQUESTS // 2)
        with locked(database):
            await house.stands("ok", 0)
            assert (await house.ledger())["buffered_rows"] > 0


@pytest.mark.slow
@pytest.mark.skipif(bool(no_postgres()), reason=no_postgres() or "there is one")
async def test_no_request_is_lost_by_an_end_and_a_restart_of_postgresql(tmp_path: Path) -> None:
    """PostgreSQL: ended and begun again; then the database is stopped, the gateway ended and begun without it, and it is back."""
    with postgres() as cluster:
        async with asked(tmp_path / "gateway", cluster.url) as house:
            await house.reach(REQUESTS // 4)
            await house.restart()
            await house.reach(REQUESTS // 2)
            await asyncio.to_thread(cluster.stop)
            await house.stands("ok", 0)
            await house.restart()
            await house.stands("ok", 0)
            assert (await house.ledger())["buffered_rows"] > 0
            await house.reach(REQUESTS * 3 // 4)
            await asyncio.to_thread(cluster.start)


@pytest.mark.skipif(bool(no_postgres()), reason=no_postgres() or "there is one")
async def test_nothing_of_a_database_is_left_when_the_tests_are_killed() -> None:
    """SIGKILL: its server ends, and its folder is gone."""
    code = "from tests.fakes.postgres import postgres\nwith postgres() as found: print(found.url, flush=True); input()"
    pipe = asyncio.subprocess.PIPE
    owner = await asyncio.create_subprocess_exec(sys.executable, "-c", code, cwd=ROOT, stdin=pipe, stdout=pipe)
    assert owner.stdout is not None
    url = (await owner.stdout.readline()).decode()
    folder = Path(url.partition("host=")[2].partition("&")[0])
    server = int((folder / "data" / "postmaster.pid").read_text().split()[0])
    owner.kill()
    await owner.wait()
    await until(lambda: not folder.exists() and not alive(server))
