"""`roundhouse usage`, asking a ledger of its own over HTTP."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path

import pytest
import uvicorn
from click.testing import CliRunner, Result
from litestar import Litestar

from gateway.api.usage import usage_routes
from gateway.cli.usage import usage
from tests.fakes.background import in_background
from tests.metering.kept import DAY_US, NOW_US, entry, ledger, until

ENTRIES = [
    entry(0, at_us=NOW_US, model="large", cost_usd=Decimal("1.5"), prompt=12_000),
    entry(1, at_us=NOW_US, model="large", status=500, code="broke", key_id=""),
    entry(2, at_us=NOW_US + DAY_US, model="small\x1b[31m", cost_usd=Decimal("0.0000001")),
]


@asynccontextmanager
async def _serving(folder: Path) -> AsyncGenerator[str, None]:
    async with ledger(f"sqlite:///{folder}/kept", folder / "spool") as kept:
        for each in ENTRIES:
            kept.add(each)
        app = Litestar(usage_routes(kept), openapi_config=None, logging_config=None)
        server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, lifespan="off"))  # pyright: ignore[reportArgumentType] - two names for ASGI
        server.config.load()
        server.lifespan = server.config.lifespan_class(server.config)
        await server.startup()
        try:
            await until(lambda: bool(server.servers))
            yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        finally:
            await server.shutdown()


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    """Where it listens."""
    with in_background(_serving(tmp_path_factory.mktemp("usage"))) as found:
        yield found


def call(url: str, *arguments: str) -> Result:
    """The command."""
    env = {"ROUNDHOUSE_ADMIN_KEY": "", "ROUNDHOUSE_CONFIG": "", "ROUNDHOUSE_URL": ""}
    return CliRunner().invoke(usage, ["--url", url, *arguments], env=env, catch_exceptions=False)


def test_table_by_day_and_model(url: str) -> None:
    """With a sum, and a ~ where a cost is not known of all; names cannot steer the terminal."""
    done = call(url)
    assert done.exit_code == 0, done.output
    heading, *rows = done.output.splitlines()
    assert heading.split() == ["DAY", "MODEL", "REQUESTS", "ERRORS", "PROMPT", "CACHED", "ANSWER", "COST"]
    assert [row.split() for row in rows] == [
        ["2026-11-21", "large", "2", "1", "12,010", "0", "10", "~1.5"],
        ["2026-11-22", "small\\x1b[31m", "1", "0", "10", "0", "5", "0.0000001"],
        ["in", "all", "3", "1", "12,020", "0", "15", "~1.5000001"],
    ]


def test_nothing_there_is_said(url: str) -> None:
    """In words."""
    assert "no request" in call(url, "--until", "2020-01-01").output


def test_sums_as_csv_and_jsonl(url: str) -> None:
    """Only what was asked for."""
    rows = list(csv.DictReader(io.StringIO(call(url, "--by", "key", "--format", "csv").output)))
    assert [(row["key"], row["requests"], row["cost_usd"]) for row in rows] == [
        ("", "1", ""),
        ("key_1", "2", "1.5000001"),
    ]
    (line,) = call(url, "--by", "", "--format", "jsonl").output.splitlines()
    said = json.loads(line)
    assert (said["requests"], said["cost_usd"]) == (3, "1.5000001")
    assert "day" not in said


def test_every_request_over_days_has_one_heading(url: str) -> None:
    """As the gateway writes it."""
    rows = list(csv.DictReader(io.StringIO(call(url, "--requests", "--format", "csv", "--model", "large").output)))
    assert [row["id"] for row in rows] == ["r0", "r1"]
    rows = list(csv.DictReader(io.StringIO(call(url, "--requests", "--format", "csv").output)))
    assert [row["id"] for row in rows] == ["r0", "r1", "r2"]
    lines = call(url, "--requests", "--format", "jsonl", "--since", "2026-11-22").output.splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["r2"]


def test_wrong_use_is_told(url: str) -> None:
    """Requests are no table."""
    done = call(url, "--requests")
    assert (done.exit_code, "--format" in done.output) == (2, True)
