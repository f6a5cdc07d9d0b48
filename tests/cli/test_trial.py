"""`roundhouse doctor --try`: which model is taken, and what is said of whatever comes instead of a completion."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from config.load import load
from gateway.cli.checkup import Asked
from gateway.cli.doctor import examine
from tests.cli.doctors import SECRET, configured, examined
from tests.fakes.anthropic import FakeAnthropic
from tests.fakes.background import in_background
from tests.fakes.upstream import Exchange, FakeUpstream


def test_anthropic_is_tried_over_messages(tmp_path: Path) -> None:
    """Its own route, plain and streamed."""
    with in_background(FakeAnthropic(key=SECRET)) as api:
        configured(tmp_path, "claude", "anthropic", api.base_url, f'api_key = "{SECRET}"\n')
        found, _ = examined(tmp_path, "claude", "--try", "--model", "claude/claude-plain")
        paths = {request.path for request in api.requests if request.method == "POST"}
    assert paths == {"/v1/messages"}
    assert [found[check]["state"] for check in ("address", "catalogue", "key", "completion", "stream")] == ["ok"] * 5
    assert "claude-plain answered" in found["completion"]["text"]


EVENT = b'data: {"choices":[{"delta":{"content":"OK"}}]}\n\n'
STREAM = {"content-type": "text/event-stream"}
JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("status", "fields", "body", "check", "said"),
    [
        (402, JSON, b'{"error":{"message":"no credit"}}', "completion", "status 402: no credit"),
        (404, JSON, b"{}", "completion", "status 404"),
        (429, JSON, b'{"error":"slow down"}', "completion", "status 429: slow down"),
        (503, JSON, b"", "completion", "status 503"),
        (200, JSON, b"<html>", "completion", "something else than a completion"),
        (200, JSON, b'{"object":"list"}', "completion", "JSON that is no completion"),
        (200, JSON, b'{"error":{"message":"upstream gone"}}', "completion", "an error: upstream gone"),
        (200, JSON, b'{"choices":[{"message":{"content":"OK"}}]}', "stream", "does not stream"),
        (200, STREAM, EVENT, "stream", "ends its stream too early"),
        (200, STREAM, b"data: [DONE]\n\n", "stream", "ends its stream too early"),
        (200, STREAM, b"data: <html>\n\n", "stream", "something else than JSON events"),
        (200, STREAM, EVENT + b'data: {"error":{"message":"gone"}}\n\n', "stream", "with an error: gone"),
        (200, STREAM, EVENT * 40_000, "stream", "does not stop streaming"),
        (200, {"content-length": "99"}, b"{", "completion", "api"),
    ],
)
def test_trial_says_what_is_wrong(
    tmp_path: Path, status: int, fields: dict[str, str], body: bytes, check: str, said: str
) -> None:
    """Of whatever comes instead of a completion."""

    async def answer(exchange: Exchange) -> None:
        await exchange.body()
        await exchange.answer(status, body, fields)
        if "content-length" in fields:
            exchange.cut()

    upstream = FakeUpstream()
    upstream.script(answer)
    with in_background(upstream):
        configured(tmp_path, "api", "openai", upstream.base_url, 'models = ["m"]\n')
        found, _ = examined(tmp_path, "api", "--try")
    assert found[check]["state"] == "problem"
    assert said in found[check]["text"]


async def test_trial_that_is_not_answered_ends(tmp_path: Path) -> None:
    """Within its own bound, and its connection is cut."""

    async def hold(exchange: Exchange) -> None:
        if exchange.request.method == "GET":
            await exchange.answer(200, {"data": [{"id": "m"}]})
        else:
            await exchange.received.wait()
            await exchange.start_stream()
            await asyncio.Event().wait()

    async with FakeUpstream() as upstream:
        upstream.script(hold)
        configured(tmp_path, "api", "openai", upstream.base_url)
        config = load(tmp_path / "roundhouse.toml", {"HOME": str(tmp_path)})
        findings = await examine(config, {}, ["api"], Asked(trial=True, try_within_s=0.2))
        await upstream.until(lambda: upstream.open_connections == 0)
        assert upstream.aborted == 2
    told = [finding.text for finding in findings if finding.state == "problem"]
    assert len(told) == 2
    assert all("m has not answered within 0.2 s" in text for text in told)


def test_model_to_try_is_the_one_asked_for(tmp_path: Path) -> None:
    """Where a provider offers it; OpenAI's own API is given its newer name of the limit."""
    with in_background(FakeUpstream(model="gpt-x")) as upstream:
        configured(tmp_path, "api", "openai", f"{upstream.base_url}/v1", 'preset = "openai"\napi_key = "k-0123"\n')
        found, _ = examined(tmp_path, "api", "--try", "--model", "other")
        assert (found["completion"]["state"], found["completion"]["text"]) == ("skipped", "it does not offer 'other'")
        found, _ = examined(tmp_path, "api", "--try", "--model", "gpt-x")
        assert found["completion"]["state"] == "ok"
        asked = upstream.requests[-1].json()
    assert (asked["model"], asked["max_completion_tokens"], asked["stream"]) == ("gpt-x", 16, True)


def test_what_does_not_chat_is_not_tried(tmp_path: Path) -> None:
    """Embeddings are not asked to speak."""
    with in_background(FakeUpstream(model="text-embedding-3")) as upstream:
        configured(tmp_path, "api", "openai", upstream.base_url)
        found, _ = examined(tmp_path, "api", "--try")
        assert {request.method for request in upstream.requests} == {"GET"}
    assert found["completion"]["text"] == "it offers nothing that chats"
