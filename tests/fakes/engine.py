"""An engine to order, as an executable: `python tests/fakes/engine.py --port 8123 --model tiny …`.

It speaks the part of the OpenAI API that journeys need, and misbehaves exactly as its flags say (`--help`). Standard
library only, threads and plain sockets, ready some 50 ms after its start. What it prints:

    engine pid=123                                  first
    grandchild pid=124                              one for each
    engine ready port=8123 monotonic=5678.123456    when /health turns 200; time.monotonic() is the machine's, so a
                                                    test may compare it with its own

Paths
    GET  /health                200 when ready, else 503
    GET  /v1/models             its one model
    POST /v1/chat/completions   plain and streamed (usage chunk with stream_options.include_usage)
    POST /v1/completions        the same with `text`
    POST /v1/embeddings         one short vector for each input
    GET  /stats                 {"pid", "requests", "in_flight", "finished", "aborted", "bodies": [the last 20]}
    GET  /env                   its environment
    POST /die                   exits at once with the code in ?code=N (default 1)

An answer has `max_tokens` tokens where the request says so, else `--tokens`. A client that leaves is noticed at once,
also before the first token, and counts as `aborted`.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from typing import Any

GRANDCHILD = [sys.executable, "-I", "-S", "-c", "import time\nwhile True: time.sleep(3600)"]


class ClientLeft(Exception):
    """The caller closed its connection."""


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The flags; also the manual."""
    p = argparse.ArgumentParser(description="An engine that behaves, or not, as it is told.")
    p.add_argument("--port", type=int, required=True, help="where to listen on 127.0.0.1; 0: the kernel chooses")
    p.add_argument("--model", default="fake", help="what it calls itself in its answers")
    boot = p.add_argument_group("boot")
    boot.add_argument("--boot-s", type=float, default=0.0, help="seconds before it listens")
    boot.add_argument("--listen-first", action="store_true", help="listens at once, /health is 503 for --boot-s")
    boot.add_argument("--never-ready", action="store_true", help="listens, /health stays 503")
    boot.add_argument("--say", action="append", default=[], metavar="LINE", help="prints it on stderr; may be repeated")
    boot.add_argument("--fail-code", type=int, metavar="N", help="exits with it instead of listening, after --boot-s")
    boot.add_argument("--ballast-mb", type=int, default=0, help="MiB of memory really touched, before it is ready")
    boot.add_argument("--flood-mb", type=int, default=0, help="MiB printed without a newline, before it is ready")
    tree = p.add_argument_group("processes")
    tree.add_argument(
        "--grandchild", action="append", default=[], choices=("plain", "setsid"), help="starts one that never ends"
    )
    tree.add_argument("--ignore-term", action="store_true", help="SIGTERM changes nothing")
    tree.add_argument("--stop-s", type=float, default=0.0, help="seconds from SIGTERM to its exit 0")
    answers = p.add_argument_group("answers")
    answers.add_argument("--tokens", type=int, default=8, help="tokens of an answer without max_tokens")
    answers.add_argument("--first-s", type=float, default=0.0, help="seconds before an answer begins")
    answers.add_argument("--gap-s", type=float, default=0.0, help="seconds between two tokens")
    death = p.add_argument_group("death")
    death.add_argument("--die-after-requests", type=int, metavar="N", help="exits when N answers have been given")
    death.add_argument("--die-mid-stream", type=int, metavar="N", help="exits after N tokens of a streamed answer")
    death.add_argument("--die-code", type=int, default=1, help="its exit code then")
    return p.parse_args(argv)


def say(line: str) -> None:
    """Print a line of the log, whole."""
    os.write(2, line.encode() + b"\n")


