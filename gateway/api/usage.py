"""`/admin/usage`: exact sums of what was asked, and every request of a span as a file.

The law: a day is a day in UTC; `since` is the first one that counts and `until` the last; a file is sent while it is read, so that
its size costs no memory, and one that cannot be read to its end breaks off instead of looking whole.
"""

from __future__ import annotations

import csv
import datetime
import io
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any

import msgspec
from litestar import get
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromQuery
from litestar.response import Stream

from gateway.errors import InvalidRequest
from gateway.metering.entry import Entry
from gateway.metering.ledger import Ledger
from gateway.metering.ledger_questions import BY, DAY_US, END_US, Query, UsageQuery, UsageRow, read_by
from gateway.metering.ledger_rows import plain

PIECE_BYTES = 64 << 10
CSV_COLUMNS = ("at", *Entry.__struct_fields__)
_EPOCH = datetime.date(1970, 1, 1)
_MICROSECOND = datetime.timedelta(microseconds=1)
# A spreadsheet would take a cell that begins so for a formula, and callers choose names.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def usage_routes(ledger: Ledger) -> list[HTTPRouteHandler]:
    """Both need an admin's key where keys are configured."""

    @get("/admin/usage")
    async def read_usage(
        by: FromQuery[str] = "day",
        since: FromQuery[str] = "",
        until: FromQuery[str] = "",
        key: FromQuery[str] = "",
        tenant: FromQuery[str] = "",
        model: FromQuery[str] = "",
    ) -> Mapping[str, Any]:
        words = read_by(filter(None, by.split(",")))
        if words is None:
            raise InvalidRequest(f"'by' must be any of {', '.join(BY)}, with commas between", param="by")
        since_us, until_us = span(since, until)
        query = UsageQuery(by=tuple(words), since_us=since_us, until_us=until_us, key=key, tenant=tenant, model=model)
        return {"by": words, "rows": [_wire(row) for row in await ledger.usage(query)]}

    @get("/admin/usage/export")
    async def export_usage(
        format: FromQuery[str] = "csv",
        since: FromQuery[str] = "",
        until: FromQuery[str] = "",
        key: FromQuery[str] = "",
        tenant: FromQuery[str] = "",
        model: FromQuery[str] = "",
    ) -> Stream:
        if format not in _FORMATS:
            raise InvalidRequest(f"'format' must be {' or '.join(_FORMATS)}", param="format")
        since_us, until_us = span(since, until)
        query = Query(since_us=since_us, until_us=until_us, key=key, tenant=tenant, model=model)
        media_type, written = _FORMATS[format]
        headers = {"content-disposition": f'attachment; filename="roundhouse-usage.{format}"'}
        return Stream(await _begun(written(ledger.export(query))), media_type=media_type, headers=headers)

    return [read_usage, export_usage]


def span(since: str, until: str) -> tuple[int, int]:
    """From the beginning of one day to the end of another; "": open. Raises: InvalidRequest."""
    since_us = 0 if not since else _day(since, "since") * DAY_US
    until_us = END_US if not until else (_day(until, "until") + 1) * DAY_US
    return since_us, until_us


def _day(written: str, param: str) -> int:
    try:
        return (datetime.date.fromisoformat(written) - _EPOCH).days
    except ValueError:
        raise InvalidRequest(f"'{param}' must be a day: YYYY-MM-DD, in UTC", param=param) from None


def _wire(row: UsageRow) -> Mapping[str, Any]:
    cost = None if row.cost_usd is None else plain(row.cost_usd)
    return msgspec.structs.asdict(row) | {"cost_usd": cost}


async def _begun(pieces: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    """The same pieces; the first is made now, so that a database that is away is told as an error and not in a file."""
    first = await anext(pieces)

    async def all_of_them() -> AsyncGenerator[bytes]:
        yield first
        async for piece in pieces:
            yield piece

    return all_of_them()


async def as_jsonl(entries: AsyncIterator[Entry]) -> AsyncGenerator[bytes]:
    """One object a line, in pieces. There is at least one piece, and it may be empty."""
    piece = bytearray()
    async for entry in entries:
        piece += msgspec.json.encode(entry)
        piece += b"\n"
        if len(piece) >= PIECE_BYTES:
            yield bytes(piece)
            piece.clear()
    yield bytes(piece)


async def as_csv(entries: AsyncIterator[Entry]) -> AsyncGenerator[bytes]:
    """RFC 4180 with a heading, in pieces. `at` is `at_us` in words; before what a spreadsheet takes for a formula stands a '."""
    page = io.StringIO()
    table = csv.writer(page)
    table.writerow(CSV_COLUMNS)
    async for entry in entries:
        table.writerow(_cells(entry))
        if page.tell() >= PIECE_BYTES:
            yield page.getvalue().encode()
            page.seek(0)
            page.truncate()
    yield page.getvalue().encode()


def _cells(entry: Entry) -> list[object]:
    at = datetime.datetime(1970, 1, 1) + entry.at_us * _MICROSECOND  # noqa: DTZ001 - written as UTC below
    cost = "" if entry.cost_usd is None else plain(entry.cost_usd)
    cells: list[object] = [at.isoformat(timespec="microseconds") + "Z"]
    for name, value in msgspec.structs.asdict(entry).items():
        if name == "cost_usd":
            cells.append(cost)
        elif isinstance(value, bool):
            cells.append("true" if value else "false")
        elif isinstance(value, str) and value.startswith(_FORMULA):
            cells.append("'" + value)
        else:
            cells.append(value)
    return cells


_FORMATS = {"csv": ("text/csv", as_csv), "jsonl": ("application/jsonl", as_jsonl)}
