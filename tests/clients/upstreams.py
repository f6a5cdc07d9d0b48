"""Both fake upstreams as one process: `python -m tests.clients.upstreams` prints their addresses, and ends with its input.

It runs in the gateway's own environment; the clients' one has nothing of ours.
"""

from __future__ import annotations

import asyncio
import json
import sys

from tests.clients.fake_claude import FakeClaude
from tests.clients.fake_openai import FakeOpenAI


async def serve() -> None:
    """Until whoever started it is gone."""
    async with FakeOpenAI() as openai, FakeClaude() as claude:
        print(json.dumps({"openai": openai.base_url, "anthropic": claude.base_url}), flush=True)  # noqa: T201 - it is asked for
        await asyncio.to_thread(sys.stdin.buffer.read)


if __name__ == "__main__":
    asyncio.run(serve())
