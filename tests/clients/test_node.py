"""Clients of Node.js: openai, @anthropic-ai/sdk, and the AI SDK. Each script prints what it saw; here it is judged."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from typing import Any

import pytest

from tests.clients.conftest import HERE
from tests.clients.gateways import API_KEY, MODELS

NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(
    NODE is None or not (HERE / "node_modules").is_dir(), reason="no Node.js, or `npm ci` was not run in tests/clients"
)
ANN = {"name": "Ann", "age": 41}
TOLD = "The tools say: sun in Paris; sun in New York"


def seen(script: str, gateway: str) -> dict[str, Any]:
    """What it printed; its last words where it failed."""
    command = [NODE or "node", f"node/{script}", gateway, API_KEY]
    ran = subprocess.run(command, cwd=HERE, capture_output=True, text=True, timeout=50, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    return json.loads(ran.stdout)


def test_openai(gateway: str) -> None:
    """Chat and Responses over both kinds of upstream, with its helpers; the other routes; refusals."""
    saw = seen("openai.mjs", gateway)
    sound = (b"sound" * 200_000)[:1_000_000]
    heard = f"{len(sound)} bytes {hashlib.sha256(sound).hexdigest()}"

    for model in ("talker", "claude"):
        assert saw.pop(model) == {
            "whole": "You said: hello",
            "usage": True,
            "streamed": "You said: hello",
            "parsed": ANN,
            "asked": ["Paris", "New York"],
            "told": TOLD,
            "response": "You said: hello",
            "response_streamed": "You said: hello",
            "numbered": True,
            "object": ANN,
            "called": ['{"city": "Paris"}', '{"city": "New York"}'],
        }
    assert set(MODELS) <= set(saw.pop("models"))
    unknown = {"kind": "NotFoundError", "status": 404, "code": "model_not_found", "id": True}
    assert saw == {
        "vectors": [8, 8],
        "heard": heard,
        "heard_streamed": heard,
        "speech": 200_000,
        "drawn": True,
        "judged": True,
        "refused": {
            "model": unknown,
            "streamed": unknown,
            "body": {"kind": "BadRequestError", "status": 400, "code": None, "id": True},
            "key": {"kind": "AuthenticationError", "status": 401, "code": "invalid_api_key", "id": True},
            "untold": {"kind": "InternalServerError", "status": 501, "code": "not_translatable", "id": True},
        },
        "left": True,
    }


def test_anthropic(gateway: str) -> None:
    """Messages over both kinds of upstream."""
    saw = seen("anthropic.mjs", gateway)

    for model in ("claude", "talker"):
        assert saw.pop(model) == {
            "whole": "You said: hello",
            "streamed": "You said: hello",
            "stopped": "tool_use",
            "asked": ["Paris", "New York"],
            "told": TOLD,
        }
    assert saw == {"refused": {"kind": "NotFoundError", "status": 404, "type": "error"}}


def test_ai_sdk(gateway: str) -> None:
    """Text, streams, objects, tools in steps, embeddings."""
    saw = seen("ai_sdk.mjs", gateway)

    for model in ("talker", "claude"):
        assert saw.pop(model) == {
            "whole": "You said: hello",
            "ended": "stop",
            "usage": True,
            "pieces": True,
            "streamed": "You said: hello",
            "stream_usage": True,
            "object": ANN,
            "object_streamed": ANN,
            "grown": True,
            "asked": ["New York", "New York", "Paris", "Paris"],
            "told": TOLD,
            "told_streamed": TOLD,
        }
    assert saw["refused"]["status"] == 404
    assert "nobody" in saw["refused"]["message"]
    assert saw["thought"] == "They say 'hello'."
    assert saw["vectors"] == [8, 8]
