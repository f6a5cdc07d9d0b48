"""Examines this machine: the folders, the weights, what memory may be used, whether the port is ours to take.

The law: nothing is made, started or loaded; what is looked at stays as it was.
"""

from __future__ import annotations

import errno
import os
import shutil
import socket
from collections.abc import Mapping
from pathlib import Path

import httpx
import msgspec

from config.schema import Config, Server
from gateway.residency.memory import Measurer, budgets
from providers.contract import EngineSpec
from providers.fetch import EMBEDDED, source_path

from .findings import Book
from .words import count_text, size_text

SUBJECT = "this machine"
_ANSWER_S = 2.0  # of our own gateway: it answers in milliseconds


async def examine(config: Config, specs: Mapping[str, Mapping[str, EngineSpec]]) -> Book:
    """Everything about this machine. Args: specs: provider → target → how it is started."""
    book = Book(SUBJECT)
    _folder(book, "models folder", config.server.models_dir, "server.models_dir")
    _folder(book, "state folder", config.server.state_dir, "server.state_dir")
    _embedded(book, config.server.models_dir)
    _engines(book, config, specs)
    await _memory(book, config)
    await _port(book, config.server)
    return book


def _folder(book: Book, check: str, folder: Path, key: str) -> None:
    try:
        nearest = next(path for path in (folder, *folder.parents) if path.exists())
        usable = nearest.is_dir() and os.access(nearest, os.R_OK | os.W_OK | os.X_OK)
        free = shutil.disk_usage(nearest).free
    except OSError as error:
        book.problem(check, f"{folder}: {error.strerror}", f"correct its rights, or set {key}")
        return
    if not usable:
        what = "may not be written to" if nearest.is_dir() else "is no folder"
        book.problem(check, f"{nearest} {what}", f"correct it, or set {key}")
    else:
        absent = "" if nearest == folder else " is not there yet and will be made"
        book.ok(check, f"{folder}{absent}, {size_text(free)} free on its disk")


def _embedded(book: Book, models_dir: Path) -> None:
    path = source_path(EMBEDDED, models_dir)
    if path.is_file():
        book.ok("embedded", f"the embedded model is there ({size_text(path.stat().st_size)})")
    else:
        book.skipped("embedded", "the embedded model is not there; `roundhouse pull` fetches it")


def _engines(book: Book, config: Config, specs: Mapping[str, Mapping[str, EngineSpec]]) -> None:
    """That what the engines are started with is there."""
    for provider, engines in specs.items():
        if not engines:
            continue
        kind = config.providers[provider].kind
        lacking = {target: what for target, spec in engines.items() if (what := _lacking(kind, spec))}
        for target, what in lacking.items():
            advice = (
                "run `roundhouse pull --all`, or correct its source"
                if kind == "llama_cpp"
                else "install it, or correct command"
            )
            book.problem("engines", f"{target}: {what}", advice)
        if not lacking:
            book.ok("engines", f"{count_text(len(engines), 'model')} of '{provider}': all there")


def _lacking(kind: str, spec: EngineSpec) -> str:
    if kind == "llama_cpp" and spec.source is not None and not spec.source.is_file():
        return f"its weights are not there ({spec.source})"
    if spec.command and shutil.which(spec.command[0]) is None:
        return f"there is no program '{spec.command[0]}'"
    return ""


async def _memory(book: Book, config: Config) -> None:
    measurer = Measurer()
    try:
        reading = await measurer.measure()
    except OSError as error:
        book.problem("memory", f"it cannot be measured: {error}", "set memory.budget to a size")
        return
    finally:
        await measurer.aclose()
    gpus = [device for device in reading.devices if device != "ram"]
    if gpus:
        sizes = (f"{gpu} {size_text(reading.devices[gpu].total_bytes)}" for gpu in gpus)
        book.ok("GPU", ", ".join(sizes))
    else:
        book.skipped("GPU", "none is seen (NVIDIA's, by its driver)")
    for device, budget in budgets(reading, config.memory).items():
        seen = reading.devices.get(device)
        total = f" of {size_text(seen.total_bytes)}" if seen else ", a device that is not seen here"
        text = f"{device}: {size_text(budget.budget_bytes)} may be used{total}, others hold {size_text(budget.strangers_bytes)}"
        if budget.budget_bytes > 0 or config.memory.devices.get(device) == 0:
            book.ok("memory", text)
        else:
            book.problem("memory", text, "end other programs, or set memory.budget and memory.headroom")


async def _port(book: Book, server: Server) -> None:
    where = f"{server.host}:{server.port}"
    if server.port == 0:
        book.skipped("port", "any free one is taken (server.port = 0)")
        return
    error = _bind_error(server.host, server.port)
    if error is None:
        book.ok("port", f"{where} is free")
    elif error.errno == errno.EADDRINUSE and await _is_gateway(server):
        book.ok("port", f"{where} is taken by a Roundhouse gateway that runs")
    elif error.errno == errno.EADDRINUSE:
        book.problem("port", f"{where} is taken by another program", "end it, or set server.port to another")
    else:
        book.problem(
            "port", f"{where} cannot be listened on: {error.strerror}", "set server.host and server.port to others"
        )


def _bind_error(host: str, port: int) -> OSError | None:
    """As `serve` will do it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, port))
            sock.listen(1)
        except OSError as error:
            return error
    return None


class _Refusal(msgspec.Struct):
    source: str


class _Residency(msgspec.Struct):
    """/admin/residency, or its refusal where we show no key: nobody else answers either."""

    devices: dict[str, object] | None = None
    error: _Refusal | None = None


async def _is_gateway(server: Server) -> bool:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(server.host, server.host)  # noqa: S104 - replaced, not bound
    url = f"http://[{host}]:{server.port}" if ":" in host else f"http://{host}:{server.port}"
    try:
        async with httpx.AsyncClient(trust_env=False, timeout=_ANSWER_S) as client:
            answer = await client.get(f"{url}/admin/residency")
        found = msgspec.json.decode(answer.content, type=_Residency)
    except (httpx.HTTPError, msgspec.MsgspecError, RecursionError):
        return False
    return found.devices is not None or (found.error is not None and found.error.source == "gateway")
