"""Uploads: forms go to the model they name, while they come in; what is wrong with them is said; who leaves frees everything."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.fakes.processes import ENGINE
from tests.fakes.running import Answer, Caller, Running, ask, running
from tests.fakes.upstream import Exchange, FakeUpstream

TRANSCRIPTIONS = "/v1/audio/transcriptions"
BOUNDARY = "----b0undary"
FORM = ("content-type", f"multipart/form-data; boundary={BOUNDARY}")
SOUND = bytes(range(256)) * 4096  # 1 MiB, more than is held
LIMIT_BYTES = 4 << 20


def field(name: str, value: str) -> bytes:
    """One field of a form."""
    return f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()


def file(data: bytes = SOUND) -> bytes:
    """The sound."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n'
    return head.encode() + b"Content-Type: audio/wav\r\n\r\n" + data + b"\r\n"


END = f"--{BOUNDARY}--\r\n".encode()


async def send_form(port: int, body: bytes, path: str = TRANSCRIPTIONS) -> Answer:
    """The whole form at once."""
    async with Caller(port) as caller:
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\n{FORM[0]}: {FORM[1]}\r\ncontent-length: {len(body)}\r\n\r\n"
        await caller.send(head.encode() + body)
        return await caller.answer()


async def transcribe(exchange: Exchange) -> None:
    """Tells what arrived, so that a byte that is missing or changed shows."""
    body = await exchange.body()
    await exchange.answer(200, {"text": hashlib.sha256(body).hexdigest(), "length": len(body)})


@asynccontextmanager
async def listening(folder: Path) -> AsyncGenerator[tuple[Running, FakeUpstream]]:
    """A gateway with an upstream that hears, under its own and under another name; and one that nobody reaches."""
    async with FakeUpstream() as upstream:
        upstream.script(transcribe)
        toml = f"""
        [server]
        max_upload_bytes = {LIMIT_BYTES}
        max_body_bytes = 1000
        [memory.devices]
        ram = "100MiB"
        [providers.up]
        kind = "openai"
        base_url = "{upstream.base_url}"
        models = ["whisper"]
        [providers.dead]
        kind = "openai"
        base_url = "http://127.0.0.1:9"
        models = ["whisper"]
        [providers.rig]
        kind = "process"
        command = {json.dumps([*ENGINE, "--port", "${port}", "--boot-s", "30"])}
        [models.renamed]
        targets = ["up/whisper"]
        [models.fallback]
        targets = ["dead/whisper", "up/whisper"]
        [models.slow]
        targets = ["rig/slow"]
        memory = "60MiB"
        """
        async with running(folder, toml) as gateway:
            yield gateway, upstream


@pytest.mark.parametrize("model_first", [True, False], ids=["model first", "file first"])
async def test_form_arrives_byte_for_byte(tmp_path: Path, *, model_first: bool) -> None:
    """Also a file that is larger than what is held, whichever way round a client writes them."""
    async with listening(tmp_path) as (gateway, upstream):
        parts = [field("model", "up/whisper"), field("language", "de"), file()]
        body = b"".join(parts if model_first else reversed(parts)) + END
        wanted = body.replace(b"up/whisper", b"whisper")
        answer = await send_form(gateway.port, body)
        assert answer.json() == {"text": hashlib.sha256(wanted).hexdigest(), "length": len(wanted)}
        assert upstream.requests[-1].header("content-type") == FORM[1]
        assert upstream.requests[-1].path == TRANSCRIPTIONS


async def test_names_are_the_targets_own_and_the_next_target_gets_all_of_it(tmp_path: Path) -> None:
    """An alias of the operator's; and a first target that cannot be reached."""
    async with listening(tmp_path) as (gateway, _):
        for name in ("renamed", "fallback"):
            body = file() + field("model", name) + END
            wanted = body.replace(name.encode(), b"whisper")
            assert (await send_form(gateway.port, body)).json()["text"] == hashlib.sha256(wanted).hexdigest()


