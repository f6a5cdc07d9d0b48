"""`/admin/usage` and its files, on a ledger of their own."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncGenerator
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import pytest_asyncio
from litestar import Litestar, Request, Response

from gateway.api.errors import tell
from gateway.api.usage import CSV_COLUMNS, PIECE_BYTES, span, usage_routes
from gateway.errors import InvalidRequest
from gateway.metering.entry import Entry
from gateway.metering.ledger import Ledger
from tests.metering.kept import DAY_US, NOW_US, entry, ledger, some

ENTRIES = [
    entry(0, at_us=NOW_US - NOW_US % DAY_US, model="m", cost_usd=Decimal("0.0000001"), key_id="k", tenant="t"),
    entry(1, at_us=NOW_US, model="m", status=500, code="broke", asked='=cmd|"x",\n', user_agent="ünï"),
    entry(2, at_us=NOW_US + DAY_US, model="n", streamed=True, left="answer", cost_usd=Decimal(2)),
]
FIRST, SECOND = "2026-11-21", "2026-11-22"


def _told(_: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    said = tell(error)
    return Response(said.body(), status_code=said.status, media_type="application/json")


Client = httpx.AsyncClient


def asking(kept: Ledger) -> Client:
    """Its routes alone, in this event loop."""
    app = Litestar(usage_routes(kept), exception_handlers={Exception: _told}, openapi_config=None, logging_config=None)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway")  # pyright: ignore[reportArgumentType] - two names for ASGI


@pytest_asyncio.fixture
async def kept(tmp_path: Path) -> AsyncGenerator[Ledger, None]:
    """With some entries."""
    async with ledger(f"sqlite:///{tmp_path}/kept", tmp_path / "spool") as found:
        for each in ENTRIES:
            found.add(each)
        yield found


@pytest_asyncio.fixture
async def client(kept: Ledger) -> AsyncGenerator[Client, None]:
    """Asks it."""
    async with asking(kept) as found:
        yield found


async def test_sums_by_day_and_model(client: Client) -> None:
    """Amounts are strings without an exponent; what was not grouped by is null."""
    said = (await client.get("/admin/usage", params={"by": "day,model"})).json()
    assert said["by"] == ["day", "model"]
    assert [(row["day"], row["model"], row["requests"], row["errors"], row["cost_usd"]) for row in said["rows"]] == [
        (FIRST, "m", 2, 1, "0.0000001"),
        (SECOND, "n", 1, 0, "2"),
    ]
    assert {row["key"] for row in said["rows"]} == {None}
    (row,) = (await client.get("/admin/usage", params={"by": "", "until": FIRST})).json()["rows"]
    assert (row["requests"], row["prompt"], row["completion"], row["priced"]) == (2, 20, 10, 1)
    (row,) = (await client.get("/admin/usage", params={"since": SECOND, "by": "key"})).json()["rows"]
    assert (row["requests"], row["key"]) == (1, "key_1")


@pytest.mark.parametrize(
    ("path", "param"),
    [
        ("/admin/usage?by=day,nix", "by"),
        ("/admin/usage?since=yesterday", "since"),
        ("/admin/usage?until=2026-02-30", "until"),
        ("/admin/usage/export?format=xml", "format"),
        ("/admin/usage/export?since=1", "since"),
    ],
)
async def test_bad_questions_are_told(client: Client, path: str, param: str) -> None:
    """400, with the parameter that is meant."""
    answer = await client.get(path)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


async def test_jsonl_is_every_entry_as_it_is(client: Client) -> None:
    """One a line."""
    answer = await client.get("/admin/usage/export", params={"format": "jsonl"})
    assert answer.headers["content-type"].startswith("application/jsonl")
    assert "roundhouse-usage.jsonl" in answer.headers["content-disposition"]
    assert [msgspec.json.decode(line, type=Entry) for line in answer.content.splitlines()] == ENTRIES


async def test_csv_is_every_entry_and_no_formula(client: Client) -> None:
    """Names that callers made up cannot become one in a spreadsheet; amounts are written plainly."""
    answer = await client.get("/admin/usage/export")
    heading, *rows = csv.reader(io.StringIO(answer.content.decode()))
    assert tuple(heading) == CSV_COLUMNS
    named = [dict(zip(heading, row, strict=True)) for row in rows]
    assert [row["id"] for row in named] == ["r0", "r1", "r2"]
    assert named[0]["cost_usd"] == "0.0000001"
    assert named[0]["at"] == "2026-11-21T00:00:00.000000Z"
    assert named[1]["asked"] == '\'=cmd|"x",\n'
    assert (named[1]["cost_usd"], named[1]["user_agent"], named[2]["streamed"]) == ("", "ünï", "true")


async def test_export_takes_a_span_and_a_choice(client: Client) -> None:
    """The last day counts, too; nothing found is a heading, or nothing."""
    params = {"format": "jsonl", "since": FIRST, "until": FIRST, "tenant": "t"}
    assert len((await client.get("/admin/usage/export", params=params)).content.splitlines()) == 1
    answer = await client.get("/admin/usage/export", params={"until": "2020-01-01"})
    assert answer.content.decode().split("\r\n") == [",".join(CSV_COLUMNS), ""]
    assert (await client.get("/admin/usage/export", params={"until": "2020-01-01", "format": "jsonl"})).content == b""


@pytest.mark.parametrize("form", ["csv", "jsonl"])
async def test_long_file_comes_in_pieces_and_whole(client: Client, kept: Ledger, form: str) -> None:
    """Many times as much as a piece."""
    more = some(2000)
    for each in more:
        kept.add(each)
    answer = await client.get("/admin/usage/export", params={"format": form})
    lines = answer.content.decode().splitlines() if form == "jsonl" else list(csv.reader(io.StringIO(answer.text)))[1:]
    assert len(answer.content) > 4 * PIECE_BYTES
    assert len(lines) == len(more) + len(ENTRIES)


@pytest.mark.parametrize("path", ["/admin/usage", "/admin/usage/export"])
async def test_database_that_is_away_is_an_error_and_no_file(tmp_path: Path, path: str) -> None:
    """Told before the first byte."""
    (tmp_path / "file").touch()
    async with ledger(f"sqlite:///{tmp_path}/file/kept", tmp_path / "spool") as away, asking(away) as client:
        answer = await client.get(path)
    assert answer.json()["error"]["code"] == "database_unavailable"


def test_span_is_whole_days_in_utc() -> None:
    """Both ends count."""
    assert span("1970-01-02", "1970-01-02") == (DAY_US, 2 * DAY_US)
    assert span("", "")[0] == 0
    with pytest.raises(InvalidRequest):
        span("0", "")
