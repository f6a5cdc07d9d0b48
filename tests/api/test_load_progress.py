"""How a caller hears that its model loads: in comments, or as chunks where it asks for them."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.fakes.processes import ENGINE
from tests.fakes.running import CHAT, Answer, Running, ask, chat, running

BOOT_S = 1.4  # two looks, one each second
COMMENTS = [("x-roundhouse-progress", "comments")]
EVENTS = [("x-roundhouse-progress", "events")]


@asynccontextmanager
async def slow(folder: Path) -> AsyncGenerator[Running]:
    """A gateway whose only engine takes its time; without keep-alives."""
    toml = f"""
    [residency]
    keepalive_s = "never"
    [memory.devices]
    ram = "100MiB"
    [providers.rig]
    kind = "process"
    command = {json.dumps([*ENGINE, "--port", "${port}", "--boot-s", str(BOOT_S)])}
    [models.slow]
    targets = ["rig/slow"]
    memory = "60MiB"
    """
    async with running(folder, toml) as gateway:
        yield gateway


def loads(answer: Answer) -> list[dict[str, object]]:
    """What the chunks say of the load."""
    chunks = [json.loads(event) for event in answer.events() if event != "[DONE]"]
    return [chunk["roundhouse"]["load"] for chunk in chunks if "roundhouse" in chunk]


async def test_comments_come_for_who_asks_although_there_are_no_keep_alives(tmp_path: Path) -> None:
    """From the first second on; clients skip them."""
    async with slow(tmp_path) as gateway:
        answer = await ask(gateway.port, "POST", CHAT, chat("slow", stream=True), COMMENTS)
        assert answer.body.startswith(b": loading slow ")
        assert loads(answer) == []
        assert answer.events()[-1] == "[DONE]"
        usual = await ask(gateway.port, "POST", CHAT, chat("slow", stream=True), COMMENTS)
        assert usual.body.startswith(b"data: ")


async def test_events_come_for_who_asks(tmp_path: Path) -> None:
    """Chunks without choices, all with one id; afterwards the answer."""
    async with slow(tmp_path) as gateway:
        answer = await ask(gateway.port, "POST", CHAT, chat("slow", stream=True), EVENTS)
        told = loads(answer)
        assert told
        assert {(load["model"], load["phase"]) for load in told} == {("slow", "loading")}
        first = json.loads(answer.events()[0])
        assert (first["object"], first["choices"]) == ("chat.completion.chunk", [])
        assert answer.events()[-1] == "[DONE]"


async def test_nothing_comes_into_a_plain_answer_or_on_other_words(tmp_path: Path) -> None:
    """A JSON body is nothing but itself."""
    async with slow(tmp_path) as gateway:
        answer = await ask(gateway.port, "POST", CHAT, chat("slow"), EVENTS)
        assert "roundhouse" not in answer.json()
        gateway.parts.residency.unload("rig/slow")
        await gateway.until(lambda: "rig/slow" not in gateway.phases())
        answer = await ask(gateway.port, "POST", CHAT, chat("slow", stream=True), [("x-roundhouse-progress", "yes")])
        assert answer.body.startswith(b"data: ")
