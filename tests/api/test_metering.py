"""What an answer took is metered also where the caller does not ask for it; what we have asked for stays ours."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.api.upstreams import one
from tests.fakes.running import CHAT, Running, ask, chat
from tests.fakes.upstream import Exchange, speak_openai

OPTION = {"include_usage": True}


def counted(gateway: Running) -> dict[str, int]:
    """Tokens by kind, as /metrics tells them of this upstream's model."""
    found: dict[str, int] = {}
    for line in gateway.parts.metrics.text().decode().splitlines():
        if line.startswith("roundhouse_tokens_total{") and 'target="up/m"' in line:
            kind = line.partition('kind="')[2].partition('"')[0]
            found[kind] = int(float(line.rpartition(" ")[2]))
    return {kind: count for kind, count in found.items() if count}


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
async def test_tokens_are_counted(tmp_path: Path, *, stream: bool) -> None:
    """By target and kind."""
    async with one(tmp_path) as (gateway, _):
        await ask(gateway.port, "POST", CHAT, chat("m", stream=stream))
        assert counted(gateway) == {"prompt": 7, "completion": 3}


async def test_usage_that_only_we_asked_for_stays_ours(tmp_path: Path) -> None:
    """The upstream is asked, the caller's stream is what it would have been."""
    async with one(tmp_path) as (gateway, upstream):
        answer = await ask(gateway.port, "POST", CHAT, chat("m", stream=True))
        assert upstream.requests[-1].json()["stream_options"] == OPTION
        assert b"usage" not in answer.body
        assert len(answer.events()) == 5
        assert answer.events()[-1] == "[DONE]"


async def test_usage_that_the_caller_asked_for_is_handed_on(tmp_path: Path) -> None:
    """Its body goes on unchanged."""
    async with one(tmp_path) as (gateway, upstream):
        body = chat("m", stream=True, stream_options=OPTION)
        answer = await ask(gateway.port, "POST", CHAT, body)
        assert upstream.requests[-1].body == body
        assert json.loads(answer.events()[-2])["usage"]["completion_tokens"] == 3
        assert counted(gateway) == {"prompt": 7, "completion": 3}


async def test_other_stream_options_stay(tmp_path: Path) -> None:
    """Only the one word in them changes."""
    async with one(tmp_path) as (gateway, upstream):
        options = {"include_obfuscation": False, "include_usage": False}
        await ask(gateway.port, "POST", CHAT, chat("m", stream=True, stream_options=options))
        assert upstream.requests[-1].json()["stream_options"] == {**options, **OPTION}


async def test_an_upstream_that_refuses_the_option_is_asked_without(tmp_path: Path) -> None:
    """Found out once; the caller sees nothing of it."""

    async def picky(exchange: Exchange) -> None:
        await exchange.body()
        if "stream_options" in exchange.request.json():
            await exchange.answer(422, {"detail": "stream_options: Extra inputs are not permitted"})
        else:
            await speak_openai(exchange)

    async with one(tmp_path) as (gateway, upstream):
        upstream.script(picky)
        for _ in range(2):
            answer = await ask(gateway.port, "POST", CHAT, chat("m", stream=True))
            assert (answer.status, answer.events()[-1]) == (200, "[DONE]")
        assert len(upstream.requests) == 3
        # a caller's own option is the caller's business
        answer = await ask(gateway.port, "POST", CHAT, chat("m", stream=True, stream_options=OPTION))
        assert answer.status == 422


async def test_it_can_be_switched_off(tmp_path: Path) -> None:
    """For one upstream; plain answers and those that tell unasked are counted all the same."""
    async with one(tmp_path, "stream_usage = false") as (gateway, upstream):
        body = chat("m", stream=True)
        await ask(gateway.port, "POST", CHAT, body)
        assert upstream.requests[-1].body == body
        assert counted(gateway) == {}
