"""One gateway and one scripted upstream for all tests of a module."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import cast

import pytest
import pytest_asyncio

from tests.fakes.running import Running, running
from tests.fakes.upstream import FakeUpstream

UPSTREAM_KEY = "upstream-key-5678"
MAX_BODY_BYTES = 200_000
FIRST_BYTE_S = 0.3


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def upstream() -> AsyncGenerator[FakeUpstream, None]:
    """Speaks OpenAI, or what a test puts into its queue."""
    async with FakeUpstream() as fake:
        yield fake


@pytest.fixture(autouse=True)
def forgiven(request: pytest.FixtureRequest) -> None:
    """What one test's upstream did wrong does not count in the next one."""
    if "gateway" in request.fixturenames:
        running = cast("Running", request.getfixturevalue("gateway"))
        for upstream in running.parts.upstreams.values():
            if upstream.guard is not None:
                upstream.guard.health.forgive()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(
    upstream: FakeUpstream, dead_port: int, tmp_path_factory: pytest.TempPathFactory
) -> AsyncGenerator[Running, None]:
    """Without keys; its models are the upstream's under several names."""
    toml = f"""
    [server]
    port = 0
    max_body_bytes = {MAX_BODY_BYTES}
    [residency]
    keepalive_s = "never"
    [providers.up]
    kind = "openai"
    base_url = "{upstream.base_url}/v1"
    api_key = "{UPSTREAM_KEY}"
    models = ["echo"]
    [providers.dead]
    kind = "openai"
    base_url = "http://127.0.0.1:{dead_port}"
    models = ["x"]
    [providers.slow]
    kind = "openai"
    base_url = "{upstream.base_url}"
    models = ["slow"]
    first_byte_s = {FIRST_BYTE_S}
    idle_s = {FIRST_BYTE_S}
    [models.echo]
    targets = ["up/echo"]
    aliases = ["alias"]
    [models.renamed]
    targets = ["up/other-name"]
    [models."org/name:tag"]
    targets = ["up/org/name:tag"]
    [models.fallback]
    targets = ["dead/x", "up/fallback"]
    [models.unreachable]
    targets = ["dead/x"]
    [models.slow]
    targets = ["slow/slow"]
    [models.impatient]
    targets = ["slow/slow", "up/never"]
    """
    async with running(tmp_path_factory.mktemp("gateway"), toml) as found:
        yield found
