"""A gateway before one upstream, as many tests of the inference routes need it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.fakes.running import Running, running
from tests.fakes.upstream import FakeUpstream


@asynccontextmanager
async def one(folder: Path, more: str = "", before: str = "") -> AsyncGenerator[tuple[Running, FakeUpstream]]:
    """A gateway and its one upstream."""
    async with FakeUpstream() as upstream:
        toml = f"""
        {before}
        [providers.up]
        kind = "openai"
        base_url = "{upstream.base_url}"
        models = ["m"]
        {more}
        """
        async with running(folder, toml) as gateway:
            yield gateway, upstream