class Stats:
    """What it did, for the test to ask."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.requests = self.in_flight = self.finished = self.aborted = 0
        self.bodies: deque[Any] = deque(maxlen=20)

    def begin(self, body: Any) -> None:
        """An answer is asked for."""
        with self.lock:
            self.requests += 1
            self.in_flight += 1
            self.bodies.append(body)

    def end(self, *, aborted: bool) -> int:
        """It is given or given up; how many were given."""
        with self.lock:
            self.in_flight -= 1
            self.aborted += aborted
            self.finished += not aborted
            return self.finished

    def shown(self) -> dict[str, Any]:
        """As /stats gives it."""
        with self.lock:
            return {
                "pid": os.getpid(),
                "requests": self.requests,
                "in_flight": self.in_flight,
                "finished": self.finished,
                "aborted": self.aborted,
                "bodies": list(self.bodies),
            }


class FakeEngine:
    """The server."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.stats = Stats()
        self.ready = False

    def serve(self, listener: socket.socket) -> None:
        """Forever."""
        while True:
            connection, _ = listener.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._connection, args=(connection,), daemon=True).start()

    def _connection(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as reader:
            try:
                while self._exchange(connection, reader):
                    pass
            except (OSError, ClientLeft, ValueError):
                return

    def _exchange(self, connection: socket.socket, reader: Any) -> bool:
        """One request; False when the connection is to be closed."""
        words = reader.readline(65536).split()
        if len(words) < 3:
            return False
        method, target = words[0].decode(), words[1].decode()
        headers: dict[str, str] = {}
        while (line := reader.readline(65536).strip()) != b"":
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.strip().lower()] = value.strip()
        raw = reader.read(int(headers.get("content-length", "0")))
        path, _, query = target.partition("?")
        if method == "POST" and path == "/die":
            os._exit(int(query.partition("code=")[2] or 1))
        if method == "POST" and path in ("/v1/chat/completions", "/v1/completions", "/v1/embeddings"):
            self._answer(connection, path, raw)
        else:
            self._plain(connection, path)
        return headers.get("connection", "").lower() != "close"

    def _plain(self, connection: socket.socket, path: str) -> None:
        model = {"id": self.options.model, "object": "model", "created": 0, "owned_by": "fake"}
        pages: dict[str, Any] = {
            "/health": {"status": "ok" if self.ready else "loading model"},
            "/v1/models": {"object": "list", "data": [model]},
            "/stats": self.stats.shown(),
            "/env": dict(os.environ),
        }
        status = 503 if path == "/health" and not self.ready else 200 if path in pages else 404
        send_json(connection, status, pages.get(path, {"error": {"message": f"no {path}", "code": "not_found"}}))

    def _answer(self, connection: socket.socket, path: str, raw: bytes) -> None:
        body = json.loads(raw or b"{}")
        self.stats.begin(body)
        aborted = True
        try:
            pause(connection, self.options.first_s)
            if path == "/v1/embeddings":
                send_json(connection, 200, self._embeddings(body))
            elif body.get("stream"):
                self._stream(connection, path, body)
            else:
                pause(connection, self.options.gap_s * self._count(body))
                send_json(connection, 200, self._completion(path, body))
            aborted = False
        finally:
            given = self.stats.end(aborted=aborted)
            if self.options.die_after_requests is not None and given >= self.options.die_after_requests:
                os._exit(self.options.die_code)

    def _count(self, body: dict[str, Any]) -> int:
        return body.get("max_tokens") or body.get("max_completion_tokens") or self.options.tokens

    def _usage(self, body: dict[str, Any]) -> dict[str, int]:
        prompt, count = len(json.dumps(body.get("messages", body.get("prompt", "")))) // 4, self._count(body)
        return {"prompt_tokens": prompt, "completion_tokens": count, "total_tokens": prompt + count}

    def _embeddings(self, body: dict[str, Any]) -> dict[str, Any]:
        inputs: Any = body.get("input", "")
        count = len(inputs) if isinstance(inputs, list) else 1  # pyright: ignore[reportUnknownArgumentType] - parsed JSON
        data = [{"object": "embedding", "index": i, "embedding": [0.25, -0.5, 1.0]} for i in range(count)]
        usage = {"prompt_tokens": len(data), "total_tokens": len(data)}
        return {"object": "list", "model": self.options.model, "data": data, "usage": usage}

    def _head(self, path: str, kind: str) -> dict[str, Any]:
        chat = path == "/v1/chat/completions"
        name = f"chat.completion{kind}" if chat else "text_completion"
        return {"id": "fake-1", "object": name, "created": 1, "model": self.options.model}

    def _completion(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        text = "".join(f"token{i} " for i in range(self._count(body)))
        choice: dict[str, Any] = {"index": 0, "finish_reason": "stop"}
        if path == "/v1/chat/completions":
            choice["message"] = {"role": "assistant", "content": text}
        else:
            choice["text"] = text
        return {**self._head(path, ""), "choices": [choice], "usage": self._usage(body)}

    def _stream(self, connection: socket.socket, path: str, body: dict[str, Any]) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        head, chat = self._head(path, ".chunk"), path == "/v1/chat/completions"
        for i in range(self._count(body)):
            if i:
                pause(connection, self.options.gap_s)
            text = f"token{i} "
            delta: dict[str, Any] = {"delta": {"role": "assistant", "content": text}} if chat else {"text": text}
            send_event(connection, {**head, "choices": [{"index": 0, "finish_reason": None, **delta}]})
            if self.options.die_mid_stream is not None and i + 1 >= self.options.die_mid_stream:
                os._exit(self.options.die_code)
        last: dict[str, Any] = {"delta": {}} if chat else {"text": ""}
        send_event(connection, {**head, "choices": [{"index": 0, "finish_reason": "stop", **last}]})
        options: dict[str, Any] = body.get("stream_options") or {}
        if options.get("include_usage"):
            send_event(connection, {**head, "choices": [], "usage": self._usage(body)})
        send_chunk(connection, b"data: [DONE]\n\n")
        connection.sendall(b"0\r\n\r\n")


def pause(connection: socket.socket, seconds: float) -> None:
    """Wait, but no longer than the caller does. Raises: ClientLeft."""
    deadline_s = time.monotonic() + seconds
    while True:
        readable, _, _ = select.select([connection], [], [], max(0.0, deadline_s - time.monotonic()))
        if readable and not connection.recv(1, socket.MSG_PEEK):
            raise ClientLeft
        if readable:  # the next request, sent early: it waits
            time.sleep(max(0.0, deadline_s - time.monotonic()))
        if time.monotonic() >= deadline_s:
            return


def send_json(connection: socket.socket, status: int, value: Any) -> None:
    """A whole answer."""
    body = json.dumps(value).encode()
    head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body)


