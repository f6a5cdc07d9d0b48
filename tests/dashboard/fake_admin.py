"""A pretended gateway that serves the dashboard and answers all it asks, so that pages can be seen and tested without an engine.

    python -m tests.dashboard.fake_admin --port 0 [--models 500] [--rows 2000] [--key admin-key] [--calm] [--old]

The law: standard library only; the wire is the real gateway's (paths, envelopes, event names, CSP); trouble is switched on with
POST /fake {"ledger": false, "closing": true, "cut": true, "want": "MODEL"}.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import mimetypes
import time
from collections.abc import AsyncGenerator, AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from .fake_settings import CONFIG, key_entry, tenant_entry
from .fake_world import Json, World

FILES = Path(__file__).parents[2] / "gateway" / "dashboard"
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
COOKIE = "rh_session=open"
_ANSWER = (
    "They ask what a roundhouse is, and I should be short. A roundhouse is a building in which engines stand side by side around "
    "a turntable. There are more engines than stalls, so those that are needed are brought in and those that are not are sent "
    "out; the turntable moves one at a time. Whoever keeps it decides which of them stays warm."
)
Answer = tuple[int, Json | list[object] | bytes | AsyncIterator[bytes] | None, dict[str, str]]


class Refused(Exception):
    """An answer with the gateway's envelope."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class Admin:
    """The routes. `old`: today's gateway, without live, session, activity and the like."""

    def __init__(self, world: World, *, key: str = "", old: bool = False) -> None:
        self.world = world
        self.key = key
        self.old = old
        self.cut = asyncio.Event()
        self._listeners: set[asyncio.Queue[tuple[str, Json]]] = set()
        self._keys: list[Json] = [
            key_entry("k1", "ci", source="config"),
            key_entry("k2", "laptop"),
            key_entry("k3", "agents", rpm=120),
        ]
        self._tenants: list[Json] = [
            tenant_entry("research", keys=2),
            tenant_entry("shop", display_name="The shop", rpm=600),
        ]
        world.say = self._tell

    def _tell(self, name: str, data: Json) -> None:
        for queue in self._listeners:
            queue.put_nowait((name, data))

    async def answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        """One exchange. Raises: Refused."""
        at = urlsplit(path)
        query = {name: values[-1] for name, values in parse_qs(at.query).items()}
        path = unquote(at.path)
        said: Json = json.loads(body) if body.startswith(b"{") else {}
        if path == "/" or path.startswith("/dashboard/"):
            return self._file(path)
        if path == "/fake":
            return self._fake(said)
        inside = not self.key or COOKIE in headers.get("cookie", "")
        match method, path:
            case "GET", "/admin/session" if not self.old:
                return (
                    200,
                    {"needed": bool(self.key), "name": "admin" if inside else "", "admin": inside, "version": "0.5.0"},
                    {},
                )
            case "POST", "/admin/login" if not self.old:
                if said.get("key") != self.key:
                    raise Refused(401, "invalid_api_key", "The key is not known")
                return 204, None, {"set-cookie": f"{COOKIE}; HttpOnly; SameSite=Strict; Path=/"}
            case "POST", "/admin/logout":
                return 204, None, {"set-cookie": "rh_session=; Max-Age=0; Path=/"}
            case _ if not inside:
                raise Refused(401, "invalid_api_key", "A key is needed")
            case "POST", _ if headers.get("x-roundhouse") != "dashboard":
                raise Refused(403, "csrf", "The header x-roundhouse is missing")
            case _:
                return await self._inside(method, path, query, said)

    async def _inside(self, method: str, path: str, query: dict[str, str], said: Json) -> Answer:
        world = self.world
        match method, path.split("/")[1:]:
            case "GET", ["v1", "models"]:
                return 200, {"object": "list", "data": list(world.models.values())}, {}
            case "POST", ["v1", "chat", "completions"]:
                return 200, self._chat(said), {}
            case "POST", ["v1", "embeddings"]:
                vectors = [
                    {"object": "embedding", "index": i, "embedding": _vector(t)}
                    for i, t in enumerate(_listed(said["input"]))
                ]
                return (
                    200,
                    {"object": "list", "data": vectors, "model": said.get("model"), "usage": {"prompt_tokens": 8}},
                    {},
                )
            case "GET", ["admin", "residency"]:
                extra = {"providers", "rates", "ledger", "closing"} if self.old else set[str]()
                return 200, {name: value for name, value in world.state().items() if name not in extra}, {}
            case "GET", ["admin", "events"]:
                return 200, self._events(int(query.get("after", 0))), {}
            case "GET", ["admin", "live"] if not self.old:
                return 200, self._live(), {}
            case "GET", ["admin", "plan"]:
                return 200, world.plan(self._local(query["model"])), {}
            case "GET", ["admin", "logs"]:
                name = self._local(query["model"])
                return 200, {"model": name, "target": world.target(name), "lines": world.logs(name)}, {}
            case "POST", ["admin", "models", *rest]:
                return await self._act("/".join(rest[:-1]), rest[-1])
            case "GET", ["admin", "providers"]:
                return 200, {"providers": world.providers()}, {}
            case "POST", ["admin", "providers", name, "refresh"]:
                return 200, next(one for one in world.providers() if one["name"] == name), {}
            case _ if not self.old:
                return self._kept(method, path.split("/")[2:], query, said)
            case _:
                raise Refused(404, "not_found", f"There is no {path}")

    def _kept(self, method: str, path: list[str], query: dict[str, str], said: Json) -> Answer:
        """What the ledger, the keys and the configuration say."""
        world = self.world
        match method, path:
            case "GET", ["activity"]:
                return 200, self._activity(query), {}
            case "GET", ["activity", number]:
                row = next((row for row in world.rows if row["id"] == number), None)
                if row is None:
                    raise Refused(404, "not_found", "This request is not in the ledger")
                return 200, {"entry": row, "capture": None}, {}
            case "GET", ["usage"]:
                return 200, self._usage(query.get("by", "day,model").split(","), query), {}
            case "GET", ["usage", "export"]:
                return 200, b"day,model,requests\n2026-11-22,a,1\n", {"content-type": "text/csv"}
            case "GET", ["timeline"]:
                return 200, self._timeline(float(query.get("hours", 6))), {}
            case "GET", ["keys"]:
                return 200, {"keys": self._keys}, {}
            case "POST", ["keys"]:
                made = key_entry(f"k{len(self._keys) + 1}", said.pop("name"), **said)
                self._keys.append(made)
                return 201, made | {"key": "rh-4f1c0d2e5a6b7c8d9e0f1a2b3c4d5e6f"}, {}
            case "POST", ["keys", number, "rotate"]:
                return 200, self._found(number) | {"key": "rh-rotated00112233445566778899aabb"}, {}
            case "DELETE", ["keys", number]:
                self._found(number)["revoked"] = "2026-11-22T12:00:00Z"
                return 204, None, {}
            case "GET", ["tenants"]:
                return 200, {"tenants": self._tenants}, {}
            case "POST", ["tenants"]:
                self._tenants.append(tenant_entry(**said))
                return 201, self._tenants[-1], {}
            case "DELETE", ["tenants", number]:
                self._tenants = [one for one in self._tenants if one["id"] != number]
                return 204, None, {}
            case "GET", ["config"]:
                return 200, {"path": "/etc/roundhouse.toml", "values": CONFIG}, {}
            case _:
                raise Refused(404, "not_found", f"There is no /admin/{'/'.join(path)}")

    def _found(self, number: str) -> Json:
        return next(one for one in self._keys if one["id"] == number)

    def _local(self, name: str) -> str:
        if name not in self.world.models:
            raise Refused(404, "model_not_found", f"The model '{name}' does not exist")
        if name not in self.world.local:
            raise Refused(400, "invalid_request", f"'{name}' is served elsewhere: it is not in this gateway's memory")
        return name

    async def _act(self, name: str, verb: str) -> Answer:
        world = self.world
        self._local(name)
        match verb:
            case "load":
                if not world.can_fit(name):
                    raise Refused(
                        503,
                        "larger_than_budget",
                        f"'{name}': it needs more than the whole memory budget; use a smaller model",
                    )
                world.want(name)
                for _ in itertools.count():
                    if world.residents.get(name, {}).get("phase") == "ready":
                        break
                    await asyncio.sleep(0.05)
            case "unload":
                world.unload(name)
            case "pin" | "unpin":
                world.pin(name, pinned=verb == "pin")
            case _:
                raise Refused(404, "not_found", f"No such action: {verb}")
        phase = world.residents.get(name, {}).get("phase", "cold")
        return 200, {"model": name, "target": world.target(name), "phase": phase, "pinned": name in world.pinned}, {}

    def _fake(self, said: Json) -> Answer:
        if "ledger" in said:
            wrong = {"ok": False, "error": "database or disk is full", "buffered": 1210, "dropped": 0}
            self.world.ledger = {"ok": True, "error": "", "buffered": 0, "dropped": 0} if said["ledger"] else wrong
        self.world.closing = said.get("closing", self.world.closing)
        if said.get("cut"):
            self.cut.set()
            self.cut = asyncio.Event()
        if "want" in said:
            self.world.want(said["want"])
        return 204, None, {}

    def _file(self, path: str) -> Answer:
        file = (FILES / (path.removeprefix("/dashboard/") if path != "/" else "index.html")).resolve()
        if not file.is_file() or FILES not in file.parents:
            raise Refused(404, "not_found", f"There is no {path}")
        kind = (
            "text/javascript"
            if file.suffix == ".js"
            else mimetypes.guess_type(file.name)[0] or "application/octet-stream"
        )
        return 200, file.read_bytes(), {"content-type": f"{kind}; charset=utf-8"}

    # ------------------------------------------------------------ streams

    async def _live(self) -> AsyncIterator[bytes]:
        queue: asyncio.Queue[tuple[str, Json]] = asyncio.Queue()
        self._listeners.add(queue)
        cut = self.cut
        try:
            for happening in list(self.world.happenings):
                yield _event("happening", happening, happening["seq"])
            stated_s = 0.0
            while not cut.is_set():
                if time.monotonic() - stated_s >= 0.5:
                    stated_s = time.monotonic()
                    yield _event("state", self.world.state())
                try:
                    async with asyncio.timeout(0.25):
                        name, data = await queue.get()
                except TimeoutError:
                    continue
                yield _event(name, data, data.get("seq"))
        finally:
            self._listeners.discard(queue)

    async def _events(self, after: int) -> AsyncIterator[bytes]:
        for number in itertools.count():
            for happening in [one for one in self.world.happenings if one["seq"] > after]:
                after = happening["seq"]
                yield _event("", happening, after)
            if not number:
                yield b": decisions as they are taken\n\n"
            await asyncio.sleep(0.3)

    async def _chat(self, said: Json) -> AsyncIterator[bytes]:
        """A streamed answer: some reasoning, then words, one every 30 ms."""
        words = _ANSWER.split()
        for number, word in enumerate(words):
            delta = {"reasoning_content" if number < 12 else "content": f"{word} "}
            yield _chunk(said, {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
            await asyncio.sleep(0.03)
        yield _chunk(said, {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        usage = {"prompt_tokens": 12, "completion_tokens": len(words), "total_tokens": 12 + len(words)}
        yield _chunk(said, {"choices": [], "usage": usage})
        yield b"data: [DONE]\n\n"

    # ------------------------------------------------------------ the ledger

    def _chosen(self, query: dict[str, str]) -> list[Json]:
        rows = self.world.rows
        for name, field in (("model", "model"), ("key", "key_id"), ("tenant", "tenant")):
            if query.get(name):
                rows = [row for row in rows if row[field] == query[name]]
        if query.get("q"):
            rows = [row for row in rows if query["q"] in f"{row['id']} {row['asked']} {row['principal']} {row['code']}"]
        match query.get("status", ""):
            case "ok":
                return [row for row in rows if not row["code"] and not row["left"]]
            case "error":
                return [row for row in rows if row["code"]]
            case "left":
                return [row for row in rows if row["left"]]
            case _:
                return rows

    def _activity(self, query: dict[str, str]) -> Json:
        whole = bool(self.world.ledger["ok"])
        rows = self._chosen(query) if whole else []
        start = next((at + 1 for at, row in enumerate(rows) if row["id"] == query.get("before")), 0)
        page = rows[start : start + int(query.get("limit", 100))]
        more = start + len(page) < len(rows)
        return {"rows": page, "next": page[-1]["id"] if page and more else None, "whole": whole}

    def _usage(self, by: list[str], query: dict[str, str]) -> Json:
        groups: dict[tuple[str, ...], Json] = {}
        for row in self._chosen(query):
            named = row | {
                "day": datetime.fromtimestamp(row["at_us"] / 1e6, UTC).date().isoformat(),
                "key": row["key_id"],
            }
            if not query.get("since", "") <= named["day"] <= query.get("until", "9"):
                continue
            at = tuple(str(named[name]) for name in by)
            zero = {
                "requests": 0,
                "errors": 0,
                "prompt": 0,
                "completion": 0,
                "cached": 0,
                "reasoning": 0,
                "cost_usd": None,
            }
            group = groups.setdefault(at, dict(zip(by, at, strict=True)) | zero)
            group["requests"] += 1
            group["errors"] += bool(row["code"])
            for name in ("prompt", "completion", "cached", "reasoning"):
                group[name] += row[name]
            if row["cost_usd"] is not None:
                group["cost_usd"] = f"{float(group['cost_usd'] or 0) + float(row['cost_usd']):.9f}"
        return {"rows": list(groups.values()), "by": by}

    def _timeline(self, hours: float) -> Json:
        world = self.world
        from_s = world.now_s - hours * 3600
        marks = [{"at_s": one["at_s"], "what": one["what"], "target": one["target"], "words": one.get("detail", "")}
                 for one in world.happenings if one["what"] in ("draining", "loaded", "load_failed", "died")]  # fmt: skip
        counts: dict[tuple[float, str], int] = {}
        for row in world.rows:
            at = (row["at_us"] // 60_000_000 * 60.0, row["model"])
            counts[at] = counts.get(at, 0) + 1
        requests = [
            {"at_s": at, "model": model, "count": count} for (at, model), count in counts.items() if at >= from_s
        ]
        return {"from_s": from_s, "to_s": world.now_s, "spans": world.spans, "marks": marks, "requests": requests}


def _listed(given: object) -> list[str]:
    return [str(one) for one in given] if isinstance(given, list) else [str(given)]  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]


def _vector(words: str) -> list[float]:
    return [((sum(words.encode()) * (at + 7)) % 200 - 100) / 100 for at in range(64)]


def _chunk(said: Json, more: Json) -> bytes:
    base = {
        "id": "chatcmpl-fake",
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": said.get("model"),
    }
    return b"data: " + json.dumps(base | more).encode() + b"\n\n"


def _event(name: str, data: Json, number: int | None = None) -> bytes:
    head = (f"id: {number}\n" if number is not None else "") + (f"event: {name}\n" if name else "")
    return f"{head}data: {json.dumps(data)}\n\n".encode()


# ---------------------------------------------------------------- HTTP


async def _exchange(admin: Admin, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One request per connection: enough for a browser, and simple."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, path, _ = head[0].split(" ", 2)
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        try:
            status, said, more = await admin.answer(method, path, headers, body)
        except Refused as error:
            envelope = {
                "message": str(error),
                "type": "invalid_request_error",
                "param": None,
                "code": error.code,
                "source": "gateway",
            }
            status, said, more = error.status, {"error": envelope}, {}
        await _send(writer, status, said, more)
    except (ConnectionError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()


async def _send(
    writer: asyncio.StreamWriter,
    status: int,
    said: Json | list[object] | bytes | AsyncIterator[bytes] | None,
    more: dict[str, str],
) -> None:
    fields = {"connection": "close", "content-security-policy": CSP, "cache-control": "no-cache", **more}
    if said is None or isinstance(said, (dict, list, bytes)):
        content = b"" if said is None else said if isinstance(said, bytes) else json.dumps(said).encode()
        fields = {"content-type": "application/json", "content-length": str(len(content))} | fields
        writer.write(_head(status, fields) + content)
        await writer.drain()
        return
    writer.write(_head(status, fields | {"content-type": "text/event-stream"}))
    async for piece in said:
        writer.write(piece)
        await writer.drain()


def _head(status: int, fields: dict[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} X", *(f"{name}: {value}" for name, value in fields.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


async def _life(world: World, turn_s: float = 0.25) -> None:
    while True:
        world.tick(time.time())
        await asyncio.sleep(turn_s)


@contextlib.asynccontextmanager
async def serving(admin: Admin, port: int = 0) -> AsyncGenerator[str]:
    """The address it answers at, as long as the context lasts."""
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await _exchange(admin, reader, writer)
        except asyncio.CancelledError:
            pass  # the end of serving; raised on, the streams module would report it as a fault of its callback
        finally:
            tasks.discard(task)

    server = await asyncio.start_server(connected, "127.0.0.1", port)
    life = asyncio.create_task(_life(admin.world))
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in (life, *tasks):
            task.cancel()
        await asyncio.gather(life, *tasks, return_exceptions=True)


async def _run(args: argparse.Namespace) -> None:
    world = World(models=args.models, rows=args.rows, busy=not args.calm)
    async with serving(Admin(world, key=args.key, old=args.old), args.port) as address:
        print(address, flush=True)  # noqa: T201
        await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--models", type=int, default=500)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--key", default="", help="a login with this key is needed")
    parser.add_argument("--calm", action="store_true", help="nothing happens by itself")
    parser.add_argument("--old", action="store_true", help="a gateway from before the dashboard")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_run(parser.parse_args()))