async def test_it_is_forwarded_while_it_comes_in(tmp_path: Path) -> None:
    """The upstream has the beginning before the caller has sent the end."""
    got = asyncio.Event()

    async def listen(exchange: Exchange) -> None:
        got.set()
        await transcribe(exchange)

    async with listening(tmp_path) as (gateway, upstream):
        upstream.script(listen)
        begin, rest = field("model", "up/whisper") + file()[:500_000], file()[500_000:] + END
        async with Caller(gateway.port) as caller:
            length = len(begin) + len(rest)
            head = (
                f"POST {TRANSCRIPTIONS} HTTP/1.1\r\nhost: x\r\n{FORM[0]}: {FORM[1]}\r\ncontent-length: {length}\r\n\r\n"
            )
            await caller.send(head.encode() + begin)
            async with asyncio.timeout(5):
                await got.wait()
            await caller.send(rest)
            assert (await caller.answer()).status == 200


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (file(b"x") + END, "missing_model"),
        (field("model", "") + file(b"x") + END, "invalid_model"),
        (field("model", "nobody") + END, "model_not_found"),
        (field("model", "up/whisper") + file(b"x"), "invalid_multipart"),
        (b"no form at all", "invalid_multipart"),
    ],
)
async def test_what_is_wrong_with_a_form_is_said(tmp_path: Path, body: bytes, code: str) -> None:
    """With the same codes as of JSON where it is the same mistake."""
    async with listening(tmp_path) as (gateway, _):
        answer = await send_form(gateway.port, body)
        assert (answer.status, answer.error["code"]) == (404 if code == "model_not_found" else 400, code)


async def test_forms_and_json_are_not_confused(tmp_path: Path) -> None:
    """Each route says what it takes; pictures may be edited by either."""
    async with listening(tmp_path) as (gateway, upstream):
        wrong = await ask(gateway.port, "POST", TRANSCRIPTIONS, {"model": "up/whisper"})
        assert (wrong.status, wrong.error["code"]) == (400, "unsupported_content_type")
        assert "multipart/form-data" in wrong.error["message"]
        wrong = await send_form(gateway.port, field("model", "up/whisper") + END, "/v1/chat/completions")
        assert (wrong.status, wrong.error["code"]) == (400, "unsupported_content_type")
        assert "application/json" in wrong.error["message"]
        edit = field("model", "up/whisper") + END
        assert (await send_form(gateway.port, edit, "/v1/images/edits")).status == 200
        assert (await ask(gateway.port, "POST", "/v1/images/edits", {"model": "up/whisper"})).status == 200
        assert upstream.requests[-1].path == "/v1/images/edits"


async def test_too_large_is_refused_and_says_which_limit(tmp_path: Path) -> None:
    """By its announced length, before anything is read."""
    async with listening(tmp_path) as (gateway, _), Caller(gateway.port) as caller:
        head = f"POST {TRANSCRIPTIONS} HTTP/1.1\r\nhost: x\r\n{FORM[0]}: {FORM[1]}\r\ncontent-length: {LIMIT_BYTES + 1}\r\n\r\n"
        await caller.send(head.encode())
        answer = await caller.answer()
        assert (answer.status, answer.error["code"]) == (413, "body_too_large")
        assert "max_upload_bytes" in answer.error["message"]


async def test_stream_where_there_is_none_is_refused(tmp_path: Path) -> None:
    """In a form as in JSON."""
    async with listening(tmp_path) as (gateway, _):
        body = field("model", "up/whisper") + field("stream", "true") + END
        answer = await send_form(gateway.port, body, "/v1/audio/translations")
        assert (answer.status, answer.error["code"], answer.error["param"]) == (400, "stream_not_supported", "stream")
        answer = await ask(gateway.port, "POST", "/v1/embeddings", {"model": "up/whisper", "stream": True})
        assert (answer.status, answer.error["code"]) == (400, "stream_not_supported")


async def test_a_caller_that_leaves_while_its_model_loads_is_forgotten(tmp_path: Path) -> None:
    """The upload is half-way; nobody waits for the model any more."""
    async with listening(tmp_path) as (gateway, _):
        async with Caller(gateway.port) as caller:
            head = (
                f"POST {TRANSCRIPTIONS} HTTP/1.1\r\nhost: x\r\n{FORM[0]}: {FORM[1]}\r\ncontent-length: 3000000\r\n\r\n"
            )
            await caller.send(head.encode() + field("model", "slow") + file()[:600_000])
            await gateway.until(lambda: len(gateway.parts.residency.waiting()) == 1)
            caller.leave()
        await gateway.until(lambda: not gateway.parts.residency.waiting() and gateway.parts.metrics.in_flight == 0)
