"""A whole gateway in this process, on a real port; and a caller that sees and says exact bytes.

The law: nothing is patched. The configuration goes through `config.load`, the parts are the composition root's, the server is
uvicorn as `gateway/serving.py` configures it, less its signals.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self, cast

import uvicorn

from config.load import load
from gateway.app import Gateway, gateway
from gateway.serving import server_config

WITHIN_S = 10.0  # a bound on every wait of a test; a quiet machine needs milliseconds

Fields = Sequence[tuple[str, str]]


class _Server(uvicorn.Server):
    """Leaves the signals to pytest, and says when it takes requests."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self.up.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


class Running:
    """A gateway that takes requests."""

    def __init__(self, parts: Gateway, port: int) -> None:
        self.parts = parts
        self.port = port
        self.base_url = f"http://127.0.0.1:{port}"

    async def until(self, condition: Callable[[], bool], within_s: float = WITHIN_S) -> None:
        """Wait for it. Raises: AssertionError: it did not come true in time."""
        deadline_s = asyncio.get_running_loop().time() + within_s
        while not condition():
            assert asyncio.get_running_loop().time() < deadline_s, f"not within {within_s} s"
            await asyncio.sleep(0.002)

    def leases(self) -> int:
        """How many requests hold a model."""
        return sum(resident.leases for resident in self.parts.residency.residents())

    def phases(self) -> dict[str, str]:
        """Target → phase."""
        return {resident.target: str(resident.phase) for resident in self.parts.residency.residents()}

    def pid(self, target: str) -> int:
        """The root process of an engine of ours that is up."""
        pid = self.parts.residency.engines[target].pid
        assert pid is not None
        return pid

    def happened(self, what: str) -> list[str]:
        """The targets to which it happened, in order."""
        return [entry.target for entry in self.parts.residency.journal.since(0) if entry.what == what]


@asynccontextmanager
async def running(folder: Path, toml: str, environ: Mapping[str, str] | None = None) -> AsyncGenerator[Running, None]:
    """Start one with this configuration; on leaving, its port is closed and its engines are gone.

    Args:
        folder: for the configuration file, and its `state_dir` and `models_dir`.
    """
    path = folder / "roundhouse.toml"
    path.write_text(toml)
    state = {"ROUNDHOUSE_STATE_DIR": str(folder / "state"), "ROUNDHOUSE_MODELS_DIR": str(folder / "models")}
    config = load(path, {"HOME": str(folder), **state, **(environ or {})})
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.bind(("127.0.0.1", 0))
    with contextlib.closing(sock):
        async with gateway(config) as parts:
            server = _Server(server_config(parts, 1))
            serving = asyncio.ensure_future(server.serve(sockets=[sock]))
            await server.up.wait()
            try:
                yield Running(parts, sock.getsockname()[1])
            finally:
                server.should_exit = server.force_exit = True
                await serving


class Answer:
    """What came back, whole."""

    def __init__(self, status: int, fields: Fields, body: bytes) -> None:
        self.status = status
        self.fields = fields
        self.body = body

    def field(self, name: str) -> str | None:
        """A header field's value. Raises: AssertionError: it is there more than once."""
        values = [value for key, value in self.fields if key == name]
        assert len(values) <= 1, f"{name} is there {len(values)} times"
        return values[0] if values else None

    def json(self) -> dict[str, Any]:
        """The body, parsed."""
        return cast("dict[str, Any]", json.loads(self.body))

    @property
    def error(self) -> dict[str, Any]:
        """The error in OpenAI's envelope. Raises: AssertionError: it is none."""
        assert self.field("content-type") == "application/json", self.fields
        error = self.json()["error"]
        assert {"message", "type", "param", "code", "source"} <= set(error)
        return error

    def events(self) -> list[str]:
        """The data of each server-sent event; comments are none. Raises: AssertionError: it is no well-formed stream."""
        return events_of(self.body)


def events_of(body: bytes) -> list[str]:
    """The data of each event of a stream in which every line is `data: …` or a comment, and every event ends."""
    assert body.endswith(b"\n\n"), body[-80:]
    data: list[str] = []
    for block in body.decode().split("\n\n")[:-1]:
        lines = [line for line in block.split("\n") if not line.startswith(":")]
        assert all(line.startswith("data:") for line in lines), block
        if lines:
            data.append("\n".join(line.removeprefix("data:").removeprefix(" ") for line in lines))
    return data