def send_event(connection: socket.socket, value: Any) -> None:
    """One server-sent event."""
    send_chunk(connection, b"data: " + json.dumps(value).encode() + b"\n\n")


def send_chunk(connection: socket.socket, data: bytes) -> None:
    """One chunk."""
    connection.sendall(f"{len(data):x}\r\n".encode() + data + b"\r\n")


def boot(options: argparse.Namespace) -> bytearray:
    """Everything before it listens; returns the ballast, to be kept."""
    say(f"engine pid={os.getpid()}")

    def term(_number: int, _frame: object) -> None:
        if not options.ignore_term:
            threading.Timer(options.stop_s, os._exit, (0,)).start() if options.stop_s else os._exit(0)

    signal.signal(signal.SIGTERM, term)
    for kind in options.grandchild:
        child = subprocess.Popen(GRANDCHILD, start_new_session=kind == "setsid")
        say(f"grandchild pid={child.pid}")
    for line in options.say:
        say(line)
    for _ in range(options.flood_mb * 16):
        os.write(1, b"x" * 65536)
    ballast = bytearray(options.ballast_mb << 20)
    for at in range(0, len(ballast), 4096):
        ballast[at] = 1
    if not options.listen_first or options.fail_code is not None:
        time.sleep(options.boot_s)
    if options.fail_code is not None:
        os._exit(options.fail_code)
    return ballast


def main() -> None:
    """Boot, listen, serve."""
    options = arguments()
    ballast = boot(options)
    engine = FakeEngine(options)
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", options.port))
        listener.listen(1024)
        threading.Thread(target=engine.serve, args=(listener,), daemon=True).start()
        if options.listen_first:
            time.sleep(options.boot_s)
        engine.ready = not options.never_ready
        if engine.ready:
            say(f"engine ready port={listener.getsockname()[1]} monotonic={time.monotonic():.6f}")
        while True:
            signal.pause()
            assert ballast is not None


if __name__ == "__main__":
    main()