class Caller:
    """One connection to a server, byte by byte.

    `async with Caller(port) as caller: await caller.send(b"GET / HTTP/1.1\\r\\n…"); status, fields = await caller.head()`
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter
        self._left: int | None = None  # bytes of the body still to come; None: chunked
        self._over = False

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def send(self, data: bytes) -> None:
        """Say exactly this."""
        self._writer.write(data)
        await self._writer.drain()

    async def ask(
        self, method: str, target: str, body: bytes | None = None, fields: Iterable[tuple[str, str]] = ()
    ) -> None:
        """Send a whole request."""
        await self.send(request(method, target, body, fields))

    async def head(self) -> tuple[int, Fields]:
        """Status and header fields of the next answer, interim ones skipped."""
        async with asyncio.timeout(WITHIN_S):
            while True:
                lines = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
                status = int(lines[0].split(" ")[1])
                if status >= 200:
                    break
        fields = [(line.partition(":")[0].lower(), line.partition(":")[2].strip()) for line in lines[1:]]
        length = dict(fields).get("content-length")
        self._left = None if dict(fields).get("transfer-encoding") == "chunked" else int(length or 0)
        self._over = False
        return status, fields

    async def piece(self, within_s: float = WITHIN_S) -> bytes:
        """The next piece of the body as it was sent: one chunk, or what is there. b"": the body is complete.

        Raises: asyncio.IncompleteReadError: the connection ended before the body did. TimeoutError.
        """
        async with asyncio.timeout(within_s):
            if self._over:
                return b""
            if self._left is None:
                size = int(await self._reader.readuntil(b"\r\n"), 16)
                data = (await self._reader.readexactly(size + 2))[:-2]
                self._over = size == 0
                return data
            if self._left == 0:
                return b""
            data = await self._reader.read(self._left)
            if not data:
                raise asyncio.IncompleteReadError(b"", self._left)
            self._left -= len(data)
            return data

    async def silent(self, for_s: float) -> bool:
        """Whether nothing comes for so long. What comes is lost."""
        try:
            async with asyncio.timeout(for_s):
                await self._reader.read(1)
        except TimeoutError:
            return True
        return False

    async def rest(self) -> bytes:
        """The body up to its end. Raises: as `piece`."""
        pieces: list[bytes] = []
        while piece := await self.piece():
            pieces.append(piece)
        return b"".join(pieces)

    async def answer(self, *, bodyless: bool = False) -> Answer:
        """The next answer, whole."""
        status, fields = await self.head()
        return Answer(status, fields, b"" if bodyless else await self.rest())

    async def ended(self) -> bool:
        """Whether the server has closed the connection, and said nothing more before."""
        async with asyncio.timeout(WITHIN_S):
            try:
                return await self._reader.read(1) == b""
            except ConnectionResetError:
                return True

    async def line(self) -> bytes:
        """The next line, raw."""
        async with asyncio.timeout(WITHIN_S):
            return await self._reader.readline()

    def finish(self) -> None:
        """Say that nothing more will be sent, and go on listening."""
        self._writer.write_eof()

    def leave(self) -> None:
        """Go away, as a closed tab does."""
        self._writer.close()

    def reset(self) -> None:
        """Go away with an RST, as a crashed host does."""
        sock = cast("socket.socket", self._writer.get_extra_info("socket"))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()


def request(method: str, target: str, body: bytes | None, fields: Iterable[tuple[str, str]] = ()) -> bytes:
    """A request as bytes; a field given twice is sent twice, `host` given replaces ours."""
    lines = [f"{method} {target} HTTP/1.1"]
    fields = list(fields)
    if not any(name.lower() == "host" for name, _ in fields):
        lines.append("host: 127.0.0.1")
    lines += [f"{name}: {value}" for name, value in fields]
    if body is not None:
        lines += ["content-type: application/json", f"content-length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b"")


async def ask(
    port: int, method: str, target: str, body: object = None, fields: Iterable[tuple[str, str]] = ()
) -> Answer:
    """One request on a connection of its own. `body`: bytes, or anything json can write."""
    raw = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    async with Caller(port) as caller:
        await caller.ask(method, target, raw, fields)
        return await caller.answer(bodyless=method == "HEAD")


CHAT = "/v1/chat/completions"


def chat(model: str, *, stream: bool = False, **more: object) -> bytes:
    """A chat completion's body."""
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "stream": stream, **more}
    return json.dumps(body).encode()
